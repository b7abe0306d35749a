// Runs of bytes reach their places, whichever way they are written.
#include "checkpoint/file_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/random.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

class FileWriterTest : public testing::TestWithParam<WriteWay> {};

void MakeFile(const std::string& path, int64_t bytes) {
  ASSERT_TRUE(WriteFileAtomically(path, "").ok());
  ASSERT_EQ(truncate(path.c_str(), bytes), 0);
}

// Writes runs of random length to `files` files, in an order of their own, from a buffer that
// changes after each call.
void ExpectRunsArrive(const std::string& directory, WriteWay way, int files, int64_t bytes,
                      int64_t longest) {
  const CounterRandom random(5);
  std::vector<std::string> expected(files, std::string(bytes, '\0'));
  std::vector<std::pair<int, Range>> runs;
  uint64_t at = 0;
  for (int file = 0; file < files; ++file) {
    const std::string path = directory + "/" + std::to_string(file);
    MakeFile(path, bytes);
    for (int64_t begin = 0; begin < bytes;) {
      const int64_t size = std::min<int64_t>(bytes - begin, 1 + random.Bits(at++) % longest);
      if (random.Bits(at++) % 4 > 0) runs.push_back({file, {begin, begin + size}});
      begin += size;
    }
  }
  // Some neighbours swapped: runs that go on, and runs that do not.
  for (size_t i = 1; i < runs.size(); ++i) {
    if (random.Bits(at++) % 5 == 0) std::swap(runs[i], runs[random.Bits(at++) % runs.size()]);
  }
  const auto writer = FileWriter::Create(way);
  std::string buffer;
  for (const auto& [file, range] : runs) {
    buffer.resize(range.size());
    for (char& byte : buffer) byte = static_cast<char>(random.Bits(at++));
    std::copy(buffer.begin(), buffer.end(), expected[file].begin() + range.begin);
    const Status written = writer->Write(directory + "/" + std::to_string(file), buffer.data(),
                                         range.size(), range.begin);
    ASSERT_TRUE(written.ok()) << written;
    std::fill(buffer.begin(), buffer.end(), '\x55');
  }
  ASSERT_TRUE(writer->Finish().ok());
  for (int file = 0; file < files; ++file) {
    const auto content = ReadFile(directory + "/" + std::to_string(file));
    ASSERT_TRUE(content.ok());
    EXPECT_TRUE(*content == expected[file]) << file << " with " << writer->Describe();
  }
}

TEST_P(FileWriterTest, PutsEveryByteInItsPlace) {
  for (const int64_t longest : {5000, 300'000, 5'000'000}) {
    TemporaryDirectory directory;
    ExpectRunsArrive(directory.path(), GetParam(), 3, 6'000'001, longest);
  }
}

TEST_P(FileWriterTest, WritesMoreFilesThanItKeepsOpen) {
  TemporaryDirectory directory;
  ExpectRunsArrive(directory.path(), GetParam(), 70, 20'000, 30'000);
}

TEST_P(FileWriterTest, NamesTheFileThatItCannotWrite) {
  TemporaryDirectory directory;
  const auto writer = FileWriter::Create(GetParam());
  const std::string bytes(100, 'x');
  Status status = writer->Write(directory.path() + "/none", bytes.data(), 100, 0);
  if (status.ok()) status = writer->Finish();
  EXPECT_THAT(status.ToString(), testing::HasSubstr("/none"));
}

TEST_P(FileWriterTest, SaysThatTheDiskIsFull) {
  TemporaryDirectory directory;
  if (mount("tmpfs", directory.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "mounting a small disk needs root";
  }
  const std::string path = directory.path() + "/file";
  MakeFile(path, 4 << 20);
  const std::string bytes(4 << 20, 'x');
  const auto writer = FileWriter::Create(GetParam());
  Status status = writer->Write(path, bytes.data(), bytes.size(), 0);
  if (status.ok()) status = writer->Finish();
  umount(directory.path().c_str());
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

INSTANTIATE_TEST_SUITE_P(Ways, FileWriterTest, testing::Values(WriteWay::kBest, WriteWay::kPlain),
                         [](const auto& info) {
                           return info.param == WriteWay::kBest ? "Best" : "Plain";
                         });

}  // namespace
}  // namespace atl::checkpoint
