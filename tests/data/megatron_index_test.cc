// Megatron's index: what it may say, and every way in which it may lie.
#include "worker/data/megatron_index.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <functional>

#include "base/exit_code.h"
#include "tests/data/token_test_util.h"

namespace atl {
namespace {

using testing::HasSubstr;

using MegatronIndexTest = TokenTest;

// Two documents of 3 and 5 tokens, uint16, 16 bytes.
MegatronParts Sound() {
  MegatronParts index;
  index.lengths = {3, 5};
  index.pointers = {0, 6};
  index.documents = {0, 1, 2};
  return index;
}

StatusOr<TokenLayout> Parse(const std::string& bytes, int64_t bin_bytes = 16) {
  return ParseMegatronIndex(AsBytes(bytes), bin_bytes, "x.idx");
}

std::string ErrorOf(const std::function<void(MegatronParts*)>& change) {
  MegatronParts index = Sound();
  change(&index);
  const auto layout = Parse(index.Bytes());
  if (layout.ok()) return "it was accepted";
  EXPECT_EQ(ExitCodeOf(layout.status()), ExitCode::kUsage);
  return std::string(layout.status().message());
}

TEST_F(MegatronIndexTest, JoinsSequencesThatTouch) {
  const auto layout = Parse(Sound().Bytes());
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->tokens, 8);
  EXPECT_EQ(layout->documents, 2);
  EXPECT_EQ(layout->extents.size(), 1);
}

TEST_F(MegatronIndexTest, IgnoresTheModesOfSequences) {
  MegatronParts index = Sound();
  index.tail = std::string("\x00\x01", 2);
  EXPECT_TRUE(Parse(index.Bytes()).ok());
}

TEST_F(MegatronIndexTest, RefusesAnIndexThatIsCutShortAnywhere) {
  const std::string bytes = Sound().Bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(Parse(bytes.substr(0, size)).ok()) << size << " of " << bytes.size();
  }
}

TEST_F(MegatronIndexTest, RefusesAnIndexThatPointsPastTheEnd) {
  EXPECT_THAT(ErrorOf([](auto* i) { i->pointers[1] = 8; }), HasSubstr("sequence 1"));
  EXPECT_THAT(ErrorOf([](auto* i) { i->pointers[1] = -2; }), HasSubstr("lies outside"));
  EXPECT_THAT(ErrorOf([](auto* i) { i->pointers[1] = INT64_MAX; }), HasSubstr("lies outside"));
  EXPECT_THAT(ErrorOf([](auto* i) { i->pointers[0] = INT64_MIN; }), HasSubstr("lies outside"));
  EXPECT_THAT(ErrorOf([](auto* i) { i->lengths[1] = 6; }), HasSubstr("lies outside"));
  EXPECT_THAT(ErrorOf([](auto* i) { i->lengths[0] = -1; }), HasSubstr("lies outside"));
  EXPECT_THAT(ErrorOf([](auto* i) { i->lengths[0] = INT32_MAX; }), HasSubstr("lies outside"));
}

TEST_F(MegatronIndexTest, RefusesCountsThatItsSizeCannotHold) {
  for (const int64_t count : {int64_t{4}, int64_t{1} << 60, INT64_MAX}) {
    EXPECT_THAT(ErrorOf([&](auto* i) { i->sequence_count = count; }), HasSubstr("more than its"));
    EXPECT_THAT(ErrorOf([&](auto* i) { i->document_count = count; }), HasSubstr("more than its"));
  }
  EXPECT_THAT(ErrorOf([](auto* i) { i->tail = "x"; }), HasSubstr("left over"));
}

TEST_F(MegatronIndexTest, RefusesSequencesThatOverlap) {
  EXPECT_THAT(ErrorOf([](auto* i) {
                i->lengths = {8, 8};
                i->pointers = {0, 0};
              }),
              HasSubstr("overlap"));
}

TEST_F(MegatronIndexTest, RefusesDocumentsOutOfOrder) {
  EXPECT_THAT(ErrorOf([](auto* i) { i->documents = {0, 2, 1}; }), HasSubstr("document 2"));
  EXPECT_THAT(ErrorOf([](auto* i) { i->documents = {0, 1, 3}; }), HasSubstr("document 2"));
  EXPECT_THAT(ErrorOf([](auto* i) { i->documents = {1, 1, 2}; }), HasSubstr("document 0"));
  EXPECT_THAT(ErrorOf([](auto* i) { i->documents = {0, -1, 2}; }), HasSubstr("document 1"));
}

TEST_F(MegatronIndexTest, RefusesOtherVersionsTypesAndMagic) {
  EXPECT_THAT(ErrorOf([](auto* i) { i->version = 2; }), HasSubstr("version 2"));
  for (const uint8_t type : {0, 6, 7, 9, 255}) {
    EXPECT_THAT(ErrorOf([&](auto* i) { i->type = type; }), HasSubstr("token type"));
  }
  std::string bytes = Sound().Bytes();
  bytes[0] = 'm';
  EXPECT_FALSE(Parse(bytes).ok());
}

// The same format from another hand: Python's struct module, as Megatron's own writer uses it.
TEST_F(MegatronIndexTest, ReadsWhatPythonWrites) {
  if (std::system("python3 -c '' >/dev/null 2>&1") != 0) GTEST_SKIP() << "no python3";
  const std::string path = WriteText("make.py", R"(
import struct, sys
docs = [[1, 2, 3], [40000], [5] * 700]
with open(sys.argv[1], "wb") as f:
    f.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(docs), len(docs) + 1))
    f.write(struct.pack("<3i", *[len(d) for d in docs]))
    f.write(struct.pack("<3q", 0, 6, 8))
    f.write(struct.pack("<4q", 0, 1, 2, 3))
)");
  ASSERT_EQ(std::system(("python3 " + path + " " + Path("x.idx")).c_str()), 0);
  const auto layout = Parse(ReadText(Path("x.idx")), 2 * 704);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->tokens, 704);
  EXPECT_EQ(layout->documents, 3);
}

}  // namespace
}  // namespace atl
