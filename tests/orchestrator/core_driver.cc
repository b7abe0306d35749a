#include "tests/orchestrator/core_driver.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

std::string TextOf(const Record& record) {
  if (const auto* job = std::get_if<JobRecord>(&record)) return absl::StrCat("job ", job->state);
  if (const auto* round = std::get_if<RoundRecord>(&record)) {
    return absl::StrCat("round ", round->round, " loss ", round->train_loss, " digest ",
                        round->digest);
  }
  if (const auto* event = std::get_if<EventRecord>(&record)) {
    return absl::StrCat("event ", event->kind, ": ", event->text);
  }
  if (const auto* supersede = std::get_if<SupersedeRecord>(&record)) {
    return absl::StrCat("supersede after ", supersede->round);
  }
  return "";
}

std::string TextOf(const Outgoing& outgoing) {
  const pb::OrchestratorMessage& message = outgoing.message;
  std::string text = absl::StrCat("-> ", outgoing.region, " ");
  switch (message.body_case()) {
    case pb::OrchestratorMessage::kWelcome:
      return text + "welcome";
    case pb::OrchestratorMessage::kRefused:
      return absl::StrCat(text, "refused ", message.refused().exit_code(), " ",
                          message.refused().reason());
    case pb::OrchestratorMessage::kView:
      return absl::StrCat(text, "view ", message.view().id(), " from round ",
                          message.view().first_round(), " sample ", message.view().first_sample(),
                          message.view().checkpoint().empty() ? "" : " load ",
                          message.view().checkpoint());
    case pb::OrchestratorMessage::kAck:
      return absl::StrCat(text, "ack ", message.ack().sequence());
    case pb::OrchestratorMessage::kStop:
      return text + "stop";
    case pb::OrchestratorMessage::kEnded:
      return absl::StrCat(text, "ended ", message.ended().state(), " ",
                          message.ended().exit_code());
    case pb::OrchestratorMessage::kFence:
      return absl::StrCat(text, "fence ", message.fence().id());
    case pb::OrchestratorMessage::kDropped:
      return text + "dropped";
    case pb::OrchestratorMessage::kDrain:
      return text + "drain";
    case pb::OrchestratorMessage::kMend: {
      const pb::MendCheckpoint& mend = message.mend();
      if (mend.replicated_root().empty()) return absl::StrCat(text, "prove ", mend.path());
      if (mend.sources().empty()) return absl::StrCat(text, "give ", mend.path());
      return absl::StrCat(text, "mend ", mend.path(), " to ", mend.replicated_root(), " from ",
                          absl::StrJoin(mend.sources(), ", "));
    }
    case pb::OrchestratorMessage::BODY_NOT_SET:
      return text + "nothing";
  }
  return text;
}

Core::Options OptionsFor(const pb::Job& job, const History& history) {
  Core::Options options;
  options.job = job;
  options.protocol = kTestProtocol;
  options.random_bytes = [](size_t size) { return std::string(size, 'k'); };
  options.history = history;
  return options;
}

}  // namespace

pb::CheckpointOnDisk CheckpointAt(int64_t round, const std::string& path, bool own) {
  pb::CheckpointOnDisk checkpoint;
  checkpoint.set_round(round);
  checkpoint.set_digest(absl::StrCat("d", round));
  checkpoint.set_own(own);
  checkpoint.set_next_sample(round * 8);
  checkpoint.set_inner_steps(round * 2);
  checkpoint.set_path(path.empty() ? absl::StrCat("/round-", round) : path);
  return checkpoint;
}

pb::Job CoreDriver::TestJob(int regions, int64_t rounds) {
  pb::Job job;
  job.set_name("test");
  job.set_resume("auto");
  job.mutable_train()->set_rounds(rounds);
  job.mutable_train()->set_global_batch(4);
  job.mutable_train()->set_inner_steps(2);
  job.mutable_data()->set_sequence_length(16);
  for (int i = 0; i < regions; ++i) job.add_regions()->set_name(std::string(1, 'a' + i));
  return job;
}

