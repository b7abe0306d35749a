// The sentencepiece module (sentencepiece_module.h): the one file that includes sentencepiece. It
// includes neither Abseil (sentencepiece declares an absl::string_view of its own) nor anything of
// atoll that does.
#include "worker/data/sentencepiece_module.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct atoll_sentencepiece_model {
  sentencepiece::SentencePieceProcessor processor;
};

namespace {

atoll_sentencepiece_model* Open(const char* bytes, int64_t size, char* error, int64_t error_size) {
  const auto fail = [&](const char* what) {
    std::snprintf(error, static_cast<size_t>(error_size), "%s", what);
    return nullptr;
  };
  try {
    auto model = std::make_unique<atoll_sentencepiece_model>();
    const auto status = model->processor.LoadFromSerializedProto(
        std::string_view(bytes, static_cast<size_t>(size)));
    if (!status.ok()) return fail(status.ToString().c_str());
    if (model->processor.GetPieceSize() < 1) return fail("it has no pieces");
    return model.release();
  } catch (const std::exception& exception) {
    return fail(exception.what());
  }
}

void Close(atoll_sentencepiece_model* model) { delete model; }

int64_t VocabSize(const atoll_sentencepiece_model* model) {
  return model->processor.GetPieceSize();
}

int64_t EndOfSentence(const atoll_sentencepiece_model* model) { return model->processor.eos_id(); }

int64_t Encode(const atoll_sentencepiece_model* model, const char* text, int64_t size, int32_t* ids,
               int64_t capacity) {
  try {
    std::vector<int> found;
    const auto status =
        model->processor.Encode(std::string_view(text, static_cast<size_t>(size)), &found);
    if (!status.ok()) return -1;
    const auto count = static_cast<int64_t>(found.size());
    std::copy_n(found.begin(), std::min(count, capacity), ids);
    return count;
  } catch (const std::exception&) {
    return -1;
  }
}

int64_t Decode(const atoll_sentencepiece_model* model, const int32_t* ids, int64_t count,
               char* text, int64_t capacity) {
  try {
    std::string found;
    if (!model->processor.Decode(std::vector<int>(ids, ids + count), &found).ok()) return -1;
    const auto size = static_cast<int64_t>(found.size());
    std::memcpy(text, found.data(), static_cast<size_t>(std::min(size, capacity)));
    return size;
  } catch (const std::exception&) {
    return -1;
  }
}

constexpr atoll_sentencepiece_api kApi = {
    ATOLL_SENTENCEPIECE_ABI_VERSION, Open, Close, VocabSize, EndOfSentence, Encode, Decode};

}  // namespace

extern "C" const atoll_sentencepiece_api* atoll_sentencepiece_entry() { return &kApi; }
