#include "worker/region/heard_results.h"

#include <fcntl.h>

#include "absl/strings/str_cat.h"

namespace atl {

StatusOr<HeardResults> HeardResults::Create(const std::string& directory) {
  RETURN_IF_ERROR(MakeDirectories(directory));
  ASSIGN_OR_RETURN(Fd file, OpenFile(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  return HeardResults(std::move(file), directory);
}

Status HeardResults::Append(const Heard& heard, const std::vector<std::vector<float>>& lanes) {
  if (rounds_.empty()) {
    for (const std::vector<float>& lane : lanes) {
      sizes_.push_back(static_cast<int64_t>(lane.size()));
      stride_ += sizes_.back() * static_cast<int64_t>(sizeof(float));
    }
  } else if (heard.round != rounds_.back().round + 1) {
    return absl::InternalError(
        absl::StrCat("round ", heard.round, " was heard after round ", rounds_.back().round));
  }
  int64_t offset = static_cast<int64_t>(rounds_.size()) * stride_;
  for (const std::vector<float>& lane : lanes) {
    const int64_t bytes = static_cast<int64_t>(lane.size() * sizeof(float));
    RETURN_IF_ERROR(WriteAt(file_, directory_, lane.data(), bytes, offset));
    offset += bytes;
  }
  rounds_.push_back(heard);
  return OkStatus();
}

Status HeardResults::Read(size_t index, std::vector<std::vector<float>>* lanes) const {
  int64_t offset = static_cast<int64_t>(index) * stride_;
  lanes->resize(sizes_.size());
  for (size_t lane = 0; lane < sizes_.size(); ++lane) {
    const int64_t bytes = sizes_[lane] * static_cast<int64_t>(sizeof(float));
    (*lanes)[lane].resize(sizes_[lane]);
    RETURN_IF_ERROR(ReadAt(file_, directory_, (*lanes)[lane].data(), bytes, offset));
    offset += bytes;
  }
  return OkStatus();
}

}  // namespace atl
