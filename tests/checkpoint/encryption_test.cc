// Encrypted checkpoints: what they hold, what they hide, and what is found out with and without
// the key.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/inspect.h"
#include "checkpoint/names.h"
#include "checkpoint/repair.h"
#include "checkpoint/sha256.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

using KeyPointer = std::shared_ptr<const EncryptionKey>;

KeyPointer Key(char fill = 'k') { return EncryptionKey::FromBytes(std::string(32, fill)); }

std::string SaveOk(const SaveJob& job) {
  std::string path;
  for (const auto& result : SaveEverywhere(job)) {
    EXPECT_TRUE(result.ok()) << result.status();
    if (result.ok()) path = result->path;
  }
  return path;
}

SaveJob JobIn(const TemporaryDirectory& directory) {
  SaveJob job;
  job.directory = directory.path();
  job.key = Key();
  return job;
}

Manifest ManifestOf(const std::string& path) {
  return ParseManifest(ReadFile(path + "/MANIFEST.json").value()).value();
}

void Overwrite(const std::string& path, absl::string_view content) {
  const auto file = OpenFile(path, O_WRONLY | O_TRUNC);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(WriteAt(*file, path, content.data(), static_cast<int64_t>(content.size()), 0).ok());
}

TEST(EncryptedCheckpoint, IsTheSameFromAnyNumberOfWorkersInAnyRegionAndReadableByAny) {
  std::string root;
  std::string model;
  for (int writers = 1; writers <= 4; ++writers) {
    TemporaryDirectory directory;
    SaveJob job = JobIn(directory);
    job.ranks = writers;
    job.cut_seed = 100 + writers;
    if (writers == 3) job.region = "johor";
    if (writers == 4) job.way = WriteWay::kPlain;
    const std::string path = SaveOk(job);
    const Manifest manifest = ManifestOf(path);
    if (root.empty()) root = RootOf(manifest, /*replicated_only=*/true);
    EXPECT_EQ(RootOf(manifest, true), root) << writers << " writers";
    const std::string bytes = ReadFile(path + "/" + manifest.files[0].name).value();
    if (model.empty()) model = bytes;
    EXPECT_TRUE(bytes == model) << writers << " writers";
    const std::vector<std::string> own = {"model", "outer/momentum"};
    for (int readers = 1; readers <= 4; ++readers) {
      ExpectHolds(path, job.round, job.tensors, job.region == "oslo" ? job.prefixes : own, readers,
                  10 * writers + readers, job.key.get());
    }
  }
}

TEST(EncryptedCheckpoint, IsReadAcrossChunksOfLargeTensors) {
  TemporaryDirectory directory;
  SaveJob job = JobIn(directory);
  job.prefixes = {"model", "optim/exp_avg"};
  job.max_file_bytes = 20'000'000;
  job.tensors = {{"a", {3000, 1000}, {0, 3'000'000}},
                 {"b", {1'500'000}, {3'000'064, 4'500'064}},
                 {"c", {1'500'000}, {4'500'096, 6'000'096}}};
  job.ranks = 3;
  const std::string path = SaveOk(job);
  ExpectHolds(path, job.round, job.tensors, job.prefixes, 4, 3, job.key.get());
}

// Names of tensors stand in the manifest; beside it nothing of what was saved can be found.
TEST(EncryptedCheckpoint, ShowsNothingOfItsContent) {
  TemporaryDirectory directory;
  SaveJob job = JobIn(directory);
  const std::string path = SaveOk(job);
  int files = 0;
  const std::vector<float> flat = FlatVector(job.tensors, job.round, 0);
  const std::string some(reinterpret_cast<const char*>(flat.data() + 10), 16);
  for (const ManifestFile& file : ManifestOf(path).files) {
    const std::string bytes = ReadFile(path + "/" + file.name).value();
    EXPECT_EQ(bytes.find("__metadata__"), std::string::npos) << file.name;
    EXPECT_EQ(bytes.find("weight"), std::string::npos) << file.name;
    EXPECT_EQ(bytes.find(std::string(16, '\0')), std::string::npos) << file.name;
    EXPECT_EQ(bytes.find(some), std::string::npos) << file.name;
    ++files;
  }
  EXPECT_GE(files, 4);
}

