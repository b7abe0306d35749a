// The model of the sea: what happens to each packet between two regions, and when. Pure: times and
// packets go in, packets that are due come out.
//
// A packet from region a to region b:
//   1. waits for a's uplink (`up`) and is serialised on it; drop-tail
//   2. waits for the pair's own line (`rate`) and is serialised on it; drop-tail
//   3. is lost at random, or if the pair is cut
//   4. travels: delay plus jitter; packets of a direction keep their order
//   5. waits for b's downlink (`down`) and is serialised on it; drop-tail
//   6. is delivered when its last bit has arrived
// A super-packet is taken apart where a segment is lost or does not fit a queue, and where it would
// occupy a line for more than Pipe::kQuantum, so that others get their turn.
//
// Invariants: a direction never reorders. The same packets at the same times fare the same.
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/random.h"
#include "proto/lab_file.h"
#include "tools/wanlab/loss.h"
#include "tools/wanlab/packet.h"
#include "tools/wanlab/pipe.h"

namespace atl {

// Segments and bytes of one direction since the start.
struct LinkCounts {
  int64_t segments = 0;  // that had passed the caps of sender and pair
  int64_t bytes = 0;     // of them, on the wire
  int64_t lost = 0;      // at random
  int64_t cut = 0;       // lost because the pair was cut
  int64_t dropped = 0;   // at the pair's full queue
};

struct RegionCounts {
  int64_t sent_bytes = 0;  // by the region, before its uplink
  int64_t received_bytes = 0;
  int64_t up_dropped = 0;  // segments, at full queues
  int64_t down_dropped = 0;
  int64_t out_of_memory = 0;  // packets dropped because the pool was empty
};

class Sea {
 public:
  using Deliver = std::function<void(int region, const Packet& packet)>;

  // `pool` outlives the sea.
  Sea(const Lab& lab, PacketPool* pool);

  // A packet leaves region `from` for region `to` at `now`. Times of one region never go back by
  // more than their packets' own spread; a packet that is late is queued behind the earlier ones.
  // A null packet is one for which the pool had no memory: it is counted as lost.
  // It came at `now` as far as the lines are concerned, but sets out on its way not before `seen`.
  void Send(Nanos now, int from, int to, PacketPtr packet, Nanos seen = 0);
  // Hands out all that is due at `now`, in order of time.
  void Advance(Nanos now, const Deliver& deliver);
  // When the next packet is due.
  std::optional<Nanos> next_due() const;

  // Both act on packets that enter from now on; those on their way keep their times.
  void SetLink(int from, int to, const LabLink& link);
  void SetCaps(int region, int64_t up_bits_per_second, int64_t down_bits_per_second);
  // Cut: what is on its way in that direction is lost too.
  void SetCut(int from, int to, bool cut);
  bool is_cut(int from, int to) const { return link(from, to).cut; }

  // The lab as it is now.
  const Lab& lab() const { return lab_; }
  const LinkCounts& link_counts(int from, int to) const { return link(from, to).counts; }
  const RegionCounts& region_counts(int region) const { return regions_[region].counts; }
  // The smallest delay of any direction.
  Nanos ShortestDelay() const;

 private:
  struct Region {
    Pipe up, down;
    RegionCounts counts;
  };
  struct Link {
    explicit Link(uint64_t seed) : loss(DeriveSeed(seed, "loss")), jitter(seed) {}
    Pipe pipe;
    LossProcess loss;
    CounterRandom jitter;
    uint64_t jitter_drawn = 0;
    Nanos delay = 0, jitter_span = 0;
    Nanos last_due = 0;
    bool cut = false;
    LinkCounts counts;
  };
  enum class Stage : uint8_t { kArrives, kIsDelivered };
  struct Event {
    Nanos due;
    uint64_t number;  // of equal times the earlier one first
    PacketPtr packet;
    uint16_t from, to;
    Stage stage;
  };
  Link& link(int from, int to) { return links_[from * regions_.size() + to]; }
  const Link& link(int from, int to) const { return links_[from * regions_.size() + to]; }
  // Calls emit(time, packet) for each piece that gets through.
  template <typename Emit>
  void Serialise(Pipe* pipe, Nanos now, PacketPtr packet, int64_t* dropped, RegionCounts* counts,
                 const Emit& emit);
  void Travel(Nanos now, int from, int to, PacketPtr packet);
  void Arrive(Event event);
  void Schedule(Nanos due, int from, int to, Stage stage, PacketPtr packet);
  static bool Later(const Event& a, const Event& b);

  Lab lab_;
  PacketPool* const pool_;
  std::vector<Region> regions_;
  std::vector<Link> links_;
  std::vector<Event> events_;  // a heap, the next due in front
  uint64_t scheduled_ = 0;
};

}  // namespace atl
