// The commands of views that change, on real engines over loopback: the test plays the leaders and
// the orchestrator (docs/protocols/membership.md). Regions of one and of two workers, so that ranks
// have to agree.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "proto/round_plan.h"
#include "tests/worker/region_harness.h"

namespace atl {
namespace {

using Command = pb::RegionCommand;
using Answers = std::vector<pb::RegionAnswer>;

// A member as the tests say it: who, and whether it trains.
struct Part {
  HarnessRegion* region = nullptr;
  bool full = true;
};

// Empty: an observer that has no state yet.
std::string DigestOf(const Answers& answers) {
  if (answers[0].digest().empty()) return "";
  Digest sum;
  for (const auto& answer : answers) sum.Add(*Digest::FromHex(answer.digest()));
  return sum.Hex();
}

class ChangingViews : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/changing_views_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    job_ = SmallJob(directory_);
    job_.mutable_train()->set_rounds(100);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<HarnessRegion> Start(const std::string& name, int workers) {
    auto region = std::make_unique<HarnessRegion>(directory_, name, workers);
    Command command;
    *command.mutable_set_up()->mutable_job() = job_;
    gateways_[name].clear();
    for (const auto& answer : Well(region->Do(command)))
      gateways_[name].push_back(answer.gateway());
    return region;
  }

  static Answers Well(Answers answers) {
    for (const auto& answer : answers) EXPECT_EQ(answer.error(), "");
    return answers;
  }

  // The same command to all parts at once; the answers by part.
  static std::vector<Answers> All(const std::vector<Part>& parts,
                                  const std::function<Command(const Part&)>& make) {
    std::vector<Answers> answers(parts.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < parts.size(); ++i) {
      threads.emplace_back([&, i] { answers[i] = parts[i].region->Do(make(parts[i])); });
    }
    for (std::thread& thread : threads) thread.join();
    return answers;
  }

  pb::View MakeView(const std::vector<Part>& parts, int64_t first_round) {
    pb::View view;
    view.set_id(++views_);
    view.set_key(std::string(32, static_cast<char>('a' + views_)));
    view.set_lanes(2);
    for (const Part& part : parts) {
      pb::Member* member = view.add_members();
      member->set_region(part.region->name());
      member->set_workers(part.region->workers());
      member->set_role(part.full ? pb::Member::FULL : pb::Member::OBSERVER);
      member->set_samples_per_step(part.full ? 2 : 0);
      const auto& gateways = gateways_.at(part.region->name());
      for (int lane = 0; lane < view.lanes(); ++lane) {
        member->add_gateways(gateways[WorkerOfLane(lane, view.lanes(), part.region->workers())]);
      }
    }
    view.set_first_round(first_round);
    view.set_last_round(job_.train().rounds());
    view.set_inner_steps_done((first_round - 1) * kSteps);
    return view;
  }

  void Enter(const std::vector<Part>& parts, const pb::View& view) {
    for (const auto& answers : All(parts, [&](const Part&) {
           Command command;
           *command.mutable_enter_view()->mutable_view() = view;
           return command;
         })) {
      Well(answers);
    }
  }

  static Command Switch(const pb::View& view) {
    Command command;
    *command.mutable_switch_view()->mutable_view() = view;
    return command;
  }

  // Steps [first, steps) of a round on samples that follow from round and region.
  Command Train(const Part& part, int64_t round, int64_t first = 0, int64_t steps = kSteps) {
    Command command;
    command.mutable_train()->set_round(round);
    command.mutable_train()->set_first_step(first);
    command.mutable_train()->set_steps(steps);
    const int64_t place = std::distance(gateways_.begin(), gateways_.find(part.region->name()));
    pb::SampleRange* samples = command.mutable_train()->add_samples();
    samples->set_begin(round * 100 + place * 2 * kSteps);
    samples->set_end(samples->begin() + 2 * steps);
    return command;
  }

  Command Reduce(const Part& part, int64_t round, int64_t position, int64_t members,
                 pb::ReduceRound::Mode mode = pb::ReduceRound::CONTRIBUTE) {
    Command command;
    pb::ReduceRound* reduce = command.mutable_reduce();
    reduce->set_round(round);
    reduce->set_position(position);
    reduce->set_mode(part.full ? mode : pb::ReduceRound::OBSERVE);
    if (reduce->mode() == pb::ReduceRound::CONTRIBUTE) {
      reduce->mutable_note()->set_tokens(2 * kSteps * kSequence);
      reduce->set_expected_tokens(members * 2 * kSteps * kSequence);
    }
    reduce->mutable_note()->set_round(round);
    return command;
  }

