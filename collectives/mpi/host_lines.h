// A carrier's lines to other hosts, by MPI's messages. Internal to collectives/mpi.
// Thread rule: one call at a time.
#pragma once

#include <mpi.h>

#include <array>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "collectives/mpi/host_exchange.h"
#include "collectives/mpi/messages.h"

namespace atl {

class HostLines : public OtherHosts {
 public:
  // The ranks in `comm` that carry the same share on the hosts before and after; -1: none.
  HostLines(MPI_Comm comm, int before, int after, Messages* messages)
      : comm_(comm), before_(before), after_(after), messages_(messages) {}

  bool is_first() const override { return before_ < 0; }
  bool is_last() const override { return after_ < 0; }
  StatusOr<float*> PartialBuffer(int64_t count) override;
  Status ReceivePartial(float* to, int64_t count) override;
  Status SendPartial(int64_t count) override;
  Status ReceiveTotal(float* to, int64_t count) override;
  Status SendTotal(const float* from, int64_t count) override;
  Status FinishOlderTotals() override;
  Status Finish() override;

 private:
  // Partial sums on their way: while one is sent, the next is added up.
  static constexpr int kPartials = 4;
  struct Partial {
    std::vector<float> floats;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  Status Receive(float* to, int64_t count, int from, int tag);

  const MPI_Comm comm_;
  const int before_, after_;
  Messages* const messages_;
  std::array<Partial, kPartials> partials_;
  int partial_ = 0;                                                           // the next
  std::array<MPI_Request, 2> totals_ = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};  // [0] is the newer
};

}  // namespace atl
