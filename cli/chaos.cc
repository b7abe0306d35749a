// 1. A lab of equal links, or that of --lab; the job's regions are the lab's.
// 2. `atoll train` in it (cli/train.h), beside a thread that does the faults (cli/chaos_faults.h).
// 3. The checks (cli/chaos_check.h), the figures, and with --quiet the comparison with a run of the
//    same job that nothing was done to.
#include "cli/chaos.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "cli/chaos_check.h"
#include "cli/chaos_faults.h"
#include "cli/rehearse.h"
#include "cli/run_directory.h"
#include "cli/train.h"
#include "cli/train_run.h"
#include "cli/train_setup.h"
#include "proto/lab_file.h"

namespace atl {
namespace {

constexpr double kMostLossApart = 0.02;  // of the quiet run's validation loss

CommandSpec Spec() {
  CommandSpec spec = TrainVerb().command;
  spec.command = "atoll chaos";
  spec.summary = "pretrain in a lab while processes are killed and links cut, and check what holds";
  spec.details =
      "The same as `atoll rehearse`, with faults: SIGKILL and SIGSTOP of regions and of the "
      "orchestrator, cuts in both and in one direction, 30% loss. Which faults, on whom, after "
      "which round follows from --seed. At the end the job must be done, every round committed "
      "once, the regions' states equal, and every sample of the ledger there once; else the exit "
      "code is 1. Must be root.";
  std::vector<FlagSpec> flags = {
      {.name = "lab",
       .placeholder = "FILE",
       .help = "the regions and the links between them; else --regions of them, 80 ms apart"},
      {.name = "seed",
       .kind = FlagKind::kCount,
       .placeholder = "N",
       .help = "which faults",
       .default_value = "1",
       .min = 0,
       .max = 1000000000},
      {.name = "faults",
       .kind = FlagKind::kCount,
       .placeholder = "N",
       .help = "how many, spread over the job's rounds",
       .default_value = "20",
       .min = 0,
       .max = 10000},
      {.name = "only",
       .placeholder = "KINDS",
       .help = "only these kinds of fault, such as kill,stop,black hole"},
      {.name = "away",
       .kind = FlagKind::kDuration,
       .placeholder = "TIME",
       .help = "before all else the orchestrator is away for so long, and is killed",
       .default_value = "0s"},
      {.name = "quiet",
       .placeholder = "DIR",
       .help = "run directory of the same job without faults: the validation losses must be within "
               "2%"}};
  for (FlagSpec& flag : spec.flags) {
    if (flag.name == "regions") flag.default_value = "4";
    if (flag.name == "restart") flag.default_value = "1000";
    if (flag.name == "run_dir") {
      flag.help = "where the job is kept; else runs/ and the job's name with -chaos";
    }
    flags.push_back(flag);
  }
  spec.flags = flags;
  return spec;
}

StatusOr<Lab> LabOf(const ParsedFlags& flags) {
  if (flags.Has("lab")) return LoadLabFile(flags.Text("lab"));
  std::string text = "regions: [";
  for (int64_t i = 1; i <= flags.Count("regions"); ++i) {
    absl::StrAppend(&text, i > 1 ? ", " : "", "region-", i);
  }
  absl::StrAppend(&text, "]\nlinks: {default: {delay: 40ms, rate: 100mbit}}\n");
  return ParseLab(text, "the lab of --regions");
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

nlohmann::json FaultsJson(const std::vector<FaultOutcome>& outcomes,
                          const std::vector<std::string>& regions) {
  nlohmann::json faults = nlohmann::json::array();
  for (const FaultOutcome& outcome : outcomes) {
    faults.push_back({{"fault", outcome.fault.Text(regions)},
                      {"kind", FaultName(outcome.fault.kind)},
                      {"round", outcome.committed},
                      {"in_all_reduce", outcome.in_all_reduce},
                      {"seconds_to_next_round", outcome.next_round},
                      {"seconds_to_round_without_it", outcome.without},
                      {"error", outcome.error}});
  }
  return faults;
}

std::string SecondsText(const std::vector<double>& seconds) {
  return absl::StrFormat("%.2f s (median), %.2f s (most)", Median(seconds),
                         *std::max_element(seconds.begin(), seconds.end()));
}

// A line for each kind of fault: how long until the next round was committed, and until the others
// had committed one without the region that it hit.
std::string FaultsText(const std::vector<FaultOutcome>& outcomes) {
  std::string text;
  for (int kind = 0; kind < kFaultKinds; ++kind) {
    std::vector<double> next, without, reducing;
    for (const FaultOutcome& outcome : outcomes) {
      if (static_cast<int>(outcome.fault.kind) != kind || !outcome.error.empty()) continue;
      next.push_back(outcome.next_round < 0 ? INFINITY : outcome.next_round);
      if (outcome.without > 0) without.push_back(outcome.without);
      if (outcome.in_all_reduce) reducing.push_back(next.back());
    }
    if (next.empty()) continue;
    absl::StrAppendFormat(&text, " %-18s %d times; next round after %s\n",
                          FaultName(static_cast<FaultKind>(kind)), next.size(), SecondsText(next));
    if (!reducing.empty()) {
      absl::StrAppendFormat(&text, " %-18s %d times in an all-reduce; that round after %s\n", "",
                            reducing.size(), SecondsText(reducing));
    }
    if (without.empty()) continue;
    absl::StrAppendFormat(&text, " %-18s %d times; a round without it after %s\n", "",
                          without.size(), SecondsText(without));
  }
  return text;
}

void CompareLoss(const std::string& quiet, const std::string& run_dir, ChaosVerdict* verdict,
                 nlohmann::json* answer) {
  const double without = NumberOr(ReadSummary(quiet), "validation_loss", 0);
  const double with = NumberOr(ReadSummary(run_dir), "validation_loss", 0);
  (*answer)["validation_loss"] = with;
  (*answer)["validation_loss_quiet"] = without;
  if (without <= 0 || std::abs(with / without - 1) > kMostLossApart) {
    verdict->broken.push_back(absl::StrFormat(
        "validation loss %.4g, %.4g without faults: more than 2%% apart", with, without));
  }
}

StatusOr<ExitCode> Chaos(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(const std::vector<FaultKind> kinds,
                   FaultKindsFromText(flags.Has("only") ? flags.Text("only") : ""));
  ASSIGN_OR_RETURN(const Lab description, LabOf(flags));
  ASSIGN_OR_RETURN(RunningLab lab, RunningLab::Up(description, {}));
  ASSIGN_OR_RETURN(Stage stage, StageOf(lab));
  stage.run_dir_suffix = "-chaos";
  ASSIGN_OR_RETURN(const TrainSetup setup, PrepareTraining(flags, &output, stage));
  std::vector<std::string> regions;
  for (const auto& region : lab.regions()) regions.push_back(region.name);
  const std::vector<ChaosFault> faults = PlanFaults(static_cast<uint64_t>(flags.Count("seed")),
                                                    static_cast<int>(flags.Count("faults")),
                                                    lab.size(), setup.job.train().rounds(), kinds);
  for (const ChaosFault& fault : faults) {
    output.Talk(absl::StrCat(" after round ", fault.round, ": ", fault.Text(regions), "\n"));
  }
  TrainRun run(setup, &output);  // before the thread: it blocks signals
  Injector injector(&lab, setup.run_dir, regions, faults, flags.Seconds("away"));
  const auto result = run.Run();
  injector.Stop();
  RETURN_IF_ERROR(result.status());
  if (result->failure) {
    output.Talk(FailureText(*result->failure, ReadSummary(setup.run_dir),
                            {.run_dir = setup.run_dir, .job = setup.job.name(), .next = ""}));
  }
  ASSIGN_OR_RETURN(ChaosVerdict verdict, CheckChaos(setup.run_dir));
  nlohmann::json answer = {{"run_dir", setup.run_dir},
                           {"seed", flags.Count("seed")},
                           {"faults", FaultsJson(injector.outcomes(), regions)},
                           {"faults_planned", faults.size()},
                           {"exit_code_of_train", result->exit_code},
                           {"rounds", verdict.rounds},
                           {"samples", verdict.samples},
                           {"returned", verdict.returned},
                           {"views", verdict.views}};
  if (injector.rounds_while_away() >= 0) {
    answer["rounds_while_away"] = injector.rounds_while_away();
  }
  for (const FaultOutcome& outcome : injector.outcomes()) {
    if (outcome.error.empty()) continue;
    verdict.broken.push_back(
        absl::StrCat("not done: ", outcome.fault.Text(regions), ": ", outcome.error));
  }
  if (injector.outcomes().size() < faults.size()) {
    verdict.broken.push_back(absl::StrCat("only ", injector.outcomes().size(), " of ",
                                          faults.size(),
                                          " faults were done before the job ended: more rounds"));
  }
  if (flags.Has("quiet")) CompareLoss(flags.Text("quiet"), setup.run_dir, &verdict, &answer);
  answer["broken"] = verdict.broken;
  std::string text = absl::StrFormat(
      "chaos %s: %d faults, %d rounds, %d views, %d samples committed, %d assignments returned, %d "
      "replicas equal\n",
      verdict.broken.empty() ? "survived" : "FAILED", injector.outcomes().size(), verdict.rounds,
      verdict.views, verdict.samples, verdict.returned, verdict.replicas);
  absl::StrAppend(&text, FaultsText(injector.outcomes()));
  if (injector.rounds_while_away() >= 0) {
    absl::StrAppendFormat(&text, " orchestrator away  %s: %d rounds meanwhile\n",
                          FormatDuration(flags.Seconds("away")), injector.rounds_while_away());
  }
  for (const std::string& broken : verdict.broken)
    absl::StrAppend(&text, " BROKEN: ", broken, "\n");
  output.Print(text);
  output.Answer(answer);
  RETURN_IF_ERROR(lab.Down());
  return verdict.broken.empty() ? ExitCode::kDone : ExitCode::kFailed;
}

}  // namespace

Verb ChaosVerb() { return {"chaos", Spec(), Chaos}; }

}  // namespace atl
