#include "worker/region/lane_joiner.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace atl {
namespace {

constexpr double kJoinSeconds = 5;
constexpr double kLeaveSeconds = 0.05;  // between two tries to end attempts that just began

}  // namespace

LaneJoiner::LaneJoiner(wan::Engine* engine, ViewId view, std::vector<wan::Group> groups)
    : engine_(engine), view_(view), groups_(std::move(groups)) {
  const int64_t threads = std::min<int64_t>(groups_.size(), kMostThreads);
  {
    MutexLock lock(&mutex_);
    running_ = threads;
  }
  for (int64_t i = 0; i < threads; ++i) threads_.emplace_back([this] { JoinInTurn(); });
}

LaneJoiner::~LaneJoiner() {
  if (!kept_) GiveUp();
  for (std::thread& thread : threads_) thread.join();
}

bool LaneJoiner::joined() const {
  MutexLock lock(&mutex_);
  return running_ == 0 && failure_.ok() && !stop_;
}

Status LaneJoiner::failure() const {
  MutexLock lock(&mutex_);
  return failure_;
}

void LaneJoiner::WaitFor(double seconds) {
  MutexLock lock(&mutex_);
  if (running_ > 0 && failure_.ok()) changed_.WaitFor(&mutex_, seconds);
}

void LaneJoiner::Keep() {
  CHECK(joined());
  kept_ = true;
}

// Takes lanes until there are no more.
void LaneJoiner::JoinInTurn() {
  const wan::Group* group = nullptr;
  for (;;) {
    {
      MutexLock lock(&mutex_);
      const bool over = stop_ || !failure_.ok();
      if (group == nullptr && !over && next_ < groups_.size()) group = &groups_[next_++];
      if (over || group == nullptr) {
        --running_;
        changed_.NotifyAll();
        return;
      }
    }
    const Status status = engine_->Join(*group, kJoinSeconds);
    if (absl::IsDeadlineExceeded(status)) {
      LOG(INFO) << "still connecting: " << status.message();
      continue;
    }
    group = nullptr;
    MutexLock lock(&mutex_);
    if (!status.ok() && !stop_ && failure_.ok()) {
      failure_ = status;
      changed_.NotifyAll();
    }
  }
}

// Ends the attempts under way, and those that begin in this very moment.
void LaneJoiner::GiveUp() {
  for (;;) {
    {
      MutexLock lock(&mutex_);
      stop_ = true;
    }
    engine_->Leave(view_);
    MutexLock lock(&mutex_);
    if (running_ > 0) changed_.WaitFor(&mutex_, kLeaveSeconds);
    if (running_ == 0) break;
  }
  engine_->Leave(view_);
}

}  // namespace atl
