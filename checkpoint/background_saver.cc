#include "checkpoint/background_saver.h"

#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace atl::checkpoint {

BackgroundSaver::BackgroundSaver(Communicator* region)
    : region_(region), thread_([this] { Run(); }) {}

BackgroundSaver::~BackgroundSaver() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void BackgroundSaver::Prepare(int64_t elements) {
  {
    MutexLock lock(&mutex_);
    preparing_ = elements;
  }
  changed_.NotifyAll();
}

StatusOr<float*> BackgroundSaver::Take(int64_t elements) {
  CHECK_EQ(taken_, -1) << "an arena is taken already";
  bool used[kArenas] = {};
  {
    MutexLock lock(&mutex_);
    while (preparing_ > 0) changed_.Wait(&mutex_);
    for (const Job& job : jobs_) {
      if (job.arena >= 0) used[job.arena] = true;
    }
  }
  // The first one that is free: the higher ones are needed only while lower ones are written.
  for (int i = 0; i < kArenas; ++i) {
    if (used[i]) continue;
    RETURN_IF_ERROR(arenas_[i].Fit(elements));
    taken_ = i;
    return arenas_[i].data();
  }
  return nullptr;
}

void BackgroundSaver::GiveBack() {
  if (taken_ > 0) arenas_[taken_].Free();
  taken_ = -1;
}

void BackgroundSaver::Begin(SaveOptions options, Ended ended) {
  {
    MutexLock lock(&mutex_);
    jobs_.push_back({std::move(options), std::move(ended), std::exchange(taken_, -1)});
  }
  changed_.NotifyAll();
}

void BackgroundSaver::Wait() {
  MutexLock lock(&mutex_);
  while (!jobs_.empty()) changed_.Wait(&mutex_);
}

void BackgroundSaver::Run() {
  for (;;) {
    const Job* job = nullptr;
    int64_t elements = 0;
    {
      MutexLock lock(&mutex_);
      while (jobs_.empty() && preparing_ == 0 && !stopping_) changed_.Wait(&mutex_);
      elements = preparing_;
      if (elements == 0 && jobs_.empty()) return;
      if (elements == 0) job = &jobs_.front();  // stays where it is while others come behind it
    }
    if (job == nullptr) {
      // Without that memory the first Take() fails, and says so.
      if (arenas_[0].Fit(elements).ok()) arenas_[0].Touch();
      {
        MutexLock lock(&mutex_);
        preparing_ = 0;
      }
      changed_.NotifyAll();
      continue;
    }
    const double start = Clock::Real()->MonotonicSeconds();
    const StatusOr<SaveResult> saved = Save(job->options, *region_);
    job->ended(saved, Clock::Real()->MonotonicSeconds() - start);
    if (job->arena > 0) arenas_[job->arena].Free();
    {
      MutexLock lock(&mutex_);
      jobs_.pop_front();
    }
    changed_.NotifyAll();
  }
}

}  // namespace atl::checkpoint
