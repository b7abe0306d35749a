#include "worker/inner/gradients.h"

#include <algorithm>

namespace atl {

Gradients::Gradients(Trainer* trainer, Communicator* region, const Lanes* lanes,
                     const Dataset* dataset, std::vector<int> segment_of_tensor,
                     int64_t micro_batch)
    : trainer_(trainer),
      region_(region),
      lanes_(lanes),
      dataset_(dataset),
      segment_of_tensor_(std::move(segment_of_tensor)),
      micro_batch_(micro_batch) {
  const int segments = static_cast<int>(lanes->segments().size());
  for (int segment = 0; segment < segments; ++segment) {
    slices_.push_back(lanes->WorkerSlices(segment, region->size()));
  }
  tensors_in_segment_.assign(segments, 0);
  for (int segment : segment_of_tensor_) ++tensors_in_segment_[segment];
  if (region->size() > 1) queue_ = std::make_unique<CollectiveQueue>();
}

Range Gradients::WorkerSamples(Range samples, int rank, int workers) {
  const int64_t each = samples.size() / workers, larger = samples.size() % workers;
  const int64_t begin = samples.begin + rank * each + std::min<int64_t>(rank, larger);
  return {begin, begin + each + (rank < larger ? 1 : 0)};
}

StatusOr<double> Gradients::Step(std::span<const int64_t> samples, double scale) {
  const Range mine =
      WorkerSamples({0, static_cast<int64_t>(samples.size())}, region_->rank(), region_->size());
  const int64_t sequence = dataset_->sequence_length();
  RETURN_IF_ERROR(trainer_->ZeroGradients());
  missing_ = tensors_in_segment_;
  next_segment_ = static_cast<int>(missing_.size()) - 1;
  double loss_sum = 0;
  std::vector<int32_t> tokens;
  for (int64_t first = mine.begin; first < mine.end; first += micro_batch_) {
    const int64_t batch = std::min(micro_batch_, mine.end - first);
    tokens.resize(batch * (sequence + 1));
    for (int64_t i = 0; i < batch; ++i) {
      RETURN_IF_ERROR(dataset_->TrainingSample(
          samples[first + i], std::span(tokens).subspan(i * (sequence + 1), sequence + 1)));
    }
    std::function<void(int64_t)> ready;
    if (queue_ && first + batch == mine.end)
      ready = [this](int64_t tensor) { TensorReady(tensor); };
    ASSIGN_OR_RETURN(const double loss,
                     trainer_->LossAndGradient(tokens, batch, sequence, scale, ready));
    loss_sum += loss;
  }
  if (!queue_) return loss_sum;
  if (mine.empty()) {
    std::fill(missing_.begin(), missing_.end(), 0);
    QueueReadySegments();
  }
  RETURN_IF_ERROR(Annotate(queue_->Drain(), "while summing gradients in the region"));
  return loss_sum;
}

void Gradients::TensorReady(int64_t tensor) {
  --missing_[segment_of_tensor_[tensor]];
  QueueReadySegments();
}

void Gradients::QueueReadySegments() {
  while (next_segment_ >= 0 && missing_[next_segment_] == 0) {
    const int segment = next_segment_--;
    queue_->Submit([this, segment] {
      return region_->ReduceScatter(trainer_->data(Vector::kGradients), slices_[segment]);
    });
  }
}

}  // namespace atl
