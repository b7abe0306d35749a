#include "collectives/wan/fetching.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/units.h"

namespace atl::wan {
namespace {

constexpr int kMaxRequests = 256;  // that one source owes
constexpr int64_t kMaxWindow = 64 << 20;
constexpr int64_t kMaxBuffers = 128 << 20;  // of one fetch
constexpr size_t kMaxAskers = 3;            // of one block
constexpr int64_t kMinBlockBytes = 4 << 10;
// Rates are taken over so long, at least.
constexpr double kRateSeconds = 0.25;
constexpr double kRateRoundTrips = 3;
// What a request waits for beside the round trip: both ends' threads, and the disk.
constexpr double kDelaySeconds = 0.03;
// A source is late that has sent nothing for so long.
constexpr double kLateSeconds = 0.5;
constexpr double kLateRoundTrips = 4;
constexpr double kMuchSooner = 1.5;
constexpr double kSoonerSeconds = 0.1;
constexpr double kBurstSeconds = 0.05;  // of a capped rate

int64_t Total(const std::vector<Range>& ranges) {
  int64_t total = 0;
  for (const Range& range : ranges) total += range.size();
  return total;
}

// Takes `part` out of ascending ranges; how many bytes of it were in them.
int64_t TakeOut(std::vector<Range>* ranges, const Range& part) {
  std::vector<Range> rest;
  int64_t taken = 0;
  for (const Range& range : *ranges) {
    const Range common = {std::max(range.begin, part.begin), std::min(range.end, part.end)};
    if (common.empty()) {
      rest.push_back(range);
      continue;
    }
    taken += common.size();
    if (range.begin < common.begin) rest.push_back({range.begin, common.begin});
    if (common.end < range.end) rest.push_back({common.end, range.end});
  }
  *ranges = std::move(rest);
  return taken;
}

bool Within(const std::vector<Range>& ranges, const Range& part) {
  for (const Range& range : ranges) {
    if (range.begin <= part.begin && part.end <= range.end) return true;
  }
  return false;
}

Status Check(const FetchRequest& request, int members, int self) {
  const auto bad = [&request](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat("a fetch of '", request.name, "' ", what));
  };
  if (request.name.empty() || request.name.size() > size_t{kMaxNameBytes}) {
    return bad(absl::StrCat("whose name has not 1 to ", kMaxNameBytes, " bytes"));
  }
  if (request.block_bytes < kMinBlockBytes || request.block_bytes > kMaxBlockBytes) {
    return bad(absl::StrCat("in blocks of ", request.block_bytes, " bytes; ", kMinBlockBytes,
                            " to ", kMaxBlockBytes, " are possible"));
  }
  if ((request.sink != nullptr) == !request.out.empty()) {
    return bad("needs a place for its bytes: a buffer or a sink, not both");
  }
  std::vector<Range> sorted = request.ranges;
  std::sort(sorted.begin(), sorted.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  int64_t last = 0;
  for (const Range& range : sorted) {
    if (range.empty() || range.begin < last || range.end > int64_t{1} << 48) {
      return bad(absl::StrCat("of bytes ", range.begin, " to ", range.end,
                              ", which cannot be or were named before"));
    }
    last = range.end;
  }
  const auto room = static_cast<int64_t>(request.out.size());
  if (!request.sink && !sorted.empty() &&
      (sorted[0].begin < request.out_begin || last > request.out_begin + room)) {
    return bad("whose bytes do not fit into its buffer");
  }
  for (const MemberIndex source : request.sources) {
    if (source.value < 0 || source.value >= members || source.value == self) {
      return bad(absl::StrCat("from member ", source.value, ", which cannot be"));
    }
  }
  return OkStatus();
}

}  // namespace

std::string Fetching::Name(int member) const {
  return absl::StrCat("region '", names_[member], "'");
}

// ---- beginning and ending

void Fetching::Begin(FetchRequest request, std::shared_ptr<FetchHandle> handle, double now) {
  const int members = static_cast<int>(names_.size());
  const Status valid = Check(request, members, self_);
  if (!valid.ok()) return handle->Finish(valid, {});
  const uint64_t number = next_fetch_++;
  Fetch& fetch = fetches_[number];
  fetch.number = number;
  fetch.handle = std::move(handle);
  fetch.sources.assign(members, request.sources.empty());
  for (const MemberIndex source : request.sources) fetch.sources[source.value] = true;
  fetch.sources[self_] = false;
  fetch.todo.assign(request.ranges.begin(), request.ranges.end());
  fetch.progress.wanted = Total(request.ranges);
  fetch.progress.from.assign(members, 0);
  fetch.began = fetch.allowed_at = now;
  fetch.request = std::move(request);
  if (fetch.progress.wanted == 0) return Finish(number, OkStatus(), now);
  for (int member = 0; member < members; ++member) {
    const auto at = fetches_.find(number);
    if (at == fetches_.end()) return;
    if (!at->second.sources[member]) continue;
    const Status reachable = hooks_.reachable(member);
    if (!reachable.ok()) FallOut(&at->second, member, reachable, now);
  }
  const auto at = fetches_.find(number);
  if (at == fetches_.end()) return;
  if (std::count(at->second.sources.begin(), at->second.sources.end(), true) == 0) {
    return Finish(number, absl::InvalidArgumentError("a fetch from nobody"), now);
  }
  Pump(now);
}

void Fetching::Cancel(const FetchHandle* handle, const Status& status, double now) {
  for (const auto& [number, fetch] : fetches_) {
    if (fetch.handle.get() != handle) continue;
    Finish(number, status, now);
    return;
  }
}

void Fetching::EndAll(const Status& status, double now) {
  while (!fetches_.empty()) Finish(fetches_.begin()->first, status, now);
  requests_.clear();
  sources_.assign(sources_.size(), {});
}

void Fetching::Finish(uint64_t number, const Status& status, double now) {
  const auto at = fetches_.find(number);
  Fetch& fetch = at->second;
  for (const auto& [id, request] : requests_) {
    if (request.fetch == number) CancelRequest(id);
  }
  FetchProgress progress = Snapshot(fetch, now);
  progress.missing.assign(fetch.todo.begin(), fetch.todo.end());
  for (const auto& [begin, block] : fetch.open) {
    if (fetch.request.sink) {
      progress.missing.push_back(block.range);
    } else {
      progress.missing.insert(progress.missing.end(), block.missing.begin(), block.missing.end());
    }
  }
  std::sort(progress.missing.begin(), progress.missing.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  size_t last = 0;
  for (const Range& range : std::vector<Range>(progress.missing)) {
    if (last > 0 && progress.missing[last - 1].end == range.begin) {
      progress.missing[last - 1].end = range.end;
    } else {
      progress.missing[last++] = range;
    }
  }
  progress.missing.resize(last);
  const std::shared_ptr<FetchHandle> handle = std::move(fetch.handle);
  fetches_.erase(at);
  handle->Finish(status, std::move(progress));
}

FetchProgress Fetching::Snapshot(const Fetch& fetch, double now) const {
  FetchProgress progress = fetch.progress;
  progress.seconds = now - fetch.began;
  return progress;
}

// ---- asking

int64_t Fetching::Window(const Fetch& fetch, int member) const {
  const int64_t least = 2 * fetch.request.block_bytes;
  const double trip = hooks_.round_trip(member) + kDelaySeconds;
  const auto wished = static_cast<int64_t>(2 * sources_[member].rate * trip);
  return std::max(least, std::min(kMaxWindow, wished + least));
}

void Fetching::Pump(double now) {
  for (auto& [number, fetch] : fetches_) {
    const double cap = fetch.request.rate_cap;
    fetch.allowance =
        std::min(kBurstSeconds * cap, fetch.allowance + cap * (now - fetch.allowed_at));
    fetch.allowed_at = now;
  }
  for (bool any = true; any;) {
    any = false;
    for (size_t member = 0; member < sources_.size(); ++member) {
      for (auto& [number, fetch] : fetches_) {
        if (fetch.sources[member]) any = AskOne(&fetch, static_cast<int>(member), now) || any;
      }
    }
  }
}

bool Fetching::AskOne(Fetch* fetch, int member, double now) {
  const Source& source = sources_[member];
  if (source.requests >= kMaxRequests || source.owes >= Window(*fetch, member)) return false;
  if (fetch->request.rate_cap > 0 && fetch->allowance <= 0) return false;
  Block* block = Unasked(fetch);
  if (block == nullptr) block = Cut(fetch);
  if (block == nullptr) block = TakeOver(fetch, member, now);
  if (block == nullptr) return false;
  Ask(fetch, block, member, now);
  return true;
}

Fetching::Block* Fetching::Unasked(Fetch* fetch) {
  return fetch->unasked.empty() ? nullptr : &fetch->open.at(*fetch->unasked.begin());
}

Fetching::Block* Fetching::Cut(Fetch* fetch) {
  if (fetch->todo.empty()) return nullptr;
  Range& rest = fetch->todo.front();
  const Range range = {rest.begin, std::min(rest.end, rest.begin + fetch->request.block_bytes)};
  if (fetch->request.sink && fetch->held > 0 && fetch->held + range.size() > kMaxBuffers) {
    return nullptr;
  }
  rest.begin = range.end;
  if (rest.empty()) fetch->todo.pop_front();
  Block& block = fetch->open[range.begin];
  block.range = range;
  block.missing = {range};
  if (fetch->request.sink) {
    block.buffer = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(range.size()));
    fetch->held += range.size();
  }
  fetch->unasked.insert(range.begin);
  return &block;
}

double Fetching::SecondsToSend(int member, int64_t more, double now) const {
  const Source& source = sources_[member];
  const double trip = hooks_.round_trip(member);
  const double late = std::max(kLateSeconds, kLateRoundTrips * trip);
  if (source.owes > 0 && now - source.heard > late) return std::numeric_limits<double>::infinity();
  if (source.rate <= 0) return late;
  return trip + static_cast<double>(source.owes + more) / source.rate;
}

Fetching::Block* Fetching::TakeOver(Fetch* fetch, int member, double now) {
  int slowest = -1;
  double latest = 0;
  for (size_t other = 0; other < sources_.size(); ++other) {
    if (!fetch->sources[other] || static_cast<int>(other) == member) continue;
    const double seconds =
        sources_[other].owes > 0 ? SecondsToSend(static_cast<int>(other), 0, now) : 0;
    if (seconds > latest) {
      latest = seconds;
      slowest = static_cast<int>(other);
    }
  }
  if (slowest < 0) return nullptr;
  for (auto at = requests_.rbegin(); at != requests_.rend(); ++at) {
    const Request& request = at->second;
    if (request.member != slowest || request.fetch != fetch->number || request.cancelled) continue;
    const auto open = fetch->open.find(request.block);
    if (open == fetch->open.end()) continue;
    Block& block = open->second;
    if (block.alone || block.sinking || block.asked.size() >= kMaxAskers) continue;
    const bool mine = std::any_of(block.asked.begin(), block.asked.end(),
                                  [&](uint64_t id) { return requests_.at(id).member == member; });
    if (mine) continue;
    const double soon = SecondsToSend(member, Total(block.missing), now);
    if (!(latest > kMuchSooner * soon + kSoonerSeconds)) return nullptr;
    CancelRequest(at->first);
    return &block;
  }
  return nullptr;
}

void Fetching::Ask(Fetch* fetch, Block* block, int member, double now) {
  Source& source = sources_[member];
  if (source.requests == 0) {
    source.heard = now;
    source.seen.clear();
  }
  for (const Range& range : block->missing) {
    const uint64_t id = next_request_++;
    requests_[id] = {member, fetch->number, block->range.begin, {range}, false};
    block->asked.insert(id);
    ++source.requests;
    source.owes += range.size();
    fetch->allowance -= static_cast<double>(range.size());
    FrameHeader header;
    header.type = FrameType::kFetch;
    header.operation = id;
    hooks_.send(member, header, EncodeFetch({range, fetch->request.name}));
  }
  fetch->unasked.erase(block->range.begin);
}

void Fetching::CancelRequest(uint64_t id) {
  Request& request = requests_.at(id);
  if (std::exchange(request.cancelled, true)) return;
  FrameHeader header;
  header.type = FrameType::kFetchCancel;
  header.operation = id;
  hooks_.send(request.member, header, {});
}

void Fetching::EndRequest(std::map<uint64_t, Request>::iterator at) {
  const Request& request = at->second;
  Source& source = sources_[request.member];
  source.owes -= Total(request.due);
  --source.requests;
  const auto fetch = fetches_.find(request.fetch);
  if (fetch != fetches_.end()) {
    const auto open = fetch->second.open.find(request.block);
    if (open != fetch->second.open.end()) {
      Block& block = open->second;
      if (block.asked.erase(at->first) > 0 && block.asked.empty() && !block.missing.empty()) {
        // From one source alone is all or nothing.
        if (block.alone) {
          block.missing = {block.range};
          block.from.clear();
        }
        fetch->second.unasked.insert(block.range.begin);
      }
    }
  }
  requests_.erase(at);
}

// ---- what comes

Status Fetching::OnBlock(int member, const FrameHeader& header, Bytes payload, double now) {
  const uint64_t id = header.operation;
  const auto at = requests_.find(id);
  if (at == requests_.end()) {
    return id < next_request_ ? OkStatus()
                              : absl::InvalidArgumentError("it sent bytes nobody asked it for");
  }
  Request& request = at->second;
  const auto of = fetches_.find(request.fetch);
  if (request.member != member || !Within(request.due, header.range)) {
    const Status lie = absl::InvalidArgumentError("it sent bytes that were not asked of it");
    if (of != fetches_.end()) FallOut(&of->second, member, lie, now);
    Pump(now);
    return lie;
  }
  Source& source = sources_[member];
  TakeOut(&request.due, header.range);
  source.owes -= header.range.size();
  source.received += header.range.size();
  source.heard = now;
  if (of != fetches_.end()) {
    const auto open = of->second.open.find(request.block);
    if (open != of->second.open.end() && open->second.asked.count(id) > 0) {
      Place(&of->second, &open->second, request, header.range, payload);
    } else {
      of->second.progress.again += header.range.size();
    }
    const int64_t begin = request.block;
    if (request.due.empty()) EndRequest(at);
    const auto still = of->second.open.find(begin);
    if (still != of->second.open.end() && still->second.missing.empty() && !still->second.sinking) {
      Complete(&of->second, &still->second, now);
    }
  } else if (request.due.empty()) {
    EndRequest(at);
  }
  Pump(now);
  return OkStatus();
}

void Fetching::Place(Fetch* fetch, Block* block, const Request& request, Range range,
                     Bytes payload) {
  uint8_t* const to = fetch->request.sink ? block->buffer.get() - block->range.begin
                                          : fetch->request.out.data() - fetch->request.out_begin;
  for (const Range& missing : block->missing) {
    const Range part = {std::max(missing.begin, range.begin), std::min(missing.end, range.end)};
    if (part.empty()) continue;
    std::memcpy(to + part.begin, payload.data() + (part.begin - range.begin),
                static_cast<size_t>(part.size()));
  }
  const int64_t fresh = TakeOut(&block->missing, range);
  if (fresh > 0) block->from.insert(request.member);
  fetch->progress.from[request.member] += fresh;
  fetch->progress.again += range.size() - fresh;
  if (!fetch->request.sink) fetch->progress.received += fresh;
}

void Fetching::Complete(Fetch* fetch, Block* block, double now) {
  for (const uint64_t id : block->asked) CancelRequest(id);
  const int64_t begin = block->range.begin;
  if (fetch->request.sink) {
    block->sinking = true;
    const auto result = std::make_shared<Status>();
    // The block stays where it is until OnSunk, or its bytes go with the fetch.
    const std::shared_ptr<uint8_t[]> bytes = std::move(block->buffer);
    hooks_.run(
        [handle = fetch->handle, sink = fetch->request.sink, bytes, begin,
         size = static_cast<size_t>(block->range.size()), result] {
          *result = handle->Sink([&] { return sink(begin, {bytes.get(), size}); });
        },
        [this, number = fetch->number, begin, result] {
          OnSunk(number, begin, *result, Clock::Real()->MonotonicSeconds());
        });
    return;
  }
  fetch->open.erase(begin);
  if (fetch->open.empty() && fetch->todo.empty()) Finish(fetch->number, OkStatus(), now);
}

void Fetching::OnSunk(uint64_t number, int64_t begin, const Status& status, double now) {
  const auto at = fetches_.find(number);
  if (at == fetches_.end()) return;
  Fetch& fetch = at->second;
  Block& block = fetch.open.at(begin);
  if (status.ok()) {
    fetch.progress.received += block.range.size();
    fetch.held -= block.range.size();
    fetch.open.erase(begin);
    if (fetch.open.empty() && fetch.todo.empty()) Finish(number, OkStatus(), now);
  } else if (absl::IsDataLoss(status)) {
    const std::set<int> from = std::exchange(block.from, {});
    block.alone = true;
    block.sinking = false;
    block.asked.clear();  // what still comes of them is no longer wanted
    block.missing = {block.range};
    block.buffer =
        std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(block.range.size()));
    fetch.unasked.insert(begin);
    fetch.progress.again += block.range.size();
    if (from.size() == 1) {
      FallOut(&fetch, *from.begin(),
              absl::DataLossError(absl::StrCat("it sent wrong bytes: ", status.message())), now);
    }
  } else {
    Finish(number, status, now);
  }
  Pump(now);
}

