#include "proto/round_plan.h"

#include <algorithm>
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

int64_t InnerSteps(const pb::Job& job, const pb::Member& member) {
  return member.inner_steps() > 0 ? member.inner_steps() : InnerSteps(job);
}

namespace {

int64_t StepsOf(const pb::Member& member, int64_t job_steps) {
  return member.inner_steps() > 0 ? member.inner_steps() : job_steps;
}

// Samples of a member in a round that the stream gives.
int64_t ShareOfRound(const pb::Member& member, int64_t job_steps) {
  return IsFull(member) ? member.samples_per_step() * StepsOf(member, job_steps) : 0;
}

int64_t StreamBegin(const pb::View& view) {
  int64_t begin = view.first_sample();
  for (const pb::SampleRange& range : view.returned()) begin -= range.end() - range.begin();
  return begin;
}

std::vector<Range> SamplesAt(const pb::View& view, Range places) {
  std::vector<Range> samples;
  int64_t at = StreamBegin(view);
  const auto take = [&](int64_t first, int64_t size) {
    const int64_t begin = std::max(places.begin, at);
    const int64_t end = std::min(places.end, at + size);
    if (begin < end) samples.push_back({first + begin - at, first + end - at});
    at += size;
  };
  for (const pb::SampleRange& range : view.returned()) {
    take(range.begin(), range.end() - range.begin());
  }
  if (places.end > at) take(at, places.end - at);
  return samples;
}

RoundPlan PlanCarriedRound(const pb::View& view, int member) {
  RoundPlan plan;
  plan.round = view.first_round();
  int64_t total = 0;
  for (int i = 0; i < view.members_size(); ++i) {
    const std::vector<Range> samples = FromProto(view.members(i).first_samples());
    if (i == member) plan.region_samples = {total, total + SizeOf(samples)};
    total += SizeOf(samples);
    if (i == member) plan.samples = samples;
  }
  const int64_t begin = StreamBegin(view) - total;
  plan.job_samples = {begin, begin + total};
  plan.region_samples.begin += begin;
  plan.region_samples.end += begin;
  plan.inner_steps = view.members(member).first_steps();
  plan.samples_per_step = plan.inner_steps > 0 ? plan.region_samples.size() / plan.inner_steps : 0;
  return plan;
}

}  // namespace

int MemberOf(const pb::View& view, const std::string& region) {
  for (int member = 0; member < view.members_size(); ++member) {
    if (view.members(member).region() == region) return member;
  }
  return -1;
}

int64_t CheckpointWriters(const pb::View& view, const pb::Job& job) {
  const int64_t full = std::count_if(view.members().begin(), view.members().end(), IsFull);
  const int64_t replicas = job.checkpoint().replicas();
  return replicas > 0 ? std::min(replicas, full) : full;
}

bool WritesCheckpoints(const pb::View& view, const pb::Job& job, const std::string& region) {
  int64_t writers = CheckpointWriters(view, job);
  for (const pb::Member& member : view.members()) {
    if (!IsFull(member)) continue;
    if (writers-- == 0) return false;
    if (member.region() == region) return true;
  }
  return false;
}

RoundPlan PlanRound(const pb::View& view, const pb::Job& job, int member, int64_t round) {
  CHECK(member >= 0 && member < view.members_size()) << "no member " << member;
  CHECK(round >= view.first_round() && round <= view.last_round()) << "round " << round;
  if (view.carried() && round == view.first_round()) return PlanCarriedRound(view, member);
  const int64_t steps = InnerSteps(job);
  int64_t job_size = 0;
  int64_t before = 0;
  for (int i = 0; i < view.members_size(); ++i) {
    if (i == member) before = job_size;
    job_size += ShareOfRound(view.members(i), steps);
  }
  RoundPlan plan;
  plan.round = round;
  const pb::Member& self = view.members(member);
  plan.inner_steps = IsFull(self) ? StepsOf(self, steps) : 0;
  plan.samples_per_step = IsFull(self) ? self.samples_per_step() : 0;
  const int64_t rounds_before = round - view.first_round() - (view.carried() ? 1 : 0);
  plan.job_samples.begin = StreamBegin(view) + rounds_before * job_size;
  plan.job_samples.end = plan.job_samples.begin + job_size;
  plan.region_samples.begin = plan.job_samples.begin + before;
  plan.region_samples.end = plan.region_samples.begin + ShareOfRound(self, steps);
  plan.samples = SamplesAt(view, plan.region_samples);
  return plan;
}

