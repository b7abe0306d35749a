#include "base/parent_watch.h"

#include <unistd.h>

#include "base/log.h"

namespace atl {

ParentWatch::ParentWatch() : parent_(getppid()), thread_([this] { Run(); }) {}

ParentWatch::~ParentWatch() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void ParentWatch::Run() {
  MutexLock lock(&mutex_);
  while (!stopping_) {
    changed_.WaitFor(&mutex_, 0.5);
    if (stopping_ || getppid() == parent_) continue;
    LOG(ERROR) << "the process that started this one (pid " << parent_ << ") is gone: ending";
    _exit(128 + 9);
  }
}

}  // namespace atl
