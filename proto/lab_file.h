// The lab file: regions and the links between them. YAML is mapped onto pb::Lab (proto/lab.proto)
// by reflection, then spread out into one link for every ordered pair. docs/formats/lab.md is its
// page.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl {

constexpr int kMostLabRegions = 64;

struct LabRegion {
  std::string name;
  int64_t up_bits_per_second = 0;    // cap of what it sends; 0: none
  int64_t down_bits_per_second = 0;  // cap of what it receives; 0: none
};

// One direction between two regions.
struct LabLink {
  int64_t rate_bits_per_second = 0;  // 0: no cap of its own
  double delay_seconds = 0;
  double jitter_seconds = 0;  // 0 to so much is added to the delay; order stays
  double loss = 0;            // share of packets, in [0, 1)
  double queue_seconds = 0.1;
};

struct LabSysctl {
  std::string key;  // "net.ipv4.tcp_wmem"
  std::string value;
};

struct Lab {
  uint64_t seed = 1;
  std::vector<LabRegion> regions;
  // From region i to region j at i * regions.size() + j; those with i == j mean nothing.
  std::vector<LabLink> links;
  // Before the caps `up` and `down`: links.default's.
  double region_queue_seconds = 0.1;
  std::vector<LabSysctl> sysctl;

  int size() const { return static_cast<int>(regions.size()); }
  const LabLink& link(int from, int to) const { return links[from * regions.size() + to]; }
  LabLink& link(int from, int to) { return links[from * regions.size() + to]; }
  // The region of that name.
  std::optional<int> Find(const std::string& name) const;
};

// Reads and checks a lab file of at most 1 MiB. Errors have exit code 2 and say file:line:column,
// the key, what was expected, and the nearest right key if there is one; several errors are a line
// each.
StatusOr<Lab> LoadLabFile(const std::string& path);
// The same from text; `name` stands for the file in messages.
StatusOr<Lab> ParseLab(const std::string& text, const std::string& name);

}  // namespace atl
