// Reading token files: golden bytes of each format, and what is refused.
#include "worker/data/token_file.h"

#include <gmock/gmock.h>

#include <span>

#include "base/exit_code.h"
#include "tests/data/token_test_util.h"

namespace atl {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

using TokenFileTest = TokenTest;

std::vector<int32_t> All(const TokenFile& file) {
  std::vector<int32_t> out(static_cast<size_t>(file.info().tokens));
  file.Read(0, out);
  return out;
}

std::string ErrorOf(const std::string& path) {
  const auto file = TokenFile::Open(path);
  if (file.ok()) return "it was opened";
  EXPECT_EQ(ExitCodeOf(file.status()), ExitCode::kUsage);
  return std::string(file.status().message());
}

constexpr char kNote[] =
    R"({"format": "atoll-tokens", "version": 1, "dtype": "uint16", "vocab_size": 300,
        "tokenizer": "bytes", "tokens": 3, "documents": 1})";

TEST_F(TokenFileTest, ReadsOursWithItsNote) {
  const std::string path = WriteText("t.bin", std::string("\x01\x00\x2b\x01\xff\x00", 6));
  WriteText("t.bin.json", kNote);
  const auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(All(**file), ElementsAre(1, 299, 255));
  EXPECT_EQ((*file)->info().format, "atoll");
  EXPECT_EQ((*file)->info().tokenizer, "bytes");
  EXPECT_EQ((*file)->info().vocab_size, 300);
  EXPECT_EQ((*file)->info().documents, 1);
  EXPECT_EQ((*file)->info().bytes_per_token, 2);
}

TEST_F(TokenFileTest, ReadsNanoGptAndGuessesItsVocabulary) {
  const auto file = TokenFile::Open(WriteText("train.bin", LittleAll({5, 50256, 0, 65}, 2)));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(All(**file), ElementsAre(5, 50256, 0, 65));
  EXPECT_EQ((*file)->info().format, "nanogpt");
  EXPECT_EQ((*file)->info().vocab_size, 50304) << "50257 rounded up to 64";
  EXPECT_EQ((*file)->info().tokenizer, "");
}

TEST_F(TokenFileTest, RoundsAFullVocabularyNoFurtherThanNeeded) {
  const auto file = TokenFile::Open(WriteText("a.bin", LittleAll({63, 1}, 2)));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->info().vocab_size, 64);
  const auto next = TokenFile::Open(WriteText("b.bin", LittleAll({64, 1}, 2)));
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ((*next)->info().vocab_size, 128);
}

