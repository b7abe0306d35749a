// What a lab is measured with: a TCP sender and receiver, a ping-pong, numbered datagrams. Threads
// of this process enter the regions; they have ended when a function returns.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "tools/wanlab/lab.h"

namespace atl {

struct Flow {
  int from = 0;
  int to = 0;
  int streams = 1;
};

struct FlowRate {
  double seconds = 0;           // of the window that was counted
  double bits_per_second = 0;   // of payload, all flows together
  std::vector<double> of_each;  // the same, each flow
};

// Sends on all flows at once as fast as TCP does, and counts what the receivers' programs got in
// the `seconds` after `warm_up_seconds`.
StatusOr<FlowRate> MeasureRate(const RunningLab& lab, const std::vector<Flow>& flows,
                               double warm_up_seconds, double seconds);

// Seconds of each of `count` round trips of one byte over one TCP connection.
StatusOr<std::vector<double>> MeasureRoundTrips(const RunningLab& lab, int from, int to, int count);

struct Datagrams {
  int count = 0;
  int bytes = 200;  // on the wire, each; 32 to 1500
  double per_second = 20000;
};
// Sends numbered datagrams one way; which of them arrived.
StatusOr<std::vector<bool>> SendDatagrams(const RunningLab& lab, int from, int to,
                                          const Datagrams& datagrams);

}  // namespace atl
