#include "cli/rehearse.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/env.h"
#include "base/units.h"
#include "cli/train.h"
#include "cli/train_setup.h"
#include "proto/lab_file.h"
#include "tools/wanlab/lab.h"

namespace atl {
namespace {

CommandSpec Spec() {
  CommandSpec spec = TrainVerb().command;
  spec.command = "atoll rehearse";
  spec.summary = "pretrain on this host over emulated long links, before renting real ones";
  spec.details =
      "The same as `atoll train`, but each region is in a network namespace of its own, and the "
      "links of the lab file lie between them (docs/formats/lab.md; configs/lab/ has some). The "
      "lab's regions are the job's regions. The orchestrator is in the first one. Must be root.\n\n"
      "Nothing is left of the lab, however the job ends.";
  std::vector<FlagSpec> flags = {{.name = "lab",
                                  .placeholder = "FILE",
                                  .help = "the regions and the links between them",
                                  .required = true}};
  for (FlagSpec& flag : spec.flags) {
    if (flag.name == "regions") continue;  // the lab's
    if (flag.name == "run_dir") {
      flag.help = "where the job is kept; else runs/ and the job's name with -rehearsal";
    }
    flags.push_back(flag);
  }
  spec.flags = flags;
  return spec;
}

std::string SeaText(const nlohmann::json& stats) {
  std::string text = "the sea carried\n";
  for (const nlohmann::json& link : stats.at("links")) {
    absl::StrAppendFormat(&text, " %s to %s: %s, %d packets lost, %d dropped at full queues\n",
                          link.at("from").get<std::string>(), link.at("to").get<std::string>(),
                          FormatBytes(link.at("bytes").get<double>()),
                          link.at("lost").get<int64_t>(), link.at("dropped").get<int64_t>());
  }
  return text;
}

StatusOr<ExitCode> Rehearse(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(const Lab description, LoadLabFile(flags.Text("lab")));
  ASSIGN_OR_RETURN(RunningLab lab, RunningLab::Up(description, {}));
  ASSIGN_OR_RETURN(const Stage stage, StageOf(lab));
  ASSIGN_OR_RETURN(const TrainSetup setup, PrepareTraining(flags, &output, stage));
  output.Talk(absl::StrCat("lab ", lab.name(), " of ", flags.Text("lab"),
                           "; look at it with `wanlab stats --name=", lab.name(), "`\n"));
  const auto code = TrainPrepared(setup, flags.positional()[0], output);
  if (const auto stats = lab.Stats(); stats.ok()) output.Talk(SeaText(*stats));
  RETURN_IF_ERROR(lab.Down());
  return code;
}

}  // namespace

// `wanlab exec` becomes the program that it is given: one process, in the region.
StatusOr<Stage> StageOf(const RunningLab& lab) {
  const std::string wanlab = FindProgram("wanlab", ExecutableDirectory());
  if (wanlab.empty()) {
    return EnvironmentError(absl::StrCat("there is no wanlab in ", ExecutableDirectory(),
                                         ", beside atoll itself: build or install all of atoll "
                                         "(scripts/build)"));
  }
  Stage stage;
  stage.run_dir_suffix = "-rehearsal";
  for (int i = 0; i < lab.size(); ++i) {
    const std::string& name = lab.regions()[i].name;
    stage.regions.push_back(
        {name, {{wanlab, "exec", "--name=" + lab.name(), name, "--"}, lab.Address(i)}});
  }
  return stage;
}

Verb RehearseVerb() { return {"rehearse", Spec(), Rehearse}; }

}  // namespace atl
