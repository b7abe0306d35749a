// Writing token files: what lands on disk, and what does not.
#include <gmock/gmock.h>

#include "base/exit_code.h"
#include "tests/data/token_test_util.h"
#include "worker/data/token_file.h"

namespace atl {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using TokenFileWriterTest = TokenTest;

TEST_F(TokenFileWriterTest, WritesTheGoldenBytes) {
  auto writer = TokenFileWriter::Create(Path("out/t.bin"), "bytes", 65536);
  ASSERT_TRUE(writer.ok()) << writer.status();
  const int32_t tokens[] = {1, 258, 65535};
  ASSERT_TRUE((*writer)->Append(tokens).ok());
  ASSERT_TRUE((*writer)->EndDocument().ok());
  EXPECT_FALSE(std::filesystem::exists(Path("out/t.bin"))) << "nothing is there before Finish";
  const auto info = (*writer)->Finish();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->tokens, 3);
  EXPECT_EQ(info->documents, 1);
  EXPECT_EQ(ReadText(Path("out/t.bin")), std::string("\x01\x00\x02\x01\xff\xff", 6));
  EXPECT_EQ(ReadText(Path("out/t.bin.json")), R"({
  "format": "atoll-tokens",
  "version": 1,
  "dtype": "uint16",
  "vocab_size": 65536,
  "tokenizer": "bytes",
  "tokens": 3,
  "documents": 1
}
)");
}

TEST_F(TokenFileWriterTest, TakesFourBytesForALargeVocabulary) {
  auto writer = TokenFileWriter::Create(Path("t.bin"), "sentencepiece:x.model", 65537);
  ASSERT_TRUE(writer.ok()) << writer.status();
  const int32_t tokens[] = {65536, 2};
  ASSERT_TRUE((*writer)->Append(tokens).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_EQ(ReadText(Path("t.bin")), std::string("\x00\x00\x01\x00\x02\x00\x00\x00", 8));
}

TEST_F(TokenFileWriterTest, ReplacesAnOlderPairAsAWhole) {
  for (const int count : {3, 700000}) {
    auto writer = TokenFileWriter::Create(Path("t.bin"), "bytes", 256);
    ASSERT_TRUE(writer.ok()) << writer.status();
    const std::vector<int32_t> tokens(static_cast<size_t>(count), 65);
    ASSERT_TRUE((*writer)->Append(tokens).ok());
    const auto info = (*writer)->Finish();
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_EQ(info->tokens, count);
  }
  EXPECT_EQ(FilesInDirectory(), 2) << "the tokens and the note, nothing else";
}

TEST_F(TokenFileWriterTest, LeavesNothingBehindWithoutFinish) {
  {
    auto writer = TokenFileWriter::Create(Path("t.bin"), "bytes", 256);
    ASSERT_TRUE(writer.ok()) << writer.status();
    const int32_t tokens[] = {1, 2};
    ASSERT_TRUE((*writer)->Append(tokens).ok());
    EXPECT_EQ(FilesInDirectory(), 1);
  }
  EXPECT_EQ(FilesInDirectory(), 0);
}

TEST_F(TokenFileWriterTest, RefusesTokensOutsideTheVocabularyAndEmptyFiles) {
  auto writer = TokenFileWriter::Create(Path("t.bin"), "bytes", 256);
  ASSERT_TRUE(writer.ok()) << writer.status();
  const int32_t large[] = {256};
  const int32_t negative[] = {-1};
  EXPECT_THAT((*writer)->Append(large).message(), HasSubstr("outside the vocabulary of 256"));
  EXPECT_FALSE((*writer)->Append(negative).ok());
  EXPECT_EQ(ExitCodeOf((*writer)->Finish().status()), ExitCode::kUsage);
  EXPECT_FALSE(TokenFileWriter::Create(Path("u.bin"), "bytes", 0).ok());
  EXPECT_FALSE(TokenFileWriter::Create(Path(""), "bytes", 256).ok()) << "a directory";
}

TEST_F(TokenFileWriterTest, SaysThatTheDiskIsFull) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  // The staging file's name is known, so that a link can send it to a device that is always full.
  std::filesystem::create_symlink("/dev/full", Path("t.bin." + std::to_string(getpid()) + ".tmp"));
  auto writer = TokenFileWriter::Create(Path("t.bin"), "bytes", 256);
  ASSERT_TRUE(writer.ok()) << writer.status();
  const int32_t tokens[] = {1, 2};
  ASSERT_TRUE((*writer)->Append(tokens).ok()) << "still in memory";
  const auto info = (*writer)->Finish();
  EXPECT_EQ(ExitCodeOf(info.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(info.status().message()), HasSubstr("No space left on device"));
  EXPECT_FALSE(std::filesystem::exists(Path("t.bin")));
}

}  // namespace
}  // namespace atl
