// The job file when it is wrong: each class of mistake ends with exit code 2 and a message that
// says where (file, line, column, or the --set), which key, and what was expected.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/exit_code.h"
#include "base/random.h"
#include "proto/job_file.h"

namespace atl {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

constexpr char kSmall[] = "data: {tokens: t.bin}\n";

// The message of a text that must be refused.
std::string Refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
  const auto job = ParseJob(text, "job.yaml", "/jobs", overrides);
  EXPECT_FALSE(job.ok()) << text;
  EXPECT_EQ(ExitCodeOf(job.status()), ExitCode::kUsage) << job.status();
  return std::string(job.status().message());
}

// A refusal of `line` on its own after kSmall, that is, on line 2.
std::string RefusalOfLine(const std::string& line) { return Refusal(kSmall + line + "\n"); }

TEST(JobFileErrors, AnUnknownKeyHasItsPlaceAndTheNearestRightOne) {
  EXPECT_EQ(Refusal("data: {tokens: t}\ntrain:\n  rounds: 5\n  inner_step: 10\n"),
            "job.yaml:4:3: unknown key 'train.inner_step'; did you mean 'train.inner_steps'?");
  EXPECT_EQ(RefusalOfLine("trian: {rounds: 5}"),
            "job.yaml:2:1: unknown key 'trian'; did you mean 'train'?");
  EXPECT_EQ(RefusalOfLine("train: {innerSteps: 5}"),
            "job.yaml:2:9: unknown key 'train.innerSteps'; did you mean 'train.inner_steps'?");
}

TEST(JobFileErrors, ALeaseIsStrict) {
  const auto refusal = [](const std::string& lease) {
    return RefusalOfLine(absl::StrCat("regions: [{name: a, lease: {", lease, "}}]"));
  };
  for (const char* time : {"tomorrow", "2026-11-30", "2026-11-30T18:00:00", "infinite-future",
                           "'2026-13-30T18:00:00Z'", "1926-11-30T18:00:00Z"}) {
    EXPECT_THAT(refusal(absl::StrCat("end: ", time)),
                HasSubstr("is not a time such as 2026-11-30T18:00:00Z"))
        << time;
  }
  for (const char* price :
       {"free", "0", "-3", "31.2 $", "31.2 usd", "1e400", "nan", "31.2 USD x"}) {
    EXPECT_THAT(refusal(absl::StrCat("price: ", price)),
                HasSubstr("is not a price such as 31.2 or 31.2 USD"))
        << price;
  }
  EXPECT_THAT(refusal("ends: x"), HasSubstr("did you mean 'regions[0].lease.end'?"));
  EXPECT_THAT(refusal("lead: 30"), HasSubstr("is not a duration"));
  EXPECT_THAT(refusal("lead: 30m"), HasSubstr("a lead without an `end`"));
  EXPECT_THAT(refusal("start: 2026-11-30T18:00:00Z, end: 2026-11-30T18:20:00Z, lead: 30m"),
              HasSubstr("regions[0].lease.end: not after the lease's start, or not after `lead`"));
  EXPECT_THAT(RefusalOfLine("regions: [{name: a, lease: {price: 1 USD}}, {name: b, lease: {price: "
                            "1 EUR}}]"),
              HasSubstr("regions[1].lease.price: not in the currency"));
}

TEST(JobFileErrors, WhatIsCountedMustBeWhatTheKeyCounts) {
  EXPECT_EQ(RefusalOfLine("checkpoint: {every: 10 regions}"),
            "job.yaml:2:21: checkpoint.every: '10 regions' is not a whole number such as 100, 10M "
            "or 10 rounds");
  EXPECT_THAT(RefusalOfLine("checkpoint: {every: rounds}"),
              HasSubstr("'rounds' is not a whole number"));
  EXPECT_THAT(RefusalOfLine("checkpoint: {keep: 3 rounds}"),
              HasSubstr("'3 rounds' is not a whole number"));
}

