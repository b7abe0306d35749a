// A rate that can be changed while a transfer runs: the file .rate-cap in the directory that is
// served or pulled into, as soon as it is there: "20mbit", or "none". Without it, or once it is
// removed, what the transfer was begun with holds. One thread.
#pragma once

#include <string>

namespace atl::checkpoint {

inline constexpr char kRateFileName[] = ".rate-cap";

class RateFile {
 public:
  // `otherwise`: bytes a second; 0: no bound.
  RateFile(const std::string& directory, double otherwise)
      : path_(directory + "/" + kRateFileName), otherwise_(otherwise), rate_(otherwise) {}

  // Bytes a second, as the file says now; 0: no bound. What cannot be read as a rate changes
  // nothing, and is told once.
  double Look();

 private:
  const std::string path_;
  const double otherwise_;
  double rate_;
  std::string told_;
};

}  // namespace atl::checkpoint