TEST_F(TokenFileTest, FindsTheLargestTokenWhereverItIsInAFileOfModerateSize) {
  std::string bytes(2 * 200001, '\0');
  bytes.replace(2 * 131077, 2, Little(40000, 2));
  const auto file = TokenFile::Open(WriteText("big.bin", bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->info().vocab_size, 40064);
}

TEST_F(TokenFileTest, ReadsLlmcOfBothKinds) {
  const auto gpt2 = TokenFile::Open(
      WriteText("gpt2.bin", LlmcBytes(20240520, 1, 3, LittleAll({7, 50256, 1}, 2))));
  ASSERT_TRUE(gpt2.ok()) << gpt2.status();
  EXPECT_THAT(All(**gpt2), ElementsAre(7, 50256, 1));
  EXPECT_EQ((*gpt2)->info().format, "llm.c");
  const auto llama =
      TokenFile::Open(WriteText("llama.bin", LlmcBytes(20240801, 7, 2, LittleAll({128000, 3}, 4))));
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_THAT(All(**llama), ElementsAre(128000, 3));
  EXPECT_EQ((*llama)->info().bytes_per_token, 4);
}

TEST_F(TokenFileTest, RefusesLlmcFilesThatLie) {
  const std::string tokens = LittleAll({1, 2, 3}, 2);
  EXPECT_THAT(ErrorOf(WriteText("a.bin", LlmcBytes(20240520, 1, 4, tokens))), HasSubstr("cut"));
  EXPECT_THAT(ErrorOf(WriteText("b.bin", LlmcBytes(20240520, 1, -1, tokens))), HasSubstr("cut"));
  EXPECT_THAT(ErrorOf(WriteText("c.bin", LlmcBytes(20240520, 2, 3, tokens))),
              HasSubstr("version 2"));
  EXPECT_THAT(ErrorOf(WriteText("d.bin", LlmcBytes(20240522, 1, 3, tokens))),
              HasSubstr("evaluation set"));
  EXPECT_THAT(ErrorOf(WriteText("e.bin", LlmcBytes(20240520, 1, 0, ""))), HasSubstr("no tokens"));
}

TEST_F(TokenFileTest, ReadsMegatronInTheIndexsOrder) {
  // Three sequences: the last of the .bin comes first, then two that touch.
  MegatronParts index;
  index.type = 4;  // int32
  index.lengths = {2, 3, 1};
  index.pointers = {16, 0, 12};
  index.documents = {0, 2, 3};
  const std::string path = WriteText("m.bin", LittleAll({10, 11, 12, 13, 14, 15}, 4));
  WriteText("m.idx", index.Bytes());
  const auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(All(**file), ElementsAre(14, 15, 10, 11, 12, 13));
  EXPECT_EQ((*file)->info().format, "megatron");
  EXPECT_EQ((*file)->info().documents, 2);
  std::vector<int32_t> middle(3);
  (*file)->Read(1, middle);
  EXPECT_THAT(middle, ElementsAre(15, 10, 11)) << "a read across two extents";
}

TEST_F(TokenFileTest, OpensMegatronByItsPrefix) {
  MegatronParts index;
  index.lengths = {2};
  index.pointers = {0};
  index.documents = {0, 1};
  WriteText("corpus_text_document.bin", LittleAll({3, 4}, 2));
  WriteText("corpus_text_document.idx", index.Bytes());
  const auto file = TokenFile::Open(Path("corpus_text_document"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(All(**file), ElementsAre(3, 4));
}

TEST_F(TokenFileTest, ReadsEveryMegatronType) {
  const struct {
    uint8_t code;
    int bytes;
  } types[] = {{1, 1}, {2, 1}, {3, 2}, {4, 4}, {5, 8}, {8, 2}};
  for (const auto& [code, bytes] : types) {
    MegatronParts index;
    index.type = code;
    index.lengths = {2, 0, 1};
    index.pointers = {0, 2 * bytes, 2 * bytes};
    index.documents = {0, 1, 3};
    const std::string name = "type" + std::to_string(code);
    WriteText(name + ".idx", index.Bytes());
    const auto file = TokenFile::Open(WriteText(name + ".bin", LittleAll({100, 127, 1}, bytes)));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_THAT(All(**file), ElementsAre(100, 127, 1)) << name;
    EXPECT_EQ((*file)->info().bytes_per_token, bytes);
  }
}

TEST_F(TokenFileTest, RefusesNumbersThatAreNoTokens) {
  MegatronParts index;
  index.type = 5;
  index.lengths = {2};
  index.pointers = {0};
  WriteText("wide.idx", index.Bytes());
  EXPECT_THAT(ErrorOf(WriteText("wide.bin", LittleAll({1, int64_t{1} << 40}, 8))),
              HasSubstr("no tokens: below 0"));
  WriteText("negative.idx", index.Bytes());
  EXPECT_THAT(ErrorOf(WriteText("negative.bin", LittleAll({1, -5}, 8))), HasSubstr("below 0"));
}

TEST_F(TokenFileTest, SaysHowToMakeAMissingFile) {
  EXPECT_THAT(ErrorOf(Path("none.bin")),
              AllOf(HasSubstr("data.tokens: no such file " + Path("none.bin")),
                    HasSubstr("make one with: atoll data tokenize --input TEXT --tokenizer bytes "
                              "--output " +
                              Path("none.bin"))));
}

TEST_F(TokenFileTest, RefusesEmptyOddAndMisnamedFiles) {
  EXPECT_THAT(ErrorOf(WriteText("empty.bin", "")), HasSubstr("holds no tokens"));
  EXPECT_THAT(ErrorOf(WriteText("odd.bin", "abc")), HasSubstr("odd number"));
  EXPECT_THAT(ErrorOf(WriteText("index.idx", MegatronParts().Bytes())),
              HasSubstr("is a Megatron index"));
  EXPECT_THAT(ErrorOf(Path("")), HasSubstr("not a regular file"));
}

TEST_F(TokenFileTest, RefusesAPairThatDoesNotBelongTogether) {
  const std::string path = WriteText("t.bin", LittleAll({1, 2}, 2));
  WriteText("t.bin.json", kNote);  // names 3 tokens
  EXPECT_THAT(ErrorOf(path), AllOf(HasSubstr("4 bytes"), HasSubstr("3 tokens")));
}

TEST_F(TokenFileTest, RefusesNotesThatLie) {
  const std::string path = WriteText("t.bin", LittleAll({1, 2, 3}, 2));
  const std::pair<std::string, std::string> changes[] = {
      {"\"tokens\": 3", "\"tokens\": -3"},
      {"\"tokens\": 3", "\"tokens\": 18446744073709551615"},
      {"\"tokens\": 3", "\"tokens\": 3.0"},
      {"\"tokens\": 3,", ""},
      {"\"vocab_size\": 300", "\"vocab_size\": 0"},
      {"\"vocab_size\": 300", "\"vocab_size\": 65537"},
      {"\"version\": 1", "\"version\": 2"},
      {"uint16", "float16"},
      {"atoll-tokens", "other"},
      {"\"documents\": 1", "\"documents\": 4"},
      {"}", ""},
  };
  for (const auto& [from, to] : changes) {
    std::string note = kNote;
    note.replace(note.find(from), from.size(), to);
    WriteText("t.bin.json", note);
    EXPECT_THAT(ErrorOf(path), HasSubstr(path + ".json")) << from << " -> " << to;
  }
}

TEST_F(TokenFileTest, RefusesANoteOfAnySize) {
  const std::string path = WriteText("t.bin", LittleAll({1, 2, 3}, 2));
  WriteText("t.bin.json", std::string(65537, '['));
  EXPECT_THAT(ErrorOf(path), HasSubstr("at most 65536"));
  WriteText("t.bin.json", std::string(65000, '['));
  EXPECT_THAT(ErrorOf(path), HasSubstr("is not a JSON object"));
}

TEST_F(TokenFileTest, FingerprintsContentsSizeAndFormat) {
  std::vector<int64_t> tokens = Count(40000);
  const auto fingerprint = [&](const std::string& name, const std::string& bytes) {
    const auto file = TokenFile::Open(WriteText(name, bytes));
    return file.ok() ? (*file)->info().fingerprint : 0;
  };
  const uint64_t first = fingerprint("a.bin", LittleAll(tokens, 2));
  EXPECT_EQ(first, fingerprint("b.bin", LittleAll(tokens, 2)));
  EXPECT_NE(first, fingerprint("c.bin", LlmcBytes(20240520, 1, 40000, LittleAll(tokens, 2))));
  tokens.back() = 7;
  EXPECT_NE(first, fingerprint("d.bin", LittleAll(tokens, 2)));
  tokens.pop_back();
  EXPECT_NE(first, fingerprint("e.bin", LittleAll(tokens, 2)));
}

TEST_F(TokenFileTest, ReadsNothingBeyondTheEnd) {
  const auto file = TokenFile::Open(WriteText("t.bin", LittleAll({1, 2, 3}, 2)));
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<int32_t> two(2);
  (*file)->Read(1, two);
  EXPECT_THAT(two, ElementsAre(2, 3));
  (*file)->Read(3, std::span<int32_t>());
  EXPECT_DEATH((*file)->Read(2, two), "tokens \\[2, \\+2\\) of 3");
  EXPECT_DEATH((*file)->Read(-1, two), "of 3");
}

}  // namespace
}  // namespace atl
