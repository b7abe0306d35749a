// What status says that a worker does, and whom it waits for.
#include "worker/region/activity.h"

#include <gtest/gtest.h>

namespace atl {
namespace {

wan::Silence SilenceOf(int member, const std::string& name, double seconds, int64_t lane = 0) {
  wan::Silence silence;
  silence.lane = LaneId{lane};
  silence.member = MemberIndex{member};
  silence.name = name;
  silence.seconds = seconds;
  return silence;
}

class ActivityTest : public testing::Test {
 protected:
  FakeClock clock_;  // starts at 00:16:40
  Activity activity_{&clock_, 30};
};

TEST_F(ActivityTest, AWaitSaysForWhomSinceWhenAndWhatEndsIt) {
  activity_.Begin("connecting");
  EXPECT_EQ(activity_.Text(), "connecting");
  activity_.WaitFor("oslo and batam", "until they connect");
  clock_.Advance(5);
  activity_.WaitFor("oslo", "until it connects");
  EXPECT_EQ(activity_.Text(), "connecting; waiting for oslo since 00:16:40 UTC; until it connects");
  EXPECT_EQ(activity_.what(), "connecting");
  activity_.Begin("training");
  EXPECT_EQ(activity_.Text(), "training");
}

TEST_F(ActivityTest, ASilentPeerIsNamedUntilItSpeaksAgain) {
  activity_.Begin("all-reduce of round 5");
  activity_.WaitFor("oslo", "");
  activity_.OnSilence(SilenceOf(1, "oslo", 2.5));
  clock_.Advance(1.5);
  EXPECT_EQ(activity_.Text(),
            "all-reduce of round 5; waiting for oslo, silent for 4.0 s (since 00:16:37 UTC); lost "
            "if still silent at 00:17:07 UTC");
  activity_.OnSilence(SilenceOf(1, "oslo", 0));
  EXPECT_EQ(activity_.Text(), "all-reduce of round 5; waiting for oslo since 00:16:40 UTC");
}

TEST_F(ActivityTest, APeerThatIsSilentOnSeveralLanesIsNamedOnceUntilAllHearIt) {
  activity_.Begin("all-reduce of round 5");
  activity_.OnSilence(SilenceOf(1, "oslo", 3, 0));
  activity_.OnSilence(SilenceOf(1, "oslo", 3, 1));
  activity_.OnSilence(SilenceOf(2, "batam", 2.5));
  EXPECT_NE(activity_.Text().find("waiting for oslo and batam, silent for 3.0 s"),
            std::string::npos)
      << activity_.Text();
  activity_.OnSilence(SilenceOf(1, "oslo", 0, 0));
  EXPECT_NE(activity_.Text().find("oslo"), std::string::npos);
  activity_.OnSilence(SilenceOf(1, "oslo", 0, 1));
  EXPECT_EQ(activity_.Text().find("oslo"), std::string::npos);
}

TEST_F(ActivityTest, WhatBeginsNextWaitsForNobody) {
  activity_.Begin("all-reduce of round 5");
  activity_.OnSilence(SilenceOf(1, "oslo", 3));
  activity_.Begin("outer step of round 5");
  EXPECT_EQ(activity_.Text(), "outer step of round 5");
}

TEST(SomeNamesTest, ManyNamesAreCounted) {
  EXPECT_EQ(SomeNames({}), "");
  EXPECT_EQ(SomeNames({"a"}), "a");
  EXPECT_EQ(SomeNames({"a", "b", "c", "d"}), "a, b, c and d");
  EXPECT_EQ(SomeNames({"a", "b", "c", "d", "e"}), "a, b, c and 2 others");
}

}  // namespace
}  // namespace atl
