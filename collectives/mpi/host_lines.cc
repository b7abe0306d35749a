#include "collectives/mpi/host_lines.h"

#include <utility>

#include "collectives/mpi/mpi_status.h"

namespace atl {
namespace {

constexpr int kPartialTag = 2;
constexpr int kTotalTag = 3;

}  // namespace

StatusOr<float*> HostLines::PartialBuffer(int64_t count) {
  Partial& partial = partials_[partial_];
  RETURN_IF_ERROR(messages_->WaitFor(&partial.request));
  if (static_cast<int64_t>(partial.floats.size()) < count) partial.floats.resize(count);
  return partial.floats.data();
}

Status HostLines::ReceivePartial(float* to, int64_t count) {
  return Receive(to, count, before_, kPartialTag);
}

Status HostLines::SendPartial(int64_t count) {
  Partial& partial = partials_[partial_];
  partial_ = (partial_ + 1) % kPartials;
  if (count == 0) return OkStatus();
  return MpiStatus(MPI_Isend(partial.floats.data(), static_cast<int>(count), MPI_FLOAT, after_,
                             kPartialTag, comm_, &partial.request),
                   "sending a partial sum");
}

Status HostLines::ReceiveTotal(float* to, int64_t count) {
  return Receive(to, count, after_, kTotalTag);
}

Status HostLines::SendTotal(const float* from, int64_t count) {
  RETURN_IF_ERROR(messages_->WaitFor(&totals_[1]));
  std::swap(totals_[0], totals_[1]);
  if (count == 0) return OkStatus();
  return MpiStatus(
      MPI_Isend(from, static_cast<int>(count), MPI_FLOAT, before_, kTotalTag, comm_, &totals_[0]),
      "sending a sum");
}

Status HostLines::FinishOlderTotals() { return messages_->WaitFor(&totals_[1]); }

Status HostLines::Finish() {
  for (MPI_Request& total : totals_) RETURN_IF_ERROR(messages_->WaitFor(&total));
  for (Partial& partial : partials_) RETURN_IF_ERROR(messages_->WaitFor(&partial.request));
  return OkStatus();
}

Status HostLines::Receive(float* to, int64_t count, int from, int tag) {
  if (count == 0) return OkStatus();
  MPI_Request request = MPI_REQUEST_NULL;
  RETURN_IF_ERROR(MpiStatus(
      MPI_Irecv(to, static_cast<int>(count), MPI_FLOAT, from, tag, comm_, &request), "receiving"));
  return messages_->WaitFor(&request);
}

}  // namespace atl
