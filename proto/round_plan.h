// Which samples a region trains on in a round: pure arithmetic on the view, so that the
// orchestrator and every region know it without asking one another (P3).
//
// A round takes global_batch * H samples, H = train.inner_steps (1 with sync.method every_step).
// Round r of a view covers the job's samples
//     [first_sample + (r - first_round) * global_batch * H, + global_batch * H),
// and the members cut that range in their order: member j, with n_j samples a step, gets n_j * H of
// it. The n_j sum to global_batch, so that no sample is skipped and none is given twice.
#pragma once

#include <cstdint>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "proto/control.pb.h"
#include "proto/job.pb.h"

namespace atl {

struct RoundPlan {
  int64_t round = 0;
  Range job_samples;             // of all regions in this round
  Range region_samples;          // the member's part of it
  int64_t samples_per_step = 0;  // of the member
  int64_t inner_steps = 0;
};

// Optimizer steps of a region in a round (H).
int64_t InnerSteps(const pb::Job& job);

// `member` is the place in view.members; `round` lies in [first_round, last_round]. The view has
// passed CheckView.
RoundPlan PlanRound(const pb::View& view, const pb::Job& job, int member, int64_t round);

// Samples a step of each region: global_batch in proportion to workers, rounded down; what is left
// goes one each to regions that would have none, then to the first ones. More regions than samples
// is an error with exit code 2.
StatusOr<std::vector<int64_t>> Shares(int64_t global_batch, const std::vector<int>& workers);

// Which worker of a region carries lane `lane` of `lanes`: the w with lane in
// [w lanes / workers, (w + 1) lanes / workers).
int WorkerOfLane(int lane, int lanes, int workers);

// A view as it comes over the wire: members, shares, gateways and numbers fit one another and the
// job, and no sample number overflows. Errors are kInvalidArgument and say which rule was broken.
Status CheckView(const pb::View& view, const pb::Job& job);

}  // namespace atl
