// A checkpoint in a bucket as a source of chunks (chunk_source.h), for pulling and repairing, and
// the directory of checkpoints that a prefix is: PREFIX/round-000041/... as on a disk. One whose
// MANIFEST.json is not there does not exist.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/chunk_source.h"
#include "checkpoint/s3/client.h"

namespace atl::checkpoint {

// Of one checkpoint. Reads ahead in a file that is read in order: up to eight chunks at a time,
// each over a connection of its own.
std::unique_ptr<ChunkSource> MakeS3Source(const S3Settings& settings, const S3Place& place);

struct S3Round {
  int64_t round = 0;
  S3Place place;
  bool complete = false;  // it has a manifest
};
// What bears the name of a checkpoint, newest first.
StatusOr<std::vector<S3Round>> ListS3Rounds(const S3Settings& settings, const S3Place& directory);

// Removes a checkpoint's objects, its manifest first: nobody sees half of one.
Status RemoveFromS3(const S3Settings& settings, const S3Place& place);

}  // namespace atl::checkpoint
