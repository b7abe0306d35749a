// Network namespaces and TUN devices: the only files that make, enter and search them. IPv4.
//
// A namespace has no name in the file system: it lives as long as a process is in it or holds a
// descriptor of it, so that nothing is left when the relay ends, however that happens.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "proto/lab_file.h"

namespace atl {

constexpr char kTunName[] = "wan0";
constexpr int kMtu = 1500;

struct RegionDevice {
  Fd network;  // the namespace
  Fd tun;      // non-blocking; each read and write is an OffloadHeader and a packet
};

// Makes a namespace with loopback up and the device wan0 of that IPv4 address ("10.64.0.1", /24).
// The calling thread is in the new namespace for the while: call it in a process of one thread.
StatusOr<RegionDevice> MakeRegion(const std::string& address,
                                  const std::vector<LabSysctl>& settings);

// Moves the calling thread into the namespace; /sys, cgroups and mounts stay. Threads and processes
// that it makes from then on are in it too.
Status EnterNetwork(const Fd& network);
// The number by which the kernel knows the namespace.
StatusOr<uint64_t> NetworkNumber(const Fd& network);
// Processes in any of these namespaces.
std::vector<pid_t> ProcessesIn(const std::vector<uint64_t>& networks);

// A descriptor that becomes readable when the process ends.
StatusOr<Fd> OpenProcess(pid_t pid);
// When the process started, in ticks since boot; 0 if there is none. With the pid, a process for
// ever.
uint64_t StartTime(pid_t pid);

}  // namespace atl