  static Command Commit(int64_t round, int64_t members) {
    Command command;
    command.mutable_commit()->set_round(round);
    command.mutable_commit()->set_tokens(members * 2 * kSteps * kSequence);
    command.mutable_commit()->set_expected_tokens(members * 2 * kSteps * kSequence);
    return command;
  }

  static int64_t Full(const std::vector<Part>& parts) {
    return std::count_if(parts.begin(), parts.end(), [](const Part& part) { return part.full; });
  }

  // A whole round; the digests by part.
  std::vector<std::string> Round(const std::vector<Part>& parts, int64_t round, int64_t position) {
    std::vector<Part> full;
    for (const Part& part : parts) {
      if (part.full) full.push_back(part);
    }
    for (const auto& answers : All(full, [&](const Part& part) { return Train(part, round); })) {
      Well(answers);
    }
    const int64_t members = Full(parts);
    for (const auto& answers :
         All(parts, [&](const Part& p) { return Reduce(p, round, position, members); })) {
      Well(answers);
    }
    committed_ = All(parts, [&](const Part&) { return Commit(round, members); });
    std::vector<std::string> digests;
    for (const auto& answers : committed_) digests.push_back(DigestOf(Well(answers)));
    return digests;
  }

  std::vector<std::string> LateRound(int64_t steps_before, bool contributes);

  // Saves a checkpoint; the bytes of both moments in it, as whole tensors.
  std::string Saved(HarnessRegion* region, int64_t round, const std::string& digest) {
    Command command;
    command.mutable_save()->set_round(round);
    command.mutable_save()->set_digest(digest);
    command.mutable_save()->set_wait(true);
    const Answers answers = Well(region->Do(command));
    std::map<std::string, std::string> files;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(answers[0].path() + "/optim")) {
      if (entry.path().extension() != ".safetensors") continue;
      files[entry.path().filename()] = *ReadFile(entry.path(), int64_t{64} << 20);
    }
    EXPECT_EQ(files.size(), 2) << answers[0].path();
    std::string all;
    for (const auto& [name, bytes] : files) all += bytes;
    return all;
  }

  static void ExpectEqual(const std::vector<std::string>& digests) {
    for (const std::string& digest : digests) EXPECT_EQ(digest, digests[0]);
  }

  static constexpr int64_t kSteps = 3;
  static constexpr int64_t kSequence = 32;
  std::string directory_;
  pb::Job job_;
  std::map<std::string, std::vector<std::string>> gateways_;
  int64_t views_ = 0;
  std::vector<Answers> committed_;
};

TEST_F(ChangingViews, ARegionThatDiesInARoundIsBlamedAndTheOthersReduceItAgain) {
  auto johor = Start("johor", 2), oslo = Start("oslo", 1), batam = Start("batam", 1);
  std::vector<Part> all = {{johor.get()}, {oslo.get()}, {batam.get()}};
  Enter(all, MakeView(all, 1));
  ExpectEqual(Round(all, 1, 1));
  batam.reset();
  const std::vector<Part> rest = {{johor.get()}, {oslo.get()}};
  All(rest, [&](const Part& part) { return Train(part, 2); });
  for (const auto& answers : All(rest, [&](const Part& part) { return Reduce(part, 2, 2, 3); })) {
    for (const auto& answer : answers) {
      EXPECT_TRUE(answer.interrupted()) << answer.error();
      EXPECT_EQ(answer.blames(), "batam");
    }
  }
  const pb::View view = MakeView(rest, 2);
  for (const auto& answers : All(rest, [&](const Part&) { return Switch(view); })) Well(answers);
  for (const auto& answers : All(rest, [&](const Part& p) { return Reduce(p, 2, 1, 2); })) {
    Well(answers);
  }
  std::vector<std::string> digests;
  for (const auto& answers : All(rest, [&](const Part&) { return Commit(2, 2); })) {
    digests.push_back(DigestOf(Well(answers)));
  }
  ExpectEqual(digests);
  ExpectEqual(Round(rest, 3, 2));
}

