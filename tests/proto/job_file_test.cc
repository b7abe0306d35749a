// The job file when it is right: mapping, units, defaults, overrides, paths, round trips, and the
// pages that are made from the schema.
#include "proto/job_file.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "proto/field_value.h"
#include "proto/lease_terms.h"
#include "proto/yaml_to_message.h"

namespace atl {
namespace {

using google::protobuf::util::MessageDifferencer;
using testing::HasSubstr;

constexpr char kSmall[] = "data:\n  tokens: tokens.bin\n";

pb::Job Parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  auto job = ParseJob(text, "job.yaml", "/jobs", overrides);
  EXPECT_TRUE(job.ok()) << job.status();
  return job.ok() ? *job : pb::Job();
}

class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = testing::TempDir() + "job_file_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempDirectory() { std::filesystem::remove_all(path_); }
  std::string Write(const std::string& name, const std::string& text) const {
    const std::string path = path_ + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(JobFile, MapsEveryKindOfValue) {
  const pb::Job job = Parse(R"(
name: kjv-demo
seed: 18446744073709551615
model: {preset: demo-5m, layers: 4}
data:
  tokens: ../build/data/kjv.bin
  validation_fraction: 0.1
train:
  rounds: 52.4e3
  inner_steps: 1_000
  warmup_steps: 2k
  learning_rate: 3e-4
  bucket_bytes: 64MiB
  activation_checkpointing: true
  precision: fp32
sync:
  method: every_step
  nesterov: false
regions:
  - name: johor
  - {name: oslo}
)");
  EXPECT_EQ(job.name(), "kjv-demo");
  EXPECT_EQ(job.seed(), 18446744073709551615u);
  EXPECT_EQ(job.model().preset(), "demo-5m");
  EXPECT_EQ(job.model().layers(), 4);
  EXPECT_EQ(job.data().tokens(), "/build/data/kjv.bin");
  EXPECT_EQ(job.data().validation_fraction(), 0.1);
  EXPECT_EQ(job.train().rounds(), 52400);
  EXPECT_EQ(job.train().inner_steps(), 1000);
  EXPECT_EQ(job.train().warmup_steps(), 2000);
  EXPECT_EQ(job.train().learning_rate(), 3e-4);
  EXPECT_EQ(job.train().bucket_bytes(), 64 << 20);
  EXPECT_TRUE(job.train().activation_checkpointing());
  EXPECT_EQ(job.train().precision(), pb::Train::FP32);
  EXPECT_EQ(job.sync().method(), pb::Sync::EVERY_STEP);
  EXPECT_FALSE(job.sync().nesterov());
  ASSERT_EQ(job.regions_size(), 2);
  EXPECT_EQ(job.regions(0).name(), "johor");
  EXPECT_EQ(job.regions(1).name(), "oslo");
}

TEST(JobFile, TakesRegionsAsAPlainListOfNames) {
  const pb::Job job = Parse(std::string(kSmall) + "regions: [johor, oslo, \"batam\"]\n");
  ASSERT_EQ(job.regions_size(), 3);
  EXPECT_EQ(job.regions(2).name(), "batam");
}

TEST(JobFile, TakesWhatIsCountedBehindACount) {
  const pb::Job job = Parse(
      std::string(kSmall) +
      "checkpoint: {every: 10 rounds, keep: 4, keep_every: 2M rounds, replicas: 2 regions}\n");
  EXPECT_EQ(job.checkpoint().every(), 10);
  EXPECT_EQ(job.checkpoint().keep_every(), 2'000'000);
  EXPECT_EQ(job.checkpoint().replicas(), 2);
}

TEST(JobFile, FillsInEveryDefault) {
  const pb::Job job = Parse(kSmall);
  EXPECT_EQ(job.name(), "job");
  EXPECT_EQ(job.seed(), 1u);
  EXPECT_EQ(job.resume(), "auto");
  EXPECT_EQ(job.train().rounds(), 100);
  EXPECT_EQ(job.train().bucket_bytes(), 4 << 20);
  EXPECT_EQ(job.sync().outer_learning_rate(), 0.7);
  EXPECT_TRUE(job.sync().nesterov());
  EXPECT_EQ(job.checkpoint().keep(), 3);
}

TEST(JobFile, KeepsAnExplicitZeroOrFalseWhereTheDefaultIsAnother) {
  const pb::Job job = Parse(std::string(kSmall) +
                                "train: {clip_norm: 0, evaluate_every: 0, weight_decay: 0.0}\n"
                                "sync: {nesterov: false}\n",
                            {"checkpoint.every=0"});
  EXPECT_EQ(job.train().clip_norm(), 0);
  EXPECT_EQ(job.train().evaluate_every(), 0);
  EXPECT_EQ(job.train().weight_decay(), 0);
  EXPECT_FALSE(job.sync().nesterov());
  EXPECT_EQ(job.checkpoint().every(), 0);
}

TEST(JobFile, TakesAnEmptySectionForItsDefaults) {
  const pb::Job job = Parse(std::string(kSmall) + "train:\n  # rounds: 5\nregions:\n");
  EXPECT_EQ(job.train().rounds(), 100);
  EXPECT_EQ(job.regions_size(), 0);
}

TEST(JobFile, ReadsWindowsLineEndsAndCommentsAndNonAsciiPaths) {
  const pb::Job job = Parse("# Übung\r\ndata:\r\n  tokens: \"/daten/größe \\\"x\\\".bin\"\r\n");
  EXPECT_EQ(job.data().tokens(), "/daten/größe \"x\".bin");
}

TEST(JobFile, LaterOverridesWinOverEarlierOnesAndTheFile) {
  const pb::Job job = Parse(std::string(kSmall) + "train: {rounds: 5}\n",
                            {"train.rounds=6", "sync.codec=bf16", "train.rounds=7"});
  EXPECT_EQ(job.train().rounds(), 7);
  EXPECT_EQ(job.sync().codec(), pb::Sync::BF16);
}

TEST(JobFile, TakesPathsFromTheFilesDirectoryAndThoseOfOverridesFromTheWorkingDirectory) {
  const std::string here = std::filesystem::current_path().string();
  EXPECT_EQ(Parse("data: {tokens: ./a/../b.bin}\n").data().tokens(), "/jobs/b.bin");
  EXPECT_EQ(Parse("data: {tokens: /abs/c.bin}\n").data().tokens(), "/abs/c.bin");
  EXPECT_EQ(Parse(kSmall, {"data.tokens=d.bin"}).data().tokens(), here + "/d.bin");
  EXPECT_EQ(Parse(kSmall, {"data.tokens=/e=f.bin"}).data().tokens(), "/e=f.bin");
}

TEST(JobFile, TreatsResumeAsAPathUnlessItIsAWord) {
  const std::string here = std::filesystem::current_path().string();
  const std::string text = kSmall;
  EXPECT_EQ(Parse(text + "resume: never\n").resume(), "never");
  EXPECT_EQ(Parse(text + "resume: runs/x\n").resume(), "/jobs/runs/x");
  EXPECT_EQ(Parse(text, {"resume=runs/x/"}).resume(), here + "/runs/x");
  EXPECT_EQ(Parse(text, {"resume=auto"}).resume(), "auto");
}

TEST(JobFile, LoadsAFileAndTakesPathsFromItsDirectory) {
  const TempDirectory directory;
  const std::string path = directory.Write("job.yaml", kSmall);
  const auto job = LoadJob(path, {});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->data().tokens(), directory.path() + "/tokens.bin");
}

TEST(JobFile, ReadsBackWhatJobToYamlWrites) {
  const pb::Job job = Parse(R"(
name: "on"
seed: 7
model: {preset: demo-5m, rope_theta: 12345.678, norm_epsilon: 1e-7}
data: {tokens: "/with \"quotes\"/and \\ more: #.bin", validation_fraction: 0.3333333333333333}
train: {bucket_bytes: 5MB, learning_rate: 1.1e-5, epsilon: 1e-30, rounds: 999_999_999_999}
sync: {chunk_bytes: 1536, codec: bf16}
regions: [a, "1e5", "true"]
)");
  const std::string yaml = JobToYaml(job);
  const auto again = ParseJob(yaml, "again.yaml", "/elsewhere", {});
  ASSERT_TRUE(again.ok()) << again.status() << "\n" << yaml;
  EXPECT_TRUE(MessageDifferencer::Equals(job, *again)) << yaml;
}

TEST(JobFile, SetRegionCountTakesTheFirstOrAddsNewOnes) {
  pb::Job job = Parse(std::string(kSmall) + "regions: [johor, region-3, batam]\n");
  pb::Job two = job;
  SetRegionCount(&two, 2);
  ASSERT_EQ(two.regions_size(), 2);
  EXPECT_EQ(two.regions(1).name(), "region-3");
  pb::Job five = two;
  SetRegionCount(&five, 4);
  ASSERT_EQ(five.regions_size(), 4);
  EXPECT_EQ(five.regions(2).name(), "region-4");
  EXPECT_EQ(five.regions(3).name(), "region-5");
  EXPECT_TRUE(CheckJob(five).ok());
}

TEST(JobFile, SaysHowToMakeAMissingTokenFile) {
  const TempDirectory directory;
  const auto job = LoadJob(directory.Write("job.yaml", kSmall), {});
  ASSERT_TRUE(job.ok());
  const Status status = CheckJobFiles(*job);
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(directory.path() + "/tokens.bin does not exist"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("atoll data tokenize --input"));
  directory.Write("tokens.bin", "xy");
  EXPECT_TRUE(CheckJobFiles(*job).ok());
  pb::Job resumed = *job;
  resumed.set_resume(directory.path() + "/nowhere");
  EXPECT_THAT(std::string(CheckJobFiles(resumed).message()),
              HasSubstr("/nowhere does not exist; give the path of a checkpoint"));
  pb::Job held_out = *job;
  held_out.mutable_data()->set_validation_tokens(directory.path());
  EXPECT_THAT(std::string(CheckJobFiles(held_out).message()),
              HasSubstr("data.validation_tokens: " + directory.path() + " is not a file"));
}

// Every leaf of the schema, with the message that holds it.
void ForEachField(google::protobuf::Message* message,
                  const std::function<void(const google::protobuf::FieldDescriptor&,
                                           google::protobuf::Message*)>& call) {
  const auto* type = message->GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const auto* field = type->field(i);
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
      call(*field, message);
    } else if (field->is_repeated()) {
      ForEachField(message->GetReflection()->AddMessage(message, field), call);
    } else {
      ForEachField(message->GetReflection()->MutableMessage(message, field), call);
    }
  }
}

