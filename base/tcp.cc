#include "base/tcp.h"

// Not netinet/tcp.h: its tcp_info is older and shorter.
#include <linux/inet_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <limits>

#include "absl/strings/str_cat.h"

namespace atl {
namespace {

Status Set(const Fd& fd, int level, int option, const void* value, socklen_t size,
           const std::string& what) {
  if (setsockopt(fd.get(), level, option, value, size) == 0) return OkStatus();
  return ErrnoError(errno, absl::StrCat("cannot set ", what, " of a connection"));
}

Status SetInt(const Fd& fd, int level, int option, int value, const std::string& what) {
  return Set(fd, level, option, &value, sizeof value, what);
}

}  // namespace

StatusOr<TcpState> GetTcpState(const Fd& fd) {
  tcp_info info = {};
  socklen_t size = sizeof info;
  if (getsockopt(fd.get(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0) {
    return ErrnoError(errno, "cannot read the state of a connection");
  }
  TcpState state;
  state.rtt_seconds = info.tcpi_rtt * 1e-6;
  if (info.tcpi_min_rtt != std::numeric_limits<uint32_t>::max()) {
    state.min_rtt_seconds = info.tcpi_min_rtt * 1e-6;
  }
  state.bytes_acked = info.tcpi_bytes_acked;
  if (info.tcpi_data_segs_out > 0) {
    // The kernel counts segments; not all of them are full.
    state.bytes_delivered = static_cast<double>(info.tcpi_delivered) *
                            static_cast<double>(info.tcpi_bytes_sent) / info.tcpi_data_segs_out;
  }
  state.bytes_sent = info.tcpi_bytes_sent;
  state.bytes_retransmitted = info.tcpi_bytes_retrans;
  state.bytes_unsent = info.tcpi_notsent_bytes;
  return state;
}

Status SetPacingRate(const Fd& fd, double bytes_per_second) {
  uint64_t rate = std::numeric_limits<uint64_t>::max();
  if (bytes_per_second < 1e18) rate = static_cast<uint64_t>(bytes_per_second);
  return Set(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate, "the pacing rate");
}

Status SetCongestionControl(const Fd& fd, const std::string& name) {
  return Set(fd, IPPROTO_TCP, TCP_CONGESTION, name.c_str(), static_cast<socklen_t>(name.size()),
             absl::StrCat("congestion control '", name, "'"));
}

StatusOr<double> GetBbrRate(const Fd& fd) {
  tcp_cc_info info = {};
  socklen_t size = sizeof info;
  if (getsockopt(fd.get(), IPPROTO_TCP, TCP_CC_INFO, &info, &size) != 0) {
    return ErrnoError(errno, "cannot ask for the state of the congestion control");
  }
  // Each kind writes its own structure; BBR's is the only one of this size.
  if (size != sizeof info.bbr) {
    return absl::FailedPreconditionError("the congestion control is not BBR");
  }
  return static_cast<double>(uint64_t{info.bbr.bbr_bw_hi} << 32 | info.bbr.bbr_bw_lo);
}

Status SetUnsentLimit(const Fd& fd, int bytes) {
  return SetInt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, bytes, "the unsent limit");
}

Status SetKeepAlive(const Fd& fd) {
  RETURN_IF_ERROR(SetInt(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "keepalive"));
  RETURN_IF_ERROR(SetInt(fd, IPPROTO_TCP, TCP_KEEPIDLE, 10, "keepalive's idle time"));
  RETURN_IF_ERROR(SetInt(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5, "keepalive's interval"));
  return SetInt(fd, IPPROTO_TCP, TCP_KEEPCNT, 3, "keepalive's count");
}

}  // namespace atl
