// Shards, optimizer, repeatability and errors of the trainer, through trainer.h.
#include "worker/trainer/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "base/exit_code.h"
#include "collectives/buffer.h"
#include "proto/model_presets.h"
#include "tests/trainer/tiny_trainer.h"

namespace atl {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kBatch = 2;
constexpr int64_t kSequence = 9;

// Some steps of training on random tokens; the parameters afterwards.
std::vector<float> Train(const TrainerOptions& options, int64_t steps) {
  const auto trainer = MakeTrainer(options);
  OwnAll(*trainer);
  for (int64_t step = 1; step <= steps; ++step) {
    const auto tokens = RandomTokens(step, kBatch * (kSequence + 1));
    EXPECT_TRUE(trainer->ZeroGradients().ok());
    EXPECT_TRUE(trainer->LossAndGradient(tokens, kBatch, kSequence, 0.05, [](int64_t) {}).ok());
    EXPECT_TRUE(trainer->AdamW(Settings(step)).ok());
  }
  return ReadAll(*trainer, Vector::kParameters);
}

TEST(Trainer, ListsHuggingFacesNamesAndShapesInForwardOrder) {
  const auto trainer = MakeTrainer(TinyOptions());
  const auto& tensors = trainer->tensors();
  ASSERT_EQ(tensors.size(), 1 + 2 * 9 + 2);
  const std::vector<std::string> expected = {"model.embed_tokens.weight",
                                             "model.layers.0.input_layernorm.weight",
                                             "model.layers.0.self_attn.q_proj.weight",
                                             "model.layers.0.self_attn.k_proj.weight",
                                             "model.layers.0.self_attn.v_proj.weight",
                                             "model.layers.0.self_attn.o_proj.weight",
                                             "model.layers.0.post_attention_layernorm.weight",
                                             "model.layers.0.mlp.gate_proj.weight",
                                             "model.layers.0.mlp.up_proj.weight",
                                             "model.layers.0.mlp.down_proj.weight"};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(tensors[i].name, expected[i]);
  EXPECT_EQ(tensors.back().name, "lm_head.weight");
  EXPECT_EQ(tensors[tensors.size() - 2].name, "model.norm.weight");
  EXPECT_EQ(tensors[3].shape, (std::vector<int64_t>{12, 24}));  // k_proj: 2 heads of 6
  EXPECT_EQ(tensors[9].shape, (std::vector<int64_t>{24, 40}));
  EXPECT_EQ(trainer->parameter_count(), ParameterCount(TinyOptions().model));
  EXPECT_EQ(trainer->size() % ATOLL_TENSOR_ALIGNMENT, 0);
  EXPECT_THAT(trainer->version(), HasSubstr("libtorch"));
  EXPECT_FALSE(trainer->on_device());

  TrainerOptions tied = TinyOptions();
  tied.model.set_embedding(pb::Model::TIED);
  EXPECT_EQ(MakeTrainer(tied)->tensors().back().name, "model.norm.weight");
  EXPECT_EQ(MakeTrainer(tied)->parameter_count(), ParameterCount(tied.model));
}

TEST(Trainer, GivesTheSameBitsInEveryRun) {
  EXPECT_EQ(Train(TinyOptions(), 5), Train(TinyOptions(), 5));
}

// Placed before training, in the middle of it, and twice: what the vectors hold moves with them,
// and every gradient is announced.
TEST(Trainer, GivesTheSameBitsWithItsVectorsInMemoryFromElsewhere) {
  const std::vector<float> expected = Train(TinyOptions(), 6);
  const auto size = static_cast<int64_t>(expected.size());
  std::vector<Buffer> buffers;
  for (int i = 0; i < 4; ++i) buffers.push_back(Buffer::Ordinary(size).value());
  const auto trainer = MakeTrainer(TinyOptions());
  ASSERT_TRUE(trainer->placeable());
  OwnAll(*trainer);
  const auto place = [&](Vector vector, int buffer) {
    const std::vector<float> before = ReadAll(*trainer, vector);
    ASSERT_TRUE(trainer->Place(vector, buffers[buffer].data()).ok());
    EXPECT_EQ(trainer->data(vector), buffers[buffer].data());
    EXPECT_EQ(ReadAll(*trainer, vector), before);
  };
  for (int64_t step = 1; step <= 6; ++step) {
    if (step == 1) place(Vector::kParameters, 0);
    const auto tokens = RandomTokens(step, kBatch * (kSequence + 1));
    EXPECT_TRUE(trainer->ZeroGradients().ok());
    size_t announced = 0;
    EXPECT_TRUE(
        trainer->LossAndGradient(tokens, kBatch, kSequence, 0.05, [&](int64_t) { ++announced; })
            .ok());
    EXPECT_EQ(announced, trainer->tensors().size());
    if (step == 2) place(Vector::kGradients, 1);  // not zero
    if (step == 4) place(Vector::kGradients, 2);
    if (step == 4) place(Vector::kParameters, 3);
    EXPECT_TRUE(trainer->AdamW(Settings(step)).ok());
  }
  EXPECT_EQ(std::vector<float>(buffers[3].data(), buffers[3].data() + size), expected);
  EXPECT_THAT(trainer->Place(Vector::kExpAvg, buffers[0].data()).ToString(),
              HasSubstr("only a flat vector"));
  EXPECT_FALSE(trainer->Place(Vector::kGradients, nullptr).ok());
}

TEST(Trainer, WorksBesideAnotherOneOnAnotherThread) {
  TrainerOptions checkpointed = TinyOptions();
  checkpointed.activation_checkpointing = true;
  const std::vector<float> expected = Train(TinyOptions(), 8);
  std::vector<float> results[3];
  std::vector<std::thread> threads;
  for (auto& result : results) {
    const bool last = &result == &results[2];
    threads.emplace_back([&, last] { result = Train(last ? checkpointed : TinyOptions(), 8); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(Trainer, LosesLossWhenItOverfitsATinyBatch) {
  const auto trainer = MakeTrainer(TinyOptions());
  OwnAll(*trainer);
  const auto tokens = RandomTokens(3, kBatch * (kSequence + 1));
  const double first = *trainer->Loss(tokens, kBatch, kSequence);
  for (int64_t step = 1; step <= 60; ++step) {
    ASSERT_TRUE(trainer->ZeroGradients().ok());
    ASSERT_TRUE(trainer->LossAndGradient(tokens, kBatch, kSequence, 1.0 / 18, nullptr).ok());
    ASSERT_TRUE(trainer->AdamW(Settings(step)).ok());
  }
  EXPECT_LT(*trainer->Loss(tokens, kBatch, kSequence), 0.1 * first);
}

// Ranges of worker `worker` of `workers`: some on either side of a cut inside a tensor.
std::vector<Range> Shard(int64_t size, int worker, int workers) {
  const int64_t grid = ATOLL_TENSOR_ALIGNMENT;
  const int64_t middle = size / 2 / grid * grid;
  std::vector<Range> ranges;
  for (const Range half : {Range{0, middle}, Range{middle, size}}) {
    const int64_t blocks = half.size() / grid;
    ranges.push_back({half.begin + blocks * worker / workers * grid,
                      half.begin + blocks * (worker + 1) / workers * grid});
  }
  return ranges;
}

TEST(Trainer, UpdatesOnlyTheShardItOwnsAndTheShardsMakeTheWhole) {
  constexpr int kWorkers = 3;
  const auto tokens = RandomTokens(3, kBatch * (kSequence + 1));
  const std::vector<float> whole = Train(TinyOptions(), 1);
  const std::vector<float> before = ReadAll(*MakeTrainer(TinyOptions()), Vector::kParameters);
  std::vector<float> joined = before;
  int64_t bytes = 0;
  for (int worker = 0; worker < kWorkers; ++worker) {
    const auto trainer = MakeTrainer(TinyOptions());
    const std::vector<Range> shard = Shard(trainer->size(), worker, kWorkers);
    ASSERT_TRUE(trainer->Own(shard).ok());
    const auto first = RandomTokens(1, kBatch * (kSequence + 1));
    ASSERT_TRUE(trainer->LossAndGradient(first, kBatch, kSequence, 0.05, nullptr).ok());
    ASSERT_TRUE(trainer->AdamW(Settings(1)).ok());
    const std::vector<float> after = ReadAll(*trainer, Vector::kParameters);
    std::vector<float> outside = after;
    int64_t owned = 0;
    for (const Range& range : shard) {
      std::copy(after.begin() + range.begin, after.begin() + range.end,
                joined.begin() + range.begin);
      std::copy(before.begin() + range.begin, before.begin() + range.end,
                outside.begin() + range.begin);
      owned += range.size();
    }
    EXPECT_EQ(outside, before) << "worker " << worker << " touched what it does not own";
    EXPECT_EQ(trainer->optimizer_bytes(), owned * 2 * static_cast<int64_t>(sizeof(float)));
    bytes += trainer->optimizer_bytes();
  }
  EXPECT_EQ(joined, whole);
  EXPECT_EQ(bytes, static_cast<int64_t>(whole.size() * 2 * sizeof(float)));
}

TEST(Trainer, HoldsOptimizerBytesThatFallAsOneOverWorkers) {
  TrainerOptions options = TinyOptions();
  options.model.set_hidden_size(96);
  options.model.set_intermediate_size(256);
  const auto trainer = MakeTrainer(options);
  OwnAll(*trainer);
  const auto all = static_cast<double>(trainer->optimizer_bytes());
  for (const int workers : {2, 4, 8}) {
    ASSERT_TRUE(trainer->Own(Shard(trainer->size(), workers - 1, workers)).ok());
    EXPECT_NEAR(static_cast<double>(trainer->optimizer_bytes()) * workers / all, 1.0, 0.02);
  }
  ASSERT_TRUE(trainer->Own({}).ok());
  EXPECT_EQ(trainer->optimizer_bytes(), 0);
  EXPECT_TRUE(trainer->AdamW(Settings(1)).ok());  // a worker without lanes updates nothing
}

TEST(Trainer, ContinuesFromMomentsThatWereReadAndWritten) {
  const auto tokens = RandomTokens(3, kBatch * (kSequence + 1));
  const auto one = MakeTrainer(TinyOptions());
  const auto other = MakeTrainer(TinyOptions(), /*seed=*/2);
  OwnAll(*one);
  OwnAll(*other);
  ASSERT_TRUE(one->LossAndGradient(tokens, kBatch, kSequence, 0.05, nullptr).ok());
  ASSERT_TRUE(one->AdamW(Settings(1)).ok());
  for (const Vector kind :
       {Vector::kParameters, Vector::kGradients, Vector::kExpAvg, Vector::kExpAvgSq}) {
    ASSERT_TRUE(other->Write(kind, 0, ReadAll(*one, kind)).ok());
  }
  ASSERT_TRUE(one->AdamW(Settings(2)).ok());
  ASSERT_TRUE(other->AdamW(Settings(2)).ok());
  EXPECT_EQ(ReadAll(*one, Vector::kParameters), ReadAll(*other, Vector::kParameters));
}

TEST(Trainer, DecaysMatricesAndNotNorms) {
  const auto trainer = MakeTrainer(TinyOptions());
  OwnAll(*trainer);
  const std::vector<float> before = ReadAll(*trainer, Vector::kParameters);
  ASSERT_TRUE(trainer->AdamW(Settings(1)).ok());  // gradients are zero: decay alone
  const std::vector<float> after = ReadAll(*trainer, Vector::kParameters);
  for (const TensorInfo& tensor : trainer->tensors()) {
    const int64_t at = tensor.elements.begin;
    const double factor = tensor.shape.size() >= 2 ? 1 - 1e-2 * 0.1 : 1.0;
    EXPECT_NEAR(after[at], before[at] * factor, 1e-7) << tensor.name;
  }
}

TEST(Trainer, SumsTheSquaresOfASliceOfTheGradients) {
  const auto trainer = MakeTrainer(TinyOptions());
  const auto tokens = RandomTokens(3, kBatch * (kSequence + 1));
  ASSERT_TRUE(trainer->LossAndGradient(tokens, kBatch, kSequence, 0.05, nullptr).ok());
  const std::vector<float> gradient = ReadAll(*trainer, Vector::kGradients);
  double sum = 0;
  for (int64_t i = 256; i < 1280; ++i) sum += double{gradient[i]} * gradient[i];
  EXPECT_GT(sum, 0);
  EXPECT_NEAR(*trainer->GradientSquareSum(256, 1024), sum, 1e-12 * sum);
  EXPECT_FALSE(trainer->GradientSquareSum(0, trainer->size() + 1).ok());
}

TEST(InitializeParameters, IsAFunctionOfSeedAndTensorName) {
  TrainerOptions deep = TinyOptions();
  const auto a = MakeTrainer(deep);
  const auto b = MakeTrainer(deep, /*seed=*/99);
  ASSERT_TRUE(InitializeParameters(*a, 7, 2).ok());
  ASSERT_TRUE(InitializeParameters(*b, 7, 2).ok());
  EXPECT_EQ(ReadAll(*a, Vector::kParameters), ReadAll(*b, Vector::kParameters));
  ASSERT_TRUE(InitializeParameters(*b, 8, 2).ok());
  EXPECT_NE(ReadAll(*a, Vector::kParameters), ReadAll(*b, Vector::kParameters));

  // A tensor of the same name and size gets the same values in a model of other depth.
  deep.model.set_layers(1);
  const auto shallow = MakeTrainer(deep);
  ASSERT_TRUE(InitializeParameters(*shallow, 7, 2).ok());
  const Range in_a = a->tensors().back().elements;
  const Range in_shallow = shallow->tensors().back().elements;
  ASSERT_NE(in_a.begin, in_shallow.begin);
  const std::vector<float> x = ReadAll(*a, Vector::kParameters);
  const std::vector<float> y = ReadAll(*shallow, Vector::kParameters);
  EXPECT_TRUE(
      std::equal(x.begin() + in_a.begin, x.begin() + in_a.end, y.begin() + in_shallow.begin));
}

// Large enough to be shared among threads.
TEST(InitializeParameters, FillsALargeTensorFromOneStream) {
  TrainerOptions options = TinyOptions();
  options.model.set_vocab_size(30000);  // 720,000 elements
  const auto trainer = MakeTrainer(options);
  ASSERT_TRUE(InitializeParameters(*trainer, 7, 2).ok());
  const std::vector<float> flat = ReadAll(*trainer, Vector::kParameters);
  const CounterRandom random(DeriveSeed(7, "init:model.embed_tokens.weight"));
  for (int64_t i = 0; i < 720000; ++i) {
    ASSERT_EQ(flat[i], static_cast<float>(0.02 * random.Normal(i))) << i;
  }
}

TEST(InitializeParameters, SpreadsMatricesAndSetsNormsToOne) {
  TrainerOptions options = TinyOptions();
  options.model.set_hidden_size(128);
  options.model.set_intermediate_size(160);
  const auto trainer = MakeTrainer(options);
  ASSERT_TRUE(InitializeParameters(*trainer, 7, 2).ok());
  const std::vector<float> flat = ReadAll(*trainer, Vector::kParameters);
  for (const TensorInfo& tensor : trainer->tensors()) {
    double sum = 0, squares = 0;
    for (int64_t i = tensor.elements.begin; i < tensor.elements.end; ++i) {
      sum += flat[i];
      squares += double{flat[i]} * flat[i];
    }
    const auto count = static_cast<double>(tensor.elements.size());
    if (tensor.shape.size() == 1) {
      EXPECT_EQ(sum, count) << tensor.name;
      continue;
    }
    const bool output =
        tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight");
    const double deviation = output ? 0.02 / std::sqrt(2.0 * 2) : 0.02;
    EXPECT_NEAR(std::sqrt(squares / count), deviation, 0.05 * deviation) << tensor.name;
    EXPECT_NEAR(sum / count, 0, 4 * deviation / std::sqrt(count)) << tensor.name;
  }
}

TEST(Trainer, RefusesTokensOutsideTheVocabularyAndGoesOn) {
  const auto trainer = MakeTrainer(TinyOptions());
  auto tokens = RandomTokens(3, kBatch * (kSequence + 1));
  const double loss = *trainer->Loss(tokens, kBatch, kSequence);
  for (const int32_t bad : {-1, static_cast<int32_t>(kVocabulary), INT32_MAX}) {
    auto spoiled = tokens;
    spoiled[4] = bad;
    const auto result = trainer->LossAndGradient(
        spoiled, kBatch, kSequence, 1.0, [](int64_t) { ADD_FAILURE() << "no gradient is ready"; });
    EXPECT_THAT(result.status().ToString(), HasSubstr("at place 4 is outside the vocabulary"));
  }
  EXPECT_EQ(*trainer->Loss(tokens, kBatch, kSequence), loss);
  EXPECT_EQ(ReadAll(*trainer, Vector::kGradients), std::vector<float>(trainer->size()));
}

TEST(Trainer, RefusesSizesThatDoNotFit) {
  const auto trainer = MakeTrainer(TinyOptions());
  const auto tokens = RandomTokens(3, kBatch * (kSequence + 1));
  EXPECT_FALSE(trainer->Loss(tokens, kBatch, kSequence + 1).ok());
  EXPECT_FALSE(trainer->Loss(tokens, 0, kSequence).ok());
  EXPECT_FALSE(trainer->Loss({}, 0, 0).ok());
  std::vector<float> out(tokens.size() * kVocabulary - 1);
  EXPECT_FALSE(trainer->Logits(tokens, kBatch, kSequence + 1, out).ok());
  std::vector<float> host(10);
  EXPECT_FALSE(trainer->Read(Vector::kParameters, trainer->size() - 9, host).ok());
  EXPECT_FALSE(trainer->Read(Vector::kParameters, -1, host).ok());
  EXPECT_FALSE(trainer->Write(Vector::kExpAvg, 0, host).ok());  // no shard, no moments
  EXPECT_FALSE(trainer->AdamW(Settings(1)).ok());
  const std::vector<Range> overlapping = {{0, 512}, {256, 1024}};
  EXPECT_FALSE(trainer->Own(overlapping).ok());
  const std::vector<Range> beyond = {{0, trainer->size() + 256}};
  EXPECT_FALSE(trainer->Own(beyond).ok());
  OwnAll(*trainer);
  EXPECT_FALSE(trainer->AdamW(Settings(0)).ok());
}

TEST(Trainer, RefusesAModelThatCannotBe) {
  TrainerOptions options = TinyOptions();
  options.model.set_kv_heads(3);
  EXPECT_THAT(Trainer::Create(options).status().ToString(),
              HasSubstr("model.kv_heads must divide model.heads"));
  options = TinyOptions();
  options.model.set_layers(0);
  EXPECT_THAT(Trainer::Create(options).status().ToString(), HasSubstr("model.layers is 0"));
}

}  // namespace
}  // namespace atl
