// What the verbs of `atoll checkpoint` do where a place is s3://bucket/prefix.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/exit_code.h"
#include "base/flags.h"
#include "base/status.h"
#include "checkpoint/chunk_source.h"
#include "cli/output.h"

namespace atl {

bool IsS3(const std::string& place);
// Round `round` of a place: s3://bucket/prefix, or .../prefix/round-NNNNNN itself.
StatusOr<std::unique_ptr<checkpoint::ChunkSource>> S3SourceOf(const std::string& place,
                                                              int64_t round);

// pull: the newest complete one, or `round` (0: newest), into the directory of checkpoints.
StatusOr<ExitCode> PullFromS3(const std::string& place, const std::string& directory,
                              std::optional<int64_t> round, const std::string& root,
                              Output& output);
StatusOr<ExitCode> ListInS3(const std::string& place, Output& output);
StatusOr<ExitCode> PruneInS3(const std::string& place, int64_t keep, int64_t keep_every,
                             bool dry_run, Output& output);

}  // namespace atl
