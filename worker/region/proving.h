// Which of two checkpoints is right, where no majority says so: the one whose outer state has the
// digest that all regions agreed on when the round was committed. It was taken from the state
// itself, the checkpoint from a copy, so a bit that flipped in the copy, or was hashed wrongly,
// shows here although every hash fits.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/status.h"
#include "checkpoint/encryption.h"

namespace atl {

// OK if the replicated files of the checkpoint at `path` hold the state whose digest it names.
// `elements` of the flat vector, padding included; `key` of an encrypted one. Errors: kDataLoss: it
// is another state; kUnimplemented: there are replicated sections of which the digest says nothing;
// kCancelled once `stopped` says so; and it can't be read. Reads everything that is replicated, in
// parts of 32 MiB. Any thread.
Status HasItsState(const std::string& path, const checkpoint::EncryptionKey* key, int64_t elements,
                   const std::function<bool()>& stopped);

}  // namespace atl
