// The files of a run directory that people and scripts read: rounds.jsonl, events.jsonl,
// summary.json. The store is the truth; these follow it.
//
// 1. Opening, and every resume point, rewrites both .jsonl files from the store (aside, then
//    renamed), so that a crash between a transaction and its lines, and rounds that are trained
//    again, leave no trace.
// 2. After each transaction its rounds and events are appended.
// 3. summary.json is replaced as a whole when something has changed, at most once a second, and
//    when the job starts or ends.
// Errors: a full disk has exit code 4. One thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "orchestrator/core/records.h"
#include "orchestrator/store/store.h"
#include "orchestrator/store/summary.h"

namespace atl {

// A text file that only grows, but for Rewrite.
class LineFile {
 public:
  explicit LineFile(std::string path) : path_(std::move(path)) {}

  // Between BeginRewrite and FinishRewrite, lines go to a file aside, which then takes the place.
  Status BeginRewrite();
  Status FinishRewrite();
  // Buffers a line; Flush writes what is buffered.
  Status Add(const std::string& line);
  Status Flush();

 private:
  const std::string path_;
  std::string staging_;  // not empty: rewriting
  Fd fd_;
  int64_t size_ = 0;
  std::string buffer_;
};

class RunFiles {
 public:
  static StatusOr<std::unique_ptr<RunFiles>> Open(const std::string& directory, Store* store);

  // After `records` were applied to the store.
  Status Append(const std::vector<Record>& records, double now);
  // Writes a summary that is due. Call from time to time.
  Status Flush(double now);
  Status WriteSummary(double now);
  // True if there is something that Flush has not written yet.
  bool dirty() const { return dirty_; }

 private:
  RunFiles(const std::string& directory, Store* store);
  Status Rewrite();

  const std::string summary_path_;
  Store* const store_;
  LineFile rounds_;
  LineFile events_;
  Summary summary_;
  bool dirty_ = false;
  double written_at_ = 0;
};

}  // namespace atl
