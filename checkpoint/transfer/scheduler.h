// Which chunk is asked of which source (pure: no links, no threads, no clock).
//
// 1. A source with room takes, of the chunks that nobody is asked for and that it has, the one that
//    the fewest sources have; among those the first. So what only one place has is on its way while
//    that place is still there.
// 2. When nothing is left to be asked for, a source with room takes over the chunk that its present
//    source will be done with latest, if it would itself be done much sooner. What has come of it
//    stays.
// 3. A chunk that came wrong from one source alone is never asked of it again, and is a strike:
//    with kMaxStrikes the source is out for kOutSeconds. A chunk of several sources that came wrong
//    is fetched again from one alone.
// Goodput decides the rest: who is done sooner has room sooner.
//
// Invariant: each chunk is wanted, asked, or done; only wanted ones are in `wanted_`.
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace atl::checkpoint {

inline constexpr int kMaxStrikes = 3;
inline constexpr double kOutSeconds = 20;

class Scheduler {
 public:
  // Chunks of `bytes` each; those with a bit in `done` are here.
  Scheduler(std::vector<int64_t> bytes, const std::string& done, int sources);

  // What the source has: a bit a chunk. Empty: it cannot be asked now.
  void SetHas(int source, std::string has);
  bool Ready(int source, double now) const;
  // Bytes a second that the source has given lately; 0: not known.
  void SetRate(int source, double rate) { sources_[source].rate = rate; }

  // Step 1. The chunk is asked of `source` from now.
  std::optional<int64_t> Take(int source, double now);
  // Step 2: a chunk to be taken from `from` for `source`; nothing has changed yet.
  struct TakeOver {
    int64_t chunk;
    int from;
  };
  std::optional<TakeOver> Late(int source, double now) const;
  // It is asked of `source` from now (for the rest of it: after a take-over, or a loss).
  void Ask(int64_t chunk, int source, int64_t missing);
  void SetMissing(int64_t chunk, int64_t missing);

  // Whether the source has it and may be asked for it.
  bool CanGive(int source, int64_t chunk, double now) const;
  // Nobody is asked for it any more: it is wanted.
  void Return(int64_t chunk);
  void Done(int64_t chunk);
  // Step 3; the chunk is wanted. Returns whether the source is out.
  bool Wrong(int64_t chunk, int source, double now);

  int64_t left() const { return left_; }  // chunks that are not done
  int asked(int source) const { return sources_[source].asked; }
  int strikes(int source) const { return sources_[source].strikes; }
  // A chunk that no source can ever give, since all that have it gave it wrong.
  std::optional<int64_t> Hopeless() const;

 private:
  struct Source {
    std::string has;
    double rate = 0;
    int asked = 0;
    int64_t owes = 0;  // bytes
    int strikes = 0;   // since it was out
    double out_until = 0;
  };
  struct Asked {
    int source = 0;
    int64_t missing = 0;
  };
  bool Has(int source, int64_t chunk) const;
  int Holders(int64_t chunk) const;
  void Want(int64_t chunk);
  void Unask(int64_t chunk);
  double SecondsToGive(int source, int64_t bytes) const;

  const std::vector<int64_t> bytes_;
  std::vector<bool> done_;
  std::vector<Source> sources_;
  std::map<int, std::set<int64_t>> wanted_;  // by the number of their holders
  std::map<int64_t, Asked> asked_;
  std::map<int64_t, std::set<int>> wrong_;  // by chunk: who gave it wrong
  int64_t left_ = 0;
};

}  // namespace atl::checkpoint
