// What is damaged is found and named, and made whole from other replicas or left alone; which
// checkpoints stay.
#include "checkpoint/repair.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "checkpoint/retention.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int64_t kChunk = 4 << 20;

// Every file under a directory with its bytes.
std::map<std::string, std::string> Contents(const std::string& directory) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    contents[entry.path().lexically_relative(directory).string()] =
        ReadFile(entry.path().string()).value_or("unreadable");
  }
  return contents;
}

void Flip(const std::string& path, int64_t at) {
  const auto file = OpenFile(path, O_RDWR);
  ASSERT_TRUE(file.ok()) << file.status();
  char byte = 0;
  ASSERT_TRUE(ReadAt(*file, path, &byte, 1, at).ok());
  byte = static_cast<char>(byte ^ 0x10);
  ASSERT_TRUE(WriteAt(*file, path, &byte, 1, at).ok());
}

// Two regions' replicas of one round, and a spare copy of the first. The matrix has three chunks.
class Replicas : public testing::Test {
 protected:
  void SetUp() override {
    SaveJob job = Job("oslo");
    for (const auto& result : SaveEverywhere(job)) ASSERT_TRUE(result.ok()) << result.status();
    job = Job("johor");
    for (const auto& result : SaveEverywhere(job)) ASSERT_TRUE(result.ok()) << result.status();
    fs::copy(directory_.path() + "/oslo", directory_.path() + "/spare",
             fs::copy_options::recursive);
  }

  SaveJob Job(const std::string& region) const {
    SaveJob job;
    job.tensors = {{"a", {1500, 1500}, {0, 2'250'000}}, {"b", {77}, {2'250'000, 2'250'077}}};
    job.max_file_bytes = 1 << 20;  // a file a tensor
    job.prefixes = {"model", "optim/exp_avg"};
    job.directory = directory_.path() + "/" + region;
    job.region = region;
    return job;
  }

  std::string Round(const std::string& replica) const {
    return directory_.path() + "/" + replica + "/round-000041";
  }
  std::string InOslo(const std::string& file) const { return Round("oslo") + "/" + file; }

  StatusOr<RepairResult> RepairOslo(const std::vector<std::string>& replicas, bool dry_run = false,
                                    const std::string& root = "") const {
    RepairOptions options;
    options.path = Round("oslo");
    options.dry_run = dry_run;
    options.root = root;
    for (const std::string& replica : replicas) {
      options.sources.push_back(MakeDirectorySource(Round(replica)));
    }
    return Repair(options);
  }

  std::vector<Damage> DamagesIn(const std::string& replica) const {
    const auto inspection = Inspect(Round(replica), {});
    EXPECT_TRUE(inspection.ok()) << inspection.status();
    return inspection.ok() ? inspection->damages : std::vector<Damage>{};
  }

  // Repaired from the spare copy: to the byte what it was, and nothing left beside it.
  void ExpectRepairs(const std::string& what) const {
    SCOPED_TRACE(what);
    EXPECT_FALSE(DamagesIn("oslo").empty());
    const auto result = RepairOslo({"spare"});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->repaired);
    EXPECT_THAT(result->lost, IsEmpty());
    EXPECT_TRUE(Contents(Round("oslo")) == Contents(Round("spare")));
    EXPECT_THAT(NamesIn(directory_.path() + "/oslo"), ElementsAre(".lock", "round-000041"));
    EXPECT_THAT(DamagesIn("oslo"), IsEmpty());
  }

  const std::string matrix_ = "model-00001-of-00002.safetensors";
  TemporaryDirectory directory_;
};

