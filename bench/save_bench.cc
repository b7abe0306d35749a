// What a save costs training, and what it costs the machine.
//
// atoll-bench-save --dir=DIR [--mib=2048] [--workers=1] [--saves=3] [--plain] [--unprepared]
//                  [--encrypt]
// So many workers, threads of one process, hold a state of --mib together, each a slice of every 4
// MiB, and save it behind a training that does nothing meanwhile; the first arena is made ready
// before, as jobs do in their first round, but with --unprepared. Half of the state is replicated,
// which matters with --encrypt. A line a save:
//   copy     seconds of the slowest worker's memcpy into the arena
//   stall    seconds that training stands still: agreeing, taking an arena, copying, beginning
//   save     seconds until it is on the disk;  MB/s of that
//   cpu      CPU seconds a GB while it is written, of all workers
//   memory   the process's highest so far, above what it was before the first save
#include <sys/resource.h>

#include <algorithm>
#include <barrier>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/log.h"
#include "checkpoint/background_saver.h"
#include "checkpoint/encryption.h"
#include "collectives/inprocess/inprocess.h"

namespace atl::checkpoint {
namespace {

constexpr int64_t kBucket = 1 << 20;  // elements
constexpr int kSections = 4;          // model, momentum, two moments

struct Settings {
  std::string dir;
  int64_t mib = 2048;
  int64_t workers = 1;
  int64_t saves = 3;
  bool plain = false;
  bool prepare = true;
  bool encrypt = false;
};

struct Sample {
  double copy = 0, stall = 0;
};

double Now() { return Clock::Real()->MonotonicSeconds(); }

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int64_t PeakBytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} << 10;
}

class Bench {
 public:
  explicit Bench(Settings settings)
      : settings_(std::move(settings)),
        elements_(settings_.mib * (1 << 20) / 4 / kSections / kBucket * kBucket),
        meet_(settings_.workers) {
    samples_.resize(settings_.workers);
  }

