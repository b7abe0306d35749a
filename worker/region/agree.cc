// How the ranks of a region wait together: for lanes that are being joined, for an all-reduce.
//
// Every rank looks at its own lanes for a moment, then all tell one another how they stand, again
// and again. So all end alike: when all are done; when one cannot go on; when the leader no longer
// wants it. Nobody waits longer than the slowest rank needs, and an interrupt takes a moment.
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "worker/region/replica.h"

namespace atl {
namespace {

// Another view would mend it: a member was lost or left, or it was cancelled somewhere.
bool IsBrokenOff(const Status& status) {
  return absl::IsUnavailable(status) || absl::IsAborted(status) || absl::IsCancelled(status);
}

std::string PayloadOf(const Status& status, const char* name) {
  const auto payload = status.GetPayload(name);
  return payload ? std::string(*payload) : "";
}

}  // namespace

StatusOr<RegionWorker::Agreement> RegionWorker::Agree(bool done, const Status& failure) {
  pb::RankStand mine;
  mine.set_done(done && failure.ok());
  mine.set_broken(!failure.ok() && IsBrokenOff(failure));
  mine.set_interrupted(control_->rank() == 0 && Interrupted());
  mine.set_what(std::string(failure.message()));
  mine.set_blames(PayloadOf(failure, wan::kPeerPayload));
  mine.set_gone(PayloadOf(failure, wan::kEvidencePayload) == wan::kEvidenceGone);
  for (const auto& [name, seconds] : activity_.silent()) mine.add_silent(name);
  std::vector<std::string> all = {mine.SerializeAsString()};
  if (control_->size() > 1) {
    ASSIGN_OR_RETURN(all, control_->AllGatherBytes(mine.SerializeAsString()));
  }

  Agreement agreement;
  agreement.done = true;
  std::map<std::string, double> silent;
  const double now = Clock::Real()->MonotonicSeconds();
  for (size_t rank = 0; rank < all.size(); ++rank) {
    pb::RankStand stand;
    if (!stand.ParseFromString(all[rank]))
      return absl::InternalError(absl::StrCat("rank ", rank, " says what cannot be read"));
    agreement.done = agreement.done && stand.done();
    agreement.interrupted = agreement.interrupted || stand.interrupted();
    if (stand.broken() && (!agreement.broken || (stand.gone() && !agreement.gone))) {
      agreement.broken = true;
      agreement.blames = stand.blames();
      agreement.gone = stand.gone();
      agreement.what = stand.what();
    }
    if (!stand.done() && !stand.broken() && !stand.what().empty() && agreement.failure.ok()) {
      agreement.failure = absl::InternalError(absl::StrCat("rank ", rank, ": ", stand.what()));
    }
    for (const std::string& name : stand.silent()) silent[name] = now;
  }
  if (!failure.ok() && !IsBrokenOff(failure)) agreement.failure = failure;
  MutexLock lock(&mutex_);
  for (auto& [name, since] : silent) {
    const auto before = silent_of_others_.find(name);
    if (before != silent_of_others_.end()) since = before->second;
  }
  silent_of_others_ = std::move(silent);
  return agreement;
}

Status RegionWorker::GivenUp(const Agreement& agreement, pb::RegionAnswer* answer) {
  RETURN_IF_ERROR(agreement.failure);
  answer->set_interrupted(true);
  if (!agreement.broken) return absl::CancelledError("it was given up");
  answer->set_blames(agreement.blames);
  answer->set_gone(agreement.gone);
  return absl::UnavailableError(agreement.what);
}

void RegionWorker::Interrupt(int64_t number) {
  int64_t before = interrupt_.load();
  while (before < number && !interrupt_.compare_exchange_weak(before, number)) {
  }
}

std::map<std::string, double> RegionWorker::silent() const {
  std::map<std::string, double> silent = activity_.silent();
  const double now = Clock::Real()->MonotonicSeconds();
  MutexLock lock(&mutex_);
  for (const auto& [name, since] : silent_of_others_) {
    silent[name] = std::max(silent[name], now - since);
  }
  return silent;
}

}  // namespace atl
