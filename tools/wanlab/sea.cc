#include "tools/wanlab/sea.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl {
namespace {

Nanos ToNanos(double seconds) { return std::llround(seconds * 1e9); }

}  // namespace

Sea::Sea(const Lab& lab, PacketPool* pool) : lab_(lab), pool_(pool), regions_(lab.regions.size()) {
  for (const LabRegion& from : lab.regions) {
    for (const LabRegion& to : lab.regions) {
      links_.emplace_back(DeriveSeed(lab.seed, absl::StrCat("lab:", from.name, ">", to.name)));
    }
  }
  for (int i = 0; i < lab.size(); ++i) {
    SetCaps(i, lab.regions[i].up_bits_per_second, lab.regions[i].down_bits_per_second);
    for (int j = 0; j < lab.size(); ++j) SetLink(i, j, lab.link(i, j));
  }
}

void Sea::SetLink(int from, int to, const LabLink& settings) {
  lab_.link(from, to) = settings;
  Link& l = link(from, to);
  l.pipe.Set(settings.rate_bits_per_second, ToNanos(settings.queue_seconds));
  l.loss.Set(settings.loss);
  l.delay = ToNanos(settings.delay_seconds);
  l.jitter_span = ToNanos(settings.jitter_seconds);
}

void Sea::SetCaps(int region, int64_t up, int64_t down) {
  lab_.regions[region].up_bits_per_second = up;
  lab_.regions[region].down_bits_per_second = down;
  const Nanos queue = ToNanos(lab_.region_queue_seconds);
  regions_[region].up.Set(up, queue);
  regions_[region].down.Set(down, queue);
}

void Sea::SetCut(int from, int to, bool cut) { link(from, to).cut = cut; }

Nanos Sea::ShortestDelay() const {
  Nanos shortest = INT64_MAX;
  for (size_t i = 0; i < regions_.size(); ++i) {
    for (size_t j = 0; j < regions_.size(); ++j) {
      if (i != j) shortest = std::min(shortest, link(i, j).delay);
    }
  }
  return shortest;
}

bool Sea::Later(const Event& a, const Event& b) {
  return a.due != b.due ? a.due > b.due : a.number > b.number;
}

void Sea::Schedule(Nanos due, int from, int to, Stage stage, PacketPtr packet) {
  events_.push_back({due, scheduled_++, std::move(packet), static_cast<uint16_t>(from),
                     static_cast<uint16_t>(to), stage});
  std::push_heap(events_.begin(), events_.end(), Later);
}

std::optional<Nanos> Sea::next_due() const {
  if (events_.empty()) return std::nullopt;
  return events_.front().due;
}

// Steps 1, 2 and 5. `dropped` counts segments.
template <typename Emit>
void Sea::Serialise(Pipe* pipe, Nanos now, PacketPtr packet, int64_t* dropped, RegionCounts* counts,
                    const Emit& emit) {
  if (!pipe->capped()) return emit(pipe->Send(now, 0), std::move(packet));
  const Segments segments = SegmentsOf(*packet);
  const uint32_t taken = pipe->Room(now, segments.count, segments.full_segment_bytes());
  *dropped += segments.count - taken;
  if (taken == 0) return;
  const uint32_t quantum = pipe->InQuantum(segments.full_segment_bytes());
  if (taken == segments.count && quantum >= segments.count) {
    const Nanos left = pipe->Send(now, segments.wire_bytes());
    return emit(left, std::move(packet));
  }
  for (uint32_t first = 0; first < taken;) {
    const uint32_t count = std::min(quantum, taken - first);
    PacketPtr piece = CutOut(*packet, segments, first, count, pool_);
    first += count;
    if (piece == nullptr) {
      ++counts->out_of_memory;
      continue;
    }
    const Nanos left = pipe->Send(now, piece->length + int64_t{count - 1} * segments.header_bytes);
    emit(left, std::move(piece));
  }
}

void Sea::Send(Nanos now, int from, int to, PacketPtr packet, Nanos seen) {
  CHECK(from != to);
  Region& sender = regions_[from];
  if (packet == nullptr) {
    ++sender.counts.out_of_memory;
    return;
  }
  sender.counts.sent_bytes += packet->length;
  Link& l = link(from, to);
  Serialise(&sender.up, now, std::move(packet), &sender.counts.up_dropped, &sender.counts,
            [&](Nanos sent, PacketPtr piece) {
              Serialise(
                  &l.pipe, sent, std::move(piece), &l.counts.dropped, &sender.counts,
                  [&](Nanos left, PacketPtr part) {
                    Travel(std::max(left, seen), from, to, std::move(part));
                  });
            });
}

// Steps 3 and 4.
void Sea::Travel(Nanos now, int from, int to, PacketPtr packet) {
  Link& l = link(from, to);
  const Segments segments = SegmentsOf(*packet);
  l.counts.segments += segments.count;
  l.counts.bytes += segments.wire_bytes();
  const std::vector<uint32_t>& lost = l.loss.Next(segments.count);
  l.counts.lost += static_cast<int64_t>(lost.size());
  const auto go = [&](PacketPtr part) {
    Nanos due = now + l.delay;
    if (l.jitter_span > 0) {
      due += static_cast<Nanos>(l.jitter.Uniform(l.jitter_drawn++) *
                                static_cast<double>(l.jitter_span));
    }
    l.last_due = std::max(l.last_due, due);
    Schedule(l.last_due, from, to, Stage::kArrives, std::move(part));
  };
  if (lost.empty()) return go(std::move(packet));
  if (segments.count == 1) return;
  uint32_t first = 0;
  for (size_t i = 0; i <= lost.size(); ++i) {
    const uint32_t end = i < lost.size() ? lost[i] : segments.count;
    if (end > first) {
      PacketPtr part = CutOut(*packet, segments, first, end - first, pool_);
      if (part != nullptr) {
        go(std::move(part));
      } else {
        ++regions_[from].counts.out_of_memory;
      }
    }
    first = end + 1;
  }
}

// Step 5, for a packet that has come to the end of its link.
void Sea::Arrive(Event event) {
  const int from = event.from, to = event.to;
  Region& receiver = regions_[to];
  Serialise(&receiver.down, event.due, std::move(event.packet), &receiver.counts.down_dropped,
            &receiver.counts, [&](Nanos left, PacketPtr piece) {
              Schedule(left, from, to, Stage::kIsDelivered, std::move(piece));
            });
}

void Sea::Advance(Nanos now, const Deliver& deliver) {
  while (!events_.empty() && events_.front().due <= now) {
    std::pop_heap(events_.begin(), events_.end(), Later);
    Event event = std::move(events_.back());
    events_.pop_back();
    Link& l = link(event.from, event.to);
    if (l.cut) {
      l.counts.cut += SegmentsOf(*event.packet).count;
      continue;
    }
    const Pipe& down = regions_[event.to].down;
    if (event.stage == Stage::kArrives && (down.capped() || down.Backlog(event.due) > 0)) {
      Arrive(std::move(event));
      continue;
    }
    regions_[event.to].counts.received_bytes += event.packet->length;
    deliver(event.to, *event.packet);
  }
}

}  // namespace atl
