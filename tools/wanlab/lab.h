// A lab that is up: regions in network namespaces of their own, joined by the emulated links of a
// lab file. For programs that measure or rehearse; `wanlab` is this on the command line.
//
//   ASSIGN_OR_RETURN(const Lab lab, LoadLabFile("configs/lab/two-500mbit-80ms.yaml"));
//   ASSIGN_OR_RETURN(RunningLab sea, RunningLab::Up(lab, {}));
//   ASSIGN_OR_RETURN(const pid_t child, sea.Spawn(0, {.words = {"/bin/sleep", "5"}}));
//   sea.Cut("johor", "oslo");
//
// Needs root. Inside a region there is loopback and one device, wan0, of the region's address; it
// reaches the other regions of its lab and nothing else.
// Thread rule: one thread at a time. Up() forks: call it before threads are made.
#pragma once

#include <sys/types.h>

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "proto/lab_file.h"
#include "tools/wanlab/state.h"

namespace atl {

struct UpOptions {
  // Empty: "PROGRAM-PID", unique on this host.
  std::string name;
  // The lab goes down with this object and, should the process end before, with the process. False:
  // it stays up until somebody takes it down.
  bool owned = true;
};

struct RegionProcess {
  std::vector<std::string> words;  // the program (looked up in PATH) and arguments
  std::map<std::string, std::string> environment = {};  // set over what this process has
  int stdin_fd = 0, stdout_fd = 1, stderr_fd = 2;       // of this process
  bool dies_with_parent = true;                         // with the thread that spawns it
};

class RunningLab {
 public:
  // Errors: not root, no TUN device (exit code 4), a lab of that name is up (2).
  static StatusOr<RunningLab> Up(const Lab& lab, const UpOptions& options);
  // A lab that is up already; it stays up.
  static StatusOr<RunningLab> Attach(const std::string& name);
  RunningLab(RunningLab&&) = default;
  RunningLab& operator=(RunningLab&&) = delete;
  // Down(), if it is owned.
  ~RunningLab();

  // Kills what runs in the regions, ends the relay, removes everything, also of a lab that is not
  // owned. A second call does nothing.
  Status Down();
  // The same of any lab, also of one whose relay has died.
  static Status TakeDown(const LabState& state);

  const std::string& name() const { return state_.name; }
  int size() const { return static_cast<int>(state_.regions.size()); }
  const std::vector<RegionState>& regions() const { return state_.regions; }
  const std::string& Address(int region) const { return state_.regions[region].address; }
  // Error (exit code 2) with the nearest right name if there is none.
  StatusOr<int> Find(const std::string& region) const;

  // Moves the calling thread into the region; threads and processes made by it follow. Call it in a
  // child or in a thread that stays there.
  Status Enter(int region) const;
  // What every process in a region should have in its environment: ATOLL_LAB, ATOLL_LAB_REGION.
  std::map<std::string, std::string> Environment(int region) const;
  // Starts a process in the region; the caller waits for it. An exec that fails is an error here.
  StatusOr<pid_t> Spawn(int region, const RegionProcess& process) const;

  // A line of tools/wanlab/control.h, as words; its answer, or its error with exit code 2.
  StatusOr<nlohmann::json> Control(const std::vector<std::string>& words) const;
  Status Set(const std::vector<std::string>& words) const;  // {"johor:oslo", "loss=0.01"}
  Status Cut(const std::string& a, const std::string& b) const;
  Status Heal(const std::string& a, const std::string& b) const;
  StatusOr<nlohmann::json> Stats() const;

 private:
  RunningLab(LabState state, bool owned) : state_(std::move(state)), owned_(owned) {}
  Status OpenNetworks();

  LabState state_;
  bool owned_;
  bool down_ = false;
  std::vector<Fd> networks_;
};

}  // namespace atl