TEST(JobFileErrors, AKeyInTheWrongSectionIsFoundInTheRightOne) {
  EXPECT_EQ(RefusalOfLine("rounds: 5"),
            "job.yaml:2:1: unknown key 'rounds'; did you mean 'train.rounds'?");
  EXPECT_EQ(RefusalOfLine("model: {outer_momentum: 0.5}"),
            "job.yaml:2:9: unknown key 'model.outer_momentum'; did you mean "
            "'sync.outer_momentum'?");
}

TEST(JobFileErrors, AKeyLikeNoOtherGetsTheListOfKeys) {
  EXPECT_EQ(RefusalOfLine("checkpoint: {zzzzzzzz: 1}"),
            "job.yaml:2:14: unknown key 'checkpoint.zzzzzzzz'; the keys here are: every, keep, "
            "keep_every, replicas, inner_state, push_to, serve");
}

TEST(JobFileErrors, AKeyGivenTwiceIsRefused) {
  EXPECT_EQ(Refusal("data: {tokens: t}\ntrain:\n  rounds: 5\n  rounds: 6\n"),
            "job.yaml:4:3: duplicate key 'train.rounds'; it is already on line 3");
  EXPECT_EQ(Refusal("data: {tokens: t}\ndata: {tokens: u}\n"),
            "job.yaml:2:1: duplicate key 'data'; it is already on line 1");
}

TEST(JobFileErrors, AnIllTypedValueSaysWhatWasExpected) {
  EXPECT_EQ(RefusalOfLine("train: {rounds: many}"),
            "job.yaml:2:17: train.rounds: 'many' is not a whole number such as 100, 52.4e9 or 10M");
  EXPECT_EQ(RefusalOfLine("train: {rounds: 1.5}"),
            "job.yaml:2:17: train.rounds: '1.5' is not a whole number such as 100, 52.4e9 or 10M");
  EXPECT_EQ(RefusalOfLine("train: {rounds: \"5\"}"),
            "job.yaml:2:17: train.rounds: '5' is not a whole number such as 100, 52.4e9 or 10M");
  EXPECT_EQ(
      RefusalOfLine("train: {bucket_bytes: 4 parsecs}"),
      "job.yaml:2:23: train.bucket_bytes: '4 parsecs' is not a size such as 4096, 64MiB, 2GiB "
      "or 5GB");
  EXPECT_EQ(RefusalOfLine("train: {learning_rate: fast}"),
            "job.yaml:2:24: train.learning_rate: 'fast' is not a number such as 0.1 or 1e-3");
  EXPECT_EQ(RefusalOfLine("seed: -1"),
            "job.yaml:2:7: seed: '-1' is not a whole number from 0 to 18446744073709551615");
  EXPECT_EQ(RefusalOfLine("seed: 18446744073709551616"),
            "job.yaml:2:7: seed: '18446744073709551616' is not a whole number from 0 to "
            "18446744073709551615");
}

TEST(JobFileErrors, BooleansAreTrueAndFalseOnly) {
  for (const char* word : {"yes", "on", "True", "1", "\"true\""}) {
    EXPECT_THAT(RefusalOfLine(absl::StrCat("sync: {nesterov: ", word, "}")),
                testing::AllOf(StartsWith("job.yaml:2:18: sync.nesterov: '"),
                               EndsWith("' is not true or false")));
  }
}

TEST(JobFileErrors, AWrongChoiceGetsTheListAndTheNearest) {
  EXPECT_EQ(RefusalOfLine("sync: {method: dilocko}"),
            "job.yaml:2:16: sync.method: 'dilocko' is not one of diloco, every_step; did you mean "
            "'diloco'?");
  EXPECT_EQ(RefusalOfLine("sync: {method: DILOCO}"),
            "job.yaml:2:16: sync.method: 'DILOCO' is not one of diloco, every_step; did you mean "
            "'diloco'?");
  EXPECT_EQ(
      RefusalOfLine("train: {device: tpu}"),
      "job.yaml:2:17: train.device: 'tpu' is not one of best, cpu, cuda; did you mean 'cpu'?");
}

