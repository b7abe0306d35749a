#include "worker/region/pushing.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "checkpoint/s3/push.h"

namespace atl {
namespace {

constexpr double kLongestWaitSeconds = 300;

}  // namespace

Pushing::Pushing(std::string place, Attempt attempt, double first_wait_seconds)
    : place_(std::move(place)),
      attempt_(std::move(attempt)),
      first_wait_seconds_(first_wait_seconds),
      thread_([this] { Run(); }) {}

Pushing::~Pushing() {
  Stop();
  thread_.join();
}

void Pushing::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
}

bool Pushing::Stopping() {
  MutexLock lock(&mutex_);
  return stopping_;
}

void Pushing::Push(int64_t round, const std::string& path) {
  {
    MutexLock lock(&mutex_);
    next_ = Named{round, path};
  }
  changed_.NotifyAll();
}

void Pushing::Finish() {
  MutexLock lock(&mutex_);
  ++finishing_;
  changed_.NotifyAll();
  while ((next_ || busy_) && !stopping_) changed_.Wait(&mutex_);
  --finishing_;
}

std::vector<pb::CheckpointTended> Pushing::TakeTended() {
  MutexLock lock(&mutex_);
  return std::exchange(tended_, {});
}

bool Pushing::Try(const Named& named, bool* told) {
  const double start = Clock::Real()->MonotonicSeconds();
  const StatusOr<int64_t> pushed = attempt_(named.path, [this] { return Stopping(); });
  if (!pushed.ok() && Stopping()) {
    LOG(INFO) << "the push of " << named.path << " to " << place_ << " is given up";
    return true;
  }
  std::error_code error;
  const bool gone = !pushed.ok() && !std::filesystem::exists(named.path, error);
  if (gone) {
    LOG(INFO) << named.path << " is not pushed any more: newer ones have taken its place";
    return true;
  }
  if (pushed.ok() || !*told) {
    pb::CheckpointTended tended;
    tended.set_round(named.round);
    tended.set_path(named.path);
    tended.set_place(place_);
    tended.set_seconds(Clock::Real()->MonotonicSeconds() - start);
    if (pushed.ok()) tended.set_bytes(*pushed);
    tended.set_failure(std::string(pushed.status().message()));
    MutexLock lock(&mutex_);
    tended_.push_back(std::move(tended));
  }
  *told = true;
  if (pushed.ok()) {
    LOG(INFO) << "pushed " << named.path << " to " << place_ << ", " << *pushed << " bytes";
  } else {
    LOG(WARNING) << "cannot push " << named.path << " to " << place_ << ": "
                 << pushed.status().message();
  }
  return pushed.ok();
}

bool Pushing::WaitToRetry(double seconds) {
  const double until = Clock::Real()->MonotonicSeconds() + seconds;
  MutexLock lock(&mutex_);
  for (;;) {
    if (next_ || stopping_ || finishing_ > 0) return false;
    const double left = until - Clock::Real()->MonotonicSeconds();
    if (left <= 0) return true;
    changed_.WaitFor(&mutex_, left);
  }
}

void Pushing::Run() {
  for (;;) {
    Named named;
    {
      MutexLock lock(&mutex_);
      busy_ = false;
      changed_.NotifyAll();
      while (!next_ && !stopping_) changed_.Wait(&mutex_);
      if (stopping_) return;
      named = *std::exchange(next_, std::nullopt);
      busy_ = true;
    }
    bool told = false;
    double wait = first_wait_seconds_;
    while (!Try(named, &told) && WaitToRetry(wait)) wait = std::min(2 * wait, kLongestWaitSeconds);
  }
}

Status CheckPlace(const std::string& place) { return checkpoint::S3Place::Parse(place).status(); }

Pushing::Attempt PushToPlace(const std::string& place) {
  return
      [place](const std::string& path, const Pushing::Cancelled& cancelled) -> StatusOr<int64_t> {
        checkpoint::PushOptions options;
        options.path = path;
        ASSIGN_OR_RETURN(options.directory, checkpoint::S3Place::Parse(place));
        ASSIGN_OR_RETURN(options.settings, checkpoint::S3Settings::FromEnvironment(""));
        options.settings.cancelled = cancelled;
        // A job that went back writes a round anew.
        options.replace = true;
        ASSIGN_OR_RETURN(const checkpoint::PushResult pushed, checkpoint::PushToS3(options));
        return pushed.bytes - pushed.bytes_there;
      };
}

}  // namespace atl
