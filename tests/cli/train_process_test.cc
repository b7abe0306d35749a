// Child processes with shell scripts as children: their ends, their families, and nothing left
// over.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "cli/process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace atl {
namespace {

using ::testing::HasSubstr;

constexpr double kPatience = 30;

double Now() { return Clock::Real()->MonotonicSeconds(); }

class TrainProcess : public testing::Test {
 protected:
  TrainProcess() {
    std::string name = absl::StrCat(testing::TempDir(), "/process-XXXXXX");
    directory_ = mkdtemp(name.data());
  }
  ~TrainProcess() override { std::filesystem::remove_all(directory_); }

  SpawnOptions Script(const std::string& script) {
    SpawnOptions options;
    options.name = "script";
    options.words = {"/bin/sh", "-c", script};
    options.output_path = directory_ + "/output";
    return options;
  }
  std::string OutputText() {
    const auto text = ReadFile(directory_ + "/output");
    return text.ok() ? *text : "";
  }
  // Until the script has written so much.
  bool AwaitOutput(const std::string& text) {
    const double deadline = Now() + kPatience;
    while (OutputText().find(text) == std::string::npos) {
      if (Now() > deadline) return false;
      signals_.Wait(0.01);
    }
    return true;
  }
  ProcessEnd AwaitEnd(ProcessGroup* processes, const Session& session) {
    const double deadline = Now() + kPatience;
    while (!session.end() && Now() < deadline) {
      signals_.Wait(0.05);
      processes->Reap();
    }
    EXPECT_TRUE(session.end());
    return session.end().value_or(ProcessEnd());
  }
  static bool Exists(pid_t pid) { return kill(pid, 0) == 0; }

