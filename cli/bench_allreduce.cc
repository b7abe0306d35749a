// Steps: 1. bring the lab up, if one is given; 2. run the bench (cli/allreduce_bench.h); 3. compute
// the bound from the lab file alone (collectives/wan/plan/planner.h); 4. print.
#include "cli/bench_allreduce.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/exit_code.h"
#include "base/units.h"
#include "cli/allreduce_bench.h"
#include "cli/lab_links.h"
#include "collectives/wan/plan/planner.h"
#include "proto/lab_file.h"

namespace atl {
namespace {

StatusOr<Codec> ParseCodec(const std::string& name) {
  for (int value = 1; value < 256; ++value) {
    if (IsKnownCodec(static_cast<uint8_t>(value)) && name == CodecName(static_cast<Codec>(value))) {
      return static_cast<Codec>(value);
    }
  }
  return UsageError(absl::StrCat("--codec: there is no codec '", name,
                                 "'; there are fp32, bf16, fp16, int8 and int4"));
}

StatusOr<AllReduceBench> Read(const ParsedFlags& flags) {
  AllReduceBench bench;
  ASSIGN_OR_RETURN(bench.bytes, ParseSizeBytes(flags.Text("bytes")));
  if (bench.bytes % 4 != 0 || bench.bytes > int64_t{16} << 30) {
    return UsageError("--bytes: a multiple of 4 up to 16GiB");
  }
  ASSIGN_OR_RETURN(bench.codec, ParseCodec(flags.Text("codec")));
  const auto schedule = wan::ParseSchedule(flags.Text("schedule"));
  if (!schedule.ok()) {
    return UsageError(absl::StrCat("--schedule: ", schedule.status().message()));
  }
  bench.engine.schedule = *schedule;
  bench.engine.order_stable = flags.Switch("same_bits");
  bench.engine.encrypt = !flags.Switch("plain");
  bench.engine.streams = static_cast<int>(flags.Count("streams"));
  bench.regions = static_cast<int>(flags.Count("ranks"));
  bench.idle_seconds = flags.Seconds("idle");
  bench.warmup = static_cast<int>(flags.Count("warmup"));
  bench.iterations = static_cast<int>(flags.Count("iterations"));
  return bench;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

nlohmann::json LinksJson(const AllReduceBenchResult& result) {
  nlohmann::json links = nlohmann::json::array();
  for (const wan::LinkStatus& link : result.links) {
    links.push_back({{"to", link.name},
                     {"connections", link.connections},
                     {"rtt_seconds", link.rtt_seconds},
                     {"paced_bits_per_second", link.paced_rate * 8}});
  }
  return links;
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(AllReduceBench bench, Read(flags));
  std::optional<RunningLab> sea;
  std::optional<wan::Bound> bound;
  if (flags.Has("lab")) {
    ASSIGN_OR_RETURN(const Lab lab, LoadLabFile(flags.Text("lab")));
    if (lab.size() < 2) return UsageError("--lab: an all-reduce takes two regions at least");
    const bool is_up = flags.Has("lab_name");
    ASSIGN_OR_RETURN(RunningLab running,
                     is_up ? RunningLab::Attach(flags.Text("lab_name")) : RunningLab::Up(lab, {}));
    if (running.size() != lab.size()) {
      return UsageError(absl::StrCat("--lab_name: lab '", running.name(), "' has ", running.size(),
                                     " regions, --lab has ", lab.size()));
    }
    sea.emplace(std::move(running));
    bench.lab = &*sea;
    const double encoded = static_cast<double>(EncodedSize(bench.codec, bench.bytes / 4));
    bound = wan::LowerBound(LabLinks(lab), encoded);
  }
  ASSIGN_OR_RETURN(const AllReduceBenchResult result, RunAllReduceBench(bench));
  const double median = Median(result.seconds);
  const auto [least, most] = std::minmax_element(result.seconds.begin(), result.seconds.end());
  const double gigabytes = static_cast<double>(bench.bytes) / 1e9;
  nlohmann::json answer = {{"bytes", bench.bytes},
                           {"codec", CodecName(bench.codec)},
                           {"schedule", result.schedule},
                           {"encrypted", bench.engine.encrypt},
                           {"regions", bench.lab != nullptr ? bench.lab->size() : bench.regions},
                           {"seconds", result.seconds},
                           {"seconds_median", median},
                           {"seconds_min", *least},
                           {"seconds_max", *most},
                           {"join_seconds", result.join_seconds},
                           {"cpu_seconds", result.cpu_seconds},
                           {"cpu_seconds_per_gb", result.cpu_seconds / gigabytes},
                           {"wrong", result.wrong},
                           {"links", LinksJson(result)}};
  if (bound.has_value()) {
    answer["bound_seconds"] = bound->seconds;
    answer["bound_reason"] = bound->reason;
    answer["fraction_of_bound"] = bound->seconds / median;
  }
  output.Answer(answer);
  const double algorithm = gigabytes / median;
  const int n = bench.lab != nullptr ? bench.lab->size() : bench.regions;
  output.Print(absl::StrFormat("#%11s %6s %9s %10s %10s %10s %8s %8s %8s %9s %6s\n", "bytes",
                               "codec", "schedule", "min (s)", "median (s)", "max (s)",
                               "algbw GB/s", "busbw GB/s", "bound", "cpu s/GB", "wrong"));
  output.Print(
      absl::StrFormat("%12d %6s %9s %10.4f %10.4f %10.4f %8.3f %8.3f %8s %9.2f %6d\n", bench.bytes,
                      CodecName(bench.codec), result.schedule, *least, median, *most, algorithm,
                      algorithm * 2 * (n - 1) / n,
                      bound.has_value() ? absl::StrFormat("%.3f", bound->seconds / median) : "-",
                      result.cpu_seconds / gigabytes, result.wrong));
  if (bound.has_value()) {
    output.Print(absl::StrFormat("# bound %.4f s: %s\n", bound->seconds, bound->reason));
  }
  return result.wrong == 0 ? ExitCode::kDone : ExitCode::kFailed;
}

}  // namespace

Verb BenchAllReduceVerb() {
  Verb verb;
  verb.name = "bench allreduce";
  verb.command.command = "atoll bench allreduce";
  verb.command.summary = "measure the all-reduce between regions";
  verb.command.details =
      "In a lab (root; configs/lab/ has some) every region has a network namespace and the links "
      "of the file between them; without --lab the ranks meet on loopback. The bound is computed "
      "from the lab file alone: no all-reduce can be quicker.";
  verb.command.flags = {
      {"lab", FlagKind::kText, "FILE", "regions and links to emulate"},
      {"lab_name", FlagKind::kText, "NAME", "a lab of that file that is up already (wanlab up)"},
      {"ranks", FlagKind::kCount, "N", "without a lab: ranks on loopback", "2", false, 1, 64},
      {"bytes", FlagKind::kText, "SIZE", "fp32 numbers to sum", "64MiB"},
      {"codec", FlagKind::kText, "NAME", "fp32, bf16, fp16, int8 or int4", "fp32"},
      {"schedule", FlagKind::kText, "NAME", "auto, equal, direct, ring or trees", "auto"},
      {"same_bits", FlagKind::kSwitch, "", "only plans that give the same bits as each other"},
      {"idle", FlagKind::kDuration, "TIME", "rest before each operation", "0"},
      {"warmup", FlagKind::kCount, "N", "operations that are not measured", "4", false, 0, 1000},
      {"iterations", FlagKind::kCount, "N", "operations that are", "5", false, 1, 10000},
      {"streams", FlagKind::kCount, "N", "connections a pair; 0: as the links need", "0", false, 0,
       64},
      {"plain", FlagKind::kSwitch, "", "without encryption"},
      JsonFlag()};
  verb.run = Run;
  return verb;
}

}  // namespace atl
