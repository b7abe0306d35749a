// Checkpoints, as the leader sees them: what a save's answer and its end mean.
//
// A save behind training has two ends: the answer to its command, `pending`, and SaveEnded, from
// another thread. Either may come first; both come in the order of the commands.
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/agent/agent.h"
#include "worker/agent/answers.h"

namespace atl {

namespace {

void CopyReplicated(const pb::SaveEnded& saved, pb::CheckpointReport* report) {
  report->set_replicated_root(saved.replicated_root());
  *report->mutable_replicated() = saved.replicated();
}

}  // namespace

pb::CheckpointReport Agent::SaveReport() const {
  const SamplePool pool = PoolAfterParts(view_, job_, committed_, parts_);
  pb::CheckpointReport report;
  report.set_view(view_.id());
  auto* checkpoint = report.mutable_checkpoint();
  checkpoint->set_round(committed_);
  checkpoint->set_digest(digest_);
  checkpoint->set_own(true);
  checkpoint->set_next_sample(pool.next());
  ToProto(pool.returned(), checkpoint->mutable_returned());
  checkpoint->set_inner_steps(view_.inner_steps_done() +
                              (committed_ - view_.first_round() + 1) * InnerSteps(job_));
  return report;
}

// A save that fails while training goes on is told and costs nothing but the checkpoint: older ones
// are kept, and the next save comes. The one that the job or this region ends with must not fail.
void Agent::AfterSave(const std::vector<pb::RegionAnswer>& answers, double now,
                      AgentActions* actions) {
  pb::CheckpointReport report = SaveReport();
  int rank = 0;
  const pb::RegionAnswer* failure = FirstFailure(answers, &rank);
  saved_ = true;
  if (failure == nullptr && answers.front().pending()) {
    pending_saves_.push_back(std::move(report));
    TellSaves(now, actions);
    return Next(now, actions);
  }
  report.mutable_checkpoint()->set_path(answers.front().path());
  report.set_bytes(answers.front().bytes());
  report.set_seconds(answers.front().seconds());
  CopyReplicated(answers.front().saved(), &report);
  if (failure != nullptr) {
    report.set_failure(failure->error());
    report.set_exit_code(failure->exit_code());
  } else if (answers.front().skipped()) {
    report.set_skipped(++skipped_saves_);
    report.set_failure("the two saves before it are still being written");
  }
  ReportSave(std::move(report), now, actions);
  if (failure != nullptr && IsLastSave()) {
    Fail(failure->error(), static_cast<ExitCode>(failure->exit_code()), "", now, actions);
    return;
  }
  Next(now, actions);
}

void Agent::ReportSave(pb::CheckpointReport report, double now, AgentActions* actions) {
  if (report.failure().empty()) {
    // Said again with the next Ready.
    *ready_.add_checkpoints() = report.checkpoint();
    const int keep = static_cast<int>(std::max<int64_t>(1, job_.checkpoint().keep()));
    if (options_.survives && ready_.checkpoints_size() > 4 * keep) {
      ready_.mutable_checkpoints()->DeleteSubrange(0, ready_.checkpoints_size() - keep);
    }
  } else {
    actions->say.push_back(absl::StrCat("no checkpoint of round ", report.checkpoint().round(),
                                        ": ", report.failure()));
  }
  pb::LeaderMessage message;
  *message.mutable_checkpoint() = std::move(report);
  Report(std::move(message), now, actions);
}

AgentActions Agent::OnSaved(const pb::SaveEnded& ended, double now) {
  AgentActions actions;
  ended_saves_.push_back(ended);
  TellSaves(now, &actions);
  Next(now, &actions);
  return actions;
}

// Both come in the order of the commands: the oldest end is that of the oldest answer.
void Agent::TellSaves(double now, AgentActions* actions) {
  while (!pending_saves_.empty() && !ended_saves_.empty()) {
    pb::CheckpointReport report = std::move(pending_saves_.front());
    const pb::SaveEnded ended = std::move(ended_saves_.front());
    pending_saves_.pop_front();
    ended_saves_.pop_front();
    report.mutable_checkpoint()->set_path(ended.path());
    report.set_bytes(ended.bytes());
    report.set_seconds(ended.seconds());
    CopyReplicated(ended, &report);
    report.set_failure(ended.error());
    report.set_exit_code(ended.exit_code());
    ReportSave(std::move(report), now, actions);
  }
}

AgentActions Agent::OnTended(pb::CheckpointTended tended, double now) {
  AgentActions actions;
  // Who is in no view, or says nothing more, has the log.
  if (view_.id() == 0 || state_ == State::kLeaving || state_ == State::kFailed ||
      state_ == State::kOver) {
    return actions;
  }
  tended.set_view(view_.id());
  pb::LeaderMessage message;
  *message.mutable_tended() = std::move(tended);
  Report(std::move(message), now, &actions);
  return actions;
}

}  // namespace atl