TEST(Schema, EveryDefaultParsesAndIsWithinItsBoundsAndReadsBackTheSame) {
  pb::Job job;
  int fields = 0;
  ForEachField(&job, [&fields](const auto& field, auto* message) {
    const pb::FieldRule& rule = RuleOf(field);
    const std::string name = field.full_name();
    ++fields;
    EXPECT_FALSE(rule.doc().empty()) << name << " has no doc";
    const bool text = field.cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING;
    EXPECT_TRUE(text || !rule.default_().empty()) << name << " has no default";
    if (rule.default_().empty()) return;
    const Status parsed = ParseField(field, {rule.default_(), false, "/"}, message);
    ASSERT_TRUE(parsed.ok()) << name << ": " << parsed;
    const std::string shown = FormatField(field, *message);
    const Status again = ParseField(field, {shown, false, "/"}, message);
    EXPECT_TRUE(again.ok()) << name << ": " << shown << ": " << again;
    EXPECT_EQ(FormatField(field, *message), shown);
  });
  EXPECT_GT(fields, 40);
  EXPECT_EQ(AllPaths(*pb::Job::descriptor()).size(), static_cast<size_t>(fields));
}

TEST(JobFile, ALeaseIsReadAndWritten) {
  const auto job = ParseJob(
      "data: {tokens: t}\nregions:\n  - johor\n  - name: oslo\n    lease:\n"
      "      start: 2026-11-28T06:00:00+08:00\n      end: '2026-11-30T18:00:00Z'\n"
      "      lead: 30m\n      notice: 2m\n      price: 31.2 USD\n",
      "job.yaml", "/jobs", {});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(TermsOf(job->regions(0).lease()).end, 0);
  const LeaseTerms terms = TermsOf(job->regions(1).lease());
  EXPECT_EQ(terms.start, 1795845600 - 8 * 3600);
  EXPECT_EQ(terms.end, 1796061600);
  EXPECT_EQ(terms.lead, 1800);
  EXPECT_EQ(terms.notice, 120);
  EXPECT_EQ(terms.price, 31.2);
  EXPECT_EQ(terms.currency, "USD");
  const auto again = ParseJob(JobToYaml(*job), "job.yaml", "/", {});
  ASSERT_TRUE(again.ok()) << again.status() << JobToYaml(*job);
  EXPECT_TRUE(MessageDifferencer::Equals(*job, *again));
  pb::Hello hello;
  EXPECT_EQ(LeaseEnd(terms, hello), 1796061600 - 1800);
  hello.set_lease_lead(60);
  EXPECT_EQ(LeaseEnd(terms, hello), 1796061600 - 60);
  hello.set_lease_end(1796000000);
  EXPECT_EQ(LeaseEnd(terms, hello), 1796000000 - 60);
}

