// Saving with some numbers of workers and reading with others gives the same bits.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <ctime>
#include <filesystem>

#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/names.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string SaveOk(const SaveJob& job) {
  std::string path;
  for (const auto& result : SaveEverywhere(job)) {
    EXPECT_TRUE(result.ok()) << result.status();
    if (result.ok()) path = result->path;
  }
  return path;
}

TEST(Checkpoint, IsTheSameFromAnyNumberOfWorkersAndReadableByAny) {
  std::string root;
  for (int writers = 1; writers <= 4; ++writers) {
    TemporaryDirectory directory;
    SaveJob job;
    job.directory = directory.path();
    job.ranks = writers;
    job.cut_seed = 100 + writers;
    const std::string path = SaveOk(job);
    EXPECT_EQ(path, directory.path() + "/round-000041");
    if (root.empty()) root = RootIn(path);
    EXPECT_EQ(RootIn(path), root) << writers << " writers";
    EXPECT_EQ(root.size(), 64u);
    for (int readers = 1; readers <= 4; ++readers) {
      ExpectHolds(path, job.round, job.tensors, job.prefixes, readers, 10 * writers + readers);
    }
    EXPECT_THAT(NamesIn(directory.path()), ElementsAre(".lock", "round-000041"));
  }
}

TEST(Checkpoint, IsReadWithOtherOffsetsOfTheFlatVector) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.ranks = 2;
  const std::string path = SaveOk(job);
  ExpectHolds(path, job.round, SmallModel(/*alignment=*/1), job.prefixes, 2, 5);
  ExpectHolds(path, job.round, SmallModel(/*alignment=*/1000, /*first=*/77), job.prefixes, 3, 6);
}

TEST(Checkpoint, HoldsTheSameWhateverTheSplitIntoFiles) {
  for (const int64_t limit : {int64_t{1}, int64_t{30'000}, int64_t{10'000'000'000}}) {
    TemporaryDirectory directory;
    SaveJob job;
    job.directory = directory.path();
    job.max_file_bytes = limit;
    job.ranks = 2;
    ExpectHolds(SaveOk(job), job.round, job.tensors, job.prefixes, 2, 9);
  }
}

TEST(Checkpoint, KeepsEveryBitOfOddFloats) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.prefixes = {"model"};
  job.tensors = {{"w", {8}, {0, 8}}};
  const uint32_t bits[8] = {0x7FC00001, 0xFFFFFFFF, 0x80000000, 0x00000001,
                            0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x7F800001};
  float values[8];
  std::memcpy(values, bits, sizeof values);
  SaveOptions options = OptionsOf(job);
  options.sections[0].slices = {{{0, 8}, values}};
  RunRegion(1, [&](int, Communicator& region) {
    const auto saved = Save(options, region);
    ASSERT_TRUE(saved.ok()) << saved.status();
    const auto checkpoint = Checkpoint::Open(saved->path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    float read[8];
    ASSERT_TRUE((*checkpoint)->Read("model", job.tensors, {0, 8}, read).ok());
    EXPECT_EQ(std::memcmp(read, values, sizeof values), 0);
  });
}

TEST(Checkpoint, ReadsAcrossChunksOfLargeTensors) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.prefixes = {"model"};
  job.max_file_bytes = 20'000'000;
  // 12 MB, 6 MB and 6 MB: chunks of 4 MiB end inside tensors and hold parts of two.
  job.tensors = {{"a", {3000, 1000}, {0, 3'000'000}},
                 {"b", {1'500'000}, {3'000'064, 4'500'064}},
                 {"c", {1'500'000}, {4'500'096, 6'000'096}}};
  job.ranks = 3;
  const std::string path = SaveOk(job);
  ExpectHolds(path, job.round, job.tensors, job.prefixes, 4, 3);
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::vector<float> expected = FlatVector(job.tensors, job.round, 0);
  for (const Range range : {Range{1'047'551, 1'047'553}, Range{2'999'999, 3'000'065},
                            Range{4'400'000, 4'600'000}, Range{5, 5}}) {
    std::vector<float> actual(range.size());
    ASSERT_TRUE((*checkpoint)->Read("model", job.tensors, range, actual).ok());
    for (int64_t i = 0; i < range.size(); ++i) {
      const float stored = expected[range.begin + i] == 1e30f ? 0.0f : expected[range.begin + i];
      ASSERT_EQ(actual[i], stored) << range.begin + i;
    }
  }
}

