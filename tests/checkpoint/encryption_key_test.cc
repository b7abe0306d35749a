// The key of encrypted checkpoints: where it comes from, and what is made of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>

#include "absl/strings/escaping.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const char kDigits[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

std::string WriteKey(const std::string& directory, const std::string& text, mode_t mode) {
  const std::string path = directory + "/key";
  std::filesystem::remove(path);
  EXPECT_TRUE(WriteFileAtomically(path, text, mode).ok());
  chmod(path.c_str(), mode);
  return path;
}

std::string Refusal(const StatusOr<std::shared_ptr<const EncryptionKey>>& key) {
  EXPECT_EQ(ExitCodeOf(key.status()), ExitCode::kUsage) << key.status();
  return std::string(key.status().message());
}

TEST(EncryptionKey, ComesFromAPrivateFile) {
  TemporaryDirectory directory;
  const auto key =
      EncryptionKey::FromFile(WriteKey(directory.path(), std::string(kDigits) + "\n", 0600));
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ((*key)->id().size(), kKeyIdDigits);
  EXPECT_EQ((*key)->id(), EncryptionKey::FromBytes(absl::HexStringToBytes(kDigits))->id());
  for (const mode_t mode : {0640, 0604, 0620, 0602, 0644}) {
    EXPECT_THAT(Refusal(EncryptionKey::FromFile(WriteKey(directory.path(), kDigits, mode))),
                HasSubstr("chmod 600"));
  }
}

TEST(EncryptionKey, IsRefusedIfItIsNone) {
  TemporaryDirectory directory;
  const std::string digits = kDigits;
  for (const std::string& text :
       {std::string(), std::string("\n"), digits.substr(1), digits + "0", digits.substr(1) + "g",
        digits + digits, std::string(1000, '0')}) {
    EXPECT_THAT(Refusal(EncryptionKey::FromFile(WriteKey(directory.path(), text, 0600))),
                AllOf(HasSubstr("key file"), Not(HasSubstr("0c0d0e"))));
  }
  EXPECT_THAT(Refusal(EncryptionKey::FromFile(directory.path())), HasSubstr("regular"));
  EXPECT_THAT(Refusal(EncryptionKey::FromFile(directory.path() + "/none")), HasSubstr("none"));
}

TEST(EncryptionKey, ComesFromACommandWhoseOutputIsInNoMessage) {
  const std::string digits = kDigits;
  const auto key = EncryptionKey::FromCommand("printf ' %s\\n' " + digits);
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ((*key)->id(), EncryptionKey::FromBytes(absl::HexStringToBytes(kDigits))->id());
  EXPECT_THAT(Refusal(EncryptionKey::FromCommand("echo 0c0d0e0f; exit 3")),
              AllOf(HasSubstr("exit code 3"), Not(HasSubstr("0c0d0e"))));
  EXPECT_THAT(Refusal(EncryptionKey::FromCommand("echo 0c0d0e0f")),
              AllOf(HasSubstr("hexadecimal"), Not(HasSubstr("0c0d0e"))));
  EXPECT_THAT(Refusal(EncryptionKey::FromCommand("yes 0c0d0e0f")),
              AllOf(HasSubstr("more than a key"), Not(HasSubstr("0c0d0e"))));
  EXPECT_THAT(Refusal(EncryptionKey::FromCommand("kill -9 $$")), HasSubstr("signal 9"));
}

TEST(EncryptionKey, DoesNotWaitForACommandForEver) {
  EXPECT_THAT(Refusal(EncryptionKey::FromCommand("sleep 1000", 0.1)), HasSubstr("does not end"));
  EXPECT_THAT(Refusal(EncryptionKey::FromCommand("exec >/dev/null; sleep 1000", 0.1)),
              HasSubstr("does not end"));
}

TEST(EncryptionKey, IsStretchedAsRfc5869Says) {
  const std::string secret(22, '\x0b');
  EXPECT_EQ(
      absl::BytesToHexString(Hkdf(secret, absl::HexStringToBytes("000102030405060708090a0b0c"),
                                  absl::HexStringToBytes("f0f1f2f3f4f5f6f7f8f9"))),
      "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
  EXPECT_EQ(absl::BytesToHexString(Hkdf(secret, "", "")),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d");
}

TEST(FileCipher, IsAes256OfThePlaceWhereverItBegins) {
  FileCipher zero(std::string(32, '\0'));
  std::string first(16, '\0');
  zero.Apply(0, first.data(), first.data(), 16);
  EXPECT_EQ(absl::BytesToHexString(first), "dc95c078a2408989ad48a21492842087");
  // The counter's lower half goes on where 32 bits end.
  const int64_t far = (int64_t{1} << 36) - 16;
  std::string whole(64, '\0'), second(16, '\0');
  zero.Apply(far, whole.data(), whole.data(), 64);
  zero.Apply(far + 16, second.data(), second.data(), 16);
  EXPECT_EQ(whole.substr(16, 16), second);
  EXPECT_NE(second, first);

  FileCipher cipher(absl::HexStringToBytes(kDigits));
  std::string clear(1000, '\0');
  for (size_t i = 0; i < clear.size(); ++i) clear[i] = static_cast<char>(i * 7);
  std::string sealed(clear.size(), '\0');
  cipher.Apply(0, clear.data(), sealed.data(), static_cast<int64_t>(clear.size()));
  EXPECT_NE(sealed, clear);
  for (const int64_t begin : {0, 1, 15, 16, 17, 500}) {
    for (const int64_t end : {begin, begin + 1, begin + 33, int64_t{1000}}) {
      std::string part = sealed.substr(begin, end - begin);
      cipher.Apply(begin, part.data(), part.data(), end - begin);
      EXPECT_EQ(part, clear.substr(begin, end - begin)) << begin << " to " << end;
    }
  }
}

// Whatever differs, the key of a file does.
TEST(EncryptionKey, GivesEveryFileAKeyOfItsOwn) {
  const auto key = EncryptionKey::FromBytes(absl::HexStringToBytes(kDigits));
  Manifest manifest;
  manifest.description.job = "a";
  manifest.description.round = 1;
  manifest.encryption = ManifestEncryption{key->id(), "", NewSalt(), NewSalt()};
  const ManifestFile file = {"model-00001-of-00001.safetensors", FileClass::kReplicated, 10, ""};
  std::set<std::string> keys = {key->FileKey(manifest, file)};
  EXPECT_EQ(keys.begin()->size(), kEncryptionKeyBytes);
  const auto add = [&](const Manifest& of, const ManifestFile& one, const EncryptionKey& master) {
    keys.insert(master.FileKey(of, one));
  };
  ManifestFile other = file;
  other.name = "model-00001-of-00002.safetensors";
  add(manifest, other, *key);
  other = file;
  other.file_class = FileClass::kRegional;
  add(manifest, other, *key);
  Manifest changed = manifest;
  changed.description.round = 2;
  add(changed, file, *key);
  changed = manifest;
  changed.description.job = "b";
  add(changed, file, *key);
  changed = manifest;
  changed.encryption->replicated_salt = NewSalt();
  add(changed, file, *key);
  add(manifest, file, *EncryptionKey::FromBytes(std::string(32, 'x')));
  EXPECT_EQ(keys.size(), 7u);
  // The other class's salt is none of its business.
  changed = manifest;
  changed.encryption->regional_salt = NewSalt();
  EXPECT_EQ(key->FileKey(changed, file), key->FileKey(manifest, file));
}

}  // namespace
}  // namespace atl::checkpoint
