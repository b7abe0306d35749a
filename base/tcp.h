// What a TCP socket can be told about long links, and what it knows about its own: Linux's options
// and TCP_INFO. Thread rule: any.
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"
#include "base/status.h"

namespace atl {

// From TCP_INFO, since the connection began.
struct TcpState {
  double rtt_seconds = 0;            // smoothed
  double min_rtt_seconds = 0;        // 0: not measured yet
  uint64_t bytes_acked = 0;          // without a gap
  double bytes_delivered = 0;        // with what has arrived after a gap; about
  uint64_t bytes_sent = 0;           // payload, with what was sent again
  uint64_t bytes_retransmitted = 0;  // part of it
  uint64_t bytes_unsent = 0;         // written, and waiting for its turn
};
StatusOr<TcpState> GetTcpState(const Fd& fd);

// The kernel spreads what it sends to at most this many bytes a second (SO_MAX_PACING_RATE);
// infinity: no limit.
Status SetPacingRate(const Fd& fd, double bytes_per_second);
// "bbr", "cubic", ... An error where the kernel has it not or does not let this user have it.
Status SetCongestionControl(const Fd& fd, const std::string& name);
// What BBR thinks that the path delivers, bytes/s. An error where another congestion control rules.
StatusOr<double> GetBbrRate(const Fd& fd);
// The kernel takes no more than this many bytes ahead of what is on its way (TCP_NOTSENT_LOWAT).
Status SetUnsentLimit(const Fd& fd, int bytes);
// Probes an idle connection; one whose peer's host is gone ends after about 25 s.
Status SetKeepAlive(const Fd& fd);

}  // namespace atl