TEST(Schema, TheCommentedFileIsAJobFileOfDefaults) {
  const auto from_schema =
      ParseJob(JobSchemaYaml(), "schema.yaml", "/jobs", {"data.tokens=/jobs/tokens.bin"});
  ASSERT_TRUE(from_schema.ok()) << from_schema.status() << JobSchemaYaml();
  EXPECT_TRUE(MessageDifferencer::Equals(*from_schema, Parse(kSmall)));
  for (const SchemaKey& key : JobSchemaKeys()) {
    const std::string name = key.path.substr(key.path.rfind('.') + 1);
    EXPECT_THAT(JobSchemaYaml(), HasSubstr(name + ": ")) << key.path;
  }
}

TEST(Schema, NoLineOfTheCommentedFileIsWiderThanATerminal) {
  std::istringstream lines(JobSchemaYaml());
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST(Schema, TheTableInTheDocumentationIsCurrent) {
  const auto page = ReadFile(absl::StrCat(ATOLL_SOURCE_DIRECTORY, "/docs/formats/job-file.md"));
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_THAT(*page, HasSubstr(JobSchemaMarkdown()))
      << "put the output of `atoll config schema --markdown` into docs/formats/job-file.md";
}

TEST(Schema, TheJobFilesOfTheRepositoryAreSound) {
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat(ATOLL_SOURCE_DIRECTORY, "/configs/jobs"))) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const auto job = LoadJob(entry.path().string(), {});
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_GE(job->regions_size(), 1) << entry.path();
    EXPECT_EQ(job->data().tokens()[0], '/') << entry.path();
  }
  EXPECT_GE(files, 3);
}

}  // namespace
}  // namespace atl
