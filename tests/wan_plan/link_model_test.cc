// The model of the links: single reports by hand, and the whole loop of plan, traffic, reports and
// model over a made-up sea, against plans made from the truth.
#include "collectives/wan/plan/link_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>

#include "collectives/wan/plan/planner.h"
#include "collectives/wan/plan/predict.h"
#include "tests/wan_plan/fluid.h"
#include "tests/wan_plan/random_links.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kBytes = 1e9;

std::vector<std::string> Names(int members) { return LinkMatrix(members).names; }

// Paced at `paced` Mbit/s it got `got` Mbit/s for a second.
LinkReport Report(int from, int to, double got, double paced, double queue_seconds = 0.1) {
  LinkReport report;
  report.from = from;
  report.to = to;
  report.busy_seconds = 1;
  report.acked_bytes = got * kMbit;
  report.paced_rate = paced * kMbit;
  report.rtt_seconds = 0.1;
  report.queue_seconds = got < 0.99 * paced || paced == 0 ? queue_seconds : 0.001;
  report.retransmitted = paced == 0 ? 0.03 : 0;
  return report;
}

TEST(LinkModel, KnowsNothingAtFirst) {
  const LinkModel model({"johor", "oslo"});
  EXPECT_EQ(model.matrix().names[1], "oslo");
  EXPECT_EQ(model.matrix().up[0], kInfinity);
  EXPECT_EQ(model.matrix().rate(0, 1), kInfinity);
  EXPECT_FALSE(model.complete());
}

TEST(LinkModel, IsCompleteWhenEverybodyHasSentAndReceived) {
  LinkModel model(Names(3));
  model.Observe({Report(0, 1, 10, 0), Report(1, 2, 10, 0)});
  EXPECT_FALSE(model.complete());
  model.Observe({Report(2, 0, 10, 0)});
  EXPECT_TRUE(model.complete());
}

TEST(LinkModel, AllLinksOfASenderFallingShortAreItsUp) {
  LinkModel model(Names(4));
  model.Observe({Report(0, 1, 30, 50), Report(0, 2, 30, 50), Report(0, 3, 30, 50),
                 Report(1, 2, 50, 50), Report(2, 3, 50, 50), Report(3, 1, 50, 50)});
  EXPECT_NEAR(model.matrix().up[0], 90 * kMbit, 1);
  EXPECT_EQ(model.matrix().down[1], kInfinity);
  EXPECT_EQ(model.matrix().rate(0, 1), kInfinity);
}

TEST(LinkModel, AllLinksIntoAReceiverFallingShortAreItsDown) {
  LinkModel model(Names(4));
  model.Observe({Report(1, 0, 20, 50), Report(2, 0, 20, 50), Report(3, 0, 20, 50),
                 Report(1, 2, 50, 50), Report(2, 3, 50, 50), Report(3, 1, 50, 50)});
  EXPECT_NEAR(model.matrix().down[0], 60 * kMbit, 1);
  EXPECT_EQ(model.matrix().up[1], kInfinity);
}

TEST(LinkModel, OneLinkFallingShortIsThePair) {
  LinkModel model(Names(3));
  model.Observe({Report(0, 1, 10, 50), Report(0, 2, 50, 50), Report(2, 1, 50, 50)});
  EXPECT_NEAR(model.matrix().rate(0, 1), 10 * kMbit, 1);
  EXPECT_EQ(model.matrix().up[0], kInfinity);
  EXPECT_EQ(model.matrix().down[1], kInfinity);
}

TEST(LinkModel, ASingleOutlierMovesLittleASecondWordIsBelieved) {
  LinkModel model(Names(3));
  const std::vector<LinkReport> usual = {Report(0, 1, 40, 0), Report(0, 2, 90, 95),
                                         Report(2, 1, 90, 95)};
  for (int i = 0; i < 3; ++i) model.Observe(usual);
  ASSERT_NEAR(model.matrix().rate(0, 1), 40 * kMbit, 1);
  std::vector<LinkReport> off = usual;
  off[0] = Report(0, 1, 4, 41);
  model.Observe(off);
  EXPECT_GT(model.matrix().rate(0, 1), 20 * kMbit);
  model.Observe(off);
  EXPECT_NEAR(model.matrix().rate(0, 1), 4 * kMbit, 1);
}

