// A file's bytes, memory-mapped and read-only.
//
// The size is taken once, when the file is opened. A file that another process cuts shorter
// afterwards ends this process with SIGBUS when the missing part is read: token files are replaced
// by renaming, never rewritten in place. Immutable; any thread may read.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace atl {

class MappedFile {
 public:
  // Errors as OpenFile's; a directory or a device is kInvalidArgument.
  static StatusOr<MappedFile> Open(const std::string& path);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  void Unmap();

  std::span<const uint8_t> bytes_;
};

}  // namespace atl
