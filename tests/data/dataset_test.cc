// Samples: the permutation, the cut into samples, what is held out.
#include "worker/data/dataset.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/exit_code.h"
#include "tests/data/token_test_util.h"

namespace atl {
namespace {

using testing::HasSubstr;

TEST(Permutation, IsABijectionForEverySize) {
  for (const int64_t size :
       {1,  2,   3,   4,   5,   7,    8,    15,   16,   17,    31,    64,
        97, 127, 255, 256, 257, 1000, 1009, 4096, 4097, 65536, 65537, 100003}) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, UINT64_MAX}) {
      const Permutation permutation(size, seed);
      std::vector<bool> seen(static_cast<size_t>(size));
      for (int64_t i = 0; i < size; ++i) {
        const int64_t image = permutation(i);
        ASSERT_TRUE(image >= 0 && image < size) << size;
        ASSERT_FALSE(seen[static_cast<size_t>(image)]) << size << ": " << image << " comes twice";
        seen[static_cast<size_t>(image)] = true;
      }
    }
  }
}

TEST(Permutation, IsAPureFunctionOfSizeSeedAndIndex) {
  const Permutation a(1000, 42);
  const Permutation b(1000, 42);
  for (int64_t i = 999; i >= 0; --i) EXPECT_EQ(a(i), b(i));
}

TEST(Permutation, KeepsItsOrderFromVersionToVersion) {
  // Golden values: another order would make a resumed job train on other samples.
  const Permutation permutation(1000, 42);
  std::vector<int64_t> first;
  for (int64_t i = 0; i < 6; ++i) first.push_back(permutation(i));
  EXPECT_THAT(first, testing::ElementsAre(866, 242, 819, 285, 670, 583));
}

TEST(Permutation, DiffersBySeedAndMovesAlmostEverything) {
  constexpr int64_t kSize = 10007;
  const Permutation a(kSize, 1);
  const Permutation b(kSize, 2);
  int equal = 0;
  int fixed = 0;
  int neighbours = 0;
  for (int64_t i = 0; i < kSize; ++i) {
    equal += a(i) == b(i) ? 1 : 0;
    fixed += a(i) == i ? 1 : 0;
    if (i > 0) neighbours += std::abs(a(i) - a(i - 1)) == 1 ? 1 : 0;
  }
  // Of random permutations each count has mean 1, 1, 2.
  EXPECT_LT(equal, 12);
  EXPECT_LT(fixed, 12);
  EXPECT_LT(neighbours, 16);
}

TEST(Permutation, SpreadsSmallSetsEvenly) {
  // All 6 orders of 3 come up over the seeds, none much more often than another.
  std::map<std::vector<int64_t>, int> orders;
  for (uint64_t seed = 0; seed < 6000; ++seed) {
    const Permutation permutation(3, seed);
    ++orders[{permutation(0), permutation(1), permutation(2)}];
  }
  ASSERT_EQ(orders.size(), 6);
  for (const auto& [order, count] : orders) {
    EXPECT_GT(count, 800);
    EXPECT_LT(count, 1200);
  }
}

TEST(Permutation, HoldsSizesUpToTheLargest) {
  for (const int64_t size : {(int64_t{1} << 40) + 1, (int64_t{1} << 62) - 1, INT64_MAX}) {
    const Permutation permutation(size, 7);
    std::set<int64_t> images;
    for (int64_t i = 0; i < 100; ++i) {
      const int64_t image = permutation(size - 1 - i);
      EXPECT_TRUE(image >= 0 && image < size);
      images.insert(image);
    }
    EXPECT_EQ(images.size(), 100);
  }
}

class DatasetTest : public TokenTest {
 protected:
  // `count` tokens of uint16 that count up from `from`, so that a token is its own position.
  pb::Data Counting(int64_t count, int64_t length, double fraction) {
    pb::Data data;
    data.set_tokens(WriteText("train.bin", LittleAll(Count(count), 2)));
    data.set_sequence_length(length);
    data.set_validation_fraction(fraction);
    return data;
  }

