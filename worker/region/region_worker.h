// One worker of a region: carries out the leader's commands with the trainer, the communicator and
// the WAN engine. What each command does stands beside its message in proto/region.proto.
//
// Thread rule: Execute and Observe from one thread; the others from any.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/phase_clock.h"
#include "base/socket.h"
#include "checkpoint/checkpoint.h"
#include "collectives/communicator.h"
#include "collectives/lanes.h"
#include "collectives/wan/engine.h"
#include "proto/region.pb.h"
#include "worker/data/dataset.h"
#include "worker/inner/buckets.h"
#include "worker/region/activity.h"
#include "worker/sync/method.h"
#include "worker/trainer/trainer.h"

namespace atl {

struct RegionWorkerOptions {
  std::string region;
  std::string run_dir;              // empty: runs/<job name>
  Endpoint wan_listen;              // host empty: the address that reaches the orchestrator
  bool wan_only_calls_out = false;  // no other region can call this one
  std::string wan_advertise;        // host that peers dial; empty: where we listen
  Endpoint orchestrator;
  std::string trainer_module;  // empty: the libtorch module
  std::string data_tokens;     // this site's copy of data.tokens; empty: the job's path
  int local_rank = 0;          // among the region's workers on this host: which GPU
  std::function<bool()> stop_requested;
};

class RegionWorker {
 public:
  // `control` outlives it.
  RegionWorker(RegionWorkerOptions options, Communicator* control);
  ~RegionWorker();

  // Carries out one command on this rank. Errors are in the answer. Some commands are collective
  // inside the region: if one of those fails on this rank alone, the others hang in it, so
  // `must_abort` is set and the process has to end the region's MPI job.
  pb::RegionAnswer Execute(const pb::RegionCommand& command, bool* must_abort);
  // The answers of all ranks to the last command.
  void Observe(const std::vector<pb::RegionAnswer>& answers);

  // Leader, any thread: the EnterView of this view or an earlier one, under way or yet to come,
  // gives up connecting, on all ranks.
  void AbandonView(int64_t view) { abandoned_view_.store(view); }

  // Any thread; with whom it waits for, since when, and what happens then.
  std::string doing() const { return activity_.Text(); }
  pb::PhaseSeconds phases() const;
  // The region's lines to the others, over all lanes. Those of other ranks' lanes are as they were
  // at the end of the last round. At most one a member of the view.
  std::vector<pb::WanLink> links() const;

 private:
  // What lives as long as a view.
  struct ViewState;

  Status Run(const pb::RegionCommand& command, pb::RegionAnswer* answer);
  Status SetUp(const pb::SetUp& command, pb::RegionAnswer* answer);
  Status OpenDataAndTrainer();
  Status MakeTrainer();
  Status ShareVectors();
  Status OpenGateway(pb::RegionAnswer* answer);
  void ListCheckpoints(pb::RegionAnswer* answer);
  Status EnterView(const pb::EnterView& command, pb::RegionAnswer* answer);
  Status Load(const pb::View& view);
  Status LoadOwnSlices(const checkpoint::Checkpoint& checkpoint);
  Status LoadLaneVectors(const checkpoint::Checkpoint& checkpoint,
                         const std::vector<LaneVector>& vectors);
  Status LoadInnerState(const checkpoint::Checkpoint& checkpoint);
  StatusOr<wan::Group> GroupOfLane(int64_t lane) const;
  Status JoinLanes(pb::RegionAnswer* answer);
  void TellWhoIsMissing(int64_t lanes);
  std::vector<pb::WanLink> OwnLinks() const;
  Status Train(int64_t round, pb::RegionAnswer* answer);
  Status Reduce(const pb::ReduceRound& command, pb::RegionAnswer* answer);
  Status Evaluate(pb::RegionAnswer* answer);
  Status Save(const pb::SaveCheckpoint& command, pb::RegionAnswer* answer);
  std::vector<checkpoint::TensorSpec> TensorSpecs() const;
  std::vector<checkpoint::Slice> SlicesOf(const LaneVector& vector) const;
  std::string CheckpointDirectory(const std::string& region) const;
  std::string ModelText() const;
  RoundPlan Plan(int64_t round) const;
  void Doing(const std::string& text) { activity_.Begin(text); }
  bool Abandoned() const;
  std::vector<std::string> OtherRegions() const;

  const RegionWorkerOptions options_;
  Communicator* const control_;
  PhaseClock phases_;
  Activity activity_;

  pb::Job job_;
  pb::Model model_;  // resolved
  std::unique_ptr<Dataset> dataset_;
  Buffer parameters_, gradients_;  // the trainer's, where the region shares them
  std::unique_ptr<Trainer> trainer_;
  int device_ = -1;
  std::unique_ptr<wan::Engine> wan_;
  std::atomic<wan::Engine*> engine_ = nullptr;  // wan_, for other threads
  std::unique_ptr<ViewState> view_;
  std::vector<pb::RoundNote> notes_;  // of the round being reduced
  std::atomic<int64_t> abandoned_view_ = 0;

  mutable Mutex mutex_;
  std::map<int, std::vector<pb::WanLink>> links_of_others_ ABSL_GUARDED_BY(mutex_);  // by rank
};

}  // namespace atl
