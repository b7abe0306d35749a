// Collectives inside a region beside MPI's own, in one process, call by call in turn.
//
//   mpirun -n 4 --oversubscribe --bind-to none atoll-bench-region [--min=4KiB] [--max=256MiB]
//       [--factor=4] [--seconds=1.5] [--json] [--pretended-hosts=N] [--chunk=BYTES]
//       [--past-caches=BYTES] [--block=BYTES] [--short=BYTES] [--least-shared=BYTES]
//       [--plain] [--slots] [--reach] [--messages]
//
// 1. Once for each size and operation, the result is checked against sums that are exact in floats
//    (column wrong).
// 2. Then rounds: our call on a vector that the region has allocated (--plain: on ordinary memory),
//    MPI's call on a vector in ordinary memory, and a plain copy of the vector by all ranks at
//    once, each after a barrier; short calls in batches. A round's time is the slowest rank's. At
//    least kFewestRounds of them, and as many as fit into --seconds.
// 3. Printed: medians, and the median, 10th and 90th percentile of the rounds' ratios, which other
//    work on the machine disturbs less than it does the times.
// busbw is what nccl-tests calls so: 2 (P-1)/P S / t for an all-reduce, (P-1)/P S / t otherwise.
// The copy is the yardstick for long vectors: an all-reduce has to read and write every byte of
// every rank's vector once, as the copy does; a reduce-scatter reads what it writes 1/P of, an
// all-gather the reverse.
#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/range.h"
#include "base/units.h"
#include "collectives/mpi/mpi_communicator.h"
#include "collectives/mpi/mpi_environment.h"

namespace atl {
namespace {

constexpr int kFewestRounds = 7;
constexpr int kMostRounds = 400;
constexpr double kShortestBatchSeconds = 100e-6;

struct Settings {
  int64_t min_bytes = 4096;
  int64_t max_bytes = int64_t{256} << 20;
  int factor = 4;
  double seconds = 1.5;
  bool json = false;
  bool plain = false;  // our vectors in ordinary memory too
  MpiOptions mpi;
};

struct Operation {
  std::string name;
  double bus_factor = 1;  // of (P-1)/P S
  std::function<Status(float* data, std::span<const Range> ranges)> ours;
  std::function<int(float* data, std::span<const Range> ranges)> mpi;
};

struct Row {
  std::string operation;
  int64_t bytes = 0;
  double ours = 0, mpi = 0, copy = 0;  // median seconds
  double ratio = 0, ratio_low = 0, ratio_high = 0;
  double to_copy = 0;  // median of ours / copy
  int rounds = 0;
  int64_t wrong = 0;
};

// Begins at a cache line, as tensor libraries allocate theirs. MPI's memory, whose own allocator
// gives it no other on one host.
class Vector {
 public:
  ~Vector() { std::free(data_); }
  float* data() const { return data_; }
  float& operator[](int64_t i) const { return data_[i]; }
  void Resize(int64_t count) {
    std::free(data_);
    data_ = static_cast<float*>(std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64));
    CHECK(data_ != nullptr) << "no memory for " << count << " floats";
    std::fill_n(data_, count, 0.0f);
  }

 private:
  float* data_ = nullptr;
};

double Seconds() { return Clock::Real()->MonotonicSeconds(); }

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * (values.size() - 1) + 0.5)];
}

class Bench {
 public:
  Bench(const Settings& settings, Communicator* region) : settings_(settings), region_(region) {
    operations_ = {{"all-reduce", 2,
                    [this](float* data, std::span<const Range> ranges) {
                      return region_->AllReduce(data, ranges.back().end);
                    },
                    [](float* data, std::span<const Range> ranges) {
                      return MPI_Allreduce(MPI_IN_PLACE, data, static_cast<int>(ranges.back().end),
                                           MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
                    }},
                   {"reduce-scatter", 1,
                    [this](float* data, std::span<const Range> ranges) {
                      return region_->ReduceScatter(data, ranges);
                    },
                    [this](float* data, std::span<const Range> ranges) {
                      const std::vector<int> counts = Counts(ranges);
                      return MPI_Reduce_scatter(data, received_.data(), counts.data(), MPI_FLOAT,
                                                MPI_SUM, MPI_COMM_WORLD);
                    }},
                   {"all-gather", 1,
                    [this](float* data, std::span<const Range> ranges) {
                      return region_->AllGather(data, ranges);
                    },
                    [](float* data, std::span<const Range> ranges) {
                      const std::vector<int> counts = Counts(ranges);
                      std::vector<int> offsets;
                      for (const Range& range : ranges)
                        offsets.push_back(static_cast<int>(range.begin));
                      return MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, counts.data(),
                                            offsets.data(), MPI_FLOAT, MPI_COMM_WORLD);
                    }}};
  }

