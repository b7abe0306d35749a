// Checkpoints in an object store, against the server that the environment names: s3_test.py gives
// a small one, scripts/s3 real ones. The server has an empty bucket "bucket".
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/names.h"
#include "checkpoint/repair.h"
#include "checkpoint/s3/push.h"
#include "checkpoint/s3/source.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::map<std::string, std::string> Contents(const std::string& directory) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    contents[entry.path().lexically_relative(directory).string()] =
        ReadFile(entry.path().string()).value_or("unreadable");
  }
  return contents;
}

// A checkpoint of one file of three chunks and small ones, and a prefix of its own.
class S3 : public testing::Test {
 protected:
  void SetUp() override {
    const auto settings = S3Settings::FromEnvironment("");
    ASSERT_TRUE(settings.ok()) << settings.status();
    settings_ = *settings;
    Save("oslo");
    static int number = 0;
    // With all that has to be escaped in a path or a query.
    place_ = {"bucket", absl::StrCat("a b+c=d&e~é/", getpid(), "-", ++number)};
  }
  void Save(const std::string& region, int64_t round = 41) {
    SaveJob job;
    job.tensors = {{"a", {1500, 1500}, {0, 2'250'000}}, {"b", {77}, {2'250'000, 2'250'077}}};
    job.max_file_bytes = 1 << 20;  // a file a tensor
    job.prefixes = {"model", "optim/exp_avg"};
    job.directory = directory_.path() + "/" + region;
    job.region = region;
    job.round = round;
    for (const auto& result : SaveEverywhere(job)) ASSERT_TRUE(result.ok()) << result.status();
  }
  std::string Path(const std::string& region = "oslo") const {
    return directory_.path() + "/" + region + "/round-000041";
  }
  StatusOr<PushResult> Push(const std::string& path, bool replace = false) {
    PushOptions options;
    options.path = path;
    options.directory = place_;
    options.settings = settings_;
    options.replace = replace;
    options.part_bytes = kChunkBytes;
    options.threads = threads_;
    return PushToS3(options);
  }
  StatusOr<RepairResult> Pull(const std::string& to) {
    EXPECT_TRUE(MakeDirectories(directory_.path() + "/" + to).ok());
    RepairOptions options;
    options.path = directory_.path() + "/" + to + "/round-000041";
    options.sources.push_back(MakeS3Source(settings_, place_.In("round-000041")));
    return Repair(options);
  }
  // Of the tests' own server: nothing is sent any more after so many parts; -1: heals.
  void Cut(int parts) { Control("cut", parts); }
  void Control(const std::string& what, int number) {
    HttpClient http({});
    HttpRequest request;
    request.method = "POST";
    request.url = absl::StrCat(settings_.endpoint, "/_control/", what, "/", number);
    const auto response = http.Do(request);
    ASSERT_TRUE(response.ok() && response->status == 200);
  }

  TemporaryDirectory directory_;
  S3Settings settings_;
  S3Place place_;
  int threads_ = 2;
};

TEST_F(S3, WhatIsPushedComesBackToTheByte) {
  const auto pushed = Push(Path());
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_EQ(pushed->round, 41);
  EXPECT_FALSE(pushed->was_there);
  EXPECT_EQ(pushed->bytes_there, 0);
  const auto pulled = Pull("other");
  ASSERT_TRUE(pulled.ok()) << pulled.status();
  EXPECT_TRUE(pulled->whole());
  EXPECT_EQ(Contents(Path()), Contents(Path("other")));
  const auto again = Push(Path());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->was_there);
  EXPECT_EQ(again->bytes_there, again->bytes) << "nothing is sent twice";
}

TEST_F(S3, APrefixIsADirectoryOfCheckpoints) {
  ASSERT_TRUE(Push(Path()).ok());
  Save("oslo", 42);
  ASSERT_TRUE(Push(directory_.path() + "/oslo/round-000042").ok());
  const auto rounds = ListS3Rounds(settings_, place_);
  ASSERT_TRUE(rounds.ok()) << rounds.status();
  ASSERT_THAT(*rounds, SizeIs(2));
  EXPECT_EQ((*rounds)[0].round, 42);
  EXPECT_TRUE((*rounds)[0].complete && (*rounds)[1].complete);
  ASSERT_TRUE(RemoveFromS3(settings_, (*rounds)[0].place).ok());
  EXPECT_THAT(*ListS3Rounds(settings_, place_), SizeIs(1));
  EXPECT_TRUE(Pull("other")->whole()) << "the other one is untouched";
}

