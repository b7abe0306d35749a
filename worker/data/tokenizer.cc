// See tokenizer.h.
#include "worker/data/tokenizer.h"

#include <dlfcn.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "worker/data/sentencepiece_module.h"

namespace atl {
namespace {

constexpr int64_t kMaxModelBytes = 256 << 20;

class ByteTokenizer : public Tokenizer {
 public:
  std::string name() const override { return "bytes"; }
  int64_t vocab_size() const override { return 256; }
  std::optional<int32_t> end_of_document() const override { return std::nullopt; }
  bool cuts_anywhere() const override { return true; }

  Status Encode(absl::string_view text, std::vector<int32_t>* ids) const override {
    ids->reserve(ids->size() + text.size());
    for (const char c : text) ids->push_back(static_cast<unsigned char>(c));
    return OkStatus();
  }

  StatusOr<std::string> Decode(std::span<const int32_t> ids) const override {
    std::string text;
    text.reserve(ids.size());
    for (const int32_t id : ids) {
      if (id < 0 || id > 255) return UsageError(absl::StrCat("token ", id, " is not a byte"));
      text.push_back(static_cast<char>(id));
    }
    return text;
  }
};

// The module's functions, loaded once a process; never unloaded.
StatusOr<const atoll_sentencepiece_api*> LoadModule() {
  static const StatusOr<const atoll_sentencepiece_api*>* const loaded = [] {
    using Result = StatusOr<const atoll_sentencepiece_api*>;
    // Programs are in bin/ or tests/ beside lib/.
    const std::string path = ExecutableDirectory() + "/../lib/libatoll_sentencepiece.so";
    void* handle = dlmopen(LM_ID_NEWLM, path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      return new Result(EnvironmentError(
          absl::StrCat("cannot load the sentencepiece module: ", dlerror(),
                       ". Is libsentencepiece0 installed? --tokenizer bytes needs no module")));
    }
    void* const symbol = dlsym(handle, "atoll_sentencepiece_entry");
    const auto entry = reinterpret_cast<decltype(&atoll_sentencepiece_entry)>(symbol);
    const atoll_sentencepiece_api* api = entry == nullptr ? nullptr : entry();
    if (api == nullptr || api->abi_version != ATOLL_SENTENCEPIECE_ABI_VERSION) {
      return new Result(EnvironmentError(
          absl::StrCat(path, " belongs to another version of atoll; build again")));
    }
    return new Result(api);
  }();
  return *loaded;
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(const atoll_sentencepiece_api* api, atoll_sentencepiece_model* model,
                         std::string name)
      : api_(api), model_(model), name_(std::move(name)) {}
  ~SentencePieceTokenizer() override { api_->close(model_); }

  std::string name() const override { return name_; }
  int64_t vocab_size() const override { return api_->vocab_size(model_); }
  bool cuts_anywhere() const override { return false; }
  std::optional<int32_t> end_of_document() const override {
    const int64_t id = api_->end_of_sentence(model_);
    if (id < 0) return std::nullopt;
    return static_cast<int32_t>(id);
  }

  Status Encode(absl::string_view text, std::vector<int32_t>* ids) const override {
    const size_t before = ids->size();
    const auto size = static_cast<int64_t>(text.size());
    // A piece is a byte at least; only normalization can make a text longer.
    int64_t capacity = size + 16;
    for (int attempt = 0; attempt < 2; ++attempt) {
      ids->resize(before + static_cast<size_t>(capacity));
      const int64_t count = api_->encode(model_, text.data(), size, ids->data() + before, capacity);
      if (count < 0) break;
      ids->resize(before + static_cast<size_t>(std::min(count, capacity)));
      if (count <= capacity) return OkStatus();
      capacity = count;
    }
    ids->resize(before);
    return absl::InternalError(absl::StrCat(name_, " cannot encode a text of ", size, " bytes"));
  }

  StatusOr<std::string> Decode(std::span<const int32_t> ids) const override {
    const int64_t vocabulary = vocab_size();
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocabulary) {
        return UsageError(absl::StrCat("token ", id, " is outside the vocabulary of ", vocabulary));
      }
    }
    const auto count = static_cast<int64_t>(ids.size());
    std::string text;
    int64_t size = api_->decode(model_, ids.data(), count, text.data(), 0);
    if (size >= 0) {
      text.resize(static_cast<size_t>(size));
      size = api_->decode(model_, ids.data(), count, text.data(), size);
    }
    if (size < 0) return absl::InternalError(absl::StrCat(name_, " cannot decode ", count, " ids"));
    return text;
  }

 private:
  const atoll_sentencepiece_api* const api_;
  atoll_sentencepiece_model* const model_;
  const std::string name_;
};

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const std::string& spec) {
  if (spec == "bytes") return std::make_unique<ByteTokenizer>();
  StatusOr<std::string> bytes = ReadFile(spec, kMaxModelBytes);
  if (absl::IsNotFound(bytes.status())) {
    return UsageError(absl::StrCat("no such tokenizer '", spec,
                                   "': give 'bytes' or the path of a sentencepiece model, such as "
                                   "tokenizer.model"));
  }
  if (!bytes.ok()) return Annotate(bytes.status(), "while reading the tokenizer");
  ASSIGN_OR_RETURN(const atoll_sentencepiece_api* api, LoadModule());
  char error[256] = "";
  // An empty file is a valid empty protobuf message, but no model.
  atoll_sentencepiece_model* model =
      bytes->empty()
          ? nullptr
          : api->open(bytes->data(), static_cast<int64_t>(bytes->size()), error, sizeof error);
  if (model == nullptr) {
    return UsageError(absl::StrCat(spec, " is not a sentencepiece model",
                                   *error ? absl::StrCat(": ", error) : std::string()));
  }
  const std::string file = std::filesystem::path(spec).filename().string();
  return std::make_unique<SentencePieceTokenizer>(api, model, "sentencepiece:" + file);
}

}  // namespace atl
