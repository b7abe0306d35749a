// Tokenizers: bytes, and a sentencepiece model that the test trains with spm_train on a corpus of
// its own. The program links protobuf on purpose: sentencepiece's own copy must not meet it.
#include "worker/data/tokenizer.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <set>

#include "base/exit_code.h"
#include "base/random.h"
#include "proto/job.pb.h"
#include "tests/data/token_test_util.h"

namespace atl {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Sentences over a small vocabulary, drawn from a seed.
std::string Corpus(int lines) {
  const char* words[] = {"the",  "island",  "ring",  "water",  "between", "slow",    "sea",  "boat",
                         "reef", "carries", "grain", "letter", "under",   "morning", "wind", "and"};
  const CounterRandom random(5);
  std::string text;
  uint64_t at = 0;
  for (int line = 0; line < lines; ++line) {
    const uint64_t count = 4 + random.Bits(at++) % 9;
    for (uint64_t i = 0; i < count; ++i) {
      text += words[random.Bits(at++) % 16];
      text += i + 1 < count ? " " : ".\n";
    }
  }
  return text;
}

class TokenizerTest : public TokenTest {
 protected:
  static std::unique_ptr<Tokenizer> Make(const std::string& spec) {
    auto tokenizer = MakeTokenizer(spec);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
  }

  // Trains m.model; an empty string if spm_train is not installed.
  std::string TrainModel(const std::string& options = "") {
    if (std::system("command -v spm_train >/dev/null") != 0) return "";
    WriteText("corpus.txt", Corpus(400));
    const std::string command =
        "spm_train --input=" + Path("corpus.txt") + " --model_prefix=" + Path("m") +
        " --vocab_size=80 --hard_vocab_limit=false --num_threads=1 " + options + " >/dev/null 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    return Path("m.model");
  }

  std::vector<int32_t> TokensOf(const std::string& path) {
    const auto file = TokenFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    if (!file.ok()) return {};
    std::vector<int32_t> out(static_cast<size_t>((*file)->info().tokens));
    (*file)->Read(0, out);
    return out;
  }
};

TEST_F(TokenizerTest, TakesBytesAsTheyAre) {
  const auto bytes = Make("bytes");
  ASSERT_NE(bytes, nullptr);
  std::vector<int32_t> ids = {7};
  ASSERT_TRUE(bytes->Encode(absl::string_view("a\xc3\xa9\0\xff", 5), &ids).ok());
  EXPECT_THAT(ids, ElementsAre(7, 97, 0xc3, 0xa9, 0, 255));
  EXPECT_EQ(*bytes->Decode(std::span(ids).subspan(1)), std::string("a\xc3\xa9\0\xff", 5));
  EXPECT_EQ(bytes->vocab_size(), 256);
  EXPECT_EQ(bytes->end_of_document(), std::nullopt);
  const std::vector<int32_t> bad = {256};
  EXPECT_FALSE(bytes->Decode(bad).ok());
}

TEST_F(TokenizerTest, WritesEachInputAsADocument) {
  const std::string a = WriteText("a.txt", "one\n");
  const std::string b = WriteText("b.txt", "two");
  const std::string none = WriteText("none.txt", "");
  const auto info = TokenizeFiles({a, none, b}, "bytes", Path("t.bin"));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->tokens, 7);
  EXPECT_EQ(info->documents, 2) << "an empty file is no document";
  EXPECT_EQ(info->vocab_size, 256);
  EXPECT_EQ(info->tokenizer, "bytes");
  EXPECT_THAT(TokensOf(Path("t.bin")), ElementsAre('o', 'n', 'e', '\n', 't', 'w', 'o'));
}

TEST_F(TokenizerTest, ReadsFilesLargerThanItsBuffer) {
  std::string text;
  for (int i = 0; text.size() < (5u << 20) / 2; ++i) text += std::to_string(i) + "\n";
  const auto info = TokenizeFiles({WriteText("big.txt", text)}, "bytes", Path("t.bin"));
  ASSERT_TRUE(info.ok()) << info.status();
  const std::vector<int32_t> tokens = TokensOf(Path("t.bin"));
  ASSERT_EQ(tokens.size(), text.size());
  EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), text.begin(), [](int32_t token, char c) {
    return token == static_cast<unsigned char>(c);
  }));
}

TEST_F(TokenizerTest, RefusesWhatItCannotTokenize) {
  const std::string text = WriteText("a.txt", "text");
  const auto error = [&](const std::vector<std::string>& inputs, const std::string& spec,
                         const std::string& output) {
    const auto info = TokenizeFiles(inputs, spec, output);
    EXPECT_EQ(ExitCodeOf(info.status()), ExitCode::kUsage) << info.status();
    return std::string(info.status().message());
  };
  EXPECT_THAT(error({Path("none.txt")}, "bytes", Path("t.bin")), HasSubstr("no such input file"));
  EXPECT_THAT(error({Path("")}, "bytes", Path("t.bin")), HasSubstr("is a directory"));
  EXPECT_THAT(error({text}, "bytes", text), HasSubstr("also an input"));
  EXPECT_THAT(error({text}, "byte", Path("t.bin")), HasSubstr("no such tokenizer 'byte'"));
  EXPECT_THAT(error({text}, text, Path("t.bin")), HasSubstr("is not a sentencepiece model"));
  EXPECT_THAT(error({WriteText("e.txt", "")}, "bytes", Path("t.bin")), HasSubstr("no tokens"));
  EXPECT_THAT(error({}, "bytes", Path("t.bin")), HasSubstr("no input files"));
  EXPECT_EQ(ReadText(text), "text") << "the input was left alone";
  EXPECT_FALSE(std::filesystem::exists(Path("t.bin")));
}