// A run that goes back may come to a round once more with another state: what both have on disks
// must not be encrypted alike, or the difference of the states would lie open.
TEST(EncryptedCheckpoint, NeverUsesAKeyForTwoStates) {
  TemporaryDirectory first, second;
  SaveJob job = JobIn(first);
  job.prefixes = {"model", "optim/exp_avg"};
  const std::string a = SaveOk(job);
  job.directory = second.path();
  SaveOptions options = OptionsOf(job);
  std::vector<std::vector<float>> flat;
  for (int section = 0; section < 2; ++section) {
    flat.push_back(FlatVector(job.tensors, job.round, section));
    options.sections[section].slices = {
        {{0, static_cast<int64_t>(flat[section].size())}, flat[section].data()}};
  }
  flat[0][100] += 1;  // one number of the model, and nothing of what a manifest says
  std::string b;
  RunRegion(1, [&](int, Communicator& region) {
    const auto saved = Save(options, region);
    ASSERT_TRUE(saved.ok()) << saved.status();
    b = saved->path;
  });
  const Manifest one = ManifestOf(a), other = ManifestOf(b);
  ASSERT_EQ(one.files.size(), other.files.size());
  EXPECT_NE(one.encryption->replicated_salt, other.encryption->replicated_salt);
  EXPECT_NE(one.encryption->regional_salt, other.encryption->regional_salt);
  for (const ManifestFile& file : one.files) {
    const std::string x = ReadFile(a + "/" + file.name).value();
    const std::string y = ReadFile(b + "/" + file.name).value();
    ASSERT_EQ(x.size(), y.size());
    int64_t equal = 0;
    for (size_t i = 0; i < x.size(); ++i) equal += x[i] == y[i];
    // Of random bytes one in 256 is.
    EXPECT_LT(equal, 20 + static_cast<int64_t>(x.size()) / 64) << file.name;
  }
}

TEST(EncryptedCheckpoint, IsVerifiedListedAndRepairedWithoutTheKey) {
  TemporaryDirectory oslo, johor;
  SaveJob job = JobIn(oslo);
  const std::string path = SaveOk(job);
  job.directory = johor.path();
  job.region = "johor";
  const std::string replica = SaveOk(job);
  const std::string name = ManifestOf(path).files[0].name;
  std::string bytes = ReadFile(path + "/" + name).value();
  bytes[5000] = static_cast<char>(bytes[5000] ^ 1);
  Overwrite(path + "/" + name, bytes);

  for (const EncryptionKey* key : {static_cast<const EncryptionKey*>(nullptr), job.key.get()}) {
    InspectOptions options;
    options.key = key;
    const auto damaged = Inspect(path, options);
    ASSERT_TRUE(damaged.ok());
    ASSERT_EQ(damaged->damages.size(), 1u);
    EXPECT_EQ(damaged->damages[0].kind, DamageKind::kChunk);
    EXPECT_EQ(damaged->damages[0].file, name);
  }
  const auto opened = Checkpoint::Open(path, job.key.get());
  ASSERT_TRUE(opened.ok()) << opened.status();
  std::vector<float> out(FlatSize(job.tensors));
  EXPECT_TRUE(absl::IsDataLoss(
      (*opened)->Read("model", job.tensors, {0, static_cast<int64_t>(out.size())}, out)));

  RepairOptions repair;
  repair.path = path;
  repair.sources.push_back(MakeDirectorySource(replica));
  const auto repaired = Repair(repair);
  ASSERT_TRUE(repaired.ok()) << repaired.status();
  EXPECT_TRUE(repaired->repaired);
  ExpectHolds(path, job.round, job.tensors, job.prefixes, 2, 4, job.key.get());

  const std::vector<Found> found = List(oslo.path(), nullptr);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].key_id, job.key->id());
  EXPECT_EQ(found[0].description.round, 41);
}

// A region whose memory was wrong takes the others' state, and keeps its own inner state.
TEST(EncryptedCheckpoint, IsMendedWithTheOthersStateByWhoHasTheKey) {
  TemporaryDirectory oslo, johor, right;
  SaveJob job = JobIn(right);
  SaveOk(job);
  job.directory = johor.path();
  job.region = "johor";
  const std::string replica = SaveOk(job);
  job = JobIn(oslo);
  job.wrong_element = 100;
  const std::string path = SaveOk(job);
  const std::string root = RootOf(ManifestOf(replica), /*replicated_only=*/true);
  ASSERT_NE(RootOf(ManifestOf(path), true), root);

  RepairOptions options;
  options.path = path;
  options.replicated_root = root;
  options.sources.push_back(MakeDirectorySource(replica));
  const std::string before = ReadFile(path + "/MANIFEST.json").value();
  const KeyPointer wrong = Key('w');
  for (const EncryptionKey* key : {static_cast<const EncryptionKey*>(nullptr), wrong.get()}) {
    options.key = key;
    EXPECT_EQ(ExitCodeOf(Repair(options).status()), ExitCode::kUsage);
    EXPECT_EQ(ReadFile(path + "/MANIFEST.json").value(), before);
  }
  options.key = job.key.get();
  const auto repaired = Repair(options);
  ASSERT_TRUE(repaired.ok()) << repaired.status();
  EXPECT_TRUE(repaired->repaired);
  EXPECT_EQ(RootOf(ManifestOf(path), true), root);
  ExpectHolds(path, job.round, job.tensors, job.prefixes, 2, 4, job.key.get());
}