TEST_F(S3, APushThatWasCutShortIsNoCheckpointAndIsGoneOnWith) {
  if (!GetEnv("ATOLL_S3_FULL"))
    GTEST_SKIP() << "this server does not list uploads, nor can it be cut";
  threads_ = 1;  // so that the first two parts are those that get there
  Cut(2);
  EXPECT_FALSE(Push(Path()).ok());
  Cut(-1);
  const auto half = ListS3Rounds(settings_, place_);
  ASSERT_TRUE(half.ok()) << half.status();
  for (const S3Round& one : *half) EXPECT_FALSE(one.complete);
  EXPECT_FALSE(Pull("other").ok());
  const auto pushed = Push(Path());
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_EQ(pushed->bytes_there, 2 * kChunkBytes) << "two parts were there";
  EXPECT_TRUE(Pull("other")->whole());
  EXPECT_EQ(Contents(Path()), Contents(Path("other")));
}

TEST_F(S3, APushThatIsGivenUpEndsAndIsNoCheckpoint) {
  std::atomic<int> asked{0};
  settings_.cancelled = [&] { return ++asked > 20; };  // in the midst of its requests
  EXPECT_TRUE(absl::IsCancelled(Push(Path()).status()));
  settings_.cancelled = nullptr;
  for (const S3Round& one : *ListS3Rounds(settings_, place_)) EXPECT_FALSE(one.complete);
  const auto pushed = Push(Path());
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_TRUE(Pull("other")->whole());
}

TEST_F(S3, ACompletionWhoseAnswerGotLostIsNoFailure) {
  if (!GetEnv("ATOLL_S3_FULL")) GTEST_SKIP() << "this server loses no answers";
  Control("lose", 1);
  const auto pushed = Push(Path());
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_TRUE(Pull("other")->whole());
  EXPECT_EQ(Contents(Path()), Contents(Path("other")));
}

TEST_F(S3, AListingWithoutAnEndEnds) {
  if (!GetEnv("ATOLL_S3_FULL")) GTEST_SKIP() << "this server's listings have an end";
  Control("endless", 1);
  EXPECT_TRUE(absl::IsResourceExhausted(ListS3Rounds(settings_, place_).status()));
  Control("endless", 0);
  EXPECT_TRUE(ListS3Rounds(settings_, place_).ok());
}

