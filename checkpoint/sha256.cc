#include "checkpoint/sha256.h"

#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "base/log.h"

namespace atl::checkpoint {

std::string Sha256(absl::string_view bytes) {
  std::string hash(kHashBytes, '\0');
  unsigned int length = 0;
  const int done =
      EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(hash.data()), &length,
                 EVP_sha256(), nullptr);
  CHECK(done == 1 && length == kHashBytes) << "this OpenSSL has no SHA-256";
  return hash;
}

std::string Sha256Hex(absl::string_view bytes) { return absl::BytesToHexString(Sha256(bytes)); }

}  // namespace atl::checkpoint
