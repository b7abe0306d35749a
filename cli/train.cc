// 1. Prepare (cli/train_setup.h): every mistake that can be found now is found now.
// 2. Run (cli/train_run.h): orchestrator, regions, progress, signals.
// 3. Answer: the summary on stdout, and where a job failed the failure block on stderr.
#include "cli/train.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "cli/failure_block.h"
#include "cli/run_directory.h"
#include "cli/train_run.h"
#include "cli/train_setup.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

CommandSpec Spec() {
  CommandSpec spec;
  spec.command = "atoll train";
  spec.arguments = "JOB.yaml";
  spec.summary = "pretrain a model, all regions on this host";
  spec.details =
      "Starts one atoll-orchestrator and, for each region, one mpirun of atoll-worker, shows how "
      "it "
      "goes, and ends with the job's exit code. Everything about the job stays in the run "
      "directory; "
      "the same command continues what is there.\n\n"
      "Ctrl-C, SIGTERM and SIGUSR1 stop after the round, with a checkpoint (exit code 75: start me "
      "again). A second Ctrl-C stops now.";
  spec.min_positional = 1;
  spec.max_positional = 1;
  spec.flags = {
      {.name = "regions",
       .kind = FlagKind::kCount,
       .placeholder = "N",
       .help =
           "use the first N regions of the job, add region-K where it lists fewer; else all that "
           "it lists",
       .min = 1,
       .max = 256},
      {.name = "workers",
       .kind = FlagKind::kCount,
       .placeholder = "N",
       .help = "workers in each region",
       .default_value = "1",
       .min = 1,
       .max = 1024},
      {.name = "restart",
       .kind = FlagKind::kCount,
       .placeholder = "N",
       .help = "start a region that fails, or an orchestrator that is killed, again up to N times "
               "in a row, while the others go on; 10 minutes of work count anew",
       .default_value = "5",
       .min = 0,
       .max = 1000000},
      {.name = "run_dir",
       .placeholder = "DIR",
       .help = "where the job is kept; else runs/ and the job's name"},
      {.name = "resume",
       .placeholder = "auto|never|PATH",
       .help = "auto: from the newest complete checkpoint in the run directory, else fresh; never: "
               "fresh, what is there is set aside; PATH: from that checkpoint"},
      {.name = "encryption_key",
       .placeholder = "FILE",
       .help =
           "encrypt checkpoints with the key in this file (`atoll checkpoint keygen` makes one)"},
      {.name = "encryption_key_command",
       .placeholder = "COMMAND",
       .help = "the same, with the key that this shell command prints"},
      SetFlag(),
      JsonFlag(),
  };
  for (FlagSpec& flag : StoreFlags()) spec.flags.push_back(std::move(flag));
  return spec;
}

std::string LossText(double first, double last) {
  std::string text = absl::StrFormat("%.4g -> %.4g", first, last);
  if (first > 0) absl::StrAppendFormat(&text, " (%+.0f%%)", 100 * (last / first - 1));
  return text;
}

std::string SummaryText(const nlohmann::json& summary, const std::string& run_dir,
                        const std::string& job_file) {
  const auto number = [&](const char* member) { return NumberOr(summary, member, 0); };
  const std::string state = TextOr(summary, "state", "unknown");
  std::string text = absl::StrFormat("job %s: %s, %.0f of %.0f rounds, %s tokens in %s\n",
                                     TextOr(summary, "job", "?"), state, number("rounds_committed"),
                                     number("rounds_total"), FormatCount(number("tokens")),
                                     FormatDuration(number("wall_seconds")));
  if (summary.contains("train_loss_first") && summary["train_loss_first"].is_number()) {
    absl::StrAppend(&text, " train loss       ",
                    LossText(number("train_loss_first"), number("train_loss_last")), "\n");
  }
  if (number("validation_round") > 0) {
    absl::StrAppend(
        &text, " validation loss  ",
        LossText(NumberOr(summary, "validation_loss_first", 0), number("validation_loss")), "\n");
  }
  absl::StrAppendFormat(&text, " between regions  %s sent, compute utilization %.0f%%\n",
                        FormatBytes(number("wan_bytes_sent")), 100 * number("compute_utilization"));
  if (const std::string digest = TextOr(summary, "digest", ""); !digest.empty()) {
    absl::StrAppend(&text, " digest           ", digest, ", equal in every region\n");
  }
  absl::StrAppend(&text, " files            ", run_dir,
                  " (summary.json, rounds.jsonl, events.jsonl, ", "REGION/checkpoints)\n");
  if (state == "done") {
    absl::StrAppendFormat(
        &text,
        " try next         atoll status %s\n"
        "                  atoll train %s --run_dir=%s --set train.rounds=%.0f   # train on\n",
        run_dir, job_file, run_dir, 2 * number("rounds_total"));
  } else {
    absl::StrAppendFormat(
        &text,
        " try next         the same command again: it goes on after the newest checkpoint\n");
  }
  return text;
}

StatusOr<ExitCode> Train(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(OrchestratorStore store, OrchestratorStoreOf(flags));
  ASSIGN_OR_RETURN(TrainSetup setup, PrepareTraining(flags, &output));
  setup.store = std::move(store);
  return TrainPrepared(setup, flags.positional()[0], output);
}

}  // namespace

StatusOr<ExitCode> TrainPrepared(const TrainSetup& setup, const std::string& job_file,
                                 Output& output) {
  TrainResult result;
  if (!setup.already_done) {
    output.Talk(absl::StrCat("job ", setup.job.name(), ": ", setup.job.regions_size(),
                             " regions of ", setup.workers,
                             setup.workers == 1 ? " worker" : " workers", ", ",
                             setup.job.train().rounds(), " rounds, in ", setup.run_dir, "\n"));
    TrainRun run(setup, &output);
    ASSIGN_OR_RETURN(result, run.Run());
  }
  const std::string files = result.run_dir.empty() ? setup.run_dir : result.run_dir;
  nlohmann::json summary = ReadSummary(files);
  if (!summary.is_object()) summary = nlohmann::json::object();
  if (result.failure) {
    FailureContext context;
    context.run_dir = setup.run_dir;
    context.job = setup.job.name();
    context.oom_kills = result.oom_kills;
    context.inner_steps = InnerSteps(setup.job);
    context.next = absl::StrCat("mend the cause, then start the same command again; `atoll status ",
                                setup.run_dir, "` shows how the job stands");
    output.Talk(output.PaintTalk(Colour::kRed, FailureText(*result.failure, summary, context)));
    summary["failure"] = FailureJson(*result.failure);
    summary["state"] = "failed";
  } else {
    if (!result.message.empty()) {  // the orchestrator had no time to say so
      output.Talk(result.message + "\n");
      summary["state"] = "interrupted";
    }
    output.Print(SummaryText(summary, files, job_file));
  }
  summary["run_dir"] = setup.run_dir;
  summary["exit_code"] = result.exit_code;
  output.Answer(summary);
  return static_cast<ExitCode>(result.exit_code);
}

Verb TrainVerb() { return {"train", Spec(), Train}; }

}  // namespace atl
