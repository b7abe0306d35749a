// Key files: made once, private, bound to each other, and refused with a message that mends.
#include "control/keys.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/random.h"
#include "control/key_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace atl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Keys : public testing::Test {
 protected:
  Keys() {
    std::string name = absl::StrCat(testing::TempDir(), "/keys-XXXXXX");
    root_ = mkdtemp(name.data());
    directory_ = root_ + "/keys";
  }
  ~Keys() override { std::filesystem::remove_all(root_); }

  static mode_t Mode(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return info.st_mode & 07777;
  }
  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(MakeDirectories(directory_, 0700).ok());
    ASSERT_TRUE(WriteFileAtomically(directory_ + "/" + name, text, 0600).ok());
  }
  std::string LeaseError(const std::string& path) {
    const auto lease = LoadLease(path);
    EXPECT_FALSE(lease.ok());
    EXPECT_EQ(ExitCodeOf(lease.status()), ExitCode::kUsage);
    return std::string(lease.status().message());
  }

  std::string root_, directory_;
};

TEST_F(Keys, AreMadeAtTheFirstUseAndReadAfterwards) {
  const auto first = LoadOrCreateOrchestratorKeys(directory_);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = LoadOrCreateOrchestratorKeys(directory_);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->public_key, second->public_key);
  EXPECT_EQ(first->secret_key, second->secret_key);
  EXPECT_EQ(first->public_key.size(), 40);
  EXPECT_NE(first->public_key, first->secret_key);

  const auto made = LoadOrCreateLease(directory_, "oslo", *first);
  ASSERT_TRUE(made.ok()) << made.status();
  const auto lease = LoadLease(directory_ + "/oslo.lease");
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ(lease->region, "oslo");
  EXPECT_EQ(lease->keys.secret_key, made->keys.secret_key);
  EXPECT_EQ(lease->orchestrator_public_key, first->public_key);
}

TEST_F(Keys, AreReadableByTheirOwnerAlone) {
  const auto keys = LoadOrCreateOrchestratorKeys(directory_);
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_TRUE(LoadOrCreateLease(directory_, "oslo", *keys).ok());
  EXPECT_EQ(Mode(directory_), 0700);
  EXPECT_EQ(Mode(directory_ + "/orchestrator.key"), 0600);
  EXPECT_EQ(Mode(directory_ + "/oslo.lease"), 0600);
  int files = 0;  // nothing else is left behind
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    files += entry.is_regular_file();
  }
  EXPECT_EQ(files, 2);
}

