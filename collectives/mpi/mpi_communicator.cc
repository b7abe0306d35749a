// How a collective waits: MPI's blocking calls poll without pause, which on a host with fewer cores
// than ranks takes the core from the rank that is waited for.
// 1. Every call first meets the others in a non-blocking operation (Ibarrier; Ibcast of the header
//    for Broadcast; Iallgather of the sizes for AllGatherBytes), polled with Backoff: a rank that
//    waits long, for a slower one's backward pass or for the leader's WAN transfer, sleeps.
// 2. Then all are there and the data goes by blocking calls.
// Step 1 costs log2 P messages of latency, nothing beside a bucket of gradients.
//
// How vectors are summed:
// 1. ReduceScatter: every rank sends each owner the part that belongs to it, piece by piece, and
//    adds up its own part in rank order: ((rank 0 + rank 1) + rank 2) + ...
// 2. AllReduce of more than kSmallCount elements: a ReduceScatter of even shares, then AllGather.
// 3. AllReduce of few elements: everybody gets everybody's and adds them up in rank order.
// MPI_Reduce_scatter and MPI_Allreduce are not used: their order of summation changes with MPI's
// version, settings and message size, and they allocate the whole vector again
// (docs/decisions/0001-region-collectives.md has the figures).
//
// Invariants: element i is summed in rank order, so bits depend on nothing but the inputs. After a
// failure nothing is sent any more: the ranks are no longer in step.
#include "collectives/mpi/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "collectives/backoff.h"
#include "collectives/mpi/mpi_status.h"
#include "collectives/range_rules.h"

namespace atl {
namespace {

// First message of a broadcast: small enough to go eagerly, large enough for most control messages.
struct BroadcastHeader {
  int64_t size = 0;  // of the whole message; -1: the root refuses to send it
  std::array<char, 2040> begin = {};
};
static_assert(sizeof(BroadcastHeader) == 2048);

constexpr int kTag = 1;
// Up to here an all-reduce is one exchange of everything instead of a reduce-scatter and a gather.
constexpr int64_t kSmallCount = 512;
// Elements that go to a peer at a time: 512 KiB, enough for full bandwidth, little enough for
// caches.
constexpr int64_t kPiece = int64_t{1} << 17;

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, int rank, int size, const MpiOptions& options)
      : comm_(comm), rank_(rank), size_(size), options_(options) {}

