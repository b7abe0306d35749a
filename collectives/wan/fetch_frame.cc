#include "collectives/wan/fetch_frame.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace atl::wan {
namespace {

constexpr int64_t kMaxObjectBytes = int64_t{1} << 48;

}  // namespace

std::vector<uint8_t> EncodeFetch(const FetchFrame& fetch) {
  std::vector<uint8_t> bytes(kFetchFrameSize + fetch.name.size());
  const int64_t size = fetch.range.size();
  std::memcpy(bytes.data(), &fetch.range.begin, 8);
  std::memcpy(bytes.data() + 8, &size, 8);
  std::copy(fetch.name.begin(), fetch.name.end(), bytes.begin() + kFetchFrameSize);
  return bytes;
}

StatusOr<FetchFrame> ParseFetch(Bytes bytes) {
  if (bytes.size() <= kFetchFrameSize || bytes.size() > kFetchFrameSize + kMaxNameBytes) {
    return absl::InvalidArgumentError("a fetch of the wrong size");
  }
  FetchFrame fetch;
  int64_t size = 0;
  std::memcpy(&fetch.range.begin, bytes.data(), 8);
  std::memcpy(&size, bytes.data() + 8, 8);
  if (fetch.range.begin < 0 || fetch.range.begin > kMaxObjectBytes || size < 1 ||
      size > kMaxBlockBytes) {
    return absl::InvalidArgumentError("a fetch of bytes that cannot be");
  }
  fetch.range.end = fetch.range.begin + size;
  fetch.name.assign(bytes.begin() + kFetchFrameSize, bytes.end());
  return fetch;
}

std::vector<uint8_t> EncodeFetchEnd(const FetchEnd& end) {
  std::vector<uint8_t> bytes(1 + std::min(end.text.size(), kMaxReason));
  bytes[0] = static_cast<uint8_t>(end.code);
  std::copy_n(end.text.begin(), bytes.size() - 1, bytes.begin() + 1);
  return bytes;
}

StatusOr<FetchEnd> ParseFetchEnd(Bytes bytes) {
  if (bytes.empty() || bytes.size() > 1 + kMaxReason) {
    return absl::InvalidArgumentError("an end of a fetch of the wrong size");
  }
  FetchEnd end;
  end.code = static_cast<FetchEndCode>(bytes[0]);
  if (bytes[0] < 1 || end.code > FetchEndCode::kBusy) {
    return absl::InvalidArgumentError(
        absl::StrCat("an end of a fetch with the unknown code ", bytes[0]));
  }
  for (const uint8_t byte : bytes.subspan(1)) {
    end.text.push_back(byte >= 0x20 && byte < 0x7F ? static_cast<char>(byte) : '?');
  }
  return end;
}

Status StatusOf(const FetchEnd& end) {
  switch (end.code) {
    case FetchEndCode::kNotServed:
      return absl::NotFoundError(absl::StrCat("it serves nothing of that name. ", end.text));
    case FetchEndCode::kOutOfRange:
      return absl::OutOfRangeError(absl::StrCat("it has not so many bytes. ", end.text));
    case FetchEndCode::kFailed:
      return absl::InternalError(absl::StrCat("it could not read them: ", end.text));
    case FetchEndCode::kBusy:
      return absl::ResourceExhaustedError(absl::StrCat("it cannot read them now: ", end.text));
    case FetchEndCode::kCancelled:
      break;
  }
  return absl::CancelledError("it was asked to end");
}

}  // namespace atl::wan
