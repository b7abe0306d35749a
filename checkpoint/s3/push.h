// Push: a checkpoint of this disk becomes objects PLACE/round-000041/... of a bucket.
//
//   1. The manifest and every hash file are checked; every chunk is compared with its hash as it is
//      read, so what is damaged here does not get there.
//   2. A manifest that is there already: the same checkpoint, then all is well if its objects are
//      there; another one of this round is an error, or with `replace` loses its manifest first.
//   3. Each file, and each hash file: an object that is there with the right size and root (its
//      metadata x-amz-meta-atoll-root) is left alone. One of up to a part (16 MiB, more where 9000
//      parts would not do) is put as a whole. A longer one goes as a multipart upload, several
//      parts at a time. An upload that was cut short is found on the server and gone on with: of
//      its parts those stay that have the size and, as ETag, the MD5 of what is to be there. (Where
//      a server's ETags are no MD5, and where it does not list uploads, parts are sent again.) So
//      nothing has to be kept on this side, and another host may go on.
//   4. The manifest is put last. Before that the checkpoint does not exist.
// Memory: a part a thread. Thread rule: one thread calls.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/status.h"
#include "checkpoint/s3/client.h"

namespace atl::checkpoint {

struct PushOptions {
  std::string path;  // .../round-000041
  S3Place directory;
  S3Settings settings;
  bool replace = false;
  int threads = 4;
  int64_t part_bytes = 16 << 20;  // a multiple of kChunkBytes; S3 wants 5 MiB at least
  // Called from several threads, one at a time.
  std::function<void(int64_t done, int64_t total)> progress;
};

struct PushResult {
  S3Place place;
  int64_t round = 0;
  int64_t bytes = 0;        // of the checkpoint's files
  int64_t bytes_there = 0;  // of these, what was there already
  bool was_there = false;   // all of it, with its manifest
};

// Errors: the checkpoint is damaged, another one is there (exit code 2); the server (4).
StatusOr<PushResult> PushToS3(const PushOptions& options);

}  // namespace atl::checkpoint
