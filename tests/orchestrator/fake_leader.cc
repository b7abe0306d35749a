#include "tests/orchestrator/fake_leader.h"

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/server.h"
#include "proto/round_plan.h"

namespace atl {

FakeLeader::FakeLeader(Options options) : options_(std::move(options)) {
  auto client = ControlClient::Create(options_.address, options_.lease);
  CHECK(client.ok()) << client.status();
  client_ = *std::move(client);
  thread_ = std::thread([this] { Run(); });
}

const std::optional<pb::JobEnded>& FakeLeader::Join() {
  if (thread_.joinable()) thread_.join();
  return ended_;
}

void FakeLeader::Run() {
  const double deadline = Clock::Real()->MonotonicSeconds() + 30;
  pb::LeaderMessage hello;
  hello.mutable_hello()->set_protocol(kControlProtocol);
  hello.mutable_hello()->set_region(options_.lease.region);
  hello.mutable_hello()->set_attempt("attempt");
  hello.mutable_hello()->set_workers(2);
  client_->Send(hello);
  while (!ended_ && refused_.empty() && Clock::Real()->MonotonicSeconds() < deadline) {
    if (const auto message = client_->Receive(0.5)) {
      Take(*message);
    } else if (!welcomed_) {
      client_->Send(hello);
    } else {
      for (const auto& [sequence, report] : outbox_) client_->Send(report);
      pb::LeaderMessage heartbeat;
      heartbeat.mutable_heartbeat()->set_doing("waiting");
      client_->Send(heartbeat);
    }
  }
}

void FakeLeader::Report(pb::LeaderMessage message) {
  message.set_sequence(++sequence_);
  message.set_attempt("attempt");
  outbox_[sequence_] = message;
  client_->Send(message);
}

void FakeLeader::Take(const pb::OrchestratorMessage& message) {
  if (message.has_ack()) outbox_.erase(message.ack().sequence());
  if (message.has_ended()) ended_ = message.ended();
  if (message.has_refused()) refused_ = message.refused().reason();
  if (message.has_welcome() && !welcomed_) {
    welcomed_ = true;
    job_ = message.welcome().job();
    pb::LeaderMessage ready;
    ready.mutable_ready()->set_parameters(1000);
    ready.mutable_ready()->set_dataset_samples(10000);
    ready.mutable_ready()->set_accelerator("cpu");
    ready.mutable_ready()->add_gateways("127.0.0.1:1");
    ready.mutable_ready()->add_gateways("127.0.0.1:2");
    for (const auto& checkpoint : options_.checkpoints) {
      *ready.mutable_ready()->add_checkpoints() = checkpoint;
    }
    Report(std::move(ready));
  }
  if (message.has_view() && message.view().id() > view_.id()) {
    view_ = message.view();
    round_ = view_.first_round() - 1;
  }
  if (message.has_stop()) stop_ = true;
  if (view_.id() > 0 && !left_) TrainAsFarAsPossible();
}

void FakeLeader::TrainAsFarAsPossible() {
  int member = 0;
  while (view_.members(member).region() != options_.lease.region) ++member;
  while (round_ < view_.last_round()) {
    if (round_ == options_.wait_after_round && round_ > 0) break;
    const RoundPlan plan = PlanRound(view_, job_, member, ++round_);
    pb::LeaderMessage message;
    pb::RoundReport* report = message.mutable_round();
    report->set_view(view_.id());
    report->set_round(round_);
    report->set_digest(absl::StrCat("digest-", round_));
    report->set_first_sample(plan.region_samples.begin);
    report->set_end_sample(plan.region_samples.end);
    report->set_tokens(plan.region_samples.size() * job_.data().sequence_length());
    report->set_loss_sum(static_cast<double>(report->tokens()) * 8.0 / static_cast<double>(round_));
    report->set_seconds(0.5);
    report->set_wan_seconds(0.1);
    report->set_wan_bytes_sent(1000);
    report->mutable_phases()->set_compute(static_cast<double>(round_));
    report->mutable_phases()->set_idle(1);
    Report(std::move(message));
    if (round_ == options_.wait_after_round) options_.on_waiting();
  }
  if (stop_ || round_ >= view_.last_round()) Leave();
}

void FakeLeader::Leave() {
  left_ = true;
  const bool done = round_ >= view_.last_round();
  if (done) {
    pb::LeaderMessage evaluation;
    evaluation.mutable_evaluation()->set_view(view_.id());
    evaluation.mutable_evaluation()->set_round(round_);
    evaluation.mutable_evaluation()->set_loss_sum(300);
    evaluation.mutable_evaluation()->set_tokens(100);
    Report(std::move(evaluation));
  }
  pb::LeaderMessage checkpoint;
  checkpoint.mutable_checkpoint()->set_view(view_.id());
  checkpoint.mutable_checkpoint()->mutable_checkpoint()->set_round(round_);
  checkpoint.mutable_checkpoint()->mutable_checkpoint()->set_digest(
      absl::StrCat("digest-", round_));
  Report(std::move(checkpoint));
  pb::LeaderMessage left;
  left.mutable_left()->set_round(round_);
  left.mutable_left()->set_exit_code(done ? 0 : 75);
  Report(std::move(left));
}

}  // namespace atl