TEST_F(Replicas, WholeOnesAreLeftAloneToTheInode) {
  struct stat before, after;
  ASSERT_EQ(stat(Round("oslo").c_str(), &before), 0);
  const auto result = RepairOslo({"spare"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->whole());
  EXPECT_FALSE(result->repaired);
  ASSERT_EQ(stat(Round("oslo").c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
}

TEST_F(Replicas, AFlippedByteInAnyChunkIsNamedAndMended) {
  for (int64_t chunk = 0; chunk < 3; ++chunk) {
    Flip(InOslo(matrix_), std::min<int64_t>(chunk * kChunk + 4095, 9'000'000));
    const std::vector<Damage> damages = DamagesIn("oslo");
    ASSERT_EQ(damages.size(), 1u);
    EXPECT_EQ(damages[0].file, matrix_);
    EXPECT_EQ(damages[0].chunk, chunk);
    ExpectRepairs("a flipped byte");
  }
}

TEST_F(Replicas, OnlyDamagedChunksAreFetched) {
  Flip(InOslo(matrix_), kChunk + 1);
  const auto result = RepairOslo({"johor", "spare"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->repaired);
  EXPECT_EQ(result->fetched[0].chunks, 1);  // replicated: another region's does
  EXPECT_EQ(result->fetched[0].bytes, kChunk);
  EXPECT_EQ(result->fetched[1].chunks, 0);
}

TEST_F(Replicas, WholeFilesAreLinkedNotCopied) {
  struct stat before, after;
  const std::string whole = InOslo("optim/exp_avg-00001-of-00002.safetensors");
  ASSERT_EQ(stat(whole.c_str(), &before), 0);
  Flip(InOslo(matrix_), 5000);
  ExpectRepairs("a flipped byte");
  ASSERT_EQ(stat(whole.c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_EQ(after.st_nlink, 1u);
}

TEST_F(Replicas, MissingCutAndLengthenedFilesAreMended) {
  for (const std::string& file :
       {matrix_, std::string("model-00002-of-00002.safetensors"), std::string(kIndexName),
        std::string("optim/exp_avg-00001-of-00002.safetensors")}) {
    fs::remove(InOslo(file));
    ExpectRepairs(file + " is missing");
    fs::resize_file(InOslo(file), fs::file_size(InOslo(file)) / 2);
    ExpectRepairs(file + " is cut");
    fs::resize_file(InOslo(file), fs::file_size(InOslo(file)) + 1);
    ExpectRepairs(file + " is longer");
    fs::resize_file(InOslo(file), 0);
    ExpectRepairs(file + " is empty");
  }
  fs::remove_all(InOslo("optim"));
  ExpectRepairs("a folder is missing");
}

TEST_F(Replicas, HashFilesAreMendedFromTheFilesThemselves) {
  const std::string hashes = InOslo(ChunkHashName(matrix_));
  Flip(hashes, 33);
  const auto alone = RepairOslo({});
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_TRUE(alone->repaired);
  EXPECT_TRUE(Contents(Round("oslo")) == Contents(Round("spare")));
  fs::remove_all(InOslo("chunks"));
  ExpectRepairs("all hash files are missing");
  fs::remove(hashes);
  Flip(InOslo(matrix_), 2 * kChunk);
  ExpectRepairs("a hash file and its file are damaged");
}

TEST_F(Replicas, ALostManifestOrDirectoryComesFromACopyOfTheSameRegion) {
  fs::remove(InOslo(kManifestName));
  // johor's is looked at first, but the hash files that are left are oslo's.
  auto result = RepairOslo({"johor", "spare"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->manifest_from, Round("spare"));
  EXPECT_TRUE(Contents(Round("oslo")) == Contents(Round("spare")));
  Flip(InOslo(kManifestName), 100);
  ExpectRepairs("a damaged manifest");
  fs::remove_all(Round("oslo"));
  result = RepairOslo({"johor"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->manifest_from, Round("johor"));
  EXPECT_TRUE(Contents(Round("oslo")) == Contents(Round("johor")));
}

TEST_F(Replicas, AnotherRegionsManifestIsTakenOnlyIfItsRootIsNamed) {
  fs::remove(InOslo(kManifestName));
  const auto before = Contents(Round("oslo"));
  const auto refused = RepairOslo({"johor"});
  EXPECT_EQ(ExitCodeOf(refused.status()), ExitCode::kUsage);
  EXPECT_THAT(refused.status().ToString(), HasSubstr(RootIn(Round("johor"))));
  EXPECT_TRUE(Contents(Round("oslo")) == before);
  const auto result = RepairOslo({"johor"}, false, RootIn(Round("johor")));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(Contents(Round("oslo")) == Contents(Round("johor")));
  EXPECT_EQ(result->fetched[0].chunks, 4);  // its inner state; the model was here
}

TEST_F(Replicas, WhatNoSourceHasIsNamedAndNothingChanges) {
  Flip(InOslo("optim/exp_avg-00001-of-00002.safetensors"), kChunk + 7);
  Flip(InOslo(matrix_), 9000);
  const auto before = Contents(Round("oslo"));
  const auto result = RepairOslo({"johor"});  // has another inner state
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->repaired);
  ASSERT_EQ(result->lost.size(), 1u);
  EXPECT_EQ(result->lost[0].file, "optim/exp_avg-00001-of-00002.safetensors");
  EXPECT_EQ(result->lost[0].chunk, 1);
  EXPECT_TRUE(Contents(Round("oslo")) == before);
  EXPECT_THAT(NamesIn(directory_.path() + "/oslo"), ElementsAre(".lock", "round-000041"));
  ExpectRepairs("with the spare copy");
}

TEST_F(Replicas, TwoDamagedCopiesMakeAWholeOneUnlessTheyLackTheSameChunk) {
  Flip(InOslo(matrix_), kChunk);
  Flip(Round("johor") + "/" + matrix_, 2 * kChunk);
  Flip(Round("spare") + "/" + matrix_, kChunk);
  const auto both = RepairOslo({"spare"});
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_FALSE(both->repaired);
  EXPECT_EQ(both->fetched[0].bad, 1);
  const auto result = RepairOslo({"spare", "johor"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->repaired);
  EXPECT_EQ(result->fetched[1].chunks, 1);
  EXPECT_THAT(DamagesIn("oslo"), IsEmpty());
}

TEST_F(Replicas, ADryRunSaysWhatWouldBeFetchedAndWritesNothing) {
  Flip(InOslo(matrix_), 1);
  const auto before = Contents(directory_.path());
  const auto result = RepairOslo({"spare"}, /*dry_run=*/true);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->repaired);
  EXPECT_THAT(result->lost, IsEmpty());
  EXPECT_EQ(result->fetched[0].chunks, 1);
  EXPECT_TRUE(Contents(directory_.path()) == before);
}

TEST_F(Replicas, SourcesThatContradictEachOtherAreRefusedUntilARootIsNamed) {
  SaveJob other;
  other.directory = directory_.path() + "/stranger";
  other.tensors = {{"a", {10}, {0, 10}}};
  other.prefixes = {"model"};
  for (const auto& result : SaveEverywhere(other)) ASSERT_TRUE(result.ok()) << result.status();
  const std::string root = RootIn(Round("oslo"));
  fs::remove_all(Round("oslo"));
  const auto refused = RepairOslo({"stranger", "spare"});
  EXPECT_EQ(ExitCodeOf(refused.status()), ExitCode::kUsage);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("hold different rounds 41"));
  EXPECT_FALSE(fs::exists(Round("oslo")));
  const auto result = RepairOslo({"stranger", "spare"}, false, root);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(Contents(Round("oslo")) == Contents(Round("spare")));
}

TEST_F(Replicas, WithoutAManifestAnywhereItSaysSo) {
  fs::remove(InOslo(kManifestName));
  const auto result = RepairOslo({});
  EXPECT_EQ(ExitCodeOf(result.status()), ExitCode::kUsage);
  EXPECT_THAT(result.status().ToString(), HasSubstr("no source has one"));
}

std::string ReplicatedRootIn(const std::string& path) {
  const auto manifest = ParseManifest(ReadFile(path + "/MANIFEST.json").value_or(""));
  return manifest.ok() ? RootOf(*manifest, true) : std::string(manifest.status().message());
}

TEST_F(Replicas, WhatWasWrittenFromBadMemoryBecomesTheOthersWhereTheirRootIsNamed) {
  fs::remove_all(Round("oslo"));
  SaveJob bad = Job("oslo");
  bad.wrong_element = 1'200'000;  // in the second chunk
  for (const auto& result : SaveEverywhere(bad)) ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(DamagesIn("oslo"), IsEmpty());
  EXPECT_FALSE(RepairOslo({"johor"})->repaired);
  const auto before = Contents(Round("oslo"));

  RepairOptions options;
  options.path = Round("oslo");
  options.replicated_root = ReplicatedRootIn(Round("johor"));
  const auto nobody = Repair(options);
  EXPECT_EQ(ExitCodeOf(nobody.status()), ExitCode::kUsage);
  EXPECT_THAT(nobody.status().ToString(), HasSubstr(options.replicated_root));
  EXPECT_TRUE(Contents(Round("oslo")) == before);

  options.sources.push_back(MakeDirectorySource(directory_.path() + "/nowhere"));
  options.sources.push_back(MakeDirectorySource(Round("johor")));
  const auto result = Repair(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->repaired);
  EXPECT_EQ(result->manifest_from, Round("johor"));
  EXPECT_EQ(result->fetched[1].chunks, 1);
  EXPECT_TRUE(Contents(Round("oslo")) == Contents(Round("spare")));  // its own inner state too
  EXPECT_TRUE(Repair(options)->damages.empty());
}

TEST_F(Replicas, AnotherStatesFilesAreNotTakenThoughTheirRootIsNamed) {
  SaveJob other = Job("batam");
  other.digest = "ffffffffffffffffffffffffffffffff";
  other.wrong_element = 0;
  for (const auto& result : SaveEverywhere(other)) ASSERT_TRUE(result.ok()) << result.status();
  RepairOptions options;
  options.path = Round("oslo");
  options.replicated_root = ReplicatedRootIn(Round("batam"));
  options.sources.push_back(MakeDirectorySource(Round("batam")));
  EXPECT_THAT(Repair(options).status().ToString(), HasSubstr("the checkpoint of another state"));
  EXPECT_TRUE(Contents(Round("oslo")) == Contents(Round("spare")));
}

// The spare copy as a source; something happens while it is read.
class Meanwhile : public ChunkSource {
 public:
  Meanwhile(const std::string& path, std::function<void()> happens)
      : source_(MakeDirectorySource(path)), happens_(std::move(happens)) {}
  const std::string& name() const override { return source_->name(); }
  StatusOr<std::string> ReadManifest() override { return source_->ReadManifest(); }
  StatusOr<std::string> ReadHashes(const ManifestFile& file) override {
    return source_->ReadHashes(file);
  }
  StatusOr<std::string> ReadChunk(const ManifestFile& file, int64_t chunk) override {
    if (happens_) std::exchange(happens_, nullptr)();
    return source_->ReadChunk(file, chunk);
  }

 private:
  const std::unique_ptr<ChunkSource> source_;
  std::function<void()> happens_;
};

TEST_F(Replicas, SavesGoOnBesideARepairAndLeaveItsFilesAlone) {
  Flip(InOslo(matrix_), 1);
  RepairOptions options;
  options.path = Round("oslo");
  SaveJob next = Job("oslo");
  next.round = 42;
  options.sources.push_back(std::make_unique<Meanwhile>(Round("spare"), [&] {
    for (const auto& result : SaveEverywhere(next)) EXPECT_TRUE(result.ok()) << result.status();
  }));
  const auto result = Repair(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->repaired);
  EXPECT_TRUE(Contents(Round("oslo")) == Contents(Round("spare")));
  EXPECT_THAT(NamesIn(directory_.path() + "/oslo"),
              ElementsAre(".lock", "round-000041", "round-000042"));
}

TEST_F(Replicas, WhatWasReplacedOrIsBeingSavedMeanwhileIsLeftAlone) {
  Flip(InOslo(matrix_), 1);
  RepairOptions options;
  options.path = Round("oslo");
  options.sources.push_back(std::make_unique<Meanwhile>(Round("spare"), [&] {
    fs::rename(Round("oslo"), directory_.path() + "/aside");
    fs::copy(Round("spare"), Round("oslo"), fs::copy_options::recursive);
    Flip(InOslo(matrix_), 2);
  }));
  EXPECT_TRUE(absl::IsAborted(Repair(options).status()));
  EXPECT_FALSE(DamagesIn("oslo").empty()) << "what has taken the place is as it was";
  EXPECT_THAT(NamesIn(directory_.path() + "/oslo"), ElementsAre(".lock", "round-000041"));

  const auto before = Contents(Round("oslo"));
  options.sources.clear();
  std::optional<FileLock> save;
  options.sources.push_back(std::make_unique<Meanwhile>(Round("spare"), [&] {
    auto lock = FileLock::Acquire(directory_.path() + "/oslo/.lock");
    ASSERT_TRUE(lock.ok());
    save = *std::move(lock);
  }));
  options.lock_seconds = 0;
  const auto held = Repair(options);
  EXPECT_EQ(ExitCodeOf(held.status()), ExitCode::kEnvironment);
  EXPECT_TRUE(Contents(Round("oslo")) == before);
  EXPECT_THAT(NamesIn(directory_.path() + "/oslo"), ElementsAre(".lock", "round-000041"));
  save.reset();
  EXPECT_TRUE(Repair(options)->repaired);
}

TEST_F(Replicas, FilesThatTheManifestDoesNotListAreToldAndTakenAlong) {
  ASSERT_TRUE(WriteFileAtomically(InOslo("notes.txt"), "mine").ok());
  const auto inspection = Inspect(Round("oslo"), {});
  ASSERT_TRUE(inspection.ok());
  EXPECT_TRUE(inspection->whole());
  EXPECT_THAT(inspection->unlisted, ElementsAre("notes.txt"));
  Flip(InOslo(matrix_), 1);
  ASSERT_TRUE(RepairOslo({"spare"})->repaired);
  EXPECT_EQ(ReadFile(InOslo("notes.txt")).value_or(""), "mine");
}

TEST_F(Replicas, ASampleReadsItsShareAndFindsDamageWithSomeSeed) {
  Flip(InOslo(matrix_), 2 * kChunk + 9);
  int found = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    InspectOptions options;
    options.sample = 0.25;
    options.seed = seed;
    const auto inspection = Inspect(Round("oslo"), options);
    ASSERT_TRUE(inspection.ok());
    EXPECT_EQ(inspection->chunks, 9);
    EXPECT_EQ(inspection->chunks_checked, 3);
    found += inspection->whole() ? 0 : 1;
  }
  EXPECT_GT(found, 2);
  EXPECT_LT(found, 25);
}

TEST_F(Replicas, AnyNumberOfThreadsFindsTheSameInTheSameOrder) {
  Flip(InOslo(matrix_), 2 * kChunk + 9);
  Flip(InOslo(matrix_), 7);
  Flip(InOslo("optim/exp_avg-00001-of-00002.safetensors"), kChunk + 5);
  fs::remove(InOslo("optim/exp_avg-00002-of-00002.safetensors"));
  fs::resize_file(InOslo("model-00002-of-00002.safetensors"), 100);
  std::vector<std::string> expected;
  for (const int threads : {1, 2, 3, 16}) {
    InspectOptions options;
    options.threads = threads;
    int64_t told = 0;
    options.progress = [&](int64_t done, int64_t total) {
      EXPECT_GT(done, told);
      EXPECT_LE(done, total);
      told = done;
    };
    const auto inspection = Inspect(Round("oslo"), options);
    ASSERT_TRUE(inspection.ok());
    EXPECT_EQ(inspection->bytes_checked, told);
    std::vector<std::string> found;
    for (const Damage& damage : inspection->damages) {
      found.push_back(absl::StrCat(DamageKindName(damage.kind), " ", damage.file, " ", damage.chunk,
                                   " ", damage.message));
    }
    EXPECT_EQ(found.size(), 6u);
    if (expected.empty()) expected = found;
    EXPECT_EQ(found, expected) << threads;
  }
}

TEST(DrawChunks, IsOfTheRightSizeWithinBoundsAndDependsOnTheSeedAlone) {
  EXPECT_THAT(DrawChunks(0, 0.5, 1), IsEmpty());
  EXPECT_EQ(DrawChunks(1, 0.001, 1).size(), 1u);
  EXPECT_EQ(DrawChunks(10, 1.0, 1).size(), 10u);
  std::vector<int> times(100);
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const std::vector<int64_t> drawn = DrawChunks(100, 0.1, seed);
    ASSERT_EQ(drawn.size(), 10u);
    EXPECT_EQ(drawn, DrawChunks(100, 0.1, seed));
    for (size_t i = 0; i < drawn.size(); ++i) {
      ASSERT_TRUE(drawn[i] >= 0 && drawn[i] < 100 && (i == 0 || drawn[i] > drawn[i - 1]));
      ++times[drawn[i]];
    }
  }
  // Each is drawn 50 times on average, with a standard deviation of 6.7.
  for (const int each : times) EXPECT_TRUE(each > 15 && each < 90) << each;
}

TEST(RoundsThatStay, AreTheNewestAndTheMilestones) {
  EXPECT_THAT(RoundsThatStay({}, 3, 0), IsEmpty());
  EXPECT_THAT(RoundsThatStay({10, 20, 30}, 1, 0), ElementsAre(30));
  EXPECT_THAT(RoundsThatStay({10, 20, 30}, 5, 0), ElementsAre(10, 20, 30));
  EXPECT_THAT(RoundsThatStay({0, 50, 99, 100, 101, 199, 201}, 2, 100),
              ElementsAre(0, 100, 199, 201));
}

class Rounds : public testing::Test {
 protected:
  void SetUp() override {
    for (int64_t round = 1; round <= 6; ++round) Save(round);
    options_.directory = directory_.path();
  }
  void Save(int64_t round) {
    SaveJob job;
    job.round = round;
    job.directory = directory_.path();
    job.tensors = {{"a", {10}, {0, 10}}};
    job.prefixes = {"model"};
    job.keep = 100;
    for (const auto& result : SaveEverywhere(job)) ASSERT_TRUE(result.ok()) << result.status();
  }
  std::string Model(int round) const {
    return directory_.path() + "/" + RoundName(round) + "/model-00001-of-00001.safetensors";
  }
  TemporaryDirectory directory_;
  PruneOptions options_;
};

TEST_F(Rounds, PruneKeepsTheNewestAndTheMilestones) {
  options_.keep = 1;
  options_.keep_every = 2;
  options_.dry_run = true;
  const auto dry = Prune(options_);
  ASSERT_TRUE(dry.ok()) << dry.status();
  EXPECT_EQ(dry->removed.size(), 3u);
  EXPECT_EQ(NamesIn(directory_.path()).size(), 7u);
  options_.dry_run = false;
  const auto result = Prune(options_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->bytes_removed, dry->bytes_removed);
  EXPECT_GT(result->bytes_removed, 3 * 4096);
  EXPECT_THAT(NamesIn(directory_.path()),
              ElementsAre(".lock", "round-000002", "round-000004", "round-000006"));
}

TEST_F(Rounds, PruneNeitherCountsNorRemovesWhatCantBeUsed) {
  fs::remove(Model(6));
  fs::remove(Model(1));
  options_.keep = 2;
  const auto result = Prune(options_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->ignored.size(), 2u);
  EXPECT_THAT(NamesIn(directory_.path()),
              ElementsAre(".lock", "round-000001", "round-000004", "round-000005", "round-000006"));
}

TEST_F(Rounds, PruneWithVerifyDoesNotCountADamagedOne) {
  Flip(Model(6), 4100);
  options_.keep = 1;
  options_.verify = true;
  const auto result = Prune(options_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(NamesIn(directory_.path()), ElementsAre(".lock", "round-000005", "round-000006"));
}

TEST_F(Rounds, PruneVerifiesBesideASaveAndWhatComesMeanwhileStaysAndDoesNotCount) {
  options_.keep = 1;
  options_.verify = true;
  bool saved = false;
  options_.progress = [&](int64_t, int64_t) {
    if (!std::exchange(saved, true)) Save(7);  // which takes the lock
  };
  const auto result = Prune(options_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(saved);
  ASSERT_EQ(result->ignored.size(), 1u);
  EXPECT_THAT(result->ignored[0], HasSubstr("round-000007: not read, so it stays"));
  EXPECT_THAT(NamesIn(directory_.path()), ElementsAre(".lock", "round-000006", "round-000007"));
}

TEST_F(Rounds, PruneDoesNotCountWhatWasReplacedWhileItWasRead) {
  options_.keep = 1;
  options_.verify = true;
  const TemporaryDirectory elsewhere;
  bool changed = false;
  options_.progress = [&](int64_t, int64_t) {
    if (std::exchange(changed, true)) return;
    const std::string place = directory_.path() + "/" + RoundName(6);
    fs::copy(place, elsewhere.path() + "/copy", fs::copy_options::recursive);
    fs::rename(place, elsewhere.path() + "/read");
    fs::rename(elsewhere.path() + "/copy", place);
  };
  const auto result = Prune(options_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(changed);
  EXPECT_THAT(NamesIn(directory_.path()), ElementsAre(".lock", "round-000005", "round-000006"));
}

TEST_F(Rounds, PruneIsRefusedBesideASaveAndWithoutAnythingToKeep) {
  {
    const auto lock = FileLock::Acquire(directory_.path() + "/.lock");
    ASSERT_TRUE(lock.ok());
    EXPECT_FALSE(Prune(options_).ok());
  }
  options_.keep = 0;
  EXPECT_EQ(ExitCodeOf(Prune(options_).status()), ExitCode::kUsage);
  EXPECT_EQ(NamesIn(directory_.path()).size(), 7u);
}

}  // namespace
}  // namespace atl::checkpoint