TEST(JobFileErrors, BoundsAreNamedInTheUnitOfTheKey) {
  EXPECT_EQ(RefusalOfLine("train: {rounds: 0}"),
            "job.yaml:2:17: train.rounds: 0 is too small; the smallest is 1");
  EXPECT_EQ(RefusalOfLine("train: {rounds: -3}"),
            "job.yaml:2:17: train.rounds: -3 is too small; the smallest is 1");
  EXPECT_EQ(RefusalOfLine("train: {rounds: 2T}"),
            "job.yaml:2:17: train.rounds: 2e12 is too large; the largest is 1e12");
  EXPECT_EQ(RefusalOfLine("sync: {chunk_bytes: 64MiB}"),
            "job.yaml:2:21: sync.chunk_bytes: 64MiB is too large; the largest is 4MiB");
  EXPECT_EQ(RefusalOfLine("train: {beta1: 1.5}"),
            "job.yaml:2:16: train.beta1: 1.5 is too large; the largest is 0.999999");
}

TEST(JobFileErrors, WhatHoldsOfInnerStepsNeedsSome) {
  EXPECT_EQ(RefusalOfLine("sync: {method: every_step, slow: {policy: share}}"),
            "job.yaml:2:43: sync.slow.policy: with sync.method every_step a round is one step, so "
            "the others can only wait for a slow region");
}

TEST(JobFileErrors, NumbersThatAreNoneOrTooLargeForAnyAreRefused) {
  for (const char* number :
       {".nan", "nan", ".inf", "-.inf", "inf", "1e999", "0x10", "1e", "--1", "1,5", "+"}) {
    EXPECT_EQ(Refusal(absl::StrCat(kSmall, "train:\n  learning_rate: ", number, "\n")),
              absl::StrCat("job.yaml:3:18: train.learning_rate: '", number,
                           "' is not a number such as 0.1 or 1e-3"));
  }
  for (const char* number : {"1e300", "99999999999999999999", "1e999", ".nan"}) {
    EXPECT_EQ(Refusal(absl::StrCat(kSmall, "train:\n  rounds: ", number, "\n")),
              absl::StrCat("job.yaml:3:11: train.rounds: '", number,
                           "' is not a whole number such as 100, 52.4e9 or 10M"));
  }
}

TEST(JobFileErrors, AValueOfTheWrongShapeIsRefused) {
  EXPECT_EQ(
      RefusalOfLine("train: {rounds: [1, 2]}"),
      "job.yaml:2:17: train.rounds: expected a whole number such as 100, 52.4e9 or 10M; found "
      "a list");
  EXPECT_EQ(
      RefusalOfLine("train: {rounds: {a: 1}}"),
      "job.yaml:2:17: train.rounds: expected a whole number such as 100, 52.4e9 or 10M; found "
      "a section");
  EXPECT_EQ(RefusalOfLine("checkpoint: 5"),
            "job.yaml:2:13: checkpoint: expected a section with keys (every, keep, keep_every, "
            "replicas, inner_state, push_to, serve); found '5'");
  EXPECT_EQ(RefusalOfLine("name:"), "job.yaml:2:1: name: expected a text; found nothing");
  EXPECT_EQ(RefusalOfLine("regions: johor"),
            "job.yaml:2:10: regions: expected a list such as [a, b]; found 'johor'");
  EXPECT_EQ(RefusalOfLine("regions: [[a]]"),
            "job.yaml:2:11: regions[0]: expected keys (name, lease, serve); found a list");
  EXPECT_EQ(RefusalOfLine("regions: [{nmae: a}]"),
            "job.yaml:2:12: unknown key 'regions[0].nmae'; did you mean 'regions[0].name'?");
}

TEST(JobFileErrors, AllMistakesOfAFileAreNamedAtOnce) {
  EXPECT_EQ(Refusal("nmae: x\ntrain:\n  rounds: 0\n  beta1: x\n", {"sync.codec=fp31"}),
            "job.yaml:1:1: unknown key 'nmae'; did you mean 'name'?\n"
            "job.yaml:3:11: train.rounds: 0 is too small; the smallest is 1\n"
            "job.yaml:4:10: train.beta1: 'x' is not a number such as 0.1 or 1e-3\n"
            "--set sync.codec=fp31: sync.codec: 'fp31' is not one of fp32, bf16, fp16, int8, int4; "
            "did you mean 'fp32'?");
  std::string many;
  for (int i = 0; i < 14; ++i) absl::StrAppend(&many, "zzz", i, ": 1\n");
  EXPECT_THAT(Refusal(many), EndsWith("\nand 4 more errors"));
}

