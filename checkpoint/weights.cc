#include "checkpoint/weights.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/names.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/staging.h"
#include "checkpoint/strict_json.h"

namespace atl::checkpoint {
namespace {

constexpr char kSingleName[] = "model.safetensors";
constexpr int64_t kMaxIndexBytes = 64 << 20;
constexpr int64_t kPieceElements = 4 << 20;

int64_t BytesOf(WeightType type) { return type == WeightType::kF32 ? 4 : 2; }

struct WeightFile {
  std::string name;
  std::vector<const TensorSpec*> tensors;
};

// As the save cuts a section into files, but with Hugging Face's name where there is only one.
std::vector<WeightFile> FilesOf(const std::vector<TensorSpec>& tensors,
                                const ExportOptions& options) {
  std::vector<WeightFile> files(1);
  int64_t bytes = 0;
  for (const TensorSpec& tensor : tensors) {
    const int64_t more = tensor.elements.size() * BytesOf(options.type);
    if (!files.back().tensors.empty() && bytes + more > options.max_file_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().tensors.push_back(&tensor);
    bytes += more;
  }
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = files.size() == 1 ? std::string(kSingleName)
                                      : SectionFileName(kModelPrefix, static_cast<int64_t>(i) + 1,
                                                        static_cast<int64_t>(files.size()));
  }
  return files;
}

// The values as they are stored: little-endian.
std::string Encoded(std::span<const float> values, WeightType type) {
  static_assert(std::endian::native == std::endian::little);
  if (type == WeightType::kF32) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  }
  std::vector<uint16_t> halves(values.size());
  std::transform(values.begin(), values.end(), halves.begin(), Bf16Of);
  return std::string(reinterpret_cast<const char*>(halves.data()), halves.size() * 2);
}

class Exporting {
 public:
  Exporting(const Checkpoint& checkpoint, const ExportOptions& options)
      : checkpoint_(checkpoint), options_(options) {
    for (const TensorSpec& tensor : checkpoint.tensors()) {
      total_ += tensor.elements.size() * BytesOf(options.type);
    }
  }

  StatusOr<int64_t> Run() {
    RETURN_IF_ERROR(CheckFreeSpace(options_.directory, total_));
    const std::vector<WeightFile> files = FilesOf(checkpoint_.tensors(), options_);
    for (const WeightFile& file : files) RETURN_IF_ERROR(WriteFile(file));
    if (files.size() > 1) {
      const std::string index = Index(files);
      RETURN_IF_ERROR(WriteNewFile(absl::StrCat(options_.directory, "/", kIndexName), index));
    }
    return done_;
  }

 private:
  Status WriteFile(const WeightFile& file) {
    std::vector<SafetensorsTensor> described;
    int64_t bytes = 0;
    for (const TensorSpec* tensor : file.tensors) {
      described.push_back(
          {tensor->name, options_.type == WeightType::kF32 ? "F32" : "BF16", tensor->shape, {}});
      bytes += tensor->elements.size() * BytesOf(options_.type);
    }
    ASSIGN_OR_RETURN(const std::string head, SafetensorsHead(described));
    const std::string path = absl::StrCat(options_.directory, "/", file.name);
    auto at = static_cast<int64_t>(head.size());
    RETURN_IF_ERROR(ReserveFile(path, head, at + bytes));
    ASSIGN_OR_RETURN(const Fd opened, OpenFile(path, O_WRONLY));
    for (const TensorSpec* tensor : file.tensors) {
      RETURN_IF_ERROR(WriteTensor(*tensor, opened, path, &at));
    }
    return SyncFile(opened, path);
  }

  Status WriteTensor(const TensorSpec& tensor, const Fd& file, const std::string& path,
                     int64_t* at) {
    std::vector<float> values;
    for (int64_t first = tensor.elements.begin; first < tensor.elements.end;
         first += kPieceElements) {
      const Range piece = {first, std::min(first + kPieceElements, tensor.elements.end)};
      values.resize(static_cast<size_t>(piece.size()));
      RETURN_IF_ERROR(checkpoint_.Read(kModelPrefix, {tensor}, piece, values));
      const std::string encoded = Encoded(values, options_.type);
      RETURN_IF_ERROR(
          WriteAt(file, path, encoded.data(), static_cast<int64_t>(encoded.size()), *at));
      *at += static_cast<int64_t>(encoded.size());
      done_ += static_cast<int64_t>(encoded.size());
      if (options_.progress) options_.progress(done_, total_);
    }
    return OkStatus();
  }

  std::string Index(const std::vector<WeightFile>& files) const {
    nlohmann::json map = nlohmann::json::object();
    for (const WeightFile& file : files) {
      for (const TensorSpec* tensor : file.tensors) map[tensor->name] = file.name;
    }
    const nlohmann::json index = {{"metadata", {{"total_size", total_}}}, {"weight_map", map}};
    return index.dump(2, ' ', /*ensure_ascii=*/true) + "\n";
  }