TEST_F(ChangingViews, AResultIsHandedOnBitForBitWhateverTheCodec) {
  for (const auto codec : {pb::Sync::FP32, pb::Sync::INT4}) {
    job_.mutable_sync()->set_codec(codec);
    auto johor = Start("johor", 2), oslo = Start("oslo", 1), batam = Start("batam", 1);
    const std::vector<Part> all = {{johor.get()}, {oslo.get()}, {batam.get()}};
    Enter(all, MakeView(all, 1));
    Round(all, 1, 1);
    // All have heard round 2; johor and batam commit it, oslo does not.
    All(all, [&](const Part& part) { return Train(part, 2); });
    for (const auto& answers : All(all, [&](const Part& p) { return Reduce(p, 2, 2, 3); })) {
      Well(answers);
    }
    const std::string digest = DigestOf(Well(johor->Do(Commit(2, 3))));
    Well(johor->Do(Train({johor.get()}, 3)));
    Well(batam->Do(Commit(2, 3)));
    const pb::View view = MakeView(all, 3);
    for (const auto& answers : All(all, [&](const Part&) { return Switch(view); })) Well(answers);
    const auto mode = [&](const Part& part) {
      return part.region == johor.get()  ? pb::ReduceRound::GIVE
             : part.region == oslo.get() ? pb::ReduceRound::TAKE
                                         : pb::ReduceRound::PASS;
    };
    for (const auto& answers :
         All(all, [&](const Part& p) { return Reduce(p, 2, 1, 3, mode(p)); })) {
      Well(answers);
    }
    EXPECT_EQ(DigestOf(Well(oslo->Do(Commit(2, 3)))), digest);
    // What johor has trained meanwhile is its contribution.
    Well(oslo->Do(Train({oslo.get()}, 3)));
    Well(batam->Do(Train({batam.get()}, 3)));
    for (const auto& answers : All(all, [&](const Part& p) { return Reduce(p, 3, 2, 3); })) {
      Well(answers);
    }
    std::vector<std::string> digests;
    for (const auto& answers : All(all, [&](const Part&) { return Commit(3, 3); })) {
      digests.push_back(DigestOf(Well(answers)));
    }
    ExpectEqual(digests);
  }
}

TEST_F(ChangingViews, ARegionJoinsByObservingAndThenHoldsTheSameBits) {
  for (const auto method : {pb::Sync::DILOCO, pb::Sync::EVERY_STEP}) {
    job_.mutable_sync()->set_method(method);
    auto johor = Start("johor", 1), oslo = Start("oslo", 2);
    std::vector<Part> present = {{johor.get()}, {oslo.get()}};
    Enter(present, MakeView(present, 1));
    Round(present, 1, 1);
    auto batam = Start("batam", 2);
    const std::vector<Part> joining = {{johor.get()}, {oslo.get()}, {batam.get(), false}};
    const pb::View planned = MakeView(joining, 3);
    for (const auto& answers : All(present, [&](const Part&) {
           Command command;
           *command.mutable_prepare_view()->mutable_view() = planned;
           return command;
         })) {
      Well(answers);
    }
    pb::View for_observer = planned;
    for_observer.set_first_round(0);
    std::thread observer([&] { Well(batam->Do(Switch(for_observer))); });
    // Rounds go on until all are connected.
    ExpectEqual(Round(present, 2, 2));
    for (const auto& answers : All(present, [&](const Part&) { return Switch(planned); })) {
      for (const auto& answer : Well(answers)) EXPECT_EQ(answer.prepared_view(), planned.id());
    }
    observer.join();
    int64_t round = 3, position = 1;
    for (bool caught_up = false; !caught_up && round < 60; ++round, ++position) {
      const std::vector<std::string> digests = Round(joining, round, position);
      EXPECT_EQ(digests[0], digests[1]);
      caught_up = committed_[2][0].state_round() == round;
      if (caught_up) EXPECT_EQ(digests[2], digests[0]);
    }
    ASSERT_LT(round, 60) << "never caught up";
    const std::vector<Part> all = {{johor.get()}, {oslo.get()}, {batam.get()}};
    const pb::View whole = MakeView(all, round);
    for (const auto& answers : All(all, [&](const Part&) { return Switch(whole); })) Well(answers);
    ExpectEqual(Round(all, round, 1));
    ExpectEqual(Round(all, round + 1, 2));
  }
}

