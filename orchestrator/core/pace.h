// How fast regions train, and how many inner steps each should take so that all finish a round
// together (sync.slow.policy share).
//
// 1. Each report brings how long the region's inner steps took, waiting left out. Of the newest
//    kRounds rounds the median counts, as seconds a sample: it holds whatever the view's shares.
// 2. The region that is fastest takes all inner steps of the job. One whose steps would end later
//    or earlier than the fastest's by more than kTolerance takes as many as fit that time: at
//    least one, at most the job's. The others keep what they have.
// 3. Another number of steps takes another view, and fewer steps are fewer tokens: it is done where
//    tokens a second rise by kWorth, the all-reduce counted in. Where that is most of a round, a
//    slow region costs little, and keeps its steps.
// 4. A change back says that what was measured was chance: until the next one it takes twice as
//    many rounds, kMostRounds at most; a change the same way again, half as many. Else regions of
//    nearly the same speed would go to and fro, at the cost of a view each time.
// Pure values; one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace atl {

class Pace {
 public:
  static constexpr int64_t kRounds = 3;
  static constexpr int64_t kMostRounds = 48;
  // Nothing if these are no numbers that a round could have.
  void Add(double seconds, int64_t samples);
  void Clear() { newest_.clear(); }
  // Median of the newest ones since Clear, kRounds at least; none yet: nothing.
  std::optional<double> SecondsPerSample() const;
  // Enough rounds have passed since the region's steps were changed.
  bool MayChange() const { return since_change_ >= rounds_; }
  void Changed(bool lowered);

 private:
  std::deque<double> newest_;  // seconds a sample; rounds_ of them at most
  int64_t rounds_ = kRounds;
  int64_t since_change_ = 0;
  std::optional<bool> lowered_;  // the last change
};

struct MemberPace {
  double step_seconds = 0;  // 0: not known
  int64_t steps = 1;        // that it takes now
  int64_t samples_per_step = 1;
};

// Steps for each member; `most` are the job's. Who is not known keeps its own.
std::vector<int64_t> EvenSteps(int64_t most, const std::vector<MemberPace>& members);
// Whether rounds with these steps train enough more a second than with those taken now;
// `reduce_seconds` come after the steps of the slowest.
bool IsWorthAView(const std::vector<MemberPace>& members, const std::vector<int64_t>& steps,
                  double reduce_seconds);

}  // namespace atl
