// A TCP proxy between a dialler and an acceptor, for tests of what a bad network does: changes a
// byte, holds one direction, cuts, and reads the headers that pass (they are plain).
// Thread rule: one thread of its own moves the bytes; the public methods may be called from any.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/socket.h"
#include "collectives/wan/frame.h"

namespace atl::wan {

class Proxy {
 public:
  explicit Proxy(const Endpoint& acceptor);
  ~Proxy();

  Endpoint endpoint() const { return endpoint_; }
  // XORs the byte at this place of what the dialler sends from now on, in the first connection.
  void FlipByte(uint64_t offset, uint8_t mask);
  // What the dialler sends stays in the kernel while this holds.
  void HoldDialler(bool hold);
  void HoldAcceptor(bool hold);
  // Closes all connections, both sides.
  void Cut();
  // Headers of the frames that the dialler has sent, in their order.
  std::vector<FrameHeader> DiallersFrames() const;

 private:
  struct Pipe {
    int from = -1, to = -1;
    bool from_dialler = false;
    uint64_t passed = 0;
    std::vector<uint8_t> waiting;  // read and not yet written
    bool ended = false;
    // Reading of headers.
    std::vector<uint8_t> header;
    uint64_t next_header = kHelloSize;
  };
  struct Pair {
    Fd dialler, acceptor;
    Pipe out, back;
  };

  void Run();
  void Wake();
  void AcceptOne();
  bool Move(Pipe* pipe, bool first_pair);  // false: the connection is at its end
  void ReadHeaders(Pipe* pipe, const uint8_t* data, size_t size);

  const Endpoint acceptor_;
  Fd listener_;
  Endpoint endpoint_;
  Fd wake_;
  std::vector<std::unique_ptr<Pair>> pairs_;  // the thread's
  mutable std::mutex mutex_;
  bool stopping_ = false;       // guarded by mutex_
  bool hold_dialler_ = false;   // guarded by mutex_
  bool hold_acceptor_ = false;  // guarded by mutex_
  bool cut_ = false;            // guarded by mutex_
  std::condition_variable cut_done_;
  std::optional<uint64_t> flip_in_;  // guarded by mutex_
  uint8_t flip_mask_ = 0;            // guarded by mutex_
  std::vector<FrameHeader> frames_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace atl::wan
