#include "tests/checkpoint/transfer/transfer_test_util.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/file.h"
#include "checkpoint/chunks.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;

std::set<std::string> FilesIn(const std::string& path) {
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) names.insert(fs::relative(entry.path(), path).string());
  }
  return names;
}

}  // namespace

wan::Key TestKey(uint8_t value) {
  wan::Key key;
  key.fill(value);
  return key;
}

SaveJob ChunkyJob(const std::string& directory) {
  SaveJob job;
  job.directory = directory;
  job.ranks = 2;
  job.max_file_bytes = 9 << 20;
  job.tensors = {{"a", {1024, 1024}, {0, 1 << 20}},
                 {"b", {1024, 1024}, {1 << 20, 2 << 20}},
                 {"c", {1024, 1000}, {2 << 20, (2 << 20) + 1024 * 1000}}};
  job.prefixes = {"model", "outer/momentum", "optim/exp_avg"};
  return job;
}

std::string SaveChunky(const std::string& directory) {
  const auto saved = SaveEverywhere(ChunkyJob(directory));
  for (const auto& one : saved) EXPECT_TRUE(one.ok()) << one.status();
  return saved[0].ok() ? saved[0]->path : "";
}

void CopyTree(const std::string& from, const std::string& to) {
  fs::create_directories(fs::path(to).parent_path());
  fs::copy(from, to, fs::copy_options::recursive);
}

void FlipIn(const std::string& path, const std::vector<int64_t>& chunks) {
  const auto file = OpenFile(path, O_RDWR);
  ASSERT_TRUE(file.ok()) << file.status();
  for (const int64_t chunk : chunks) {
    // Near its end: a header would be missed at once.
    const int64_t at = ChunkRange(chunk, *FileSize(path)).end - 5;
    char byte = 0;
    ASSERT_TRUE(ReadAt(*file, path, &byte, 1, at).ok());
    byte = static_cast<char>(byte ^ 0x10);
    ASSERT_TRUE(WriteAt(*file, path, &byte, 1, at).ok());
  }
}

std::unique_ptr<Server> Serve(const std::string& directory, const wan::Key& key) {
  ServeOptions options;
  options.directory = directory;
  options.listen = {"127.0.0.1", 0};
  options.key = key;
  auto server = Server::Start(options);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

PullOptions PullFrom(const std::vector<Endpoint>& sources, const std::string& directory) {
  PullOptions options;
  options.sources = sources;
  options.directory = directory;
  options.key = TestKey();
  return options;
}

void ExpectSame(const std::string& path, const std::string& other) {
  const std::set<std::string> names = FilesIn(path);
  EXPECT_EQ(names, FilesIn(other));
  for (const std::string& name : names) {
    const auto mine = ReadFile(path + "/" + name);
    const auto theirs = ReadFile(other + "/" + name);
    ASSERT_TRUE(mine.ok() && theirs.ok()) << name;
    EXPECT_TRUE(*mine == *theirs) << name;
  }
}

}  // namespace atl::checkpoint
