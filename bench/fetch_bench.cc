// How fast one region fetches bytes from all others of a lab, beside the sum of their rates, and
// what that costs all-reduces that run meanwhile. Needs root.
//
// fetch_bench --lab=FILE [--mib=256] [--cap_mbit=0] [--reduce_mib=0]
// The lab's first region fetches. With --reduce_mib all regions also reduce a vector of that size
// over and over, a while without and then during the fetch. Prints a line for the fetch: seconds,
// Mbit/s, share of what the lines carry (a packet of 1500 bytes has 1448 of payload), bytes that
// came twice; and a line for the reductions: median seconds without and with it, and how many.
#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#include "collectives/wan/engine.h"
#include "tools/wanlab/lab.h"

namespace atl::wan {
namespace {

constexpr uint16_t kPort = 7400;
constexpr int kAlone = 6;  // reductions before the fetch, of which the first does not count
constexpr double kPayloadShare = 1448.0 / 1500.0;

void Require(const Status& status) { CHECK(status.ok()) << status; }

struct Settings {
  std::string lab;
  int64_t mib = 256;
  double cap_mbit = 0;
  int64_t reduce_mib = 0;
};

struct Bench {
  const Settings settings;
  const Lab lab;
  RunningLab sea;
  std::vector<uint8_t> bytes;
  std::barrier<> meet;
  std::atomic<bool> over = false;
  std::vector<double> alone = {}, beside = {};  // of region 0
};

double Median(std::vector<double> seconds) {
  if (seconds.empty()) return 0;
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

// What the others can send to the first region together, payload bytes a second.
double LineRate(const Lab& lab) {
  double sum = 0;
  for (int from = 1; from < lab.size(); ++from) {
    int64_t rate = lab.regions[from].up_bits_per_second;
    const int64_t pair = lab.link(from, 0).rate_bits_per_second;
    if (rate == 0 || (pair > 0 && pair < rate)) rate = pair;
    sum += static_cast<double>(rate) / 8;
  }
  const auto down = static_cast<double>(lab.regions[0].down_bits_per_second) / 8;
  return kPayloadShare * (down > 0 ? std::min(down, sum) : sum);
}

void PrintFetch(const Bench& bench, const Transfer& transfer) {
  const FetchProgress progress = transfer.Progress();
  const double rate = static_cast<double>(progress.received) / progress.seconds;
  std::printf("fetch   %.3f s  %.1f Mbit/s  %.3f of the lines  %lld bytes again", progress.seconds,
              rate * 8e-6, rate / LineRate(bench.lab), static_cast<long long>(progress.again));
  for (const int64_t from : progress.from)
    std::printf("  %lld", static_cast<long long>(from >> 20));
  std::printf(" MiB\n");
}

// The last reduction is the one after the first region has its bytes: its attachment says so.
void Reduce(Bench* bench, Engine* engine, int region, uint64_t id, std::vector<float>* data,
            bool* last) {
  AllReduceOptions options;
  options.attachment = region == 0 && bench->over ? "over" : "";
  const auto result = engine->AllReduce({1}, {0}, id, *data, options)->Wait();
  CHECK(result.ok()) << result.status();
  *last = result->attachments[0] == "over";
  if (region == 0) (id <= kAlone ? bench->alone : bench->beside).push_back(result->seconds);
}

void RunRegion(Bench* bench, int region) {
  Require(bench->sea.Enter(region));
  EngineOptions options;
  options.listen = {bench->sea.Address(region), kPort};
  auto created = Engine::Create(options);
  CHECK(created.ok()) << created.status();
  const std::unique_ptr<Engine> engine = *std::move(created);
  Group group;
  group.view = {1};
  group.self = {region};
  for (int i = 0; i < bench->sea.size(); ++i) {
    group.members.push_back({bench->sea.Address(i), kPort});
    group.names.push_back(bench->sea.regions()[i].name);
  }
  Require(engine->Serve({1}, {0}, "state", MemorySource(bench->bytes)));
  Require(engine->Join(group, 60));
  std::vector<float> data(static_cast<size_t>(bench->settings.reduce_mib) << 18);
  bool last = data.empty();
  uint64_t id = 0;
  while (!data.empty() && id < kAlone) Reduce(bench, engine.get(), region, ++id, &data, &last);
  if (region == 0 && id > 0) bench->alone.erase(bench->alone.begin());
  bench->meet.arrive_and_wait();
  std::thread waiter;
  std::vector<uint8_t> out;
  if (region == 0) {
    out.resize(bench->bytes.size());
    FetchRequest request;
    request.name = "state";
    request.ranges = {{0, static_cast<int64_t>(out.size())}};
    request.out = out;
    request.rate_cap = bench->settings.cap_mbit * 1e6 / 8;
    const auto transfer = engine->Fetch({1}, {0}, request);
    waiter = std::thread([bench, transfer, &out] {
      const Status status = transfer->Wait();
      Require(status);
      CHECK(out == bench->bytes) << "wrong bytes";
      PrintFetch(*bench, *transfer);
      bench->over = true;
    });
  }
  while (!last) Reduce(bench, engine.get(), region, ++id, &data, &last);
  if (waiter.joinable()) waiter.join();
  bench->meet.arrive_and_wait();
}

Settings ParseArguments(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    absl::string_view word = argv[i];
    bool good = true;
    if (absl::ConsumePrefix(&word, "--lab=")) {
      settings.lab = std::string(word);
    } else if (absl::ConsumePrefix(&word, "--mib=")) {
      good = absl::SimpleAtoi(word, &settings.mib);
    } else if (absl::ConsumePrefix(&word, "--cap_mbit=")) {
      good = absl::SimpleAtod(word, &settings.cap_mbit);
    } else if (absl::ConsumePrefix(&word, "--reduce_mib=")) {
      good = absl::SimpleAtoi(word, &settings.reduce_mib);
    } else {
      good = false;
    }
    CHECK(good) << "fetch_bench: cannot read '" << argv[i] << "'";
  }
  return settings;
}

}  // namespace
}  // namespace atl::wan

int main(int argc, char** argv) {
  using atl::wan::Bench;
  atl::InitLogging(argv[0]);
  const atl::wan::Settings settings = atl::wan::ParseArguments(argc, argv);
  const auto lab = atl::LoadLabFile(settings.lab);
  CHECK(lab.ok()) << lab.status();
  auto sea = atl::RunningLab::Up(*lab, {});
  CHECK(sea.ok()) << sea.status();
  std::vector<uint8_t> bytes(static_cast<size_t>(settings.mib) << 20);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  Bench bench{settings, *lab, *std::move(sea), std::move(bytes), std::barrier<>(lab->size())};
  std::vector<std::thread> threads;
  for (int region = 0; region < lab->size(); ++region) {
    threads.emplace_back([&bench, region] { atl::wan::RunRegion(&bench, region); });
  }
  for (std::thread& thread : threads) thread.join();
  if (settings.reduce_mib > 0) {
    std::printf("reduce  %.3f s alone (%zu)  %.3f s beside the fetch (%zu)\n",
                atl::wan::Median(bench.alone), bench.alone.size(), atl::wan::Median(bench.beside),
                bench.beside.size());
  }
  return 0;
}