CoreDriver::CoreDriver(pb::Job job, History history)
    : job_(std::move(job)), core_(OptionsFor(job_, history)) {
  for (const pb::Region& region : job_.regions()) names_.push_back(region.name());
}

std::string CoreDriver::Take(Actions actions) {
  std::string text;
  for (const Record& record : actions.records) {
    const std::string line = TextOf(record);
    if (!line.empty()) absl::StrAppend(&text, line, "\n");
    records_.push_back(record);
  }
  for (const Outgoing& outgoing : actions.messages) {
    absl::StrAppend(&text, TextOf(outgoing), "\n");
    if (outgoing.message.has_view()) views_[outgoing.region] = outgoing.message.view();
    if (outgoing.message.has_ack()) {
      acked_[outgoing.region].push_back(outgoing.message.ack().sequence());
    }
  }
  if (actions.ended) {
    CHECK(!ended_) << "the job ended twice";
    ended_ = actions.ended;
    absl::StrAppend(&text, "end ", JobStateName(ended_->state), " ", ended_->exit_code, "\n");
  }
  wake_at_ = actions.wake_at;
  return text;
}

std::string CoreDriver::Start() { return Take(core_.Start(now_)); }

std::string CoreDriver::Message(const std::string& region, pb::LeaderMessage message) {
  return Take(core_.OnMessage(region, message, now_));
}

std::string CoreDriver::Send(const std::string& region, pb::LeaderMessage message) {
  message.set_sequence(++sequence_[region]);
  message.set_attempt(attempts_[region]);
  return Message(region, std::move(message));
}

std::string CoreDriver::Hello(const std::string& region, const std::string& attempt, int workers) {
  sequence_[region] = 0;
  workers_[region] = workers;
  attempts_[region] = attempt;
  pb::LeaderMessage message;
  message.mutable_hello()->set_protocol(kTestProtocol);
  message.mutable_hello()->set_region(region);
  message.mutable_hello()->set_attempt(attempt);
  message.mutable_hello()->set_workers(workers);
  message.mutable_hello()->set_host("host");
  return Message(region, std::move(message));
}

pb::Ready CoreDriver::ReadyMessage(const std::string& region) const {
  pb::Ready ready;
  ready.set_parameters(1000);
  ready.set_dataset_samples(500);
  ready.set_dataset_fingerprint(7);
  ready.set_accelerator("cpu");
  ready.set_survives(survives);
  for (int i = 0; i < workers_.at(region); ++i) {
    ready.add_gateways(absl::StrCat("127.0.0.1:", i + 1));
  }
  return ready;
}

std::string CoreDriver::Ready(const std::string& region,
                              const std::vector<pb::CheckpointOnDisk>& checkpoints) {
  pb::LeaderMessage message;
  *message.mutable_ready() = ReadyMessage(region);
  for (const auto& checkpoint : checkpoints)
    *message.mutable_ready()->add_checkpoints() = checkpoint;
  return Send(region, std::move(message));
}

pb::LeaderMessage CoreDriver::RoundReport(const std::string& region, int64_t round,
                                          const std::string& digest) {
  const pb::View& view = views_.at(region);
  int member = 0;
  while (view.members(member).region() != region) ++member;
  const RoundPlan plan = PlanRound(view, job_, member, round);
  pb::LeaderMessage message;
  pb::RoundReport* report = message.mutable_round();
  report->set_view(view.id());
  report->set_round(round);
  report->set_digest(digest.empty() ? absl::StrCat("d", round) : digest);
  report->set_tokens(plan.region_samples.size() * 16);
  report->set_loss_sum(2.0 * report->tokens());
  report->set_first_sample(plan.region_samples.begin);
  report->set_end_sample(plan.region_samples.end);
  report->set_wan_bytes_sent(100);
  report->mutable_phases()->set_compute(3);
  report->mutable_phases()->set_wan(1);
  return message;
}

std::string CoreDriver::Round(const std::string& region, int64_t round, const std::string& digest) {
  return Send(region, RoundReport(region, round, digest));
}

