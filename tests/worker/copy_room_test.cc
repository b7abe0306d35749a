// Memory for what a member serves to regions that join.
#include "worker/region/copy_room.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace atl {
namespace {

TEST(CopyRoom, AllOfItIsThereToBeWritten) {
  CopyRoom room((17 << 20) + 3);  // 68 MiB: more than what is made ready between two looks
  const auto data = room.Data();
  ASSERT_TRUE(data.ok()) << data.status();
  ASSERT_EQ(data->size(), static_cast<size_t>(room.elements()));
  std::fill(data->begin(), data->end(), 1.5f);
  // Asked again, it is the same memory, with what was written there.
  const auto again = room.Data();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->data(), data->data());
  EXPECT_EQ(again->front(), 1.5f);
  EXPECT_EQ(again->back(), 1.5f);
}

TEST(CopyRoom, GoesWhileItIsBeingMade) {
  for (int i = 0; i < 20; ++i) CopyRoom room(16 << 20);
}

TEST(CopyRoom, MemoryThatTheSystemDoesNotHaveIsAnError) {
  CopyRoom room(int64_t{1} << 50);
  EXPECT_EQ(room.Data().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(room.Data().ok());
}

}  // namespace
}  // namespace atl