TEST(JobFileErrors, AnOverrideIsQuotedInItsError) {
  const auto refusal = [](const std::string& text) { return Refusal(kSmall, {text}); };
  EXPECT_EQ(refusal("train.round=5"),
            "--set train.round=5: unknown key 'train.round'; did you mean 'train.rounds'?");
  EXPECT_EQ(refusal("trian.rounds=5"),
            "--set trian.rounds=5: unknown key 'trian.rounds'; did you mean 'train.rounds'?");
  EXPECT_EQ(refusal("rounds=5"),
            "--set rounds=5: unknown key 'rounds'; did you mean 'train.rounds'?");
  EXPECT_EQ(refusal("train.rounds=x"),
            "--set train.rounds=x: train.rounds: 'x' is not a whole number such as 100, 52.4e9 or "
            "10M");
  EXPECT_EQ(refusal("train.rounds="),
            "--set train.rounds=: train.rounds: an empty value is not a whole number such as 100, "
            "52.4e9 or 10M");
  EXPECT_EQ(refusal("train.rounds"),
            "--set train.rounds: expected KEY=VALUE, such as train.rounds=12");
  EXPECT_EQ(refusal("=5"), "--set =5: expected KEY=VALUE, such as train.rounds=12");
  EXPECT_EQ(refusal("checkpoint=5"),
            "--set checkpoint=5: 'checkpoint' is a section; set one of its keys: every, keep, "
            "keep_every, replicas, inner_state, push_to, serve");
  EXPECT_EQ(refusal("seed.x=5"), "--set seed.x=5: 'seed' is a value and has no keys");
  EXPECT_EQ(refusal("regions=a,b"),
            "--set regions=a,b: 'regions' is a list; it can be given in the file only");
  EXPECT_EQ(refusal("regions.name=a"),
            "--set regions.name=a: 'regions' is a list; it can be given in the file only");
}

TEST(JobFileErrors, RegionNamesAreUniqueAndPlain) {
  EXPECT_EQ(RefusalOfLine("regions: [johor, oslo, johor]"),
            "job.yaml:2:24: regions[2].name: 'johor' is there twice; a name stands for one region");
  for (const std::string& name : {std::string("a/b"), std::string("'a b'"), std::string("ö"),
                                  std::string("'..'"), std::string(64, 'x'), std::string("a.b")}) {
    EXPECT_EQ(
        RefusalOfLine("regions: [" + name + "]"),
        "job.yaml:2:11: regions[0].name: not well-formed; a region's name is 1 to 63 letters, "
        "digits, '-' and '_'")
        << name;
  }
  EXPECT_THAT(RefusalOfLine("regions: [{name: ''}]"),
              StartsWith("job.yaml:2:18: regions[0].name: missing"));
  EXPECT_THAT(RefusalOfLine("regions: [keys]"),
              StartsWith("job.yaml:2:11: regions[0].name: 'keys' is taken"));
}

TEST(JobFileErrors, WhatConcernsSeveralKeysPointsAtOneOfThem) {
  EXPECT_EQ(Refusal("name: x\n"),
            "job.yaml: data.tokens: missing; name a token file (`atoll data "
            "tokenize` makes one from text)");
  EXPECT_THAT(Refusal("data:\n  tokens: ''\n"), StartsWith("job.yaml:2:11: data.tokens: missing"));
  EXPECT_THAT(RefusalOfLine("name: a/b"), StartsWith("job.yaml:2:7: name: a job's name is"));
  EXPECT_THAT(RefusalOfLine("model: {preset: lama-7b}"),
              testing::AllOf(StartsWith("job.yaml:2:17: model.preset: "), HasSubstr("llama-7b")));
  EXPECT_THAT(RefusalOfLine("model: {heads: 7}"), StartsWith("job.yaml:2:16: model.heads: "));
  EXPECT_EQ(
      Refusal("data: {tokens: t}\ntrain: {global_batch: 2}\nregions: [a, b, c]\n"),
      "job.yaml:2:23: train.global_batch: 2 samples are too few for 3 regions; each needs one "
      "of every step");
  EXPECT_THAT(Refusal(kSmall, {"model.preset=nothing-like-it"}),
              StartsWith("--set model.preset=nothing-like-it: model.preset: "));
  EXPECT_EQ(Refusal(kSmall, {"resume="}),
            "--set resume=: resume: an empty value is not auto, never, or a path");
}

