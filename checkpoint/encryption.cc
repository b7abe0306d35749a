#include "checkpoint/encryption.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/random.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

constexpr int64_t kBlockBytes = 16;  // of AES
constexpr size_t kIdBytes = 16;

const unsigned char* Bytes(absl::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

std::string Hmac(absl::string_view key, absl::string_view text) {
  std::string mac(kHashBytes, '\0');
  unsigned int length = 0;
  const auto* const done = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), Bytes(text),
                                text.size(), reinterpret_cast<unsigned char*>(mac.data()), &length);
  CHECK(done != nullptr && length == kHashBytes) << "this OpenSSL has no HMAC with SHA-256";
  return mac;
}

// Texts of any length one behind the other, so that no two lists give the same.
void Add(absl::string_view text, std::string* to) {
  absl::StrAppend(to, text.size(), ":", text, ",");
}

}  // namespace

std::string Hkdf(absl::string_view secret, absl::string_view salt, absl::string_view info) {
  const std::string extracted =
      Hmac(salt.empty() ? std::string(kHashBytes, '\0') : std::string(salt), secret);
  return Hmac(extracted, absl::StrCat(info, std::string(1, '\1')));
}

std::string NewSalt() {
  std::string salt(kHashBytes, '\0');
  FillWithSystemRandom(salt.data(), salt.size());
  return absl::BytesToHexString(salt);
}

EncryptionKey::EncryptionKey(absl::string_view bytes)
    : master_(bytes),
      id_(absl::BytesToHexString(
          Hkdf(bytes, "", "atoll checkpoint: name of a key").substr(0, kIdBytes))) {}

EncryptionKey::~EncryptionKey() { OPENSSL_cleanse(master_.data(), master_.size()); }

std::shared_ptr<const EncryptionKey> EncryptionKey::FromBytes(absl::string_view bytes) {
  CHECK_EQ(bytes.size(), kEncryptionKeyBytes);
  return std::shared_ptr<const EncryptionKey>(new EncryptionKey(bytes));
}

std::string EncryptionKey::ReplicatedSalt(const Manifest& manifest,
                                          absl::string_view hashes) const {
  std::string text;
  Add(manifest.description.job, &text);
  Add(absl::StrCat(manifest.description.round), &text);
  size_t at = 0;
  for (const ManifestFile& file : manifest.files) {
    if (file.file_class != FileClass::kReplicated) continue;
    const size_t length = ChunkCount(file.bytes) * kHashBytes;
    Add(file.name, &text);
    Add(absl::StrCat(file.bytes), &text);
    Add(hashes.substr(at, length), &text);
    at += length;
  }
  CHECK_EQ(at, hashes.size()) << "hashes of other files";
  return absl::BytesToHexString(Hmac(Hkdf(master_, "", "atoll checkpoint: replicated salt"), text));
}

std::string EncryptionKey::FileKey(const Manifest& manifest, const ManifestFile& file) const {
  const ManifestEncryption& encryption = manifest.encryption.value();
  const bool replicated = file.file_class == FileClass::kReplicated;
  const std::string& salt = replicated ? encryption.replicated_salt : encryption.regional_salt;
  CHECK_EQ(salt.size(), 2 * kHashBytes);
  std::string info = "atoll checkpoint: file";
  Add(manifest.description.job, &info);
  Add(absl::StrCat(manifest.description.round), &info);
  Add(FileClassName(file.file_class), &info);
  Add(file.name, &info);
  return Hkdf(master_, absl::HexStringToBytes(salt), info);
}

StatusOr<std::string> EncryptionKey::Mac(const Manifest& manifest) const {
  ASSIGN_OR_RETURN(const std::string text, ManifestTextToAuthenticate(manifest));
  return absl::BytesToHexString(Hmac(Hkdf(master_, "", "atoll checkpoint: manifest"), text));
}

Status EncryptionKey::Check(const Manifest& manifest) const {
  if (!manifest.encryption) {
    return UsageError(absl::StrCat(
        "it is not encrypted, and a key (", id_,
        ") was given: nothing shows who wrote it. To use it all the same, give no key"));
  }
  if (manifest.encryption->key_id != id_) {
    return UsageError(absl::StrCat("it is encrypted with the key ", manifest.encryption->key_id,
                                   ", and the one given is ", id_));
  }
  ASSIGN_OR_RETURN(const std::string mac, Mac(manifest));
  const std::string& stored = manifest.encryption->mac;
  if (stored.size() == mac.size() && CRYPTO_memcmp(stored.data(), mac.data(), mac.size()) == 0) {
    return OkStatus();
  }
  return UsageError(
      "its mac is wrong: somebody without the key has changed it, so nothing of it can be "
      "trusted. Take another region's copy");
}

struct FileCipher::Context {
  EVP_CIPHER_CTX* cipher = EVP_CIPHER_CTX_new();
  ~Context() { EVP_CIPHER_CTX_free(cipher); }
};

FileCipher::FileCipher(absl::string_view key) : context_(std::make_unique<Context>()) {
  CHECK_EQ(key.size(), kEncryptionKeyBytes);
  const int done =
      EVP_EncryptInit_ex(context_->cipher, EVP_aes_256_ctr(), nullptr, Bytes(key), nullptr);
  CHECK_EQ(done, 1) << "this OpenSSL has no AES-256-CTR";
}

FileCipher::~FileCipher() = default;

void FileCipher::Apply(int64_t offset, const char* in, char* out, int64_t size) {
  CHECK(offset >= 0 && size >= 0 && size <= kChunkBytes) << size << " bytes at " << offset;
  std::array<unsigned char, kBlockBytes> counter = {};
  const auto block = static_cast<uint64_t>(offset / kBlockBytes);
  for (int i = 0; i < 8; ++i) counter[15 - i] = static_cast<unsigned char>(block >> 8 * i);
  EVP_CIPHER_CTX* const cipher = context_->cipher;
  CHECK_EQ(EVP_EncryptInit_ex(cipher, nullptr, nullptr, nullptr, counter.data()), 1);
  std::array<unsigned char, kBlockBytes> unused = {};
  int done = 0;
  CHECK_EQ(EVP_EncryptUpdate(cipher, unused.data(), &done, unused.data(),
                             static_cast<int>(offset % kBlockBytes)),
           1);
  CHECK_EQ(EVP_EncryptUpdate(cipher, reinterpret_cast<unsigned char*>(out), &done,
                             reinterpret_cast<const unsigned char*>(in), static_cast<int>(size)),
           1);
  CHECK_EQ(done, size);
}

}  // namespace atl::checkpoint
