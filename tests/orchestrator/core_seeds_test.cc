// Many small jobs with messages late, repeated, lost and out of order; one seed each. After every
// step the promises are checked on the records alone. ATOLL_SEED=N runs that seed only.
#include <gtest/gtest.h>

#include <deque>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/env.h"
#include "base/random.h"
#include "orchestrator/core/core.h"
#include "tests/orchestrator/core_driver.h"

namespace atl {
namespace {

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(DeriveSeed(seed, "core_seeds_test")) {}
  int64_t Below(int64_t limit) {
    return static_cast<int64_t>(random_.Bits(at_++) % static_cast<uint64_t>(limit));
  }
  bool Chance(int percent) { return Below(100) < percent; }

 private:
  CounterRandom random_;
  uint64_t at_ = 0;
};

// What must hold, seen from the records alone.
class Promises {
 public:
  explicit Promises(const CoreDriver& core) : core_(core) {}

  void Check() {
    for (; seen_ < core_.records().size(); ++seen_) {
      const Record& record = core_.records()[seen_];
      if (const auto* sample = std::get_if<SampleRecord>(&record)) CheckSample(*sample);
      if (const auto* round = std::get_if<RoundRecord>(&record)) CheckRound(*round);
      if (const auto* event = std::get_if<EventRecord>(&record)) {
        ASSERT_EQ(event->number, ++events_);
      }
    }
  }
  int64_t committed_rounds() const { return rounds_; }
  int64_t cursor() const { return cursor_; }

 private:
  void CheckSample(const SampleRecord& sample) {
    if (sample.state == SampleState::kDone) {
      done_[sample.round][sample.region] = sample.report->digest();
    }
    if (sample.state != SampleState::kCommitted) return;
    ASSERT_EQ(sample.samples.at(0).begin, cursor_) << "P3: skipped or counted twice";
    cursor_ = sample.samples.at(0).end;
  }
  void CheckRound(const RoundRecord& round) {
    ASSERT_EQ(round.round, ++rounds_) << "rounds commit in order, each once";
    ASSERT_EQ(cursor_, rounds_ * 8);
    ASSERT_EQ(round.tokens, 8 * 16);
    ASSERT_EQ(done_[round.round].size(), core_.names().size());
    for (const auto& [region, digest] : done_[round.round]) {
      ASSERT_EQ(digest, round.digest) << "P1";
    }
  }

  const CoreDriver& core_;
  size_t seen_ = 0;
  int64_t events_ = 0;
  int64_t rounds_ = 0;
  int64_t cursor_ = 0;
  std::map<int64_t, std::map<std::string, std::string>> done_;
};

// A leader that repeats what is not acknowledged.
struct Leader {
  std::string name;
  uint64_t sequence = 0;
  int64_t round = 0;
  bool left = false;
  std::map<uint64_t, pb::LeaderMessage> outbox;
};

void RunSeed(uint64_t seed) {
  SCOPED_TRACE(absl::StrCat("repeat with ATOLL_SEED=", seed));
  Dice dice(seed);
  const int64_t rounds = 1 + dice.Below(8);
  CoreDriver core(CoreDriver::TestJob(1 + static_cast<int>(dice.Below(4)), rounds));
  core.AllReady();
  Promises promises(core);
  const bool stop = dice.Chance(20);
  const bool corrupt = dice.Chance(10);
  std::vector<Leader> leaders;
  for (const std::string& name : core.names()) leaders.push_back({name, 1, 0, false, {}});
  std::vector<std::pair<std::string, pb::LeaderMessage>> network;
  int64_t stop_round = rounds;
  for (int step = 0; step < 20000 && !core.ended(); ++step) {
    Leader& leader = leaders[dice.Below(static_cast<int64_t>(leaders.size()))];
    // The collective: nobody finishes a round before all have finished the one before.
    int64_t slowest = rounds;
    for (const Leader& other : leaders) slowest = std::min(slowest, other.round);
    const auto report = [&](pb::LeaderMessage message) {
      message.set_sequence(++leader.sequence);
      message.set_attempt("1");
      leader.outbox[leader.sequence] = message;
      network.emplace_back(leader.name, message);
    };
    if (leader.round < stop_round && leader.round <= slowest) {
      ++leader.round;
      const bool differs =
          corrupt && leader.round == rounds && leader.name == "a" && leaders.size() > 1;
      report(core.RoundReport(leader.name, leader.round, differs ? "other" : ""));
      if (stop && stop_round == rounds && leader.round == 1) {
        core.Stop();
        // The round's notes: the regions agree on the one after which all leave.
        stop_round = std::min(rounds, slowest + 2);
      }
    } else if (leader.round >= stop_round && !leader.left) {
      leader.left = true;
      pb::LeaderMessage message;
      message.mutable_left()->set_round(leader.round);
      message.mutable_left()->set_exit_code(leader.round == rounds ? 0 : 75);
      report(message);
    }
    if (dice.Chance(20)) {
      for (const auto& [sequence, message] : leader.outbox)
        network.emplace_back(leader.name, message);
    }
    // Deliver some of what is under way, in any order; some twice, some never.
    while (!network.empty() && dice.Chance(60)) {
      const int64_t at = dice.Below(static_cast<int64_t>(network.size()));
      const auto [name, message] = network[at];
      if (!dice.Chance(10)) network.erase(network.begin() + at);
      if (dice.Chance(10)) continue;
      core.Message(name, message);
      promises.Check();
      if (testing::Test::HasFatalFailure()) return;
    }
    for (Leader& one : leaders) {
      const auto acked = core.acknowledged().find(one.name);
      if (acked == core.acknowledged().end()) continue;
      for (const uint64_t sequence : acked->second) one.outbox.erase(sequence);
    }
    if (dice.Chance(5)) core.Advance(0.1);
  }
  promises.Check();
  ASSERT_TRUE(core.ended()) << "the job did not end";
  const bool failed = corrupt && leaders.size() > 1 && stop_round == rounds;
  if (failed) {
    ASSERT_EQ(core.ended()->exit_code, 1);
    ASSERT_EQ(promises.committed_rounds(), rounds - 1);
  } else {
    ASSERT_EQ(promises.committed_rounds(), stop_round);
    ASSERT_EQ(core.ended()->exit_code, stop_round == rounds ? 0 : 75) << core.ended()->reason;
  }
}

TEST(CoreSeeds, KeepThePromisesWhateverTheOrderOfMessages) {
  uint64_t only = 0;
  const auto chosen = GetEnv("ATOLL_SEED");
  if (chosen && absl::SimpleAtoi(*chosen, &only)) return RunSeed(only);
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    RunSeed(seed);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace atl
