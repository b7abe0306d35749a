// A communicator's memory: given back once, zeros, and an error where there is none.
#include "collectives/buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <utility>

namespace atl {
namespace {

TEST(Buffer, GivesItsMemoryBackOnceHoweverItIsMoved) {
  float memory[4] = {};
  int released = 0;
  {
    Buffer first(memory, 4, /*shared=*/true, [&] { ++released; });
    Buffer second = std::move(first);
    EXPECT_EQ(first.data(), nullptr);
    EXPECT_FALSE(first.shared());
    EXPECT_EQ(second.data(), memory);
    EXPECT_TRUE(second.shared());
    Buffer third;
    third = std::move(second);
    EXPECT_EQ(third.count(), 4);
    EXPECT_EQ(released, 0);
    third = Buffer();
    EXPECT_EQ(released, 1);
  }
  EXPECT_EQ(released, 1);
}

TEST(Buffer, IsZerosFromThePageOnWhereItIsOrdinary) {
  for (const int64_t count : {0, 1, 1023, 1024, 1025, 100000}) {
    const auto buffer = Buffer::Ordinary(count);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % Buffer::kAlignment, 0u);
    EXPECT_EQ(buffer->count(), count);
    EXPECT_FALSE(buffer->shared());
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(buffer->data()[i], 0.0f) << i;
  }
}

TEST(Buffer, SaysThatThereIsNoMemory) {
  for (const int64_t count : {int64_t{1} << 52, std::numeric_limits<int64_t>::max()}) {
    EXPECT_EQ(Buffer::Ordinary(count).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

}  // namespace
}  // namespace atl