  ~MpiCommunicator() override {
    int finalized = 0;
    if (MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized && failure_.ok()) {
      MPI_Comm_free(&comm_);
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string backend() const override { return "mpi"; }

  Status AllReduce(float* data, int64_t count) override {
    CHECK_GE(count, 0);
    if (count == 0) return OkStatus();
    return Collective("all-reduce", [&]() -> Status {
      if (count <= kSmallCount) return SumSmall(data, static_cast<int>(count));
      std::vector<Range> shares(size_);
      for (int64_t rank = 0; rank < size_; ++rank) {
        shares[rank] = {count * rank / size_, count * (rank + 1) / size_};
      }
      RETURN_IF_ERROR(Meet());
      RETURN_IF_ERROR(SumOwnRange(data, shares));
      return GatherRanges(data, shares);
    });
  }

  Status ReduceScatter(float* data, std::span<const Range> ranges) override {
    const Range whole = CheckedUnion(ranges, size_);
    if (whole.empty()) return OkStatus();
    return Collective("reduce-scatter", [&]() -> Status {
      RETURN_IF_ERROR(Meet());
      return SumOwnRange(data, ranges);
    });
  }

  Status AllGather(float* data, std::span<const Range> ranges) override {
    const Range whole = CheckedUnion(ranges, size_);
    if (whole.empty()) return OkStatus();
    return Collective("all-gather", [&]() -> Status {
      RETURN_IF_ERROR(Meet());
      return GatherRanges(data, ranges);
    });
  }

  Status Broadcast(std::string* bytes, int root) override {
    CHECK(root >= 0 && root < size_) << root;
    BroadcastHeader header;
    if (rank_ == root) {
      header.size = static_cast<int64_t>(bytes->size());
      if (header.size > kMaxControlBytes) header.size = -1;
      std::copy_n(bytes->data(), std::clamp<int64_t>(header.size, 0, header.begin.size()),
                  header.begin.data());
    }
    RETURN_IF_ERROR(Collective("broadcast", [&] { return SendHeader(&header, root); }));
    if (header.size < 0) {  // on all ranks
      return absl::InvalidArgumentError(absl::StrCat(
          "a control message from rank ", root, " has more than ", kMaxControlBytes, " bytes"));
    }
    return Collective("broadcast", [&]() -> Status {
      if (header.size > kMaxControlBytes) {
        return absl::InternalError(
            absl::StrCat("a control message claims ", header.size, " bytes"));
      }
      const int64_t carried = std::min<int64_t>(header.size, header.begin.size());
      if (rank_ != root) {
        bytes->resize(header.size);
        std::copy_n(header.begin.data(), carried, bytes->data());
      }
      if (header.size == carried) return OkStatus();
      return MpiStatus(MPI_Bcast(bytes->data() + carried, static_cast<int>(header.size - carried),
                                 MPI_BYTE, root, comm_),
                       "sending the message");
    });
  }

  StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& bytes) override {
    std::vector<int64_t> sizes(size_, static_cast<int64_t>(bytes.size()));
    RETURN_IF_ERROR(Collective("all-gather of messages", [&] { return ExchangeSizes(sizes); }));
    std::vector<int> counts, offsets;
    int64_t total = 0;
    for (const int64_t size : sizes) {
      if (size < 0 || size > kMaxControlBytes - total) {  // on all ranks
        return absl::InvalidArgumentError(
            absl::StrCat("control messages of more than ", kMaxControlBytes, " bytes together"));
      }
      counts.push_back(static_cast<int>(size));
      offsets.push_back(static_cast<int>(total));
      total += size;
    }
    if (size_ == 1) return std::vector<std::string>{bytes};
    std::string joined(total, '\0');
    if (total > 0) {
      RETURN_IF_ERROR(Collective("all-gather of messages", [&] {
        return MpiStatus(MPI_Allgatherv(bytes.data(), counts[rank_], MPI_BYTE, joined.data(),
                                        counts.data(), offsets.data(), MPI_BYTE, comm_),
                         "exchanging the messages");
      }));
    }
    std::vector<std::string> all;
    for (int source = 0; source < size_; ++source) {
      all.push_back(joined.substr(offsets[source], counts[source]));
    }
    return all;
  }

  Status Barrier() override {
    return Collective("barrier", [&] { return Meet(); });
  }

 private:
  // Runs `operation`, unless one has failed before. A region of one has nothing to run.
  template <typename Operation>
  Status Collective(const char* name, Operation operation) {
    if (size_ == 1) return OkStatus();
    if (!failure_.ok()) return failure_;
    Status status = operation();
    if (!status.ok()) {
      failure_ =
          Annotate(status, absl::StrCat("in the region's ", name, ", rank ", rank_, " of ", size_));
      SetMpiFailed();
    }
    return failure_;
  }

  Status WaitFor(MPI_Request* request) {
    Backoff backoff(options_.clock);
    for (;;) {
      int done = 0;
      RETURN_IF_ERROR(MpiStatus(MPI_Test(request, &done, MPI_STATUS_IGNORE), "waiting"));
      if (done) return OkStatus();
      backoff.Pause();
    }
  }

  Status Meet() {
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(MpiStatus(MPI_Ibarrier(comm_, &request), "meeting the other ranks"));
    return WaitFor(&request);
  }

  Status SendHeader(BroadcastHeader* header, int root) {
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(MpiStatus(
        MPI_Ibcast(header, static_cast<int>(sizeof *header), MPI_BYTE, root, comm_, &request),
        "sending the message's size"));
    return WaitFor(&request);
  }

  // Each rank brings sizes[rank()]; afterwards every rank has all.
  Status ExchangeSizes(std::vector<int64_t>& sizes) {
    const int64_t own = sizes[rank_];
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(MpiStatus(
        MPI_Iallgather(&own, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, comm_, &request),
        "exchanging the messages' sizes"));
    return WaitFor(&request);
  }

  // A few elements: everybody gets everybody's and adds them up.
  Status SumSmall(float* data, int count) {
    Grow(int64_t{count} * size_);
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(MpiStatus(
        MPI_Iallgather(data, count, MPI_FLOAT, scratch_.data(), count, MPI_FLOAT, comm_, &request),
        "exchanging the vectors"));
    RETURN_IF_ERROR(WaitFor(&request));
    std::copy_n(scratch_.data(), count, data);
    for (int source = 1; source < size_; ++source) {
      AddTo(data, scratch_.data() + int64_t{source} * count, count);
    }
    return OkStatus();
  }

  // Piece by piece, so that the scratch memory stays small and in the cache: everybody sends to
  // every owner what belongs to it, and adds up, in rank order, what belongs to itself.
  Status SumOwnRange(float* data, std::span<const Range> ranges) {
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
      for (int step = 1; step < size_; ++step) {
        const int owner = (rank_ + step) % size_;
        const Range range = ranges[owner];
        const int count = static_cast<int>(std::clamp<int64_t>(range.size() - done, 0, piece));
        if (count == 0) continue;
        RETURN_IF_ERROR(MpiStatus(MPI_Isend(data + range.begin + done, count, MPI_FLOAT, owner,
                                            kTag, comm_, &requests_.emplace_back(MPI_REQUEST_NULL)),
                                  "sending"));
      }
      RETURN_IF_ERROR(WaitForRequests());
      AddUp(data + own.begin + done, own_count);
    }
    return OkStatus();
  }

