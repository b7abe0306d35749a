// Memory for a copy that a member serves to regions that join.
//
// Members wait for the copy at a round's edge, and the system takes several times longer to give
// new pages than a copy to pages that are there. So the pages are asked for before the edge, by a
// thread of its own, while the region trains.
// Thread rule: one thread; Data() waits for the other one.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <thread>

#include "base/status.h"
#include "checkpoint/arena.h"

namespace atl {

class CopyRoom {
 public:
  explicit CopyRoom(int64_t elements);
  ~CopyRoom();  // gives up what is under way
  CopyRoom(const CopyRoom&) = delete;
  CopyRoom& operator=(const CopyRoom&) = delete;

  int64_t elements() const { return elements_; }
  // kResourceExhausted: the system has no such memory.
  StatusOr<std::span<float>> Data();

 private:
  const int64_t elements_;
  checkpoint::Arena arena_;  // the thread's, until it has ended
  Status fitted_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace atl
