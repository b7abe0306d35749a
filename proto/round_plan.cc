#include "proto/round_plan.h"

#include <limits>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"

namespace atl {

int64_t InnerSteps(const pb::Job& job) {
  return job.sync().method() == pb::Sync::EVERY_STEP ? 1 : job.train().inner_steps();
}

RoundPlan PlanRound(const pb::View& view, const pb::Job& job, int member, int64_t round) {
  CHECK(member >= 0 && member < view.members_size()) << "no member " << member;
  CHECK(round >= view.first_round() && round <= view.last_round()) << "round " << round;
  const int64_t steps = InnerSteps(job);
  const int64_t job_size = job.train().global_batch() * steps;
  RoundPlan plan;
  plan.round = round;
  plan.inner_steps = steps;
  plan.samples_per_step = view.members(member).samples_per_step();
  plan.job_samples.begin = view.first_sample() + (round - view.first_round()) * job_size;
  plan.job_samples.end = plan.job_samples.begin + job_size;
  plan.region_samples.begin = plan.job_samples.begin;
  for (int before = 0; before < member; ++before) {
    plan.region_samples.begin += view.members(before).samples_per_step() * steps;
  }
  plan.region_samples.end = plan.region_samples.begin + plan.samples_per_step * steps;
  return plan;
}

StatusOr<std::vector<int64_t>> Shares(int64_t global_batch, const std::vector<int>& workers) {
  const int64_t regions = static_cast<int64_t>(workers.size());
  if (regions == 0) return UsageError("no region to share the global batch among");
  if (global_batch < regions) {
    return UsageError(absl::StrCat("train.global_batch is ", global_batch, ", but ", regions,
                                   " regions need at least one sample a step each: raise it to ",
                                   regions, " or more"));
  }
  int64_t total = 0;
  for (const int count : workers) {
    CHECK_GT(count, 0);
    total += count;
  }
  std::vector<int64_t> shares;
  int64_t left = global_batch;
  for (const int count : workers) {
    // In 128 bits: both factors may be large.
    shares.push_back(static_cast<int64_t>(static_cast<__int128>(global_batch) * count / total));
    left -= shares.back();
  }
  for (int64_t& share : shares) {
    if (share == 0 && left > 0) ++share, --left;
  }
  for (size_t i = 0; left > 0; i = (i + 1) % shares.size()) ++shares[i], --left;
  // Regions that got nothing although there are samples enough take from the largest.
  for (int64_t& share : shares) {
    while (share == 0) {
      int64_t* largest = &shares[0];
      for (int64_t& other : shares) {
        if (other > *largest) largest = &other;
      }
      --*largest, ++share;
    }
  }
  return shares;
}

int WorkerOfLane(int lane, int lanes, int workers) {
  CHECK(lane >= 0 && lane < lanes && workers > 0);
  // The largest w with w * lanes / workers <= lane.
  const int64_t product = (static_cast<int64_t>(lane) + 1) * workers;
  return static_cast<int>((product + lanes - 1) / lanes - 1);
}

Status CheckView(const pb::View& view, const pb::Job& job) {
  const auto broken = [&](const std::string& rule) {
    return absl::InvalidArgumentError(absl::StrCat("view ", view.id(), ": ", rule));
  };
  if (view.id() < 1) return broken("numbers start at 1");
  if (view.members_size() < 1) return broken("no members");
  if (view.lanes() < 1 || view.lanes() > 65536) {
    return broken(absl::StrCat(view.lanes(), " lanes; 1 to 65536 are possible"));
  }
  if (view.key().size() != 32) return broken("its key is not 32 bytes long");
  if (view.first_round() < 1 || view.last_round() < view.first_round()) {
    return broken(absl::StrCat("rounds ", view.first_round(), " to ", view.last_round()));
  }
  if (view.first_sample() < 0 || view.inner_steps_done() < 0) return broken("negative position");
  std::set<std::string> names;
  int64_t samples = 0;
  for (const pb::Member& member : view.members()) {
    if (member.region().empty() || !names.insert(member.region()).second) {
      return broken(absl::StrCat("member '", member.region(), "' is there twice or has no name"));
    }
    if (member.workers() < 1) return broken(member.region() + " has no worker");
    if (member.gateways_size() != view.lanes()) {
      return broken(absl::StrCat(member.region(), " has ", member.gateways_size(), " gateways for ",
                                 view.lanes(), " lanes"));
    }
    if (member.samples_per_step() < 1 || member.samples_per_step() > job.train().global_batch()) {
      return broken(
          absl::StrCat(member.region(), " has ", member.samples_per_step(), " samples a step"));
    }
    samples += member.samples_per_step();
  }
  if (samples != job.train().global_batch()) {
    return broken(absl::StrCat("shares sum to ", samples, ", train.global_batch is ",
                               job.train().global_batch()));
  }
  const __int128 end = static_cast<__int128>(view.last_round() - view.first_round() + 1) *
                           job.train().global_batch() * InnerSteps(job) +
                       view.first_sample();
  const __int128 steps =
      static_cast<__int128>(view.last_round() - view.first_round() + 1) * InnerSteps(job) +
      view.inner_steps_done();
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max() / 2;
  if (end > kLargest || steps > kLargest) {
    return broken("more samples than can be numbered: train.rounds is too large");
  }
  return OkStatus();
}

}  // namespace atl
