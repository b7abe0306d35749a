// What `atoll train` shows while a job runs: a line per round, and what happened besides, on
// stderr.
//
//   round 12/40  loss 2.41  val 2.39  tok/s 11.2 k  wan 3%  ETA 1m 02s
//
// On a terminal the last line is repainted while rounds are quicker than a second; elsewhere there
// is a line per round, but not more than one in kQuietSeconds. What the job waits for is shown at
// once on a terminal, in a line that is repainted, and else once it has lasted kQuietSeconds. Lines
// of former runs, which the orchestrator writes into the files again when it resumes, are not
// shown. Thread rule: one thread.
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "cli/output.h"
#include "cli/run_directory.h"

namespace atl {

// One round as a line. `eta_seconds` below 0: not known yet.
std::string RoundText(const RoundLine& round, int64_t rounds_total,
                      std::optional<double> validation_loss, double eta_seconds);

class Progress {
 public:
  // Shows what happened after `since` (calendar time). `output` outlives this.
  Progress(const std::string& run_dir, int64_t rounds_total, absl::Time since, Output* output);

  // Reads and shows what is new. `now` is monotonic, in seconds.
  void Update(double now);
  // The last words: also rounds that were held back.
  void Finish(double now);
  // A line between the others.
  void Say(const std::string& text);
  // The newest round of this run; 0: none yet.
  int64_t round() const { return shown_.empty() ? 0 : shown_.back().round; }

 private:
  void TakeEvent(const EventLine& event, double now);
  void TakeRound(const RoundLine& round, double now);
  void Show(double now, bool permanent);
  void ShowWaiting(double now);
  void Paint(Colour colour, const std::string& text);
  double EtaSeconds() const;

  const int64_t rounds_total_;
  const absl::Time since_;
  Output* const output_;
  LineTail rounds_;
  LineTail events_;
  int64_t last_event_ = 0;
  std::optional<double> validation_loss_;
  std::deque<RoundLine> shown_;  // the last few
  bool pending_ = false;         // the newest round has no line of its own yet
  bool painted_ = false;         // the terminal's last line is one that will be repainted
  double line_at_ = -1e9;
  std::string waiting_;  // for what, not shown as a line yet
  double waiting_since_ = 0;
};

}  // namespace atl
