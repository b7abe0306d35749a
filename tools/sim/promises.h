// What must hold, checked against the truth that only the simulator knows: which samples are in
// each outer state, and where it came from. See docs/simulation.md for what is checked when.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/range.h"
#include "orchestrator/core/records.h"

namespace atl::sim {

// An outer state: how it came about.
struct Origin {
  std::string parent;
  int64_t round = 0;
  std::vector<Range> samples;  // of its last round, in order
};

class Promises {
 public:
  explicit Promises(std::string seed_state);

  // A region has made (or loaded) this state.
  void NoteState(const std::string& digest, const Origin& origin);
  // The digest of the state after `round` from which `digest` came; empty: it is none of ours.
  std::string Ancestor(const std::string& digest, int64_t round) const;

  // Stored records, in order. `holds`: digests of the members' states that are alive.
  void OnRecords(const std::vector<Record>& records);
  int64_t committed_round() const {
    return committed_.empty() ? base_round_ : committed_.rbegin()->first;
  }
  // "": as it should be.
  std::string DigestOf(int64_t round) const;
  // All members (that have state) hold what is committed, as far as they have come.
  void CheckMember(const std::string& region, const std::string& digest, int64_t round);
  void CheckEnd(int64_t rounds);
  int64_t rollbacks() const { return rollbacks_; }

  void Break(const std::string& promise, const std::string& what);
  const std::string& broken() const { return broken_; }

 private:
  void OnSupersede(const SupersedeRecord& record);
  void OnRound(const RoundRecord& record);

  std::map<std::string, Origin> origins_;
  std::map<int64_t, std::string> committed_;        // round -> digest, not superseded
  std::map<int64_t, std::vector<Range>> of_round_;  // samples committed in the round
  std::map<int64_t, std::vector<Range>> pending_;   // sample records whose round is to come
  int64_t base_round_ = 0;
  std::string seed_state_;
  int64_t rollbacks_ = 0;
  std::string broken_;
};

}  // namespace atl::sim
