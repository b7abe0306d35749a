#include "worker/region/activity.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/units.h"

namespace atl {

void Activity::Begin(const std::string& what) {
  MutexLock lock(&mutex_);
  what_ = what;
  whom_.clear();
  silent_.clear();
}

void Activity::WaitFor(const std::string& whom, const std::string& then) {
  MutexLock lock(&mutex_);
  if (whom_.empty()) since_ = clock_->MonotonicSeconds();
  whom_ = whom;
  then_ = then;
}

void Activity::OnSilence(const wan::Silence& silence) {
  const std::pair<int64_t, int> key = {silence.lane.value, silence.member.value};
  MutexLock lock(&mutex_);
  if (silence.seconds > 0) {
    silent_[key] = {silence.name, clock_->MonotonicSeconds() - silence.seconds};
  } else {
    silent_.erase(key);
  }
}

std::map<std::string, double> Activity::silent() const {
  const double now = clock_->MonotonicSeconds();
  std::map<std::string, double> silent;
  MutexLock lock(&mutex_);
  for (const auto& [key, one] : silent_) {
    double& seconds = silent[one.name];
    seconds = std::max(seconds, now - one.since);
  }
  return silent;
}

std::string Activity::what() const {
  MutexLock lock(&mutex_);
  return what_;
}

std::string Activity::TimeOf(double monotonic_seconds) const {
  const absl::Time time =
      clock_->WallTime() + absl::Seconds(monotonic_seconds - clock_->MonotonicSeconds());
  return absl::FormatTime("%H:%M:%S UTC", time, absl::UTCTimeZone());
}

std::string Activity::Text() const {
  MutexLock lock(&mutex_);
  if (!silent_.empty()) {
    std::vector<std::string> names;
    double since = silent_.begin()->second.since;
    for (const auto& [key, silent] : silent_) {
      since = std::min(since, silent.since);
      if (std::find(names.begin(), names.end(), silent.name) == names.end())
        names.push_back(silent.name);
    }
    return absl::StrCat(what_, "; waiting for ", SomeNames(names), ", silent for ",
                        FormatDuration(clock_->MonotonicSeconds() - since), " (since ",
                        TimeOf(since), "); lost if still silent at ",
                        TimeOf(since + patience_seconds_));
  }
  if (whom_.empty()) return what_;
  return absl::StrCat(what_, "; waiting for ", whom_, " since ", TimeOf(since_),
                      then_.empty() ? "" : "; ", then_);
}

std::string SomeNames(const std::vector<std::string>& names) {
  constexpr size_t kMostNames = 4;
  const size_t shown = names.size() > kMostNames ? kMostNames - 1 : names.size();
  std::string text;
  for (size_t i = 0; i < shown; ++i) {
    const bool last = i + 1 == names.size();
    absl::StrAppend(&text, i == 0 ? "" : last ? " and " : ", ", names[i]);
  }
  if (shown < names.size()) absl::StrAppend(&text, " and ", names.size() - shown, " others");
  return text;
}

}  // namespace atl
