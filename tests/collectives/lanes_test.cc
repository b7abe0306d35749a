// Slices cover the vector exactly once, whatever the numbers.
#include "collectives/lanes.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"

namespace atl {
namespace {

std::vector<Range> Segments(const std::vector<int64_t>& blocks) {
  std::vector<Range> segments;
  int64_t end = 0;
  for (const int64_t count : blocks) {
    segments.push_back({end, end + count * kDigestBlock});
    end = segments.back().end;
  }
  return segments;
}

// Shapes that a model may have: none, one, empty, tiny, uneven and many segments.
std::vector<std::vector<Range>> Shapes() {
  std::vector<std::vector<Range>> shapes = {Segments({}),           Segments({1}),
                                            Segments({0}),          Segments({1, 1, 1}),
                                            Segments({0, 5, 0, 7}), Segments({100, 3, 17, 1, 64})};
  std::vector<int64_t> many;
  for (uint64_t i = 0; i < 60; ++i) {
    many.push_back(static_cast<int64_t>(CounterRandom(7).Bits(i) % 40));
  }
  shapes.push_back(Segments(many));
  return shapes;
}

template <typename Body>
void ForAll(Body body) {
  for (const auto& segments : Shapes()) {
    for (int lanes = 1; lanes <= 9; ++lanes) body(Lanes(segments, lanes));
  }
}

TEST(Lanes, CoverEveryElementExactlyOnceInOrder) {
  ForAll([](const Lanes& lanes) {
    int64_t at = 0;
    for (int segment = 0; segment < static_cast<int>(lanes.segments().size()); ++segment) {
      ASSERT_EQ(lanes.segments()[segment].begin, at);
      for (int lane = 0; lane < lanes.lanes(); ++lane) {
        const Range slice = lanes.Slice(segment, lane);
        ASSERT_EQ(slice.begin, at);
        ASSERT_GE(slice.end, slice.begin);
        at = slice.end;
      }
      ASSERT_EQ(at, lanes.segments()[segment].end);
    }
    ASSERT_EQ(at, lanes.size());
  });
}

TEST(Lanes, LieOnTheDigestGrid) {
  ForAll([](const Lanes& lanes) {
    for (int segment = 0; segment < static_cast<int>(lanes.segments().size()); ++segment) {
      for (int lane = 0; lane < lanes.lanes(); ++lane) {
        ASSERT_EQ(lanes.Slice(segment, lane).begin % kDigestBlock, 0);
        ASSERT_EQ(lanes.Slice(segment, lane).end % kDigestBlock, 0);
      }
    }
  });
}

TEST(Lanes, HaveSizesThatAddUpAndDifferByOneBlockAtMost) {
  ForAll([](const Lanes& lanes) {
    int64_t sum = 0, smallest = INT64_MAX, largest = 0;
    for (int lane = 0; lane < lanes.lanes(); ++lane) {
      const int64_t size = lanes.LaneSize(lane);
      sum += size;
      smallest = std::min(smallest, size);
      largest = std::max(largest, size);
    }
    EXPECT_EQ(sum, lanes.size());
    EXPECT_LE(largest - smallest, kDigestBlock);
  });
}

TEST(Lanes, SplitEverySegmentEvenly) {
  ForAll([](const Lanes& lanes) {
    for (int segment = 0; segment < static_cast<int>(lanes.segments().size()); ++segment) {
      const int64_t blocks = lanes.segments()[segment].size() / kDigestBlock;
      for (int lane = 0; lane < lanes.lanes(); ++lane) {
        const int64_t own = lanes.Slice(segment, lane).size() / kDigestBlock;
        ASSERT_GE(own, blocks / lanes.lanes());
        ASSERT_LE(own, blocks / lanes.lanes() + 1);
      }
    }
  });
}

TEST(Lanes, BelongToExactlyOneWorkerEach) {
  ForAll([](const Lanes& lanes) {
    for (int workers = 1; workers <= 12; ++workers) {
      int64_t next = 0;
      for (int worker = 0; worker < workers; ++worker) {
        const Range owned = lanes.LanesOfWorker(worker, workers);
        ASSERT_EQ(owned.begin, next);
        next = owned.end;
        for (int64_t lane = owned.begin; lane < owned.end; ++lane) {
          ASSERT_EQ(lanes.WorkerOfLane(static_cast<int>(lane), workers), worker)
              << "lane " << lane << " of " << lanes.lanes() << ", workers " << workers;
        }
      }
      ASSERT_EQ(next, lanes.lanes());
    }
  });
}

TEST(Lanes, GiveAWorkerTheUnionOfItsLanesAndRangesThatCollectivesAccept) {
  ForAll([](const Lanes& lanes) {
    for (int workers = 1; workers <= 12; ++workers) {
      for (int segment = 0; segment < static_cast<int>(lanes.segments().size()); ++segment) {
        const std::vector<Range> slices = lanes.WorkerSlices(segment, workers);
        ASSERT_EQ(static_cast<int>(slices.size()), workers);
        int64_t at = lanes.segments()[segment].begin;
        for (int worker = 0; worker < workers; ++worker) {
          const Range slice = lanes.WorkerSlice(segment, worker, workers);
          ASSERT_EQ(slice, slices[worker]);
          ASSERT_EQ(slice.begin, at);  // adjacent, an empty one too
          const Range owned = lanes.LanesOfWorker(worker, workers);
          int64_t size = 0;
          for (int64_t lane = owned.begin; lane < owned.end; ++lane) {
            const Range part = lanes.Slice(segment, static_cast<int>(lane));
            ASSERT_EQ(part.begin, at + size);
            size += part.size();
          }
          ASSERT_EQ(slice.size(), size);
          at = slice.end;
        }
        ASSERT_EQ(at, lanes.segments()[segment].end);
      }
    }
  });
}

TEST(Lanes, WithAsManyWorkersAsLanesGiveOneEach) {
  const Lanes lanes(Segments({64, 32}), 4);
  for (int worker = 0; worker < 4; ++worker) {
    EXPECT_EQ(lanes.LanesOfWorker(worker, 4), (Range{worker, worker + 1}));
    EXPECT_EQ(lanes.WorkerSlice(1, worker, 4), lanes.Slice(1, worker));
  }
}

TEST(LanesDeathTest, RefuseSegmentsOffTheGridOrOutOfPlace) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(Lanes({{0, 100}}, 1), "digest grid");
  EXPECT_DEATH(Lanes({{256, 512}}, 1), "adjacent");
  EXPECT_DEATH(Lanes({{0, 256}, {512, 768}}, 1), "adjacent");
  EXPECT_DEATH(Lanes({{0, 256}}, 0), "");
  EXPECT_DEATH(Lanes({{0, 256}}, 2).Slice(0, 2), "");
}

}  // namespace
}  // namespace atl
