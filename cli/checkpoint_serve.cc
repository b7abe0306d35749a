// `atoll checkpoint serve` and `keygen` (checkpoint/transfer/server.h, key_file.h).

#include <pthread.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/units.h"
#include "checkpoint/transfer/key_file.h"
#include "checkpoint/transfer/server.h"
#include "cli/checkpoint.h"

namespace atl {
namespace {

constexpr char kListen[] = "0.0.0.0:7450";

CommandSpec ServeSpec() {
  CommandSpec spec;
  spec.command = "atoll checkpoint serve";
  spec.arguments = "DIR";
  spec.summary = "give the checkpoints of a directory to those who have its key";
  spec.details =
      "Serves every committed checkpoint of DIR, and what is there of one that is still being "
      "pulled, until SIGINT or SIGTERM. The key is made when there is none; copy its file to where "
      "`atoll checkpoint pull` runs. A rate in the file DIR/.rate-cap, like 20mbit or none, counts "
      "instead of --rate_cap as soon as it is there. --json prints one object when it listens.";
  spec.min_positional = 1;
  spec.max_positional = 1;
  spec.flags = {
      {.name = "listen",
       .placeholder = "HOST:PORT",
       .help = "port 0: any free one",
       .default_value = kListen},
      {.name = "key",
       .placeholder = "FILE",
       .help = "in a file of mode 0600; default DIR/.transfer-key"},
      {.name = "rate_cap",
       .placeholder = "RATE",
       .help = "at most this, like 100mbit, to all callers together"},
      {.name = "yield",
       .kind = FlagKind::kSwitch,
       .placeholder = "",
       .help = "send only what other traffic on the lines leaves: beside training"},
      {.name = "plain",
       .kind = FlagKind::kSwitch,
       .placeholder = "",
       .help = "do not encrypt: on lines that are encrypted already"},
      JsonFlag(),
  };
  return spec;
}

// Until one of them comes. They were blocked before there were threads.
void AwaitSignal(const sigset_t& signals) {
  int which = 0;
  while (sigwait(&signals, &which) != 0) {
  }
}

StatusOr<ExitCode> Serve(const ParsedFlags& flags, Output& output) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  checkpoint::ServeOptions options;
  options.directory = WithoutSlash(flags.positional()[0]);
  const std::string key = flags.Has("key")
                              ? flags.Text("key")
                              : absl::StrCat(options.directory, "/", checkpoint::kKeyFileName);
  ASSIGN_OR_RETURN(options.key, checkpoint::ReadOrMakeKeyFile(key));
  ASSIGN_OR_RETURN(options.listen, Endpoint::Parse(flags.Text("listen")));
  options.encrypt = !flags.Switch("plain");
  if (flags.Switch("yield")) options.yield = [] { return wan::Yield::kSpare; };
  if (flags.Has("rate_cap")) {
    ASSIGN_OR_RETURN(const int64_t bits, ParseRateBitsPerSecond(flags.Text("rate_cap")));
    options.rate_cap = static_cast<double>(bits) / 8;
  }
  ASSIGN_OR_RETURN(const auto server, checkpoint::Server::Start(options));
  std::vector<int64_t> rounds;
  for (const checkpoint::Offer& offer : server->state().offers) rounds.push_back(offer.round);
  output.Answer({{"listens", server->endpoint().ToString()}, {"key", key}, {"rounds", rounds}});
  output.Print(absl::StrCat("serving ", options.directory, " at ", server->endpoint().ToString(),
                            "\n  key     ", key, "\n  rounds  ",
                            rounds.empty() ? "none yet" : absl::StrJoin(rounds, " "), "\n"));
  AwaitSignal(signals);
  output.Talk(
      absl::StrCat("sent ", FormatBytes(static_cast<double>(server->state().bytes_sent)), "\n"));
  return ExitCode::kDone;
}

StatusOr<ExitCode> Keygen(const ParsedFlags& flags, Output& output) {
  const std::string& path = flags.positional()[0];
  RETURN_IF_ERROR(checkpoint::MakeKeyFile(path).status());
  output.Print(absl::StrCat("a new key is in ", path, "\n"));
  output.Answer({{"key", path}});
  return ExitCode::kDone;
}

}  // namespace

Verb CheckpointServeVerb() { return {"checkpoint serve", ServeSpec(), Serve}; }

Verb CheckpointKeygenVerb() {
  CommandSpec spec;
  spec.command = "atoll checkpoint keygen";
  spec.arguments = "FILE";
  spec.summary = "make a key for serve and pull";
  spec.details = "FILE must not be there; only its owner can read it.";
  spec.min_positional = 1;
  spec.max_positional = 1;
  spec.flags = {JsonFlag()};
  return {"checkpoint keygen", spec, Keygen};
}

}  // namespace atl