  // data = ((rank 0's + rank 1's) + rank 2's) + ..., of which scratch_ has the others'.
  void AddUp(float* data, int count) {
    float* own_slot = scratch_.data() + int64_t{rank_} * count;
    if (rank_ > 0) std::copy_n(data, count, own_slot);
    const float* first = scratch_.data();
    if (rank_ > 0) std::copy_n(first, count, data);
    for (int source = 1; source < size_; ++source) {
      AddTo(data, scratch_.data() + int64_t{source} * count, count);
    }
  }

  static void AddTo(float* __restrict sum, const float* __restrict values, int count) {
    for (int i = 0; i < count; ++i) sum[i] += values[i];
  }

  Status GatherRanges(float* data, std::span<const Range> ranges) {
    const int64_t begin = ranges.front().begin;
    if (ranges.back().end - begin > options_.largest_piece) return BroadcastRanges(data, ranges);
    counts_.clear();
    offsets_.clear();
    for (const Range& range : ranges) {
      counts_.push_back(static_cast<int>(range.size()));
      offsets_.push_back(static_cast<int>(range.begin - begin));
    }
    return MpiStatus(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data + begin,
                                    counts_.data(), offsets_.data(), MPI_FLOAT, comm_),
                     "gathering");
  }

  // For vectors that MPI_Allgatherv's offsets cannot reach.
  Status BroadcastRanges(float* data, std::span<const Range> ranges) {
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

  Status WaitForRequests() {
    return MpiStatus(
        MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
        "exchanging the vectors");
  }

  void Grow(int64_t count) {
    if (static_cast<int64_t>(scratch_.size()) < count) scratch_.resize(count);
  }

  MPI_Comm comm_;
  const int rank_;
  const int size_;
  const MpiOptions options_;
  Status failure_;                     // the first; all later calls return it
  std::vector<float> scratch_;         // what other ranks have sent, a slot a rank
  std::vector<MPI_Request> requests_;  // of the piece under way
  std::vector<int> counts_, offsets_;  // of the call under way
};

}  // namespace

StatusOr<std::unique_ptr<Communicator>> MakeMpiCommunicator(const MpiOptions& options) {
  CHECK(options.largest_piece > 0 && options.largest_piece <= INT32_MAX);
  int initialized = 0, finalized = 0;
  RETURN_IF_ERROR(MpiStatus(MPI_Initialized(&initialized), "asking for MPI's state"));
  RETURN_IF_ERROR(MpiStatus(MPI_Finalized(&finalized), "asking for MPI's state"));
  if (!initialized || finalized) return absl::FailedPreconditionError("MPI is not initialised");
  // The duplicate has its own error handler and its own messages, apart from other users of MPI.
  MPI_Comm comm = MPI_COMM_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "making the communicator"));
  RETURN_IF_ERROR(
      MpiStatus(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "making the communicator"));
  int rank = 0, size = 0;
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_rank(comm, &rank), "asking for the rank"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_size(comm, &size), "asking for the size"));
  return std::make_unique<MpiCommunicator>(comm, rank, size, options);
}

}  // namespace atl