  const Checkpoint& checkpoint_;
  const ExportOptions& options_;
  int64_t total_ = 0;
  int64_t done_ = 0;
};

// A file beside the index: no path.
bool IsWeightFileName(const std::string& name) {
  return IsFileName(name) && !absl::StrContains(name, '/') && absl::EndsWith(name, ".safetensors");
}

// Tensor -> file.
StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxIndexBytes));
  const nlohmann::json index =
      nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  const auto bad = [&](absl::string_view why) { return UsageError(absl::StrCat(path, ": ", why)); };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return bad("it is not JSON with an object \"weight_map\"");
  }
  std::map<std::string, std::string> map;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string() || !IsWeightFileName(file.get<std::string>())) {
      return bad("its weight_map holds what is not the name of a .safetensors file beside it");
    }
    map[tensor] = file.get<std::string>();
  }
  if (map.empty()) return bad("its weight_map is empty");
  return map;
}

}  // namespace

uint16_t Bf16Of(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  // Rounding could turn a NaN into infinity; one of its kept bits is set instead.
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float FloatOfBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

float FloatOfF16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const int exponent = bits >> 10 & 0x1f;
  const uint32_t fraction = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {  // zero, or fraction x 2^-24
    const float value = std::ldexp(static_cast<float>(fraction), -24);
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | static_cast<uint32_t>(exponent + 112) << 23 | fraction << 13);
}

StatusOr<int64_t> ExportWeights(const Checkpoint& checkpoint, const ExportOptions& options) {
  return Exporting(checkpoint, options).Run();
}

StatusOr<WeightFiles> WeightFiles::Open(const std::string& directory) {
  WeightFiles files;
  const std::string single = absl::StrCat(directory, "/", kSingleName);
  const std::string index = absl::StrCat(directory, "/", kIndexName);
  const bool has_index = FileSize(index).ok();
  if (!has_index) {
    if (absl::IsNotFound(FileSize(single).status())) {
      return UsageError(absl::StrCat(directory, " holds neither ", kSingleName, " nor ", kIndexName,
                                     ": give a model directory in Hugging Face's layout, with "
                                     "safetensors weights"));
    }
    RETURN_IF_ERROR(files.AddFile(single));
    return files;
  }
  ASSIGN_OR_RETURN(const auto map, ReadIndex(index));
  std::set<std::string> names;
  for (const auto& [tensor, file] : map) names.insert(file);
  for (const std::string& name : names) {
    RETURN_IF_ERROR(files.AddFile(absl::StrCat(directory, "/", name)));
  }
  for (const auto& [tensor, file] : map) {
    const auto found = files.tensors_.find(tensor);
    if (found == files.tensors_.end() || found->second.path != absl::StrCat(directory, "/", file)) {
      return UsageError(
          absl::StrCat(index, " says that a tensor is in ", file,
                       ", which is not there: ", JsonQuoted(tensor, true).value_or("(no UTF-8)")));
    }
  }
  return files;
}

Status WeightFiles::AddFile(const std::string& path) {
  ASSIGN_OR_RETURN(SafetensorsHeader header, ReadSafetensorsHeader(path));
  for (SafetensorsTensor& tensor : header.tensors) {
    Tensor stored = {path,
                     std::move(tensor.dtype),
                     std::move(tensor.shape),
                     {header.data_begin + tensor.data.begin, header.data_begin + tensor.data.end}};
    if (!tensors_.emplace(tensor.name, std::move(stored)).second) {
      return UsageError(absl::StrCat(path, " holds ", JsonQuoted(tensor.name, true).value_or("?"),
                                     ", which another file holds too"));
    }
  }
  return OkStatus();
}

Status WeightFiles::Read(const std::string& name, Range elements, std::span<float> out) const {
  const Tensor& tensor = tensors_.at(name);
  const bool full = tensor.dtype == "F32";
  if (!full && tensor.dtype != "BF16" && tensor.dtype != "F16") {
    return UsageError(
        absl::StrCat(name, " is stored as ", tensor.dtype, "; F32, BF16 and F16 can be read"));
  }
  const int64_t width = full ? 4 : 2;
  const Range bytes = {tensor.bytes.begin + elements.begin * width,
                       tensor.bytes.begin + elements.end * width};
  if (elements.begin < 0 || bytes.end > tensor.bytes.end ||
      static_cast<int64_t>(out.size()) != elements.size()) {
    return absl::InternalError(
        absl::StrCat("elements ", elements.begin, " to ", elements.end, " of ", name));
  }
  ASSIGN_OR_RETURN(const Fd file, OpenFile(tensor.path, O_RDONLY));
  if (full) return ReadAt(file, tensor.path, out.data(), bytes.size(), bytes.begin);
  std::vector<uint16_t> halves(out.size());
  RETURN_IF_ERROR(ReadAt(file, tensor.path, halves.data(), bytes.size(), bytes.begin));
  std::transform(halves.begin(), halves.end(), out.begin(),
                 tensor.dtype == "BF16" ? FloatOfBf16 : FloatOfF16);
  return OkStatus();
}

}  // namespace atl::checkpoint
