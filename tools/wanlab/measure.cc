#include "tools/wanlab/measure.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"

namespace atl {
namespace {

constexpr uint16_t kPort = 7000;
constexpr double kConnectSeconds = 20;
constexpr size_t kBlock = 256 << 10;
constexpr int kPriority = 10;

double Now() { return Clock::Real()->MonotonicSeconds(); }

// Runs `work` in a thread that has entered the region. It has real-time priority where that is
// allowed, below the relay's: a busy machine must not look like a slow sea.
std::future<Status> InRegion(const RunningLab& lab, int region, std::function<Status()> work) {
  return std::async(std::launch::async, [&lab, region, work = std::move(work)]() -> Status {
    RETURN_IF_ERROR(lab.Enter(region));
    sched_param priority = {};
    priority.sched_priority = kPriority;
    sched_setscheduler(0, SCHED_FIFO, &priority);
    return work();
  });
}

sockaddr_in AddressOf(const std::string& host, uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  inet_pton(AF_INET, host.c_str(), &address.sin_addr);
  return address;
}

StatusOr<Fd> BoundSocket(int type, const std::string& host, uint16_t port) {
  Fd fd(socket(AF_INET, type | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const sockaddr_in address = AddressOf(host, port);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoError(errno, absl::StrCat("cannot bind to ", host));
  }
  // Datagrams are lost in the sea, not here because this thread has to wait for a core.
  const int buffer = 64 << 20;
  if (type == SOCK_DGRAM) {
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
  }
  if (type == SOCK_STREAM && listen(fd.get(), 256) != 0) return ErrnoError(errno, "cannot listen");
  return fd;
}

// Waits until `fd` is ready for `events`; false after `deadline`.
bool Ready(const Fd& fd, short events, double deadline) {
  pollfd wait = {fd.get(), events, 0};
  const double left = std::max(0.0, deadline - Now());
  return poll(&wait, 1, static_cast<int>(left * 1000) + 1) > 0;
}

StatusOr<Fd> Connect(const std::string& host, uint16_t port) {
  const double deadline = Now() + kConnectSeconds;
  const sockaddr_in address = AddressOf(host, port);
  while (Now() < deadline) {
    Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      const int on = 1;
      setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      return fd;
    }
    Clock::Real()->SleepFor(absl::Milliseconds(20));  // the other thread may not listen yet
  }
  return absl::DeadlineExceededError(absl::StrCat("cannot connect to ", host, ":", port));
}

StatusOr<Fd> Accept(const Fd& listener) {
  if (!Ready(listener, POLLIN, Now() + kConnectSeconds)) {
    return absl::DeadlineExceededError("nobody connected");
  }
  Fd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.valid()) return ErrnoError(errno, "cannot accept");
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

// The window in which received bytes count; set when all senders are on their way.
struct Window {
  std::atomic<double> begin{1e18};
  std::atomic<double> end{1e18};
  std::atomic<int> connected{0};
};

Status Receive(const std::string& host, uint16_t port, Window* window, int64_t* received) {
  ASSIGN_OR_RETURN(const Fd listener, BoundSocket(SOCK_STREAM, host, port));
  ASSIGN_OR_RETURN(const Fd fd, Accept(listener));
  ++window->connected;
  std::vector<char> block(kBlock);
  for (;;) {
    if (!Ready(fd, POLLIN, std::min(Now() + 1, window->end.load()))) {
      if (Now() >= window->end) return OkStatus();
      continue;
    }
    const ssize_t size = read(fd.get(), block.data(), block.size());
    const double now = Now();
    if (size <= 0 || now >= window->end) return OkStatus();
    if (now >= window->begin) *received += size;
  }
}

Status SendAll(const std::string& host, uint16_t port, const Window* window) {
  ASSIGN_OR_RETURN(const Fd fd, Connect(host, port));
  const std::vector<char> block(kBlock);
  while (Now() < window->end) {
    if (!Ready(fd, POLLOUT, std::min(Now() + 0.2, window->end.load()))) continue;
    if (send(fd.get(), block.data(), block.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
        errno != EAGAIN) {
      return OkStatus();  // the receiver has seen enough
    }
  }
  return OkStatus();
}

Status AwaitAll(std::vector<std::future<Status>>* threads) {
  Status first;
  for (auto& thread : *threads) {
    if (const Status status = thread.get(); first.ok()) first = status;
  }
  return first;
}

}  // namespace

StatusOr<FlowRate> MeasureRate(const RunningLab& lab, const std::vector<Flow>& flows,
                               double warm_up_seconds, double seconds) {
  Window window;
  struct Stream {
    size_t flow;
    int64_t received = 0;
  };
  std::vector<Stream> streams;
  for (size_t i = 0; i < flows.size(); ++i) {
    for (int k = 0; k < flows[i].streams; ++k) streams.push_back({i});
  }
  std::vector<std::future<Status>> threads;
  for (size_t s = 0; s < streams.size(); ++s) {
    const Flow& flow = flows[streams[s].flow];
    const std::string host = lab.Address(flow.to);
    const uint16_t port = static_cast<uint16_t>(kPort + s);
    int64_t* const received = &streams[s].received;
    threads.push_back(
        InRegion(lab, flow.to, [=, &window] { return Receive(host, port, &window, received); }));
    threads.push_back(
        InRegion(lab, flow.from, [=, &window] { return SendAll(host, port, &window); }));
  }
  const double deadline = Now() + kConnectSeconds;
  while (window.connected < static_cast<int>(streams.size()) && Now() < deadline) {
    Clock::Real()->SleepFor(absl::Milliseconds(10));
  }
  window.begin = Now() + warm_up_seconds;
  window.end = window.begin + seconds;
  RETURN_IF_ERROR(AwaitAll(&threads));
  FlowRate rate;
  rate.seconds = seconds;
  rate.of_each.resize(flows.size());
  for (const Stream& stream : streams) {
    const double bits = 8.0 * static_cast<double>(stream.received) / seconds;
    rate.of_each[stream.flow] += bits;
    rate.bits_per_second += bits;
  }
  return rate;
}

StatusOr<std::vector<double>> MeasureRoundTrips(const RunningLab& lab, int from, int to,
                                                int count) {
  const std::string host = lab.Address(to);
  std::vector<double> trips;
  std::vector<std::future<Status>> threads;
  threads.push_back(InRegion(lab, to, [=]() -> Status {
    ASSIGN_OR_RETURN(const Fd listener, BoundSocket(SOCK_STREAM, host, kPort));
    ASSIGN_OR_RETURN(const Fd fd, Accept(listener));
    char byte = 0;
    while (read(fd.get(), &byte, 1) == 1 && send(fd.get(), &byte, 1, MSG_NOSIGNAL) == 1) {
    }
    return OkStatus();
  }));
  threads.push_back(InRegion(lab, from, [=, &trips]() -> Status {
    ASSIGN_OR_RETURN(const Fd fd, Connect(host, kPort));
    char byte = 1;
    for (int i = 0; i < count; ++i) {
      const double begin = Now();
      if (send(fd.get(), &byte, 1, MSG_NOSIGNAL) != 1 || read(fd.get(), &byte, 1) != 1) {
        return ErrnoError(errno, "the ping-pong broke");
      }
      trips.push_back(Now() - begin);
    }
    return OkStatus();
  }));
  RETURN_IF_ERROR(AwaitAll(&threads));
  return trips;
}

StatusOr<std::vector<bool>> SendDatagrams(const RunningLab& lab, int from, int to,
                                          const Datagrams& datagrams) {
  const size_t payload = static_cast<size_t>(datagrams.bytes - 28);  // IP 20, UDP 8
  constexpr int kBurst = 20;
  const std::string host = lab.Address(to);
  std::vector<bool> arrived(static_cast<size_t>(datagrams.count));
  std::atomic<bool> listening{false}, sent{false};
  std::vector<std::future<Status>> threads;
  threads.push_back(InRegion(lab, to, [&]() -> Status {
    ASSIGN_OR_RETURN(const Fd fd, BoundSocket(SOCK_DGRAM, host, kPort));
    listening = true;
    // The last ones take as long as the link does; a second of silence after that is the end.
    for (double quiet_at = 1e18; Now() < quiet_at;) {
      if (!Ready(fd, POLLIN, Now() + 0.05)) {
        if (sent && quiet_at > 1e17) quiet_at = Now() + 1;
        continue;
      }
      char data[1500] = {};
      uint32_t number = 0;
      if (recv(fd.get(), data, sizeof data, 0) != static_cast<ssize_t>(payload)) continue;
      std::memcpy(&number, data, sizeof number);
      if (number < arrived.size()) arrived[number] = true;
      if (sent) quiet_at = Now() + 1;
    }
    return OkStatus();
  }));
  threads.push_back(InRegion(lab, from, [&]() -> Status {
    const Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = AddressOf(host, kPort);
    const double deadline = Now() + kConnectSeconds;
    while (!listening && Now() < deadline) Clock::Real()->SleepFor(absl::Milliseconds(5));
    const double begin = Now();
    char data[1500] = {};
    for (uint32_t i = 0; i < arrived.size(); ++i) {
      if (i % kBurst == 0) {
        const double wait = begin + i / datagrams.per_second - Now();
        if (wait > 0) Clock::Real()->SleepFor(absl::Seconds(wait));
      }
      std::memcpy(data, &i, sizeof i);
      if (sendto(fd.get(), data, payload, 0, reinterpret_cast<const sockaddr*>(&address),
                 sizeof address) < 0) {
        sent = true;
        return ErrnoError(errno, "cannot send a datagram");
      }
    }
    sent = true;
    return OkStatus();
  }));
  RETURN_IF_ERROR(AwaitAll(&threads));
  return arrived;
}

}  // namespace atl
