// How fast one core encodes, decodes and adds: each codec and level of instructions beside memcpy.
//
// atoll-bench-codec [--kib=256] [--kib=65536] [--repeats=15] [--json]
// A line for each level, codec and size of the vector (KiB of floats; 256 is a chunk of the WAN
// engine, in the cache; 65536 comes from memory). Speeds are GB of floats a CPU second, which other
// programs on the machine disturb less than the wall clock: the median of the repeats, each of at
// least 5 ms.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/random.h"
#include "collectives/codec/codec.h"
#include "collectives/codec/error_feedback.h"

namespace atl {
namespace {

struct Settings {
  std::vector<int> kib;
  int repeats = 15;
  bool json = false;
};

bool Parse(int argc, char** argv, Settings* settings) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view text = argv[i];
    bool good = false;
    int kib = 0;
    if (text == "--json") {
      good = settings->json = true;
    } else if (absl::ConsumePrefix(&text, "--kib=")) {
      good = absl::SimpleAtoi(text, &kib) && kib >= 1 && kib <= 1 << 22;
      settings->kib.push_back(kib);
    } else if (absl::ConsumePrefix(&text, "--repeats=")) {
      good = absl::SimpleAtoi(text, &settings->repeats) && settings->repeats >= 1;
    }
    if (!good) {
      std::fprintf(stderr, "atoll-bench-codec: cannot use '%s'\n", argv[i]);
      return false;
    }
  }
  if (settings->kib.empty()) settings->kib = {256, 65536};
  return true;
}

// GB of floats a CPU second, each call of `work` being `count` floats.
double Speed(const Settings& settings, size_t count, const std::function<void()>& work) {
  const auto seconds = [&](int calls) {
    const std::clock_t began = std::clock();
    for (int i = 0; i < calls; ++i) work();
    return static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
  };
  int calls = 1;
  while (seconds(calls) < 5e-3) calls *= 2;
  std::vector<double> each;
  for (int repeat = 0; repeat < settings.repeats; ++repeat) each.push_back(seconds(calls) / calls);
  std::nth_element(each.begin(), each.begin() + each.size() / 2, each.end());
  return static_cast<double>(count) * 4e-9 / each[each.size() / 2];
}

struct Line {
  std::string level, codec;
  int kib = 0;
  double bytes_ratio = 0;  // encoded bytes an fp32 byte
  double encode = 0, decode = 0, decode_add = 0, feedback = 0;
};

Line Measure(const Settings& settings, Simd level, Codec codec, int kib) {
  const size_t count = static_cast<size_t>(kib) << 8;
  const CounterRandom random(1);
  std::vector<float> values(count), out(count, 0.0f);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(random.Normal(i % 4096));
  std::vector<uint8_t> bytes(EncodedSize(codec, count));
  Line line = {SimdName(level), CodecName(codec), kib};
  line.bytes_ratio = static_cast<double>(bytes.size()) / (4.0 * static_cast<double>(count));
  line.encode = Speed(settings, count, [&] { Encode(codec, values, bytes.data()); });
  line.decode = Speed(settings, count, [&] { Decode(codec, bytes.data(), out); });
  line.decode_add = Speed(settings, count, [&] { DecodeAdd(codec, bytes.data(), out); });
  std::fill(out.begin(), out.end(), 0.0f);
  line.feedback =
      Speed(settings, count, [&] { EncodeWithFeedback(codec, values, out, bytes.data()); });
  return line;
}

// The yardsticks: a copy, and the sum of two vectors at the widest level.
Line Copies(const Settings& settings, int kib) {
  const size_t count = static_cast<size_t>(kib) << 8;
  std::vector<float> values(count, 1.0f), out(count, 0.0f);
  Line line = {"memcpy", "none", kib, 1.0};
  line.encode = Speed(settings, count, [&] {
    std::memcpy(out.data(), values.data(), 4 * count);
    asm volatile("" : : "r"(out.data()) : "memory");
  });
  line.decode_add = Speed(settings, count, [&] { Add(values, out); });
  return line;
}

void Print(const Settings& settings, const std::vector<Line>& lines) {
  if (settings.json) {
    std::vector<std::string> objects;
    for (const Line& line : lines) {
      objects.push_back(absl::StrCat(
          "{\"level\": \"", line.level, "\", \"codec\": \"", line.codec, "\", \"kib\": ", line.kib,
          ", \"bytes_ratio\": ", line.bytes_ratio, ", \"encode_gb_s\": ", line.encode,
          ", \"decode_gb_s\": ", line.decode, ", \"decode_add_gb_s\": ", line.decode_add,
          ", \"feedback_gb_s\": ", line.feedback, "}"));
    }
    std::printf("[%s]\n", absl::StrJoin(objects, ",\n ").c_str());
    return;
  }
  std::printf("GB of floats a CPU second; memcpy: the copy, and as decode+add out += in\n");
  std::printf("%8s %6s %6s %6s %9s %9s %11s %9s\n", "KiB", "level", "codec", "ratio", "encode",
              "decode", "decode+add", "feedback");
  for (const Line& line : lines) {
    std::printf("%8d %6s %6s %6.3f %9.2f %9.2f %11.2f %9.2f\n", line.kib, line.level.c_str(),
                line.codec.c_str(), line.bytes_ratio, line.encode, line.decode, line.decode_add,
                line.feedback);
  }
}

void Run(const Settings& settings) {
  std::vector<Line> lines;
  const Simd widest = ActiveSimd();
  for (const int kib : settings.kib) {
    ForceSimd(widest);
    lines.push_back(Copies(settings, kib));
    for (const Simd level : kAllSimd) {
      if (!ForceSimd(level)) continue;
      for (const Codec codec : kAllCodecs) lines.push_back(Measure(settings, level, codec, kib));
    }
  }
  Print(settings, lines);
}

}  // namespace
}  // namespace atl

int main(int argc, char** argv) {
  atl::Settings settings;
  if (!atl::Parse(argc, argv, &settings)) return 2;
  atl::Run(settings);
  return 0;
}
