#include "cli/run_directory.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"

namespace atl {
namespace {

using Json = nlohmann::json;

constexpr int64_t kReadAtOnce = 4 << 20;
constexpr int64_t kTailBytes = 256 << 10;
constexpr size_t kLongestLine = 1 << 20;

absl::Time TimeOf(const Json& object, const char* member) {
  absl::Time time = absl::InfinitePast();
  const std::string text = TextOr(object, member, "");
  if (!text.empty()) absl::ParseTime(absl::RFC3339_full, text, &time, nullptr);
  return time;
}

Json ParseObject(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json();
}

// Numbers in JSON may be beyond int64: casting those would be undefined.
int64_t WholeOr(const Json& object, const char* member, int64_t fallback) {
  const double value = NumberOr(object, member, static_cast<double>(fallback));
  return value > -9e15 && value < 9e15 ? static_cast<int64_t>(value) : fallback;
}

std::string ReadUpTo(const Fd& fd, int64_t offset, int64_t size) {
  std::string bytes(static_cast<size_t>(size), '\0');
  int64_t filled = 0;
  while (filled < size) {
    const ssize_t got =
        pread(fd.get(), bytes.data() + filled, static_cast<size_t>(size - filled), offset + filled);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    filled += got;
  }
  bytes.resize(static_cast<size_t>(filled));
  return bytes;
}

int NewestAttempt(const std::string& run_dir, const std::string& region) {
  int newest = 0;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat(run_dir, "/", region), error)) {
    const std::string name = entry.path().filename().string();
    int number = 0;
    if (absl::StartsWith(name, "attempt-") && absl::SimpleAtoi(name.substr(8), &number)) {
      newest = std::max(newest, number);
    }
  }
  return newest;
}

std::string AttemptDirectory(const std::string& run_dir, const std::string& region, int number) {
  return absl::StrCat(run_dir, "/", region, "/attempt-", number);
}

}  // namespace

double NumberOr(const Json& object, const char* member, double fallback) {
  const auto found = object.find(member);
  return found != object.end() && found->is_number() ? found->get<double>() : fallback;
}

std::string DiffersText(const nlohmann::json& summary) {
  std::vector<std::string> regions;
  const auto found = summary.find("last_checkpoint_differs_in");
  if (found != summary.end() && found->is_array()) {
    for (const nlohmann::json& region : *found) {
      if (region.is_string()) regions.push_back(region.get<std::string>());
    }
  }
  if (regions.empty()) return "";
  return absl::StrCat(", but not the same in ", absl::StrJoin(regions, ", "),
                      " (events checkpoint_differs and later)");
}

std::string TextOr(const Json& object, const char* member, const std::string& fallback) {
  const auto found = object.find(member);
  return found != object.end() && found->is_string() ? found->get<std::string>() : fallback;
}

std::optional<RoundLine> ParseRoundLine(const std::string& line) {
  const Json json = ParseObject(line);
  RoundLine round;
  round.round = WholeOr(json, "round", -1);
  if (round.round < 0) return std::nullopt;
  round.view = WholeOr(json, "view", 0);
  round.train_loss = NumberOr(json, "train_loss", 0);
  round.tokens = WholeOr(json, "tokens", 0);
  round.tokens_total = WholeOr(json, "tokens_total", 0);
  round.seconds = NumberOr(json, "seconds", 0);
  round.wan_seconds = NumberOr(json, "wan_seconds", 0);
  round.time = TimeOf(json, "time");
  return round;
}

std::optional<EventLine> ParseEventLine(const std::string& line) {
  const Json json = ParseObject(line);
  EventLine event;
  event.kind = TextOr(json, "kind", "");
  if (event.kind.empty()) return std::nullopt;
  event.number = WholeOr(json, "number", 0);
  event.region = TextOr(json, "region", "");
  event.round = WholeOr(json, "round", -1);
  event.text = TextOr(json, "text", "");
  event.time = TimeOf(json, "time");
  const auto details = json.find("details");
  if (details != json.end() && details->is_object() && details->contains("validation_loss")) {
    event.validation_loss = NumberOr(*details, "validation_loss", 0);
  }
  return event;
}

