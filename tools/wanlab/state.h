// What is known of each lab on this host: a directory DIR/NAME with state.json, relay.log and the
// relay's control socket. DIR is $ATOLL_LAB_DIR, else /run/atoll-lab. Whoever brings labs up or
// down holds DIR/lock meanwhile.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "proto/lab_file.h"

namespace atl {

struct RegionState {
  std::string name;
  std::string address;   // "10.64.0.1"
  uint64_t network = 0;  // the namespace's number
  int descriptor = -1;   // of the namespace, in the relay
};

struct LabState {
  std::string name;
  int slot = 0;  // which addresses it has
  pid_t relay = 0;
  uint64_t relay_start = 0;  // StartTime of the relay: its pid may go to another one day
  std::vector<RegionState> regions;

  // The relay runs.
  bool up() const;
};

std::string LabsDirectory();
std::string LabDirectory(const std::string& name);
// 1 to 40 letters, digits, '-', '_' and '.', not beginning with '.'.
Status CheckLabName(const std::string& name);

// kNotFound if there is no such lab.
StatusOr<LabState> ReadLabState(const std::string& name);
Status WriteLabState(const LabState& state);
// Labs of this host, also those whose relay has died; by name.
std::vector<LabState> AllLabs();
// The lab that is meant: `name`; if empty, $ATOLL_LAB; if that is not set, the only one there is.
StatusOr<LabState> FindLab(const std::string& name);

// Waits for the lock of DIR, which is made if it is not there.
StatusOr<Fd> LockLabs();
// Region i of the lab in `slot`: 10.64.0.0/10, a /24 for each lab.
std::string RegionAddress(int slot, int region);
// The lowest slot that no lab has.
int FreeSlot();

// Removes what is left of a lab whose relay has died: processes in its regions and its directory.
// A namespace's number may be another's by now, so that a process counts only if it carries the
// lab's name in its environment too. Hold the lock.
void RemoveRemains(const LabState& state);

}  // namespace atl
