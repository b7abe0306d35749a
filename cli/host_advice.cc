// docs/wan.md, "Your hosts", says the same at length.
#include "cli/host_advice.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace atl {
namespace {

// What Linux gives: 4 MiB to send, 6 MiB to receive. With these 16 connections keep 20 MB under
// way: of a buffer about a third is data, and connections do not share evenly.
constexpr int64_t kUsualSendBytes = 4 << 20;
constexpr int64_t kUsualReceiveBytes = 6 << 20;
constexpr int64_t kUsualReachBytes = 20'000'000;
constexpr size_t kMostWords = 100;

// The words of a file; none if it cannot be read.
std::vector<std::string> Words(const std::string& path) {
  std::ifstream file(path);  // of /proc: has no size
  std::vector<std::string> words;
  for (std::string word; words.size() < kMostWords && file >> word;) words.push_back(word);
  return words;
}

int64_t Largest(const std::string& path) {
  const std::vector<std::string> words = Words(path);
  int64_t bytes = 0;
  return words.size() == 3 && absl::SimpleAtoi(words[2], &bytes) ? bytes : 0;
}

bool Has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

HostTcp ReadHostTcp(const std::string& directory) {
  HostTcp tcp;
  tcp.available = Words(directory + "/tcp_available_congestion_control");
  tcp.allowed = Words(directory + "/tcp_allowed_congestion_control");
  const std::vector<std::string> standard = Words(directory + "/tcp_congestion_control");
  if (!standard.empty()) tcp.standard = standard[0];
  tcp.slow_start_after_idle =
      Words(directory + "/tcp_slow_start_after_idle") != std::vector<std::string>{"0"};
  tcp.send_buffer_bytes = Largest(directory + "/tcp_wmem");
  tcp.receive_buffer_bytes = Largest(directory + "/tcp_rmem");
  return tcp;
}

int64_t ReachBytes(const HostTcp& tcp) {
  const double send = static_cast<double>(tcp.send_buffer_bytes) / kUsualSendBytes;
  const double receive = static_cast<double>(tcp.receive_buffer_bytes) / kUsualReceiveBytes;
  return static_cast<int64_t>(std::min(send, receive) * kUsualReachBytes);
}

std::vector<std::string> HostAdvice(const HostTcp& tcp, bool root) {
  std::vector<std::string> advice;
  const bool has_bbr = Has(tcp.available, "bbr");
  const bool gets_bbr = has_bbr && (root || Has(tcp.allowed, "bbr"));
  if (!tcp.available.empty() && !has_bbr) {
    advice.push_back("modprobe tcp_bbr: without BBR a lossy line carries a fraction of its rate");
  } else if (has_bbr && !gets_bbr) {
    advice.push_back(absl::StrCat("sysctl -w net.ipv4.tcp_allowed_congestion_control=\"reno cubic ",
                                  "bbr\": atoll, which is not root here, may not ask for BBR"));
  }
  if (!tcp.available.empty() && !gets_bbr && tcp.slow_start_after_idle) {
    advice.push_back(
        "sysctl -w net.ipv4.tcp_slow_start_after_idle=0: without BBR every round begins slowly");
  }
  if (tcp.send_buffer_bytes > 0 && tcp.send_buffer_bytes < kUsualSendBytes) {
    advice.push_back(
        "sysctl -w net.ipv4.tcp_wmem=\"4096 65536 16777216\": connections may send less at a time "
        "than Linux usually lets them");
  }
  if (tcp.receive_buffer_bytes > 0 && tcp.receive_buffer_bytes < kUsualReceiveBytes) {
    advice.push_back(
        "sysctl -w net.ipv4.tcp_rmem=\"4096 131072 16777216\": connections may receive less at a "
        "time than Linux usually lets them");
  }
  return advice;
}

}  // namespace atl
