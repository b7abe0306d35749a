// All-reduce over loopback with several engines in one process: seconds and CPU seconds.
//
// atoll-bench-wan [--members=2] [--mib=64] [--streams=2] [--codec=fp32] [--repeats=7]
// prints one line: members, MiB, codec, streams, median, best and worst seconds, bus rate as
// nccl-tests counts it (2 (N-1)/N S / t), CPU seconds of the process per GB of vector and member.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/log.h"
#include "collectives/wan/engine.h"

namespace atl::wan {
namespace {

struct Settings {
  int members = 2;
  int mib = 64;
  int streams = 2;
  int repeats = 7;
  Codec codec = Codec::kFp32;
};

bool Parse(int argc, char** argv, Settings* settings) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view text = argv[i];
    bool good = false;
    if (absl::ConsumePrefix(&text, "--members=")) {
      good = absl::SimpleAtoi(text, &settings->members) && settings->members >= 1;
    } else if (absl::ConsumePrefix(&text, "--mib=")) {
      good = absl::SimpleAtoi(text, &settings->mib) && settings->mib >= 1;
    } else if (absl::ConsumePrefix(&text, "--streams=")) {
      good = absl::SimpleAtoi(text, &settings->streams);
    } else if (absl::ConsumePrefix(&text, "--repeats=")) {
      good = absl::SimpleAtoi(text, &settings->repeats) && settings->repeats >= 1;
    } else if (absl::ConsumePrefix(&text, "--codec=")) {
      good = text == "fp32" || text == "bf16";
      settings->codec = text == "bf16" ? Codec::kBf16 : Codec::kFp32;
    }
    if (!good) {
      std::fprintf(stderr, "atoll-bench-wan: cannot use '%s'\n", argv[i]);
      return false;
    }
  }
  return true;
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int Measure(const Settings& settings) {
  const int members = settings.members;
  std::vector<std::unique_ptr<Engine>> engines;
  Group group;
  group.view = {1};
  for (int member = 0; member < members; ++member) {
    EngineOptions options;
    options.listen = {"127.0.0.1", 0};
    options.streams = settings.streams;
    auto engine = Engine::Create(options);
    CHECK(engine.ok()) << engine.status();
    group.members.push_back((*engine)->endpoint());
    group.names.push_back("region" + std::to_string(member));
    engines.push_back(*std::move(engine));
  }
  std::vector<std::thread> joiners;
  for (int member = 0; member < members; ++member) {
    Group mine = group;
    mine.self = {member};
    joiners.emplace_back([&engines, member, mine] {
      const Status status = engines[member]->Join(mine, 10);
      CHECK(status.ok()) << status;
    });
  }
  for (std::thread& joiner : joiners) joiner.join();

  const size_t elements = static_cast<size_t>(settings.mib) << 18;
  std::vector<std::vector<float>> data(members, std::vector<float>(elements, 1.0f));
  AllReduceOptions options;
  options.codec = settings.codec;
  std::vector<double> seconds;
  double cpu = 0;
  for (int repeat = -1; repeat < settings.repeats; ++repeat) {  // the first one warms up
    for (std::vector<float>& vector : data) std::fill(vector.begin(), vector.end(), 1.0f);
    const double cpu_began = CpuSeconds();
    const double began = Clock::Real()->MonotonicSeconds();
    std::vector<std::shared_ptr<Operation>> operations;
    for (int member = 0; member < members; ++member) {
      operations.push_back(engines[member]->AllReduce({1}, {0}, repeat + 2, data[member], options));
    }
    for (const auto& operation : operations) {
      const auto result = operation->Wait();
      CHECK(result.ok()) << result.status();
    }
    if (repeat >= 0) {
      seconds.push_back(Clock::Real()->MonotonicSeconds() - began);
      cpu += CpuSeconds() - cpu_began;
    }
    for (const std::vector<float>& vector : data) {
      CHECK(std::count(vector.begin(), vector.end(), static_cast<float>(members)) ==
            static_cast<int64_t>(elements));
    }
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double gigabytes = static_cast<double>(elements) * 4e-9;
  std::printf("%8s %6s %6s %8s %9s %9s %9s %8s %9s\n", "members", "MiB", "codec", "streams",
              "median_s", "best_s", "worst_s", "bus_GB/s", "cpu_s/GB");
  std::printf("%8d %6d %6s %8d %9.4f %9.4f %9.4f %8.2f %9.2f\n", members, settings.mib,
              CodecName(settings.codec), settings.streams, median, seconds.front(), seconds.back(),
              2.0 * (members - 1) / members * gigabytes / median,
              cpu / settings.repeats / gigabytes / members);
  return 0;
}

}  // namespace
}  // namespace atl::wan

int main(int argc, char** argv) {
  atl::wan::Settings settings;
  if (!atl::wan::Parse(argc, argv, &settings)) return 2;
  return atl::wan::Measure(settings);
}
