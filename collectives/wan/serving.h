// The giving end of fetches in one group (transfer.h): what is served, what each member has asked
// for, and what has been read and waits for a link.
//
// 1. A request (kFetch) joins its member's queue, at most kMaxAsked of them: more is a breach. One
//    that cannot be answered is answered at once with kFetchEnd.
// 2. Requests are read in their order, a frame's worth at a time, on the background thread; at most
//    kReadAhead bytes a member are being read or wait to be sent.
// 3. A link that has room takes the next frame (kBlock). The bytes are held by the channel until
//    they are acknowledged, and no more than kMaxHeld bytes a member are.
// 4. A request that is cancelled loses what has not been sent, and ends with kFetchEnd.
//
// So every request ends with its last byte or with one kFetchEnd. Thread rule: the I/O thread;
// ServedSource says its own.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "collectives/wan/channel.h"
#include "collectives/wan/fetch_frame.h"
#include "collectives/wan/transfer.h"

namespace atl::wan {

// A source that can be stopped while the background thread reads it.
class ServedSource {
 public:
  explicit ServedSource(std::shared_ptr<ByteSource> source)
      : size_(source->size()), source_(std::move(source)) {}
  int64_t size() const { return size_; }
  // Background thread.
  Status Read(int64_t offset, std::span<uint8_t> out);
  // Not the I/O thread: waits for a Read that is running.
  void Stop();

 private:
  const int64_t size_;
  std::mutex mutex_;
  std::shared_ptr<ByteSource> source_;  // guarded by mutex_; null: stopped
};

class Serving {
 public:
  struct Hooks {
    // Runs the first in the background, then the second on the I/O thread, if this still is.
    std::function<void(std::function<void()>, std::function<void()>)> run;
    std::function<void(int member)> ready;           // there is something to send to it
    std::function<int64_t(int member)> frame_bytes;  // how much a frame to it carries
  };

  Serving(int members, Hooks hooks) : hooks_(std::move(hooks)), members_(members) {}

  // Instead of what the name stood for, if anything; that is returned.
  std::shared_ptr<ServedSource> Serve(const std::string& name,
                                      std::shared_ptr<ServedSource> source);
  std::shared_ptr<ServedSource> Stop(const std::string& name);
  std::vector<std::shared_ptr<ServedSource>> StopAll();

  // An error is a breach.
  Status OnFetch(int member, uint64_t id, FetchFrame fetch);
  void OnCancel(int member, uint64_t id);
  // The member is gone, or has begun anew.
  void Forget(int member);

  bool HasNext(int member) const { return !members_[member].ready.empty(); }
  // Bytes of the next frame; 0 if it is none of bytes.
  int64_t NextBytes(int member) const;
  // Appends the next frame; false if there is none, or too much is held.
  bool AppendNext(Channel* channel, Link* link);
  // Something is asked for that has not been sent.
  bool Works(int member) const;

 private:
  struct Asked {
    uint64_t id = 0;
    Range left;  // not yet being read
    std::shared_ptr<ServedSource> source;
  };
  struct Ready {
    FrameHeader header;
    std::shared_ptr<const uint8_t[]> bytes;  // null: `end`
    std::vector<uint8_t> end;
  };
  struct Member {
    std::deque<Asked> asked;
    std::deque<Ready> ready;
    std::map<uint64_t, int> reading;  // reads under way by request
    int64_t ahead = 0;                // bytes that are being read or ready
    uint64_t epoch = 0;               // what was begun in an earlier one is void
  };

  void ReadAhead(int member);
  void End(int member, uint64_t id, FetchEndCode code, const std::string& text);

  const Hooks hooks_;
  std::map<std::string, std::shared_ptr<ServedSource>> served_;
  std::vector<Member> members_;
};

}  // namespace atl::wan
