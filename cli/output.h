// Where words go: stdout has answers, stderr has talk.
//
// With --json stdout has exactly one JSON object: the answer, or {"error": {"message",
// "exit_code"}}. Without it, text. Colour only on a terminal and never with NO_COLOR; lines are
// repainted only on a terminal. Used by the main thread alone.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace atl {

enum class Colour { kNone, kBold, kDim, kRed, kGreen, kYellow };

class Output {
 public:
  explicit Output(bool json);

  // True if --json was given: use Answer(), and Print() does nothing.
  bool json() const { return json_; }
  // The one JSON object on stdout. Does nothing without --json, so that a verb may call both
  // Answer() and Print(). A second call is a programmer error (CHECK).
  void Answer(const nlohmann::json& object);
  // Text on stdout, as it is; nothing with --json. Add the line's end.
  void Print(absl::string_view text);
  // Progress, hints, warnings: text on stderr, as it is. Add the line's end.
  void Talk(absl::string_view text);
  // "atoll: error: MESSAGE" on stderr and, with --json, the error object on stdout. Called by main.
  void Error(const Status& status);

  // OK, or why stdout did not take an answer (a full disk; exit code "environment"). A reader that
  // went away (`atoll ... | head`) is no error.
  Status written() const { return written_; }

  // True if stderr is a terminal that may be repainted (and TERM is not "dumb").
  bool live() const { return live_; }
  // `text` in a colour, if the stream that Print (or Talk) writes to shows colours.
  std::string PaintAnswer(Colour colour, absl::string_view text) const;
  std::string PaintTalk(Colour colour, absl::string_view text) const;

 private:
  void Write(absl::string_view text);

  const bool json_;
  Status written_;
  bool answered_ = false;
  bool colour_answer_ = false;
  bool colour_talk_ = false;
  bool live_ = false;
};

}  // namespace atl
