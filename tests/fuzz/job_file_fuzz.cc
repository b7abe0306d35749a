// Any bytes as a job file: a job or an error, never a crash. What is accepted must survive being
// written out and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "proto/job_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto job = atl::ParseJob(text, "fuzz.yaml", "/jobs", {});
  if (job.ok() && !atl::ParseJob(atl::JobToYaml(*job), "again.yaml", "/", {}).ok()) std::abort();
  // The same bytes as an override.
  (void)atl::ParseJob("data: {tokens: t}\n", "fuzz.yaml", "/jobs", {text});
  return 0;
}
