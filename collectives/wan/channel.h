// What connects this gateway with one other member: several links, and over them one reliable
// sequence of frames that outlives any of the links.
//
// 1. Sending. A sequenced frame goes over whichever link asks for one first, gets the next sequence
//    number, and is remembered (Sent) until it is acknowledged. Numbers are not copied for that: a
//    frame remembers its operation and piece and is written again from the vector if need be; when
//    the operation ends, what is still unacknowledged is copied out (Keep), because the vector then
//    goes back to its owner. An operation's start precedes its other frames on every link.
// 2. Receiving. Each sequence number is taken once; Ack says which have come. Acknowledgements go
//    with the tick; they cost memory at the sender, not time.
// 3. A link that breaks: what went over it and is not acknowledged goes again over the others or
//    the next one (AppendLost), lowest number first. Much of it has arrived, though the word of
//    that went down with the link: both ends say at once what they have, and bytes that are held
//    wait for that word, kWordSeconds or some round trips at most.
// 4. Silence. While work is under way every link that is quiet is pinged and answers. A link that
//    does not is given up after kLinkSilentSeconds: a route may have changed, a firewall
//    forgotten the connection. A member that has not been heard on any link for kSilentSeconds is
//    silent, for the caller to know.
// 5. Rate. At each tick the bytes that have reached the peer's kernel over the last few round trips
//    are counted, while more is waiting to be sent: what the link carries (LinkReport). The upper
//    quartile of these rates is reported. A rate below the pacing counts as the line's only with
//    signs of a full line (a longer round trip, losses), so that a process that had to wait for
//    its turn on a loaded machine is not taken for a slow line.
//
// Knows no sockets beyond its links, no operations beyond PieceSource. Thread rule: the I/O thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "collectives/wan/frame.h"
#include "collectives/wan/link.h"
#include "collectives/wan/plan/link_model.h"
#include "collectives/wan/reduction.h"

namespace atl::wan {

inline constexpr double kLinkSilentSeconds = 2.0;
inline constexpr double kSilentSeconds = 2.5;
inline constexpr double kWordSeconds = 0.25;
inline constexpr size_t kMaxGaps = 1 << 17;  // twice what a sender leaves unacknowledged
inline constexpr int kMaxUnsentAcks = 16;

// An operation under way, as far as its frames can be written again.
class PieceSource {
 public:
  virtual ~PieceSource() = default;
  virtual void Rewrite(const Reduction::Piece& piece, uint8_t* out) = 0;
};

// An operation's start for one member, sent before its other frames on every link.
struct StartFrame {
  FrameHeader header;
  std::vector<uint8_t> payload;
};

class Channel {
 public:
  Channel(int self, int member) : self_(self), member_(member) {}

  int member() const { return member_; }
  const std::vector<Link*>& links() const { return links_; }
  bool up() const { return !links_.empty(); }

  void Attach(Link* link, double now);
  // The link is no more: what went over it waits to be sent again.
  void Detach(Link* link, double now);
  // A new incarnation of the member, which knows nothing of what was sent before.
  void Restart();
  uint64_t incarnation = 0;  // of the other end; 0: not known yet

  // ---- sending: each appends one frame to the link
  void SendBytes(Link* link, FrameHeader header, std::vector<uint8_t> payload,
                 std::shared_ptr<const StartFrame> start = nullptr);
  // To the least busy link; false if there is none.
  bool SendSmall(FrameHeader header, std::vector<uint8_t> payload);
  // A piece that can be had again from `source` (until Keep).
  void SendPiece(Link* link, FrameHeader header, PieceSource* source, const Reduction::Piece& piece,
                 Bytes in_place, std::shared_ptr<const StartFrame> start);
  // The start gets its number; it goes with the operation's first frame, or by itself.
  void Number(FrameHeader* header) { header->sequence = next_++; }
  uint64_t last_number() const { return next_ - 1; }
  Link* LeastBusy() const;
  void SendStart(Link* link, std::shared_ptr<const StartFrame> start);
  // A frame of bytes that nobody changes; they are held until it is acknowledged.
  void SendHeld(Link* link, FrameHeader header, std::shared_ptr<const uint8_t[]> bytes);
  // Frames that were lost with their link; false if there are none. Held ones apart: they wait
  // until there is nothing more urgent.
  bool AppendLost(Link* link) { return AppendLost(link, false); }
  bool AppendLostHeld(Link* link) { return AppendLost(link, true); }
  void AppendAck(Link* link);

  // `source` ends: what is unacknowledged of it is copied.
  void Keep(PieceSource* source);
  size_t unacked() const { return sent_.size(); }
  size_t kept_bytes() const { return kept_bytes_; }
  size_t held_bytes() const { return held_bytes_; }
  bool has_lost() const { return lost_ + lost_held_ > 0; }

  // ---- receiving
  bool Taken(uint64_t sequence) const;
  void Take(uint64_t sequence);
  // More gaps than an honest sender's unacknowledged frames could leave: nothing is taken any more.
  bool scattered() const { return beyond_.size() > kMaxGaps; }
  // All numbers below have been taken.
  uint64_t taken_below() const { return below_; }
  // Errors: acknowledges what was never sent.
  Status OnAck(const Ack& ack);
  bool ack_due() const { return ack_due_; }