TEST_F(ChangingViews, AJoinerTakesAMembersInnerOptimizerStateWhateverItsWorkers) {
  job_.mutable_sync()->set_joiner_state(pb::Sync::COPIED);
  for (const int workers : {1, 2, 3}) {
    auto johor = Start("johor", 1), oslo = Start("oslo", 2);
    const std::vector<Part> present = {{johor.get()}, {oslo.get()}};
    Enter(present, MakeView(present, 1));
    const std::vector<std::string> digests = Round(present, 1, 1);
    const std::string of_johor = Saved(johor.get(), 1, digests[0]);
    const std::string of_oslo = Saved(oslo.get(), 1, digests[1]);
    EXPECT_NE(of_johor, of_oslo) << "each has its own";
    auto batam = Start("batam", workers);
    const std::vector<Part> joining = {{johor.get()}, {oslo.get()}, {batam.get(), false}};
    const pb::View planned = MakeView(joining, 2);
    for (const auto& answers : All(joining, [&](const Part& part) {
           pb::View view = planned;
           if (!part.full) view.set_first_round(0);
           return Switch(view);
         })) {
      Well(answers);
    }
    bool caught_up = false;
    int64_t round = 2;
    for (; !caught_up && round < 60; ++round) {
      const std::string digest = Round(joining, round, round - 1)[0];
      caught_up = committed_[2][0].state_round() == round;
      if (!caught_up) continue;
      const std::string of_batam = Saved(batam.get(), round, digest);
      EXPECT_EQ(of_batam, planned.id() % 2 == 0 ? of_johor : of_oslo) << workers << " workers";
    }
    EXPECT_TRUE(caught_up);
  }
}

TEST_F(ChangingViews, TrainingThatWasInterruptedGoesOnToTheSameBits) {
  auto johor = Start("johor", 2);
  const std::vector<Part> alone = {{johor.get()}};
  Enter(alone, MakeView(alone, 1));
  const std::string whole = Round(alone, 1, 1)[0];
  johor.reset();
  johor = Start("johor", 2);
  const std::vector<Part> again = {{johor.get()}};
  Enter(again, MakeView(again, 1));
  // In parts of one step; an interrupted one would end the same way.
  for (int64_t step = 0; step < kSteps; ++step) {
    Command command = Train(again[0], 1, step, step + 1);
    EXPECT_EQ(Well(johor->Do(command))[1].steps(), step + 1);
  }
  Well(johor->Do(Reduce(again[0], 1, 1, 1)));
  EXPECT_EQ(DigestOf(Well(johor->Do(Commit(1, 1)))), whole);
}

// johor trains the first round's steps in two parts, with the round's end between them, or in one
// before it; oslo goes on without it. The digests after the second round, of johor and oslo.
std::vector<std::string> ChangingViews::LateRound(int64_t steps_before, bool contributes) {
  auto johor = Start("johor", 2), oslo = Start("oslo", 1);
  const std::vector<Part> all = {{johor.get()}, {oslo.get()}};
  Enter(all, MakeView(all, 1));
  Well(johor->Do(Train(all[0], 1, 0, steps_before)));
  Well(oslo->Do(Train(all[1], 1)));
  const auto part_in = [&](int64_t round, pb::ReduceRound::Mode mode) {
    for (const auto& answers : All(all, [&](const Part& part) {
           return Reduce(part, round, round, 2,
                         part.region == johor.get() ? mode : pb::ReduceRound::CONTRIBUTE);
         })) {
      Well(answers);
    }
  };
  part_in(1, pb::ReduceRound::LATE);
  std::vector<std::string> digests;
  for (const auto& answers : All(all, [&](const Part& part) {
         Command command = Commit(1, 1);
         command.mutable_commit()->set_expected_tokens(2 * command.commit().tokens());
         command.mutable_commit()->set_keep_training(part.region == johor.get());
         return command;
       })) {
    digests.push_back(DigestOf(Well(answers)));
  }
  ExpectEqual(digests);
  // Between two rounds the trainer holds the outer state.
  Command evaluate;
  evaluate.mutable_evaluate()->set_round(1);
  std::vector<double> losses;
  for (const auto& answers : All(all, [&](const Part&) { return evaluate; })) {
    double loss = 0;
    for (const auto& answer : Well(answers)) loss += answer.loss_sum();
    losses.push_back(loss);
  }
  EXPECT_GT(losses[0], 0);
  if (steps_before < kSteps) Well(johor->Do(Train(all[0], 1, steps_before)));
  Well(oslo->Do(Train(all[1], 2)));
  part_in(2, contributes ? pb::ReduceRound::CONTRIBUTE : pb::ReduceRound::OBSERVE);
  digests.clear();
  for (const auto& answers : All(all, [&](const Part&) { return Commit(2, 2); })) {
    digests.push_back(DigestOf(Well(answers)));
  }
  ExpectEqual(digests);
  return digests;
}

