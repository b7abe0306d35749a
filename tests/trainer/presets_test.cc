// Shapes by name, and their published parameter counts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/exit_code.h"
#include "proto/model_presets.h"

namespace atl {
namespace {

using ::testing::HasSubstr;

pb::Model Preset(const std::string& name) {
  pb::Model model;
  model.set_preset(name);
  const auto resolved = ResolveModel(model, 0);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return resolved.ok() ? *resolved : pb::Model();
}

TEST(ModelPresets, CountTheParametersThatWerePublished) {
  const std::map<std::string, int64_t> published = {
      {"llama-60m", 58073600},          {"llama-130m", 134105856},    {"llama-350m", 367969280},
      {"llama-1b", 1100048384},         {"llama-3.2-1b", 1235814400}, {"llama-3.2-3b", 3212749824},
      {"llama-7b", 6738415616},         {"llama-3-8b", 8030261248},   {"llama-3-70b", 70553706496},
      {"llama-3.1-405b", 405853388800},
  };
  for (const auto& [name, count] : published) {
    EXPECT_EQ(ParameterCount(Preset(name)), count) << name;
  }
}

TEST(ModelPresets, AreSmallForTestsAndTheDemo) {
  EXPECT_NEAR(static_cast<double>(ParameterCount(Preset("test-1m"))), 1e6, 5e4);
  EXPECT_EQ(Preset("test-1m").vocab_size(), 256);
  for (const char* name : {"demo-2m", "demo-5m"}) {
    EXPECT_GT(ParameterCount(Preset(name)), 2000000) << name;
    EXPECT_LT(ParameterCount(Preset(name)), 6000000) << name;
  }
}

TEST(ModelPresets, AllResolveToThemselvesUnderNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const ModelPreset& preset : ModelPresets()) {
    EXPECT_TRUE(names.insert(preset.name).second) << preset.name;
    EXPECT_FALSE(preset.description.empty()) << preset.name;
    const auto again = ResolveModel(preset.model, 0);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->SerializeAsString(), preset.model.SerializeAsString()) << preset.name;
  }
}

TEST(ResolveModel, PutsSingleKeysOverThePreset) {
  pb::Model model;
  model.set_preset("test-1m");
  model.set_layers(2);
  model.set_rope_theta(500000);
  model.set_embedding(pb::Model::TIED);
  const auto resolved = ResolveModel(model, 0);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->layers(), 2);
  EXPECT_EQ(resolved->rope_theta(), 500000);
  EXPECT_EQ(resolved->embedding(), pb::Model::TIED);
  EXPECT_EQ(resolved->hidden_size(), 128);
  EXPECT_LT(ParameterCount(*resolved), ParameterCount(Preset("test-1m")));
}

TEST(ResolveModel, RaisesTheVocabularyToTheDatas) {
  pb::Model model;
  model.set_preset("test-1m");
  EXPECT_EQ(ResolveModel(model, 100)->vocab_size(), 256);
  EXPECT_EQ(ResolveModel(model, 32000)->vocab_size(), 32000);
  model.set_vocab_size(300);
  EXPECT_EQ(ResolveModel(model, 256)->vocab_size(), 300);
}

TEST(ResolveModel, TakesAModelWithoutPresetWhoseDimensionsAreAllGiven) {
  pb::Model model;
  model.set_hidden_size(64);
  model.set_intermediate_size(128);
  model.set_layers(2);
  model.set_heads(4);
  const auto resolved = ResolveModel(model, 256);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->kv_heads(), 4);
  EXPECT_EQ(resolved->vocab_size(), 256);
  EXPECT_EQ(resolved->embedding(), pb::Model::UNTIED);
  model.clear_layers();
  EXPECT_THAT(ResolveModel(model, 256).status().ToString(), HasSubstr("model.layers"));
}

TEST(ResolveModel, NamesThePresetNearestToAnUnknownOne) {
  pb::Model model;
  model.set_preset("lama-3-8b");
  const Status status = ResolveModel(model, 0).status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage);
  EXPECT_THAT(status.ToString(), HasSubstr("did you mean 'llama-3-8b'"));
  EXPECT_THAT(status.ToString(), HasSubstr("test-1m"));
  model.set_preset(std::string(1 << 20, 'x'));
  EXPECT_LT(ResolveModel(model, 0).status().ToString().size(), 1000);
}

TEST(ResolveModel, NamesTheKeyWhoseDimensionDoesNotFit) {
  pb::Model model;
  model.set_preset("test-1m");
  model.set_heads(3);
  EXPECT_THAT(ResolveModel(model, 0).status().ToString(), HasSubstr("model.heads: 3"));
  model.set_heads(128);  // one number a head: no pair to turn
  EXPECT_THAT(ResolveModel(model, 0).status().ToString(), HasSubstr("must be even"));
  model.set_heads(4);
  model.set_kv_heads(3);
  EXPECT_THAT(ResolveModel(model, 0).status().ToString(), HasSubstr("model.kv_heads: 3"));
  model.set_kv_heads(-1);
  EXPECT_THAT(ResolveModel(model, 0).status().ToString(), HasSubstr("model.kv_heads is -1"));
  model.set_kv_heads(2);
  model.set_norm_epsilon(-1);
  EXPECT_THAT(ResolveModel(model, 0).status().ToString(), HasSubstr("model.norm_epsilon"));
}

// Chowdhery et al. 2022: 6 N + 12 L H Q T, with H Q = hidden_size. The embedding's rows are looked
// up, not multiplied.
TEST(TrainFlopsPerToken, FollowsTheFormula) {
  const pb::Model model = Preset("llama-7b");
  EXPECT_DOUBLE_EQ(TrainFlopsPerToken(model, 2048),
                   6.0 * (6738415616.0 - 32000.0 * 4096.0) + 12.0 * 32 * 4096 * 2048);
  const pb::Model tied = Preset("llama-3.2-1b");
  EXPECT_DOUBLE_EQ(TrainFlopsPerToken(tied, 8192), 6.0 * 1235814400.0 + 12.0 * 16 * 2048 * 8192);
}

}  // namespace
}  // namespace atl
