#include "worker/region/copy_room.h"

#include <algorithm>

#include "base/log.h"
#include "base/units.h"

namespace atl {
namespace {

constexpr int64_t kAtOnce = 64 << 20;  // bytes between two looks at whether it is still wanted

}  // namespace

CopyRoom::CopyRoom(int64_t elements)
    : elements_(elements), thread_([this] {
        fitted_ = arena_.Fit(elements_);
        for (int64_t at = 0; fitted_.ok() && at < arena_.bytes() && !stop_.load(); at += kAtOnce) {
          arena_.Touch(at, std::min(arena_.bytes(), at + kAtOnce));
        }
      }) {
  LOG(INFO) << "makes room for a copy of " << FormatBytes(elements * sizeof(float))
            << ": a region is about to join";
}

CopyRoom::~CopyRoom() {
  stop_.store(true);
  if (thread_.joinable()) thread_.join();
}

StatusOr<std::span<float>> CopyRoom::Data() {
  if (thread_.joinable()) thread_.join();
  RETURN_IF_ERROR(fitted_);
  return std::span(arena_.data(), static_cast<size_t>(elements_));
}

}  // namespace atl