TEST(LinkModel, ALinkThatKeepsUpIsPacedHigherEveryTimeAndBelievedToBeWhatItCarried) {
  LinkModel model(Names(2));
  PaceGain gain;
  EXPECT_GT(gain.value(), kPacingGain);  // only a probe has been seen
  gain.Observe(Report(0, 1, 50, 100));
  EXPECT_EQ(gain.value(), kPacingGain);
  model.Observe({Report(0, 1, 100, 0), Report(1, 0, 100, 0)});
  double before = std::min(model.matrix().up[0], model.matrix().rate(0, 1)) / kMbit;
  EXPECT_NEAR(before, 100, 1e-6);
  double last_gain = 1;
  for (int i = 0; i < 6; ++i) {
    EXPECT_GT(gain.value(), last_gain);
    last_gain = gain.value();
    const double paced = before * gain.value();
    const LinkReport report = Report(0, 1, paced, paced);
    gain.Observe(report);
    model.Observe({report, Report(1, 0, 100, paced)});
    const double now = std::min(model.matrix().up[0], model.matrix().rate(0, 1)) / kMbit;
    EXPECT_GT(now, before);
    EXPECT_LE(now, paced * (1 + 1e-9));
    before = now;
  }
  EXPECT_GT(before, 250);
  gain.Observe(Report(0, 1, before / 2, before * gain.value()));
  EXPECT_EQ(gain.value(), kPacingGain);
}

// 0's up was read at 20; what it sends to 1 stands in the queue of 1's down, which others fill.
std::vector<LinkReport> HeldUpElsewhere(double carried, double paced) {
  return {Report(0, 1, carried, paced, 0.05), Report(2, 1, 40, 42, 0.05),
          Report(3, 1, 40, 42, 0.05), Report(1, 0, 30, 30)};
}

TEST(LinkModel, ALimitThatExplainsNothingIsHopedToCarryMoreUntilItIsMet) {
  LinkModel model(Names(4));
  model.Observe({Report(0, 1, 10, 0), Report(0, 2, 10, 0), Report(1, 0, 60, 0), Report(2, 1, 40, 0),
                 Report(3, 1, 40, 0)});
  ASSERT_NEAR(model.matrix().up[0], 20 * kMbit, kMbit);
  model.Observe(HeldUpElsewhere(20, 20.6));
  EXPECT_NEAR(model.matrix().up[0], 20 * kMbit, kMbit);
  model.Observe(HeldUpElsewhere(20, 20.6));
  const double hoped = model.matrix().up[0];
  EXPECT_GT(hoped, 25 * kMbit);
  EXPECT_LE(hoped, 60 * kMbit);
  // Met by all that it sends: that is what it is, and nobody hopes any more.
  const std::vector<LinkReport> met = {Report(0, 1, 10, 14), Report(0, 2, 10, 14),
                                       Report(2, 1, 40, 40), Report(3, 1, 40, 40)};
  for (int i = 0; i < 2; ++i) model.Observe(met);
  EXPECT_NEAR(model.matrix().up[0], 20 * kMbit, kMbit);
  for (int i = 0; i < 4; ++i) model.Observe(HeldUpElsewhere(20, 20.6));
  EXPECT_NEAR(model.matrix().up[0], 20 * kMbit, kMbit);
}

TEST(LinkModel, ALimitWhoseQueueFillsDoesNotGrow) {
  LinkModel model(Names(2));
  model.Observe({Report(0, 1, 100, 0), Report(1, 0, 100, 0)});
  for (int i = 0; i < 10; ++i) model.Observe({Report(0, 1, 100, 103), Report(1, 0, 100, 103)});
  EXPECT_NEAR(std::min(model.matrix().up[0], model.matrix().rate(0, 1)), 100 * kMbit, kMbit);
}

TEST(LinkModel, WhatIsIdleOrMissingOrNonsenseChangesNothing) {
  LinkModel model(Names(3));
  model.Observe({Report(0, 1, 10, 50), Report(0, 2, 50, 50), Report(2, 1, 50, 50)});
  const double known = model.matrix().rate(0, 1);
  LinkReport idle = Report(0, 1, 0, 50);
  idle.busy_seconds = 0;
  LinkReport instant = Report(0, 1, 1, 50);
  instant.busy_seconds = 0.001;
  LinkReport nonsense = Report(0, 1, std::nan(""), 50);
  LinkReport negative = Report(0, 1, -5, 50);
  LinkReport nobody = Report(0, 7, 1, 50);
  LinkReport self = Report(1, 1, 1, 50);
  model.Observe({idle});
  model.Observe({instant});
  model.Observe({nonsense, negative, nobody, self});
  model.Observe({});
  EXPECT_EQ(model.matrix().rate(0, 1), known);
}

