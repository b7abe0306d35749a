// What a host's TCP settings mean for the links between regions, and what root could change.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace atl {

struct HostTcp {
  std::vector<std::string> available;  // congestion controls that the kernel has loaded
  std::vector<std::string> allowed;    // those that a program without root may choose
  std::string standard;                // the one of a connection that asks for none
  bool slow_start_after_idle = true;
  int64_t send_buffer_bytes = 0;     // a connection's at most; 0: not known
  int64_t receive_buffer_bytes = 0;  // the same
};

// From a directory as /proc/sys/net/ipv4; what cannot be read stays empty.
HostTcp ReadHostTcp(const std::string& directory = "/proc/sys/net/ipv4");

// Rate times round trip that a pair of gateways can have under way with all the connections that
// the engine makes by itself; 0: not known.
int64_t ReachBytes(const HostTcp& tcp);

// A line for each setting that costs speed: the command that mends it, and why. Empty: none does.
std::vector<std::string> HostAdvice(const HostTcp& tcp, bool root);

}  // namespace atl