TEST(Checkpoint, GivesBackItsDescriptionAndTensors) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  const std::string path = SaveOk(job);
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const Description& description = (*checkpoint)->description();
  EXPECT_EQ(description.round, 41);
  EXPECT_EQ(description.digest, job.digest);
  EXPECT_EQ(description.next_sample, 41 * 64);
  EXPECT_EQ(description.inner_steps, 410);
  EXPECT_EQ(description.optimizer_updates, 399);
  EXPECT_EQ(description.region, "oslo");
  EXPECT_EQ(description.job, "kjv-demo");
  EXPECT_EQ(description.model_yaml, "hidden_size: 96\nlayers: 2\n");
  EXPECT_EQ(description.seed, 0xFEDCBA9876543210ull);
  ASSERT_EQ((*checkpoint)->tensors().size(), job.tensors.size());
  for (const TensorSpec& tensor : (*checkpoint)->tensors()) {
    bool found = false;
    for (const TensorSpec& other : job.tensors) {
      found |= other.name == tensor.name && other.shape == tensor.shape &&
               other.elements == tensor.elements;
    }
    EXPECT_TRUE(found) << tensor.name;
  }
  EXPECT_EQ((*checkpoint)->path(), path);
  EXPECT_FALSE((*checkpoint)->HasSection("optim/exp_avg_sq"));
  EXPECT_TRUE((*checkpoint)->Verify().ok());
}

TEST(Checkpoint, OfAnotherModelIsRefusedWithTheTensor) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  const auto checkpoint = Checkpoint::Open(SaveOk(job));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::vector<float> out(6);
  Status status = (*checkpoint)->Read("model", {{"unknown", {6}, {0, 6}}}, {0, 6}, out);
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage);
  EXPECT_THAT(status.ToString(), HasSubstr("unknown"));
  status = (*checkpoint)->Read("model", {{"scalar", {6}, {0, 6}}}, {0, 6}, out);
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage);
  EXPECT_THAT(status.ToString(), HasSubstr("[6]"));
  status = (*checkpoint)->Read("optim/none", job.tensors, {0, 6}, out);
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage);
}

TEST(Save, LeavesAWholeCheckpointOfTheSameRoundAlone) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.ranks = 2;
  const std::string manifest = SaveOk(job) + "/MANIFEST.json";
  const auto before = std::filesystem::last_write_time(manifest);
  job.ranks = 3;
  EXPECT_EQ(SaveOk(job), directory.path() + "/round-000041");
  EXPECT_EQ(std::filesystem::last_write_time(manifest), before);
}

TEST(Save, ReplacesARoundOfAnotherDigest) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.ranks = 2;
  SaveOk(job);
  job.digest = "ffffffffffffffffffffffffffffffff";
  const std::string path = SaveOk(job);
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->description().digest, job.digest);
  EXPECT_THAT(NamesIn(directory.path()), ElementsAre(".lock", "round-000041"));
}

TEST(Save, WritesADamagedCheckpointOfTheSameRoundAnew) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  const std::string path = SaveOk(job);
  const std::string file = path + "/outer/momentum-00001-of-00003.safetensors";
  {
    const auto fd = OpenFile(file, O_WRONLY);
    ASSERT_TRUE(fd.ok()) << fd.status();
    ASSERT_TRUE(WriteAt(*fd, file, "x", 1, 9000).ok());
  }
  SaveOk(job);
  ExpectHolds(path, job.round, job.tensors, job.prefixes, 1, 1);
}

TEST(Save, KeepsTheNewestAndNeverRemovesTheOneJustWritten) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.prefixes = {"model"};
  job.keep = 2;
  for (const int64_t round : {10, 20, 30, 40}) {
    job.round = round;
    SaveOk(job);
  }
  EXPECT_THAT(NamesIn(directory.path()), ElementsAre(".lock", "round-000030", "round-000040"));
  job.round = 5;  // a run that went far back
  job.keep = 1;
  SaveOk(job);
  EXPECT_THAT(NamesIn(directory.path()), ElementsAre(".lock", "round-000005"));
}

TEST(Save, KeepsRoundsThatAreMultiplesOfKeepEveryBesidesTheNewest) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.prefixes = {"model"};
  job.keep = 2;
  job.keep_every = 20;
  for (const int64_t round : {10, 20, 30, 40, 50, 60, 70}) {
    job.round = round;
    SaveOk(job);
  }
  EXPECT_THAT(NamesIn(directory.path()),
              ElementsAre(".lock", "round-000020", "round-000040", "round-000060", "round-000070"));
}

TEST(Save, TellsTheRootAndTheHashesOfReplicatedFiles) {
  TemporaryDirectory directory;
  std::vector<Replicated> told;
  for (const int ranks : {1, 3}) {
    SaveJob job;
    job.directory = directory.path() + "/" + std::to_string(ranks);
    job.ranks = ranks;
    const auto results = SaveEverywhere(job);
    ASSERT_TRUE(results[0].ok()) << results[0].status();
    told.push_back(results[0]->replicated);
    for (const Replicated::File& file : told.back().files) {
      EXPECT_FALSE(file.name.starts_with("optim/")) << "regional";
      const auto hashes = ReadFile(results[0]->path + "/" + ChunkHashName(file.name));
      ASSERT_TRUE(hashes.ok());
      EXPECT_EQ(file.prefixes.size() * 4, hashes->size());
      EXPECT_EQ(file.prefixes.substr(0, 8), hashes->substr(0, 8));
    }
  }
  EXPECT_GT(told[0].files.size(), 2u);
  EXPECT_EQ(told[0].root.size(), 64u);
  EXPECT_EQ(told[0].root, told[1].root);
}

