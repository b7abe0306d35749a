// Which samples a region trains on in a round: pure arithmetic on the view, so that the
// orchestrator and every region know it without asking one another (P3).
//
// A round takes n_j * h_j samples for each full member j: n_j its samples a step, h_j its inner
// steps (train.inner_steps unless the view says another number; 1 with sync.method every_step). The
// n_j sum to global_batch.
//
// A view's samples are a stream: first what was returned (View.returned), then first_sample and all
// that follow. Places in the stream are numbered so that from first_sample on a place is the
// sample's own number. Each round takes the next places, the members cut them in their order: no
// sample is skipped, none given twice. Where the view is `carried`, its first round takes
// first_samples instead, and the stream begins with the round after.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "proto/control.pb.h"
#include "proto/job.pb.h"
#include "proto/sample_pool.h"

namespace atl {

struct RoundPlan {
  int64_t round = 0;
  // Places in the stream: of all regions in this round, and the member's part. Where nothing was
  // returned they are the samples' numbers. In a carried first round: places before the stream.
  Range job_samples;
  Range region_samples;
  int64_t samples_per_step = 0;  // of the member
  int64_t inner_steps = 0;
  std::vector<Range> samples;  // of the member, in the order of training
};

// Optimizer steps of a region in a round (H).
int64_t InnerSteps(const pb::Job& job);

// The same of one full member.
int64_t InnerSteps(const pb::Job& job, const pb::Member& member);

// `member` is the place in view.members; `round` lies in [first_round, last_round]. The view has
// passed CheckView.
RoundPlan PlanRound(const pb::View& view, const pb::Job& job, int member, int64_t round);

// Samples of a member in a round, without saying which: its whole part of the plan.
int64_t PlannedSamples(const pb::View& view, const pb::Job& job, int member, int64_t round);
// The same over all members.
int64_t PlannedSamples(const pb::View& view, const pb::Job& job, int64_t round);

// What nobody has after `round` (first_round - 1: before the view's first), if every member
// contributed fully but those in `short_contributions`, which are of that round.
using ShortContributions = google::protobuf::RepeatedPtrField<pb::ShortContribution>;
SamplePool PoolAfter(const pb::View& view, const pb::Job& job, int64_t round,
                     const ShortContributions& short_contributions = {});

// The same where members contributed less in several rounds of the view: of what the plan gave the
// member for the round, the first `samples` are in some result.
struct PartOfRound {
  int64_t round = 0;
  std::string region;
  int64_t samples = 0;
};
SamplePool PoolAfterParts(const pb::View& view, const pb::Job& job, int64_t round,
                          const std::vector<PartOfRound>& parts);

// Fills in a planned view: it follows `before` after the round `edge`, whose state has `digest`;
// nobody has `pool`.
pb::View ContinueView(const pb::View& planned, const pb::View& before, const pb::Job& job,
                      int64_t edge, const std::string& digest, const SamplePool& pool);

// The member's place in the view; -1: none.
int MemberOf(const pb::View& view, const std::string& region);
inline bool IsFull(const pb::Member& member) { return member.role() == pb::Member::FULL; }

// Who writes checkpoints: the first full members of the view, as many as checkpoint.replicas says.
int64_t CheckpointWriters(const pb::View& view, const pb::Job& job);
bool WritesCheckpoints(const pb::View& view, const pb::Job& job, const std::string& region);

// Samples a step of each region: global_batch in proportion to workers, rounded down; what is left
// goes one each to regions that would have none, then to the first ones. More regions than samples
// is an error with exit code 2.
StatusOr<std::vector<int64_t>> Shares(int64_t global_batch, const std::vector<int>& workers);

// Which worker of a region carries lane `lane` of `lanes`: the w with lane in
// [w lanes / workers, (w + 1) lanes / workers).
int WorkerOfLane(int lane, int lanes, int workers);

// A view as it comes over the wire, absolute or planned: members, shares, gateways and numbers fit
// one another and the job, and no sample number overflows. Errors are kInvalidArgument and say
// which rule was broken.
Status CheckView(const pb::View& view, const pb::Job& job);

}  // namespace atl
