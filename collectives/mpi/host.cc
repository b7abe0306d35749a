#include "collectives/mpi/host.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "collectives/mpi/mpi_status.h"

namespace atl {
namespace {

// More ranks on one host than this exchange messages: the slots grow with the square.
constexpr int kMostRanks = 128;
// How long a rank waits for another before it asks whether that one lives: mpirun, which ends a
// region whose rank has died, comes first.
constexpr double kPatienceSeconds = 5;

class LocalComm {  // freed at the end
 public:
  ~LocalComm() {
    if (comm != MPI_COMM_NULL) MPI_Comm_free(&comm);
  }
  MPI_Comm comm = MPI_COMM_NULL;
};

int Cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(CPU_COUNT(&set), 1) : 1;
}

StatusOr<int> Least(MPI_Comm comm, int own) {
  int least = own;
  RETURN_IF_ERROR(MpiStatus(MPI_Allreduce(&own, &least, 1, MPI_INT, MPI_MIN, comm),
                            "agreeing on shared memory"));
  return least;
}

// Parts the ranks by host, or into as many runs as a test pretends there are hosts.
Status Part(MPI_Comm comm, int rank, int size, int pretended_hosts, LocalComm* local) {
  if (pretended_hosts > 0) {
    const int host = static_cast<int>(int64_t{rank} * pretended_hosts / size);
    return MpiStatus(MPI_Comm_split(comm, host, rank, &local->comm), "parting the ranks");
  }
  return MpiStatus(
      MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &local->comm),
      "finding the ranks of this host");
}

}  // namespace

StatusOr<std::unique_ptr<Host>> Host::Find(MPI_Comm comm, const MpiOptions& options,
                                           Messages* messages) {
  auto host = absl::WrapUnique(new Host(comm, messages));
  if (options.short_bytes >= 0) host->short_bytes_ = options.short_bytes;
  MPI_Comm_rank(comm, &host->rank_);
  MPI_Comm_size(comm, &host->size_);
  LocalComm local;
  RETURN_IF_ERROR(Part(comm, host->rank_, host->size_, options.pretended_hosts, &local));
  bool consecutive = false;
  RETURN_IF_ERROR(host->FindRanks(local.comm, &consecutive));
  ASSIGN_OR_RETURN(const int fits, Least(comm, consecutive && host->ranks_ <= kMostRanks));
  if (!fits || static_cast<int>(host->first_ranks_.size()) == host->size_) return nullptr;

  ASSIGN_OR_RETURN(const int cores, Least(local.comm, Cores()));
  // The hosts pass chunks on, so they are the same on all.
  ASSIGN_OR_RETURN(const int rule,
                   Least(comm, static_cast<int>(HostExchange::ChunkBytes(host->ranks_, cores))));
  const int64_t chunk_bytes = options.chunk_bytes > 0 ? options.chunk_bytes : rule;
  Status own;
  RETURN_IF_ERROR(host->ShareMemory(
      local.comm, SharedSegment::kReserved + HostExchange::BytesNeeded(host->ranks_, chunk_bytes),
      &own));
  if (!own.ok()) LOG(WARNING) << "ranks of this host cannot share memory: " << own.message();
  ASSIGN_OR_RETURN(const int shared, Least(comm, host->segment_ != nullptr && own.ok()));
  if (!shared) {
    if (host->rank_ == 0) {
      LOG(WARNING) << "the region's collectives go by messages, which is slower";
    }
    return nullptr;
  }
  if (options.reach_memory && host->OverOneHost()) RETURN_IF_ERROR(host->TryToReach(local.comm));
  if (options.share_vectors && host->OverOneHost() && host->ranks_ <= kMostSharing) {
    host->vectors_ = std::make_shared<SharedVectors>(host->local_rank_);
  }
  host->exchange_ = std::make_unique<HostExchange>(
      host->segment_->data() + SharedSegment::kReserved, host->local_rank_, host->ranks_,
      host->ExchangeOptions(options, cores, chunk_bytes));
  host->LayLines();
  return host;
}

