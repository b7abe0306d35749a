// The taking end of fetches in one group (transfer.h): which bytes are asked of whom. Knows neither
// links nor threads; its owner gives it frames and the time.
//
// 1. A fetch's ranges are cut into blocks when their turn comes. Blocks are asked for (kFetch, with
//    a number that rises) of a source until what it owes reaches its window: twice what it has
//    delivered lately in a round trip, and two blocks.
// 2. What comes for a request (kBlock) lies within what it still owes, else it is a breach and the
//    source falls out. Bytes go to their place, or to the block's buffer until it is whole.
// 3. When all has been asked for, a source with room takes over the last block of the one that will
//    be done latest, if it will itself be done with it much sooner; that one is told to forget it
//    (kFetchCancel). Who comes first counts.
// 4. A source that falls out leaves the missing parts of its blocks to the others. It stays out for
//    this fetch.
// 5. A block that the sink refuses with kDataLoss is fetched again, whole, from one source alone;
//    if it was from one source alone, that one falls out.
//
// Invariants: each byte that is wanted and not here is in `todo`, or in an open block, which is
// asked of somebody or an orphan, or being taken by the sink. Thread rule: the I/O thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "collectives/wan/fetch_frame.h"
#include "collectives/wan/fetch_handle.h"
#include "collectives/wan/transfer.h"

namespace atl::wan {

class Fetching {
 public:
  struct Hooks {
    std::function<void(int member, FrameHeader header, std::vector<uint8_t> payload)> send;
    // Runs the first in the background, then the second on the I/O thread, if this still is.
    std::function<void(std::function<void()>, std::function<void()>)> run;
    std::function<double(int member)> round_trip;  // seconds
    std::function<Status(int member)> reachable;   // not OK: cannot be a source, and why
  };

  Fetching(int self, std::vector<std::string> names, double patience_seconds, Hooks hooks)
      : self_(self),
        names_(std::move(names)),
        patience_(patience_seconds),
        hooks_(std::move(hooks)),
        sources_(names_.size()) {}

  void Begin(FetchRequest request, std::shared_ptr<FetchHandle> handle, double now);
  void Cancel(const FetchHandle* handle, const Status& status, double now);
  void EndAll(const Status& status, double now);

  // Errors are breaches; the source has fallen out.
  Status OnBlock(int member, const FrameHeader& header, Bytes payload, double now);
  Status OnEnd(int member, uint64_t id, const FetchEnd& end, double now);
  // It is gone, or silent for too long, or has begun anew.
  void OnLost(int member, const Status& why, double now);
  void Tick(double now);

  // It owes something.
  bool Awaits(int member) const { return sources_[member].requests > 0; }
  bool Works() const { return !fetches_.empty() || !requests_.empty(); }

 private:
  struct Block {
    Range range;
    std::vector<Range> missing;  // ascending
    std::unique_ptr<uint8_t[]> buffer;
    std::set<int> from;        // whose bytes are in it
    std::set<uint64_t> asked;  // requests
    bool alone = false;        // to be had from one source
    bool sinking = false;
  };
  struct Fetch {
    uint64_t number = 0;
    FetchRequest request;
    std::shared_ptr<FetchHandle> handle;
    std::vector<bool> sources;      // by member: still in
    std::deque<Range> todo;         // not cut yet
    std::map<int64_t, Block> open;  // by first byte
    std::set<int64_t> unasked;      // of them, those that nobody is asked for
    int64_t held = 0;               // bytes of buffers
    FetchProgress progress;
    double began = 0;
    double allowance = 0;  // bytes that may be asked for now, under a cap
    double allowed_at = 0;
  };
  struct Request {
    int member = 0;
    uint64_t fetch = 0;  // its number; it may have ended
    int64_t block = 0;
    std::vector<Range> due;  // ascending
    bool cancelled = false;
  };
  struct Source {
    int64_t owes = 0;  // bytes
    int requests = 0;
    int64_t received = 0;
    double heard = 0;                             // since something is owed, the last bytes
    std::deque<std::pair<double, int64_t>> seen;  // time, received
    double rate = 0;
  };

  void Pump(double now);
  bool AskOne(Fetch* fetch, int member, double now);
  // A block that nobody is asked for; null: none.
  Block* Unasked(Fetch* fetch);
  Block* Cut(Fetch* fetch);
  // One that another source owes and this one will have sooner.
  Block* TakeOver(Fetch* fetch, int member, double now);
  void Ask(Fetch* fetch, Block* block, int member, double now);
  double SecondsToSend(int member, int64_t more, double now) const;
  int64_t Window(const Fetch& fetch, int member) const;
  void CancelRequest(uint64_t id);
  void EndRequest(std::map<uint64_t, Request>::iterator at);
  void Place(Fetch* fetch, Block* block, const Request& request, Range range, Bytes payload);
  void Complete(Fetch* fetch, Block* block, double now);
  void OnSunk(uint64_t number, int64_t begin, const Status& status, double now);
  void FallOut(Fetch* fetch, int member, const Status& why, double now);
  void Finish(uint64_t number, const Status& status, double now);
  FetchProgress Snapshot(const Fetch& fetch, double now) const;
  std::string Name(int member) const;

  const int self_;
  const std::vector<std::string> names_;
  const double patience_;
  const Hooks hooks_;
  std::vector<Source> sources_;
  std::map<uint64_t, Fetch> fetches_;     // by number
  std::map<uint64_t, Request> requests_;  // by number
  uint64_t next_fetch_ = 1;
  uint64_t next_request_ = 1;
};

}  // namespace atl::wan