int64_t PlannedSamples(const pb::View& view, const pb::Job& job, int member, int64_t round) {
  const pb::Member& one = view.members(member);
  if (!view.carried() || round != view.first_round()) return ShareOfRound(one, InnerSteps(job));
  int64_t size = 0;
  for (const pb::SampleRange& range : one.first_samples()) size += range.end() - range.begin();
  return size;
}

int64_t PlannedSamples(const pb::View& view, const pb::Job& job, int64_t round) {
  int64_t size = 0;
  for (int i = 0; i < view.members_size(); ++i) size += PlannedSamples(view, job, i, round);
  return size;
}

SamplePool PoolAfter(const pb::View& view, const pb::Job& job, int64_t round,
                     const ShortContributions& short_contributions) {
  std::vector<PartOfRound> parts;
  for (const pb::ShortContribution& one : short_contributions) {
    parts.push_back({round, one.region(), one.samples()});
  }
  return PoolAfterParts(view, job, round, parts);
}

SamplePool PoolAfterParts(const pb::View& view, const pb::Job& job, int64_t round,
                          const std::vector<PartOfRound>& parts) {
  SamplePool pool(FromProto(view.returned()), view.first_sample());
  const int64_t rounds = round - view.first_round() + 1;
  if (rounds <= 0) {
    if (!view.carried()) return pool;
    for (const pb::Member& member : view.members()) {
      for (const Range& range : FromProto(member.first_samples())) pool.Return(range);
    }
    return pool;
  }
  int64_t job_size = 0;
  for (const pb::Member& member : view.members()) {
    job_size += ShareOfRound(member, InnerSteps(job));
  }
  pool.Take((rounds - (view.carried() ? 1 : 0)) * job_size);
  for (const PartOfRound& one : parts) {
    const int member = MemberOf(view, one.region);
    if (member < 0 || one.round > round) continue;
    const RoundPlan plan = PlanRound(view, job, member, one.round);
    for (const Range& range : Suffix(plan.samples, one.samples)) pool.Return(range);
  }
  return pool;
}

pb::View ContinueView(const pb::View& planned, const pb::View& before, const pb::Job& job,
                      int64_t edge, const std::string& digest, const SamplePool& pool) {
  pb::View view = planned;
  view.set_first_round(edge + 1);
  view.set_first_sample(pool.next());
  ToProto(pool.returned(), view.mutable_returned());
  view.set_inner_steps_done(before.inner_steps_done() +
                            (edge - before.first_round() + 1) * InnerSteps(job));
  view.set_last_round(before.last_round());
  view.set_digest(digest);
  return view;
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

namespace {

// Ranges are in order, do not overlap and lie before first_sample.
Status CheckRanges(const pb::View& view) {
  std::vector<Range> all = FromProto(view.returned());
  for (const pb::Member& member : view.members()) {
    const std::vector<Range> first = FromProto(member.first_samples());
    if (!first.empty() && (!view.carried() || member.first_steps() < 1 ||
                           SizeOf(first) % member.first_steps() != 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("view ", view.id(), ": the first round of ", member.region()));
    }
    all.insert(all.end(), first.begin(), first.end());
  }
  std::sort(all.begin(), all.end(),
            [](const Range& one, const Range& two) { return one.begin < two.begin; });
  int64_t end = 0;
  for (const Range& range : all) {
    if (range.begin < end || range.empty() || range.end > view.first_sample()) {
      return absl::InvalidArgumentError(absl::StrCat("view ", view.id(), ": samples ", range.begin,
                                                     " to ", range.end, " twice or too far"));
    }
    end = range.end;
  }
  return OkStatus();
}

}  // namespace

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
  const bool planned = view.after() > 0 && view.first_round() == 0;
  if (!planned) {
    // After a fence the last round may be over.
    const int64_t rounds = view.last_round() - view.first_round() + 1;
    if (view.first_round() < 1 || rounds < (view.carried() ? 0 : 1)) {
      return broken(absl::StrCat("rounds ", view.first_round(), " to ", view.last_round()));
    }
    if (view.take_round() > 0 &&
        (view.take_round() != view.first_round() - 1 || MemberOf(view, view.take_from()) < 0)) {
      return broken(absl::StrCat("takes round ", view.take_round(), " from ", view.take_from()));
    }
  }
  RETURN_IF_ERROR(CheckRanges(view));
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
    if (!IsFull(member)) continue;
    if (member.inner_steps() < 0 || member.inner_steps() > InnerSteps(job) ||
        member.samples_per_step() < 1 || member.samples_per_step() > job.train().global_batch()) {
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
