// Errors keep context and exit codes.
#include "base/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>

#include "base/exit_code.h"

namespace atl {
namespace {

using ::testing::HasSubstr;

TEST(Annotate, PutsContextInFrontAndKeepsTheRest) {
  const Status status = Annotate(EnvironmentError("no space"), "while writing a.bin");
  EXPECT_EQ(status.message(), "while writing a.bin: no space");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kEnvironment);
  EXPECT_TRUE(Annotate(OkStatus(), "whatever").ok());
}

TEST(ExitCodes, FollowFromTheKindOfErrorUnlessOneIsBound) {
  EXPECT_EQ(ExitCodeOf(OkStatus()), ExitCode::kDone);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("")), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("")), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("")), ExitCode::kEnvironment);
  EXPECT_EQ(ExitCodeOf(absl::PermissionDeniedError("")), ExitCode::kEnvironment);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("")), ExitCode::kFailed);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("")), ExitCode::kFailed);
  EXPECT_EQ(ExitCodeOf(WithExitCode(absl::InternalError(""), ExitCode::kStoppedCleanly)),
            ExitCode::kStoppedCleanly);
}

TEST(ExitCodes, KeepTheInnermostBinding) {
  const Status inner = WithExitCode(absl::InternalError("x"), ExitCode::kEnvironment);
  EXPECT_EQ(ExitCodeOf(WithExitCode(inner, ExitCode::kUsage)), ExitCode::kEnvironment);
  EXPECT_TRUE(WithExitCode(OkStatus(), ExitCode::kUsage).ok());
}

TEST(ExitCodes, AreTheNumbersThatSchedulersKnow) {
  EXPECT_EQ(static_cast<int>(ExitCode::kUsage), 2);
  EXPECT_EQ(static_cast<int>(ExitCode::kEnvironment), 4);
  EXPECT_EQ(static_cast<int>(ExitCode::kOrchestratorLost), 5);
  EXPECT_EQ(static_cast<int>(ExitCode::kStoppedCleanly), 75);
  EXPECT_EQ(static_cast<int>(ExitCode::kStoppedUncommitted), 76);
  EXPECT_EQ(ExitCodeOf(UsageError("")), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(EnvironmentError("")), ExitCode::kEnvironment);
}

TEST(ErrnoErrors, SayWhatTheSystemSaidAndCarryTheRightExitCode) {
  const Status full = ErrnoError(ENOSPC, "cannot write /x");
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ExitCodeOf(full), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(full.message()), HasSubstr("cannot write /x: No space left"));
  EXPECT_EQ(ErrnoError(ENOENT, "").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ExitCodeOf(ErrnoError(ENOENT, "")), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(ErrnoError(EADDRINUSE, "")), ExitCode::kEnvironment);
  EXPECT_EQ(ExitCodeOf(ErrnoError(EACCES, "")), ExitCode::kEnvironment);
  EXPECT_EQ(ExitCodeOf(ErrnoError(EIO, "")), ExitCode::kEnvironment);
  EXPECT_EQ(ErrnoError(ECONNREFUSED, "").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ExitCodeOf(ErrnoError(ECONNREFUSED, "")), ExitCode::kFailed);
}

Status Passes(const Status& first, int* reached) {
  RETURN_IF_ERROR(first);
  ++*reached;
  return OkStatus();
}

StatusOr<int> Doubled(StatusOr<std::unique_ptr<int>> value) {
  ASSIGN_OR_RETURN(const std::unique_ptr<int> number, std::move(value));
  ASSIGN_OR_RETURN(const int same, StatusOr<int>(*number));  // twice in one scope
  return *number + same;
}

TEST(Macros, ReturnTheErrorAndElseGoOn) {
  int reached = 0;
  EXPECT_TRUE(Passes(OkStatus(), &reached).ok());
  EXPECT_EQ(Passes(absl::InternalError("x"), &reached), absl::InternalError("x"));
  EXPECT_EQ(reached, 1);
  EXPECT_EQ(*Doubled(std::make_unique<int>(21)), 42);
  EXPECT_EQ(Doubled(absl::AbortedError("y")).status(), absl::AbortedError("y"));
}

}  // namespace
}  // namespace atl
