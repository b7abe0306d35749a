#include "orchestrator/store/etcd/sealed_value.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/random.h"

namespace atl {
namespace {

constexpr size_t kKeyBytes = 32;
constexpr size_t kNonceBytes = 12;
constexpr size_t kTagBytes = 16;
constexpr char kPurpose[] = "atoll values in etcd, version 1";

using Context = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

Context NewContext() {
  Context context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  CHECK(context != nullptr);
  return context;
}

const uint8_t* Bytes(absl::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

}  // namespace

ValueSealer::ValueSealer(const std::string& secret) : key_(kKeyBytes, '\0') {
  unsigned size = 0;
  CHECK(HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()), Bytes(kPurpose),
             sizeof kPurpose - 1, reinterpret_cast<uint8_t*>(key_.data()), &size) != nullptr);
  CHECK_EQ(size, kKeyBytes);
}

std::string ValueSealer::Seal(absl::string_view etcd_key, absl::string_view plain) const {
  CHECK_LT(plain.size(), std::numeric_limits<int>::max() / 2);
  std::string sealed(kNonceBytes + plain.size() + kTagBytes, '\0');
  auto* const out = reinterpret_cast<uint8_t*>(sealed.data());
  FillWithSystemRandom(out, kNonceBytes);
  const Context context = NewContext();
  int size = 0;
  CHECK_EQ(EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, Bytes(key_), out), 1);
  CHECK_EQ(EVP_EncryptUpdate(context.get(), nullptr, &size, Bytes(etcd_key),
                             static_cast<int>(etcd_key.size())),
           1);
  CHECK_EQ(EVP_EncryptUpdate(context.get(), out + kNonceBytes, &size, Bytes(plain),
                             static_cast<int>(plain.size())),
           1);
  CHECK_EQ(EVP_EncryptFinal_ex(context.get(), out + kNonceBytes + plain.size(), &size), 1);
  CHECK_EQ(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes,
                               out + kNonceBytes + plain.size()),
           1);
  return sealed;
}

StatusOr<std::string> ValueSealer::Open(absl::string_view etcd_key,
                                        absl::string_view sealed) const {
  const Status wrong = UsageError(absl::StrCat("the value of ", etcd_key,
                                               " in etcd does not open: it is damaged, or was "
                                               "written with another orchestrator.key"));
  if (sealed.size() < kNonceBytes + kTagBytes ||
      sealed.size() > std::numeric_limits<int>::max() / 2) {
    return wrong;
  }
  std::string plain(sealed.size() - kNonceBytes - kTagBytes, '\0');
  std::string tag(sealed.substr(sealed.size() - kTagBytes));
  const Context context = NewContext();
  int size = 0;
  CHECK_EQ(
      EVP_DecryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, Bytes(key_), Bytes(sealed)), 1);
  CHECK_EQ(EVP_DecryptUpdate(context.get(), nullptr, &size, Bytes(etcd_key),
                             static_cast<int>(etcd_key.size())),
           1);
  CHECK_EQ(EVP_DecryptUpdate(context.get(), reinterpret_cast<uint8_t*>(plain.data()), &size,
                             Bytes(sealed) + kNonceBytes, static_cast<int>(plain.size())),
           1);
  CHECK_EQ(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, kTagBytes, tag.data()), 1);
  uint8_t nothing[kTagBytes];
  if (EVP_DecryptFinal_ex(context.get(), nothing, &size) != 1) return wrong;
  return plain;
}

}  // namespace atl
