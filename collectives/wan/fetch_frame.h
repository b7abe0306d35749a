// What members say to each other about bytes that one fetches of the other (transfer.h): the
// payloads of kFetch and kFetchEnd. docs/protocols/wan.md has the bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "collectives/wan/frame.h"
#include "collectives/wan/transfer.h"

namespace atl::wan {

// kFetch. Its header's operation is the request's number.
struct FetchFrame {
  Range range;  // 1 to kMaxBlockBytes bytes
  std::string name;
  friend bool operator==(const FetchFrame&, const FetchFrame&) = default;
};

enum class FetchEndCode : uint8_t {
  kNotServed = 1,   // nothing of that name
  kOutOfRange = 2,  // what is served has not so many bytes
  kFailed = 3,      // it could not be read
  kCancelled = 4,   // as was asked
  kBusy = 5,        // it cannot be read now, for want of descriptors or memory; it can be later
};

// kFetchEnd: no more comes for the request.
struct FetchEnd {
  FetchEndCode code = FetchEndCode::kNotServed;
  std::string text;  // at most kMaxReason bytes; printable ASCII once parsed
};

inline constexpr size_t kFetchFrameSize = 16;  // without the name

std::vector<uint8_t> EncodeFetch(const FetchFrame& fetch);
std::vector<uint8_t> EncodeFetchEnd(const FetchEnd& end);
StatusOr<FetchFrame> ParseFetch(Bytes bytes);
StatusOr<FetchEnd> ParseFetchEnd(Bytes bytes);
// In words, for messages.
Status StatusOf(const FetchEnd& end);

}  // namespace atl::wan
