#include "tools/wanlab/commands.h"

#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/units.h"
#include "proto/lab_file.h"
#include "tools/wanlab/lab.h"
#include "tools/wanlab/run_command.h"
#include "tools/wanlab/selftest.h"
#include "tools/wanlab/state.h"

namespace atl {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

constexpr char kDefaultName[] = "lab";

FlagSpec NameFlag(const std::string& help) {
  return {.name = "name", .placeholder = "NAME", .help = help};
}
FlagSpec WhichFlag() {
  return NameFlag("which lab; else $ATOLL_LAB, else the only one that is up");
}
FlagSpec JsonFlag() {
  return {.name = "json",
          .kind = FlagKind::kSwitch,
          .placeholder = "",
          .help = "print the answer as one JSON object"};
}

json AddressesJson(const std::string& name, const std::vector<RegionState>& regions) {
  json answer = {{"lab", name}, {"regions", json::array()}};
  for (const RegionState& region : regions) {
    answer["regions"].push_back({{"name", region.name}, {"address", region.address}});
  }
  return answer;
}

void PrintAddresses(const std::string& name, const std::vector<RegionState>& regions,
                    bool as_json) {
  if (as_json) {
    std::printf("%s\n", AddressesJson(name, regions).dump().c_str());
    return;
  }
  for (const RegionState& region : regions) {
    std::printf("%-15s %s\n", region.address.c_str(), region.name.c_str());
  }
}

StatusOr<int> Up(const ParsedFlags& flags, const Words&) {
  ASSIGN_OR_RETURN(const Lab lab, LoadLabFile(flags.positional()[0]));
  const std::string name = flags.Has("name") ? flags.Text("name") : kDefaultName;
  ASSIGN_OR_RETURN(const RunningLab running, RunningLab::Up(lab, {name, false}));
  PrintAddresses(name, running.regions(), flags.Switch("json"));
  return 0;
}

StatusOr<int> Down(const ParsedFlags& flags, const Words&) {
  if (!IsRoot()) return EnvironmentError("one must be root to take a lab down; run it with sudo");
  ASSIGN_OR_RETURN(const LabState state, FindLab(flags.Text("name")));
  RETURN_IF_ERROR(RunningLab::TakeDown(state));
  return 0;
}

StatusOr<int> Exec(const ParsedFlags& flags, const Words& command) {
  ASSIGN_OR_RETURN(const RunningLab lab, RunningLab::Attach(flags.Text("name")));
  ASSIGN_OR_RETURN(const int region, lab.Find(flags.positional()[0]));
  RETURN_IF_ERROR(lab.Enter(region));
  for (const auto& [name, value] : lab.Environment(region)) SetEnv(name, value, true);
  return ReplaceProcess(command);
}

StatusOr<int> Run(const ParsedFlags& flags, const Words& command) {
  ASSIGN_OR_RETURN(const Lab lab, LoadLabFile(flags.positional()[0]));
  ASSIGN_OR_RETURN(RunningLab running, RunningLab::Up(lab, {flags.Text("name"), true}));
  const auto code = RunCommand(command, {{"ATOLL_LAB", running.name()}});
  RETURN_IF_ERROR(running.Down());
  return code;
}

StatusOr<int> Addresses(const ParsedFlags& flags, const Words&) {
  ASSIGN_OR_RETURN(const LabState state, FindLab(flags.Text("name")));
  PrintAddresses(state.name, state.regions, flags.Switch("json"));
  return 0;
}

StatusOr<int> List(const ParsedFlags& flags, const Words&) {
  json answer = {{"labs", json::array()}};
  for (const LabState& lab : AllLabs()) {
    answer["labs"].push_back(
        {{"name", lab.name}, {"up", lab.up()}, {"regions", lab.regions.size()}});
    if (!flags.Switch("json")) {
      std::printf("%-24s %d regions%s\n", lab.name.c_str(), static_cast<int>(lab.regions.size()),
                  lab.up() ? "" : ", its relay has died (wanlab down)");
    }
  }
  if (flags.Switch("json")) std::printf("%s\n", answer.dump().c_str());
  return 0;
}

StatusOr<int> Tell(const std::string& verb, const ParsedFlags& flags) {
  ASSIGN_OR_RETURN(const RunningLab lab, RunningLab::Attach(flags.Text("name")));
  Words line = {verb};
  line.insert(line.end(), flags.positional().begin(), flags.positional().end());
  RETURN_IF_ERROR(lab.Control(line).status());
  return 0;
}
StatusOr<int> Set(const ParsedFlags& flags, const Words&) { return Tell("set", flags); }
StatusOr<int> Cut(const ParsedFlags& flags, const Words&) { return Tell("cut", flags); }
StatusOr<int> Heal(const ParsedFlags& flags, const Words&) { return Tell("heal", flags); }

std::string RateText(const json& rate) {
  return rate.get<int64_t>() == 0 ? "-" : FormatRate(rate.get<double>());
}

std::string StatsText(const json& stats) {
  std::string text = absl::StrFormat("%-24s %-24s %10s %7s %8s %10s %9s %9s %9s\n", "FROM", "TO",
                                     "RATE", "DELAY", "LOSS", "BYTES", "LOST", "DROPPED", "CUT");
  for (const json& link : stats.at("links")) {
    absl::StrAppendFormat(
        &text, "%-24s %-24s %10s %5gms %8g %10s %9d %9d %9s\n", link.at("from").get<std::string>(),
        link.at("to").get<std::string>(), RateText(link.at("rate_bits_per_second")),
        link.at("delay_seconds").get<double>() * 1e3, link.at("loss").get<double>(),
        FormatBytes(link.at("bytes").get<double>()), link.at("lost").get<int64_t>(),
        link.at("dropped").get<int64_t>(),
        absl::StrCat(link.at("cut").get<int64_t>(), link.at("is_cut").get<bool>() ? "*" : ""));
  }
  absl::StrAppendFormat(&text, "\n%-24s %10s %10s %10s %10s %12s %12s\n", "REGION", "UP", "DOWN",
                        "SENT", "RECEIVED", "UP DROPPED", "DOWN DROPPED");
  for (const json& region : stats.at("regions")) {
    absl::StrAppendFormat(
        &text, "%-24s %10s %10s %10s %10s %12d %12d\n", region.at("name").get<std::string>(),
        RateText(region.at("up_bits_per_second")), RateText(region.at("down_bits_per_second")),
        FormatBytes(region.at("sent_bytes").get<double>()),
        FormatBytes(region.at("received_bytes").get<double>()),
        region.at("up_dropped").get<int64_t>(), region.at("down_dropped").get<int64_t>());
  }
  const json& relay = stats.at("relay");
  absl::StrAppendFormat(
      &text, "\nrelay: %s%s, %.2f CPU seconds, wakes up %.0f us late on average, %.0f us at most\n",
      relay.at("realtime").get<bool>() ? "real-time priority" : "NO real-time priority",
      relay.at("ticks").get<bool>() ? ", ticks" : "", relay.at("cpu_seconds").get<double>(),
      relay.at("late_us_mean").get<double>(), relay.at("late_us_max").get<double>());
  return text;
}

StatusOr<int> Stats(const ParsedFlags& flags, const Words&) {
  ASSIGN_OR_RETURN(const RunningLab lab, RunningLab::Attach(flags.Text("name")));
  ASSIGN_OR_RETURN(const json stats, lab.Stats());
  const std::string text = flags.Switch("json") ? stats.dump() + "\n" : StatsText(stats);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

StatusOr<int> SelfTest(const ParsedFlags& flags, const Words&) {
  return RunSelfTest(flags.Switch("json"));
}

CommandSpec Spec(const std::string& verb, const std::string& arguments, int least, int most,
                 const std::string& summary, std::vector<FlagSpec> flags,
                 const std::string& details = "") {
  CommandSpec spec;
  spec.command = "wanlab " + verb;
  spec.arguments = arguments;
  spec.summary = summary;
  spec.details = details;
  spec.flags = std::move(flags);
  spec.min_positional = least;
  spec.max_positional = most;
  return spec;
}

}  // namespace

const std::vector<LabVerb>& LabVerbs() {
  static const std::vector<LabVerb>* const verbs = new std::vector<LabVerb>{
      {"up",
       Spec("up", "FILE", 1, 1, "bring a lab up",
            {NameFlag("what the lab is called; else 'lab'"), JsonFlag()}),
       false, Up},
      {"exec",
       Spec(
           "exec", "REGION -- CMD...", 1, 1, "run a command in a region", {WhichFlag()},
           "The command replaces wanlab: its exit code and its signals are the command's. Only the "
           "network is another; files, cgroups and /sys are the host's."),
       true, Exec},
      {"set",
       Spec(
           "set", "A:B|REGION KEY=VALUE...", 2, 16, "change a pair or a region", {WhichFlag()},
           "Of a pair, both ways: rate, delay, jitter, loss, queue. Of a region: up, down (rate is "
           "both), and delay, jitter, loss, queue of all its pairs. rate=none lifts a cap."),
       false, Set},
      {"cut",
       Spec("cut", "A [B]", 1, 2, "let nothing pass between two regions, or to and from one",
            {WhichFlag()}),
       false, Cut},
      {"heal", Spec("heal", "A [B]", 1, 2, "undo a cut", {WhichFlag()}), false, Heal},
      {"stats",
       Spec("stats", "", 0, 0, "what passed, what was lost and why", {WhichFlag(), JsonFlag()}),
       false, Stats},
      {"addresses",
       Spec("addresses", "", 0, 0, "the regions' addresses", {WhichFlag(), JsonFlag()}), false,
       Addresses},
      {"list", Spec("list", "", 0, 0, "the labs of this host", {JsonFlag()}), false, List},
      {"down",
       Spec("down", "", 0, 0, "kill what runs in a lab's regions and remove it", {WhichFlag()}),
       false, Down},
      {"run",
       Spec(
           "run", "FILE -- CMD...", 1, 1, "bring a lab up, run a command on the host, take it down",
           {NameFlag("what the lab is called; else a name of its own")},
           "The command finds the lab's name in $ATOLL_LAB, so that `wanlab exec REGION -- ...` in "
           "it needs no --name. The lab goes down however the command, or wanlab itself, ends; "
           "the exit code is the command's."),
       true, Run},
      {"selftest",
       Spec("selftest", "", 0, 0, "measure what a lab claims: rates, round trips, losses, caps",
            {JsonFlag()}),
       false, SelfTest},
  };
  return *verbs;
}

}  // namespace atl