TEST(LinkModel, AnUnreachablePairHasNoLinkUntilItComesBack) {
  LinkModel model(Names(2));
  LinkReport report = Report(0, 1, 10, 50);
  report.reachable = false;
  model.Observe({report});
  EXPECT_EQ(model.matrix().rate(0, 1), 0);
  model.Observe({Report(0, 1, 50, 50)});
  EXPECT_EQ(model.matrix().rate(0, 1), kInfinity);
}

TEST(LinkModel, DelaysAreHalfTheShortestRoundTrip) {
  LinkModel model(Names(2));
  LinkReport report = Report(0, 1, 50, 50);
  report.rtt_seconds = 0.084;
  model.Observe({report});
  report.rtt_seconds = 0.080;
  model.Observe({report});
  EXPECT_NEAR(model.matrix().delay(0, 1), 0.040, 1e-12);
  EXPECT_NEAR(model.matrix().delay(1, 0), 0.040, 1e-12);
  report.rtt_seconds = 0.160;  // another route: after some operations it is believed
  for (int i = 0; i < 30; ++i) model.Observe({report});
  EXPECT_NEAR(model.matrix().delay(0, 1), 0.080, 0.001);
}

TEST(LinkModel, LinesThatAreAlikeButForMeasuringArePlannedAsOne) {
  LinkModel model({"johor", "oslo", "batam"});
  const auto report = [](int from, int to, double rate) {
    LinkReport report;
    report.from = from;
    report.to = to;
    report.busy_seconds = 1;
    report.acked_bytes = rate;
    report.rtt_seconds = 0.08;
    report.retransmitted = 0.02;
    return report;
  };
  // Ups of 100, 104 and 50 Mbit/s.
  for (int i = 0; i < 3; ++i) {
    model.Observe({report(0, 1, 50 * kMbit), report(0, 2, 50 * kMbit), report(1, 0, 52 * kMbit),
                   report(1, 2, 52 * kMbit), report(2, 0, 25 * kMbit), report(2, 1, 25 * kMbit)});
  }
  ASSERT_NEAR(model.matrix().up[0], 100 * kMbit, 1);
  ASSERT_NEAR(model.matrix().up[1], 104 * kMbit, 1);
  const LinkMatrix links = model.ForPlans();
  EXPECT_NEAR(links.up[0], 102 * kMbit, 1);
  EXPECT_NEAR(links.up[1], 102 * kMbit, 1);
  EXPECT_NEAR(links.up[2], 50 * kMbit, 1);
  EXPECT_EQ(links.down[0], kInfinity);
}

TEST(LinkModel, TheSameReportsGiveTheSameBelief) {
  const auto run = [] {
    const LinkMatrix truth = RandomLinks(LinksKind::kLinesAndPairs, 6, 3);
    LinkModel model(truth.names);
    Draws draws(9);
    std::vector<PaceGain> gains;
    for (int op = 0; op < 5; ++op) {
      std::vector<LinkReport> reports;
      const StatusOr<TreePlan> plan = MakePlan(model.ForPlans(), {kBytes});
      EXPECT_TRUE(plan.ok()) << plan.status();
      RunOperation(truth, *plan, kBytes, 0.03, draws, &gains, &reports);
      model.Observe(reports);
    }
    return model.matrix();
  };
  const LinkMatrix a = run();
  const LinkMatrix b = run();
  EXPECT_EQ(a.up, b.up);
  EXPECT_EQ(a.down, b.down);
  EXPECT_EQ(a.rates, b.rates);
}

TEST(ProbeRounds, FirstOneAtATimeThenAll) {
  for (const int members : {1, 2, 3, 8, 9, 40}) {
    const auto rounds = ProbeRounds(members);
    EXPECT_LE(rounds.size(), 9);
    for (size_t r = 0; r < rounds.size(); ++r) {
      const bool all = members > 2 && r + 1 == rounds.size();
      EXPECT_EQ(rounds[r].size(), all ? members * (members - 1) : members);
      std::vector<int> sends(members, 0);
      for (const auto& [from, to] : rounds[r]) {
        EXPECT_NE(from, to);
        ++sends[from];
      }
      for (const int count : sends) EXPECT_EQ(count, all ? members - 1 : 1);
    }
  }
  EXPECT_EQ(ProbeRounds(9).size(), 9);
}

// --- The loop -----------------------------------------------------------------------------------

struct Sea {
  int operations = 10;
  double noise = 0.03;
  bool probe = true;
  bool rotations = false;
  double missing = 0;                  // share of the reports that get lost
  double misread = 1;                  // the probe reads that share of what one member sends,
  bool misread_loses_nothing = false;  // and sees no losses there
  // Changes the truth before the operation of half time.
  std::function<void(LinkMatrix&, Draws&)> change = nullptr;
};