TEST_F(ChangingViews, WhatALateRegionTrainsOverTheEndOfARoundIsItsContributionToTheNext) {
  const std::string in_parts = LateRound(1, true)[0];
  EXPECT_EQ(in_parts, LateRound(kSteps, true)[0]);
  EXPECT_NE(in_parts, LateRound(1, false)[0]) << "it was in the result";
}

TEST_F(ChangingViews, TrainingEndsWhenEnoughOthersHaveBegunTheReduction) {
  auto johor = Start("johor", 2), oslo = Start("oslo", 1), batam = Start("batam", 1);
  const std::vector<Part> all = {{johor.get()}, {oslo.get()}, {batam.get()}};
  const std::vector<Part> quick = {{oslo.get()}, {batam.get()}};
  Enter(all, MakeView(all, 1));
  All(quick, [&](const Part& part) { return Train(part, 1); });
  std::thread others([&] {
    for (const auto& answers : All(quick, [&](const Part& p) { return Reduce(p, 1, 1, 3); })) {
      Well(answers);
    }
  });
  constexpr int64_t kMany = 100000;
  Command command = Train(all[0], 1, 0, kMany);
  command.mutable_train()->set_quorum(2);
  command.mutable_train()->set_position(1);
  const Answers answers = Well(johor->Do(command));
  for (const auto& answer : answers) {
    EXPECT_TRUE(answer.quorum());
    EXPECT_LT(answer.steps(), kMany);
    EXPECT_EQ(answer.steps(), answers[0].steps());
  }
  Well(johor->Do(Reduce(all[0], 1, 1, 3, pb::ReduceRound::LATE)));
  others.join();
}

TEST_F(ChangingViews, AnInterruptEndsTrainingAfterAStepOnAllRanks) {
  auto johor = Start("johor", 2);
  const std::vector<Part> alone = {{johor.get()}};
  Enter(alone, MakeView(alone, 1));
  johor->InterruptNext();
  const Answers answers = Well(johor->Do(Train(alone[0], 1)));
  for (const auto& answer : answers) EXPECT_EQ(answer.steps(), 1);
  EXPECT_EQ(Well(johor->Do(Train(alone[0], 1, 1)))[0].steps(), kSteps);
}

TEST_F(ChangingViews, AnInterruptedReductionLeavesTheContributionForTheNextView) {
  auto johor = Start("johor", 2), oslo = Start("oslo", 1);
  const std::vector<Part> all = {{johor.get()}, {oslo.get()}};
  Enter(all, MakeView(all, 1));
  All(all, [&](const Part& part) { return Train(part, 1); });
  std::thread leader([&] {
    while (johor->doing().find("all-reduce of round 1") == std::string::npos) {
      std::this_thread::yield();
    }
    johor->Interrupt();
  });
  for (const auto& answer : johor->Do(Reduce(all[0], 1, 1, 2))) {
    EXPECT_TRUE(answer.interrupted()) << answer.error();
    EXPECT_EQ(answer.blames(), "");
  }
  leader.join();
  const pb::View view = MakeView(all, 1);
  for (const auto& answers : All(all, [&](const Part&) { return Switch(view); })) Well(answers);
  for (const auto& answers : All(all, [&](const Part& p) { return Reduce(p, 1, 1, 2); })) {
    Well(answers);
  }
  std::vector<std::string> digests;
  for (const auto& answers : All(all, [&](const Part&) { return Commit(1, 2); })) {
    digests.push_back(DigestOf(Well(answers)));
  }
  ExpectEqual(digests);
}

}  // namespace
}  // namespace atl
