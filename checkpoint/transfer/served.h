// What a server reads when it is asked (wan::ByteSource): files, and bytes in memory.
// Thread rule: Read on one thread at a time (the engine's), the rest any thread.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/transfer/wire.h"
#include "collectives/wan/transfer.h"

namespace atl::checkpoint {

// Opened when it is first read, and closed with the object.
std::shared_ptr<wan::ByteSource> ServedFile(std::string path, int64_t bytes);
std::shared_ptr<wan::ByteSource> ServedBytes(std::string bytes);
// The bitmap in a pull's journal, as it is at that time.
std::shared_ptr<wan::ByteSource> ServedJournal(std::string path, int64_t chunks);

}  // namespace atl::checkpoint