std::string CoreDriver::Evaluation(const std::string& region, int64_t round, double loss_sum,
                                   int64_t tokens) {
  pb::LeaderMessage message;
  message.mutable_evaluation()->set_view(views_.at(region).id());
  message.mutable_evaluation()->set_round(round);
  message.mutable_evaluation()->set_loss_sum(loss_sum);
  message.mutable_evaluation()->set_tokens(tokens);
  return Send(region, std::move(message));
}

std::string CoreDriver::Checkpoint(const std::string& region, int64_t round,
                                   const std::string& failure) {
  pb::LeaderMessage message;
  message.mutable_checkpoint()->set_view(views_.at(region).id());
  *message.mutable_checkpoint()->mutable_checkpoint() = CheckpointAt(round);
  if (!failure.empty()) {
    message.mutable_checkpoint()->set_failure(failure);
    message.mutable_checkpoint()->set_exit_code(4);
  }
  return Send(region, std::move(message));
}

std::string CoreDriver::Fault(const std::string& region, const std::string& what, int exit_code,
                              const std::string& blames) {
  pb::LeaderMessage message;
  message.mutable_fault()->set_what(what);
  message.mutable_fault()->set_doing("all-reduce round 1");
  message.mutable_fault()->set_exit_code(exit_code);
  message.mutable_fault()->set_blames(blames);
  return Send(region, std::move(message));
}

std::string CoreDriver::Left(const std::string& region, int64_t round, int exit_code,
                             bool never_entered) {
  pb::LeaderMessage message;
  message.mutable_left()->set_round(round);
  message.mutable_left()->set_exit_code(exit_code);
  message.mutable_left()->set_never_entered(never_entered);
  return Send(region, std::move(message));
}

std::string CoreDriver::Fenced(const std::string& region, int64_t id, int64_t round) {
  pb::LeaderMessage message;
  message.mutable_fenced()->set_id(id);
  message.mutable_fenced()->set_view(views_.at(region).id());
  message.mutable_fenced()->set_has_state(true);
  message.mutable_fenced()->set_round(round);
  message.mutable_fenced()->set_digest(absl::StrCat("d", round));
  message.mutable_fenced()->set_tokens(64);
  message.mutable_fenced()->set_expected_tokens(128);
  return Send(region, std::move(message));
}

std::string CoreDriver::Suspect(const std::string& region, const std::string& whom, int64_t round,
                                bool gone) {
  pb::LeaderMessage message;
  message.mutable_suspect()->set_view(views_.at(region).id());
  message.mutable_suspect()->set_round(round);
  message.mutable_suspect()->set_region(whom);
  message.mutable_suspect()->set_gone(gone);
  message.mutable_suspect()->set_what("the line broke");
  return Send(region, std::move(message));
}

std::string CoreDriver::Silent(const std::string& region, const std::string& whom, int64_t round,
                               double seconds) {
  pb::LeaderMessage message;
  message.mutable_suspect()->set_view(views_.at(region).id());
  message.mutable_suspect()->set_round(round);
  message.mutable_suspect()->set_region(whom);
  message.mutable_suspect()->set_silent_seconds(seconds);
  message.mutable_suspect()->set_what("silent while waited for");
  return Send(region, std::move(message));
}

std::string CoreDriver::Heartbeat(const std::string& region) {
  pb::LeaderMessage message;
  message.mutable_heartbeat()->set_doing("inner step 1/2");
  return Message(region, std::move(message));
}

std::string CoreDriver::Stop() { return Take(core_.OnStop("SIGTERM", now_)); }

std::string CoreDriver::Advance(double seconds) {
  now_ += seconds;
  return Take(core_.OnTick(now_));
}

std::string CoreDriver::AllReady(const std::vector<pb::CheckpointOnDisk>& checkpoints) {
  std::string text = Start();
  for (const std::string& name : names_) text += Hello(name);
  for (const std::string& name : names_) text += Ready(name, checkpoints);
  return text;
}

std::string CoreDriver::AllRound(int64_t round) {
  std::string text;
  for (const std::string& name : names_) text += Round(name, round);
  return text;
}

}  // namespace atl
