#include "tools/wanlab/selftest.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "proto/lab_file.h"
#include "tools/wanlab/lab.h"
#include "tools/wanlab/measure.h"

namespace atl {
namespace {

using nlohmann::json;

// TCP's payload of a packet of 1500 bytes: IP 20, TCP 20, time stamps 12.
constexpr double kPayloadShare = 1448.0 / 1500.0;
constexpr double kRateTolerance = 0.05;
constexpr double kRttToleranceSeconds = 1e-3;
constexpr double kWarmUpSeconds = 1.5;
constexpr double kSeconds = 3;
constexpr int kStreams = 4;

class SelfTest {
 public:
  explicit SelfTest(bool json) : json_(json) {}

  Status Rate(int mbit, double delay_seconds);
  Status DatagramRate(int mbit, double delay_seconds);
  Status RoundTrip(double milliseconds);
  Status Loss(double loss, int count);
  Status Caps();
  Status Seed();

  int Conclude() const {
    if (json_) std::printf("%s\n", json{{"ok", ok_}, {"measured", results_}}.dump(2).c_str());
    return ok_ ? 0 : 1;
  }

 private:
  void Note(const std::string& what, double asked, double measured, bool holds,
            const std::string& text) {
    ok_ = ok_ && holds;
    results_.push_back({{"what", what}, {"asked", asked}, {"measured", measured}, {"ok", holds}});
    if (json_) return;
    std::printf("%-4s %-34s %s\n", holds ? "ok" : "FAIL", what.c_str(), text.c_str());
    std::fflush(stdout);
  }
  void NoteRate(const std::string& what, double line_bits, double goodput, double relay_share) {
    const double asked = line_bits * kPayloadShare;
    Note(what, asked, goodput, std::abs(goodput / asked - 1) <= kRateTolerance,
         absl::StrFormat("goodput %s, the headers leave %s (%+.2f%%), relay %.2f core",
                         FormatRate(goodput), FormatRate(asked), 100 * (goodput / asked - 1),
                         relay_share));
  }

