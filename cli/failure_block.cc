#include "cli/failure_block.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/units.h"
#include "cli/run_directory.h"

namespace atl {
namespace {

constexpr size_t kLogLines = 8;
constexpr size_t kMpirunLines = 400;

std::string RankLog(const RegionEvidence& region, int rank) {
  return absl::StrCat(region.directory, "/rank-", rank, ".log");
}

void AttachLog(const std::string& path, Failure* failure) {
  failure->log = path;
  failure->log_lines = LastLines(path, kLogLines);
}

// Codes that tell a user more than "failed".
int JobExitCode(int worker_code) {
  return worker_code == 2 || worker_code == 4 || worker_code == 5 ? worker_code : 1;
}

// "mpirun noticed that process rank 1 with PID 8123 on node w-07 exited on signal 9 (Killed)."
std::optional<Failure> FindDeath(const RegionEvidence& region) {
  static const std::regex* const pattern = new std::regex(
      "process rank ([0-9]{1,7}) with PID ([0-9]{1,9}) on node (\\S{1,255}) exited on signal "
      "([0-9]{1,3})");
  for (const std::string& line : LastLines(region.directory + "/mpirun.log", kMpirunLines)) {
    std::smatch match;
    if (line.size() > 1000 || !std::regex_search(line, match, *pattern)) continue;
    Failure failure;
    failure.region = region.name;
    failure.rank = std::stoi(match[1]);
    failure.pid = std::stoi(match[2]);
    failure.host = match[3];
    ProcessEnd end;
    end.signal = std::stoi(match[4]);
    failure.what = absl::StrCat("died: ", end.Text());
    failure.victims = region.workers - 1;
    AttachLog(RankLog(region, failure.rank), &failure);
    return failure;
  }
  return std::nullopt;
}

struct Words {
  Failure failure;
  bool cause = true;
  std::filesystem::file_time_type written;  // finer than the time inside
};

std::vector<Words> LastWordsOf(const RegionEvidence& region) {
  std::vector<Words> all;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(region.directory, error)) {
    const std::string name = entry.path().filename().string();
    if (!absl::StartsWith(name, "rank-") || !absl::EndsWith(name, ".failure.json")) continue;
    const nlohmann::json json = ReadJsonObject(entry.path().string());
    if (!json.is_object()) continue;
    Words words;
    Failure& failure = words.failure;
    failure.region = region.name;
    failure.host = TextOr(json, "host", "");
    failure.rank = static_cast<int>(std::clamp(NumberOr(json, "rank", -1), -1.0, 1e6));
    failure.pid = static_cast<int>(std::clamp(NumberOr(json, "pid", 0), 0.0, 1e9));
    failure.what = TextOr(json, "what", "failed without a word");
    failure.doing = TextOr(json, "doing", "");
    failure.exit_code =
        JobExitCode(static_cast<int>(std::clamp(NumberOr(json, "exit_code", 1), 0.0, 255.0)));
    absl::ParseTime(absl::RFC3339_full, TextOr(json, "time", ""), &failure.time, nullptr);
    words.cause = json.value("cause", nlohmann::json(true)) != nlohmann::json(false);
    words.written = entry.last_write_time(error);
    all.push_back(std::move(words));
  }
  return all;
}

std::optional<Failure> FromMpirun(const RegionEvidence& region) {
  if (!region.end || region.end->well() || region.end->exit_code == 75) return std::nullopt;
  Failure failure;
  failure.region = region.name;
  failure.what = absl::StrCat("its mpirun ended: ", region.end->Text());
  failure.exit_code = region.end->signal != 0 ? 1 : JobExitCode(region.end->exit_code);
  AttachLog(region.directory + "/mpirun.log", &failure);
  const std::string rank_log = RankLog(region, 0);
  if (failure.log_lines.empty()) AttachLog(rank_log, &failure);
  return failure;
}

void AppendLine(const char* label, const std::string& text, std::string* block) {
  if (text.empty()) return;
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  for (size_t i = 0; i < lines.size(); ++i) {
    absl::StrAppendFormat(block, " %-8s %s\n", i == 0 ? label : "", lines[i]);
  }
}

// Inner steps that were done of the round that `doing` is about: "inner step 12/30 of round 41",
// "all-reduce of round 41".
int64_t StepsDone(const std::string& doing, int64_t inner_steps) {
  static const std::regex* const step = new std::regex("inner step ([0-9]{1,9})/");
  std::smatch match;
  if (doing.size() < 1000 && std::regex_search(doing, match, *step))
    return std::stoll(match[1]) - 1;
  return absl::StartsWith(doing, "all-reduce") ? inner_steps : 0;
}

// What a region takes with it while the others go on.
std::string LostByRegion(const Failure& failure, const FailureContext& context,
                         double round_seconds) {
  const int64_t steps = StepsDone(failure.doing, context.inner_steps);
  if (steps == 0) return "committed rounds: none";
  std::string text = absl::StrCat(steps, " inner steps of ", failure.region);
  if (context.inner_steps > 0 && round_seconds > 0) {
    const double seconds =
        round_seconds * static_cast<double>(steps) / static_cast<double>(context.inner_steps);
    absl::StrAppend(&text, " (about ", FormatDuration(seconds), " of ", context.workers,
                    context.workers == 1 ? " worker)" : " workers)");
  }
  return text + "; committed rounds: none";
}

std::string Headline(const Failure& failure, const FailureContext& context, int64_t committed) {
  std::string text = context.goes_on ? absl::StrCat("FAILED  region ", failure.region, " of job ")
                                     : std::string("FAILED  job ");
  absl::StrAppend(&text, context.job, " at round ", committed + 1);
  if (context.inner_steps > 0) {
    absl::StrAppend(
        &text, ", step ",
        committed * context.inner_steps + StepsDone(failure.doing, context.inner_steps) + 1);
  }
  if (failure.time > absl::InfinitePast()) {
    absl::StrAppend(&text, absl::FormatTime(" (%H:%M:%S UTC)", failure.time, absl::UTCTimeZone()));
  }
  return text + "\n";
}

std::string EffectText(const Failure& failure, const FailureContext& context) {
  std::vector<std::string> parts;
  if (failure.victims > 0) {
    parts.push_back(absl::StrCat(failure.victims, " other workers ended with it (not the cause)"));
  }
  if (context.goes_on) {
    parts.push_back(context.others.empty()
                        ? std::string("no other region trains")
                        : absl::StrCat(absl::StrJoin(context.others, ", "), " went on"));
  }
  return absl::StrJoin(parts, "; ");
}

std::string LostText(const nlohmann::json& summary) {
  const int64_t committed = static_cast<int64_t>(NumberOr(summary, "rounds_committed", 0));
  const int64_t saved = static_cast<int64_t>(NumberOr(summary, "last_checkpoint", 0));
  if (committed <= 0) return "nothing: no round was committed yet";
  if (saved >= committed) {
    return absl::StrCat("nothing committed: the checkpoint of the last round is complete",
                        DiffersText(summary));
  }
  return absl::StrCat(
      committed - saved, " committed rounds (", saved + 1, " to ", committed,
      ") must be trained again",
      saved > 0 ? absl::StrCat(": the newest checkpoint is of round ", saved, DiffersText(summary))
                : std::string(": there is no checkpoint yet"));
}

}  // namespace