Status Host::FindRanks(MPI_Comm local, bool* consecutive) {
  MPI_Comm_rank(local, &local_rank_);
  MPI_Comm_size(local, &ranks_);
  // The ranks keep their order in a part, so a part is consecutive if its first and last rank are.
  int ends[2] = {rank_, -rank_};
  RETURN_IF_ERROR(MpiStatus(MPI_Allreduce(MPI_IN_PLACE, ends, 2, MPI_INT, MPI_MIN, local),
                            "finding the ranks of this host"));
  *consecutive = -ends[1] - ends[0] + 1 == ranks_;
  const int first = ends[0];
  std::vector<int> first_of_rank(size_);
  RETURN_IF_ERROR(
      MpiStatus(MPI_Allgather(&first, 1, MPI_INT, first_of_rank.data(), 1, MPI_INT, comm_),
                "counting the hosts"));
  for (int rank = 0; rank < size_; ++rank) {
    if (first_of_rank[rank] == rank) first_ranks_.push_back(rank);
  }
  host_ = static_cast<int>(std::lower_bound(first_ranks_.begin(), first_ranks_.end(), first) -
                           first_ranks_.begin());
  ASSIGN_OR_RETURN(carriers_, Least(comm_, ranks_));
  return OkStatus();
}

Status Host::ShareMemory(MPI_Comm local, int64_t bytes, Status* own) {
  SegmentAddress address;
  if (local_rank_ == 0) {
    auto made = SharedSegment::Create(bytes);
    *own = made.status();
    if (made.ok()) {
      segment_ = *std::move(made);
      address = segment_->address();
    }
  }
  RETURN_IF_ERROR(MpiStatus(MPI_Bcast(&address, sizeof address, MPI_BYTE, 0, local),
                            "telling where the shared segment is"));
  if (local_rank_ != 0 && address.fd >= 0) {
    auto opened = SharedSegment::Open(address);
    *own = opened.status();
    if (opened.ok()) segment_ = *std::move(opened);
  }
  if (segment_ != nullptr && own->ok()) *own = segment_->Hold(local_rank_);
  return OkStatus();
}

// Every rank reads and writes a word of every other.
Status Host::TryToReach(MPI_Comm local) {
  struct Target {
    int64_t process = 0;
    uint64_t address = 0;
    float word = 0;
  };
  std::vector<float> words(ranks_ + 1);  // [r] is written by rank r, the last one is read
  Target own = {getpid(), reinterpret_cast<uintptr_t>(words.data()), 0};
  own.word = words[ranks_] = static_cast<float>(own.process % 9973 + local_rank_ + 1);
  PeerMemory::Allow();
  std::vector<Target> all(ranks_);
  RETURN_IF_ERROR(
      MpiStatus(MPI_Allgather(&own, sizeof own, MPI_BYTE, all.data(), sizeof own, MPI_BYTE, local),
                "telling where memory is"));
  std::vector<pid_t> processes;
  for (const Target& target : all) processes.push_back(static_cast<pid_t>(target.process));
  peers_ = std::make_unique<PeerMemory>(std::move(processes));
  Status tried;
  for (int peer = 0; peer < ranks_ && tried.ok(); ++peer) {
    if (peer == local_rank_) continue;
    float read = 0;
    tried = peers_->Read(peer, all[peer].address + ranks_ * sizeof read, &read, 1);
    if (!tried.ok()) break;
    if (read != all[peer].word) tried = absl::InternalError("read something else");
    tried.Update(
        peers_->Write(peer, all[peer].address + local_rank_ * sizeof read, &all[peer].word, 1));
  }
  ASSIGN_OR_RETURN(int good, Least(local, tried.ok()));  // after it, all have written
  for (int peer = 0; peer < ranks_; ++peer) {
    if (peer != local_rank_ && words[peer] != own.word) good = 0;
  }
  ASSIGN_OR_RETURN(good, Least(local, good));
  if (!good) peers_ = nullptr;
  if (!tried.ok()) LOG(INFO) << "vectors go through shared slots: " << tried.message();
  return OkStatus();
}

