// Child processes of `atoll train`, each in a session of its own, and their end.
//
// 1. A child is started with fork and exec: setsid (so that Ctrl-C at the terminal reaches `atoll`
//    alone), default signals, stdin from /dev/null, output appended to a file. An exec that fails
//    is an error of Spawn.
// 2. PR_SET_PDEATHSIG kills it when the thread that started it is gone, so that it does not outlive
//    a SIGKILLed `atoll`. Its own children stay in its session; those that matter watch their
//    parent themselves.
// 3. This process is the subreaper: what a dead child leaves behind becomes ours and is reaped too.
// 4. A session is over when its leader has ended and no process of it is left. The leader is reaped
//    only after the session was looked at, so that its number can't have gone to a stranger.
//
// Invariant: after StopAll or the destructor no process of any session is left (but one that the
// kernel itself holds: given up after 10 s, with a message).
// Thread rule: one thread, which lives as long as the process (2).
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace atl {

struct SpawnOptions {
  std::string name;                                // for messages: "orchestrator", "region oslo"
  std::vector<std::string> words;                  // program (with its path) and arguments
  std::map<std::string, std::string> environment;  // set over what this process has
  std::vector<std::string> dropped_prefixes;       // variables that the child does not get
  std::string output_path;                         // stdout and stderr are appended to it
};

struct ProcessEnd {
  int exit_code = 0;  // meaningful if signal is 0
  int signal = 0;
  bool well() const { return signal == 0 && exit_code == 0; }
  // What a shell would have as $?.
  int ShellCode() const { return signal != 0 ? 128 + signal : exit_code; }
  std::string Text() const;  // "exit code 3", "killed by SIGKILL"
};

std::string SignalText(int signal);  // "SIGTERM"

class Session {
 public:
  const std::string& name() const { return name_; }
  pid_t pid() const { return pid_; }
  // The leader's end; nothing while it runs.
  const std::optional<ProcessEnd>& end() const { return end_; }
  // No process of it is left.
  bool over() const { return over_; }

 private:
  friend class ProcessGroup;
  std::string name_;
  pid_t pid_ = 0;
  std::optional<ProcessEnd> end_;
  bool over_ = false;
};

class ProcessGroup {
 public:
  ProcessGroup();
  // StopAll(0): kills what is left.
  ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  // The session lives as long as this object. Errors name the program.
  StatusOr<Session*> Spawn(const SpawnOptions& options);
  // Takes note of all ends so far. Never blocks.
  void Reap();
  bool AllOver() const;
  // To the leader alone, or to every process of the session. Does nothing where all have ended.
  void SignalLeader(const Session& session, int signal);
  void SignalSession(const Session& session, int signal);
  // SIGTERM to every session that is not over, and SIGKILL to what is left after `grace_seconds`.
  // Waits for their end.
  void StopAll(double grace_seconds);

 private:
  void NoteLeaderEnd(Session* session, const ProcessEnd& end);

  std::vector<std::unique_ptr<Session>> sessions_;
};

// SIGINT, SIGTERM, SIGUSR1 and SIGCHLD as events of the main loop, for the life of the object.
class SignalWaiter {
 public:
  SignalWaiter();
  ~SignalWaiter();
  // The next signal that asks to stop; nothing after `seconds`, or at once when a child has ended.
  std::optional<int> Wait(double seconds);

 private:
  Fd fd_;
};

// The processes of a session, from /proc.
std::vector<pid_t> SessionMembers(pid_t session);

}  // namespace atl