Status Fetching::OnEnd(int member, uint64_t id, const FetchEnd& end, double now) {
  const auto at = requests_.find(id);
  if (at == requests_.end()) {
    return id < next_request_ ? OkStatus()
                              : absl::InvalidArgumentError("it ended what nobody asked it for");
  }
  if (at->second.member != member) {
    return absl::InvalidArgumentError("it ended what was not asked of it");
  }
  sources_[member].heard = now;
  const bool cancelled = at->second.cancelled;
  const uint64_t number = at->second.fetch;
  EndRequest(at);
  const auto of = fetches_.find(number);
  if (of != fetches_.end() && !(cancelled && end.code == FetchEndCode::kCancelled)) {
    FallOut(&of->second, member, StatusOf(end), now);
  }
  Pump(now);
  return OkStatus();
}

// ---- sources that fall out

void Fetching::FallOut(Fetch* fetch, int member, const Status& why, double now) {
  if (!fetch->sources[member]) return;
  fetch->sources[member] = false;
  fetch->progress.fallen.push_back({{member}, names_[member], why});
  const uint64_t number = fetch->number;
  for (auto at = requests_.begin(); at != requests_.end();) {
    const auto next = std::next(at);
    if (at->second.member == member && at->second.fetch == number) {
      CancelRequest(at->first);
      EndRequest(at);
    }
    at = next;
  }
  if (std::count(fetch->sources.begin(), fetch->sources.end(), true) > 0) return;
  std::vector<std::string> reasons;
  for (const FallenSource& fallen : fetch->progress.fallen) {
    reasons.push_back(absl::StrCat(Name(fallen.member.value), ": ", fallen.why.message()));
  }
  Finish(number,
         absl::UnavailableError(absl::StrCat(
             "no source is left for '", fetch->request.name, "', ", fetch->progress.received,
             " of ", fetch->progress.wanted, " bytes are here. ", absl::StrJoin(reasons, "; "))),
         now);
}