TEST_F(Keys, AFileThatOthersCanReadIsRefusedWithTheCommandThatMendsIt) {
  const auto keys = LoadOrCreateOrchestratorKeys(directory_);
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_TRUE(LoadOrCreateLease(directory_, "oslo", *keys).ok());
  const std::string path = directory_ + "/oslo.lease";
  chmod(path.c_str(), 0640);
  EXPECT_THAT(LeaseError(path), AllOf(HasSubstr(path), HasSubstr("mode 0640"),
                                      HasSubstr(absl::StrCat("chmod 600 ", path))));
  chmod((directory_ + "/orchestrator.key").c_str(), 0604);
  const auto again = LoadOrCreateOrchestratorKeys(directory_);
  EXPECT_EQ(ExitCodeOf(again.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr("chmod 600"));
  chmod(directory_.c_str(), 0755);
  EXPECT_THAT(std::string(LoadOrCreateOrchestratorKeys(directory_).status().message()),
              HasSubstr(absl::StrCat("chmod 700 ", directory_)));
}

TEST_F(Keys, AMissingLeaseSaysWhereARightOneComesFrom) {
  EXPECT_THAT(LeaseError(directory_ + "/oslo.lease"),
              AllOf(HasSubstr("oslo.lease"), HasSubstr("No such file"),
                    HasSubstr("orchestrator's keys directory")));
}

TEST_F(Keys, AMalformedLeaseSaysWhatIsWrongAndNeverShowsASecret) {
  const auto keys = LoadOrCreateOrchestratorKeys(directory_);
  ASSERT_TRUE(keys.ok()) << keys.status();
  const auto lease = LoadOrCreateLease(directory_, "oslo", *keys);
  ASSERT_TRUE(lease.ok());
  const std::string path = directory_ + "/oslo.lease";
  const std::string text = LeaseText(*lease);
  const struct {
    std::string text, message;
  } cases[] = {
      {"", "not a JSON object"},
      {"[1, 2]", "not a JSON object"},
      {OrchestratorKeyText(*keys), "\"format\""},
      {absl::StrReplaceAll(text, {{"\"version\": 1", "\"version\": 2"}}), "\"version\""},
      {absl::StrReplaceAll(text, {{"\"oslo\"", "\"../oslo\""}}), "\"region\""},
      {absl::StrReplaceAll(text, {{lease->keys.secret_key, "short"}}), "\"secret_key\""},
      {absl::StrReplaceAll(text, {{lease->keys.public_key, keys->public_key}}),
       "does not belong to its secret key"},
      {absl::StrReplaceAll(text, {{keys->public_key, std::string(39, 'a') + "\\\\"}}),
       "\"orchestrator_public_key\""},
  };
  for (const auto& item : cases) {
    Write("oslo.lease", item.text);
    const std::string message = LeaseError(path);
    EXPECT_THAT(message, AllOf(HasSubstr(path), HasSubstr(item.message)));
    EXPECT_THAT(message, Not(HasSubstr(lease->keys.secret_key)));
  }
}

TEST_F(Keys, ALeaseOfAnotherOrchestratorIsRefused) {
  const KeyPair one = GenerateKeyPair(), other = GenerateKeyPair();
  ASSERT_TRUE(LoadOrCreateLease(directory_, "oslo", one).ok());
  const auto lease = LoadOrCreateLease(directory_, "oslo", other);
  EXPECT_EQ(ExitCodeOf(lease.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(lease.status().message()), HasSubstr("another orchestrator's key"));
}

TEST_F(Keys, ARegionsNameCannotLeadOutOfTheDirectory) {
  for (const std::string& name :
       {std::string("../evil"), std::string(""), std::string("a/b"), std::string(64, 'a'),
        std::string("a\nb"), std::string("a\0b", 3)}) {
    EXPECT_EQ(ExitCodeOf(LoadOrCreateLease(directory_, name, GenerateKeyPair()).status()),
              ExitCode::kUsage);
  }
}

TEST_F(Keys, TwoProcessesThatBeginTogetherGetTheSameKeys) {
  constexpr int kProcesses = 8;
  int results[2], gate[2];
  ASSERT_EQ(pipe(results), 0);
  ASSERT_EQ(pipe(gate), 0);
  for (int i = 0; i < kProcesses; ++i) {
    if (fork() == 0) {
      close(gate[1]);
      char byte;
      [[maybe_unused]] ssize_t n = read(gate[0], &byte, 1);  // until the parent closes it
      const auto keys = LoadOrCreateOrchestratorKeys(directory_);
      std::string text(80, ' ');  // no letter of Z85
      if (keys.ok()) text = keys->public_key + keys->secret_key;
      n = write(results[1], text.data(), text.size());
      _exit(0);
    }
  }
  close(gate[0]);
  close(gate[1]);
  close(results[1]);
  std::string first;
  for (int i = 0; i < kProcesses; ++i) {
    std::string text(80, '?');
    ASSERT_EQ(read(results[0], text.data(), text.size()), 80);
    if (first.empty()) first = text;
    EXPECT_EQ(text, first);
    EXPECT_EQ(text.find(' '), std::string::npos);
  }
  close(results[0]);
  for (int i = 0; i < kProcesses; ++i) wait(nullptr);
}

TEST_F(Keys, TheDirectoryIsTheFlagsElseTheEnvironmentsElseTheHomes) {
  SetEnv("ATOLL_KEYS", "", true);
  SetEnv("XDG_CONFIG_HOME", "", true);
  SetEnv("HOME", "/home/mira", true);
  EXPECT_EQ(*KeysDirectory(""), "/home/mira/.config/atoll/keys");
  SetEnv("XDG_CONFIG_HOME", "/xdg", true);
  EXPECT_EQ(*KeysDirectory(""), "/xdg/atoll/keys");
  SetEnv("ATOLL_KEYS", "/site/keys", true);
  EXPECT_EQ(*KeysDirectory(""), "/site/keys");
  EXPECT_EQ(*KeysDirectory("/flag"), "/flag");
}

TEST(KeyFile, SurvivesMutatedText) {
  const KeyPair keys = GenerateKeyPair();
  const std::string valid = LeaseText({"oslo", GenerateKeyPair(), keys.public_key});
  ASSERT_TRUE(ParseLease(valid).ok());
  const CounterRandom random(7);
  uint64_t draw = 0;
  int accepted = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string text = valid;
    const int edits = 1 + static_cast<int>(random.Bits(draw++) % 3);
    for (int edit = 0; edit < edits; ++edit) {
      const size_t at = random.Bits(draw++) % text.size();
      switch (random.Bits(draw++) % 3) {
        case 0:
          text[at] = static_cast<char>(random.Bits(draw++));
          break;
        case 1:
          text.erase(at, 1 + random.Bits(draw++) % 8);
          break;
        default:
          text.insert(at, edit + 1, static_cast<char>(random.Bits(draw++)));
      }
      if (text.empty()) text = "{";
    }
    if (const auto lease = ParseLease(text); lease.ok()) {
      ++accepted;
      EXPECT_TRUE(IsRegionName(lease->region)) << text;
      EXPECT_EQ(lease->keys.secret_key.size(), 40) << text;
      EXPECT_EQ(lease->orchestrator_public_key.size(), 40) << text;
    }
    (void)ParseOrchestratorKey(text);
  }
  // Blanks, names and the orchestrator's key may change, the lease's own keys may not.
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 800);
}

}  // namespace
}  // namespace atl