TEST_F(S3, AnEndpointWithAPasswordIsRefusedAndNotRepeated) {
  const auto settings = S3Settings::FromEnvironment("https://me:hidden@store.example");
  EXPECT_EQ(ExitCodeOf(settings.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(settings.status().message()), Not(HasSubstr("hidden")));
}

TEST_F(S3, AnUnfinishedUploadOfOtherContentsDoesNotGetIn) {
  if (!GetEnv("ATOLL_S3_FULL"))
    GTEST_SKIP() << "this server does not list uploads, nor can it be cut";
  Save("johor");  // other inner state, the same model
  threads_ = 1;
  Cut(3 + 1);  // model-1 whole, one part of the state
  EXPECT_FALSE(Push(Path("johor")).ok());
  Cut(-1);
  auto pushed = Push(Path("oslo"));
  if (!pushed.ok()) {  // as its error says
    EXPECT_THAT(std::string(pushed.status().message()), HasSubstr("push again"));
    pushed = Push(Path("oslo"));
  }
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_TRUE(Pull("other")->whole());
  EXPECT_EQ(Contents(Path()), Contents(Path("other")));
}

TEST_F(S3, WhatIsDamagedHereDoesNotGetThere) {
  const std::string path = Path() + "/model-00001-of-00002.safetensors";
  const auto file = OpenFile(path, O_RDWR);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(WriteAt(*file, path, "?", 1, 5 << 20).ok());
  const auto pushed = Push(Path());
  EXPECT_EQ(ExitCodeOf(pushed.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(pushed.status().message()), HasSubstr("model-00001-of-00002"));
  const auto rounds = ListS3Rounds(settings_, place_);
  ASSERT_TRUE(rounds.ok()) << rounds.status();
  for (const S3Round& one : *rounds) EXPECT_FALSE(one.complete);
}

TEST_F(S3, WhatIsDamagedThereIsFoundAndMendedByAnotherPush) {
  ASSERT_TRUE(Push(Path()).ok());
  S3Client client(settings_, "bucket");
  const std::string key = place_.In("round-000041/model-00002-of-00002.safetensors").prefix;
  ASSERT_TRUE(client.Put(key, "nonsense", "").ok());
  const auto pulled = Pull("other");
  ASSERT_TRUE(pulled.ok()) << pulled.status();
  EXPECT_FALSE(pulled->whole());
  ASSERT_FALSE(pulled->lost.empty());
  EXPECT_EQ(pulled->lost[0].file, "model-00002-of-00002.safetensors");
  EXPECT_FALSE(fs::exists(Path("other"))) << "half of one is none";
  ASSERT_TRUE(Push(Path()).ok());
  EXPECT_TRUE(Pull("other")->whole());
}

TEST_F(S3, AnotherCheckpointOfTheRoundIsNotOverwrittenUnasked) {
  ASSERT_TRUE(Push(Path()).ok());
  Save("johor");
  EXPECT_EQ(ExitCodeOf(Push(Path("johor")).status()), ExitCode::kUsage);
  const auto replaced = Push(Path("johor"), /*replace=*/true);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  EXPECT_TRUE(Pull("other")->whole());
  EXPECT_EQ(Contents(Path("johor")), Contents(Path("other")));
}

TEST_F(S3, WrongKeysAreNamed) {
  if (!GetEnv("ATOLL_S3_FULL")) GTEST_SKIP() << "this server may not check signatures";
  settings_.signing.secret_key = "another";
  const auto pushed = Push(Path());
  EXPECT_TRUE(absl::IsPermissionDenied(pushed.status())) << pushed.status();
  EXPECT_EQ(ExitCodeOf(pushed.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(pushed.status().message()), HasSubstr("check the keys"));
}

TEST(S3Place, IsParsed) {
  const auto place = S3Place::Parse("s3://a.b-c/x//y/");
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->bucket, "a.b-c");
  EXPECT_EQ(place->ToString(), "s3://a.b-c/x/y");
  EXPECT_EQ(place->In("z").prefix, "x/y/z");
  EXPECT_EQ(S3Place::Parse("s3://a")->In("z").prefix, "z");
  for (const char* text : {"", "s3:/a", "s3://", "s3:///x", "s3://a b/x", "s3://a/../b"}) {
    EXPECT_EQ(ExitCodeOf(S3Place::Parse(text).status()), ExitCode::kUsage) << text;
  }
}

TEST(S3Credentials, ProfilesAreTakenApart) {
  const std::string text =
      "# comment\n[default]\naws_access_key_id=a\naws_secret_access_key = b=c\n\n"
      "[ other ]\r\naws_access_key_id = d\r\naws_session_token=e\nregion=f\n";
  EXPECT_EQ(ParseCredentials(text, "default")->secret_key, "b=c");
  EXPECT_EQ(ParseCredentials(text, "other")->access_key, "d");
  EXPECT_EQ(ParseCredentials(text, "other")->session_token, "e");
  EXPECT_EQ(ParseCredentials(text, "other")->secret_key, "");
  EXPECT_FALSE(ParseCredentials(text, "third"));
  EXPECT_FALSE(ParseCredentials("aws_access_key_id=a", "default"));
}

TEST(S3Xml, TextsAreFound) {
  EXPECT_THAT(XmlTexts("<a><b>1</b><b>&lt;&amp;lt;</b></a>", "b"), ElementsAre("1", "<&lt;"));
  EXPECT_THAT(XmlTexts("<a><b>1</b><b>2", "b"), ElementsAre("1"));
  EXPECT_THAT(XmlTexts("<b></b>", "b", /*raw=*/true), ElementsAre(""));
  EXPECT_THAT(XmlTexts("</b><b>", "b"), SizeIs(0));
}

}  // namespace
}  // namespace atl::checkpoint
