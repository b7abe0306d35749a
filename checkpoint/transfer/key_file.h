// The key that a source of checkpoints and those who pull from it share: 32 random bytes, as 64
// hexadecimal digits and a line feed, in a file that only its owner may read. Never on a command
// line.
//
// Pulling, a process picks a number of its own and calls for the view ViewOf(key, number): a source
// knows by the tag in it that the caller has the key, before it keeps anything for the caller. What
// is sent is encrypted under the key as all links of the WAN engine are. Any thread.
#pragma once

#include <cstdint>
#include <string>

#include "base/ids.h"
#include "base/status.h"
#include "collectives/wan/engine.h"

namespace atl::checkpoint {

// In a directory of checkpoints, unless another one is named.
inline constexpr char kKeyFileName[] = ".transfer-key";

// Errors (exit code 2): no such file, one that others may read, one that holds no key.
StatusOr<wan::Key> ReadKeyFile(const std::string& path);
// A new key. Errors: the file is there.
StatusOr<wan::Key> MakeKeyFile(const std::string& path);
// Reads it, or makes it if it is not there.
StatusOr<wan::Key> ReadOrMakeKeyFile(const std::string& path);

// 31 bits of `number` and a tag of 32 bits.
ViewId ViewOf(const wan::Key& key, uint32_t number);
bool IsViewOf(const wan::Key& key, ViewId view);

}  // namespace atl::checkpoint
