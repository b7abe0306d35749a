// Which chunk is asked of whom, and which checkpoint is taken.
#include "checkpoint/transfer/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "base/exit_code.h"
#include "checkpoint/transfer/choose.h"

namespace atl::checkpoint {
namespace {

using testing::HasSubstr;

// Eight chunks of 100 bytes, none here.
Scheduler Eight(int sources, const std::string& done = std::string(1, '\0')) {
  return Scheduler(std::vector<int64_t>(8, 100), done, sources);
}
std::string Bits(int bits) { return std::string(1, static_cast<char>(bits)); }

TEST(TransferScheduler, TakesTheRarestFirst) {
  Scheduler scheduler = Eight(3);
  scheduler.SetHas(0, Bits(0xFF));
  scheduler.SetHas(1, Bits(0x0F));
  scheduler.SetHas(2, Bits(0x3C));
  EXPECT_EQ(scheduler.Take(0, 0), 6);
  EXPECT_EQ(scheduler.Take(0, 0), 7);
  EXPECT_EQ(scheduler.Take(0, 0), 0);
  EXPECT_EQ(scheduler.Take(2, 0), 4);
  EXPECT_EQ(scheduler.Take(1, 0), 1);
  EXPECT_EQ(scheduler.Take(1, 0), 2);
  EXPECT_EQ(scheduler.Take(1, 0), 3);
  EXPECT_EQ(scheduler.Take(1, 0), std::nullopt);
  EXPECT_EQ(scheduler.Take(2, 0), 5);
  EXPECT_EQ(scheduler.left(), 8);
}

TEST(TransferScheduler, WhatIsHereIsNotAskedFor) {
  Scheduler scheduler = Eight(1, Bits(0xFD));
  scheduler.SetHas(0, Bits(0xFF));
  EXPECT_EQ(scheduler.left(), 1);
  EXPECT_EQ(scheduler.Take(0, 0), 1);
  scheduler.Done(1);
  EXPECT_EQ(scheduler.left(), 0);
  EXPECT_EQ(scheduler.Take(0, 0), std::nullopt);
}

TEST(TransferScheduler, ThreeStrikesAndASourceIsOutForAWhile) {
  Scheduler scheduler = Eight(2);
  scheduler.SetHas(0, Bits(0xFF));
  for (int64_t chunk = 0; chunk < 3; ++chunk) {
    EXPECT_EQ(scheduler.Take(0, 10), chunk);
    EXPECT_EQ(scheduler.Wrong(chunk, 0, 10), chunk == 2);
  }
  EXPECT_EQ(scheduler.Take(0, 10 + kOutSeconds - 1), std::nullopt);
  // Then it is asked again, but never for what it gave wrong.
  EXPECT_EQ(scheduler.Take(0, 10 + kOutSeconds), 3);
  scheduler.SetHas(1, Bits(0xFF));
  EXPECT_EQ(scheduler.Take(1, 10), 0);
  EXPECT_EQ(scheduler.Hopeless(), std::nullopt);
  scheduler.Wrong(0, 1, 10);
  EXPECT_EQ(scheduler.Hopeless(), 0);
}

TEST(TransferScheduler, AMuchQuickerSourceTakesOverWhatASlowOneOwes) {
  Scheduler scheduler = Eight(2, Bits(0xFC));
  scheduler.SetHas(0, Bits(0xFF));
  scheduler.SetHas(1, Bits(0xFF));
  EXPECT_EQ(scheduler.Take(0, 0), 0);
  EXPECT_EQ(scheduler.Take(0, 0), 1);
  scheduler.SetRate(0, 10);
  scheduler.SetRate(1, 0);
  EXPECT_FALSE(scheduler.Late(1, 0).has_value());  // nothing is known of it
  scheduler.SetRate(1, 12);
  EXPECT_TRUE(scheduler.Late(1, 0).has_value());  // 200 bytes at 10 or 100 at 12
  scheduler.SetRate(0, 200);
  EXPECT_FALSE(scheduler.Late(1, 0).has_value());
  scheduler.SetRate(0, 0);  // it gives nothing
  const auto late = scheduler.Late(1, 0);
  ASSERT_TRUE(late.has_value());
  EXPECT_EQ(late->from, 0);
  scheduler.Ask(late->chunk, 1, 40);
  EXPECT_EQ(scheduler.asked(0), 1);
  EXPECT_EQ(scheduler.asked(1), 1);
}

Offer OfferNamed(int64_t round, char manifest, char replicated, bool complete = true) {
  Offer offer;
  offer.round = round;
  offer.manifest_bytes = 10;
  offer.complete = complete;
  offer.manifest_hash = std::string(32, manifest);
  offer.root = std::string(32, static_cast<char>(manifest + 1));
  offer.replicated_root = std::string(32, replicated);
  return offer;
}

TEST(TransferChoice, TheNewestWholeRoundThatAllAgreeAbout) {
  const std::vector<SourceOffers> sources = {
      {"a", {OfferNamed(41, 'a', 'R'), OfferNamed(40, 'x', 'Q')}},
      {"b", {OfferNamed(41, 'c', 'R'), OfferNamed(42, 'p', 'P', false)}},
      {"c", {OfferNamed(41, 'c', 'R')}}};
  const auto choice = Choose(sources, std::nullopt, "");
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->offer.round, 41);
  EXPECT_EQ(choice->offer.manifest_hash, std::string(32, 'c'));  // two have it
  EXPECT_EQ(choice->vouched, "that a, b, c agree: no hash was given");
  EXPECT_THAT(Choose(sources, 40, "")->vouched, HasSubstr("nobody but a itself"));
}

TEST(TransferChoice, AHashDecidesByEachOfItsMeanings) {
  const std::vector<SourceOffers> sources = {{"a", {OfferNamed(41, 'a', 'R')}},
                                             {"b", {OfferNamed(41, 'c', 'S')}}};
  EXPECT_THAT(Choose(sources, std::nullopt, "").status().message(), HasSubstr("disagree"));
  const auto by = [&](char byte) {
    return Choose(sources, std::nullopt, absl::BytesToHexString(std::string(32, byte)));
  };
  EXPECT_EQ(by('c')->offer.manifest_hash, std::string(32, 'c'));
  EXPECT_EQ(by('b')->offer.manifest_hash, std::string(32, 'a'));
  EXPECT_EQ(by('R')->offer.manifest_hash, std::string(32, 'a'));
  EXPECT_THAT(by('R')->vouched, HasSubstr("nobody vouches for the region's own"));
  EXPECT_EQ(ExitCodeOf(by('z').status()), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(Choose(sources, 40, std::string(64, 'a')).status()), ExitCode::kUsage);
  EXPECT_THAT(Choose(sources, std::nullopt, "xyz").status().message(), HasSubstr("is no hash"));
}

}  // namespace
}  // namespace atl::checkpoint
