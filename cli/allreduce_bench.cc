#include "cli/allreduce_bench.h"

#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/random.h"

namespace atl {
namespace {

constexpr uint16_t kPort = 7400;
constexpr double kJoinSeconds = 60;
// From the word to begin until the beginning: longer than it takes to wake all threads.
constexpr double kLeadSeconds = 0.003;

double Now() { return Clock::Real()->MonotonicSeconds(); }

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Whole numbers: any order of fp32 additions gives their exact sum.
float Input(int region, int64_t element) {
  const uint64_t bits = Mix64(static_cast<uint64_t>(element) * 64 + region);
  return static_cast<float>(static_cast<int64_t>(bits % 2001) - 1000);
}

// How far a codec's sum may be from the true one, as a share of the largest number times regions.
double Tolerance(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
      return 0;
    case Codec::kBf16:
      return 1.0 / 128;
    case Codec::kFp16:
      return 1.0 / 1024;
    case Codec::kInt8:
      return 1.0 / 60;
    case Codec::kInt4:
      return 1.0 / 3;
  }
  return 0;
}

// What all regions' threads share.
struct Shared {
  Shared(const AllReduceBench& bench, int regions)
      : bench(bench), regions(regions), barrier(regions), ends(regions), digests(regions) {}

  void Fail(const Status& status) {
    std::lock_guard<std::mutex> lock(mutex);
    if (failure.ok()) failure = status;
  }
  bool failed() {
    std::lock_guard<std::mutex> lock(mutex);
    return !failure.ok();
  }

  const AllReduceBench& bench;
  const int regions;
  std::barrier<> barrier;
  std::mutex mutex;
  Status failure;
  std::vector<Endpoint> endpoints;
  wan::Key key = {};
  double start = 0;
  double cpu_before = 0;
  std::vector<double> ends;
  std::vector<uint64_t> digests;
  AllReduceBenchResult result;
};

class RegionThread {
 public:
  RegionThread(Shared* shared, int region) : shared_(shared), region_(region) {}

  void Run() {
    Step([this] { return Create(); });
    Step([this] { return Join(); });
    const int all = shared_->bench.warmup + shared_->bench.iterations;
    for (int i = 0; i < all; ++i) {
      if (!Step([this] { return Fill(); })) break;
      if (shared_->bench.idle_seconds > 0)
        Clock::Real()->SleepFor(absl::Seconds(shared_->bench.idle_seconds));
      if (region_ == 0) {
        shared_->start = Now() + kLeadSeconds;
        shared_->cpu_before = CpuSeconds();
        if (shared_->bench.before) shared_->bench.before(i - shared_->bench.warmup);
      }
      shared_->barrier.arrive_and_wait();
      if (!Step([this, i] { return Operate(static_cast<uint64_t>(i)); })) break;
      if (region_ == 0) Record(i);
      Check();
      shared_->barrier.arrive_and_wait();
      if (region_ == 0) Compare();
      shared_->barrier.arrive_and_wait();
    }
    if (region_ == 0 && engine_ != nullptr) {
      shared_->result.links = engine_->Links();
      shared_->result.matrix = engine_->Matrix(ViewId{1}, LaneId{0});
    }
    shared_->barrier.arrive_and_wait();
    engine_.reset();
  }

 private:
  // All regions do it; all know whether all could.
  template <typename Function>
  bool Step(Function function) {
    if (!shared_->failed()) {
      const Status status = function();
      if (!status.ok()) shared_->Fail(Annotate(status, absl::StrCat("in region ", region_)));
    }
    shared_->barrier.arrive_and_wait();
    return !shared_->failed();
  }

  Status Create() {
    const AllReduceBench& bench = shared_->bench;
    if (bench.lab != nullptr) RETURN_IF_ERROR(bench.lab->Enter(region_));
    wan::EngineOptions options = bench.engine;
    options.listen = {"127.0.0.1", 0};
    if (bench.lab != nullptr) options.listen = {bench.lab->Address(region_), kPort};
    ASSIGN_OR_RETURN(engine_, wan::Engine::Create(options));
    std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->endpoints.resize(shared_->regions);
    shared_->endpoints[region_] = engine_->endpoint();
    data_.resize(bench.bytes / sizeof(float));
    return OkStatus();
  }

