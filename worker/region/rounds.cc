// The commands of a round: train, reduce, commit, evaluate.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/units.h"
#include "worker/region/replica.h"

namespace atl {
namespace {

std::vector<int64_t> Numbers(const google::protobuf::RepeatedPtrField<pb::SampleRange>& ranges) {
  std::vector<int64_t> numbers;
  for (const pb::SampleRange& range : ranges) {
    for (int64_t sample = range.begin(); sample < range.end(); ++sample) numbers.push_back(sample);
  }
  return numbers;
}

}  // namespace

Status RegionWorker::Train(const pb::TrainRound& command, pb::RegionAnswer* answer) {
  TrainPart part;
  part.round = command.round();
  part.first_step = command.first_step();
  part.steps = command.steps();
  part.samples = Numbers(command.samples());
  if (part.steps < 1 || part.samples.empty() || part.samples.size() % part.steps != 0) {
    return absl::InternalError(absl::StrCat("round ", part.round, ": ", part.samples.size(),
                                            " samples for ", part.steps, " steps"));
  }
  PrepareSaves();
  bool quorum = false;
  part.go_on = [&]() -> StatusOr<bool> {
    if (command.quorum() > 0) {
      ASSIGN_OR_RETURN(quorum, QuorumHasBegun(command));
      if (quorum) return false;
    }
    std::string stop = Interrupted() ? "x" : "";
    if (control_->size() > 1) RETURN_IF_ERROR(control_->Broadcast(&stop, 0));
    return stop.empty();
  };
  ASSIGN_OR_RETURN(const TrainResult result, replica_->method->Train(part));
  answer->set_steps(result.steps);
  answer->set_quorum(quorum);
  answer->set_loss_sum(result.loss_sum);
  answer->set_tokens(result.tokens);
  answer->set_gradient_norm(result.gradient_norm);
  answer->set_learning_rate(result.learning_rate);
  return OkStatus();
}

// Of the lanes that each rank carries, all ranks tell one another: any of them will do.
StatusOr<bool> RegionWorker::QuorumHasBegun(const pb::TrainRound& command) {
  int64_t begun = 0;
  const Range own =
      replica_->lanes->LanesOfWorker(replica_->tensors->rank(), replica_->tensors->size());
  if (own.begin < own.end) {
    for (const MemberIndex member :
         wan_->Announced(ViewId{view_.id()}, LaneId{static_cast<int>(own.begin)},
                         static_cast<uint64_t>(command.position()))) {
      begun += view_.members(static_cast<int>(member.value)).role() == pb::Member::FULL ? 1 : 0;
    }
  }
  const std::string mine = begun >= command.quorum() ? "x" : "";
  if (control_->size() == 1) return !mine.empty();
  ASSIGN_OR_RETURN(const std::vector<std::string> all, control_->AllGatherBytes(mine));
  return std::any_of(all.begin(), all.end(), [](const std::string& one) { return !one.empty(); });
}

Status RegionWorker::Reduce(const pb::ReduceRound& command, pb::RegionAnswer* answer) {
  const std::string doing = absl::StrCat("all-reduce of round ", command.round());
  Doing(doing);
  const std::vector<std::string> others = OtherRegions(view_);
  if (!others.empty()) {
    activity_.WaitFor(
        SomeNames(others),
        absl::StrCat("who is silent for ", FormatDuration(wan::EngineOptions().patience_seconds),
                     " is lost"));
  }
  ReducePart part;
  part.round = command.round();
  part.mode = command.mode();
  part.position = command.position();
  part.expected_tokens = command.expected_tokens();
  part.note = command.note();
  Agreement last;
  part.agree = [&](const WaitingLanes& lanes) -> StatusOr<std::optional<bool>> {
    ASSIGN_OR_RETURN(last, Agree(lanes.done, lanes.failure));
    if (last.done) return std::optional(true);
    if (last.interrupted || last.broken || !last.failure.ok()) return std::optional(false);
    return std::optional<bool>();
  };
  ASSIGN_OR_RETURN(const ReduceResult result, replica_->method->Reduce(part));
  if (!result.well) return GivenUp(last, answer);
  BeginFetch();
  Doing(doing);
  if (control_->size() > 1) {
    activity_.WaitFor("this region's other workers", "the outer step follows");
  }
  for (const pb::RoundNote& note : result.notes) *answer->add_notes() = note;
  answer->set_wan_bytes_sent(result.bytes_sent);
  return OkStatus();
}

Status RegionWorker::Commit(const pb::CommitRound& command, pb::RegionAnswer* answer) {
  const ScopedPhase phase(&phases_, Phase::kCompute);
  Doing(absl::StrCat("outer step of round ", command.round()));
  if (command.tokens() <= 0 || command.expected_tokens() <= 0) {
    return absl::InternalError(absl::StrCat("round ", command.round(), " stands for ",
                                            command.tokens(), " tokens of ",
                                            command.expected_tokens()));
  }
  if (following_ != nullptr) return CommitHeard(command, answer);
  if (command.keep_training()) RETURN_IF_ERROR(replica_->method->SetAside());
  RETURN_IF_ERROR(
      replica_->method->Commit(command.round(), command.tokens(), command.expected_tokens()));
  state_round_ = command.round();
  answer->set_state_round(state_round_);
  ASSIGN_OR_RETURN(const Digest digest, replica_->method->OuterDigest());
  answer->set_digest(digest.Hex());
  return ServeState();
}

Status RegionWorker::Evaluate(pb::RegionAnswer* answer) {
  const ScopedPhase phase(&phases_, Phase::kCompute);
  const int64_t sequence = dataset_->sequence_length();
  const int64_t samples = std::min(job_.train().evaluate_samples(), dataset_->validation_samples());
  // Observers have no model to evaluate.
  int full = 0, self = 0;
  for (const pb::Member& member : view_.members()) {
    if (member.region() == options_.region) self = full;
    if (member.role() == pb::Member::FULL) ++full;
  }
  const Range region = Gradients::WorkerSamples({0, samples}, self, full);
  const Range own = Gradients::WorkerSamples(region, control_->rank(), control_->size());
  double loss_sum = 0;
  std::vector<int32_t> tokens;
  for (int64_t first = own.begin; first < own.end; first += job_.train().micro_batch()) {
    const int64_t batch = std::min(job_.train().micro_batch(), own.end - first);
    tokens.resize(batch * (sequence + 1));
    for (int64_t i = 0; i < batch; ++i) {
      // Spread over the held-out part.
      const int64_t index = (first + i) * dataset_->validation_samples() / samples;
      RETURN_IF_ERROR(dataset_->ValidationSample(
          index, std::span(tokens).subspan(i * (sequence + 1), sequence + 1)));
    }
    ASSIGN_OR_RETURN(const double loss, trainer_->Loss(tokens, batch, sequence));
    loss_sum += loss;
  }
  answer->set_loss_sum(loss_sum);
  answer->set_tokens(own.size() * sequence);
  return OkStatus();
}

}  // namespace atl
