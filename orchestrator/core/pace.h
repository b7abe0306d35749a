// How fast regions train, and how many inner steps each should take so that all finish a round
// together (sync.slow.policy share).
//
// 1. Each report brings how long the region's inner steps took, waiting left out. Of the newest
//    kRounds rounds the median counts, as seconds a sample: it holds whatever the view's shares.
// 2. The region that is fastest takes all inner steps of the job. One whose steps would end later
//    or earlier than the fastest's by more than kTolerance takes as many as fit that time: at
//    least one, at most the job's. The others keep what they have.
// Pure values; one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace atl {

class Pace {
 public:
  static constexpr size_t kRounds = 3;
  // Nothing if these are no numbers that a round could have.
  void Add(double seconds, int64_t samples);
  void Clear() { newest_.clear(); }
  // Median of the newest kRounds; none yet: nothing.
  std::optional<double> SecondsPerSample() const;

 private:
  std::deque<double> newest_;
};

struct MemberPace {
  double step_seconds = 0;  // 0: not known
  int64_t steps = 1;        // that it takes now
};

// Steps for each member; `most` are the job's. Who is not known keeps its own.
std::vector<int64_t> EvenSteps(int64_t most, const std::vector<MemberPace>& members);

}  // namespace atl
