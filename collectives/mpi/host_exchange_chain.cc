// Sums over several hosts: see host_exchange.h.
//
// A carrier sends a chunk's partial sum on and turns to the next chunk; the total comes back `lag`
// steps later, about what a chunk needs to the last host and back. A host's lag is never shorter
// than that of the host after it, so a total that is waited for depends only on partial sums that
// have been sent: no cycle.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "collectives/mpi/host_exchange.h"
#include "collectives/mpi/vector_sums.h"

namespace atl {

Status HostExchange::ReduceOverHosts(const OverHosts& what, OtherHosts* others) {
  CHECK(what.carriers >= 1 && what.carriers <= ranks_);
  const bool carries = rank_ < what.carriers;
  CHECK(!carries || others != nullptr);
  Share(what.whole, what.carriers);
  const Call call = Begin(what.data, shares_);
  if (call.first == call.end) return OkStatus();
  const uint32_t lag = 2 * static_cast<uint32_t>(what.hosts_after);
  RETURN_IF_ERROR(Bring(call, call.first, &Gates::added));
  for (uint32_t step = call.first; step != call.end + lag; ++step) {
    const bool more = static_cast<int32_t>(call.end - step) > 0;
    if (more && carries) RETURN_IF_ERROR(AddToPartial(call, what, step, *others));
    if (more && !carries) gates_[rank_].added.Raise(step + 1);  // has nothing to read
    if (static_cast<int32_t>(call.end - step) > 1) {
      RETURN_IF_ERROR(Bring(call, step + 1, &Gates::added));
    }
    if (step - call.first < lag) continue;
    if (carries) RETURN_IF_ERROR(PassTotal(call, what, step - lag, *others));
    RETURN_IF_ERROR(TakeWanted(call, what, step - lag));
  }
  if (carries) RETURN_IF_ERROR(others->Finish());
  End(call);
  return OkStatus();
}

// Adds this host's parts to what the hosts before it have added up.
Status HostExchange::AddToPartial(const Call& call, const OverHosts& what, uint32_t step,
                                  OtherHosts& others) {
  const Range chunk = call.Chunk(rank_, step);
  float* sum = nullptr;
  if (others.is_last()) {
    RETURN_IF_ERROR(FreeResultSlot(call, step, others));
    sum = ResultSlot(rank_, step);
  } else {
    ASSIGN_OR_RETURN(sum, others.PartialBuffer(call.chunk));
  }
  rows_.clear();
  if (!others.is_first()) {
    RETURN_IF_ERROR(others.ReceivePartial(sum, chunk.size()));
    rows_.push_back(sum);
  }
  RETURN_IF_ERROR(WaitForAll(&Gates::brought, step + 1));
  for (int from = 0; from < ranks_; ++from) {
    rows_.push_back(from == rank_ ? what.data + chunk.begin
                                  : BringSlot(from, rank_, step, call.chunk));
  }
  SumRows(rows_.data(), static_cast<int>(rows_.size()), chunk.size(), sum, nullptr);
  gates_[rank_].added.Raise(step + 1);
  return others.is_last() ? OkStatus() : others.SendPartial(chunk.size());
}

// The half's readers on this host and its way to the host before have finished with it.
Status HostExchange::FreeResultSlot(const Call& call, uint32_t step, OtherHosts& others) {
  RETURN_IF_ERROR(WaitForAll(&Gates::taken, Later(call.first, step - 1)));
  return others.FinishOlderTotals();
}

Status HostExchange::PassTotal(const Call& call, const OverHosts& what, uint32_t step,
                               OtherHosts& others) {
  const Range chunk = call.Chunk(rank_, step);
  const auto below = [&](int64_t end) {
    return std::clamp<int64_t>(end - chunk.begin, 0, chunk.size());
  };
  float* const total = ResultSlot(rank_, step);
  if (!others.is_last()) {
    RETURN_IF_ERROR(FreeResultSlot(call, step, others));
    RETURN_IF_ERROR(others.ReceiveTotal(total, below(what.here_end)));
  }
  gates_[rank_].summed.Raise(step + 1);
  return others.is_first() ? OkStatus() : others.SendTotal(total, below(what.before_end));
}

Status HostExchange::TakeWanted(const Call& call, const OverHosts& what, uint32_t step) {
  for (int carrier = 0; carrier < what.carriers; ++carrier) {
    if (carrier != rank_) RETURN_IF_ERROR(WaitForOne(carrier, &Gates::summed, step + 1));
    const Range chunk = call.Chunk(carrier, step);
    const int64_t begin = std::max(chunk.begin, what.wanted.begin);
    const int64_t end = std::min(chunk.end, what.wanted.end);
    if (begin >= end) continue;
    Copy(what.data + begin, ResultSlot(carrier, step) + (begin - chunk.begin), end - begin,
         call.past_caches);
  }
  gates_[rank_].taken.Raise(step + 1);
  return OkStatus();
}

}  // namespace atl
