// The manifest: one text for one content, and nothing else is read.
#include "checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_replace.h"
#include "base/exit_code.h"
#include "base/random.h"
#include "checkpoint/sha256.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

using testing::HasSubstr;

Manifest Sample() {
  Manifest manifest;
  manifest.description.round = 41;
  manifest.description.digest = "00ff";
  manifest.description.next_sample = 2624;
  manifest.description.inner_steps = 410;
  manifest.description.optimizer_updates = 399;
  manifest.description.region = "oslo";
  manifest.description.job = "kjv \"demo\"";
  manifest.description.model_yaml = "layers: 2\n";
  manifest.description.seed = ~uint64_t{0};
  manifest.tensors = {{"a", {2, 3}, {0, 6}}, {"b", {}, {256, 257}}};
  manifest.sections = {{"model", SectionClass::kReplicated},
                       {"optim/exp_avg", SectionClass::kRegional}};
  manifest.files = {
      {"model-00001-of-00001.safetensors", FileClass::kReplicated, 4124, std::string(64, 'a')},
      {"model.safetensors.index.json", FileClass::kReplicated, 99, std::string(64, 'b')},
      {"optim/exp_avg-00001-of-00001.safetensors", FileClass::kRegional, 4124,
       std::string(64, 'c')}};
  return manifest;
}

std::string Text(const Manifest& manifest) { return WriteManifest(manifest).value(); }

TEST(Manifest, HasThisText) {
  Manifest manifest = Sample();
  manifest.files.resize(1);
  manifest.files[0].bytes = 12;
  manifest.sections.resize(1);
  const std::string line =
      std::string(64, 'a') + " 12 replicated model-00001-of-00001.safetensors\n";
  const std::string expected = R"({
  "chunk_bytes": 4194304,
  "description": {
    "digest": "00ff",
    "inner_steps": 410,
    "job": "kjv \"demo\"",
    "model_yaml": "layers: 2\n",
    "next_sample": 2624,
    "optimizer_updates": 399,
    "region": "oslo",
    "round": 41,
    "seed": "18446744073709551615"
  },
  "files": [
    {"class": "replicated", "name": "model-00001-of-00001.safetensors", "root": "ROOT", "size": 12}
  ],
  "format": "atoll-checkpoint",
  "hash": "sha256",
  "manifest_sha256": "SELF",
  "replicated_root": "ALL",
  "root": "ALL",
  "sections": [
    {"class": "replicated", "prefix": "model"}
  ],
  "tensors": [
    {"name": "a", "offset": 0, "shape": [2, 3]},
    {"name": "b", "offset": 256, "shape": []}
  ],
  "version": 1
}
)";
  const std::string filled =
      absl::StrReplaceAll(expected, {{"ROOT", std::string(64, 'a')}, {"ALL", Sha256Hex(line)}});
  const std::string self = Sha256Hex(absl::StrReplaceAll(filled, {{"SELF", std::string(64, '0')}}));
  EXPECT_EQ(Text(manifest), absl::StrReplaceAll(filled, {{"SELF", self}}));
}

TEST(Manifest, IsReadBackAndWrittenTheSame) {
  const std::string text = Text(Sample());
  const auto manifest = ParseManifest(text);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(Text(*manifest), text);
  EXPECT_EQ(manifest->description.seed, ~uint64_t{0});
  EXPECT_EQ(manifest->tensors[1].elements, (Range{256, 257}));
  EXPECT_NE(RootOf(*manifest, true), RootOf(*manifest, false));
}

TEST(Manifest, KeepsSamplesThatComeAgain) {
  Manifest manifest = Sample();
  manifest.description.returned = {{5, 8}, {12, 13}};
  const std::string text = Text(manifest);
  EXPECT_THAT(text, HasSubstr("\"returned\": \"5-8 12-13\""));
  const auto read = ParseManifest(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->description.returned, manifest.description.returned);
  EXPECT_EQ(Text(*read), text);
  // Written as they are, for the reader to refuse.
  const std::vector<std::vector<Range>> wrong = {
      {{8, 5}}, {{5, 5}}, {{5, 8}, {7, 9}}, {{12, 13}, {5, 8}}, {{2600, 2625}}, {{-1, 3}}};
  for (const std::vector<Range>& ranges : wrong) {
    manifest.description.returned = ranges;
    EXPECT_THAT(ParseManifest(Text(manifest)).status().ToString(), HasSubstr("returned"));
  }
}

