#include "tests/checkpoint/checkpoint_test_util.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/random.h"
#include "checkpoint/manifest.h"
#include "collectives/inprocess/inprocess.h"

namespace atl::checkpoint {

TemporaryDirectory::TemporaryDirectory() {
  path_ = testing::TempDir() + "/atoll-checkpoint-XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "no temporary directory";
}
TemporaryDirectory::~TemporaryDirectory() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

std::vector<TensorSpec> SmallModel(int64_t alignment, int64_t first) {
  const std::pair<const char*, std::vector<int64_t>> shapes[] = {
      {"model.embed_tokens.weight", {67, 96}},
      {"model.layers.0.self_attn.q_proj.weight", {96, 96}},
      {"model.layers.0.input_layernorm.weight", {96}},
      {"model.layers.1.mlp.down_proj.weight", {100, 301}},
      {"odd \"name\" \n \xC3\xA9 \xF0\x9F\x8C\x8A", {3, 1, 5}},
      {"scalar", {}},
      {"empty", {0, 7}},
      {"model.norm.weight", {513}},
  };
  std::vector<TensorSpec> tensors;
  int64_t at = first;
  for (const auto& [name, shape] : shapes) {
    int64_t size = 1;
    for (const int64_t dimension : shape) size *= dimension;
    tensors.push_back({name, shape, {at, at + size}});
    at = (at + size + alignment - 1) / alignment * alignment;
  }
  return tensors;
}

int64_t FlatSize(const std::vector<TensorSpec>& tensors) {
  int64_t end = 0;
  for (const TensorSpec& tensor : tensors) end = std::max(end, tensor.elements.end);
  return (end + 255) / 256 * 256;
}

float ValueOf(int64_t round, int64_t section, int64_t tensor, int64_t index) {
  return static_cast<float>((round * 31 + section * 7919 + tensor * 1009 + index * 40503) % 65521 -
                            32000);
}

std::vector<float> FlatVector(const std::vector<TensorSpec>& tensors, int64_t round,
                              int64_t section) {
  std::vector<float> flat(FlatSize(tensors), 1e30f);
  for (size_t t = 0; t < tensors.size(); ++t) {
    for (int64_t i = 0; i < tensors[t].elements.size(); ++i) {
      flat[tensors[t].elements.begin + i] = ValueOf(round, section, static_cast<int64_t>(t), i);
    }
  }
  return flat;
}

std::vector<Range> Cut(int64_t size, int parts, uint64_t seed) {
  const CounterRandom random(seed);
  std::vector<int64_t> edges = {0, size};
  for (int i = 1; i < parts; ++i) {
    edges.push_back(static_cast<int64_t>(random.Bits(i) % static_cast<uint64_t>(size + 1)));
  }
  std::sort(edges.begin(), edges.end());
  std::vector<Range> ranges;
  for (int i = 0; i < parts; ++i) ranges.push_back({edges[i], edges[i + 1]});
  return ranges;
}

void RunRegion(int ranks, const std::function<void(int, Communicator&)>& body) {
  auto group = MakeInProcessGroup(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] { body(rank, *group[rank]); });
  }
  for (std::thread& thread : threads) thread.join();
}

SaveOptions OptionsOf(const SaveJob& job) {
  SaveOptions options;
  options.directory = job.directory;
  options.description.round = job.round;
  options.description.digest = job.digest;
  options.description.next_sample = job.round * 64;
  options.description.inner_steps = job.round * 10;
  options.description.optimizer_updates = 399;
  options.description.region = job.region;
  options.description.job = "kjv-demo";
  options.description.model_yaml = "hidden_size: 96\nlayers: 2\n";
  options.description.seed = 0xFEDCBA9876543210ull;
  options.tensors = job.tensors;
  options.max_file_bytes = job.max_file_bytes;
  options.keep = job.keep;
  options.keep_every = job.keep_every;
  options.lock_seconds = job.lock_seconds;
  options.way = job.way;
  options.key = job.key;
  for (const std::string& prefix : job.prefixes) {
    options.sections.push_back(
        {prefix,
         prefix.starts_with("optim/") ? SectionClass::kRegional : SectionClass::kReplicated,
         {}});
  }
  return options;
}

std::vector<StatusOr<SaveResult>> SaveEverywhere(const SaveJob& job) {
  std::vector<std::vector<float>> flat;
  for (size_t section = 0; section < job.prefixes.size(); ++section) {
    const bool others = job.region != "oslo" && job.prefixes[section].starts_with("optim/");
    flat.push_back(
        FlatVector(job.tensors, job.round + (others ? 1000 : 0), static_cast<int64_t>(section)));
  }
  if (job.wrong_element >= 0) flat[0][job.wrong_element] += 1;
  // Several ranges a rank, so that a rank's slices are not one run.
  const std::vector<Range> ranges =
      Cut(FlatSize(job.tensors), job.pieces_a_rank * job.ranks, job.cut_seed);
  std::vector<StatusOr<SaveResult>> results(job.ranks, absl::UnknownError("did not run"));
  RunRegion(job.ranks, [&](int rank, Communicator& region) {
    SaveOptions options = OptionsOf(job);
    for (size_t section = 0; section < flat.size(); ++section) {
      for (size_t i = rank; i < ranges.size(); i += job.ranks) {
        options.sections[section].slices.push_back(
            {ranges[i], flat[section].data() + ranges[i].begin});
      }
    }
    results[rank] = Save(options, region);
  });
  return results;
}

void ExpectHolds(const std::string& path, int64_t round, const std::vector<TensorSpec>& tensors,
                 const std::vector<std::string>& prefixes, int ranks, uint64_t cut_seed,
                 const EncryptionKey* key) {
  const auto checkpoint = Checkpoint::Open(path, key);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const int64_t size = FlatSize(tensors);
  const std::vector<Range> ranges = Cut(size, ranks, cut_seed);
  for (size_t section = 0; section < prefixes.size(); ++section) {
    ASSERT_TRUE((*checkpoint)->HasSection(prefixes[section]));
    std::vector<float> expected = FlatVector(tensors, round, static_cast<int64_t>(section));
    std::vector<bool> stored(size, false);
    for (const TensorSpec& tensor : tensors) {
      std::fill(stored.begin() + tensor.elements.begin, stored.begin() + tensor.elements.end, true);
    }
    for (int64_t i = 0; i < size; ++i) expected[i] = stored[i] ? expected[i] : 0.0f;
    std::vector<float> actual(size, 777.0f);
    std::vector<Status> statuses(ranks);
    RunRegion(ranks, [&](int rank, Communicator&) {
      statuses[rank] =
          (*checkpoint)
              ->Read(prefixes[section], tensors, ranges[rank],
                     std::span<float>(actual).subspan(ranges[rank].begin, ranges[rank].size()));
    });
    for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(actual == expected) << prefixes[section] << " of " << path;
  }
}

std::string RootIn(const std::string& path) {
  const auto text = ReadFile(path + "/MANIFEST.json");
  if (!text.ok()) return std::string(text.status().message());
  const auto manifest = ParseManifest(*text);
  return manifest.ok() ? RootOf(*manifest, false) : std::string(manifest.status().message());
}

std::vector<std::string> NamesIn(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace atl::checkpoint
