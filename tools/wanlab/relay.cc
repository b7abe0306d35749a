#include "tools/wanlab/relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/log.h"

namespace atl {
namespace {

constexpr Nanos kTick = 200'000;
constexpr Nanos kTickDelay = 5'000'000;     // ticks where no link has less delay
constexpr Nanos kBusy = 2'000'000;          // ticks go on so long after the last packet
constexpr Nanos kCoalesce = 20'000;         // without ticks: due so soon counts as due
constexpr int64_t kMostMemory = 2ll << 30;  // of packets under way
constexpr int kPacketsAtOnce = 256;
constexpr int kPriority = 50;
constexpr size_t kLongestRequest = 4096;
constexpr size_t kMostConnections = 16;
constexpr double kKillSeconds = 10;

// epoll tags: what a descriptor is, and which one.
enum Kind : uint64_t { kRegion, kListener, kSignals, kOwner, kConnection };
uint64_t Tag(Kind kind, uint64_t which) { return kind << 32 | which; }

Nanos Now() { return static_cast<Nanos>(Clock::Real()->MonotonicSeconds() * 1e9); }

timespec ToTimespec(Nanos time) { return {time / 1'000'000'000, time % 1'000'000'000}; }

}  // namespace

Relay::Relay(RelayOptions options)
    : options_(std::move(options)),
      pool_(kMostMemory),
      sea_(options_.lab, &pool_),
      deliver_([this](int region, const Packet& packet) { Deliver(region, packet); }),
      region_of_host_(256, -1) {
  CHECK(options_.addresses.size() == options_.lab.regions.size());
}

Relay::~Relay() { unlink(options_.control_path.c_str()); }

Status Relay::SetUp() {
  poll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  for (size_t i = 0; i < options_.addresses.size(); ++i) {
    const std::string& address = options_.addresses[i];
    in_addr parsed = {};
    CHECK(inet_pton(AF_INET, address.c_str(), &parsed) == 1) << address;
    network_ = ntohl(parsed.s_addr) & ~0xffu;
    region_of_host_[ntohl(parsed.s_addr) & 0xff] = static_cast<int>(i);
    auto region = MakeRegion(address, options_.lab.sysctl);
    if (!region.ok()) {
      return Annotate(region.status(),
                      absl::StrCat("while making region ", options_.lab.regions[i].name));
    }
    regions_.push_back(*std::move(region));
    Watch(regions_.back().tun.get(), Tag(kRegion, i), EPOLLIN);
  }
  RETURN_IF_ERROR(Listen());
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&mask, signal);
  PCHECK(sigprocmask(SIG_BLOCK, &mask, nullptr) == 0);
  signals_ = Fd(signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
  Watch(signals_.get(), Tag(kSignals, 0), EPOLLIN);
  if (options_.owner != 0) {
    ASSIGN_OR_RETURN(owner_, OpenProcess(options_.owner));
    Watch(owner_.get(), Tag(kOwner, 0), EPOLLIN);
  }
  return OkStatus();
}

Status Relay::Listen() {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string& path = options_.control_path;
  if (path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(
        absl::StrCat("the path of the control socket is too long (", path,
                     "); choose a shorter name, or a shorter $ATOLL_LAB_DIR"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  unlink(path.c_str());
  listener_ = Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listener_.valid() ||
      bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_.get(), 16) != 0) {
    return ErrnoError(errno, absl::StrCat("cannot listen at ", path));
  }
  Watch(listener_.get(), Tag(kListener, 0), EPOLLIN);
  return OkStatus();
}

void Relay::Watch(int fd, uint64_t tag, uint32_t events) {
  epoll_event event = {};
  event.events = events;
  event.data.u64 = tag;
  PCHECK(epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &event) == 0);
}

void Relay::Run() {
  prctl(PR_SET_TIMERSLACK, 1);
  sched_param priority = {};
  priority.sched_priority = kPriority;
  realtime_ = sched_setscheduler(0, SCHED_FIFO, &priority) == 0;
  if (!realtime_) {
    PLOG(WARNING) << "no real-time priority: on a busy machine the sea will be slower than asked";
  }
  ticking_allowed_ = sea_.ShortestDelay() >= kTickDelay;
  while (!ending_) Turn();
  for (RegionDevice& region : regions_) region.tun.Reset();
  KillLeftovers();
}

// Step 3. Fills `events`; returns how many there are.
int Relay::Wait(Nanos now, epoll_event* events, int most) {
  Nanos expected = 0;
  int count = 0;
  if (ticking_allowed_ && now - last_packet_ < kBusy) {
    next_tick_ = std::max(next_tick_ + kTick, now);
    expected = next_tick_;
    const timespec until = ToTimespec(next_tick_);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
    count = epoll_wait(poll_.get(), events, most, 0);
  } else {
    const auto due = sea_.next_due();
    const timespec timeout = ToTimespec(due ? std::max<Nanos>(0, *due - now) : 0);
    count = epoll_pwait2(poll_.get(), events, most, due ? &timeout : nullptr, nullptr);
    if (count == 0 && due) expected = std::max(*due, now);
    next_tick_ = Now();
  }
  if (expected > 0) {
    const Nanos late = std::max<Nanos>(0, Now() - expected);
    ++late_count_;
    late_sum_ += static_cast<double>(late);
    late_max_ = std::max(late_max_, late);
  }
  return std::max(0, count);  // EINTR counts as nothing
}

void Relay::Turn() {
  constexpr int kMostEvents = 80;
  epoll_event events[kMostEvents];
  const Nanos before = Now();
  const bool ticking = ticking_allowed_ && before - last_packet_ < kBusy;
  const int count = Wait(before, events, kMostEvents);
  const Nanos now = Now();
  for (int i = 0; i < count; ++i) {
    const uint64_t tag = events[i].data.u64;
    if (tag >> 32 == kRegion) {
      ReadRegion(static_cast<int>(tag), ticking ? before + (now - before) / 2 : now,
                 ticking ? now - std::min((now - before) / 2, kTick / 2) : now);
    } else {
      Serve(tag);
    }
  }
  sea_.Advance(Now() + (ticking_allowed_ ? kTick / 2 : kCoalesce), deliver_);
}

// After a turn that came late the packets in the device have come at some time since the one
// before: the lines take them as of then, so that no line time is lost, but none arrives sooner
// than if it had come just now; else round trips would be shorter than the lab's.
void Relay::ReadRegion(int region, Nanos stamp, Nanos seen) {
  for (int i = 0; i < kPacketsAtOnce; ++i) {
    if (scratch_ == nullptr) scratch_ = pool_.Allocate(PacketPool::kLargest);
    if (scratch_ == nullptr) return;  // the memory is used up: packets wait in the device's queue
    iovec parts[2] = {{&scratch_->offload, sizeof(OffloadHeader)},
                      {scratch_->bytes(), PacketPool::kLargest}};
    const ssize_t size = readv(regions_[region].tun.get(), parts, 2);
    if (size <= static_cast<ssize_t>(sizeof(OffloadHeader))) return;
    last_packet_ = stamp;
    scratch_->length = static_cast<uint32_t>(size - sizeof(OffloadHeader));
    const int to = RegionOf(Destination(*scratch_));
    // Others than the lab's addresses (broadcasts, IPv6) lead nowhere.
    if (to < 0 || to == region) continue;
    sea_.Send(stamp, region, to, pool_.Fit(std::move(scratch_)), seen);
  }
}

int Relay::RegionOf(uint32_t address) const {
  return (address & ~0xffu) == network_ ? region_of_host_[address & 0xff] : -1;
}

void Relay::Deliver(int region, const Packet& packet) {
  OffloadHeader header = packet.offload;
  const iovec parts[2] = {{&header, sizeof header},
                          {const_cast<uint8_t*>(packet.bytes()), packet.length}};
  if (writev(regions_[region].tun.get(), parts, 2) < 0) ++write_errors_;
}

void Relay::Accept() {
  Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd.valid() || connections_.size() >= kMostConnections) return;
  const int number = fd.get();
  connections_.push_back(std::make_unique<Connection>());
  connections_.back()->fd = std::move(fd);
  Watch(number, Tag(kConnection, static_cast<uint64_t>(number)), EPOLLIN);
}

