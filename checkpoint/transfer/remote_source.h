// What a server gives, for repairs (checkpoint/chunk_source.h): one checkpoint of one source over
// the WAN engine's links. Chunks that are expected are fetched ahead, kAhead at a time. Nothing
// that comes is verified here: who repairs does. One thread.
#pragma once

#include <memory>

#include "base/socket.h"
#include "checkpoint/chunk_source.h"
#include "collectives/wan/engine.h"

namespace atl::checkpoint {

// The source's checkpoint of this round. It connects in the background; what fails is told when
// something is read.
StatusOr<std::unique_ptr<ChunkSource>> MakeRemoteSource(const Endpoint& source, const wan::Key& key,
                                                        int64_t round, bool encrypt = true);

}  // namespace atl::checkpoint
