// The one place that includes glog: LOG, VLOG, CHECK. CHECK is for programmer errors only, never
// for input or network.
#pragma once

#include <glog/logging.h>

#include <string>

namespace atl {

// Sends logs to stderr, in glog's line format. With a path, stderr itself is appended to that file
// first, so that what libraries print lands there too. Call once, before threads.
void InitLogging(const char* program, const std::string& stderr_path = "");

// A crash (SIGSEGV, SIGABRT, ...) leaves its stack in the log. Install other signal handlers after.
void LogCrashes();

}  // namespace atl
