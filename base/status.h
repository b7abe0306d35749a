// Errors as values: absl::Status with context added at each border, and macros that pass it on.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace atl {

using absl::OkStatus;
using absl::Status;
using absl::StatusOr;

// The same error with `context` in front: "while reading checkpoint X: No such file". Payloads are
// kept.
Status Annotate(const Status& status, const std::string& context);

// An error from errno with the failed action: "cannot open /x: No such file or directory".
// EADDRINUSE, ENOSPC, EACCES and the like get the exit code of UX "environment".
Status ErrnoError(int error_number, const std::string& what);

}  // namespace atl

#define ATOLL_CONCAT_INNER(a, b) a##b
#define ATOLL_CONCAT(a, b) ATOLL_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expr)                                           \
  do {                                                                  \
    if (::absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)

#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL(ATOLL_CONCAT(status_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                          \
  if (!tmp.ok()) return tmp.status();         \
  lhs = *std::move(tmp)
