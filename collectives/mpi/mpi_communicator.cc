// A vector's way, chosen by the same rule on all ranks:
// 1. Ranks that share hosts, and memory on them: host.h.
// 2. Otherwise: messages.h.
// Control messages go by MPI. Every call meets the others in a non-blocking operation (Ibcast of
// the header for Broadcast; Iallgather of the sizes for AllGatherBytes), polled with Backoff: a
// rank that waits long, for a slower one's backward pass or for the leader's WAN transfer, sleeps.
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
#include "collectives/mpi/host.h"
#include "collectives/mpi/messages.h"
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

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, int rank, int size, std::unique_ptr<Messages> messages,
                  std::unique_ptr<Host> host)
      : comm_(comm),
        rank_(rank),
        size_(size),
        messages_(std::move(messages)),
        host_(std::move(host)) {}

  ~MpiCommunicator() override {
    int finalized = 0;
    if (MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized && failure_.ok()) {
      MPI_Comm_free(&comm_);
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string backend() const override { return "mpi"; }

  StatusOr<Buffer> Allocate(int64_t count) override {
    CHECK_GE(count, 0);
    if (host_ == nullptr) return Buffer::Ordinary(count);
    return host_->Allocate(count, [this](const std::string& own) { return AllGatherBytes(own); });
  }

  Status AllReduce(float* data, int64_t count) override {
    CHECK_GE(count, 0);
    if (count == 0) return OkStatus();
    return Collective("all-reduce", [&] {
      return host_ ? host_->AllReduce(data, count) : messages_->AllReduce(data, count);
    });
  }

  Status ReduceScatter(float* data, std::span<const Range> ranges) override {
    const Range whole = CheckedUnion(ranges, size_);
    if (whole.empty()) return OkStatus();
    return Collective("reduce-scatter", [&] {
      return host_ ? host_->ReduceScatter(data, ranges) : messages_->ReduceScatter(data, ranges);
    });
  }

  Status AllGather(float* data, std::span<const Range> ranges) override {
    const Range whole = CheckedUnion(ranges, size_);
    if (whole.empty()) return OkStatus();
    return Collective("all-gather", [&] {
      return host_ ? host_->AllGather(data, ranges) : messages_->AllGather(data, ranges);
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
    return Collective("barrier", [&] { return messages_->Meet(); });
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

  Status SendHeader(BroadcastHeader* header, int root) {
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(MpiStatus(
        MPI_Ibcast(header, static_cast<int>(sizeof *header), MPI_BYTE, root, comm_, &request),
        "sending the message's size"));
    return messages_->WaitFor(&request);
  }

  // Each rank brings sizes[rank()]; afterwards every rank has all.
  Status ExchangeSizes(std::vector<int64_t>& sizes) {
    const int64_t own = sizes[rank_];
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(MpiStatus(
        MPI_Iallgather(&own, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, comm_, &request),
        "exchanging the messages' sizes"));
    return messages_->WaitFor(&request);
  }

  MPI_Comm comm_;
  const int rank_;
  const int size_;
  const std::unique_ptr<Messages> messages_;
  const std::unique_ptr<Host> host_;  // null: messages only
  Status failure_;                    // the first; all later calls return it
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
  auto messages = std::make_unique<Messages>(comm, rank, size, options);
  std::unique_ptr<Host> host;
  if (size > 1 && options.share_memory) {
    ASSIGN_OR_RETURN(host, Host::Find(comm, options, messages.get()));
  }
  return std::make_unique<MpiCommunicator>(comm, rank, size, std::move(messages), std::move(host));
}

}  // namespace atl