  void Run() {
    std::printf("%7s %8s %8s %8s %8s %9s %9s %9s\n", "MiB", "workers", "copy s", "stall s",
                "save s", "MB/s", "cpu s/GB", "MiB more");
    auto control = MakeInProcessGroup(settings_.workers);
    auto saves = MakeInProcessGroup(settings_.workers);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < settings_.workers; ++rank) {
      threads.emplace_back([&, rank] { Worker(*control[rank], saves[rank].get()); });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  SaveOptions Options(int64_t round) const {
    SaveOptions options;
    options.directory = settings_.dir;
    options.description.round = round;
    options.description.digest = "00112233445566778899aabbccddeeff";
    options.description.region = "bench";
    options.description.job = "bench";
    options.keep = 1;
    if (settings_.plain) options.way = WriteWay::kPlain;
    if (settings_.encrypt) options.key = EncryptionKey::FromBytes(std::string(32, 'k'));
    for (int64_t at = 0; at < elements_; at += 16 * kBucket) {
      const int64_t end = std::min(at + 16 * kBucket, elements_);
      options.tensors.push_back({absl::StrCat("t", at), {end - at}, {at, end}});
    }
    return options;
  }

  void Worker(Communicator& control, Communicator* saves) {
    const int rank = control.rank();
    std::vector<Range> own;
    int64_t count = 0;
    for (int64_t at = 0; at < elements_; at += kBucket) {
      const int64_t n = settings_.workers;
      own.push_back({at + kBucket * rank / n, at + kBucket * (rank + 1) / n});
      count += own.back().size();
    }
    std::vector<float> state(count * kSections);
    for (size_t i = 0; i < state.size(); ++i) state[i] = static_cast<float>(i * 2654435761u);
    BackgroundSaver saver(saves);
    meet_.arrive_and_wait();
    if (rank == 0) before_ = PeakBytes();
    meet_.arrive_and_wait();
    if (settings_.prepare) {
      saver.Prepare(count * kSections);
      CHECK(saver.Take(count * kSections).ok());  // it is ready then
      saver.GiveBack();
    }
    meet_.arrive_and_wait();
    for (int64_t round = 1; round <= settings_.saves; ++round) {
      meet_.arrive_and_wait();
      const double start = Now();
      CHECK(control.Barrier().ok());
      const auto arena = saver.Take(count * kSections);
      CHECK(arena.ok() && *arena != nullptr) << arena.status();
      const double copy_start = Now();
      std::memcpy(*arena, state.data(), state.size() * sizeof(float));
      samples_[rank].copy = Now() - copy_start;
      SaveOptions options = Options(round);
      const float* data = *arena;
      for (const char* prefix : {"model", "outer/momentum", "optim/exp_avg", "optim/exp_avg_sq"}) {
        const bool regional = absl::StartsWith(prefix, "optim/");
        Section section{prefix, regional ? SectionClass::kRegional : SectionClass::kReplicated, {}};
        for (const Range& range : own) {
          section.slices.push_back({range, data});
          data += range.size();
        }
        options.sections.push_back(std::move(section));
      }
      SaveResult result;
      saver.Begin(std::move(options), [&](const auto& saved, double) {
        CHECK(saved.ok()) << saved.status();
        result = *saved;
      });
      samples_[rank].stall = Now() - start;
      const double cpu_copied = CpuSeconds();
      saver.Wait();
      const double end = Now();
      meet_.arrive_and_wait();
      if (rank == 0) Print(result, end - start, CpuSeconds() - cpu_copied);
    }
  }

  void Print(const SaveResult& result, double seconds, double cpu) {
    Sample worst;
    for (const Sample& sample : samples_) {
      worst.copy = std::max(worst.copy, sample.copy);
      worst.stall = std::max(worst.stall, sample.stall);
    }
    std::printf("%7ld %8ld %8.3f %8.3f %8.2f %9.0f %9.2f %9ld\n", settings_.mib, settings_.workers,
                worst.copy, worst.stall, seconds, result.bytes / 1e6 / seconds,
                cpu / (result.bytes / 1e9), (PeakBytes() - before_) >> 20);
    std::fflush(stdout);
  }

  const Settings settings_;
  const int64_t elements_;
  std::barrier<> meet_;
  std::vector<Sample> samples_;
  int64_t before_ = 0;
};

}  // namespace
}  // namespace atl::checkpoint

int main(int argc, char** argv) {
  atl::checkpoint::Settings settings;
  for (int i = 1; i < argc; ++i) {
    absl::string_view word = argv[i];
    bool ok = true;
    if (absl::ConsumePrefix(&word, "--dir=")) {
      settings.dir = std::string(word);
    } else if (absl::ConsumePrefix(&word, "--mib=")) {
      ok = absl::SimpleAtoi(word, &settings.mib);
    } else if (absl::ConsumePrefix(&word, "--workers=")) {
      ok = absl::SimpleAtoi(word, &settings.workers);
    } else if (absl::ConsumePrefix(&word, "--saves=")) {
      ok = absl::SimpleAtoi(word, &settings.saves);
    } else {
      ok = word == "--plain" || word == "--unprepared" || word == "--encrypt";
      settings.plain = settings.plain || word == "--plain";
      settings.prepare = settings.prepare && word != "--unprepared";
      settings.encrypt = settings.encrypt || word == "--encrypt";
    }
    if (!ok) settings.dir.clear();
  }
  if (settings.dir.empty() || settings.mib < 64 || settings.workers < 1) {
    std::fprintf(
        stderr,
        "usage: %s --dir=DIR [--mib=2048] [--workers=1] [--saves=3] [--plain] [--unprepared] "
        "[--encrypt]\n",
        argv[0]);
    return 2;
  }
  atl::checkpoint::Bench(settings).Run();
  std::filesystem::remove_all(settings.dir);
}
