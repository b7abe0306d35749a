// Buckets, learning rate, outer optimizer: arithmetic against plain references.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "worker/inner/buckets.h"
#include "worker/inner/gradients.h"
#include "worker/inner/learning_rate.h"
#include "worker/sync/outer_optimizer.h"

namespace atl {
namespace {

std::vector<TensorInfo> Tensors(const std::vector<int64_t>& sizes, int64_t* total) {
  std::vector<TensorInfo> tensors;
  int64_t offset = 0;
  for (int64_t size : sizes) {
    tensors.push_back({"t", {size}, {offset, offset + size}});
    offset += (size + kDigestBlock - 1) / kDigestBlock * kDigestBlock;
  }
  *total = offset;
  return tensors;
}

TEST(Buckets, CoverTheVectorWithWholeTensorsAndReachTheirSizeFromTheEnd) {
  int64_t size = 0;
  const auto tensors = Tensors({1000, 300, 5000, 256, 256, 256, 7000}, &size);
  const Buckets buckets = MakeBuckets(tensors, size, 3000 * sizeof(float));
  int64_t at = 0;
  for (size_t i = 0; i < buckets.segments.size(); ++i) {
    EXPECT_EQ(buckets.segments[i].begin, at);
    at = buckets.segments[i].end;
    if (i > 0) {
      EXPECT_GE(buckets.segments[i].size(), 3000);
    }
  }
  EXPECT_EQ(at, size);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Range segment = buckets.segments[buckets.segment_of_tensor[i]];
    EXPECT_LE(segment.begin, tensors[i].elements.begin);
    EXPECT_GE(segment.end, tensors[i].elements.end);
  }
}

TEST(Buckets, OneHugeBucketHoldsEverything) {
  int64_t size = 0;
  const auto tensors = Tensors({10, 20, 30}, &size);
  const Buckets buckets = MakeBuckets(tensors, size, int64_t{1} << 40);
  ASSERT_EQ(buckets.segments.size(), 1u);
  EXPECT_EQ(buckets.segments[0], (Range{0, size}));
}

TEST(Gradients, WorkersShareSamplesEvenlyWithoutGapOrOverlap) {
  for (int workers = 1; workers <= 7; ++workers) {
    for (int64_t count : {0, 1, 5, 8, 100}) {
      int64_t at = 10;
      for (int rank = 0; rank < workers; ++rank) {
        const Range mine = Gradients::WorkerSamples({10, 10 + count}, rank, workers);
        EXPECT_EQ(mine.begin, at);
        EXPECT_LE(mine.size(), count / workers + 1);
        EXPECT_GE(mine.size(), count / workers);
        at = mine.end;
      }
      EXPECT_EQ(at, 10 + count);
    }
  }
}

TEST(LearningRate, WarmsUpLinearlyAndEndsAtItsFloor) {
  pb::Train train;
  train.set_learning_rate(1.0);
  train.set_min_learning_rate_ratio(0.1);
  train.set_warmup_steps(10);
  EXPECT_DOUBLE_EQ(LearningRate(train, 1, 100), 0.1);
  EXPECT_DOUBLE_EQ(LearningRate(train, 10, 100), 1.0);
  EXPECT_NEAR(LearningRate(train, 55, 100), 0.55, 1e-12);  // half-way down
  EXPECT_NEAR(LearningRate(train, 100, 100), 0.1, 1e-12);
  EXPECT_NEAR(LearningRate(train, 500, 100), 0.1, 1e-12);
  for (int step = 11; step <= 100; ++step) {
    EXPECT_LT(LearningRate(train, step, 100), LearningRate(train, step - 1, 100));
  }
}

TEST(OuterOptimizer, AgreesWithAPlainDoublePrecisionReference) {
  for (const bool nesterov : {true, false}) {
    pb::Sync settings;
    settings.set_outer_learning_rate(0.7);
    settings.set_outer_momentum(0.9);
    settings.set_nesterov(nesterov);
    constexpr int kSize = 1000;
    std::vector<float> outer(kSize), momentum(kSize, 0.0f);
    std::vector<double> outer_reference(kSize), momentum_reference(kSize, 0.0);
    const CounterRandom random(7);
    for (int i = 0; i < kSize; ++i)
      outer_reference[i] = outer[i] = static_cast<float>(random.Normal(i));
    for (int step = 0; step < 50; ++step) {
      std::vector<float> gradient(kSize);
      for (int i = 0; i < kSize; ++i) {
        gradient[i] = static_cast<float>(0.01 * random.Normal(1000 * (step + 1) + i));
        momentum_reference[i] = 0.9 * momentum_reference[i] + gradient[i];
        outer_reference[i] -=
            0.7 * (nesterov ? gradient[i] + 0.9 * momentum_reference[i] : momentum_reference[i]);
      }
      OuterStep(settings, outer, momentum, gradient);
    }
    for (int i = 0; i < kSize; ++i) {
      EXPECT_NEAR(outer[i], outer_reference[i], 1e-5);
      EXPECT_NEAR(momentum[i], momentum_reference[i], 1e-6);
    }
  }
}

}  // namespace
}  // namespace atl