TEST(EncryptedCheckpoint, IsRefusedWithoutItsKeyBeforeAnythingIsUsed) {
  TemporaryDirectory directory, plain;
  SaveJob job = JobIn(directory);
  const std::string path = SaveOk(job);
  const auto keyless = Checkpoint::Open(path);
  ASSERT_TRUE(keyless.ok()) << keyless.status();
  EXPECT_EQ((*keyless)->key_id(), job.key->id());
  EXPECT_TRUE((*keyless)->HasSection("model"));
  EXPECT_TRUE((*keyless)->Verify().ok());
  std::vector<float> out(1, 777.0f);
  const Status refused = (*keyless)->Read("model", job.tensors, {0, 1}, out);
  EXPECT_EQ(ExitCodeOf(refused), ExitCode::kUsage);
  EXPECT_THAT(refused.ToString(), AllOf(HasSubstr("no key"), HasSubstr(job.key->id())));
  EXPECT_EQ(out[0], 777.0f);

  const KeyPointer wrong = Key('w');
  const Status other = Checkpoint::Open(path, wrong.get()).status();
  EXPECT_EQ(ExitCodeOf(other), ExitCode::kUsage);
  EXPECT_THAT(other.ToString(), AllOf(HasSubstr(job.key->id()), HasSubstr(wrong->id())));

  // One that lies in the clear is no substitute: anybody could have written it.
  job.directory = plain.path();
  job.key = nullptr;
  const Status unsealed = Checkpoint::Open(SaveOk(job), wrong.get()).status();
  EXPECT_EQ(ExitCodeOf(unsealed), ExitCode::kUsage);
  EXPECT_THAT(unsealed.ToString(), HasSubstr("not encrypted"));
}

// What a site could do with its disk and this program, but without the key.
class Forger {
 public:
  explicit Forger(std::string path) : path_(std::move(path)), manifest_(ManifestOf(path_)) {}

  Manifest& manifest() { return manifest_; }
  std::string Bytes(size_t file) { return ReadFile(Path(file)).value(); }
  void Replace(size_t file, const std::string& bytes) {
    Overwrite(Path(file), bytes);
    std::string hashes;
    for (size_t at = 0; at < bytes.size(); at += kChunkBytes) {
      hashes += Sha256(absl::string_view(bytes).substr(at, kChunkBytes));
    }
    ManifestFile& entry = manifest_.files[file];
    Overwrite(path_ + "/" + ChunkHashName(entry.name), hashes);
    entry.bytes = static_cast<int64_t>(bytes.size());
    entry.root = Sha256Hex(hashes);
  }
  // With its own hash and both roots right.
  void Commit() { Overwrite(path_ + "/MANIFEST.json", WriteManifest(manifest_).value()); }

 private:
  std::string Path(size_t file) const { return path_ + "/" + manifest_.files[file].name; }
  const std::string path_;
  Manifest manifest_;
};

// The forgery deceives whoever has no key, which shows that only the mac stands against it.
void ExpectOnlyTheKeyTells(const std::string& path, const EncryptionKey& key) {
  const auto inspection = Inspect(path, {});
  ASSERT_TRUE(inspection.ok());
  EXPECT_TRUE(inspection->whole()) << inspection->damages[0].message;
  const Status status = Checkpoint::Open(path, &key).status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage);
  EXPECT_THAT(status.ToString(), HasSubstr("mac is wrong"));
  InspectOptions with_key;
  with_key.key = &key;
  const auto known = Inspect(path, with_key);
  ASSERT_TRUE(known.ok());
  EXPECT_FALSE(known->whole());
}

