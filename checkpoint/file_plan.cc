#include "checkpoint/file_plan.h"

#include <algorithm>
#include <map>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "checkpoint/names.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/strict_json.h"

namespace atl::checkpoint {
namespace {

constexpr int64_t kElementBytes = sizeof(float);
// Far above any model, and small enough that no sum or product of bytes overflows.
constexpr int64_t kMaxElements = int64_t{1} << 50;

Status CheckTensor(const TensorSpec& tensor) {
  if (tensor.name == "__metadata__") {
    return UsageError("a tensor is named __metadata__, which safetensors keeps for itself");
  }
  if (tensor.elements.begin < 0 || tensor.elements.size() < 0 ||
      tensor.elements.end > kMaxElements) {
    return UsageError(absl::StrCat("tensor ", tensor.name, " lies at elements ",
                                   tensor.elements.begin, " to ", tensor.elements.end));
  }
  int64_t product = 1;
  bool fits = true;
  for (const int64_t dimension : tensor.shape) {
    fits = fits && dimension >= 0 && dimension <= kMaxElements &&
           !__builtin_mul_overflow(product, dimension, &product);
  }
  if (!fits || product != tensor.elements.size()) {
    return UsageError(absl::StrCat("tensor ", tensor.name, " has the shape [",
                                   absl::StrJoin(tensor.shape, ", "), "] and ",
                                   tensor.elements.size(), " elements"));
  }
  return OkStatus();
}

// HF's json.dumps(indent=2, sort_keys=True): a member a line, other characters than ASCII escaped.
std::string IndexEntry(const std::string& name, const std::string& file) {
  const StatusOr<std::string> quoted = JsonQuoted(name, /*ascii=*/true);
  CHECK(quoted.ok()) << "the names were checked when the headers were made";
  return absl::StrCat("    ", *quoted, ": \"", file, "\"");
}

}  // namespace

StatusOr<std::vector<TensorSpec>> CheckedTensors(std::vector<TensorSpec> tensors) {
  std::unordered_set<std::string> names;
  for (const TensorSpec& tensor : tensors) {
    RETURN_IF_ERROR(CheckTensor(tensor));
    if (!names.insert(tensor.name).second) {
      return UsageError(absl::StrCat("tensor ", tensor.name, " is there twice"));
    }
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return std::pair(a.elements.begin, a.elements.end) <
           std::pair(b.elements.begin, b.elements.end);
  });
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].elements.begin < tensors[i - 1].elements.end) {
      return UsageError(absl::StrCat("tensors ", tensors[i - 1].name, " and ", tensors[i].name,
                                     " overlap in the flat vector"));
    }
  }
  return tensors;
}

StatusOr<FilePlan> FilePlan::Create(const std::vector<TensorSpec>& tensors,
                                    const std::string& prefix, int64_t max_file_bytes) {
  if (tensors.empty()) return UsageError("there are no tensors to store");
  if (!IsSectionPrefix(prefix)) {
    return UsageError(absl::StrCat("\"", prefix, "\" can't be the name of a section's files"));
  }
  ASSIGN_OR_RETURN(const std::vector<TensorSpec> sorted, CheckedTensors(tensors));

  FilePlan plan;
  std::vector<std::vector<SafetensorsTensor>> contents(1);
  int64_t file_bytes = 0;  // of data, in the file that is being filled
  for (const TensorSpec& tensor : sorted) {
    const int64_t bytes = tensor.elements.size() * kElementBytes;
    if (!contents.back().empty() && file_bytes + bytes > max_file_bytes) {
      contents.emplace_back();
      file_bytes = 0;
    }
    plan.names_.push_back(tensor.name);
    plan.places_.push_back({tensor.elements, static_cast<int>(contents.size()) - 1, file_bytes});
    contents.back().push_back({tensor.name, "F32", tensor.shape, {}});
    file_bytes += bytes;
    plan.tensor_bytes_ += bytes;
  }
  for (size_t i = 0; i < contents.size(); ++i) {
    ASSIGN_OR_RETURN(std::string head, SafetensorsHead(contents[i]));
    PlannedFile file;
    file.name =
        SectionFileName(prefix, static_cast<int64_t>(i) + 1, static_cast<int64_t>(contents.size()));
    file.bytes = static_cast<int64_t>(head.size());
    file.head = std::move(head);
    plan.files_.push_back(std::move(file));
  }
  for (Place& place : plan.places_) {
    PlannedFile& file = plan.files_[place.file];
    place.file_offset += static_cast<int64_t>(file.head.size());
    file.bytes += place.elements.size() * kElementBytes;
  }
  return plan;
}

std::vector<Piece> FilePlan::Pieces(Range elements) const {
  std::vector<Piece> pieces;
  auto place = std::partition_point(places_.begin(), places_.end(), [&](const Place& candidate) {
    return candidate.elements.end <= elements.begin;
  });
  for (; place != places_.end() && place->elements.begin < elements.end; ++place) {
    const Range part = {std::max(place->elements.begin, elements.begin),
                        std::min(place->elements.end, elements.end)};
    if (part.empty()) continue;
    const int64_t offset =
        place->file_offset + (part.begin - place->elements.begin) * kElementBytes;
    // Tensors without padding between them are written in one go.
    if (!pieces.empty() && pieces.back().file == place->file &&
        pieces.back().elements.end == part.begin) {
      pieces.back().elements.end = part.end;
    } else {
      pieces.push_back({place->file, offset, part});
    }
  }
  return pieces;
}

std::string FilePlan::IndexJson() const {
  std::map<std::string, std::string> entries;
  for (size_t i = 0; i < names_.size(); ++i) {
    entries[names_[i]] = IndexEntry(names_[i], files_[places_[i].file].name);
  }
  return absl::StrCat(
      "{\n  \"metadata\": {\n    \"total_size\": ", tensor_bytes_, "\n  },\n  \"weight_map\": {\n",
      absl::StrJoin(
          entries, ",\n",
          [](std::string* out, const auto& entry) { absl::StrAppend(out, entry.second); }),
      "\n  }\n}\n");
}

}  // namespace atl::checkpoint