  const bool json_;
  bool ok_ = true;
  std::vector<json> results_;
};

Lab Plain(int regions, double delay_seconds) {
  Lab lab;
  for (int i = 0; i < regions; ++i) lab.regions.push_back({absl::StrCat("region-", i), 0, 0});
  LabLink link;
  link.delay_seconds = delay_seconds;
  lab.links.assign(lab.regions.size() * lab.regions.size(), link);
  return lab;
}

StatusOr<double> RelaySeconds(const RunningLab& running) {
  ASSIGN_OR_RETURN(const json stats, running.Stats());
  return stats.at("relay").at("cpu_seconds").get<double>();
}

struct RateAndCost {
  double goodput = 0;
  double relay_share = 0;  // of one core
};

StatusOr<RateAndCost> RateOf(const Lab& lab, const std::vector<Flow>& flows) {
  ASSIGN_OR_RETURN(const RunningLab running, RunningLab::Up(lab, {}));
  ASSIGN_OR_RETURN(const double before, RelaySeconds(running));
  ASSIGN_OR_RETURN(const FlowRate rate, MeasureRate(running, flows, kWarmUpSeconds, kSeconds));
  ASSIGN_OR_RETURN(const double after, RelaySeconds(running));
  return RateAndCost{rate.bits_per_second, (after - before) / (kWarmUpSeconds + kSeconds)};
}

Status SelfTest::Rate(int mbit, double delay_seconds) {
  Lab lab = Plain(2, delay_seconds);
  lab.regions[0].up_bits_per_second = mbit * int64_t{1000000};
  ASSIGN_OR_RETURN(const RateAndCost result, RateOf(lab, {{0, 1, kStreams}}));
  NoteRate(absl::StrFormat("rate %d Mbit/s, RTT %g ms", mbit, 2e3 * delay_seconds), mbit * 1e6,
           result.goodput, result.relay_share);
  return OkStatus();
}

// Half as much again as the line carries: what arrives is the line's rate times the time that was
// sent, and one full queue. TCP would need many seconds to fill so long a line.
Status SelfTest::DatagramRate(int mbit, double delay_seconds) {
  Lab lab = Plain(2, delay_seconds);
  const double line = mbit * 1e6, packet_bits = 8 * 1500;
  lab.regions[0].up_bits_per_second = static_cast<int64_t>(line);
  ASSIGN_OR_RETURN(const RunningLab running, RunningLab::Up(lab, {}));
  const double per_second = 1.5 * line / packet_bits;
  const int count = static_cast<int>(kSeconds * per_second);
  ASSIGN_OR_RETURN(const std::vector<bool> arrived,
                   SendDatagrams(running, 0, 1, {count, 1500, per_second}));
  const double bits =
      packet_bits * static_cast<double>(std::count(arrived.begin(), arrived.end(), true));
  const double rate = bits / (kSeconds + lab.region_queue_seconds);
  Note(absl::StrFormat("rate %d Mbit/s, RTT %g ms, datagrams", mbit, 2e3 * delay_seconds), line,
       rate, std::abs(rate / line - 1) <= kRateTolerance,
       absl::StrFormat("%s of IP packets (%+.2f%%) while 1.5 times as much was sent",
                       FormatRate(rate), 100 * (rate / line - 1)));
  return OkStatus();
}

Status SelfTest::RoundTrip(double milliseconds) {
  const Lab lab = Plain(2, milliseconds / 2e3);
  ASSIGN_OR_RETURN(const RunningLab running, RunningLab::Up(lab, {}));
  ASSIGN_OR_RETURN(std::vector<double> trips, MeasureRoundTrips(running, 0, 1, 40));
  std::sort(trips.begin(), trips.end());
  const double median = trips[trips.size() / 2], asked = milliseconds / 1e3;
  Note(absl::StrFormat("rtt %g ms", milliseconds), asked, median,
       std::abs(median - asked) <= kRttToleranceSeconds,
       absl::StrFormat("median %.3f ms, %.3f to %.3f ms over %d round trips", 1e3 * median,
                       1e3 * trips.front(), 1e3 * trips.back(), static_cast<int>(trips.size())));
  return OkStatus();
}

Status SelfTest::Loss(double loss, int count) {
  Lab lab = Plain(2, 0.005);
  lab.link(0, 1).loss = loss;
  ASSIGN_OR_RETURN(const RunningLab running, RunningLab::Up(lab, {}));
  ASSIGN_OR_RETURN(const std::vector<bool> arrived, SendDatagrams(running, 0, 1, {.count = count}));
  const double lost = static_cast<double>(std::count(arrived.begin(), arrived.end(), false));
  const double expected = loss * count, deviation = std::sqrt(expected * (1 - loss));
  Note(absl::StrFormat("loss %g", loss), loss, lost / count,
       std::abs(lost - expected) <= 4 * deviation,
       absl::StrFormat("%.5f: %.0f of %d lost, %.1f standard deviations off", lost / count, lost,
                       count, (lost - expected) / deviation));
  return OkStatus();
}

Status SelfTest::Caps() {
  Lab lab = Plain(4, 0.02);
  lab.regions[0].up_bits_per_second = 300'000'000;
  lab.regions[0].down_bits_per_second = 200'000'000;
  ASSIGN_OR_RETURN(const RateAndCost out, RateOf(lab, {{0, 1, 2}, {0, 2, 2}, {0, 3, 2}}));
  NoteRate("up 300 Mbit/s to three peers", 300e6, out.goodput, out.relay_share);
  ASSIGN_OR_RETURN(const RateAndCost in, RateOf(lab, {{1, 0, 2}, {2, 0, 2}, {3, 0, 2}}));
  NoteRate("down 200 Mbit/s from three peers", 200e6, in.goodput, in.relay_share);
  lab.link(0, 1).rate_bits_per_second = 100'000'000;
  ASSIGN_OR_RETURN(const RateAndCost pair, RateOf(lab, {{0, 1, 4}}));
  NoteRate("pair 100 Mbit/s below up 300", 100e6, pair.goodput, pair.relay_share);
  return OkStatus();
}

Status SelfTest::Seed() {
  std::vector<std::vector<bool>> runs;
  for (const uint64_t seed : {7, 7, 8}) {
    Lab lab = Plain(2, 0.005);
    lab.seed = seed;
    lab.link(0, 1).loss = 0.02;
    ASSIGN_OR_RETURN(const RunningLab running, RunningLab::Up(lab, {}));
    ASSIGN_OR_RETURN(std::vector<bool> arrived, SendDatagrams(running, 0, 1, {.count = 5000}));
    runs.push_back(std::move(arrived));
  }
  const bool holds = runs[0] == runs[1] && runs[0] != runs[2];
  const auto lost = std::count(runs[0].begin(), runs[0].end(), false);
  Note("seed", 1, runs[0] == runs[1] ? 1 : 0, holds,
       absl::StrFormat("%s of 5000 datagrams lost with seed 7 twice, %s with seed 8",
                       runs[0] == runs[1] ? absl::StrCat("the same ", lost) : "NOT the same ones",
                       runs[0] != runs[2] ? "others" : "THE SAME"));
  return OkStatus();
}

}  // namespace

StatusOr<int> RunSelfTest(bool json) {
  SelfTest test(json);
  for (const int mbit : {100, 500, 1000, 2000}) RETURN_IF_ERROR(test.Rate(mbit, 0.005));
  RETURN_IF_ERROR(test.DatagramRate(500, 0.04));
  RETURN_IF_ERROR(test.Rate(1000, 0.0005));
  for (const double milliseconds : {1.0, 80.0, 150.0})
    RETURN_IF_ERROR(test.RoundTrip(milliseconds));
  RETURN_IF_ERROR(test.Loss(1e-3, 60000));
  RETURN_IF_ERROR(test.Loss(1e-2, 20000));
  RETURN_IF_ERROR(test.Loss(1e-1, 10000));
  RETURN_IF_ERROR(test.Caps());
  RETURN_IF_ERROR(test.Seed());
  return test.Conclude();
}

}  // namespace atl
