// Damaged, incomplete and alien checkpoints: found, named, with exit code 2; List passes over them.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/random.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

std::string SaveOk(const SaveJob& job) {
  for (const auto& result : SaveEverywhere(job)) EXPECT_TRUE(result.ok()) << result.status();
  return job.directory + "/round-000041";
}

void Flip(const std::string& path, int64_t offset) {
  const auto file = OpenFile(path, O_RDWR);
  ASSERT_TRUE(file.ok()) << file.status();
  char byte = 0;
  ASSERT_TRUE(ReadAt(*file, path, &byte, 1, offset).ok());
  byte = static_cast<char>(byte ^ 0x04);
  ASSERT_TRUE(WriteAt(*file, path, &byte, 1, offset).ok());
}

// The first error met on the way of a resume: open, then read everything.
Status Load(const std::string& path, const SaveJob& job) {
  const auto checkpoint = Checkpoint::Open(path);
  if (!checkpoint.ok()) return checkpoint.status();
  std::vector<float> out(FlatSize(job.tensors));
  for (const std::string& prefix : job.prefixes) {
    RETURN_IF_ERROR((*checkpoint)->Read(prefix, job.tensors, {0, FlatSize(job.tensors)}, out));
  }
  return OkStatus();
}

Status Verify(const std::string& path) {
  const auto checkpoint = Checkpoint::Open(path);
  return checkpoint.ok() ? (*checkpoint)->Verify() : checkpoint.status();
}

TEST(Checkpoint, FindsAFlippedByteInAnyFile) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  const std::string path = SaveOk(job);
  ASSERT_TRUE(Load(path, job).ok());
  ASSERT_TRUE(Verify(path).ok());
  const CounterRandom random(20240610);
  uint64_t at = 0;
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (!entry.is_regular_file()) continue;
    ++files;
    const std::string file = entry.path().string();
    const auto size = static_cast<int64_t>(entry.file_size());
    std::vector<int64_t> places = {0, 8, size - 1};
    for (int i = 0; i < 5; ++i) {
      places.push_back(static_cast<int64_t>(random.Bits(at++) % static_cast<uint64_t>(size)));
    }
    for (const int64_t place : places) {
      SCOPED_TRACE(file + " at " + std::to_string(place));
      Flip(file, place);
      const Status verified = Verify(path);
      EXPECT_EQ(ExitCodeOf(verified), ExitCode::kUsage) << verified;
      EXPECT_THAT(verified.ToString(), HasSubstr(entry.path().filename().string()));
      const Status loaded = Load(path, job);
      if (absl::EndsWith(file, ".index.json")) {
        EXPECT_TRUE(loaded.ok()) << "a resume does not read it: " << loaded;
      } else {
        EXPECT_EQ(ExitCodeOf(loaded), ExitCode::kUsage) << loaded;
      }
      Flip(file, place);
    }
  }
  EXPECT_GT(files, 10);
  EXPECT_TRUE(Verify(path).ok());
}

TEST(Checkpoint, NamesTheDamagedChunkAndReadsTheOthers) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.prefixes = {"model"};
  job.max_file_bytes = 100'000'000;
  job.tensors = {{"a", {4'000'000}, {0, 4'000'000}}};
  const std::string path = SaveOk(job);
  Flip(path + "/model-00001-of-00001.safetensors", (2 << 22) + 5);
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::vector<float> out(1'000'000);
  EXPECT_TRUE((*checkpoint)->Read("model", job.tensors, {0, 1'000'000}, out).ok());
  const Status status = (*checkpoint)->Read("model", job.tensors, {2'000'000, 3'000'000}, out);
  EXPECT_THAT(status.ToString(), HasSubstr("chunk 2 (bytes 8388608 to 12582912)"));
}

TEST(Checkpoint, FindsTruncatedGrownAndMissingFiles) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  const std::string path = SaveOk(job);
  const std::string copy = directory.path() + "/copy";
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), path).string());
  }
  for (const std::string& file : files) {
    for (const char* what : {"truncated", "emptied", "grown", "missing", "a directory"}) {
      SCOPED_TRACE(file + " " + what);
      fs::remove_all(copy);
      fs::copy(path, copy, fs::copy_options::recursive);
      const fs::path victim = fs::path(copy) / file;
      const auto size = fs::file_size(victim);
      if (what[0] == 't') fs::resize_file(victim, size - 1);
      if (what[0] == 'e') fs::resize_file(victim, 0);
      if (what[0] == 'g') fs::resize_file(victim, size + 1);
      if (what[0] == 'm') fs::remove(victim);
      if (what[0] == 'a') fs::remove(victim), fs::create_directory(victim);
      const Status status = Checkpoint::Open(copy).status();
      EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage) << status;
      EXPECT_THAT(status.ToString(), HasSubstr(victim.filename().string()));
    }
  }
}

TEST(Checkpoint, RefusesAnAlienDirectoryAndSaysWhatToDo) {
  TemporaryDirectory directory;
  const Status status = Checkpoint::Open(directory.path()).status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage);
  EXPECT_THAT(status.ToString(), HasSubstr("MANIFEST.json"));
  EXPECT_THAT(status.ToString(), HasSubstr("round-NNNNNN"));
  EXPECT_EQ(ExitCodeOf(Checkpoint::Open(directory.path() + "/nowhere").status()), ExitCode::kUsage);
  ASSERT_TRUE(WriteFileAtomically(directory.path() + "/MANIFEST.json", "PK\x03\x04").ok());
  EXPECT_EQ(ExitCodeOf(Checkpoint::Open(directory.path()).status()), ExitCode::kUsage);
}

TEST(Checkpoint, RefusesAPipeInTheManifestsPlaceWithoutWaitingForIt) {
  TemporaryDirectory directory;
  ASSERT_EQ(mkfifo((directory.path() + "/MANIFEST.json").c_str(), 0600), 0);
  EXPECT_EQ(ExitCodeOf(Checkpoint::Open(directory.path()).status()), ExitCode::kUsage);
}

TEST(List, GivesTheNewestFirstAndExplainsWhatItPassesOver) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.prefixes = {"model"};
  job.keep = 10;
  for (const int64_t round : {9, 100, 41, 1'000'000, 70}) {
    job.round = round;
    for (const auto& result : SaveEverywhere(job)) ASSERT_TRUE(result.ok()) << result.status();
  }
  fs::remove(directory.path() + "/round-000100/MANIFEST.json");
  Flip(directory.path() + "/round-000041/MANIFEST.json", 200);
  fs::rename(directory.path() + "/round-000070", directory.path() + "/round-000071");
  fs::create_directory(directory.path() + "/.round-000200.00ff00ff.partial");
  fs::create_directory(directory.path() + "/lost+found");
  std::vector<std::string> ignored;
  const std::vector<Found> found = List(directory.path(), &ignored);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].description.round, 1'000'000);
  EXPECT_EQ(found[0].path, directory.path() + "/round-1000000");
  EXPECT_EQ(found[1].description.round, 9);
  EXPECT_THAT(ignored,
              UnorderedElementsAre(HasSubstr("round-000100: "), HasSubstr("round-000041: "),
                                   HasSubstr("round-000071: it holds round 70"),
                                   HasSubstr(".round-000200.00ff00ff.partial: a save is under way"),
                                   HasSubstr("lost+found: not the name of a checkpoint")));
}

TEST(List, OfADirectoryThatIsNotThereIsEmpty) {
  std::vector<std::string> ignored;
  EXPECT_TRUE(List("/nowhere/at/all", &ignored).empty());
  EXPECT_TRUE(ignored.empty());
}

}  // namespace
}  // namespace atl::checkpoint
