// Reads a run directory (docs/formats/run-directory.md) while an orchestrator writes it: what
// `atoll train` shows live and `atoll status` at once.
//
// Its files are written by others, perhaps by another version, and may be gone, cut short or
// replaced at any moment: a line or a member that does not parse counts as absent, and sizes are
// bounded.
// Thread rule: one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"

namespace atl {

struct RoundLine {
  int64_t round = 0;
  int64_t view = 0;
  double train_loss = 0;
  int64_t tokens = 0;
  int64_t tokens_total = 0;
  double seconds = 0;
  double wan_seconds = 0;
  absl::Time time = absl::InfinitePast();
};
std::optional<RoundLine> ParseRoundLine(const std::string& line);

struct EventLine {
  int64_t number = 0;
  std::string kind;
  std::string region;
  int64_t round = -1;
  std::string text;
  std::optional<double> validation_loss;
  absl::Time time = absl::InfinitePast();
};
std::optional<EventLine> ParseEventLine(const std::string& line);

// Lines that a file has got since the last Read. A file that was replaced or cut is read anew.
class LineTail {
 public:
  explicit LineTail(std::string path) : path_(std::move(path)) {}
  // Whole lines only, at most a few megabytes at once: read again until it is empty.
  std::vector<std::string> Read();

 private:
  const std::string path_;
  ino_t inode_ = 0;
  int64_t offset_ = 0;
  std::string rest_;  // of a line that is not whole yet
};

// The last `limit` lines (of the last 256 KiB at most); the very last may still be being written.
std::vector<std::string> LastLines(const std::string& path, size_t limit);
// A JSON object from a file of at most 16 MiB; null if it is absent or none.
nlohmann::json ReadJsonObject(const std::string& path);
// summary.json, with what rounds.jsonl knows better (it is written at once, the summary once a
// second); null if there is none.
nlohmann::json ReadSummary(const std::string& run_dir);
// A member if it is there and of that type, else the fallback.
double NumberOr(const nlohmann::json& object, const char* member, double fallback);
std::string TextOr(const nlohmann::json& object, const char* member, const std::string& fallback);
// Where the newest checkpoint's replicas differ: ", but not the same in a, b (...)"; else empty.
std::string DiffersText(const nlohmann::json& summary);

struct OrchestratorInfo {
  std::string address;
  pid_t pid = 0;
  std::string version;
  absl::Time started = absl::InfinitePast();
  bool alive = false;  // a process of that number and name runs on this host
};
std::optional<OrchestratorInfo> ReadOrchestratorInfo(const std::string& run_dir);

// True if a job has left something here that a run may continue or mix with.
bool HasJobState(const std::string& run_dir);
// "DIR/REGION/attempt-N" with the smallest N above those that are there, and the newest that is
// there (empty if none).
std::string NextAttemptDirectory(const std::string& run_dir, const std::string& region);
std::string NewestAttemptDirectory(const std::string& run_dir, const std::string& region);

}  // namespace atl
