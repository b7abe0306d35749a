// Vectors in memory that all ranks of a host see: see host.h.
//
// 1. Every rank makes a segment for its own vector, so that its pages are near its core, and says
//    where it is.
// 2. If all could, every rank maps the others'. If all could that too, the vector is shared; else
//    all take ordinary memory, and the log says why.
// 3. The files are closed. A segment has no name: it goes with the last process that maps it.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "collectives/mpi/host.h"

namespace atl {
namespace {

// Maps the segments of the other ranks, as they have told.
Status OpenOthers(const std::vector<std::string>& told, std::vector<HostSegment>& segments) {
  for (size_t rank = 0; rank < segments.size(); ++rank) {
    if (segments[rank] != nullptr) continue;
    SegmentAddress address;
    if (told[rank].size() != sizeof address) {
      return absl::InternalError(absl::StrCat("rank ", rank, " does not say where its vector is"));
    }
    std::memcpy(&address, told[rank].data(), sizeof address);
    ASSIGN_OR_RETURN(segments[rank], SharedSegment::Open(address));
  }
  return OkStatus();
}

}  // namespace

StatusOr<Buffer> Host::Allocate(int64_t count, Gather gather) {
  constexpr int64_t kMostFloats = int64_t{1} << 48;
  if (vectors_ == nullptr || count > kMostFloats) return Buffer::Ordinary(count);
  const int64_t bytes = SharedSegment::kReserved + std::max<int64_t>(count, 1) * sizeof(float);
  std::vector<HostSegment> segments(ranks_);
  std::string address;  // empty: there is none
  auto made = SharedSegment::Create(bytes);
  if (made.ok()) {
    segments[local_rank_] = *std::move(made);
    const SegmentAddress& own = segments[local_rank_]->address();
    address.assign(reinterpret_cast<const char*>(&own), sizeof own);
  } else {
    LOG(WARNING) << "no shared memory for a vector: " << made.status().message();
  }
  ASSIGN_OR_RETURN(const auto told, gather(address));
  bool good = std::none_of(told.begin(), told.end(), [](const auto& text) { return text.empty(); });
  if (good) {
    const Status opened = OpenOthers(told, segments);
    if (!opened.ok()) LOG(WARNING) << "cannot see the other ranks' vectors: " << opened.message();
    good = opened.ok();
  }
  ASSIGN_OR_RETURN(const auto answers, gather(good ? "y" : "n"));
  if (std::any_of(answers.begin(), answers.end(), [](const auto& text) { return text != "y"; })) {
    if (rank_ == 0) {
      LOG(WARNING) << "a vector of " << count << " floats is not shared by the ranks of this host: "
                   << "its collectives are slower";
    }
    return Buffer::Ordinary(count);
  }
  std::vector<char*> starts;
  std::vector<int64_t> sizes;
  for (const HostSegment& segment : segments) {
    segment->Close();
    starts.push_back(segment->data() + SharedSegment::kReserved);
    sizes.push_back(segment->address().bytes - SharedSegment::kReserved);
  }
  auto* const data = reinterpret_cast<float*>(starts[local_rank_]);
  const uint64_t number = vectors_->Add(std::move(starts), std::move(sizes));
  return Buffer(data, count, /*shared=*/true,
                [vectors = vectors_, number, segments = std::move(segments)]() mutable {
                  vectors->Remove(number);
                  segments.clear();
                });
}

}  // namespace atl