void Relay::Serve(uint64_t tag) {
  const uint64_t kind = tag >> 32;
  if (kind == kSignals || kind == kOwner) {
    LOG(INFO) << (kind == kOwner ? "the owner has ended" : "told to end");
    ending_ = true;
  }
  if (kind == kListener) Accept();
  if (kind != kConnection) return;
  const auto found = std::find_if(
      connections_.begin(), connections_.end(),
      [&](const auto& connection) { return connection->fd.get() == static_cast<int>(tag); });
  if (found == connections_.end()) return;
  Connection& connection = **found;
  bool over = false;
  if (connection.answer.empty()) {
    char buffer[kLongestRequest];
    const ssize_t size = read(connection.fd.get(), buffer, sizeof buffer);
    if (size > 0) connection.request.append(buffer, static_cast<size_t>(size));
    const size_t end = connection.request.find('\n');
    if (end != std::string::npos) {
      connection.answer = Answer(connection.request.substr(0, end)).dump() + "\n";
      epoll_event event = {};
      event.events = EPOLLOUT;
      event.data.u64 = tag;
      PCHECK(epoll_ctl(poll_.get(), EPOLL_CTL_MOD, connection.fd.get(), &event) == 0);
    }
    over = connection.answer.empty() && (size == 0 || (size < 0 && errno != EAGAIN) ||
                                         connection.request.size() > kLongestRequest);
  }
  if (!connection.answer.empty()) {
    const ssize_t size =
        send(connection.fd.get(), connection.answer.data() + connection.written,
             connection.answer.size() - connection.written, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size > 0) connection.written += static_cast<size_t>(size);
    over = (size < 0 && errno != EAGAIN) || connection.written == connection.answer.size();
  }
  if (over) connections_.erase(found);  // closing takes it out of the poll
}

