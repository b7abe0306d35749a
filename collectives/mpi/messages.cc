#include "collectives/mpi/messages.h"

#include <algorithm>
#include <cstring>

#include "collectives/backoff.h"
#include "collectives/mpi/mpi_status.h"
#include "collectives/mpi/vector_sums.h"

namespace atl {
namespace {

constexpr int kTag = 1;
// Up to here an all-reduce is one exchange of everything instead of a reduce-scatter and a gather.
constexpr int64_t kSmallCount = 512;
// Elements that go to a peer at a time: 512 KiB, enough for full bandwidth, little enough for
// caches.
constexpr int64_t kPiece = int64_t{1} << 17;

}  // namespace

Status Messages::WaitFor(MPI_Request* request) {
  Backoff backoff(options_.clock);
  for (;;) {
    int done = 0;
    RETURN_IF_ERROR(MpiStatus(MPI_Test(request, &done, MPI_STATUS_IGNORE), "waiting"));
    if (done) return OkStatus();
    backoff.Pause();
  }
}

Status Messages::Meet() {
  MPI_Request request = MPI_REQUEST_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Ibarrier(comm_, &request), "meeting the other ranks"));
  return WaitFor(&request);
}

Status Messages::AllReduce(float* data, int64_t count) {
  if (count <= kSmallCount) return SumSmall(data, static_cast<int>(count));
  std::vector<Range> shares(size_);
  for (int64_t rank = 0; rank < size_; ++rank) {
    shares[rank] = {count * rank / size_, count * (rank + 1) / size_};
  }
  RETURN_IF_ERROR(Meet());
  RETURN_IF_ERROR(SumOwnRange(data, shares));
  return GatherRanges(data, shares);
}

Status Messages::ReduceScatter(float* data, std::span<const Range> ranges) {
  RETURN_IF_ERROR(Meet());
  return SumOwnRange(data, ranges);
}

Status Messages::AllGather(float* data, std::span<const Range> ranges) {
  RETURN_IF_ERROR(Meet());
  return GatherRanges(data, ranges);
}

// A few elements: everybody gets everybody's and adds them up.
Status Messages::SumSmall(float* data, int count) {
  Grow(int64_t{count} * size_);
  MPI_Request request = MPI_REQUEST_NULL;
  RETURN_IF_ERROR(MpiStatus(
      MPI_Iallgather(data, count, MPI_FLOAT, scratch_.data(), count, MPI_FLOAT, comm_, &request),
      "exchanging the vectors"));
  RETURN_IF_ERROR(WaitFor(&request));
  rows_.clear();
  for (int64_t source = 0; source < size_; ++source) {
    rows_.push_back(scratch_.data() + source * count);
  }
  SumRows(rows_.data(), size_, count, data, nullptr);
  return OkStatus();
}

// Piece by piece, so that the scratch memory stays small and in the cache: everybody sends to
// every owner what belongs to it, and adds up, in rank order, what belongs to itself.
Status Messages::SumOwnRange(float* data, std::span<const Range> ranges) {
  const Range own = ranges[rank_];
  const int64_t piece = std::min(options_.largest_piece, kPiece);
  Grow(std::min(piece, own.size()) * size_);
  int64_t longest = 0;
  for (const Range& range : ranges) longest = std::max(longest, range.size());
  for (int64_t done = 0; done < longest; done += piece) {
    const int own_count = static_cast<int>(std::clamp<int64_t>(own.size() - done, 0, piece));
    requests_.clear();
    // Peers in an order that differs by rank, so that they do not all turn to one at once.
    for (int step = 1; step < size_; ++step) {
      const int source = (rank_ - step + size_) % size_;
      if (own_count == 0) break;
      RETURN_IF_ERROR(
          MpiStatus(MPI_Irecv(scratch_.data() + int64_t{source} * own_count, own_count, MPI_FLOAT,
                              source, kTag, comm_, &requests_.emplace_back(MPI_REQUEST_NULL)),
                    "receiving"));
    }
    RETURN_IF_ERROR(SendPieces(data, ranges, done, piece));
    RETURN_IF_ERROR(MpiStatus(
        MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
        "exchanging the vectors"));
    AddUp(data + own.begin + done, own_count);
  }
  return OkStatus();
}

Status Messages::SendPieces(const float* data, std::span<const Range> ranges, int64_t done,
                            int64_t piece) {
  for (int step = 1; step < size_; ++step) {
    const int owner = (rank_ + step) % size_;
    const Range range = ranges[owner];
    const int count = static_cast<int>(std::clamp<int64_t>(range.size() - done, 0, piece));
    if (count == 0) continue;
    RETURN_IF_ERROR(MpiStatus(MPI_Isend(data + range.begin + done, count, MPI_FLOAT, owner, kTag,
                                        comm_, &requests_.emplace_back(MPI_REQUEST_NULL)),
                              "sending"));
  }
  return OkStatus();
}

// data = ((rank 0's + rank 1's) + rank 2's) + ..., of which scratch_ has the others'.
void Messages::AddUp(float* data, int count) {
  rows_.clear();
  for (int64_t source = 0; source < size_; ++source) {
    rows_.push_back(source == rank_ ? data : scratch_.data() + source * count);
  }
  SumRows(rows_.data(), size_, count, data, nullptr);
}

Status Messages::GatherRanges(float* data, std::span<const Range> ranges) {
  const int64_t begin = ranges.front().begin;
  if (ranges.back().end - begin > options_.largest_piece) return BroadcastRanges(data, ranges);
  counts_.clear();
  offsets_.clear();
  for (const Range& range : ranges) {
    counts_.push_back(static_cast<int>(range.size()));
    offsets_.push_back(static_cast<int>(range.begin - begin));
  }
  return MpiStatus(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data + begin, counts_.data(),
                                  offsets_.data(), MPI_FLOAT, comm_),
                   "gathering");
}

// For vectors that MPI_Allgatherv's offsets cannot reach.
Status Messages::BroadcastRanges(float* data, std::span<const Range> ranges) {
  for (int owner = 0; owner < size_; ++owner) {
    const Range range = ranges[owner];
    for (int64_t begin = range.begin; begin < range.end; begin += options_.largest_piece) {
      const int count = static_cast<int>(std::min(options_.largest_piece, range.end - begin));
      RETURN_IF_ERROR(
          MpiStatus(MPI_Bcast(data + begin, count, MPI_FLOAT, owner, comm_), "gathering"));
    }
  }
  return OkStatus();
}

void Messages::Grow(int64_t count) {
  if (static_cast<int64_t>(scratch_.size()) < count) scratch_.resize(count);
}

}  // namespace atl
