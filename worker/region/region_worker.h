// One worker of a region: carries out the leader's commands with the trainer, the communicator and
// the WAN engine. What each command does stands beside its message in proto/region.proto.
//
// region_worker.cc dispatches and sets up; enter_view.cc loads a state; views.cc changes views;
// rounds.cc trains, reduces and commits; observe.cc follows without a state, and serves those who
// do; agree.cc has the ranks wait together; save.cc writes checkpoints.
//
// Memory, in copies of this worker's lanes: as worker/sync/method.h says; while a view with an
// observer is prepared or holds, the outer state once more, and where sync.joiner_state is copied,
// at the member that the observer takes it from, the inner optimizer's two moments once more.
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
#include "checkpoint/background_saver.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/encryption.h"
#include "collectives/communicator.h"
#include "collectives/lanes.h"
#include "collectives/wan/engine.h"
#include "proto/region.pb.h"
#include "worker/data/dataset.h"
#include "worker/inner/buckets.h"
#include "worker/region/activity.h"
#include "worker/region/checkpoint_giver.h"
#include "worker/region/lane_joiner.h"
#include "worker/region/mending.h"
#include "worker/region/pushing.h"
#include "worker/sync/method.h"
#include "worker/trainer/trainer.h"

namespace atl {

class CopyRoom;

struct RegionWorkerOptions {
  std::string region;
  std::string run_dir;              // empty: runs/<job name>
  Endpoint wan_listen;              // host empty: the address that reaches the orchestrator
  bool wan_only_calls_out = false;  // no other region can call this one
  std::string wan_advertise;        // host that peers dial; empty: where we listen
  Endpoint orchestrator;
  std::string trainer_module;  // empty: the libtorch module
  std::string data_tokens;     // this site's copy of data.tokens; empty: the job's path
  // Where the key of checkpoints is had: a file, or a shell command; both empty: they lie in the
  // clear. No matter of the job: who gives one does not decide what runs here.
  std::string encryption_key, encryption_key_command;
  int local_rank = 0;  // among the region's workers on this host: which GPU
  std::function<bool()> stop_requested;
  // The region's ranks once more, for a thread of its own that writes checkpoints behind training;
  // outlives the worker. Null: saves stop training.
  Communicator* saves = nullptr;
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

  // Leader, any thread: the command that is the `number`-th given to Execute (1, 2, ...), under way
  // or yet to come, ends as soon as it can, on all ranks. Void once it is done.
  void Interrupt(int64_t number);

  // Any thread; with whom it waits for, since when, and what happens then.
  std::string doing() const { return activity_.Text(); }
  pb::PhaseSeconds phases() const;
  // The region's lines to the others, over all lanes. Those of other ranks' lanes are as they were
  // at the end of the last round. At most one a member of the view.
  std::vector<pb::WanLink> links() const;
  // Leader: regions that a lane of any rank waits for and does not hear; since how many seconds.
  std::map<std::string, double> silent() const;
  // Leader, any thread: saves that have ended since the last call, in the order of their commands.
  std::vector<pb::SaveEnded> TakeEndedSaves();
  // Leader, any thread: what the orchestrator says of replicas that differ (mending.h), in the
  // region's present view. An order without a root: say whether yours is right.
  void Mend(const pb::MendCheckpoint& order, const pb::View& view);
  // Leader, any thread: checkpoints that were mended or pushed since the last call, or could not
  // be.
  std::vector<pb::CheckpointTended> TakeTended();

 private:
  struct Replica;      // replica.h
  struct Following;    // replica.h
  struct LiveSlice;    // save.cc
  struct LiveSection;  // save.cc

  // What the ranks say together of something that all of them wait for.
  struct Agreement {
    bool done = false;
    bool interrupted = false;  // the leader's wish, or broken
    bool broken = false;
    std::string blames;
    bool gone = false;
    std::string what;
    Status failure;  // of this or another rank: nothing that another view would mend
  };

  Status Run(const pb::RegionCommand& command, pb::RegionAnswer* answer);
  Status SetUp(const pb::SetUp& command, pb::RegionAnswer* answer);
  Status OpenDataAndTrainer();
  Status MakeTrainer();
  Status TakeKey();
  Status ShareVectors();
  Status OpenGateway(pb::RegionAnswer* answer);
  // An error: there are some of another key than the job's, or without one.
  Status ListCheckpoints(pb::RegionAnswer* answer);
  Status CheckKeys(const std::vector<checkpoint::Found>& found) const;
  Status GiveCheckpoints();

  Status EnterView(const pb::View& view, pb::RegionAnswer* answer);
  Status MakeReplica(int lanes);
  Status KeepState(const pb::View& view);
  Status Load(const pb::View& view);
  StatusOr<std::unique_ptr<checkpoint::Checkpoint>> OpenToLoad(const std::string& path) const;
  Status LoadOwnSlices(const checkpoint::Checkpoint& checkpoint);
  Status LoadLaneVectors(const checkpoint::Checkpoint& checkpoint,
                         const std::vector<LaneVector>& vectors);
  Status LoadInnerState(const checkpoint::Checkpoint& checkpoint);

