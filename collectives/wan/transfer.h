// Bytes that members of a group give each other over the engine's links: outer state for a region
// that joins, checkpoints. Who has them serves them under a name; who needs them fetches them from
// several members at once.
//
// 1. A fetch cuts its ranges into blocks and asks each source for as many at a time as its rate
//    times its round trip need, and some more; blocks go to whoever drains. When none is left to
//    be asked for, a source that has room takes over what the slowest ones still owe.
// 2. The numbers of all-reduces go first on every link. While one runs, a source sends only what
//    the links have to spare.
// 3. A connection that breaks is made again and what was lost is sent again (channel.h). A source
//    that says no, breaks the rules, sends nothing for the engine's patience or is lost falls out:
//    what it owes is asked of the others. With the last source the fetch ends with kUnavailable;
//    what has come is kept, and another fetch of FetchProgress::missing goes on from there.
// 4. The engine does not know which bytes are right. A sink that does answers kDataLoss for a wrong
//    block: it is fetched again from one source alone, and a source whose block is wrong falls out.
//
// Memory: at a source at most 64 MiB a member that fetches, at the fetching end twice the rate
// times the round trip of each source and a block (at most 64 MiB), and 128 MiB a fetch for its
// sink. Encrypted as the group is. Thread rule: with each method.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/range.h"
#include "base/status.h"

namespace atl::wan {

// How far what is served yields to other traffic on the same lines (yield_rate.h).
enum class Yield {
  kNothing,  // it sends as fast as it goes
  kSpare,    // what others leave, as the round trips tell
  kHold,     // next to nothing
};

inline constexpr int64_t kMaxNameBytes = 255;
inline constexpr int64_t kMaxBlockBytes = 16 << 20;

// Something that is served. Read is called on a background thread of the engine, one at a time;
// size once, when it is served.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual int64_t size() const = 0;
  // Fills `out` with the bytes from `offset` on; they lie within size(). An error reaches the
  // fetching members, who go on with other sources.
  virtual Status Read(int64_t offset, std::span<uint8_t> out) = 0;
};

// Memory that stays as it is until it is no longer served.
std::shared_ptr<ByteSource> MemorySource(std::span<const uint8_t> bytes);

struct FetchRequest {
  std::string name;                  // as it is served, 1 to kMaxNameBytes bytes
  std::vector<MemberIndex> sources;  // empty: all other members
  std::vector<Range> ranges;         // bytes of the object, apart, in any order
  int64_t block_bytes = 1 << 20;     // 4 KiB to kMaxBlockBytes
  // One of these two. Byte `out_begin + i` of the object goes to out[i]; `out` is the engine's
  // until the fetch has ended.
  std::span<uint8_t> out;
  int64_t out_begin = 0;
  // Whole blocks, each once unless it was answered with kDataLoss, in no order; blocks are cut at
  // block_bytes from each range's begin. Called on a background thread, one at a time. Any other
  // error ends the fetch with it.
  std::function<Status(int64_t offset, std::span<const uint8_t> bytes)> sink;
  double rate_cap = 0;  // bytes/s over all sources; 0: none
  // Called once, when the fetch has ended, on a thread of the engine: must not block or call the
  // engine.
  std::function<void()> done;
};

struct FallenSource {
  MemberIndex member;
  std::string name;  // of its region
  Status why;
};

struct FetchProgress {
  int64_t wanted = 0;         // bytes
  int64_t received = 0;       // that are in place (of a sink: in blocks that it took)
  std::vector<int64_t> from;  // by member: what came from it
  int64_t again = 0;          // bytes that came though they were here
  std::vector<FallenSource> fallen;
  std::vector<Range> missing;  // once it has ended: ascending
  double seconds = 0;
};

// One fetch under way. Any thread may call; Wait and Cancel not from its own sink.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual bool Done() const = 0;
  // Blocks until the fetch has ended and its sink is not running. kUnavailable: no source is left.
  virtual Status Wait() = 0;
  // Ends it with kCancelled (unless done). When Cancel returns, the engine no longer touches `out`
  // or the sink.
  virtual void Cancel() = 0;
  // At most some 20 ms old while it runs.
  virtual FetchProgress Progress() const = 0;
};

}  // namespace atl::wan
