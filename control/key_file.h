// The key files' text. Pure functions, so that they can be fuzzed.
//
//   {"format": "atoll orchestrator key", "version": 1, "public_key": Z85, "secret_key": Z85}
//   {"format": "atoll lease", "version": 1, "region": NAME, "public_key": Z85, "secret_key": Z85,
//    "orchestrator_public_key": Z85}
//
// Unknown members are ignored; another version is refused. A public key that does not belong to the
// secret one is an error. Messages never hold a secret.
#pragma once

#include <string>

#include "base/status.h"
#include "control/keys.h"

namespace atl {

inline constexpr int64_t kMaxKeyFileBytes = 16 << 10;

std::string OrchestratorKeyText(const KeyPair& keys);
std::string LeaseText(const Lease& lease);
// Errors say what is wrong, without the file's name.
StatusOr<KeyPair> ParseOrchestratorKey(const std::string& text);
StatusOr<Lease> ParseLease(const std::string& text);

// 1 to 63 letters, digits, '-' and '_': names become file names and ZeroMQ user ids.
bool IsRegionName(const std::string& name);

}  // namespace atl