  Status PrepareView(const pb::View& view);
  Status SwitchView(const pb::SwitchView& command, pb::RegionAnswer* answer);
  StatusOr<std::vector<wan::Group>> OwnGroups(const pb::View& view) const;
  // Waits for the view that is being prepared, then leaves the former one.
  Status JoinPrepared(pb::RegionAnswer* answer);
  void TellWhoIsMissing(const pb::View& view);
  std::vector<pb::WanLink> OwnLinks() const;

  Status Train(const pb::TrainRound& command, pb::RegionAnswer* answer);
  // So many members as the command says have begun the reduction after these inner steps.
  StatusOr<bool> QuorumHasBegun(const pb::TrainRound& command);
  Status Reduce(const pb::ReduceRound& command, pb::RegionAnswer* answer);
  Status Commit(const pb::CommitRound& command, pb::RegionAnswer* answer);
  Status Evaluate(pb::RegionAnswer* answer);

  // An observer without state keeps what it hears; with `state_round` once it has caught up.
  Status BeginFollowing();
  void BeginFetch();
  Status CommitHeard(const pb::CommitRound& command, pb::RegionAnswer* answer);
  Status CatchUp(const std::string& copy);
  bool CopiesInnerState() const;
  // Full members: a copy of the outer state for observers, where the view asks for it; and the
  // memory for it, as soon as the view is known.
  int64_t CopiedElements(const pb::View& view, bool inner) const;
  void MakeRoom(const pb::View& view);
  Status ServeState();
  Status ServeCopy(const char* name, std::shared_ptr<CopyRoom> room, int64_t vectors,
                   int64_t updates,
                   const std::function<Status(int64_t i, std::span<float> out)>& copy);
  void StopServing();

  Status Save(const pb::SaveCheckpoint& command, pb::RegionAnswer* answer);
  std::vector<LiveSlice> TrainersSlices(Vector vector, bool concatenated) const;
  std::vector<LiveSection> LiveSections() const;
  checkpoint::SaveOptions SaveOptionsOf(const pb::SaveCheckpoint& command) const;
  Status Freeze(const std::vector<LiveSection>& sections, float* arena,
                checkpoint::SaveOptions* options);
  void PrepareSaves();
  // Rank 0 of the region that pushes: the checkpoint goes to checkpoint.push_to.
  void PushIfDue(const pb::View& view, const pb::SaveEnded& saved);
  static int64_t ElementsOf(const std::vector<LiveSection>& sections);
  StatusOr<float*> TakeArena(int64_t elements, std::string* why);
  std::vector<checkpoint::TensorSpec> TensorSpecs() const;
  std::vector<checkpoint::Slice> SlicesOf(const LaneVector& vector) const;
  std::string CheckpointDirectory(const std::string& region) const;
  std::string ModelText() const;

  bool Interrupted() const { return interrupt_.load() >= executed_; }
  // All ranks call it alike, again and again.
  StatusOr<Agreement> Agree(bool done, const Status& failure);
  // What a command that was given up or broken off answers.
  Status GivenUp(const Agreement& agreement, pb::RegionAnswer* answer);
  int MemberOf(const pb::View& view) const;
  bool Observes(const pb::View& view) const;
  void Doing(const std::string& text) { activity_.Begin(text); }
  std::vector<std::string> OtherRegions(const pb::View& view) const;

  const RegionWorkerOptions options_;
  Communicator* const control_;
  PhaseClock phases_;
  Activity activity_;

  pb::Job job_;
  pb::Model model_;                                       // resolved
  std::shared_ptr<const checkpoint::EncryptionKey> key_;  // of checkpoints; null: in the clear
  std::unique_ptr<Dataset> dataset_;
  Buffer parameters_, gradients_;  // the trainer's, where the region shares them
  std::unique_ptr<Trainer> trainer_;
  int device_ = -1;
  std::unique_ptr<wan::Engine> wan_;
  std::atomic<wan::Engine*> engine_ = nullptr;  // wan_, for other threads
  pb::View view_;                               // the present one; no id: none
  std::unique_ptr<Replica> replica_;
  bool has_state_ = false;
  int64_t state_round_ = 0;  // the outer state is the one after this round
  pb::View prepared_;
  std::unique_ptr<LaneJoiner> joiner_;  // of prepared_
  std::unique_ptr<Following> following_;
  bool serving_ = false;
  bool saves_prepared_ = false;
  int64_t executed_ = 0;  // commands, the one under way included
  std::atomic<int64_t> interrupt_ = 0;

  mutable Mutex mutex_;
  std::map<int, std::vector<pb::WanLink>> links_of_others_ ABSL_GUARDED_BY(mutex_);  // by rank
  std::map<std::string, double> silent_of_others_ ABSL_GUARDED_BY(mutex_);  // since, monotonic
  std::vector<pb::SaveEnded> ended_saves_ ABSL_GUARDED_BY(mutex_);

  // Their threads use what is above: last here, so that they end first.
  std::unique_ptr<checkpoint::BackgroundSaver> saver_;
  std::unique_ptr<Pushing> pushing_;  // rank 0, with checkpoint.push_to; else null
  Mending mending_;
  std::unique_ptr<CheckpointGiver> giver_;  // rank 0, where the job says so
};

}  // namespace atl
