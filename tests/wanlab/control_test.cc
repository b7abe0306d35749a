// The control lines of a running lab.
#include "tools/wanlab/control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/exit_code.h"

namespace atl {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class Control : public testing::Test {
 protected:
  Control() : pool_(1 << 20), sea_(ThreeRegions(), &pool_) {}

  static Lab ThreeRegions() {
    Lab lab;
    lab.regions = {{"johor", 1000, 2000}, {"oslo", 0, 0}, {"batam", 0, 0}};
    lab.links.resize(9);
    return lab;
  }
  void Told(const std::vector<std::string>& words) {
    EXPECT_EQ(AnswerControl(words, &sea_), json::object());
  }
  // An error, which has changed nothing.
  std::string Refused(const std::vector<std::string>& words) {
    const json before = AnswerControl({"stats"}, &sea_);
    const json answer = AnswerControl(words, &sea_);
    EXPECT_EQ(AnswerControl({"stats"}, &sea_), before);
    EXPECT_EQ(ExitCodeOf(StatusOfAnswer(answer)), ExitCode::kUsage);
    return std::string(StatusOfAnswer(answer).message());
  }
  PacketPool pool_;
  Sea sea_;
};

TEST_F(Control, APairIsSetInBothDirections) {
  Told({"set", "johor:oslo", "rate=100mbit", "delay=50ms", "jitter=1ms", "loss=0.01", "queue=1s"});
  for (const auto& [from, to] : {std::pair(0, 1), std::pair(1, 0)}) {
    const LabLink& link = sea_.lab().link(from, to);
    EXPECT_EQ(link.rate_bits_per_second, 100'000'000);
    EXPECT_DOUBLE_EQ(link.delay_seconds, 0.05);
    EXPECT_DOUBLE_EQ(link.jitter_seconds, 0.001);
    EXPECT_DOUBLE_EQ(link.loss, 0.01);
    EXPECT_DOUBLE_EQ(link.queue_seconds, 1);
  }
  EXPECT_EQ(sea_.lab().link(0, 2).rate_bits_per_second, 0);
  Told({"set", "oslo:johor", "rate=none"});
  EXPECT_EQ(sea_.lab().link(0, 1).rate_bits_per_second, 0);
  EXPECT_DOUBLE_EQ(sea_.lab().link(0, 1).delay_seconds, 0.05);  // stays
}

TEST_F(Control, ARegionHasCapsAndAllItsPairs) {
  Told({"set", "oslo", "rate=5mbit"});
  EXPECT_EQ(sea_.lab().regions[1].up_bits_per_second, 5'000'000);
  EXPECT_EQ(sea_.lab().regions[1].down_bits_per_second, 5'000'000);
  Told({"set", "oslo", "down=none", "delay=10ms"});
  EXPECT_EQ(sea_.lab().regions[1].up_bits_per_second, 5'000'000);
  EXPECT_EQ(sea_.lab().regions[1].down_bits_per_second, 0);
  EXPECT_DOUBLE_EQ(sea_.lab().link(2, 1).delay_seconds, 0.01);
  EXPECT_DOUBLE_EQ(sea_.lab().link(0, 2).delay_seconds, 0);
  EXPECT_EQ(sea_.lab().link(0, 1).rate_bits_per_second, 0);
}

TEST_F(Control, CutAndHealTakeTwoRegionsOrOne) {
  Told({"cut", "johor", "oslo"});
  EXPECT_TRUE(sea_.is_cut(0, 1) && sea_.is_cut(1, 0));
  EXPECT_FALSE(sea_.is_cut(0, 2));
  Told({"heal", "johor:oslo"});
  EXPECT_FALSE(sea_.is_cut(0, 1) || sea_.is_cut(1, 0));
  Told({"cut", "batam"});
  EXPECT_TRUE(sea_.is_cut(0, 2) && sea_.is_cut(2, 0) && sea_.is_cut(1, 2));
  EXPECT_FALSE(sea_.is_cut(0, 1));
}

TEST_F(Control, MistakesAreNamedAndChangeNothing) {
  EXPECT_THAT(Refused({"set", "johor:olso", "rate=1mbit"}), HasSubstr("did you mean 'oslo'?"));
  EXPECT_THAT(Refused({"set", "johor:johor", "rate=1mbit"}), HasSubstr("no link to itself"));
  EXPECT_THAT(Refused({"set", "johor:oslo", "rat=1mbit"}), HasSubstr("did you mean 'rate'?"));
  EXPECT_THAT(Refused({"set", "johor:oslo", "up=1mbit"}), HasSubstr("unknown setting 'up'"));
  EXPECT_THAT(Refused({"set", "johor", "up=1mbit", "delay=4"}), HasSubstr("delay: '4' is not"));
  EXPECT_THAT(Refused({"set", "johor", "up=5"}), HasSubstr("up: "));
  EXPECT_THAT(Refused({"set", "johor:oslo", "loss=1"}), HasSubstr("wanlab cut"));
  EXPECT_THAT(Refused({"set", "johor:oslo", "loss=0.1", "loss=0.2"}), HasSubstr("twice"));
  EXPECT_THAT(Refused({"set", "johor:oslo"}), HasSubstr("nothing to set"));
  EXPECT_THAT(Refused({"set", "johor:oslo", "rate"}), HasSubstr("KEY=VALUE"));
  EXPECT_THAT(Refused({"cut", "a", "b", "c"}), HasSubstr("expected one region, or two"));
  EXPECT_THAT(Refused({"cut"}), HasSubstr("expected one region, or two"));
  EXPECT_THAT(Refused({"dance"}), HasSubstr("unknown command"));
  EXPECT_THAT(Refused({}), HasSubstr("empty"));
}

TEST_F(Control, StatsNameEveryDirection) {
  const json stats = AnswerControl({"stats"}, &sea_);
  EXPECT_EQ(stats.at("links").size(), 6u);
  EXPECT_EQ(stats.at("regions").size(), 3u);
  EXPECT_EQ(stats.at("links")[0].at("from"), "johor");
  EXPECT_EQ(stats.at("links")[0].at("to"), "oslo");
  EXPECT_EQ(stats.at("regions")[0].at("down_bits_per_second"), 2000);
}

}  // namespace
}  // namespace atl
