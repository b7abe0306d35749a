// Puts byte runs of one rank into the files of a staging directory, durably.
//
// Two ways, chosen at run time:
//   - past the page cache: runs go through aligned blocks of 1 MiB, up to 16 of them under way in
//     an io_uring to files opened with O_DIRECT. The ends of a run that do not fill a page go with
//     pwrite through a second descriptor, so no page of a file is written both ways by one rank;
//   - plain: pwrite, then fsync. Where io_uring is missing or forbidden (containers often forbid
//     it), or where the file system knows no O_DIRECT.
// A write that comes back short, or that is refused past the cache, is made again with pwrite.
// Errors name the file. After an error nothing more is written.
// Memory: 17 MiB. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace atl::checkpoint {

class FileWriter {
 public:
  static constexpr int64_t kBlockBytes = 1 << 20;
  static constexpr int kDepth = 16;

  static std::unique_ptr<FileWriter> Create(WriteWay way);
  virtual ~FileWriter() = default;

  // `path` exists. The bytes may change after the call. Runs that continue one another are joined.
  virtual Status Write(const std::string& path, const char* data, int64_t size, int64_t offset) = 0;
  // Everything written so far is on the disk.
  virtual Status Finish() = 0;
  // "io_uring", or "pwrite" with the reason.
  virtual std::string Describe() const = 0;
};

}  // namespace atl::checkpoint
