// Results that an observer has heard while it fetches the outer state: one rank's lanes, round
// after round, in a file that has no name (gone with the process), so that memory does not grow
// with the rounds that pass. Thread rule: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace atl {

class HeardResults {
 public:
  struct Heard {
    int64_t round = 0;
    int64_t tokens = 0;  // of all members
    int64_t expected_tokens = 0;
  };

  // The file is made in `directory`, which is created.
  static StatusOr<HeardResults> Create(const std::string& directory);

  // `lanes` of every round have the same sizes. Rounds follow one another; else kInternal.
  Status Append(const Heard& heard, const std::vector<std::vector<float>>& lanes);
  Status Read(size_t index, std::vector<std::vector<float>>* lanes) const;
  const std::vector<Heard>& rounds() const { return rounds_; }

 private:
  HeardResults(Fd file, std::string directory)
      : file_(std::move(file)), directory_(std::move(directory)) {}

  Fd file_;
  std::string directory_;
  std::vector<int64_t> sizes_;  // of the lanes
  int64_t stride_ = 0;          // bytes a round
  std::vector<Heard> rounds_;
};

}  // namespace atl
