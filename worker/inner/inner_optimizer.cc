#include "worker/inner/inner_optimizer.h"

#include <cmath>
#include <cstring>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace atl {

InnerOptimizer::InnerOptimizer(Trainer* trainer, Communicator* region, const Lanes* lanes,
                               const pb::Train& train)
    : trainer_(trainer), region_(region), lanes_(lanes), train_(train) {
  for (size_t segment = 0; segment < lanes->segments().size(); ++segment) {
    const Range slice =
        lanes->WorkerSlice(static_cast<int>(segment), region->rank(), region->size());
    if (!slice.empty()) owned_.push_back(slice);
  }
}

StatusOr<std::unique_ptr<InnerOptimizer>> InnerOptimizer::Create(Trainer* trainer,
                                                                 Communicator* region,
                                                                 const Lanes* lanes,
                                                                 const pb::Train& train) {
  auto optimizer = absl::WrapUnique(new InnerOptimizer(trainer, region, lanes, train));
  RETURN_IF_ERROR(trainer->Own(optimizer->owned_));
  return optimizer;
}

StatusOr<double> InnerOptimizer::GradientSquareSum() {
  const int segments = static_cast<int>(lanes_->segments().size());
  const Range my_lanes = lanes_->LanesOfWorker(region_->rank(), region_->size());
  std::vector<double> mine;
  for (int segment = 0; segment < segments; ++segment) {
    for (int64_t lane = my_lanes.begin; lane < my_lanes.end; ++lane) {
      const Range slice = lanes_->Slice(segment, static_cast<int>(lane));
      ASSIGN_OR_RETURN(const double sum, trainer_->GradientSquareSum(slice.begin, slice.size()));
      mine.push_back(sum);
    }
  }
  const std::string bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(double));
  ASSIGN_OR_RETURN(const std::vector<std::string> all, region_->AllGatherBytes(bytes));
  double total = 0;
  for (int segment = 0; segment < segments; ++segment) {
    for (int worker = 0; worker < region_->size(); ++worker) {
      const int64_t count = lanes_->LanesOfWorker(worker, region_->size()).size();
      if (static_cast<int64_t>(all[worker].size()) !=
          segments * count * static_cast<int64_t>(sizeof(double))) {
        return absl::InternalError(
            absl::StrCat("worker ", worker, " has another layout of the parameters"));
      }
      for (int64_t i = 0; i < count; ++i) {
        double part;
        std::memcpy(&part, all[worker].data() + (segment * count + i) * sizeof(double),
                    sizeof part);
        total += part;
      }
    }
  }
  return total;
}

StatusOr<InnerOptimizer::StepResult> InnerOptimizer::Step(double learning_rate,
                                                          double gradient_scale) {
  ASSIGN_OR_RETURN(const double square_sum, GradientSquareSum());
  StepResult result;
  result.gradient_norm = std::sqrt(square_sum) * gradient_scale;
  if (!std::isfinite(result.gradient_norm)) {
    return WithExitCode(
        absl::InternalError(
            "the gradient is not finite: training diverged. Lower train.learning_rate or "
            "train.clip_norm and resume from an earlier checkpoint"),
        ExitCode::kFailed);
  }
  double scale = gradient_scale;
  if (train_.clip_norm() > 0 && result.gradient_norm > train_.clip_norm()) {
    scale *= train_.clip_norm() / result.gradient_norm;
  }
  atoll_adamw settings = {};
  settings.step = ++updates_;
  settings.learning_rate = learning_rate;
  settings.beta1 = train_.beta1();
  settings.beta2 = train_.beta2();
  settings.epsilon = train_.epsilon();
  settings.weight_decay = train_.weight_decay();
  settings.gradient_scale = scale;
  RETURN_IF_ERROR(trainer_->AdamW(settings));
  RETURN_IF_ERROR(GatherParameters());
  return result;
}

Status InnerOptimizer::GatherParameters() {
  if (region_->size() == 1) return OkStatus();
  for (size_t segment = 0; segment < lanes_->segments().size(); ++segment) {
    RETURN_IF_ERROR(
        region_->AllGather(trainer_->data(Vector::kParameters),
                           lanes_->WorkerSlices(static_cast<int>(segment), region_->size())));
  }
  return OkStatus();
}

}  // namespace atl