nlohmann::json Relay::Answer(const std::string& line) {
  nlohmann::json answer = AnswerControl(absl::StrSplit(line, ' ', absl::SkipEmpty()), &sea_);
  if (answer.contains("links")) {
    answer["relay"] = {{"realtime", realtime_},
                       {"ticks", ticking_allowed_},
                       {"write_errors", write_errors_},
                       {"late_us_mean", late_count_ > 0 ? late_sum_ / 1e3 / late_count_ : 0.0},
                       {"late_us_max", static_cast<double>(late_max_) / 1e3},
                       {"memory_bytes", pool_.reserved_bytes()},
                       {"cpu_seconds", static_cast<double>(clock()) / CLOCKS_PER_SEC}};
  }
  ticking_allowed_ = sea_.ShortestDelay() >= kTickDelay;
  return answer;
}

void Relay::KillLeftovers() {
  std::vector<uint64_t> networks;
  for (const RegionDevice& region : regions_) {
    if (const auto number = NetworkNumber(region.network); number.ok()) networks.push_back(*number);
  }
  const double deadline = Clock::Real()->MonotonicSeconds() + kKillSeconds;
  size_t most = 0;
  while (Clock::Real()->MonotonicSeconds() < deadline) {
    const std::vector<pid_t> left = ProcessesIn(networks);
    if (left.empty()) break;
    for (const pid_t pid : left) kill(pid, SIGKILL);
    most = std::max(most, left.size());
    Clock::Real()->SleepFor(absl::Milliseconds(5));
  }
  if (most > 0) LOG(INFO) << "killed " << most << " processes that were left in the regions";
}

}  // namespace atl