TEST(EncryptedCheckpoint, CanNotBeForgedWithoutTheKey) {
  const auto forge = [](const std::function<void(Forger&)>& change) {
    TemporaryDirectory directory;
    SaveJob job = JobIn(directory);
    const std::string path = SaveOk(job);
    Forger forger(path);
    change(forger);
    forger.Commit();
    ExpectOnlyTheKeyTells(path, *job.key);
  };
  forge([](Forger& forger) {  // a number of the model is changed by a known difference
    std::string bytes = forger.Bytes(0);
    bytes[5000] = static_cast<char>(bytes[5000] ^ 0x40);
    forger.Replace(0, bytes);
  });
  forge([](Forger& forger) {  // files change places
    const std::string model = forger.Bytes(0), next = forger.Bytes(1);
    forger.Replace(0, next);
    forger.Replace(1, model);
  });
  forge([](Forger& forger) { ++forger.manifest().description.next_sample; });
  forge([](Forger& forger) { forger.manifest().description.digest = "00"; });
  forge([](Forger& forger) { forger.manifest().encryption->mac = std::string(64, '0'); });
  forge([](Forger& forger) { forger.manifest().encryption->regional_salt = NewSalt(); });
  forge([](Forger& forger) { forger.manifest().tensors[0].name = "model.other.weight"; });
}

TEST(EncryptedCheckpoint, CanNotBePassedOffAsAnotherRound) {
  TemporaryDirectory directory;
  SaveJob job = JobIn(directory);
  const std::string path = SaveOk(job);
  fs::rename(path, directory.path() + "/round-000050");
  std::vector<std::string> ignored;
  EXPECT_TRUE(List(directory.path(), &ignored).empty());
  Forger forger(directory.path() + "/round-000050");
  forger.manifest().description.round = 50;
  forger.Commit();
  EXPECT_EQ(List(directory.path(), nullptr).size(), 1u);
  ExpectOnlyTheKeyTells(directory.path() + "/round-000050", *job.key);
}

TEST(EncryptedCheckpoint, WithSwappedChunksIsDamagedWithAndWithoutTheKey) {
  TemporaryDirectory directory;
  SaveJob job = JobIn(directory);
  job.prefixes = {"model"};
  job.max_file_bytes = 20'000'000;
  job.tensors = {{"a", {3'000'000}, {0, 3'000'000}}};
  const std::string path = SaveOk(job);
  const std::string name = path + "/model-00001-of-00001.safetensors";
  std::string bytes = ReadFile(name).value();
  ASSERT_GT(bytes.size(), size_t{2 * kChunkBytes});
  std::swap_ranges(bytes.begin(), bytes.begin() + kChunkBytes, bytes.begin() + kChunkBytes);
  Overwrite(name, bytes);
  for (const EncryptionKey* key : {static_cast<const EncryptionKey*>(nullptr), job.key.get()}) {
    InspectOptions options;
    options.key = key;
    const auto inspection = Inspect(path, options);
    ASSERT_TRUE(inspection.ok());
    ASSERT_EQ(inspection->damages.size(), 2u);
    EXPECT_EQ(inspection->damages[0].chunk, 0);
    EXPECT_EQ(inspection->damages[1].chunk, 1);
  }
}

TEST(EncryptedCheckpoint, IsLeftAloneIfItIsThereAlreadyAndWrittenAnewIfTheKeyIsAnother) {
  TemporaryDirectory directory;
  SaveJob job = JobIn(directory);
  const std::string path = SaveOk(job);
  const std::string text = ReadFile(path + "/MANIFEST.json").value();
  EXPECT_EQ(SaveOk(job), path);
  EXPECT_EQ(ReadFile(path + "/MANIFEST.json").value(), text);
  for (const KeyPointer& key : {Key('n'), KeyPointer(), Key()}) {
    job.key = key;
    EXPECT_EQ(SaveOk(job), path);
    ExpectHolds(path, job.round, job.tensors, job.prefixes, 1, 1, key.get());
  }
}

TEST(EncryptedCheckpoint, NeedsOneKeyOnAllRanks) {
  TemporaryDirectory directory;
  SaveJob job = JobIn(directory);
  job.prefixes = {"model"};
  const std::vector<float> flat = FlatVector(job.tensors, job.round, 0);
  std::vector<Status> statuses(2);
  RunRegion(2, [&](int rank, Communicator& region) {
    SaveOptions options = OptionsOf(job);
    if (rank == 1) options.key = Key('w');
    if (rank == 0) {
      options.sections[0].slices = {{{0, static_cast<int64_t>(flat.size())}, flat.data()}};
    }
    statuses[rank] = Save(options, region).status();
  });
  for (const Status& status : statuses) EXPECT_FALSE(status.ok());
  EXPECT_TRUE(List(directory.path(), nullptr).empty());
}

}  // namespace
}  // namespace atl::checkpoint