TEST(JobFileErrors, TextThatIsNoJobFileIsRefused) {
  EXPECT_EQ(Refusal(""), "job.yaml:1:1: the file is empty");
  EXPECT_EQ(Refusal("# only a comment\n\n"), "job.yaml:1:1: the file is empty");
  EXPECT_EQ(Refusal("---\n"), "job.yaml:1:1: the file is empty");
  EXPECT_EQ(Refusal("just words\n"),
            "job.yaml:1:1: expected keys with values, such as 'name: my-job'; found 'just words'");
  EXPECT_EQ(Refusal("- a\n- b\n"),
            "job.yaml:1:1: expected keys with values, such as 'name: my-job'; found a list");
  EXPECT_THAT(Refusal("name: x\n  train: y\n"), StartsWith("job.yaml:2:8: not valid YAML: "));
  EXPECT_THAT(Refusal("name: [a, b\n"), HasSubstr("not valid YAML: "));
  EXPECT_EQ(Refusal("name: 'it''s\n" + std::string(kSmall)),
            "job.yaml:1:7: a quote that is not closed on its line");
  EXPECT_EQ(Refusal("data: {tokens: \"a\\\"}\nname: \"b\"\n"),
            "job.yaml:1:16: a quote that is not closed on its line");
  EXPECT_EQ(Refusal("train:\n\trounds: 5\n"),
            "job.yaml:2:1: a tab in the indentation; YAML indents with blanks");
  EXPECT_EQ(Refusal("train:\n  \trounds: 5\n"),
            "job.yaml:2:3: a tab in the indentation; YAML indents with blanks");
  EXPECT_EQ(Refusal(std::string("na\0me: x", 8)),
            "job.yaml:1:3: control character 0x00; this is not a text file");
  EXPECT_EQ(Refusal("\x7f"
                    "ELF"),
            "job.yaml:1:1: control character 0x7f; this is not a text file");
  EXPECT_EQ(Refusal("name: \xff\xfe\n"), "job.yaml:1:7: not UTF-8 text");
  EXPECT_EQ(Refusal("name: \"a\\nb\"\n" + std::string(kSmall)),
            "job.yaml:1:7: name: control character 0x0a in the text");
}

TEST(JobFileErrors, WhatYamlCouldDoButAJobFileNeedNotIsRefused) {
  EXPECT_EQ(Refusal("name: a\n---\nname: b\n"),
            "job.yaml:2:1: a second YAML document ('---'); a job file has one");
  EXPECT_THAT(Refusal("name: &x a\nseed: *x\n"), StartsWith("job.yaml:1:7: an anchor"));
  EXPECT_THAT(Refusal("train: &t {rounds: 1}\nsync: *t\n"), StartsWith("job.yaml:1:8: an anchor"));
  EXPECT_THAT(Refusal("name: !!python/object x\n"), StartsWith("job.yaml:1:7: a tag"));
  EXPECT_THAT(Refusal("[a, b]: c\n"), HasSubstr("a key must be a plain word"));
  EXPECT_THAT(Refusal("train:\n  <<: {rounds: 1}\n"), StartsWith("job.yaml:2:3: unknown key"));
}

