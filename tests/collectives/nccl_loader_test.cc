// What can be said of the NCCL backend on any machine: asking for it never crashes, and what it
// answers is consistent.
#include <gtest/gtest.h>

#include "collectives/inprocess/inprocess.h"
#include "collectives/nccl/loader.h"

namespace atl {
namespace {

TEST(NcclLoader, SaysWhyWhenNcclCannotBeUsed) {
  std::string why;
  const bool usable = NcclUsable(&why);
  EXPECT_EQ(usable, why.empty()) << why;
  std::string again;
  EXPECT_EQ(NcclUsable(&again), usable);
  EXPECT_EQ(again, why);
}

TEST(NcclLoader, RefusesACommunicatorWithTheSameReason) {
  std::string why;
  if (NcclUsable(&why)) GTEST_SKIP() << "this host has a GPU; nccl_battery does more";
  auto control = MakeInProcessGroup(1);
  const auto communicator = MakeNcclCommunicator(*control[0], 0);
  ASSERT_FALSE(communicator.ok());
  EXPECT_NE(communicator.status().message().find(why), absl::string_view::npos);
}

}  // namespace
}  // namespace atl
