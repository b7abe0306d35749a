// How regions stay one model: the part of a round between "these samples are mine" and "this is the
// new outer state".
//
// A round is Train (inner steps), Reduce (contributions over the sea), Commit (the outer step).
// Reduce may be repeated in a later view with what Train left (the contribution is kept until
// Commit), so a region's failure never costs finished inner steps. Every worker of the region makes
// the same calls in the same order; Train and Commit are collective inside the region, Reduce
// touches the sea alone. Implementations: diloco.cc, every_step.cc. Thread rule: one thread, as the
// trainer.
#pragma once

#include <memory>
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
  const pb::View* view = nullptr;
  int member = 0;  // this region's index in the view
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

struct TrainResult {
  double loss_sum = 0;       // this worker's, nats
  int64_t tokens = 0;        // this worker's
  double gradient_norm = 0;  // of the last step, before clipping
  double learning_rate = 0;
};

struct ReduceResult {
  std::vector<pb::RoundNote> notes;  // by member; empty if this worker carries no lane
  int64_t bytes_sent = 0;
};

// A vector of this worker's lanes that is saved beside the parameters.
struct LaneVector {
  std::string section;                       // in checkpoints: "outer/momentum", "optim/residual"
  std::vector<std::vector<float>>* by_lane;  // index 0 = the worker's first lane
};

class SyncMethod {
 public:
  static std::unique_ptr<SyncMethod> Create(const RegionContext& context);
  virtual ~SyncMethod() = default;

  // Takes the trainer's parameters as the outer parameters; other outer vectors and the residuals
  // become zero.
  virtual Status ResetOuterState() = 0;
  virtual StatusOr<TrainResult> Train(const RoundPlan& plan) = 0;
  virtual StatusOr<ReduceResult> Reduce(const RoundPlan& plan, const pb::RoundNote& note) = 0;
  // `notes`: of every member, as Reduce returned them on the workers that carry a lane.
  virtual Status Commit(const RoundPlan& plan, const std::vector<pb::RoundNote>& notes) = 0;

  // Digest of this worker's lanes of the outer state; the region's is the sum over its workers.
  virtual StatusOr<Digest> OuterDigest() = 0;
  // Outer vectors beyond the parameters, to save and to load.
  virtual std::vector<LaneVector> OuterVectors() = 0;
  // Vectors that are this region's own, to save and to load: with an int codec, what it still owes
  // the sum (residuals). They are in units of the round's sum, so they hold in any view.
  virtual std::vector<LaneVector> RegionalVectors() = 0;
  // Whether the inner optimizer's state is the same in all regions.
  virtual bool inner_state_replicated() const = 0;
};

std::unique_ptr<SyncMethod> MakeDiloco(const RegionContext& context);
std::unique_ptr<SyncMethod> MakeEveryStep(const RegionContext& context);

// The region's inner steps before round `round` starts.
int64_t InnerStepsBefore(const RegionContext& context, const RoundPlan& plan);

// The worker's lanes [begin, end).
Range OwnLanes(const RegionContext& context);

// All-reduces one buffer a lane of this worker, all lanes at once, each with the region's note; on
// return the buffers hold the sums. `residuals`, as MakeResiduals made them, keep from one call to
// the next what an int codec took from the contributions (error feedback); as before when the call
// fails.
StatusOr<ReduceResult> ReduceLanes(const RegionContext& context, const RoundPlan& plan,
                                   const pb::RoundNote& note,
                                   std::vector<std::vector<float>>* buffers,
                                   std::vector<std::vector<float>>* residuals);

// A zero a number of each own lane, and how they are saved; nothing where the codec keeps none.
std::vector<std::vector<float>> MakeResiduals(const RegionContext& context);
std::vector<LaneVector> ResidualVectors(const RegionContext& context,
                                        std::vector<std::vector<float>>* residuals);

// Sum of the members' tokens divided by what the view expected of a round: contributions are scaled
// by own tokens / expected tokens before the sum, and the sum is divided by this, which makes it
// the mean weighted by tokens. Exactly 1 when all took part fully.
double WeightOfSum(const RoundPlan& plan, int64_t sequence_length,
                   const std::vector<pb::RoundNote>& notes);

}  // namespace atl