TEST(Save, RemovesWhatADeadRunLeft) {
  TemporaryDirectory directory;
  std::filesystem::create_directories(directory.path() + "/.round-000007.0badf00d.partial/outer");
  std::filesystem::create_directories(directory.path() + "/.round-000003.removed/outer");
  std::filesystem::create_directories(directory.path() + "/notes");
  SaveJob job;
  job.directory = directory.path();
  SaveOk(job);
  EXPECT_THAT(NamesIn(directory.path()), ElementsAre(".lock", "notes", "round-000041"));
}

TEST(Save, TellsEveryRankOfAShardThatNobodyOrTwoRanksWrite) {
  for (const bool twice : {false, true}) {
    TemporaryDirectory directory;
    SaveJob job;
    job.directory = directory.path();
    const std::vector<float> flat = FlatVector(job.tensors, job.round, 0);
    std::vector<Status> statuses(3);
    RunRegion(3, [&](int rank, Communicator& region) {
      SaveOptions options = OptionsOf(job);
      for (Section& section : options.sections) {
        const int64_t third = FlatSize(job.tensors) / 3;
        Range range = {rank * third, rank == 2 ? FlatSize(job.tensors) : (rank + 1) * third};
        if (rank == 1 && section.prefix == "outer/momentum") range.end += twice ? 1 : -1;
        section.slices = {{range, flat.data() + range.begin}};
      }
      statuses[rank] = Save(options, region).status();
    });
    for (const Status& status : statuses) {
      EXPECT_FALSE(status.ok());
      EXPECT_EQ(status, statuses[0]);
      EXPECT_THAT(status.ToString(), HasSubstr("outer/momentum"));
      EXPECT_THAT(status.ToString(), HasSubstr("model.layers.1.mlp.down_proj.weight"));
      EXPECT_THAT(status.ToString(), HasSubstr(twice ? "ranks 1 and 2 both" : "nobody writes"));
    }
    EXPECT_THAT(NamesIn(directory.path()), ElementsAre());
  }
}

TEST(Save, TellsEveryRankWhenRanksSaveDifferentThings) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  std::vector<Status> statuses(2);
  RunRegion(2, [&](int rank, Communicator& region) {
    SaveOptions options = OptionsOf(job);
    options.description.next_sample += rank;
    statuses[rank] = Save(options, region).status();
  });
  EXPECT_FALSE(statuses[0].ok());
  EXPECT_EQ(statuses[0], statuses[1]);
  EXPECT_THAT(statuses[0].ToString(), HasSubstr("ranks 0 and 1"));
}

TEST(PredictedBytes, IsWhatACheckpointTakesOrALittleMore) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.max_file_bytes = SaveOptions().max_file_bytes;
  const auto saved = SaveEverywhere(job);
  ASSERT_TRUE(saved[0].ok()) << saved[0].status();
  int64_t on_disk = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(saved[0]->path)) {
    if (entry.is_regular_file()) on_disk += static_cast<int64_t>(entry.file_size());
  }
  EXPECT_EQ(saved[0]->bytes, on_disk);
  const int64_t predicted = PredictedBytes(job.tensors, 3);
  EXPECT_GE(predicted, on_disk);
  EXPECT_LE(predicted, on_disk + (1 << 20));
}

TEST(Checkpoint, OfTenThousandTensorsOpensFast) {
  TemporaryDirectory directory;
  SaveJob job;
  job.directory = directory.path();
  job.max_file_bytes = 5'000'000'000;
  job.prefixes = {"model"};
  job.tensors.clear();
  for (int64_t i = 0; i < 10'000; ++i) {
    job.tensors.push_back(
        {"model.layers." + std::to_string(i) + ".weight", {8}, {i * 256, i * 256 + 8}});
  }
  const std::string path = SaveOk(job);
  // Time of the processor, not of the wall: a loaded machine must not fail the test.
  const std::clock_t before = std::clock();
  const auto checkpoint = Checkpoint::Open(path);
  const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_LT(seconds, 2.0);  // 0.1 s on an ordinary machine
  RecordProperty("milliseconds", static_cast<int>(seconds * 1000));
  ExpectHolds(path, job.round, job.tensors, job.prefixes, 2, 4);
}

}  // namespace
}  // namespace atl::checkpoint
