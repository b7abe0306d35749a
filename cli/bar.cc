#include "cli/bar.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/units.h"

namespace atl {
namespace {

constexpr double kLiveSeconds = 0.2;    // between two paints on a terminal
constexpr double kQuietSeconds = 10;    // between two lines elsewhere
constexpr double kSilentSeconds = 1.0;  // what is quicker is not worth a bar
constexpr int kWidth = 20;

}  // namespace

Bar::Bar(std::string what, Output* output)
    : what_(std::move(what)),
      output_(output),
      began_(Clock::Real()->MonotonicSeconds()),
      shown_(output->live() ? began_ + kSilentSeconds - kLiveSeconds : began_) {}

Bar::~Bar() {
  if (painted_) output_->Talk("\r\x1b[K");
}

void Bar::Update(int64_t done, int64_t total) {
  const double now = Clock::Real()->MonotonicSeconds();
  if (total <= 0 || now - shown_ < (output_->live() ? kLiveSeconds : kQuietSeconds)) return;
  shown_ = now;
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const double rate = static_cast<double>(done) / (now - began_);
  const std::string numbers = absl::StrFormat(
      "%3.0f%%  %s of %s  %s/s%s", 100 * share, FormatBytes(static_cast<double>(done)),
      FormatBytes(static_cast<double>(total)), FormatBytes(rate),
      rate > 0
          ? absl::StrCat("  ", FormatDuration(static_cast<double>(total - done) / rate), " left")
          : "");
  if (!output_->live()) {
    output_->Talk(absl::StrCat(what_, "  ", numbers, "\n"));
    return;
  }
  const int filled = static_cast<int>(share * kWidth);
  output_->Talk(absl::StrCat("\r\x1b[K", what_, "  [", std::string(filled, '#'),
                             std::string(kWidth - filled, '.'), "]  ", numbers));
  painted_ = true;
}

}  // namespace atl