Manifest EncryptedSample() {
  Manifest manifest = Sample();
  manifest.encryption = ManifestEncryption{std::string(32, '1'), std::string(64, '2'),
                                           std::string(64, '3'), std::string(64, '4')};
  return manifest;
}

TEST(Manifest, SaysHowFilesAreEncrypted) {
  const std::string text = Text(EncryptedSample());
  EXPECT_THAT(text, HasSubstr("  },\n  \"encryption\": {\n    \"cipher\": \"aes-256-ctr\",\n"
                              "    \"key_id\": \"11111111111111111111111111111111\",\n"));
  EXPECT_THAT(text, HasSubstr("\"version\": 2\n}\n"));
  const auto read = ParseManifest(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(Text(*read), text);
  EXPECT_EQ(read->encryption->mac, std::string(64, '2'));
  // What the mac is of does not depend on itself, and on everything else.
  Manifest other = EncryptedSample();
  other.encryption->mac = std::string(64, '9');
  const std::string authenticated = ManifestTextToAuthenticate(EncryptedSample()).value();
  EXPECT_EQ(ManifestTextToAuthenticate(other).value(), authenticated);
  other.files[2].root[5] = 'd';
  EXPECT_NE(ManifestTextToAuthenticate(other).value(), authenticated);
}

// Refused by the rule itself, the text's own hash being right.
TEST(Manifest, RefusesOddEncryption) {
  const auto refusal = [](const std::function<void(ManifestEncryption&)>& change) {
    Manifest manifest = EncryptedSample();
    change(*manifest.encryption);
    const auto parsed = ParseManifest(Text(manifest));
    return parsed.ok() ? "accepted" : std::string(parsed.status().message());
  };
  const std::string upper(64, 'A'), cut(63, '1'), more(65, '1');
  for (const std::string& wrong : {upper, cut, more, std::string(), std::string(64, '\x7f')}) {
    EXPECT_THAT(refusal([&](auto& encryption) { encryption.key_id = wrong; }), HasSubstr("key_id"));
    EXPECT_THAT(refusal([&](auto& encryption) { encryption.mac = wrong; }), HasSubstr("mac"));
    EXPECT_THAT(refusal([&](auto& encryption) { encryption.regional_salt = wrong; }),
                HasSubstr("regional_salt"));
    EXPECT_THAT(refusal([&](auto& encryption) { encryption.replicated_salt = wrong; }),
                HasSubstr("replicated_salt"));
  }
  const std::string text = Text(EncryptedSample());
  const std::pair<std::string, std::string> changes[] = {
      {"aes-256-ctr", "none"},
      {"\"cipher\": \"aes-256-ctr\"", "\"cipher\": 3"},
      {"\"cipher\"", "\"cypher\""},
      {"\"encryption\"", "\"encryptions\""},
      {"\"version\": 2", "\"version\": 1"},
  };
  for (const auto& [from, to] : changes) {
    const std::string changed = absl::StrReplaceAll(text, {{from, to}});
    ASSERT_NE(changed, text);
    EXPECT_FALSE(ParseManifest(changed).ok()) << from;
  }
}

TEST(Manifest, RefusesAnyChangedByte) {
  const std::string text = Text(Sample());
  for (size_t i = 0; i < text.size(); ++i) {
    for (const char flip : {'\x01', '\x10', '\x80'}) {
      std::string changed = text;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      const auto manifest = ParseManifest(changed);
      ASSERT_FALSE(manifest.ok()) << i;
      ASSERT_EQ(ExitCodeOf(manifest.status()), ExitCode::kUsage);
    }
  }
  for (size_t length = 0; length < text.size(); ++length) {
    ASSERT_FALSE(ParseManifest(text.substr(0, length)).ok()) << length;
  }
}

// What the writer would say of a manifest with `from` in place of `to`, its own hash included, so
// that the rule itself must refuse it.
std::string Refusal(const std::string& from, const std::string& to) {
  const std::string text = Text(Sample());
  EXPECT_THAT(text, HasSubstr(from));
  const auto manifest = ParseManifest(absl::StrReplaceAll(text, {{from, to}}));
  return manifest.ok() ? "accepted" : std::string(manifest.status().message());
}

TEST(Manifest, NamesTheRuleThatIsBroken) {
  EXPECT_THAT(Refusal("\"version\": 1", "\"version\": 3"), HasSubstr("version is 3"));
  EXPECT_THAT(Refusal("\"version\": 1", "\"version\": 2"), HasSubstr("encryption"));
  EXPECT_THAT(Refusal("atoll-checkpoint", "other"), HasSubstr("not the manifest"));
  EXPECT_THAT(Refusal("\"sha256\"", "\"md5\""), HasSubstr("hash"));
  EXPECT_THAT(Refusal("4194304", "4194305"), HasSubstr("chunk_bytes"));
  EXPECT_THAT(Refusal("\"region\": \"oslo\"", "\"region\": \"oslo\", \"extra\": 1"),
              HasSubstr("unknown key"));
  EXPECT_THAT(Refusal("    \"region\": \"oslo\",\n", ""), HasSubstr("lacks the key \"region\""));
  EXPECT_THAT(Refusal("\"region\": \"oslo\"", "\"region\": 7"), HasSubstr("region"));
  EXPECT_THAT(Refusal("\"round\": 41", "\"round\": \"41\""), HasSubstr("round"));
  EXPECT_THAT(Refusal("\"round\": 41", "\"round\": -41"), HasSubstr("-41"));
  EXPECT_THAT(Refusal("\"round\": 41", "\"round\": 41.5"), HasSubstr("41.5"));
  EXPECT_THAT(Refusal("\"round\": 41", "\"round\": null"), HasSubstr("null"));
  EXPECT_THAT(Refusal("\"round\": 41", "\"round\": 9007199254740993"), HasSubstr("2^53"));
  EXPECT_THAT(Refusal("\"round\": 41", "\"round\": 41, \"round\": 41"), HasSubstr("twice"));
  EXPECT_THAT(Refusal("\"seed\": \"18446744073709551615\"", "\"seed\": \"18446744073709551616\""),
              HasSubstr("seed"));
  EXPECT_THAT(Refusal("\"shape\": [2, 3]", "\"shape\": [9007199254740992, 9007199254740992]"),
              HasSubstr("overflows"));
  EXPECT_THAT(Refusal("\"offset\": 256", "\"offset\": 3"), HasSubstr("overlap"));
  EXPECT_THAT(Refusal("\"name\": \"b\"", "\"name\": \"a\""), HasSubstr("twice"));
  EXPECT_THAT(Refusal("\"size\": 99", "\"size\": 98"), HasSubstr("hashes"));
  EXPECT_THAT(Refusal("\"size\": 99", "\"size\": 9007199254740992"), HasSubstr("together"));
  EXPECT_THAT(Refusal(std::string(64, 'a'), std::string(64, 'G')), HasSubstr("hexadecimal"));
  EXPECT_THAT(Refusal("\"class\": \"regional\", \"prefix\"", "\"class\": \"worker\", \"prefix\""),
              HasSubstr("single files"));
  EXPECT_THAT(Refusal("\"prefix\": \"model\"", "\"prefix\": \"other\""), HasSubstr("no files"));
}

TEST(Manifest, RefusesFileNamesThatLeaveTheCheckpoint) {
  for (const char* name : {"../../etc/passwd", "/etc/passwd", "outer/../../x", "..", "a\\\\b",
                           "x/y.json", "chunks/x", "MANIFEST.json", ".hidden", "a\\u0000b", ""}) {
    EXPECT_THAT(Refusal("model.safetensors.index.json", name),
                HasSubstr("is not one of a checkpoint"))
        << name;
  }
  EXPECT_THAT(Refusal("model.safetensors.index.json", "model-00001-of-00001.safetensors"),
              HasSubstr("twice"));
}

TEST(Manifest, CanNotBeWrittenWithWhatCouldNotBeReadBack) {
  Manifest manifest = Sample();
  manifest.description.job = "\xFF";
  EXPECT_THAT(WriteManifest(manifest).status().ToString(), HasSubstr("job"));
  manifest = Sample();
  manifest.description.next_sample = -1;
  EXPECT_THAT(WriteManifest(manifest).status().ToString(), HasSubstr("next_sample"));
}

TEST(Manifest, OutlivesMutations) {
  const std::string valid = Text(Sample());
  const CounterRandom random(20240608);
  uint64_t at = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string text = valid;
    const size_t place = random.Bits(at++) % text.size();
    switch (random.Bits(at++) % 4) {
      case 0:
        text[place] = static_cast<char>(random.Bits(at++));
        break;
      case 1:
        text.erase(place, 1 + random.Bits(at++) % 30);
        break;
      case 2:
        text.insert(place, 1, "{}[]\",:0123456789eE.-\\u \n"[random.Bits(at++) % 25]);
        break;
      default:
        text.insert(place, text.substr(random.Bits(at++) % text.size(), 60));
    }
    if (text == valid) continue;
    ASSERT_FALSE(ParseManifest(text).ok()) << text;
  }
}

}  // namespace
}  // namespace atl::checkpoint