  std::string directory_;
  SignalWaiter signals_;
};

TEST_F(TrainProcess, ExitCodesAndSignalsAreReported) {
  ProcessGroup processes;
  Session* three = *processes.Spawn(Script("exit 3"));
  Session* none = *processes.Spawn(Script("exit 0"));
  Session* dead = *processes.Spawn(Script("kill -TERM $$"));
  EXPECT_EQ(AwaitEnd(&processes, *three).Text(), "exit code 3");
  EXPECT_TRUE(AwaitEnd(&processes, *none).well());
  const ProcessEnd end = AwaitEnd(&processes, *dead);
  EXPECT_EQ(end.Text(), "killed by SIGTERM");
  EXPECT_EQ(end.ShellCode(), 128 + SIGTERM);
  EXPECT_TRUE(processes.AllOver());
}

TEST_F(TrainProcess, AProgramThatIsNotThereIsNamed) {
  ProcessGroup processes;
  SpawnOptions options = Script("");
  options.words = {directory_ + "/no-such-program"};
  const auto session = processes.Spawn(options);
  EXPECT_EQ(ExitCodeOf(session.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(session.status().message()), HasSubstr("no-such-program"));
  EXPECT_TRUE(processes.AllOver());
}

TEST_F(TrainProcess, AChildHasEmptyInputItsOwnSessionAndOutputInAFile) {
  ProcessGroup processes;
  SpawnOptions options = Script("cat; echo out; echo error >&2; echo sid=$(ps -o sid= -p $$)");
  Session* session = *processes.Spawn(options);
  EXPECT_TRUE(AwaitEnd(&processes, *session).well());
  EXPECT_THAT(OutputText(), HasSubstr("out\nerror\n"));
  std::string sid = OutputText().substr(OutputText().find("sid=") + 4);
  int number = 0;
  ASSERT_TRUE(absl::SimpleAtoi(sid, &number));
  EXPECT_EQ(number, session->pid());
  EXPECT_NE(number, getsid(0));
}

TEST_F(TrainProcess, AChildDoesNotInheritIgnoredOrBlockedSignals) {
  const auto before = signal(SIGPIPE, SIG_IGN);
  ProcessGroup processes;  // signals_ blocks SIGTERM here
  Session* session = *processes.Spawn(Script("kill -PIPE $$; exit 0"));
  EXPECT_EQ(AwaitEnd(&processes, *session).signal, SIGPIPE);
  signal(SIGPIPE, before);
}

TEST_F(TrainProcess, TheEnvironmentIsSetAndCutAsTold) {
  SetEnv("TRAINTEST_A", "1", true);
  SetEnv("TRAINTEST_B", "2", true);
  SetEnv("TRAINOTHER", "3", true);
  ProcessGroup processes;
  SpawnOptions options = Script("echo [$TRAINTEST_A] [$TRAINTEST_B] [$TRAINOTHER] [$NEW]");
  options.dropped_prefixes = {"TRAINTEST_"};
  options.environment = {{"TRAINTEST_B", "new"}, {"NEW", "x y"}};
  AwaitEnd(&processes, **processes.Spawn(options));
  EXPECT_EQ(OutputText(), "[] [new] [3] [x y]\n");
}

TEST_F(TrainProcess, StopAllEndsTheObedientBySigtermAndTheStubbornBySigkill) {
  ProcessGroup processes;
  Session* obedient =
      *processes.Spawn(Script("trap 'exit 7' TERM; echo ready-1; while :; do sleep 0.05; done"));
  Session* stubborn =
      *processes.Spawn(Script("trap '' TERM; echo ready-2; while :; do sleep 0.05; done"));
  ASSERT_TRUE(AwaitOutput("ready-1"));
  ASSERT_TRUE(AwaitOutput("ready-2"));
  processes.StopAll(1);
  EXPECT_EQ(obedient->end()->exit_code, 7);
  EXPECT_EQ(stubborn->end()->signal, SIGKILL);
  EXPECT_TRUE(processes.AllOver());
}

TEST_F(TrainProcess, GrandchildrenInGroupsOfTheirOwnEndToo) {
  // As mpirun does with its workers: each leads a process group, in mpirun's session.
  ProcessGroup processes;
  SpawnOptions options = Script(
      "set -m; (trap '' TERM HUP; echo child-$BASHPID-; while :; do sleep 0.05; done) & "
      "set +m; exec sleep 1000");
  options.words[0] = "/bin/bash";
  Session* session = *processes.Spawn(options);
  ASSERT_TRUE(AwaitOutput("-\n"));
  const std::vector<std::string> parts = absl::StrSplit(OutputText(), '-');
  int grandchild = 0;
  ASSERT_TRUE(absl::SimpleAtoi(parts[1], &grandchild)) << OutputText();
  EXPECT_TRUE(Exists(grandchild));
  EXPECT_NE(getpgid(grandchild), getpgid(session->pid()));
  EXPECT_GE(SessionMembers(session->pid()).size(), 2);
  processes.StopAll(0.1);
  EXPECT_FALSE(Exists(grandchild));
}

TEST_F(TrainProcess, ASessionIsOverOnlyWhenItsLastProcessHasEnded) {
  ProcessGroup processes;
  Session* session =
      *processes.Spawn(Script("(trap '' HUP; echo here; while :; do sleep 0.05; done) & exit 0"));
  ASSERT_TRUE(AwaitOutput("here"));
  EXPECT_TRUE(AwaitEnd(&processes, *session).well());
  EXPECT_FALSE(session->over());
  processes.SignalSession(*session, SIGKILL);
  const double deadline = Now() + kPatience;
  while (!session->over() && Now() < deadline) {
    signals_.Wait(0.05);
    processes.Reap();
  }
  EXPECT_TRUE(session->over());
}

TEST_F(TrainProcess, NothingIsLeftWhenTheGroupIsDestroyed) {
  pid_t pid = 0;
  {
    ProcessGroup processes;
    pid = (*processes.Spawn(Script("trap '' TERM; while :; do sleep 0.05; done")))->pid();
    EXPECT_TRUE(Exists(pid));
  }
  EXPECT_FALSE(Exists(pid));
}

TEST_F(TrainProcess, AChildDoesNotOutliveASupervisorThatIsKilled) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  const pid_t supervisor = fork();
  if (supervisor == 0) {
    ProcessGroup processes;
    const auto session =
        processes.Spawn(Script("trap '' TERM HUP; echo pid-$$-; while :; do sleep 0.05; done"));
    while (session.ok()) pause();
    _exit(1);
  }
  ASSERT_TRUE(AwaitOutput("-\n"));
  int child = 0;
  ASSERT_TRUE(
      absl::SimpleAtoi(std::vector<std::string>(absl::StrSplit(OutputText(), '-'))[1], &child));
  kill(supervisor, SIGKILL);
  EXPECT_EQ(waitpid(supervisor, nullptr, 0), supervisor);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);  // ours now: it was orphaned
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  while (waitpid(-1, nullptr, WNOHANG) > 0) {  // its `sleep`
  }
}

TEST_F(TrainProcess, SignalsThatAskToStopAreEvents) {
  EXPECT_EQ(signals_.Wait(0), std::nullopt);
  kill(getpid(), SIGUSR1);
  EXPECT_EQ(signals_.Wait(kPatience), SIGUSR1);
  kill(getpid(), SIGINT);
  EXPECT_EQ(signals_.Wait(kPatience), SIGINT);
  EXPECT_EQ(signals_.Wait(0), std::nullopt);
}

}  // namespace
}  // namespace atl
