#include "checkpoint/coverage.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace atl::checkpoint {
namespace {

// The first tensor that has elements in `range`, or null.
const TensorSpec* TensorIn(const std::vector<TensorSpec>& tensors, Range range) {
  auto tensor = std::partition_point(
      tensors.begin(), tensors.end(),
      [&](const TensorSpec& candidate) { return candidate.elements.end <= range.begin; });
  while (tensor != tensors.end() && tensor->elements.empty()) ++tensor;
  if (tensor == tensors.end() || tensor->elements.begin >= range.end) return nullptr;
  return &*tensor;
}

}  // namespace

Status CheckCoverage(const std::vector<TensorSpec>& tensors, std::vector<Writer> writers) {
  std::erase_if(writers, [](const Writer& writer) { return writer.elements.empty(); });
  std::sort(writers.begin(), writers.end(), [](const Writer& a, const Writer& b) {
    return std::pair(a.elements.begin, a.elements.end) <
           std::pair(b.elements.begin, b.elements.end);
  });
  int64_t end = 0;  // of the vector
  for (const TensorSpec& tensor : tensors) end = std::max(end, tensor.elements.end);

  Writer last;  // whose range reaches furthest
  auto check_gap = [&](Range gap) -> Status {
    const TensorSpec* tensor = gap.empty() ? nullptr : TensorIn(tensors, gap);
    if (tensor == nullptr) return OkStatus();
    return absl::InternalError(absl::StrCat("nobody writes tensor ", tensor->name,
                                            " within elements ", gap.begin, " to ", gap.end));
  };
  for (const Writer& writer : writers) {
    RETURN_IF_ERROR(check_gap({last.elements.end, writer.elements.begin}));
    const Range shared = {writer.elements.begin, std::min(last.elements.end, writer.elements.end)};
    const TensorSpec* tensor = shared.empty() ? nullptr : TensorIn(tensors, shared);
    if (tensor != nullptr) {
      return absl::InternalError(
          absl::StrCat("ranks ", last.rank, " and ", writer.rank, " both write tensor ",
                       tensor->name, " within elements ", shared.begin, " to ", shared.end));
    }
    if (writer.elements.end > last.elements.end) last = writer;
  }
  return check_gap({last.elements.end, end});
}

}  // namespace atl::checkpoint