TEST(JobFileErrors, BombsAreRefusedBeforeTheyGoOff) {
  // Billion laughs: refused at the first anchor.
  std::string laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'k'; ++c) {
    absl::StrAppend(&laughs, std::string(1, c), ": &", std::string(1, c), " [*",
                    std::string(1, c - 1), ",*", std::string(1, c - 1), "]\n");
  }
  EXPECT_THAT(Refusal(laughs), StartsWith("job.yaml:1:4: an anchor"));
  EXPECT_THAT(Refusal("train: " + std::string(40, '[') + std::string(40, ']')),
              HasSubstr("nested more than 16 deep"));
  std::string blocks;
  for (int i = 0; i < 40; ++i) absl::StrAppend(&blocks, std::string(i, ' '), "a:\n");
  EXPECT_THAT(Refusal(blocks), StartsWith("job.yaml:17:17: nested more than 16 deep"));
  for (const char* piece :
       {"[",  "{",   "- ",  "? ", "a: ", "[a, ", "{a: ", "!",     "&a ", "*a ",   "'",
        "\"", "|\n", ">\n", "%",  "@",   "a\n",  "a:\n", "- a\n", ", ",  "---\n", "x: y\n"}) {
    std::string bomb;
    while (bomb.size() < (1 << 17)) bomb += piece;
    const auto job = ParseJob(bomb, "job.yaml", "/", {});
    EXPECT_EQ(ExitCodeOf(job.status()), ExitCode::kUsage) << piece;
    EXPECT_LT(job.status().message().size(), 8000u) << piece;
  }
}

TEST(JobFileErrors, AFileThatCannotBeReadSaysWhy) {
  std::string pattern = testing::TempDir() + "job_errors_XXXXXX";
  const std::string directory = mkdtemp(pattern.data());
  const auto refusal = [](const std::string& path) {
    const auto job = LoadJob(path, {});
    EXPECT_EQ(ExitCodeOf(job.status()), ExitCode::kUsage) << job.status();
    return std::string(job.status().message());
  };
  EXPECT_THAT(refusal(directory + "/none.yaml"), HasSubstr("No such file"));
  EXPECT_THAT(refusal(directory), HasSubstr("is a directory"));
  const std::string large = directory + "/large.yaml";
  std::ofstream(large) << std::string((1 << 20) + 1, '#');
  EXPECT_THAT(refusal(large), HasSubstr("large.yaml"));
  if (geteuid() != 0) {
    const std::string secret = directory + "/secret.yaml";
    std::ofstream(secret) << kSmall;
    std::filesystem::permissions(secret, std::filesystem::perms::none);
    EXPECT_THAT(refusal(secret), HasSubstr("Permission denied"));
  }
  std::filesystem::remove_all(directory);
}

// Whatever the bytes, there is a job or an error with a message, never a crash or a hang.
TEST(JobFileErrors, MutatedFilesNeverCrashTheParser) {
  const std::string valid =
      "name: kjv\nseed: 3\nmodel: {preset: test-1m, layers: 2}\ndata:\n  tokens: 'a b.bin'\n"
      "train:\n  rounds: 52.4e3\n  bucket_bytes: 64MiB\n  learning_rate: 1e-3\n"
      "regions:\n  - {name: a}\n  - b\nsync:\n  nesterov: false # comment\n";
  const std::string alphabet = ":-[]{}#&*!|>'\"%@`,?\n\t\r \\0123456789abeE.\x80\xff~<";
  const CounterRandom random(20260101);
  uint64_t draw = 0;
  const auto next = [&](size_t bound) { return random.Bits(draw++) % bound; };
  int accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = valid;
    for (size_t changes = 1 + next(4); changes > 0; --changes) {
      const size_t at = next(text.size());
      switch (next(4)) {
        case 0:
          text[at] = alphabet[next(alphabet.size())];
          break;
        case 1:
          text.insert(at, 1, alphabet[next(alphabet.size())]);
          break;
        case 2:
          text.erase(at, 1 + next(8));
          break;
        default:
          text.insert(at, text.substr(next(text.size()), next(30)));
      }
      if (text.empty()) text = "x";
    }
    const auto job = ParseJob(text, "job.yaml", "/jobs", {});
    if (job.ok()) {
      ++accepted;
      EXPECT_TRUE(ParseJob(JobToYaml(*job), "again.yaml", "/", {}).ok()) << JobToYaml(*job);
    } else {
      EXPECT_FALSE(job.status().message().empty());
      EXPECT_EQ(ExitCodeOf(job.status()), ExitCode::kUsage);
    }
  }
  EXPECT_GT(accepted, 50);  // else the mutations are too wild to test anything
}

}  // namespace
}  // namespace atl