// How the plan of the model, after these operations, does against a plan made from the truth.
double Quality(LinkMatrix truth, Draws& draws, const Sea& sea) {
  const int members = truth.members();
  LinkModel model(truth.names);
  if (sea.rotations) {
    for (const auto& round : ProbeRounds(members)) {
      std::vector<LinkReport> reports;
      RunProbe(truth, round, sea.noise, draws, &reports);
      model.Observe(reports);
    }
  } else if (sea.probe) {
    std::vector<LinkReport> reports;
    RunProbe(truth, ProbeRounds(members).back(), sea.noise, draws, &reports);
    const int who = draws.Below(members);
    for (LinkReport& report : reports) {
      if (sea.misread == 1 || report.from != who) continue;
      report.acked_bytes *= sea.misread;
      if (sea.misread_loses_nothing) report.retransmitted = 0;
    }
    model.Observe(reports);
  }
  std::vector<PaceGain> gains;
  for (int op = 0; op < sea.operations; ++op) {
    if (sea.change && op == sea.operations / 2) sea.change(truth, draws);
    const StatusOr<TreePlan> plan = MakePlan(model.ForPlans(), {kBytes});
    EXPECT_TRUE(plan.ok()) << plan.status();
    if (!plan.ok()) return 0;
    std::vector<LinkReport> reports;
    RunOperation(truth, *plan, kBytes, sea.noise, draws, &gains, &reports);
    std::vector<LinkReport> arrived;
    for (const LinkReport& report : reports) {
      if (!draws.Chance(sea.missing)) arrived.push_back(report);
    }
    model.Observe(arrived);
  }
  const StatusOr<TreePlan> learned = MakePlan(model.ForPlans(), {kBytes});
  const StatusOr<TreePlan> best = MakePlan(truth, {kBytes});
  EXPECT_TRUE(learned.ok() && best.ok());
  return RateOf(*learned, truth).rate / best->throughput;
}

double Quality(LinksKind kind, uint64_t seed, const Sea& sea) {
  Draws draws(seed + 1000);
  const int members = 2 + draws.Below(7);
  return Quality(RandomLinks(kind, members, seed), draws, sea);
}

// How quick operations are once the links are known: the seconds of a plan made from the truth over
// those that they take, on average.
double Speed(LinksKind kind, uint64_t seed) {
  Draws draws(seed + 2000);
  const int members = 2 + draws.Below(7);
  const LinkMatrix truth = RandomLinks(kind, members, seed);
  const StatusOr<TreePlan> best = MakePlan(truth, {kBytes});
  EXPECT_TRUE(best.ok());
  LinkModel model(truth.names);
  std::vector<LinkReport> reports;
  RunProbe(truth, ProbeRounds(members).back(), 0.03, draws, &reports);
  model.Observe(reports);
  std::vector<PaceGain> gains;
  constexpr int kLearning = 8, kMeasured = 12;
  double sum = 0;
  for (int op = 0; op < kLearning + kMeasured; ++op) {
    const StatusOr<TreePlan> plan = MakePlan(model.ForPlans(), {kBytes});
    EXPECT_TRUE(plan.ok()) << plan.status();
    reports.clear();
    const double seconds = RunOperation(truth, *plan, kBytes, 0.03, draws, &gains, &reports);
    model.Observe(reports);
    if (op >= kLearning) sum += kBytes / best->throughput / seconds;
  }
  return sum / kMeasured;
}

struct Share {
  double within_5 = 0;  // of labs whose plan is within 5%
  double within_15 = 0;
  double median = 0;
};

Share OverLabs(const Sea& sea, const std::vector<LinksKind>& kinds) {
  std::vector<double> qualities;
  for (const LinksKind kind : kinds) {
    for (uint64_t seed = 0; seed < 8; ++seed) qualities.push_back(Quality(kind, seed, sea));
  }
  std::sort(qualities.begin(), qualities.end());
  const auto above = [&](double limit) {
    const auto count = std::count_if(qualities.begin(), qualities.end(),
                                     [&](double quality) { return quality >= limit; });
    return static_cast<double>(count) / static_cast<double>(qualities.size());
  };
  const Share share = {above(0.95), above(0.85), qualities[qualities.size() / 2]};
  std::printf("[ sea      ] within 5%%: %.2f, within 15%%: %.2f, median %.3f\n", share.within_5,
              share.within_15, share.median);
  return share;
}

const std::vector<LinksKind> kAllKinds = {std::begin(kAllLinksKinds), std::end(kAllLinksKinds)};