  static std::unique_ptr<Dataset> Open(const pb::Data& data, uint64_t seed = 1) {
    auto set = Dataset::Open(data, seed);
    EXPECT_TRUE(set.ok()) << set.status();
    return set.ok() ? *std::move(set) : nullptr;
  }

  static std::vector<int32_t> Training(const Dataset& set, int64_t index) {
    std::vector<int32_t> out(static_cast<size_t>(set.sequence_length() + 1));
    EXPECT_TRUE(set.TrainingSample(index, out).ok());
    return out;
  }
};

TEST_F(DatasetTest, CutsTheTrainingPartIntoSamplesThatShareOneToken) {
  const auto set = Open(Counting(1000, 10, 0.1));
  ASSERT_NE(set, nullptr);
  EXPECT_EQ(set->training_samples(), 89) << "900 tokens: 89 samples of 10 + 1";
  EXPECT_EQ(set->validation_samples(), 9);
  std::set<int32_t> begins;
  for (int64_t i = 0; i < set->training_samples(); ++i) {
    const std::vector<int32_t> sample = Training(*set, i);
    for (int32_t k = 0; k <= 10; ++k) EXPECT_EQ(sample[k], sample[0] + k);
    EXPECT_EQ(sample[0] % 10, 0);
    begins.insert(sample[0]);
  }
  EXPECT_EQ(begins.size(), 89) << "each sample of the file once in an epoch";
}

TEST_F(DatasetTest, NeverTrainsOnWhatIsHeldOut) {
  for (const double fraction : {0.0, 0.05, 0.3, 0.5}) {
    for (const int64_t length : {2, 7, 16, 100}) {
      const auto set = Open(Counting(1003, length, fraction));
      ASSERT_NE(set, nullptr);
      int32_t last_trained = 0;
      for (int64_t i = 0; i < 2 * set->training_samples(); ++i) {
        last_trained = std::max(last_trained, Training(*set, i).back());
      }
      int32_t first_held_out = INT32_MAX;
      std::vector<int32_t> sample(static_cast<size_t>(length + 1));
      for (int64_t i = 0; i < set->validation_samples(); ++i) {
        ASSERT_TRUE(set->ValidationSample(i, sample).ok());
        first_held_out = std::min(first_held_out, sample.front());
        EXPECT_LE(sample.back(), 1002);
      }
      EXPECT_GE(set->validation_samples(), 1);
      EXPECT_LT(last_trained, first_held_out) << fraction << " " << length;
    }
  }
}

TEST_F(DatasetTest, GivesTwoWorkersDisjointSamples) {
  const auto one = Open(Counting(5000, 8, 0.05));
  const auto other = Open(Counting(5000, 8, 0.05));
  ASSERT_TRUE(one && other);
  // A step of 16 samples, 8 for each of two workers, over most of an epoch.
  std::set<int32_t> first;
  std::set<int32_t> second;
  for (int64_t step = 0; step < 30; ++step) {
    for (int64_t k = 0; k < 8; ++k) first.insert(Training(*one, 16 * step + k)[0]);
    for (int64_t k = 8; k < 16; ++k) second.insert(Training(*other, 16 * step + k)[0]);
  }
  EXPECT_EQ(first.size(), 240);
  EXPECT_EQ(second.size(), 240);
  for (const int32_t begin : first) EXPECT_EQ(second.count(begin), 0) << begin;
}

TEST_F(DatasetTest, OrdersEachEpochAnewAndEachSeedDifferently) {
  const auto set = Open(Counting(5000, 8, 0.05), 1);
  const auto other = Open(Counting(5000, 8, 0.05), 2);
  ASSERT_TRUE(set && other);
  const int64_t samples = set->training_samples();
  int same_epoch = 0;
  int same_seed = 0;
  for (int64_t i = 0; i < samples; ++i) {
    same_epoch += Training(*set, i) == Training(*set, samples + i) ? 1 : 0;
    same_seed += Training(*set, i) == Training(*other, i) ? 1 : 0;
  }
  EXPECT_LT(same_epoch, 12);
  EXPECT_LT(same_seed, 12);
}