  StatusOr<std::vector<Row>> Run() {
    std::vector<Row> rows;
    for (const Operation& operation : operations_) {
      for (int64_t bytes = settings_.min_bytes; bytes <= settings_.max_bytes;
           bytes *= settings_.factor) {
        ASSIGN_OR_RETURN(const Row row, Measure(operation, bytes));
        rows.push_back(row);
        if (region_->rank() == 0 && !settings_.json) Print(row, operation.bus_factor);
      }
    }
    return rows;
  }

  // What the memory gives when all ranks ask at once: GB/s a rank, copied and added up.
  void PrintHead() {
    constexpr int64_t kCount = int64_t{16} << 20;
    data_.Resize(kCount);
    copy_.Resize(kCount);
    double copied = 1e9, added = 1e9;
    for (int i = 0; i < 5; ++i) {
      copied = std::min(
          copied, AtOnce([&] { std::memcpy(copy_.data(), data_.data(), kCount * sizeof(float)); }));
      added = std::min(added, AtOnce([&] {
                         for (int64_t k = 0; k < kCount; ++k) copy_[k] += data_[k];
                       }));
    }
    if (region_->rank() != 0) return;
    const double gigabytes = kCount * sizeof(float) / 1e9;
    std::printf("# memory, 64 MiB by every rank at once: copy %.1f GB/s a rank, a += b %.1f GB/s\n",
                gigabytes / copied, gigabytes / added);
    std::printf("# %d ranks, float sums in place; ratio is MPI's time over ours\n",
                region_->size());
    std::printf("# %-14s %10s %10s %7s %7s %10s %6s %15s %9s %6s %5s\n", "operation", "bytes",
                "ours us", "algbw", "busbw", "MPI us", "ratio", "p10..p90", "copy us", "/copy",
                "wrong");
  }

  std::string Json(const std::vector<Row>& rows) const {
    std::string text = absl::StrCat("{\"ranks\": ", region_->size(), ", \"results\": [");
    for (const Row& row : rows) {
      absl::StrAppendFormat(
          &text,
          "%s\n  {\"operation\": \"%s\", \"bytes\": %d, \"seconds_median\": %.3e, "
          "\"mpi_seconds_median\": %.3e, \"ratio_median\": %.3f, \"ratio_p10\": %.3f, "
          "\"ratio_p90\": %.3f, \"copy_seconds_median\": %.3e, \"rounds\": %d, \"wrong\": %d}",
          &row == rows.data() ? "" : ",", row.operation, row.bytes, row.ours, row.mpi, row.ratio,
          row.ratio_low, row.ratio_high, row.copy, row.rounds, row.wrong);
    }
    return text + "\n]}";
  }

 private:
  static std::vector<int> Counts(std::span<const Range> ranges) {
    std::vector<int> counts;
    for (const Range& range : ranges) counts.push_back(static_cast<int>(range.size()));
    return counts;
  }