void Fetching::OnLost(int member, const Status& why, double now) {
  std::vector<uint64_t> numbers;
  for (const auto& [number, fetch] : fetches_) numbers.push_back(number);
  for (const uint64_t number : numbers) FallOut(&fetches_.at(number), member, why, now);
  for (auto at = requests_.begin(); at != requests_.end();) {
    const auto next = std::next(at);
    if (at->second.member == member) EndRequest(at);
    at = next;
  }
  sources_[member] = {};
  Pump(now);
}

void Fetching::Tick(double now) {
  for (size_t member = 0; member < sources_.size(); ++member) {
    Source& source = sources_[member];
    if (source.requests == 0) continue;
    if (now - source.heard > patience_) {
      const double silent = now - source.heard;
      OnLost(static_cast<int>(member),
             absl::DeadlineExceededError(absl::StrCat(
                 "it sent nothing of what was asked of it for ", FormatDuration(silent))),
             now);
      continue;
    }
    source.seen.emplace_back(now, source.received);
    const double window =
        std::max(kRateSeconds, kRateRoundTrips * hooks_.round_trip(static_cast<int>(member)));
    while (source.seen.size() > 2 && source.seen[1].first < now - window) source.seen.pop_front();
    const double span = now - source.seen.front().first;
    if (span <= 0) continue;
    const double rate = static_cast<double>(source.received - source.seen.front().second) / span;
    if (span >= window / 2 || rate > source.rate) source.rate = rate;
  }
  for (const auto& [number, fetch] : fetches_) fetch.handle->Publish(Snapshot(fetch, now));
  Pump(now);
}

}  // namespace atl::wan