  // ---- silence and rate
  double heard() const;
  // The peer has been expected to say something since `now`, until further notice.
  void Expect(double now);
  void ExpectNothing() { expecting_since_ = 0; }
  // Pings links that have been quiet for so long; true if any was.
  bool Ping(double now, double quiet_seconds);
  // Links that do not answer, or have bytes under way of which none has been acknowledged for long.
  std::vector<Link*> Stuck(double now) const;
  // Tells on links whose frames wait here for an operation that has not begun that we live.
  bool Reassure(double now);
  double silent_seconds(double now) const;
  void Sample();
  // What was seen since the last report is of something else than the next one.
  void ForgetSamples();
  // What was seen since the last report.
  LinkReport Report();
  // Segments were lost that no full queue explains: more connections, so that one that waits for a
  // segment holds up less.
  bool lossy() const { return lossy_; }
  // From here to the report the best rate over a few round trips counts: a burst that fills the
  // line from nothing, and then overfills it.
  void BeginBurst() { burst_ = true; }
  double rtt_seconds() const { return rtt_; }
  double min_rtt_seconds() const { return min_rtt_; }
  double paced_rate() const { return pace_ < 1e18 ? pace_ : 0; }
  PaceGain& pace_gain() { return pace_gain_; }
  const PaceGain& pace_gain() const { return pace_gain_; }
  // Bytes a second that were acknowledged lately.
  double recent_rate() const { return recent_rate_; }
  // Bytes that have reached the peer.
  int64_t acked() const { return acked_; }
  // Over about the last half minute in which something was sent: bytes a second, and the share of
  // the bytes that were sent again. Kept while nothing is sent, for people who ask between rounds.
  double sending_rate() const {
    return sending_.seconds > 0 ? sending_.delivered / sending_.seconds : 0;
  }
  double sending_losses() const {
    return sending_.sent > 0 ? sending_.retransmitted / sending_.sent : 0;
  }

  // How long bytes stand in queues, as the round trips tell.
  double queue_seconds() const { return rtt_ > base_rtt_ ? rtt_ - base_rtt_ : 0; }
  // The same of links on which something moved lately: what others know is old.
  double fresh_queue_seconds() const { return std::max(0.0, fresh_rtt_ - base_rtt_); }

  // Spread over the links; infinity: as fast as it goes.
  void Pace(double bytes_per_second);
  // All links, also those that Pace leaves alone, until Pace is called.
  void Unpace();
  // Numbers go over so many of the links only: fewer, larger bursts where the rate needs no more.
  void UseLinks(int links);
  bool Uses(const Link* link) const;

 private:
  struct Sent {
    FrameHeader header;
    Link* link = nullptr;  // null: lost, to be sent again
    PieceSource* source = nullptr;
    Reduction::Piece piece;
    std::vector<uint8_t> bytes;             // without a source: the payload
    std::shared_ptr<const uint8_t[]> held;  // or this one
    std::shared_ptr<const StartFrame> start;
  };

  size_t Used() const;  // links that numbers go over
  void Remember(Link* link, const FrameHeader& header, Sent sent);
  bool AppendLost(Link* link, bool held);
  void AppendStart(Link* link, const std::shared_ptr<const StartFrame>& start);
  void Forget(std::map<uint64_t, Sent>::iterator at);

  const int self_;
  const int member_;
  std::vector<Link*> links_;

  uint64_t next_ = 1;
  std::map<uint64_t, Sent> sent_;  // unacknowledged, by sequence number
  size_t lost_ = 0;                // of them without a link, and not held
  size_t lost_held_ = 0;
  size_t held_bytes_ = 0;
  size_t kept_bytes_ = 0;

  uint64_t below_ = 1;
  std::map<uint64_t, uint64_t> beyond_;  // ranges taken out of order: begin -> end
  bool ack_due_ = false;
  bool word_due_ = false;  // a link broke, and the other end has not said since what it has
  double word_by_ = 0;     // 0: nothing waits for it yet

  double heard_before_ = 0;  // on links that are gone
  double expecting_since_ = 0;
  double reassured_at_ = 0;

  std::deque<std::pair<double, double>> window_;  // time, bytes delivered until then
  double delivered_ = 0;
  std::vector<double> window_rates_;  // since the last report
  bool burst_ = false;
  bool lossy_ = false;

  double pace_ = 0;  // 0: never told
  PaceGain pace_gain_;
  size_t use_ = kMaxStreams;
  size_t most_by_pace_ = kMaxStreams;
  double sampled_at_ = 0;
  double busy_since_ = 0;  // 0: not busy
  double busy_seconds_ = 0;
  double queue_sum_ = 0;
  int queue_samples_ = 0;
  double rtt_ = 0;
  double fresh_rtt_ = 0;
  double min_rtt_ = 0;
  double base_rtt_ = 0;  // the smoothed round trip where nothing stands in a queue
  struct Seen {
    TcpState state;
    double moved_at = 0;  // when something was last acknowledged, or nothing was under way
  };
  std::map<Link*, Seen> seen_;  // at the last sample
  double recent_rate_ = 0;
  int64_t acked_ = 0;
  struct Sending {  // each slowly forgotten
    double seconds = 0;
    double delivered = 0;
    double sent = 0;
    double retransmitted = 0;
  };
  Sending sending_;
  double retransmitted_ = 0;  // bytes since the last report
  double sent_bytes_ = 0;
};

}  // namespace atl::wan
