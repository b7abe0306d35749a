#include "cli/progress.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/units.h"

namespace atl {
namespace {

constexpr double kQuietSeconds = 2;  // between lines, where stderr is no terminal
constexpr double kLiveSeconds = 1;   // between lines that stay, on a terminal
constexpr size_t kEtaRounds = 12;
constexpr size_t kPaintedColumns = 79;

// Events that users see while they wait; the others have a line elsewhere or are for the file.
constexpr absl::string_view kNews[] = {"resume",
                                       "checkpoint_unusable",
                                       "checkpoints_ignored",
                                       "rounds_superseded",
                                       "view",
                                       "checkpoint_complete",
                                       "checkpoint_differs",
                                       "checkpoint_mended",
                                       "checkpoint_not_mended",
                                       "checkpoint_decided",
                                       "checkpoint_undecided",
                                       "region_refused",
                                       "region_replaced",
                                       "region_silent",
                                       "fault",
                                       "fence",
                                       "left_out",
                                       "leaving",
                                       "drain",
                                       "lease_ends",
                                       "lease_short",
                                       "lease_too_short",
                                       "clock_differs",
                                       "caught_up",
                                       "orchestrator_back",
                                       "no_members",
                                       "stop",
                                       "left_apart",
                                       "paused"};

bool IsNews(const std::string& kind) {
  return std::find(std::begin(kNews), std::end(kNews), kind) != std::end(kNews);
}

}  // namespace

std::string RoundText(const RoundLine& round, int64_t rounds_total,
                      std::optional<double> validation_loss, double eta_seconds) {
  std::string text =
      absl::StrFormat("round %d/%d  loss %.4g", round.round, rounds_total, round.train_loss);
  if (validation_loss) absl::StrAppendFormat(&text, "  val %.4g", *validation_loss);
  if (round.seconds > 0) {
    absl::StrAppend(&text, "  tok/s ",
                    FormatCount(static_cast<double>(round.tokens) / round.seconds));
    absl::StrAppendFormat(&text, "  wan %.0f%%",
                          100 * std::clamp(round.wan_seconds / round.seconds, 0.0, 1.0));
  }
  if (eta_seconds >= 0) absl::StrAppend(&text, "  ETA ", FormatDuration(eta_seconds));
  return text;
}

Progress::Progress(const std::string& run_dir, int64_t rounds_total, absl::Time since,
                   Output* output)
    : rounds_total_(rounds_total),
      // Times in the files have milliseconds.
      since_(since - absl::Milliseconds(1)),
      output_(output),
      rounds_(run_dir + "/rounds.jsonl"),
      events_(run_dir + "/events.jsonl") {}

double Progress::EtaSeconds() const {
  const int64_t left = rounds_total_ - round();
  if (left <= 0) return -1;
  if (shown_.size() < 2) return shown_.empty() ? -1 : static_cast<double>(left) * shown_[0].seconds;
  const double span = absl::ToDoubleSeconds(shown_.back().time - shown_.front().time);
  return static_cast<double>(left) * span / static_cast<double>(shown_.size() - 1);
}

void Progress::Say(const std::string& text) {
  if (painted_) output_->Talk("\r\x1b[K");
  painted_ = false;
  output_->Talk(text + "\n");
}

void Progress::Paint(Colour colour, const std::string& text) {
  // A line that wraps could not be repainted.
  output_->Talk(
      absl::StrCat("\r\x1b[K", output_->PaintTalk(colour, text.substr(0, kPaintedColumns))));
  painted_ = true;
}

void Progress::ShowWaiting(double now) {
  if (waiting_.empty() || now - waiting_since_ < kQuietSeconds) return;
  Say(output_->PaintTalk(Colour::kDim, waiting_));
  waiting_.clear();
}

void Progress::TakeEvent(const EventLine& event, double now) {
  if (event.number > 0 && event.number <= last_event_) return;
  last_event_ = std::max(last_event_, event.number);
  if (event.validation_loss) validation_loss_ = event.validation_loss;
  if (event.time < since_) return;
  if (event.kind == "waiting") {
    if (waiting_.empty()) waiting_since_ = now;
    waiting_ = event.text;
    if (output_->live()) Paint(Colour::kDim, waiting_);
  } else if (event.validation_loss && round() == 0) {
    Say(absl::StrFormat("before training: validation loss %.4g", *event.validation_loss));
  } else if (IsNews(event.kind) && !event.text.empty()) {
    if (pending_) Show(now, /*permanent=*/true);
    waiting_.clear();
    Say(output_->PaintTalk(event.kind == "fault" ? Colour::kRed : Colour::kDim, event.text));
  }
}

void Progress::TakeRound(const RoundLine& round, double now) {
  if (round.time < since_ || round.round <= this->round()) return;
  shown_.push_back(round);
  if (shown_.size() > kEtaRounds) shown_.pop_front();
  pending_ = true;
  waiting_.clear();
  const double interval = output_->live() ? kLiveSeconds : kQuietSeconds;
  const bool first = shown_.size() == 1;
  if (first || now - line_at_ >= interval) {
    Show(now, /*permanent=*/true);
  } else if (output_->live()) {
    Show(now, /*permanent=*/false);
  }
}

void Progress::Show(double now, bool permanent) {
  const std::string text = RoundText(shown_.back(), rounds_total_, validation_loss_, EtaSeconds());
  if (permanent) {
    Say(text);
    line_at_ = now;
    pending_ = false;
  } else {
    Paint(Colour::kNone, text);
  }
}

void Progress::Update(double now) {
  // Events first: the evaluation of a round belongs on the line of the next one at the latest.
  for (auto lines = events_.Read(); !lines.empty(); lines = events_.Read()) {
    for (const std::string& line : lines) {
      if (const auto event = ParseEventLine(line)) TakeEvent(*event, now);
    }
  }
  for (auto lines = rounds_.Read(); !lines.empty(); lines = rounds_.Read()) {
    for (const std::string& line : lines) {
      if (const auto round = ParseRoundLine(line)) TakeRound(*round, now);
    }
  }
  ShowWaiting(now);
}

void Progress::Finish(double now) {
  Update(now);
  waiting_.clear();
  if (pending_) Show(now, /*permanent=*/true);
  if (painted_) output_->Talk("\n");
  painted_ = false;
}

}  // namespace atl