HostExchangeOptions Host::ExchangeOptions(const MpiOptions& options, int cores,
                                          int64_t chunk_bytes) {
  HostExchangeOptions exchange;
  exchange.chunk_bytes = chunk_bytes;
  if (options.past_caches_bytes >= 0) exchange.past_caches_bytes = options.past_caches_bytes;
  exchange.peers = peers_.get();
  exchange.vectors = vectors_.get();
  if (options.least_shared_bytes >= 0) exchange.least_shared_bytes = options.least_shared_bytes;
  if (options.past_caches_bytes >= 0) {
    exchange.gather_past_caches_bytes = options.past_caches_bytes;
  }
  exchange.always_reach = options.always_reach;
  if (options.block_bytes > 0) exchange.block_bytes = options.block_bytes;
  exchange.short_bytes = short_bytes_;
  exchange.wait.clock = options.clock;
  exchange.wait.pauses = ranks_ <= cores ? 200 : 0;
  if (!OverOneHost()) exchange.wait.longest_sleep = absl::Milliseconds(1);
  exchange.while_waiting = [this](int local_rank, double waited_seconds) -> Status {
    if (!OverOneHost()) {
      int waiting = 0;  // makes MPI go on with what this rank has sent
      RETURN_IF_ERROR(MpiStatus(
          MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &waiting, MPI_STATUS_IGNORE), "waiting"));
    }
    if (waited_seconds < kPatienceSeconds || segment_->Holds(local_rank)) return OkStatus();
    return absl::UnavailableError(absl::StrCat("the process of rank ", first_rank() + local_rank,
                                               " has ended while this one waited for it"));
  };
  return exchange;
}

void Host::LayLines() {
  if (OverOneHost() || local_rank_ >= carriers_) return;
  const int hosts = static_cast<int>(first_ranks_.size());
  const int before = host_ > 0 ? first_ranks_[host_ - 1] + local_rank_ : -1;
  const int after = host_ + 1 < hosts ? first_ranks_[host_ + 1] + local_rank_ : -1;
  lines_ = std::make_unique<HostLines>(comm_, before, after, messages_);
}

int Host::past_rank() const {
  return host_ + 1 < static_cast<int>(first_ranks_.size()) ? first_ranks_[host_ + 1] : size_;
}

OverHosts Host::What(float* data, Range whole, Range wanted) const {
  OverHosts what;
  what.data = data;
  what.whole = whole;
  what.wanted = wanted;
  what.here_end = whole.end;
  what.before_end = whole.end;
  what.carriers = carriers_;
  what.hosts_after = static_cast<int>(first_ranks_.size()) - 1 - host_;
  return what;
}

Status Host::AllReduce(float* data, int64_t count) {
  if (OverOneHost()) return exchange_->AllReduce(data, count);
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  if (bytes <= short_bytes_) return messages_->AllReduce(data, count);
  return exchange_->ReduceOverHosts(What(data, {0, count}, {0, count}), lines_.get());
}

Status Host::ReduceScatter(float* data, std::span<const Range> ranges) {
  if (OverOneHost()) return exchange_->ReduceScatter(data, ranges);
  const Range whole = {ranges.front().begin, ranges.back().end};
  const int64_t bytes = whole.size() * static_cast<int64_t>(sizeof(float));
  if (bytes <= short_bytes_) return messages_->ReduceScatter(data, ranges);
  OverHosts what = What(data, whole, ranges[rank_]);
  what.here_end = ranges[past_rank() - 1].end;
  if (host_ > 0) what.before_end = ranges[first_rank() - 1].end;
  return exchange_->ReduceOverHosts(what, lines_.get());
}

Status Host::AllGather(float* data, std::span<const Range> ranges) {
  return OverOneHost() ? exchange_->AllGather(data, ranges) : messages_->AllGather(data, ranges);
}

}  // namespace atl
