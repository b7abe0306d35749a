// Makes token files of every format from their descriptions, byte by byte, without the code under
// test.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

namespace atl {

// A directory of the test's own, removed afterwards.
class TokenTest : public testing::Test {
 protected:
  TokenTest() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    directory_ = testing::TempDir() + "/atoll_" + std::to_string(getpid()) + "_" + info->name();
    std::filesystem::create_directories(directory_);
  }
  ~TokenTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  std::string WriteText(const std::string& name, const std::string& bytes) const {
    std::ofstream(Path(name), std::ios::binary) << bytes;
    return Path(name);
  }
  static std::string ReadText(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  size_t FilesInDirectory() const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      count += entry.exists() ? 1 : 0;
    }
    return count;
  }

 private:
  std::string directory_;
};

// `value` in `bytes` bytes, lowest first.
inline std::string Little(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
  return out;
}

inline std::string LittleAll(const std::vector<int64_t>& values, int bytes) {
  std::string out;
  for (const int64_t value : values) out += Little(static_cast<uint64_t>(value), bytes);
  return out;
}

// A Megatron index as indexed_dataset.py packs it.
struct MegatronParts {
  uint64_t version = 1;
  uint8_t type = 8;
  std::vector<int64_t> lengths;
  std::vector<int64_t> pointers;
  std::vector<int64_t> documents;
  int64_t sequence_count = -1;  // -1: lengths.size()
  int64_t document_count = -1;  // -1: documents.size()
  std::string tail;

  std::string Bytes() const {
    std::string out("MMIDIDX\0\0", 9);
    out += Little(version, 8) + Little(type, 1);
    out += Little(sequence_count < 0 ? lengths.size() : static_cast<uint64_t>(sequence_count), 8);
    out += Little(document_count < 0 ? documents.size() : static_cast<uint64_t>(document_count), 8);
    return out + LittleAll(lengths, 4) + LittleAll(pointers, 8) + LittleAll(documents, 8) + tail;
  }
};

inline std::string LlmcBytes(int32_t magic, int32_t version, int32_t count,
                             const std::string& tokens) {
  std::string header = Little(static_cast<uint32_t>(magic), 4) +
                       Little(static_cast<uint32_t>(version), 4) +
                       Little(static_cast<uint32_t>(count), 4);
  header.resize(1024, '\0');
  return header + tokens;
}

inline std::vector<int64_t> Count(int64_t n, int64_t from = 0) {
  std::vector<int64_t> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(from + i);
  return values;
}

inline std::span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace atl
