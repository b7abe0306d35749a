// `wanlab selftest`: brings labs up and measures what they claim.
//   rate   goodput of TCP within 5% of what the headers leave, 100 to 2000 Mbit/s
//   rtt    median round trip within 1 ms of twice the delay, at 1, 80 and 150 ms
//   loss   the realised share within four standard deviations of what was asked
//   caps   `up` and `down` hold over several peers together, within 5%
//   seed   the same datagrams are lost with the same seed, others with another
#pragma once

#include "base/status.h"

namespace atl {

// Prints a line for each measurement, or one JSON object. 0 if all hold, 1 if one does not.
StatusOr<int> RunSelfTest(bool json);

}  // namespace atl