  Status Join() {
    wan::Group group;
    group.view = ViewId{1};
    group.lane = LaneId{0};
    group.self = MemberIndex{region_};
    group.members = shared_->endpoints;
    for (int region = 0; region < shared_->regions; ++region) {
      const RunningLab* const lab = shared_->bench.lab;
      group.names.push_back(lab != nullptr ? lab->regions()[region].name
                                           : absl::StrCat("rank", region));
    }
    group.key = shared_->key;
    const double began = Now();
    RETURN_IF_ERROR(engine_->Join(group, kJoinSeconds));
    if (region_ == 0) shared_->result.join_seconds = Now() - began;
    return OkStatus();
  }

  Status Fill() {
    for (size_t i = 0; i < data_.size(); ++i) data_[i] = Input(region_, static_cast<int64_t>(i));
    return OkStatus();
  }

  Status Operate(uint64_t id) {
    wan::AllReduceOptions options;
    options.codec = shared_->bench.codec;
    const double wait = shared_->start - Now();
    if (wait > 0) Clock::Real()->SleepFor(absl::Seconds(wait));
    const auto operation = engine_->AllReduce(ViewId{1}, LaneId{0}, id, data_, options);
    ASSIGN_OR_RETURN(const wan::AllReduceResult done, operation->Wait());
    shared_->ends[region_] = Now();
    if (region_ == 0) shared_->result.schedule = wan::ScheduleName(done.schedule);
    return OkStatus();
  }

  void Record(int i) {
    const AllReduceBench& bench = shared_->bench;
    if (i < bench.warmup) return;
    const double end = *std::max_element(shared_->ends.begin(), shared_->ends.end());
    shared_->result.seconds.push_back(end - shared_->start);
    shared_->result.cpu_seconds += CpuSeconds() - shared_->cpu_before;
  }

  void Check() {
    const double tolerance = Tolerance(shared_->bench.codec) * 1000 * shared_->regions;
    int64_t wrong = 0;
    uint64_t digest = 0;
    for (size_t i = 0; i < data_.size(); ++i) {
      float sum = 0;
      for (int region = 0; region < shared_->regions; ++region) {
        sum += Input(region, static_cast<int64_t>(i));
      }
      wrong += !(std::abs(data_[i] - sum) <= tolerance);
      uint32_t bits;
      std::memcpy(&bits, &data_[i], sizeof bits);
      digest = Mix64(digest ^ (bits + i * 0x9E3779B97F4A7C15ull));
    }
    shared_->digests[region_] = digest;
    std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->result.wrong += wrong;
  }

  void Compare() {
    for (const uint64_t digest : shared_->digests) {
      if (digest != shared_->digests[0])
        shared_->result.wrong += static_cast<int64_t>(data_.size());
    }
  }

  Shared* const shared_;
  const int region_;
  std::unique_ptr<wan::Engine> engine_;
  std::vector<float> data_;
};

}  // namespace

StatusOr<AllReduceBenchResult> RunAllReduceBench(const AllReduceBench& bench) {
  const int regions = bench.lab != nullptr ? bench.lab->size() : bench.regions;
  Shared shared(bench, regions);
  FillWithSystemRandom(shared.key.data(), shared.key.size());
  std::vector<std::thread> threads;
  for (int region = 0; region < regions; ++region) {
    threads.emplace_back([&shared, region] { RegionThread(&shared, region).Run(); });
  }
  for (std::thread& thread : threads) thread.join();
  RETURN_IF_ERROR(shared.failure);
  shared.result.cpu_seconds /= std::max<size_t>(1, shared.result.seconds.size());
  return std::move(shared.result);
}

}  // namespace atl
