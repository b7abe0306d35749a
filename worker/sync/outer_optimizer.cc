#include "worker/sync/outer_optimizer.h"

#include "base/log.h"

namespace atl {

void OuterStep(const pb::Sync& settings, std::span<float> outer, std::span<float> momentum,
               std::span<const float> gradient) {
  CHECK_EQ(outer.size(), momentum.size());
  CHECK_EQ(outer.size(), gradient.size());
  const float rate = static_cast<float>(settings.outer_learning_rate());
  const float mu = static_cast<float>(settings.outer_momentum());
  const bool nesterov = settings.nesterov();
  for (size_t i = 0; i < outer.size(); ++i) {
    momentum[i] = mu * momentum[i] + gradient[i];
    const float step = nesterov ? gradient[i] + mu * momentum[i] : momentum[i];
    outer[i] -= rate * step;
  }
}

}  // namespace atl
