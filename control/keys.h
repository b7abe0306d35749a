// Who may speak on the control plane. The orchestrator has one CURVE key pair; each lease (region)
// has its own, made by the orchestrator and handed to the site as one file. Keys are Z85 text (40
// characters), files are JSON with mode 0600, in a directory with mode 0700; a file that others can
// read is refused, with the command that mends it.
#pragma once

#include <string>

#include "base/status.h"

namespace atl {

struct KeyPair {
  std::string public_key;
  std::string secret_key;
};

KeyPair GenerateKeyPair();

// What a site holds: "<keys>/<region>.lease".
struct Lease {
  std::string region;
  KeyPair keys;
  std::string orchestrator_public_key;
};

// --keys, else $ATOLL_KEYS, else $XDG_CONFIG_HOME/atoll/keys, else ~/.config/atoll/keys.
StatusOr<std::string> KeysDirectory(const std::string& flag);

// The orchestrator's pair from "<directory>/orchestrator.key"; made at the first use (two processes
// at once: both get the same).
StatusOr<KeyPair> LoadOrCreateOrchestratorKeys(const std::string& directory);
// The lease of a region from "<directory>/<region>.lease", made at the first use, bound to the
// orchestrator's key.
StatusOr<Lease> LoadOrCreateLease(const std::string& directory, const std::string& region,
                                  const KeyPair& orchestrator);
// Site side: errors say which file, what is wrong with it and where a right one comes from. Exit
// code 2.
StatusOr<Lease> LoadLease(const std::string& path);

}  // namespace atl