std::vector<std::string> LineTail::Read() {
  const auto fd = OpenFile(path_, O_RDONLY);
  struct stat info;
  if (!fd.ok() || fstat(fd->get(), &info) != 0) return {};
  if (info.st_ino != inode_ || info.st_size < offset_) {
    inode_ = info.st_ino;
    offset_ = 0;
    rest_.clear();
  }
  const std::string bytes =
      ReadUpTo(*fd, offset_, std::min<int64_t>(info.st_size - offset_, kReadAtOnce));
  offset_ += static_cast<int64_t>(bytes.size());
  rest_ += bytes;
  std::vector<std::string> lines = absl::StrSplit(rest_, '\n');
  rest_ = std::move(lines.back());
  lines.pop_back();
  if (rest_.size() > kLongestLine) rest_.clear();
  return lines;
}

std::vector<std::string> LastLines(const std::string& path, size_t limit) {
  const auto fd = OpenFile(path, O_RDONLY);
  struct stat info;
  if (!fd.ok() || fstat(fd->get(), &info) != 0) return {};
  const int64_t begin = std::max<int64_t>(0, info.st_size - kTailBytes);
  std::vector<std::string> lines =
      absl::StrSplit(ReadUpTo(*fd, begin, info.st_size - begin), '\n', absl::SkipEmpty());
  if (begin > 0 && !lines.empty()) lines.erase(lines.begin());  // perhaps only the end of one
  if (lines.size() > limit) lines.erase(lines.begin(), lines.end() - limit);
  return lines;
}

Json ReadJsonObject(const std::string& path) {
  const auto text = ReadFile(path, 16 << 20);
  return text.ok() ? ParseObject(*text) : Json();
}

Json ReadSummary(const std::string& run_dir) {
  Json summary = ReadJsonObject(run_dir + "/summary.json");
  if (!summary.is_object()) return summary;
  for (const std::string& line : LastLines(run_dir + "/rounds.jsonl", 2)) {
    const auto round = ParseRoundLine(line);
    if (!round || round->round <= WholeOr(summary, "rounds_committed", 0)) continue;
    summary["rounds_committed"] = round->round;
    summary["train_loss_last"] = round->train_loss;
    if (round->tokens_total > 0) summary["tokens"] = round->tokens_total;
  }
  return summary;
}

std::optional<OrchestratorInfo> ReadOrchestratorInfo(const std::string& run_dir) {
  const Json json = ReadJsonObject(absl::StrCat(run_dir, "/orchestrator.json"));
  OrchestratorInfo info;
  info.address = TextOr(json, "address", "");
  info.pid = static_cast<pid_t>(WholeOr(json, "pid", 0) & 0x7fffffff);
  if (info.address.empty() || info.pid <= 0) return std::nullopt;
  info.version = TextOr(json, "version", "");
  info.started = TimeOf(json, "started");
  // The name is cut at 15 characters. A number may have gone to another program since.
  const auto fd = OpenFile(absl::StrCat("/proc/", info.pid, "/comm"), O_RDONLY);
  info.alive = fd.ok() && absl::StartsWith(ReadUpTo(*fd, 0, 64), "atoll-orchestra");
  return info;
}

bool HasJobState(const std::string& run_dir) {
  const auto exists = [](const std::string& path) {
    struct stat info;
    return stat(path.c_str(), &info) == 0;
  };
  if (exists(run_dir + "/atoll.db") || exists(run_dir + "/summary.json")) return true;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir, error)) {
    if (entry.is_directory(error) && exists(entry.path().string() + "/checkpoints")) return true;
  }
  return false;
}

std::string NextAttemptDirectory(const std::string& run_dir, const std::string& region) {
  return AttemptDirectory(run_dir, region, NewestAttempt(run_dir, region) + 1);
}

std::string NewestAttemptDirectory(const std::string& run_dir, const std::string& region) {
  const int newest = NewestAttempt(run_dir, region);
  return newest == 0 ? "" : AttemptDirectory(run_dir, region, newest);
}

}  // namespace atl