  template <typename Work>
  static double AtOnce(Work work) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double start = Seconds();
    work();
    double seconds = Seconds() - start;
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return seconds;
  }

  void Print(const Row& row, double bus_factor) const {
    const double rate = row.bytes / row.ours / 1e9;
    const double bus = rate * bus_factor * (region_->size() - 1) / region_->size();
    std::printf("  %-14s %10ld %10.1f %7.2f %7.2f %10.1f %6.2f %7.2f..%-6.2f %9.1f %6.2f %5ld\n",
                row.operation.c_str(), static_cast<long>(row.bytes), row.ours * 1e6, rate, bus,
                row.mpi * 1e6, row.ratio, row.ratio_low, row.ratio_high, row.copy * 1e6,
                row.to_copy, static_cast<long>(row.wrong));
    std::fflush(stdout);
  }

  static float Value(int rank, int64_t i) { return static_cast<float>((rank + 1) * (i % 7 + 1)); }

  // How many elements our call gets wrong, on all ranks together.
  StatusOr<int64_t> Wrong(const Operation& operation, std::span<const Range> ranges) {
    const int ranks = region_->size(), rank = region_->rank();
    const int64_t count = ranges.back().end;
    float* const data = own_.data();
    for (int64_t i = 0; i < count; ++i) data[i] = Value(rank, i);
    RETURN_IF_ERROR(operation.ours(data, ranges));
    const Range checked = operation.name == "reduce-scatter" ? ranges[rank] : Range{0, count};
    int64_t wrong = 0;
    for (int owner = 0; owner < ranks; ++owner) {
      for (int64_t i = std::max(checked.begin, ranges[owner].begin);
           i < std::min(checked.end, ranges[owner].end); ++i) {
        const float sum = Value(0, i) * (ranks * (ranks + 1) / 2);
        wrong += data[i] != (operation.name == "all-gather" ? Value(owner, i) : sum);
      }
    }
    MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    return wrong;
  }

  // Seconds of one of `batch` calls, by the slowest rank. Each rank has just written its vector, as
  // a backward pass or an optimizer has: so no call finds what the one before has left in caches.
  template <typename Call>
  StatusOr<double> Time(int batch, float* vector, int64_t count, Call call) {
    std::fill_n(vector, count, 0.0f);
    MPI_Barrier(MPI_COMM_WORLD);
    const double start = Seconds();
    for (int i = 0; i < batch; ++i) RETURN_IF_ERROR(call());
    double seconds = (Seconds() - start) / batch;
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return seconds;
  }

  StatusOr<Row> Measure(const Operation& operation, int64_t bytes) {
    const int ranks = region_->size();
    const int64_t count = bytes / static_cast<int64_t>(sizeof(float));
    std::vector<Range> ranges;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      ranges.push_back({count * rank / ranks, count * (rank + 1) / ranks});
    }
    data_.Resize(count);
    copy_.Resize(count);
    received_.Resize(count);
    if (settings_.plain) {
      ASSIGN_OR_RETURN(own_, Buffer::Ordinary(count));
    } else {
      ASSIGN_OR_RETURN(own_, region_->Allocate(count));
    }
    Row row;
    row.operation = operation.name;
    row.bytes = bytes;
    ASSIGN_OR_RETURN(row.wrong, Wrong(operation, ranges));
    const auto ours = [&] { return operation.ours(own_.data(), ranges); };
    const auto mpi = [&]() -> Status {
      if (operation.mpi(data_.data(), ranges) == MPI_SUCCESS) return OkStatus();
      return absl::InternalError(absl::StrCat("MPI's ", operation.name, " failed"));
    };
    const auto copy = [&] {
      std::memcpy(copy_.data(), data_.data(), bytes);
      return OkStatus();
    };
    RETURN_IF_ERROR(Time(1, data_.data(), count, mpi).status());
    ASSIGN_OR_RETURN(const double first, Time(3, data_.data(), count, mpi));
    const int batch = static_cast<int>(std::clamp(kShortestBatchSeconds / first, 1.0, 50.0));
    std::vector<double> times[3], ratios, to_copy;
    for (double start = Seconds(); row.rounds < kMostRounds; ++row.rounds) {
      int enough = row.rounds >= kFewestRounds && Seconds() - start > settings_.seconds;
      MPI_Bcast(&enough, 1, MPI_INT, 0, MPI_COMM_WORLD);
      if (enough) break;
      ASSIGN_OR_RETURN(const double a, Time(batch, own_.data(), count, ours));
      ASSIGN_OR_RETURN(const double b, Time(batch, data_.data(), count, mpi));
      ASSIGN_OR_RETURN(const double c, Time(batch, data_.data(), count, copy));
      times[0].push_back(a);
      times[1].push_back(b);
      times[2].push_back(c);
      ratios.push_back(b / a);
      to_copy.push_back(a / c);
    }
    row.ours = Quantile(times[0], 0.5);
    row.mpi = Quantile(times[1], 0.5);
    row.copy = Quantile(times[2], 0.5);
    row.ratio = Quantile(ratios, 0.5);
    row.ratio_low = Quantile(ratios, 0.1);
    row.ratio_high = Quantile(ratios, 0.9);
    row.to_copy = Quantile(to_copy, 0.5);
    return row;
  }

  const Settings settings_;
  Communicator* const region_;
  std::vector<Operation> operations_;
  Vector data_, copy_, received_;
  Buffer own_;  // the region's
};

