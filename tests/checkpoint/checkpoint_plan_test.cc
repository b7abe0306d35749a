// Where tensors lie in files, who writes them, and which names are accepted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "checkpoint/coverage.h"
#include "checkpoint/file_plan.h"
#include "checkpoint/names.h"
#include "checkpoint/safetensors.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

using testing::HasSubstr;

TEST(FilePlan, KeepsTensorsWholeAndFilesBelowTheLimit) {
  for (const int64_t limit : {int64_t{1}, int64_t{40'000}, int64_t{100'000}, int64_t{1} << 40}) {
    const auto plan = FilePlan::Create(SmallModel(), "model", limit);
    ASSERT_TRUE(plan.ok()) << plan.status();
    size_t tensors = 0;
    const size_t count = plan->files().size();
    for (size_t i = 0; i < count; ++i) {
      const PlannedFile& file = plan->files()[i];
      EXPECT_EQ(file.name, SectionFileName("model", i + 1, count));
      const auto header = ParseSafetensors(file.head, file.bytes);
      ASSERT_TRUE(header.ok()) << header.status();
      tensors += header->tensors.size();
      EXPECT_TRUE(file.bytes - header->data_begin <= limit || header->tensors.size() == 1);
    }
    EXPECT_EQ(tensors, SmallModel().size());
  }
}