std::optional<Failure> FindFailure(const std::vector<RegionEvidence>& regions) {
  std::vector<Words> causes;
  std::set<std::string> victim_regions;
  int victims = 0;
  for (const RegionEvidence& region : regions) {
    for (Words& words : LastWordsOf(region)) {
      if (words.cause) {
        causes.push_back(std::move(words));
      } else {
        ++victims;
        victim_regions.insert(region.name);
      }
    }
  }
  for (const RegionEvidence& region : regions) {
    if (!region.end) continue;  // it went on, or was told to end
    if (auto death = FindDeath(region)) {
      death->victims = std::max(death->victims, victims);
      return death;
    }
  }
  const auto first =
      std::min_element(causes.begin(), causes.end(),
                       [](const Words& a, const Words& b) { return a.written < b.written; });
  if (first != causes.end()) {
    Failure failure = first->failure;
    failure.victims = victims;
    for (const RegionEvidence& region : regions) {
      if (region.name == failure.region) AttachLog(RankLog(region, failure.rank), &failure);
    }
    return failure;
  }
  for (const RegionEvidence& region : regions) {
    if (victim_regions.count(region.name) > 0) continue;
    if (auto failure = FromMpirun(region)) return failure;
  }
  return std::nullopt;
}

std::string FailureText(const Failure& failure, const nlohmann::json& summary,
                        const FailureContext& context) {
  const int64_t round = static_cast<int64_t>(NumberOr(summary, "rounds_committed", 0));
  std::string block = Headline(failure, context, round);
  std::string who;
  if (!failure.region.empty()) {
    who = absl::StrCat("region ", failure.region);
    if (!failure.host.empty()) absl::StrAppend(&who, ", host ", failure.host);
    if (failure.rank >= 0) absl::StrAppend(&who, ", rank ", failure.rank);
    if (failure.pid > 0) absl::StrAppend(&who, " (pid ", failure.pid, ")");
    who += absl::StartsWith(failure.what, "died") ? " " : ": ";
  }
  std::string cause = who + failure.what;
  if (context.oom_kills > 0 && absl::EndsWith(failure.what, "SIGKILL")) {
    absl::StrAppend(&cause, ", likely out of memory (the kernel killed ", context.oom_kills,
                    " for it since the start)");
  }
  AppendLine("cause", cause, &block);
  AppendLine("doing", failure.doing, &block);
  AppendLine("effect", EffectText(failure, context), &block);
  double round_seconds = 0;
  for (const std::string& line : LastLines(context.run_dir + "/rounds.jsonl", 2)) {
    if (const auto one = ParseRoundLine(line)) round_seconds = one->seconds;
  }
  AppendLine("lost",
             context.goes_on ? LostByRegion(failure, context, round_seconds) : LostText(summary),
             &block);
  AppendLine("log", failure.log, &block);
  for (const std::string& line : failure.log_lines) {
    absl::StrAppend(&block, "          | ", line.substr(0, 400), "\n");
  }
  AppendLine("next", context.next, &block);
  return block;
}

nlohmann::json FailureJson(const Failure& failure) {
  nlohmann::json json = {{"what", failure.what},
                         {"doing", failure.doing},
                         {"log", failure.log},
                         {"victims", failure.victims}};
  if (!failure.region.empty()) json["region"] = failure.region;
  if (!failure.host.empty()) json["host"] = failure.host;
  if (failure.rank >= 0) json["rank"] = failure.rank;
  if (failure.pid > 0) json["pid"] = failure.pid;
  return json;
}

int64_t OutOfMemoryKills() {
  int64_t most = 0;
  for (const char* path : {"/proc/vmstat", "/sys/fs/cgroup/memory.events"}) {
    const auto fd = OpenFile(path, O_RDONLY);
    std::string text(64 << 10, '\0');  // such files say that they have 0 bytes
    const ssize_t size = fd.ok() ? read(fd->get(), text.data(), text.size()) : 0;
    text.resize(size > 0 ? static_cast<size_t>(size) : 0);
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      int64_t count = 0;
      if (absl::ConsumePrefix(&line, "oom_kill ") && absl::SimpleAtoi(line, &count)) {
        most = std::max(most, count);
      }
    }
  }
  return most;
}

}  // namespace atl
