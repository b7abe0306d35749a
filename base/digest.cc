#include "base/digest.h"

#include <xxhash.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/log.h"

namespace atl {

std::string Digest::Hex() const { return absl::StrFormat("%016x%016x", high, low); }

StatusOr<Digest> Digest::FromHex(const std::string& hex) {
  Digest digest;
  if (hex.size() != 32 || !absl::SimpleHexAtoi(hex.substr(0, 16), &digest.high) ||
      !absl::SimpleHexAtoi(hex.substr(16), &digest.low)) {
    return absl::InvalidArgumentError("a digest is 32 hexadecimal digits");
  }
  return digest;
}

Digest DigestOfSlice(const float* data, int64_t offset, int64_t count, uint64_t domain) {
  CHECK_EQ(offset % kDigestBlock, 0);
  CHECK_EQ(count % kDigestBlock, 0);
  Digest sum;
  for (int64_t done = 0; done < count; done += kDigestBlock) {
    const XXH128_hash_t block = XXH3_128bits(data + done, kDigestBlock * sizeof(float));
    const uint64_t tagged[4] = {block.low64, block.high64, domain,
                                static_cast<uint64_t>((offset + done) / kDigestBlock)};
    const XXH128_hash_t mixed = XXH3_128bits(tagged, sizeof tagged);
    sum.Add({mixed.low64, mixed.high64});
  }
  return sum;
}

}  // namespace atl
