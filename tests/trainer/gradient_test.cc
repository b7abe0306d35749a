// Logits, losses and gradients of the libtorch module against the naive reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <thread>

#include "tests/trainer/reference_decoder.h"
#include "tests/trainer/tiny_trainer.h"

namespace atl {
namespace {

constexpr int64_t kBatch = 3;
constexpr int64_t kSequence = 7;

struct Variant {
  const char* name;
  bool tied;
  int kv_heads;
  bool checkpointing;
};

TrainerOptions OptionsOf(const Variant& variant) {
  TrainerOptions options = TinyOptions();
  options.model.set_embedding(variant.tied ? pb::Model::TIED : pb::Model::UNTIED);
  options.model.set_kv_heads(variant.kv_heads);
  options.activation_checkpointing = variant.checkpointing;
  return options;
}

ReferenceDecoder ReferenceOf(Trainer& trainer, const TrainerOptions& options) {
  ReferenceDecoder reference(options.model);
  const std::vector<float> flat = ReadAll(trainer, Vector::kParameters);
  for (const TensorInfo& tensor : trainer.tensors()) {
    reference.parameters[tensor.name] = {flat.begin() + tensor.elements.begin,
                                         flat.begin() + tensor.elements.end};
  }
  return reference;
}

class DecoderTest : public ::testing::TestWithParam<Variant> {};

TEST_P(DecoderTest, LogitsAgreeWithTheReference) {
  const TrainerOptions options = OptionsOf(GetParam());
  const auto trainer = MakeTrainer(options);
  const ReferenceDecoder reference = ReferenceOf(*trainer, options);
  const auto tokens = RandomTokens(5, kBatch * kSequence);
  std::vector<float> logits(tokens.size() * kVocabulary);
  ASSERT_TRUE(trainer->Logits(tokens, kBatch, kSequence, logits).ok());
  for (int64_t b = 0; b < kBatch; ++b) {
    const auto begin = tokens.begin() + b * kSequence;
    const auto expected = reference.Logits({begin, begin + kSequence});
    for (int64_t t = 0; t < kSequence; ++t) {
      for (int64_t v = 0; v < kVocabulary; ++v) {
        ASSERT_NEAR(logits[((b * kSequence) + t) * kVocabulary + v], expected[t][v], 2e-5)
            << "sample " << b << ", place " << t << ", token " << v;
      }
    }
  }
}

TEST_P(DecoderTest, LossesAgreeWithTheReference) {
  const TrainerOptions options = OptionsOf(GetParam());
  const auto trainer = MakeTrainer(options);
  const auto tokens = RandomTokens(5, kBatch * (kSequence + 1));
  const double expected = ReferenceOf(*trainer, options).LossSum(tokens, kBatch, kSequence);
  EXPECT_NEAR(*trainer->Loss(tokens, kBatch, kSequence), expected, 1e-5 * expected);
  EXPECT_NEAR(*trainer->LossAndGradient(tokens, kBatch, kSequence, 1.0, nullptr), expected,
              1e-5 * expected);
}

// For each tensor the derivative along a random direction: central differences of the double
// reference against the trainer's gradient times the direction.
TEST_P(DecoderTest, GradientsAgreeWithFiniteDifferences) {
  const TrainerOptions options = OptionsOf(GetParam());
  const auto trainer = MakeTrainer(options);
  ReferenceDecoder reference = ReferenceOf(*trainer, options);
  const auto tokens = RandomTokens(5, kBatch * (kSequence + 1));
  constexpr double kScale = 0.125;
  ASSERT_TRUE(trainer->LossAndGradient(tokens, kBatch, kSequence, kScale, nullptr).ok());
  const std::vector<float> gradient = ReadAll(*trainer, Vector::kGradients);

  for (const TensorInfo& tensor : trainer->tensors()) {
    const int64_t size = tensor.elements.size();
    const CounterRandom random(DeriveSeed(9, tensor.name));
    std::vector<double>& parameter = reference.parameters.at(tensor.name);
    const std::vector<double> kept = parameter;
    constexpr double kStep = 1e-5;
    double loss[2], expected_by_gradient = 0, norm = 0;
    for (const int side : {0, 1}) {
      for (int64_t i = 0; i < size; ++i) {
        parameter[i] = kept[i] + (side == 0 ? -kStep : kStep) * random.Normal(i);
      }
      loss[side] = reference.LossSum(tokens, kBatch, kSequence);
    }
    parameter = kept;
    for (int64_t i = 0; i < size; ++i) {
      const double g = gradient[tensor.elements.begin + i];
      expected_by_gradient += g * random.Normal(i);
      norm += g * g;
    }
    const double by_differences = kScale * (loss[1] - loss[0]) / (2 * kStep);
    EXPECT_GT(norm, 0) << tensor.name << " got no gradient";
    EXPECT_NEAR(by_differences, expected_by_gradient, 2e-5 * std::sqrt(norm) + 1e-7) << tensor.name;
  }
}

TEST_P(DecoderTest, AnnouncesEachTensorOnceWithItsFinalGradient) {
  const auto trainer = MakeTrainer(OptionsOf(GetParam()));
  const auto tokens = RandomTokens(5, kBatch * (kSequence + 1));
  for (const int pass : {1, 2}) {  // the second one adds to the first one's gradients
    std::map<int64_t, int> times;
    std::map<int64_t, std::vector<float>> at_callback;
    std::vector<int64_t> order;
    const auto loss = trainer->LossAndGradient(tokens, kBatch, kSequence, 1.0, [&](int64_t index) {
      ++times[index];
      order.push_back(index);
      const Range elements = trainer->tensors().at(index).elements;
      const float* flat = trainer->data(Vector::kGradients);
      at_callback[index] = {flat + elements.begin, flat + elements.end};
    });
    ASSERT_TRUE(loss.ok()) << loss.status();
    ASSERT_EQ(times.size(), trainer->tensors().size()) << "pass " << pass;
    const std::vector<float> final = ReadAll(*trainer, Vector::kGradients);
    for (const auto& [index, count] : times) {
      const TensorInfo& tensor = trainer->tensors()[index];
      EXPECT_EQ(count, 1) << tensor.name;
      EXPECT_EQ(at_callback[index], std::vector<float>(final.begin() + tensor.elements.begin,
                                                       final.begin() + tensor.elements.end))
          << tensor.name << " changed after it was announced";
    }
    // The point of announcing: the end of the vector is ready while the beginning is not.
    EXPECT_EQ(order.back(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, DecoderTest,
                         ::testing::Values(Variant{"untied", false, 2, false},
                                           Variant{"tied", true, 2, false},
                                           Variant{"one_key_for_all", false, 1, false},
                                           Variant{"a_key_for_each", false, 4, false},
                                           Variant{"checkpointed", false, 2, true},
                                           Variant{"tied_and_checkpointed", true, 2, true}),
                         [](const auto& info) { return info.param.name; });

std::vector<float> GradientOf(const TrainerOptions& options, int passes = 1) {
  const auto trainer = MakeTrainer(options);
  const auto tokens = RandomTokens(5, kBatch * (kSequence + 1));
  for (int i = 0; i < passes; ++i) {
    EXPECT_TRUE(trainer->LossAndGradient(tokens, kBatch, kSequence, 0.1, nullptr).ok());
  }
  return ReadAll(*trainer, Vector::kGradients);
}

TEST(Gradient, IsTheSameWithAndWithoutActivationCheckpointing) {
  for (const auto precision : {pb::Train::FP32, pb::Train::BF16}) {
    TrainerOptions options = TinyOptions();
    options.precision = precision;
    const std::vector<float> plain = GradientOf(options);
    options.activation_checkpointing = true;
    EXPECT_EQ(GradientOf(options), plain);
  }
}

TEST(Gradient, AccumulatesInTheFlatVectorUntilZeroed) {
  const std::vector<float> once = GradientOf(TinyOptions());
  const std::vector<float> twice = GradientOf(TinyOptions(), 2);
  for (size_t i = 0; i < once.size(); ++i) ASSERT_EQ(twice[i], 2 * once[i]) << i;
  const auto trainer = MakeTrainer(TinyOptions());
  const float* before = trainer->data(Vector::kGradients);
  const auto tokens = RandomTokens(5, kBatch * (kSequence + 1));
  ASSERT_TRUE(trainer->LossAndGradient(tokens, kBatch, kSequence, 0.1, nullptr).ok());
  EXPECT_EQ(trainer->data(Vector::kGradients), before);
  ASSERT_TRUE(trainer->ZeroGradients().ok());
  EXPECT_EQ(ReadAll(*trainer, Vector::kGradients), std::vector<float>(trainer->size()));
  ASSERT_TRUE(trainer->LossAndGradient(tokens, kBatch, kSequence, 0.1, nullptr).ok());
  EXPECT_EQ(ReadAll(*trainer, Vector::kGradients), once);
}

TEST(Gradient, OfMicroBatchesAddsUpToThatOfTheWholeBatch) {
  constexpr int64_t kWhole = 6;
  const auto tokens = RandomTokens(8, kWhole * (kSequence + 1));
  const auto whole = MakeTrainer(TinyOptions());
  const auto parts = MakeTrainer(TinyOptions());
  const double loss = *whole->LossAndGradient(tokens, kWhole, kSequence, 0.02, nullptr);
  double sum = 0;
  for (int64_t at = 0; at < kWhole; at += 2) {
    const std::span<const int32_t> micro(tokens.data() + at * (kSequence + 1), 2 * (kSequence + 1));
    sum += *parts->LossAndGradient(micro, 2, kSequence, 0.02, nullptr);
  }
  EXPECT_NEAR(loss, sum, 1e-6 * loss);
  const auto a = ReadAll(*whole, Vector::kGradients);
  const auto b = ReadAll(*parts, Vector::kGradients);
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-6) << i;
}

TEST(Gradient, LeavesThePaddingZero) {
  const auto trainer = MakeTrainer(TinyOptions());
  OwnAll(*trainer);
  const auto tokens = RandomTokens(5, kBatch * (kSequence + 1));
  ASSERT_TRUE(trainer->LossAndGradient(tokens, kBatch, kSequence, 1.0, nullptr).ok());
  ASSERT_TRUE(trainer->AdamW(Settings(1)).ok());
  for (const Vector kind :
       {Vector::kParameters, Vector::kGradients, Vector::kExpAvg, Vector::kExpAvgSq}) {
    std::vector<float> values = ReadAll(*trainer, kind);
    for (const TensorInfo& tensor : trainer->tensors()) {
      EXPECT_EQ(tensor.elements.begin % ATOLL_TENSOR_ALIGNMENT, 0);
      std::fill(values.begin() + tensor.elements.begin, values.begin() + tensor.elements.end, 0);
    }
    EXPECT_EQ(values, std::vector<float>(trainer->size()));
  }
}

TEST(Gradient, IsCloseInBf16) {
  TrainerOptions options = TinyOptions();
  const std::vector<float> exact = GradientOf(options);
  options.precision = pb::Train::BF16;
  const std::vector<float> rounded = GradientOf(options);
  EXPECT_NE(rounded, exact);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    difference += std::pow(double{exact[i]} - rounded[i], 2);
    norm += std::pow(double{exact[i]}, 2);
  }
  EXPECT_LT(std::sqrt(difference / norm), 0.05);
}

}  // namespace
}  // namespace atl