TEST_F(TokenizerTest, EncodesAndDecodesWithASentencePieceModel) {
  const std::string model = TrainModel();
  if (model.empty()) GTEST_SKIP() << "spm_train is not installed (Debian package sentencepiece)";
  const auto tokenizer = Make(model);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->name(), "sentencepiece:m.model");
  EXPECT_GT(tokenizer->vocab_size(), 20);
  EXPECT_EQ(tokenizer->end_of_document(), 2) << "</s> of spm_train's defaults";

  const std::string sentence = "the boat carries grain between the islands and the reef.";
  std::vector<int32_t> ids;
  ASSERT_TRUE(tokenizer->Encode(sentence, &ids).ok());
  EXPECT_LT(ids.size(), sentence.size() / 2) << "pieces are longer than characters";
  for (const int32_t id : ids) EXPECT_TRUE(id >= 0 && id < tokenizer->vocab_size());
  EXPECT_EQ(*tokenizer->Decode(ids), sentence);

  // spm_encode is an independent reader of the same model.
  WriteText("sentence.txt", sentence + "\n");
  const std::string command = "spm_encode --model=" + model + " --output_format=id < " +
                              Path("sentence.txt") + " > " + Path("ids.txt") + " 2>/dev/null";
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::string expected;
  for (const int32_t id : ids) expected += (expected.empty() ? "" : " ") + std::to_string(id);
  EXPECT_EQ(ReadText(Path("ids.txt")), expected + "\n");

  const std::vector<int32_t> bad = {static_cast<int32_t>(tokenizer->vocab_size())};
  EXPECT_FALSE(tokenizer->Decode(bad).ok());
}

TEST_F(TokenizerTest, LetsProtobufAndSentencePieceLiveInOneProcess) {
  const std::string model = TrainModel();
  if (model.empty()) GTEST_SKIP() << "spm_train is not installed (Debian package sentencepiece)";
  pb::Job job;
  job.set_name("before");
  job.add_regions()->set_name("north");
  const std::string bytes = job.SerializeAsString();
  ASSERT_NE(Make(model), nullptr);
  pb::Job again;
  ASSERT_TRUE(again.ParseFromString(bytes));
  EXPECT_THAT(again.DebugString(), HasSubstr("north"));
}

TEST_F(TokenizerTest, CutsAtLineEndsWhateverTheBlocks) {
  const std::string model = TrainModel();
  if (model.empty()) GTEST_SKIP() << "spm_train is not installed (Debian package sentencepiece)";
  const auto tokenizer = Make(model);
  ASSERT_NE(tokenizer, nullptr);
  // More than one block of 1 MiB, so that a line lies across the border.
  const std::string text = Corpus(34000);
  ASSERT_GT(text.size(), 1u << 20);
  const auto info = TokenizeFiles({WriteText("long.txt", text)}, model, Path("t.bin"));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->vocab_size, tokenizer->vocab_size());
  std::vector<int32_t> expected;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin) + 1;
    ASSERT_TRUE(tokenizer->Encode(text.substr(begin, end - begin), &expected).ok());
    begin = end;
  }
  expected.push_back(2);
  EXPECT_EQ(TokensOf(Path("t.bin")), expected);
}

TEST_F(TokenizerTest, CutsALineThatIsTooLong) {
  const std::string model = TrainModel();
  if (model.empty()) GTEST_SKIP() << "spm_train is not installed (Debian package sentencepiece)";
  const auto tokenizer = Make(model);
  ASSERT_NE(tokenizer, nullptr);
  std::string text = Corpus(20000);
  std::replace(text.begin(), text.end(), '\n', ' ');
  ASSERT_GT(text.size(), 512u << 10);
  ASSERT_TRUE(TokenizeFiles({WriteText("line.txt", text)}, model, Path("t.bin")).ok());
  std::vector<int32_t> tokens = TokensOf(Path("t.bin"));
  ASSERT_FALSE(tokens.empty());
  tokens.pop_back();  // end of document
  const auto decoded = tokenizer->Decode(tokens);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, text.substr(0, text.size() - 1)) << "no word is cut, none is lost";
}

TEST_F(TokenizerTest, RefusesModelsThatAreDamaged) {
  const std::string model = TrainModel();
  if (model.empty()) GTEST_SKIP() << "spm_train is not installed (Debian package sentencepiece)";
  const std::string bytes = ReadText(model);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{100}, bytes.size() / 2}) {
    const auto tokenizer = MakeTokenizer(WriteText("cut.model", bytes.substr(0, size)));
    EXPECT_FALSE(tokenizer.ok()) << size << " bytes";
    EXPECT_THAT(std::string(tokenizer.status().message()),
                HasSubstr("is not a sentencepiece model"));
  }
}

}  // namespace
}  // namespace atl
