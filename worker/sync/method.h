// How regions stay one model: the part of a round between "these samples are mine" and "this is the
// new outer state".
//
// A round is Train (inner steps), Reduce (contributions over the sea), Commit (the outer step).
// What Train left is the contribution: it stays, in the trainer's vectors, until a result is
// committed or Train goes on, so Reduce may be repeated in a later view and a region's failure
// never costs finished inner steps. What Reduce brought is the result: it stays until the next
// one, so that it can be handed on to who lacks it (I4 in docs/protocols/membership.md).
//
// Memory beside the trainer's, in copies of the worker's lanes: the outer state (DiLoCo: parameters
// and momentum), the result, a work buffer, with an int codec the residual (and another one while
// it reduces, and until the next reduction if that one was cut short); of a region that was late
// (sync.slow.policy quorum), the outer parameters before the newest round, and for moments what it
// has trained since.
// Every worker of the region makes the same calls in the same order; Train, Commit, SetOuterState
// and Restore are collective inside the region, Reduce touches the sea alone. Implementations:
// diloco.cc, every_step.cc. Thread rule: one thread, as the trainer.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/phase_clock.h"
#include "collectives/communicator.h"
#include "collectives/lanes.h"
#include "collectives/wan/engine.h"
#include "proto/control.pb.h"
#include "proto/region.pb.h"
#include "proto/round_plan.h"
#include "worker/data/dataset.h"
#include "worker/inner/gradients.h"
#include "worker/inner/inner_optimizer.h"
#include "worker/trainer/trainer.h"

namespace atl {

// What a method works with. All pointers outlive it.
struct RegionContext {
  const pb::Job* job = nullptr;
  const pb::View* view = nullptr;  // the present one
  Trainer* trainer = nullptr;
  Communicator* tensors = nullptr;  // inside the region, on the trainer's memory
  const Lanes* lanes = nullptr;
  wan::Engine* wan = nullptr;
  const Dataset* dataset = nullptr;
  Gradients* gradients = nullptr;
  InnerOptimizer* inner = nullptr;
  PhaseClock* phases = nullptr;
  std::function<void(const std::string&)> doing;  // what to show in status
};

// Buffers of a worker's lanes: index 0 is its first lane, each LaneSize long or a multiple.
using LaneBuffers = std::vector<std::vector<float>>;

struct TrainPart {
  int64_t round = 0;
  int64_t first_step = 0;        // > 0: goes on where the part before ended
  int64_t steps = 0;             // at the end
  std::vector<int64_t> samples;  // of steps 0 to `steps`, as many for each
  // Asked between two steps, on every worker: go on? The answer is the same on all.
  std::function<StatusOr<bool>()> go_on;
};

struct TrainResult {
  int64_t steps = 0;         // done, those before first_step included
  double loss_sum = 0;       // this worker's in this part, nats
  int64_t tokens = 0;        // this worker's in this part
  double gradient_norm = 0;  // of the last step, before clipping
  double learning_rate = 0;
};

// How this worker's lanes stand while it waits for them.
struct WaitingLanes {
  bool done = false;  // all well
  Status failure;     // of one of them
};

struct ReducePart {
  int64_t round = 0;
  pb::ReduceRound::Mode mode = pb::ReduceRound::CONTRIBUTE;
  int64_t position = 0;
  int64_t expected_tokens = 0;
  pb::RoundNote note;
  // Called again and again with how the own lanes stand, until it says that the reduction is over
  // for the whole region: well (true) or not.
  std::function<StatusOr<std::optional<bool>>(const WaitingLanes&)> agree;
};

struct ReduceResult {
  bool well = false;  // false: given up or broken off; contribution and former result are as before
  std::vector<pb::RoundNote> notes;  // by member; empty if this worker carries no lane
  int64_t bytes_sent = 0;
};

// A vector of this worker's lanes that is saved beside the parameters.
struct LaneVector {
  std::string section;   // in checkpoints: "outer/momentum", "optim/residual"
  LaneBuffers* by_lane;  // index 0 = the worker's first lane
};

class SyncMethod {
 public:
  static std::unique_ptr<SyncMethod> Create(const RegionContext& context);
  explicit SyncMethod(const RegionContext& context);
  virtual ~SyncMethod() = default;

  // Takes the trainer's parameters as the outer parameters; other outer vectors and the residuals
  // become zero.
  virtual Status ResetOuterState() = 0;
  virtual StatusOr<TrainResult> Train(const TrainPart& part) = 0;
  StatusOr<ReduceResult> Reduce(const ReducePart& part);
  // The outer step of `round` with the result that is held: result / (tokens / expected_tokens).
  virtual Status Commit(int64_t round, int64_t tokens, int64_t expected_tokens) = 0;
  // Before a Commit whose result is without what was trained since the last one: that is set aside
  // with the state that it was trained on, and is what Train and Reduce go on with.
  virtual Status SetAside() = 0;
  // Forgets what was trained since the last commit: the trainer holds the outer state again.
  virtual Status Restore() = 0;

  // Digest of this worker's lanes of the outer state; the region's is the sum over its workers.
  virtual StatusOr<Digest> OuterDigest() = 0;
  // Outer vectors beyond the parameters, to save and to load.
  virtual std::vector<LaneVector> OuterVectors() = 0;
  // Vectors that are this region's own, to save and to load: with an int codec, what it still owes
  // the sum (residuals). They are in units of the round's sum, so they hold in any view.
  std::vector<LaneVector> RegionalVectors();
  // Whether the inner optimizer's state is the same in all regions.
  virtual bool inner_state_replicated() const = 0;

  // Everything that makes a region equal to this one at a round's edge: a buffer a lane, as many
  // vectors of LaneSize one after the other as OuterCopies() says.
  virtual int OuterCopies() const = 0;
  // The i-th own lane's part of it; `out` has just the size.
  virtual Status CopyOuterState(int64_t i, std::span<float> out) = 0;
  // `updates`: of the inner optimizer where its state is replicated.
  virtual Status SetOuterState(LaneBuffers state, int64_t updates) = 0;

  // What is held of the newest reduction. A result that was kept elsewhere may be put in its place.
  LaneBuffers& result() { return result_; }

 protected:
  int Lane(int64_t i) const { return static_cast<int>(own_.begin + i); }
  // Fills the work buffers with what this region contributes.
  virtual Status MakeContribution(double weight, LaneBuffers* buffers) = 0;
  // The outer state is another one: nothing is owed any more.
  void ResetResiduals();
  // Where `samples` of a part lie that are of one step.
  static std::span<const int64_t> SamplesOfStep(const TrainPart& part, int64_t step);

  const RegionContext context_;
  const Range own_;        // lanes
  LaneBuffers result_;     // of the newest reduction
  LaneBuffers residuals_;  // of int codecs

 private:
  Status FillWork(const ReducePart& part);
  StatusOr<ReduceResult> ReduceWork(const ReducePart& part);

  LaneBuffers work_;
  // What the contribution to a reduction left that did not end well here, until the next one.
  LaneBuffers unfinished_residuals_;
  int64_t unfinished_round_ = 0;
};

std::unique_ptr<SyncMethod> MakeDiloco(const RegionContext& context);
std::unique_ptr<SyncMethod> MakeEveryStep(const RegionContext& context);

// The worker's lanes [begin, end).
Range OwnLanes(const RegionContext& context);

// A zero a number of each own lane; nothing where the codec keeps no residuals.
LaneBuffers MakeResiduals(const RegionContext& context);

}  // namespace atl