TEST(Sea, AfterAProbeOfRotationsTheFirstPlanIsGood) {
  const Share share = OverLabs({.operations = 1, .rotations = true}, kAllKinds);
  EXPECT_GE(share.within_5, 0.8);
  EXPECT_GE(share.within_15, 0.9);
}

TEST(Sea, AfterAProbeOfRotationsPlansStayGood) {
  const Share share = OverLabs({.operations = 12, .rotations = true}, kAllKinds);
  EXPECT_GE(share.within_5, 0.85);
  EXPECT_GE(share.within_15, 0.95);
}

TEST(Sea, AfterAProbeOfAllAtOnceAFewOperationsDo) {
  const Share share = OverLabs({.operations = 6}, kAllKinds);
  EXPECT_GE(share.within_5, 0.8);
  EXPECT_GE(share.within_15, 0.9);
}

// Where acknowledgements wait behind a flood the other way, a probe reads far too little.
TEST(Sea, AProbeThatReadsOneLineFarTooLowIsCorrected) {
  const Share share = OverLabs({.operations = 8, .misread = 0.2}, kAllKinds);
  EXPECT_GE(share.within_5, 0.75);
  EXPECT_GE(share.within_15, 0.9);
}

TEST(Sea, EqualLinesOfWhichOneWasReadFarTooLow) {
  double least = 1, soon = 1;
  for (const double misread : {0.07, 0.3}) {
    for (int members = 3; members <= 8; ++members) {
      LinkMatrix truth(members);
      std::fill(truth.up.begin(), truth.up.end(), 300 * kMbit);
      std::fill(truth.down.begin(), truth.down.end(), 300 * kMbit);
      std::fill(truth.delays.begin(), truth.delays.end(), 0.075);
      Draws draws(members);
      least = std::min(least, Quality(truth, draws, {.operations = 12, .misread = misread}));
      soon = std::min(
          soon, Quality(truth, draws,
                        {.operations = 3, .misread = misread, .misread_loses_nothing = true}));
    }
  }
  std::printf("[ sea      ] the least %.3f, where it lost nothing soon %.3f\n", least, soon);
  EXPECT_GE(least, 0.85);
  EXPECT_GE(soon, 0.85);
}

TEST(Sea, WithoutAProbeAFewOperationsMoreDo) {
  const Share share = OverLabs({.operations = 9, .probe = false}, kAllKinds);
  EXPECT_GE(share.within_5, 0.75);
  EXPECT_GE(share.within_15, 0.9);
}

TEST(Sea, MissingReportsOnlyMakeItSlower) {
  const Share share = OverLabs({.operations = 12, .rotations = true, .missing = 0.3}, kAllKinds);
  EXPECT_GE(share.within_5, 0.75);
  EXPECT_GE(share.within_15, 0.9);
}

TEST(Sea, OperationsAreAboutAsQuickAsPlansFromTheTruth) {
  for (const LinksKind kind : kAllKinds) {
    double sum = 0;
    for (uint64_t seed = 0; seed < 8; ++seed) sum += Speed(kind, seed);
    std::printf("[ sea      ] %s: %.3f of the speed\n", KindName(kind), sum / 8);
    EXPECT_GE(sum / 8, 0.8);
  }
}

// A line of one member, or one pair where pairs limit.
void ChangeOne(LinkMatrix& truth, Draws& draws, double factor) {
  const int n = truth.members();
  const int i = draws.Below(n);
  const int j = (i + 1 + draws.Below(n - 1)) % n;
  if (std::isfinite(truth.up[i])) {
    truth.up[i] *= factor;
    truth.down[i] *= factor;
  } else {
    truth.rate(i, j) *= factor;
    truth.rate(j, i) *= factor;
  }
}

TEST(Sea, ALineOrPairThatBecomesSlowerIsSeenWithinAFewOperations) {
  const auto change = [](LinkMatrix& truth, Draws& draws) { ChangeOne(truth, draws, 0.4); };
  const Share share = OverLabs({.operations = 10, .rotations = true, .change = change}, kAllKinds);
  EXPECT_GE(share.within_5, 0.8);
  EXPECT_GE(share.within_15, 0.9);
}

TEST(Sea, ALineOrPairThatBecomesFasterIsFoundWithinSomeOperations) {
  const auto change = [](LinkMatrix& truth, Draws& draws) { ChangeOne(truth, draws, 2.5); };
  const Share share = OverLabs({.operations = 20, .rotations = true, .change = change}, kAllKinds);
  EXPECT_GE(share.within_5, 0.8);
  EXPECT_GE(share.within_15, 0.9);
}

}  // namespace
}  // namespace atl::wan
