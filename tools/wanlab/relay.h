// The relay: the process that carries packets between the regions of one lab. It owns the
// namespaces, the TUN devices, the sea and the control socket; when it ends, they are gone.
//
// Loop:
//   1. Read what the regions have sent, stamp it with the time, give it to the sea.
//   2. Write what is due into the receivers' TUN devices.
//   3. Wait: while packets come, until the next tick of 200 us (where every link has a delay of
//      5 ms or more: waking for each packet would cost several times as much), else until something
//      comes or is due.
// Within a tick nothing is biased: packets that came during one are stamped with its middle, and
// those that are due within half a tick of now go out now.
//
// It runs at real-time priority where that is allowed, so that a busy machine does not make the sea
// slower. It ends on `down`, on SIGTERM, and when its owner ends (if it has one); processes that
// are still in its regions are killed then.
// Thread rule: a process of its own, one thread.
#pragma once

#include <sys/epoll.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "proto/lab_file.h"
#include "tools/wanlab/control.h"
#include "tools/wanlab/namespace.h"
#include "tools/wanlab/packet.h"
#include "tools/wanlab/sea.h"

namespace atl {

struct RelayOptions {
  Lab lab;
  std::vector<std::string> addresses;  // of the regions, "10.64.0.1" and so on, all in one /24
  std::string control_path;            // a Unix socket
  pid_t owner = 0;                     // the relay ends with it; 0: it has none
};

class Relay {
 public:
  explicit Relay(RelayOptions options);
  ~Relay();

  // Makes namespaces, devices and the control socket.
  Status SetUp();
  // Descriptors of the namespaces, in order of the regions.
  const std::vector<RegionDevice>& regions() const { return regions_; }
  // Until something ends it. Kills what is left in the regions.
  void Run();

 private:
  struct Connection {
    Fd fd;
    std::string request;
    std::string answer;
    size_t written = 0;
  };

  Status Listen();
  void Watch(int fd, uint64_t tag, uint32_t events);
  // Waits, then serves what is ready. Returns whether packets came.
  void Turn();
  int Wait(Nanos now, epoll_event* events, int most);
  void ReadRegion(int region, Nanos stamp, Nanos seen);
  int RegionOf(uint32_t address) const;
  void Deliver(int region, const Packet& packet);
  void Accept();
  void Serve(uint64_t tag);
  nlohmann::json Answer(const std::string& line);
  void KillLeftovers();

  const RelayOptions options_;
  PacketPool pool_;
  Sea sea_;
  Sea::Deliver deliver_;
  uint32_t network_ = 0;  // the /24 of the addresses
  std::vector<RegionDevice> regions_;
  std::vector<int> region_of_host_;  // by the last byte of the address
  Fd poll_, listener_, signals_, owner_;
  std::vector<std::unique_ptr<Connection>> connections_;
  PacketPtr scratch_;
  bool realtime_ = false;
  bool ending_ = false;
  bool ticking_allowed_ = false;
  Nanos next_tick_ = 0;
  Nanos last_packet_ = 0;
  int64_t write_errors_ = 0;
  int64_t late_count_ = 0, late_max_ = 0;
  double late_sum_ = 0;
};

}  // namespace atl
