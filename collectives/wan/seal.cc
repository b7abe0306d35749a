#include "collectives/wan/seal.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <xxhash.h>

#include <cstring>

#include "base/log.h"

namespace atl::wan {
namespace {

constexpr char kContext[] = "atoll-wan-v3";
constexpr size_t kIvSize = 12;

std::array<uint8_t, kIvSize> CounterIv(uint64_t counter) {
  std::array<uint8_t, kIvSize> iv = {};
  std::memcpy(iv.data() + kIvSize - sizeof counter, &counter, sizeof counter);
  return iv;
}

uint64_t PlainSum(Bytes header, Bytes payload) {
  return XXH3_64bits_withSeed(payload.data(), payload.size(),
                              XXH3_64bits(header.data(), header.size()));
}

CipherContext MakeContext(const Key& key, int encrypt) {
  CipherContext context(EVP_CIPHER_CTX_new());
  CHECK(context != nullptr);
  CHECK_EQ(
      EVP_CipherInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr, encrypt),
      1);
  return context;
}

}  // namespace

void CipherContextDeleter::operator()(evp_cipher_ctx_st* context) const {
  EVP_CIPHER_CTX_free(context);
}

StreamKeys DeriveStreamKeys(const Key& view_key, const Hello& hello, const Answer& answer) {
  std::array<uint8_t, 2 * kNonceSize> salt;
  std::memcpy(salt.data(), hello.nonce.data(), kNonceSize);
  std::memcpy(salt.data() + kNonceSize, answer.nonce.data(), kNonceSize);
  constexpr size_t kContextSize = sizeof kContext - 1;
  std::array<uint8_t, kContextSize + kHelloSize + kAnswerSize> info;
  std::memcpy(info.data(), kContext, kContextSize);
  EncodeHello(hello, info.data() + kContextSize);
  EncodeAnswer(answer, info.data() + kContextSize + kHelloSize);

  std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr),
                                                        &EVP_KDF_free);
  CHECK(kdf != nullptr);
  std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(EVP_KDF_CTX_new(kdf.get()),
                                                                    &EVP_KDF_CTX_free);
  CHECK(context != nullptr);
  char digest[] = "SHA256";
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, const_cast<uint8_t*>(view_key.data()),
                                        view_key.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt.data(), salt.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
      OSSL_PARAM_construct_end()};
  std::array<uint8_t, 64> output;
  CHECK_EQ(EVP_KDF_derive(context.get(), output.data(), output.size(), parameters), 1);
  StreamKeys keys;
  std::memcpy(keys.from_dialler.data(), output.data(), 32);
  std::memcpy(keys.from_acceptor.data(), output.data() + 32, 32);
  return keys;
}

Sealer::Sealer(const Key& key, bool plain) : plain_(plain), context_(MakeContext(key, 1)) {}

void Sealer::Seal(Bytes header, Bytes plain, uint8_t* out, uint8_t* tag) {
  if (plain_ && counter_ > 0) {
    Check(header, plain, tag);
    if (plain.data() != out && !plain.empty()) std::memcpy(out, plain.data(), plain.size());
    return;
  }
  const auto iv = CounterIv(counter_++);
  int written = 0;
  EVP_CIPHER_CTX* context = context_.get();
  CHECK_EQ(EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, iv.data()), 1);
  CHECK_EQ(
      EVP_EncryptUpdate(context, nullptr, &written, header.data(), static_cast<int>(header.size())),
      1);
  if (!plain.empty()) {
    CHECK_EQ(
        EVP_EncryptUpdate(context, out, &written, plain.data(), static_cast<int>(plain.size())), 1);
  }
  uint8_t unused[kTagSize];
  CHECK_EQ(EVP_EncryptFinal_ex(context, unused, &written), 1);
  CHECK_EQ(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagSize, tag), 1);
}

void Sealer::Check(Bytes header, Bytes payload, uint8_t* tag) {
  const uint64_t sum = PlainSum(header, payload);
  std::memcpy(tag, &sum, sizeof sum);
  std::memcpy(tag + sizeof sum, &counter_, sizeof counter_);
  ++counter_;
}

Opener::Opener(const Key& key, bool plain) : plain_(plain), context_(MakeContext(key, 0)) {}

bool Opener::Open(Bytes header, uint8_t* data, size_t size, const uint8_t* tag) {
  if (plain_ && counter_ > 0) {
    uint64_t said[2];
    static_assert(sizeof said == kTagSize);
    std::memcpy(said, tag, sizeof said);
    return said[0] == PlainSum(header, Bytes(data, size)) && said[1] == counter_++;
  }
  const auto iv = CounterIv(counter_++);
  int written = 0;
  EVP_CIPHER_CTX* context = context_.get();
  CHECK_EQ(EVP_DecryptInit_ex(context, nullptr, nullptr, nullptr, iv.data()), 1);
  CHECK_EQ(
      EVP_DecryptUpdate(context, nullptr, &written, header.data(), static_cast<int>(header.size())),
      1);
  if (size > 0) {
    CHECK_EQ(EVP_DecryptUpdate(context, data, &written, data, static_cast<int>(size)), 1);
  }
  CHECK_EQ(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagSize, const_cast<uint8_t*>(tag)),
           1);
  uint8_t unused[kTagSize];
  return EVP_DecryptFinal_ex(context, unused, &written) > 0;
}

}  // namespace atl::wan
