#include "worker/inner/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace atl {

int64_t TotalInnerSteps(const pb::Job& job) {
  const bool every_step = job.sync().method() == pb::Sync::EVERY_STEP;
  return job.train().rounds() * (every_step ? 1 : job.train().inner_steps());
}

double LearningRate(const pb::Train& train, int64_t step, int64_t total_steps) {
  const double peak = train.learning_rate();
  const int64_t warmup = std::min(train.warmup_steps(), total_steps);
  if (step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  const double floor = peak * train.min_learning_rate_ratio();
  const double done = static_cast<double>(std::min(step, total_steps) - warmup) /
                      static_cast<double>(std::max<int64_t>(1, total_steps - warmup));
  return floor + 0.5 * (peak - floor) * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace atl
