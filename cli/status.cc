// Reads the run directory's files once (cli/run_directory.h) and prints one model of it, as text or
// as
// JSON. Asks no process anything, so it also works where the job is long over, or killed.
//
// `state` is what summary.json says, but for one case: it says that the job is under way and no
// orchestrator runs. Then the job was killed, and the state is "interrupted".
#include "cli/status.h"

#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/units.h"
#include "cli/lease_column.h"
#include "cli/run_directory.h"

namespace atl {
namespace {

using Json = nlohmann::json;

constexpr double kStaleSeconds = 5;
// A link that has been silent for less is one that had nothing to say.
constexpr double kSilentSeconds = 2.5;

struct RunStatus {
  std::string run_dir;
  Json summary;
  std::optional<OrchestratorInfo> orchestrator;
  std::optional<RoundLine> round;
  std::optional<EventLine> event;
  std::string state;
  std::string why;
  double age_seconds = -1;  // of what summary.json says; below 0: unknown
};

bool IsEnd(const std::string& state) {
  return state == "done" || state == "stopped" || state == "failed";
}

StatusOr<RunStatus> ReadStatus(const std::string& run_dir) {
  struct stat info;
  if (stat(run_dir.c_str(), &info) != 0)
    return ErrnoError(errno, absl::StrCat("cannot read ", run_dir));
  RunStatus status;
  status.run_dir = run_dir;
  status.summary = ReadSummary(run_dir);
  status.orchestrator = ReadOrchestratorInfo(run_dir);
  if (!status.summary.is_object() && !status.orchestrator) {
    return UsageError(absl::StrCat(
        run_dir,
        " is no run directory: it has neither summary.json nor orchestrator.json; name the "
        "--run_dir of a job"));
  }
  if (!status.summary.is_object()) status.summary = Json::object();
  for (const std::string& line : LastLines(run_dir + "/rounds.jsonl", 2)) {
    if (const auto round = ParseRoundLine(line)) status.round = round;
  }
  for (const std::string& line : LastLines(run_dir + "/events.jsonl", 2)) {
    if (const auto event = ParseEventLine(line)) status.event = event;
  }
  const bool alive = status.orchestrator && status.orchestrator->alive;
  status.state = TextOr(status.summary, "state", "starting");
  status.why = TextOr(status.summary, "reason", "");
  if (!alive && !IsEnd(status.state)) {
    status.why =
        absl::StrCat("its orchestrator is gone, and left the job ", status.state,
                     ": it was killed, or this host is another one; start the same command "
                     "again to go on");
    status.state = "interrupted";
  }
  // A job that is neither training nor over is waiting for something: the last event says for what.
  if (status.why.empty() && status.event && status.state != "training" && !IsEnd(status.state)) {
    status.why = status.event->text;
  }
  absl::Time updated;
  if (absl::ParseTime(absl::RFC3339_full, TextOr(status.summary, "updated", ""), &updated,
                      nullptr)) {
    status.age_seconds = absl::ToDoubleSeconds(Clock::Real()->WallTime() - updated);
  }
  return status;
}

Json ToJson(const RunStatus& status) {
  Json json = status.summary;
  json["run_dir"] = status.run_dir;
  json["recorded_state"] = json.value("state", Json());
  json["state"] = status.state;
  json["why"] = status.why;
  json["age_seconds"] = status.age_seconds >= 0 ? Json(status.age_seconds) : Json();
  if (status.orchestrator) {
    json["orchestrator"] = {{"address", status.orchestrator->address},
                            {"pid", status.orchestrator->pid},
                            {"version", status.orchestrator->version},
                            {"alive", status.orchestrator->alive}};
  } else {
    json["orchestrator"] = nullptr;
  }
  if (status.round) {
    json["last_round"] = {{"round", status.round->round},
                          {"train_loss", status.round->train_loss},
                          {"tokens", status.round->tokens},
                          {"seconds", status.round->seconds},
                          {"wan_seconds", status.round->wan_seconds}};
  } else {
    json["last_round"] = nullptr;
  }
  if (status.event) {
    json["last_event"] = {
        {"kind", status.event->kind},
        {"region", status.event->region},
        {"time", absl::FormatTime(absl::RFC3339_sec, status.event->time, absl::UTCTimeZone())},
        {"text", status.event->text}};
  } else {
    json["last_event"] = nullptr;
  }
  return json;
}

std::string Headline(const RunStatus& status, const Output& output) {
  const Json& summary = status.summary;
  const bool bad = status.state == "failed" || status.state == "interrupted";
  const double rounds = NumberOr(summary, "rounds_total", 0);
  std::string text = absl::StrCat("job ", TextOr(summary, "job", "?"), "  ",
                                  output.PaintAnswer(bad                      ? Colour::kRed
                                                     : status.state == "done" ? Colour::kGreen
                                                                              : Colour::kBold,
                                                     absl::AsciiStrToUpper(status.state)));
  absl::StrAppendFormat(&text, "  round %.0f/%.0f  tokens %s\n",
                        NumberOr(summary, "rounds_committed", 0), rounds,
                        FormatCount(NumberOr(summary, "tokens", 0)));
  if (!status.why.empty()) absl::StrAppend(&text, " why         ", status.why, "\n");
  return text;
}

std::string LossLine(const RunStatus& status) {
  const Json& summary = status.summary;
  std::string text;
  const auto append = [&](const char* name, const char* last, const char* first) {
    if (NumberOr(summary, last, -1) < 0) return;
    absl::StrAppendFormat(&text, "  %s %.4g", name, NumberOr(summary, last, 0));
    if (NumberOr(summary, first, -1) >= 0) {
      absl::StrAppendFormat(&text, " (first %.4g)", NumberOr(summary, first, 0));
    }
  };
  append("train", "train_loss_last", "train_loss_first");
  append("validation", "validation_loss", "validation_loss_first");
  if (status.round && status.round->seconds > 0) {
    absl::StrAppend(&text, "  tok/s ",
                    FormatCount(static_cast<double>(status.round->tokens) / status.round->seconds));
    absl::StrAppendFormat(&text, "  wan %.0f%%",
                          100 * status.round->wan_seconds / status.round->seconds);
  }
  return text.empty() ? "" : absl::StrCat(" loss       ", text.substr(1), "\n");
}

std::string RegionTable(const RunStatus& status) {
  const auto regions = status.summary.find("regions");
  if (regions == status.summary.end() || !regions->is_array()) return "";
  std::string text = absl::StrFormat(" %-20s %-9s %7s %7s %9s  %-20s  %s\n", "REGION", "STATE",
                                     "WORKERS", "ROUND", "TOKENS", "LEASE", "WHY");
  double most_steps = 0;
  for (const Json& region : *regions) {
    if (region.is_object()) most_steps = std::max(most_steps, NumberOr(region, "inner_steps", 0));
  }
  for (const Json& region : *regions) {
    if (!region.is_object()) continue;
    std::string why = TextOr(region, "why", "");
    if (why.empty()) why = TextOr(region, "doing", "");
    const double steps = NumberOr(region, "inner_steps", 0);
    if (steps < most_steps) {
      absl::StrAppendFormat(&why, "%stakes %.0f of %.0f inner steps: it is slower",
                            why.empty() ? "" : "; ", steps, most_steps);
    }
    absl::StrAppendFormat(&text, " %-20s %-9s %7.0f %7.0f %9s  %-20s  %s\n",
                          TextOr(region, "name", "?"), TextOr(region, "state", "?"),
                          NumberOr(region, "workers", 0), NumberOr(region, "round", 0),
                          FormatCount(NumberOr(region, "tokens", 0)),
                          LeaseColumn(region, Clock::Real()->WallTime()), why);
  }
  return text;
}

// A line a link: what each region sends to each other one, as its last heartbeat said.
std::string LinkTable(const RunStatus& status) {
  const auto regions = status.summary.find("regions");
  if (regions == status.summary.end() || !regions->is_array()) return "";
  std::string text;
  for (const Json& region : *regions) {
    const auto links = region.is_object() ? region.find("links") : region.end();
    if (!region.is_object() || links == region.end() || !links->is_array()) continue;
    for (const Json& link : *links) {
      if (!link.is_object()) continue;
      const double rate = NumberOr(link, "up_bytes_per_second", 0);
      const double rtt = NumberOr(link, "rtt_seconds", 0);
      const double silent = NumberOr(link, "silent_seconds", 0);
      absl::StrAppendFormat(
          &text, " %-29s %12s %9s %8.3f%% %11s %6.0f  %s\n",
          absl::StrCat(TextOr(region, "name", "?"), " -> ", TextOr(link, "region", "?")),
          rate > 0 ? FormatRate(8 * rate) : "-", rtt > 0 ? FormatDuration(rtt) : "-",
          100 * NumberOr(link, "retransmitted", 0), FormatBytes(NumberOr(link, "bytes_sent", 0)),
          NumberOr(link, "connections", 0),
          silent >= kSilentSeconds ? absl::StrCat("silent for ", FormatDuration(silent)) : "");
    }
  }
  if (text.empty()) return "";
  return absl::StrFormat(" %-29s %12s %9s %9s %11s %6s  %s\n", "LINK", "UP", "RTT", "LOSS", "SENT",
                         "CONNS", "WHY") +
         text;
}

std::string ToText(const RunStatus& status, const Output& output) {
  std::string text = Headline(status, output) + LossLine(status) + CostLine(status.summary) +
                     RegionTable(status) + LinkTable(status);
  const double checkpoint = NumberOr(status.summary, "last_checkpoint", 0);
  absl::StrAppend(&text, " checkpoint  ",
                  checkpoint > 0
                      ? absl::StrFormat("round %.0f, complete in every region", checkpoint)
                      : std::string("none yet"),
                  DiffersText(status.summary), "\n");
  if (status.event) {
    absl::StrAppend(&text, " last event  ",
                    absl::FormatTime("%H:%M:%S UTC  ", status.event->time, absl::UTCTimeZone()),
                    status.event->text, "\n");
  }
  if (status.orchestrator && status.orchestrator->alive) {
    absl::StrAppend(&text, " running     orchestrator at ", status.orchestrator->address, ", pid ",
                    status.orchestrator->pid, "\n");
  }
  if (!IsEnd(status.state) && status.age_seconds > kStaleSeconds) {
    absl::StrAppend(&text, " data        ", FormatDuration(status.age_seconds), " old\n");
  }
  return text;
}

StatusOr<ExitCode> ShowStatus(const ParsedFlags& flags, Output& output) {
  std::string run_dir = flags.positional()[0];
  while (run_dir.size() > 1 && run_dir.back() == '/') run_dir.pop_back();
  ASSIGN_OR_RETURN(const RunStatus status, ReadStatus(run_dir));
  output.Answer(ToJson(status));
  output.Print(ToText(status, output));
  return ExitCode::kDone;
}

}  // namespace

Verb StatusVerb() {
  CommandSpec spec;
  spec.command = "atoll status";
  spec.arguments = "DIR";
  spec.summary = "how a job stands, from its run directory";
  spec.details =
      "State, loss, regions, last checkpoint and last event. Also for jobs that are over or were "
      "killed. Exit code 0 whatever the state, 2 if DIR is no run directory.";
  spec.min_positional = 1;
  spec.max_positional = 1;
  spec.flags = {JsonFlag()};
  return {"status", spec, ShowStatus};
}

}  // namespace atl