TEST_F(DatasetTest, TakesAFileOfItsOwnForValidation) {
  pb::Data data = Counting(100, 4, 0.5);
  data.set_validation_tokens(WriteText("valid.bin", LittleAll(Count(21, 60000), 2)));
  const auto set = Open(data);
  ASSERT_NE(set, nullptr);
  EXPECT_EQ(set->training_samples(), 24) << "all of the training file";
  EXPECT_EQ(set->validation_samples(), 5);
  std::vector<int32_t> sample(5);
  ASSERT_TRUE(set->ValidationSample(4, sample).ok());
  EXPECT_THAT(sample, testing::ElementsAre(60016, 60017, 60018, 60019, 60020));
  EXPECT_EQ(set->vocab_size(), 60032) << "of both files";
}

TEST_F(DatasetTest, FingerprintsWhatIsTrainedAndEvaluatedOn) {
  const pb::Data data = Counting(1000, 10, 0.1);
  const uint64_t first = Open(data)->fingerprint();
  EXPECT_EQ(first, Open(data, 99)->fingerprint()) << "the seed is the job's";
  pb::Data changed = data;
  changed.set_sequence_length(20);
  EXPECT_NE(first, Open(changed)->fingerprint());
  changed = data;
  changed.set_validation_fraction(0.2);
  EXPECT_NE(first, Open(changed)->fingerprint());
  changed = data;
  changed.set_validation_tokens(WriteText("valid.bin", LittleAll(Count(50), 2)));
  EXPECT_NE(first, Open(changed)->fingerprint());
}

TEST_F(DatasetTest, RefusesTextThatIsTooShort) {
  EXPECT_TRUE(Dataset::Open(Counting(22, 10, 0), 1).ok()) << "exactly one sample of each";
  const auto set = Dataset::Open(Counting(21, 10, 0), 1);
  EXPECT_EQ(ExitCodeOf(set.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(set.status().message()), HasSubstr("needs at least 22"));
  pb::Data data = Counting(100, 10, 0);
  data.set_validation_tokens(WriteText("valid.bin", LittleAll(Count(10), 2)));
  EXPECT_THAT(std::string(Dataset::Open(data, 1).status().message()),
              HasSubstr("data.validation_tokens"));
  data.set_validation_tokens(Path("none.bin"));
  EXPECT_THAT(std::string(Dataset::Open(data, 1).status().message()), HasSubstr("no such file"));
  EXPECT_EQ(ExitCodeOf(Dataset::Open(pb::Data(), 1).status()), ExitCode::kUsage);
}

TEST_F(DatasetTest, ReportsATokenOutsideTheVocabulary) {
  const std::string path = WriteText("t.bin", LittleAll({0, 1, 2, 3, 99, 5, 6, 7, 8, 0, 1, 2}, 2));
  WriteText("t.bin.json",
            R"({"format":"atoll-tokens","version":1,"dtype":"uint16","vocab_size":9,"tokens":12})");
  pb::Data data;
  data.set_tokens(path);
  data.set_sequence_length(2);
  const auto set = Open(data);
  ASSERT_NE(set, nullptr);
  int refused = 0;
  std::vector<int32_t> sample(3);
  for (int64_t i = 0; i < set->training_samples(); ++i) {
    const Status status = set->TrainingSample(i, sample);
    if (status.ok()) continue;
    ++refused;
    EXPECT_THAT(std::string(status.message()), HasSubstr("has 99 as token 4"));
    EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage);
  }
  EXPECT_EQ(refused, 2) << "token 4 ends one sample and begins the next";
}

}  // namespace
}  // namespace atl