TEST(FilePlan, MapsEveryElementToItsOwnPlaceAndSkipsPadding) {
  const std::vector<TensorSpec> tensors = SmallModel();
  const auto plan = FilePlan::Create(tensors, "model", 40'000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  // The oracle: tensor by tensor, through the headers.
  std::map<std::pair<int, int64_t>, int64_t> element_at;
  int64_t stored = 0;
  for (size_t f = 0; f < plan->files().size(); ++f) {
    const auto header = ParseSafetensors(plan->files()[f].head, plan->files()[f].bytes);
    for (const SafetensorsTensor& entry : header->tensors) {
      for (const TensorSpec& tensor : tensors) {
        if (tensor.name != entry.name) continue;
        for (int64_t i = 0; i < tensor.elements.size(); ++i, ++stored) {
          element_at[{static_cast<int>(f), header->data_begin + entry.data.begin + 4 * i}] =
              tensor.elements.begin + i;
        }
      }
    }
  }
  for (int parts : {1, 2, 7, 50}) {
    int64_t seen = 0;
    for (const Range& range : Cut(FlatSize(tensors), parts, 7)) {
      for (const Piece& piece : plan->Pieces(range)) {
        for (int64_t i = 0; i < piece.elements.size(); ++i, ++seen) {
          ASSERT_EQ((element_at.at({piece.file, piece.file_offset + 4 * i})),
                    piece.elements.begin + i);
        }
      }
    }
    EXPECT_EQ(seen, stored);
  }
}

TEST(FilePlan, RefusesTensorsThatDoNotFitTogether) {
  auto refusal = [](std::vector<TensorSpec> tensors) {
    return FilePlan::Create(tensors, "model", 1000).status().ToString();
  };
  EXPECT_THAT(refusal({}), HasSubstr("no tensors"));
  EXPECT_THAT(refusal({{"a", {2}, {0, 3}}}), HasSubstr("tensor a"));
  EXPECT_THAT(refusal({{"a", {-2}, {0, -2}}}), HasSubstr("tensor a"));
  EXPECT_THAT(refusal({{"a", {2}, {-2, 0}}}), HasSubstr("tensor a"));
  EXPECT_THAT(refusal({{"a", {1 << 30, 1 << 30, 1 << 30}, {0, 0}}}), HasSubstr("tensor a"));
  EXPECT_THAT(refusal({{"a", {2}, {0, 2}}, {"a", {2}, {2, 4}}}), HasSubstr("twice"));
  EXPECT_THAT(refusal({{"a", {2}, {0, 2}}, {"b", {2}, {1, 3}}}), HasSubstr("overlap"));
  EXPECT_THAT(refusal({{"__metadata__", {2}, {0, 2}}}), HasSubstr("__metadata__"));
  EXPECT_THAT(refusal({{"\xFF", {2}, {0, 2}}}), HasSubstr("UTF-8"));
  EXPECT_FALSE(FilePlan::Create({{"a", {2}, {0, 2}}}, "../model", 1000).ok());
}

TEST(Coverage, FindsHolesAndDoubleWritersOfTensorsAlone) {
  const std::vector<TensorSpec> tensors = {
      {"a", {10}, {0, 10}}, {"e", {0}, {12, 12}}, {"b", {10}, {16, 26}}};
  auto check = [&](std::vector<Writer> writers) {
    return CheckCoverage(tensors, writers).ToString();
  };
  EXPECT_EQ(check({{0, {0, 32}}}), "OK");
  EXPECT_EQ(check({{1, {16, 26}}, {0, {0, 10}}}), "OK");
  EXPECT_EQ(check({{1, {9, 26}}, {0, {0, 9}}, {2, {5, 5}}}), "OK");
  EXPECT_EQ(check({{0, {0, 14}}, {1, {11, 32}}}), "OK") << "padding may be written twice";
  EXPECT_THAT(check({}), HasSubstr("nobody writes tensor a"));
  EXPECT_THAT(check({{0, {0, 25}}}), HasSubstr("nobody writes tensor b"));
  EXPECT_THAT(check({{0, {1, 32}}}), HasSubstr("nobody writes tensor a"));
  EXPECT_THAT(check({{0, {0, 17}}, {1, {18, 32}}}), HasSubstr("nobody writes tensor b"));
  EXPECT_THAT(check({{0, {0, 32}}, {1, {25, 26}}}), HasSubstr("ranks 0 and 1 both write tensor b"));
  EXPECT_THAT(check({{0, {0, 32}}, {1, {11, 12}}, {2, {3, 4}}}), HasSubstr("both write tensor a"));
}

TEST(Names, OfFilesStayInsideTheCheckpoint) {
  for (const char* name : {"model-00001-of-00004.safetensors", "model.safetensors.index.json",
                           "outer/momentum-00001-of-00001.safetensors", "optim/exp_avg_sq",
                           "extra/oslo/rank-0.json"}) {
    EXPECT_TRUE(IsFileName(name)) << name;
  }
  for (const char* name : {"",
                           ".",
                           "..",
                           "/etc/passwd",
                           "../x",
                           "outer/../x",
                           "outer//x",
                           "outer/",
                           "/",
                           "a/b",
                           "outer/a/b",
                           "extra/x",
                           "extra/a/b/c",
                           ".hidden",
                           "outer/.x",
                           "a b",
                           "a\\b",
                           "a\n",
                           "caf\xC3\xA9",
                           "MANIFEST.json",
                           "MANIFEST.part",
                           "JOURNAL.part",
                           "outer/x.part",
                           "chunks",
                           "chunks/x.b32",
                           "a:b"}) {
    EXPECT_FALSE(IsFileName(name)) << name;
  }
  EXPECT_FALSE(IsFileName(std::string("a\0b", 3)));
  EXPECT_FALSE(IsFileName(std::string(300, 'a')));
}

TEST(Names, OfRoundsGoBothWays) {
  EXPECT_EQ(RoundName(41), "round-000041");
  EXPECT_EQ(RoundOfName("round-000041"), 41);
  EXPECT_EQ(RoundOfName("round-12345678"), 12345678);
  for (const char* name :
       {"round-41", "round-", "round-0000041", "round-00004x", "round--00041", "Round-000041",
        ".round-000041", "round-000041 ", "round-99999999999999999999"}) {
    EXPECT_FALSE(RoundOfName(name).has_value()) << name;
  }
  EXPECT_EQ(RoundOfReplacedName(ReplacedName(7)), 7);
  EXPECT_TRUE(IsLeftoverName(PartialName(7, "00ff00ff")));
  EXPECT_TRUE(IsLeftoverName(RemovedName(7)));
  EXPECT_FALSE(IsLeftoverName(RoundName(7)));
  EXPECT_TRUE(IsFileOfSection("model-00001-of-00002.safetensors", "model"));
  EXPECT_FALSE(IsFileOfSection("model-00001-of-00002.safetensors.part", "model"));
  EXPECT_FALSE(IsFileOfSection("optim/exp_avg_sq-00001-of-00002.safetensors", "optim/exp_avg"));
}

}  // namespace
}  // namespace atl::checkpoint
