#include "cli/lab_links.h"

#include <limits>

namespace atl {
namespace {

constexpr double kPayloadShare = 1448.0 / 1500.0;

double PayloadRate(int64_t bits_per_second) {
  if (bits_per_second == 0) return std::numeric_limits<double>::infinity();
  return static_cast<double>(bits_per_second) / 8 * kPayloadShare;
}

}  // namespace

wan::LinkMatrix LabLinks(const Lab& lab) {
  wan::LinkMatrix links(lab.size());
  for (int from = 0; from < lab.size(); ++from) {
    const LabRegion& region = lab.regions[from];
    links.names[from] = region.name;
    links.up[from] = PayloadRate(region.up_bits_per_second);
    links.down[from] = PayloadRate(region.down_bits_per_second);
    for (int to = 0; to < lab.size(); ++to) {
      if (to == from) continue;
      links.rate(from, to) = PayloadRate(lab.link(from, to).rate_bits_per_second);
      links.delay(from, to) = lab.link(from, to).delay_seconds;
    }
  }
  return links;
}

}  // namespace atl
