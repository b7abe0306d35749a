#include "tests/worker/region_harness.h"

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/random.h"
#include "collectives/inprocess/inprocess.h"
#include "proto/job_file.h"
#include "proto/round_plan.h"
#include "worker/program/commands.h"

namespace atl {
namespace {

using Answers = std::vector<std::vector<pb::RegionAnswer>>;  // by region, by rank

// The same kind of command to all regions at once, as their leaders would give it.
Answers InAllRegions(std::vector<std::unique_ptr<HarnessRegion>>& regions,
                     const std::function<pb::RegionCommand(size_t region)>& command) {
  Answers answers(regions.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < regions.size(); ++i) {
    threads.emplace_back([&, i] { answers[i] = regions[i]->Do(command(i)); });
  }
  for (std::thread& thread : threads) thread.join();
  return answers;
}

std::string FirstError(const Answers& answers) {
  for (const auto& region : answers) {
    for (const auto& answer : region) {
      if (!answer.error().empty()) return answer.error();
    }
  }
  return "";
}

double MeanLoss(const Answers& answers) {
  double loss = 0;
  int64_t tokens = 0;
  for (const auto& region : answers) {
    for (const auto& answer : region) loss += answer.loss_sum(), tokens += answer.tokens();
  }
  return loss / static_cast<double>(tokens);
}

std::vector<std::string> Digests(const Answers& answers) {
  std::vector<std::string> digests;
  for (const auto& region : answers) {
    Digest sum;
    for (const auto& answer : region) sum.Add(*Digest::FromHex(answer.digest()));
    digests.push_back(sum.Hex());
  }
  return digests;
}

std::string RegionName(size_t index) { return absl::StrCat("region-", index); }

pb::View MakeView(const HarnessOptions& options, const Answers& set_up) {
  pb::View view;
  view.set_id(1);
  view.set_key(std::string(32, 'k'));
  view.set_lanes(*std::max_element(options.workers.begin(), options.workers.end()));
  const int64_t steps = InnerSteps(options.job);
  const auto shares = Shares(options.job.train().global_batch(), options.workers);
  CHECK(shares.ok()) << shares.status();
  for (size_t i = 0; i < options.workers.size(); ++i) {
    pb::Member* member = view.add_members();
    member->set_region(RegionName(i));
    member->set_workers(options.workers[i]);
    member->set_samples_per_step((*shares)[i]);
    for (int lane = 0; lane < view.lanes(); ++lane) {
      member->add_gateways(
          set_up[i][WorkerOfLane(lane, view.lanes(), options.workers[i])].gateway());
    }
  }
  view.set_first_round(options.first_round);
  view.set_first_sample((options.first_round - 1) * options.job.train().global_batch() * steps);
  view.set_inner_steps_done((options.first_round - 1) * steps);
  view.set_last_round(options.job.train().rounds());
  return view;
}

}  // namespace

HarnessRegion::HarnessRegion(const std::string& run_dir, const std::string& name, int workers)
    : name_(name) {
  communicators_ = MakeInProcessGroup(workers);
  saves_ = MakeInProcessGroup(workers);
  for (int rank = 0; rank < workers; ++rank) {
    RegionWorkerOptions worker;
    worker.region = name;
    worker.run_dir = run_dir;
    worker.wan_listen = Endpoint{"127.0.0.1", 0};
    worker.saves = saves_[rank].get();
    workers_.push_back(std::make_unique<RegionWorker>(worker, communicators_[rank].get()));
  }
  for (int rank = 1; rank < workers; ++rank) {
    threads_.emplace_back([this, rank] {
      const auto code = FollowLeader(*workers_[rank], *communicators_[rank], Abort);
      CHECK(code.ok()) << code.status();
    });
  }
}

HarnessRegion::~HarnessRegion() {
  pb::RegionCommand finish;
  finish.mutable_finish();
  Do(finish);
  for (std::thread& thread : threads_) thread.join();
}

std::vector<pb::RegionAnswer> HarnessRegion::Do(const pb::RegionCommand& command) {
  ++commands_;
  auto answers = RunCommand(command, *workers_[0], *communicators_[0], Abort);
  CHECK(answers.ok()) << answers.status();
  return *std::move(answers);
}

void HarnessRegion::Abort(const pb::RegionAnswer& answer) { LOG(FATAL) << answer.error(); }

HarnessResult RunRegions(const HarnessOptions& options) {
  HarnessResult result;
  std::vector<std::unique_ptr<HarnessRegion>> regions;
  for (size_t i = 0; i < options.workers.size(); ++i) {
    regions.push_back(
        std::make_unique<HarnessRegion>(options.run_dir, RegionName(i), options.workers[i]));
  }
  const auto all = [&](const std::function<void(pb::RegionCommand&, size_t)>& fill) {
    Answers answers = InAllRegions(regions, [&](size_t region) {
      pb::RegionCommand command;
      fill(command, region);
      return command;
    });
    if (result.error.empty()) result.error = FirstError(answers);
    return answers;
  };
  const auto evaluate = [&] {
    result.validation.push_back(
        MeanLoss(all([](pb::RegionCommand& c, size_t) { c.mutable_evaluate(); })));
  };
  const Answers set_up =
      all([&](pb::RegionCommand& c, size_t) { *c.mutable_set_up()->mutable_job() = options.job; });
  if (!result.error.empty()) return result;
  const pb::View view = MakeView(options, set_up);
  const int64_t sequence = options.job.data().sequence_length();
  int64_t steps = InnerSteps(options.job), tokens = 0;
  const auto plan_of = [&](size_t i, int64_t round) {
    return PlanRound(view, options.job, static_cast<int>(i), round);
  };
  const Answers entered = all([&](pb::RegionCommand& c, size_t i) {
    *c.mutable_enter_view()->mutable_view() = view;
    if (options.checkpoint_of_round.empty()) return;
    c.mutable_enter_view()->mutable_view()->set_checkpoint(absl::StrCat(
        options.run_dir, "/", RegionName(i), "/checkpoints/", options.checkpoint_of_round));
    c.mutable_enter_view()->mutable_view()->set_checkpoint_own(true);
  });
  if (!result.error.empty()) return result;
  for (const auto& region : entered) {
    result.optimizer_bytes.emplace_back();
    for (const auto& answer : region)
      result.optimizer_bytes.back().push_back(answer.optimizer_bytes());
  }
  evaluate();
  for (int64_t round = view.first_round(); round <= view.last_round() && result.error.empty();
       ++round) {
    const Answers trained = all([&](pb::RegionCommand& c, size_t i) {
      c.mutable_train()->set_round(round);
      c.mutable_train()->set_steps(steps);
      const Range samples = plan_of(i, round).region_samples;
      pb::SampleRange* range = c.mutable_train()->add_samples();
      range->set_begin(samples.begin);
      range->set_end(samples.end);
    });
    result.losses.push_back(MeanLoss(trained));
    const int64_t expected = plan_of(0, round).job_samples.size() * sequence;
    tokens = 0;
    for (const auto& region : trained) {
      for (const auto& answer : region) tokens += answer.tokens();
    }
    all([&](pb::RegionCommand& c, size_t i) {
      c.mutable_reduce()->set_round(round);
      c.mutable_reduce()->set_position(round);
      c.mutable_reduce()->set_expected_tokens(expected);
      int64_t own = 0;
      for (const auto& answer : trained[i]) own += answer.tokens();
      c.mutable_reduce()->mutable_note()->set_tokens(own);
    });
    if (!result.error.empty()) break;
    const Answers committed = all([&](pb::RegionCommand& c, size_t) {
      c.mutable_commit()->set_round(round);
      c.mutable_commit()->set_tokens(tokens);
      c.mutable_commit()->set_expected_tokens(expected);
    });
    result.digests.push_back(Digests(committed));
    if (options.job.checkpoint().every() > 0 && round % options.job.checkpoint().every() == 0) {
      all([&](pb::RegionCommand& c, size_t i) {
        c.mutable_save()->set_round(round);
        c.mutable_save()->set_digest(result.digests.back()[i]);
        c.mutable_save()->set_next_sample(plan_of(i, round).job_samples.end);
      });
    }
  }
  evaluate();
  return result;
}

pb::Job SmallJob(const std::string& directory) {
  const std::string path = directory + "/tokens.bin";
  auto writer = TokenFileWriter::Create(path, "bytes", 256);
  CHECK(writer.ok()) << writer.status();
  // Text-like: a Markov chain over 40 symbols, so that there is something to learn.
  const CounterRandom random(3);
  std::vector<int32_t> tokens(200000);
  int32_t state = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    state = (state * 7 + static_cast<int32_t>(random.Bits(i) % 3)) % 40;
    tokens[i] = 48 + state;
  }
  CHECK((*writer)->Append(tokens).ok());
  CHECK((*writer)->Finish().ok());
  auto job = ParseJob(absl::StrFormat(R"(name: small
seed: 5
model: {preset: test-1m, hidden_size: 64, intermediate_size: 128, layers: 2, heads: 4, kv_heads: 2}
data: {tokens: "%s", sequence_length: 32}
train: {rounds: 4, inner_steps: 3, global_batch: 6, micro_batch: 2, learning_rate: 3e-3,
        warmup_steps: 2, bucket_bytes: 64KiB}
checkpoint: {every: 0}
)",
                                      path),
                      "small", directory, {});
  CHECK(job.ok()) << job.status();
  return *std::move(job);
}

}  // namespace atl
