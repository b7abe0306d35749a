// What the hub of a group tells a member of another one to which it has no connection, because both
// only call out (group.h). Pure encoding and parsing, as frame.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "collectives/wan/frame.h"

namespace atl::wan {

// kRelayedStart: `member` has begun the operation, and this is its attachment.
struct RelayedStart {
  int member = 0;
  Start start;             // without a plan
  std::string attachment;  // or empty, where the operation has failed at the hub
  friend bool operator==(const RelayedStart&, const RelayedStart&) = default;
};
inline constexpr size_t kRelayedStartSize = 4 + kStartSize;  // without the attachment

// kSilence: `member` has not been heard at the hub for so long; 0: it is heard again.
struct RelayedSilence {
  int member = 0;
  double seconds = 0;
  friend bool operator==(const RelayedSilence&, const RelayedSilence&) = default;
};
inline constexpr size_t kRelayedSilenceSize = 12;

std::vector<uint8_t> EncodeRelayedStart(const RelayedStart& relayed);
std::vector<uint8_t> EncodeRelayedSilence(const RelayedSilence& relayed);
// Members below `members`; whether they may be spoken of is for the caller to know.
StatusOr<RelayedStart> ParseRelayedStart(Bytes bytes, int members);
StatusOr<RelayedSilence> ParseRelayedSilence(Bytes bytes, int members);

}  // namespace atl::wan
