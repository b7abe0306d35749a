// The outer state at a round's edge, as full members serve it to observers: one object a lane, over
// the lane's own links (collectives/wan/transfer.h).
//
//   bytes   what
//   0       "ATLOUTER"
//   8       round: the state is the one after it (8 bytes, little-endian, as all that follows)
//   16      updates of the inner optimizer, where its state is the same in all regions; else 0
//   24      elements that follow
//   32      the lane's part of the state (SyncMethod::CopyOuterState), fp32
//
// With sync.joiner_state copied, one member serves its inner optimizer's state in the same form:
// its updates, and the lane's part of both moments. Lanes are the same in every region, whatever
// its workers.
//
// Who fetches knows the model, hence every object's size. Members prove the view's key, so what
// comes is what they hold; the digest after the next round shows whether that was right.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "collectives/wan/engine.h"

namespace atl {

inline constexpr char kOuterCopyName[] = "outer";
inline constexpr char kInnerCopyName[] = "inner";

struct OuterCopyHeader {
  int64_t round = 0;
  int64_t updates = 0;
  int64_t elements = 0;
  static constexpr int64_t kBytes = 32;

  // Writes or reads kBytes. kDataLoss: it is none.
  void Encode(uint8_t* out) const;
  static StatusOr<OuterCopyHeader> Parse(const uint8_t* bytes);
};

// `lane` lies in `room`, which lives as long as the source.
std::shared_ptr<wan::ByteSource> MakeOuterCopy(int64_t round, int64_t updates,
                                               std::span<const float> lane,
                                               std::shared_ptr<const void> room);

// Fetches the copies of some lanes, all at once, each from all of `sources`. What fails is tried
// again, without what is here, until it is done or the object goes.
// Thread rule: one thread; done() any.
class OuterFetch {
 public:
  // `name`: of the object; `elements`: of each lane's part. `engine` outlives it.
  OuterFetch(wan::Engine* engine, std::string name, ViewId view, std::vector<LaneId> lanes,
             std::vector<int64_t> elements, std::vector<MemberIndex> sources);
  ~OuterFetch();  // gives up what is under way

  bool done() const { return done_.load(); }
  // Once done: the same of every lane.
  const OuterCopyHeader& header() const { return header_; }
  std::vector<std::vector<float>> Take() { return std::move(lanes_data_); }

 private:
  void Run();
  // What is left of each lane; true once all is here.
  bool Attempt(std::vector<std::vector<Range>>* missing);
  bool CheckHeaders(std::vector<std::vector<Range>>* missing);
  std::vector<std::vector<Range>> Everything() const;

  wan::Engine* const engine_;
  const std::string name_;
  const ViewId view_;
  const std::vector<LaneId> lanes_;
  const std::vector<int64_t> elements_;
  const std::vector<MemberIndex> sources_;
  std::vector<std::vector<float>> lanes_data_;  // header and elements
  OuterCopyHeader header_;
  std::atomic<bool> done_ = false;
  Mutex mutex_;
  CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::shared_ptr<wan::Transfer>> transfers_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace atl
