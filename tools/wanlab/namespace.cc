#include "tools/wanlab/namespace.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "tools/wanlab/packet.h"

namespace atl {
namespace {

// Packets that wait for the relay to wake up; it empties the queue within a fraction of a
// millisecond.
constexpr int kQueueLength = 20000;

ifreq RequestFor(const char* device) {
  ifreq request = {};
  std::strncpy(request.ifr_name, device, IFNAMSIZ - 1);
  return request;
}

Status Configure(const Fd& socket, unsigned long what, ifreq* request, const std::string& action) {
  if (ioctl(socket.get(), what, request) == 0) return OkStatus();
  return ErrnoError(errno, absl::StrCat("cannot ", action));
}

Status SetAddress(const Fd& socket, unsigned long what, const std::string& address) {
  ifreq request = RequestFor(kTunName);
  sockaddr_in socket_address = {};
  socket_address.sin_family = AF_INET;
  if (inet_pton(AF_INET, address.c_str(), &socket_address.sin_addr) != 1) {
    return absl::InternalError(absl::StrCat("not an address: ", address));
  }
  std::memcpy(&request.ifr_addr, &socket_address, sizeof socket_address);
  return Configure(socket, what, &request, absl::StrCat("give ", kTunName, " ", address));
}

Status SetUp(const Fd& socket, const char* device) {
  ifreq request = RequestFor(device);
  request.ifr_flags = IFF_UP;
  return Configure(socket, SIOCSIFFLAGS, &request, absl::StrCat("bring ", device, " up"));
}

StatusOr<Fd> OpenTun() {
  Fd tun(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!tun.valid()) {
    return EnvironmentError(absl::StrCat("cannot open /dev/net/tun: ", strerror(errno),
                                         "; a lab needs the kernel's TUN device (modprobe tun)"));
  }
  ifreq request = RequestFor(kTunName);
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  RETURN_IF_ERROR(Configure(tun, TUNSETIFF, &request, "make a TUN device"));
  int header = sizeof(OffloadHeader);
  if (ioctl(tun.get(), TUNSETVNETHDRSZ, &header) != 0 ||
      ioctl(tun.get(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) != 0) {
    return ErrnoError(errno, "cannot turn on segmentation offload of a TUN device");
  }
  return tun;
}

Status ApplySetting(const LabSysctl& setting) {
  const std::string path =
      absl::StrCat("/proc/sys/", absl::StrReplaceAll(setting.key, {{".", "/"}}));
  const Fd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  const ssize_t size = static_cast<ssize_t>(setting.value.size());
  if (file.valid() && write(file.get(), setting.value.data(), setting.value.size()) == size) {
    return OkStatus();
  }
  const std::string reason = strerror(errno);
  return EnvironmentError(absl::StrCat("sysctl ", setting.key, "=", setting.value, ": ", reason,
                                       errno == ENOENT ? "; a region of a lab has no such setting "
                                                         "(this kernel has it for the host only, "
                                                         "or not at all)"
                                                       : ""));
}

Status FillNetwork(const std::string& address, const std::vector<LabSysctl>& settings,
                   RegionDevice* region) {
  region->network = Fd(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!region->network.valid()) return ErrnoError(errno, "cannot open /proc/self/ns/net");
  for (const LabSysctl& setting : settings) RETURN_IF_ERROR(ApplySetting(setting));
  ASSIGN_OR_RETURN(region->tun, OpenTun());
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return ErrnoError(errno, "cannot make a socket");
  RETURN_IF_ERROR(SetUp(socket, "lo"));
  RETURN_IF_ERROR(SetAddress(socket, SIOCSIFADDR, address));
  RETURN_IF_ERROR(SetAddress(socket, SIOCSIFNETMASK, "255.255.255.0"));
  ifreq request = RequestFor(kTunName);
  request.ifr_mtu = kMtu;
  RETURN_IF_ERROR(Configure(socket, SIOCSIFMTU, &request, "set the MTU of wan0"));
  request = RequestFor(kTunName);
  request.ifr_qlen = kQueueLength;
  RETURN_IF_ERROR(Configure(socket, SIOCSIFTXQLEN, &request, "set the queue of wan0"));
  return SetUp(socket, kTunName);
}

uint64_t NumberOf(const char* pid) {
  // "net:[4026531840]"
  char text[64] = {};
  if (readlink(absl::StrCat("/proc/", pid, "/ns/net").c_str(), text, sizeof text - 1) <= 0) {
    return 0;
  }
  uint64_t number = 0;
  return sscanf(text, "net:[%lu]", &number) == 1 ? number : 0;
}

}  // namespace

StatusOr<RegionDevice> MakeRegion(const std::string& address,
                                  const std::vector<LabSysctl>& settings) {
  const Fd before(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!before.valid()) return ErrnoError(errno, "cannot open /proc/self/ns/net");
  if (unshare(CLONE_NEWNET) != 0) {
    const int error = errno;
    return EnvironmentError(
        absl::StrCat("cannot make a network namespace: ", strerror(error),
                     "; a lab needs root with CAP_SYS_ADMIN and CAP_NET_ADMIN"));
  }
  RegionDevice region;
  const Status filled = FillNetwork(address, settings, &region);
  RETURN_IF_ERROR(EnterNetwork(before));
  RETURN_IF_ERROR(filled);
  return region;
}

Status EnterNetwork(const Fd& network) {
  if (setns(network.get(), CLONE_NEWNET) == 0) return OkStatus();
  return ErrnoError(errno, "cannot enter a network namespace");
}

StatusOr<uint64_t> NetworkNumber(const Fd& network) {
  struct stat info;
  if (fstat(network.get(), &info) != 0) return ErrnoError(errno, "cannot examine a namespace");
  return static_cast<uint64_t>(info.st_ino);
}

std::vector<pid_t> ProcessesIn(const std::vector<uint64_t>& networks) {
  std::vector<pid_t> found;
  DIR* directory = opendir("/proc");
  if (directory == nullptr) return found;
  while (const dirent* entry = readdir(directory)) {
    int pid = 0;
    if (!absl::SimpleAtoi(entry->d_name, &pid)) continue;
    const uint64_t number = NumberOf(entry->d_name);
    if (number != 0 && std::find(networks.begin(), networks.end(), number) != networks.end()) {
      found.push_back(pid);
    }
  }
  closedir(directory);
  return found;
}

StatusOr<Fd> OpenProcess(pid_t pid) {
  const long fd = syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) return ErrnoError(errno, absl::StrCat("cannot watch process ", pid));
  fcntl(static_cast<int>(fd), F_SETFD, FD_CLOEXEC);
  return Fd(static_cast<int>(fd));
}

uint64_t StartTime(pid_t pid) {
  const Fd file(open(absl::StrCat("/proc/", pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  char text[1024] = {};
  if (!file.valid() || read(file.get(), text, sizeof text - 1) <= 0) return 0;
  // Field 22; the name before it may hold blanks and brackets.
  const char* after = std::strrchr(text, ')');
  if (after == nullptr) return 0;
  const std::vector<absl::string_view> fields = absl::StrSplit(after + 1, ' ');
  // fields[1] is the state: a zombie has ended.
  uint64_t start = 0;
  if (fields.size() < 21 || fields[1] == "Z" || fields[1] == "X") return 0;
  return absl::SimpleAtoi(fields[20], &start) ? start : 0;
}

}  // namespace atl
