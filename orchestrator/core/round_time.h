// How long rounds take, from what regions report: what leases are planned with. Pure.
//
//   1. A round lasts as long as its slowest region trains, then as the all-reduce takes: what the
//      region that waited least for it says.
//   2. Of late the longest counts, and is forgotten by and by.
//   3. Links that have become slower make the all-reduce longer before a round shows it: bytes of
//      the newest round / what the region's links carry now.
//   4. Between rounds of one view lie evaluations and checkpoints.
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "orchestrator/core/records.h"

namespace atl {

class RoundTime {
 public:
  // A round is committed, with these reports by region.
  void OnCommitted(const RoundRecord& record,
                   const std::map<std::string, pb::RoundReport>& reports);
  // What all links of a region carry now, bytes/s; 0: not known.
  void OnLinks(const std::string& region, double rate);

  bool IsKnown() const { return train_ > 0 || reduce_ > 0; }
  // Seconds of training, of the all-reduce, and of one round with what lies between two.
  double Train() const { return train_; }
  double Reduce() const;
  double Round() const { return train_ + Reduce() + between_; }
  // When the newest round was committed, which is about when the next one began; 0: none yet.
  double committed_at() const { return committed_at_; }

 private:
  double train_ = 0;
  double reduce_ = 0;
  double between_ = 0;
  double committed_at_ = 0;
  int64_t view_ = 0;
  std::map<std::string, int64_t> bytes_;  // sent in the newest round
  std::map<std::string, double> rates_;
};

}  // namespace atl
