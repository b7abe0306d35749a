#include "cli/output.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/log.h"

namespace atl {
namespace {

bool IsTerminal(int fd) { return isatty(fd) == 1 && GetEnv("TERM").value_or("") != "dumb"; }

std::string Paint(bool on, Colour colour, absl::string_view text) {
  if (!on || colour == Colour::kNone) return std::string(text);
  const char* code = "0";
  switch (colour) {
    case Colour::kNone:
      break;
    case Colour::kBold:
      code = "1";
      break;
    case Colour::kDim:
      code = "2";
      break;
    case Colour::kRed:
      code = "31";
      break;
    case Colour::kGreen:
      code = "32";
      break;
    case Colour::kYellow:
      code = "33";
      break;
  }
  return absl::StrCat("\x1b[", code, "m", text, "\x1b[0m");
}

// What others wrote (file names, messages of libraries) may not be UTF-8; JSON must be.
std::string Dump(const nlohmann::json& object) {
  return object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace

Output::Output(bool json) : json_(json) {
  // https://no-color.org: set to anything but the empty string.
  const bool colours = GetEnv("NO_COLOR").value_or("").empty();
  colour_answer_ = colours && IsTerminal(STDOUT_FILENO);
  colour_talk_ = colours && IsTerminal(STDERR_FILENO);
  live_ = IsTerminal(STDERR_FILENO);
}

void Output::Write(absl::string_view text) {
  const bool taken = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if ((std::fflush(stdout) != 0 || !taken) && errno != EPIPE && written_.ok()) {
    written_ = WithExitCode(ErrnoError(errno, "cannot write to stdout"), ExitCode::kEnvironment);
  }
}

void Output::Answer(const nlohmann::json& object) {
  if (!json_) return;
  CHECK(!answered_) << "a verb answers once";
  answered_ = true;
  Write(Dump(object));
}

void Output::Print(absl::string_view text) {
  if (!json_) Write(text);
}

void Output::Talk(absl::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void Output::Error(const Status& status) {
  const std::string message(status.message());
  Talk(absl::StrCat(PaintTalk(Colour::kRed, "atoll: error:"), " ", message, "\n"));
  if (!json_ || answered_) return;
  answered_ = true;
  const nlohmann::json error = {{"message", message},
                                {"exit_code", static_cast<int>(ExitCodeOf(status))}};
  Write(Dump({{"error", error}}));
}

std::string Output::PaintAnswer(Colour colour, absl::string_view text) const {
  return Paint(colour_answer_ && !json_, colour, text);
}

std::string Output::PaintTalk(Colour colour, absl::string_view text) const {
  return Paint(colour_talk_, colour, text);
}

}  // namespace atl
