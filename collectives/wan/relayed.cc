#include "collectives/wan/relayed.h"

#include <cstring>

namespace atl::wan {
namespace {

constexpr double kMostSilentSeconds = 1e9;

Status Bad(const char* what) { return absl::InvalidArgumentError(what); }

// member 2, 0 2
void PutMember(int member, uint8_t* out) {
  const auto narrow = static_cast<uint16_t>(member);
  std::memcpy(out, &narrow, sizeof narrow);
  std::memset(out + 2, 0, 2);
}

StatusOr<int> TakeMember(Bytes bytes, int members) {
  uint16_t words[2];
  std::memcpy(words, bytes.data(), sizeof words);
  if (words[1] != 0) return Bad("a relayed frame with reserved bits");
  if (words[0] >= members) return Bad("a relayed frame of a member that does not exist");
  return words[0];
}

}  // namespace

std::vector<uint8_t> EncodeRelayedStart(const RelayedStart& relayed) {
  std::vector<uint8_t> bytes(4);
  PutMember(relayed.member, bytes.data());
  const std::vector<uint8_t> start = EncodeStart(relayed.start);
  bytes.insert(bytes.end(), start.begin(), start.begin() + kStartSize);
  bytes.insert(bytes.end(), relayed.attachment.begin(), relayed.attachment.end());
  return bytes;
}

StatusOr<RelayedStart> ParseRelayedStart(Bytes bytes, int members) {
  if (bytes.size() < kRelayedStartSize) return Bad("a relayed start that is too short");
  RelayedStart relayed;
  ASSIGN_OR_RETURN(relayed.member, TakeMember(bytes, members));
  ASSIGN_OR_RETURN(relayed.start, ParseStart(bytes.subspan(4, kStartSize)));
  const Bytes attachment = bytes.subspan(kRelayedStartSize);
  if (!attachment.empty() && attachment.size() != relayed.start.attachment_bytes) {
    return Bad("a relayed start with an attachment of another size than announced");
  }
  relayed.attachment.assign(attachment.begin(), attachment.end());
  return relayed;
}

std::vector<uint8_t> EncodeRelayedSilence(const RelayedSilence& relayed) {
  std::vector<uint8_t> bytes(kRelayedSilenceSize);
  PutMember(relayed.member, bytes.data());
  std::memcpy(bytes.data() + 4, &relayed.seconds, sizeof relayed.seconds);
  return bytes;
}

StatusOr<RelayedSilence> ParseRelayedSilence(Bytes bytes, int members) {
  if (bytes.size() != kRelayedSilenceSize) return Bad("a word on silence of the wrong size");
  RelayedSilence relayed;
  ASSIGN_OR_RETURN(relayed.member, TakeMember(bytes, members));
  std::memcpy(&relayed.seconds, bytes.data() + 4, sizeof relayed.seconds);
  if (!(relayed.seconds >= 0 && relayed.seconds <= kMostSilentSeconds)) {
    return Bad("a silence that cannot be");
  }
  return relayed;
}

}  // namespace atl::wan
