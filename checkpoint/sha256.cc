#include "checkpoint/sha256.h"

// Only the old interface lets a hash's state be moved to another process.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/evp.h>
#include <openssl/sha.h>

#include <cstdint>
#include <cstring>

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

struct Sha256Stream::Context {
  SHA256_CTX sha;
};

Sha256Stream::Sha256Stream() : context_(std::make_unique<Context>()) {
  CHECK_EQ(SHA256_Init(&context_->sha), 1);
}
Sha256Stream::~Sha256Stream() = default;
Sha256Stream::Sha256Stream(Sha256Stream&&) noexcept = default;
Sha256Stream& Sha256Stream::operator=(Sha256Stream&&) noexcept = default;

void Sha256Stream::Update(const void* bytes, size_t size) {
  CHECK_EQ(SHA256_Update(&context_->sha, bytes, size), 1);
}

std::string Sha256Stream::Finish() {
  std::string hash(kHashBytes, '\0');
  CHECK_EQ(SHA256_Final(reinterpret_cast<unsigned char*>(hash.data()), &context_->sha), 1);
  return hash;
}

std::string Sha256Stream::State() const {
  const SHA256_CTX& sha = context_->sha;
  std::string state(kStateBytes, '\0');
  static_assert(sizeof sha.h == 32 && sizeof sha.data == 64);
  std::memcpy(state.data(), sha.h, 32);
  const uint64_t bits = uint64_t{sha.Nh} << 32 | sha.Nl;
  const uint64_t bytes = bits / 8;
  std::memcpy(state.data() + 32, &bytes, 8);
  std::memcpy(state.data() + 40, sha.data, bytes % 64);
  return state;
}

StatusOr<Sha256Stream> Sha256Stream::FromState(absl::string_view state) {
  uint64_t bytes = 0;
  if (state.size() == kStateBytes) std::memcpy(&bytes, state.data() + 32, 8);
  if (state.size() != kStateBytes || bytes >= uint64_t{1} << 60) {
    return absl::InternalError("the state of a hash that can't be read");
  }
  Sha256Stream stream;
  SHA256_CTX& sha = stream.context_->sha;
  std::memcpy(sha.h, state.data(), 32);
  sha.Nl = static_cast<SHA_LONG>(bytes * 8);
  sha.Nh = static_cast<SHA_LONG>(bytes * 8 >> 32);
  sha.num = static_cast<unsigned int>(bytes % 64);
  std::memcpy(sha.data, state.data() + 40, bytes % 64);
  return stream;
}

}  // namespace atl::checkpoint