bool Parse(int argc, char** argv, Settings* settings) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view text = argv[i];
    bool good = true;
    const auto bytes = [&](int64_t* to) {
      const auto value = ParseSizeBytes(text);
      good = value.ok() && *value > 0;
      if (good) *to = *value;
    };
    if (absl::ConsumePrefix(&text, "--min=")) {
      bytes(&settings->min_bytes);
    } else if (absl::ConsumePrefix(&text, "--max=")) {
      bytes(&settings->max_bytes);
    } else if (absl::ConsumePrefix(&text, "--chunk=")) {
      bytes(&settings->mpi.chunk_bytes);
    } else if (absl::ConsumePrefix(&text, "--past-caches=")) {
      bytes(&settings->mpi.past_caches_bytes);
    } else if (absl::ConsumePrefix(&text, "--factor=")) {
      good = absl::SimpleAtoi(text, &settings->factor) && settings->factor > 1;
    } else if (absl::ConsumePrefix(&text, "--seconds=")) {
      good = absl::SimpleAtod(text, &settings->seconds) && settings->seconds >= 0;
    } else if (absl::ConsumePrefix(&text, "--pretended-hosts=")) {
      good = absl::SimpleAtoi(text, &settings->mpi.pretended_hosts) &&
             settings->mpi.pretended_hosts > 0;
    } else if (absl::ConsumePrefix(&text, "--block=")) {
      bytes(&settings->mpi.block_bytes);
    } else if (absl::ConsumePrefix(&text, "--short=")) {
      bytes(&settings->mpi.short_bytes);
    } else if (absl::ConsumePrefix(&text, "--least-shared=")) {
      bytes(&settings->mpi.least_shared_bytes);
    } else if (text == "--plain") {
      settings->plain = true;
    } else if (text == "--reach") {
      settings->mpi.always_reach = true;
    } else if (text == "--slots") {
      settings->mpi.reach_memory = false;
    } else if (text == "--messages") {
      settings->mpi.share_memory = false;
    } else if (text == "--json") {
      settings->json = true;
    } else {
      good = false;
    }
    good = good && settings->min_bytes >= 4 && settings->max_bytes <= int64_t{4} << 30;
    if (!good) {
      std::fprintf(stderr, "atoll-bench-region: cannot use '%s'\n", argv[i]);
      return false;
    }
  }
  return true;
}

int Main(int argc, char** argv) {
  InitLogging(argv[0]);
  Settings settings;
  if (!Parse(argc, argv, &settings)) return 2;
  auto environment = MpiEnvironment::Create();
  if (!environment.ok()) {
    std::fprintf(stderr, "%s\n", environment.status().ToString().c_str());
    return 1;
  }
  Status status;
  {
    auto region = MakeMpiCommunicator(settings.mpi);
    status = region.status();
    if (status.ok()) {
      Bench bench(settings, region->get());
      if (!settings.json) bench.PrintHead();
      const auto rows = bench.Run();
      status = rows.status();
      if (rows.ok() && (*region)->rank() == 0 && settings.json) {
        std::printf("%s\n", bench.Json(*rows).c_str());
      }
    }
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "atoll-bench-region: %s\n", status.ToString().c_str());
  (*environment)->Abort(1);
}

}  // namespace
}  // namespace atl

int main(int argc, char** argv) { return atl::Main(argc, argv); }
