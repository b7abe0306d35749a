#include "base/units.h"

#include <charconv>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace atl {
namespace {

constexpr double kLargestExact = 9007199254740992.0;  // 2^53

Status Bad(absl::string_view text, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not ", what));
}

// Splits "1.5M" into 1.5 and "M". The number has no sign; the unit is what follows it, without
// blanks.
bool SplitNumber(absl::string_view text, double* number, absl::string_view* unit) {
  text = absl::StripAsciiWhitespace(text);
  const char* begin = text.data();
  const char* end = begin + text.size();
  if (begin == end || !(absl::ascii_isdigit(*begin) || *begin == '.')) return false;
  auto result = std::from_chars(begin, end, *number);
  if (result.ec != std::errc()) return false;
  *unit = absl::StripAsciiWhitespace(absl::string_view(result.ptr, end - result.ptr));
  return std::isfinite(*number);
}

using Units = std::vector<std::pair<absl::string_view, double>>;

bool FindUnit(const Units& units, absl::string_view unit, double* factor) {
  for (const auto& [name, value] : units) {
    if (name == unit) {
      *factor = value;
      return true;
    }
  }
  return false;
}

StatusOr<int64_t> WholeNumber(absl::string_view text, const Units& units, const char* what) {
  double number = 0, factor = 0;
  absl::string_view unit;
  if (!SplitNumber(text, &number, &unit) || !FindUnit(units, unit, &factor)) return Bad(text, what);
  const double value = number * factor;
  const double rounded = std::round(value);
  if (value > kLargestExact || std::abs(value - rounded) > 1e-6 * std::max(1.0, value))
    return Bad(text, what);
  if (factor == 1 && value != rounded) return Bad(text, what);
  return static_cast<int64_t>(rounded);
}

}  // namespace

StatusOr<double> ParseDurationSeconds(absl::string_view text) {
  static const Units* const units = new Units{{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1},
                                              {"m", 60},    {"h", 3600},  {"d", 86400}};
  constexpr char kWhat[] = "a duration such as 250ms, 30s, 5m, 2h or 1h30m";
  absl::string_view rest = absl::StripAsciiWhitespace(text);
  if (rest == "0") return 0.0;
  double total = 0;
  bool any = false;
  while (!rest.empty()) {
    double number = 0, factor = 0;
    absl::string_view unit;
    if (!SplitNumber(rest, &number, &unit)) return Bad(text, kWhat);
    size_t length = 0;
    while (length < unit.size() && absl::ascii_isalpha(unit[length])) ++length;
    if (!FindUnit(*units, unit.substr(0, length), &factor)) return Bad(text, kWhat);
    total += number * factor;
    rest = absl::StripLeadingAsciiWhitespace(unit.substr(length));
    any = true;
  }
  if (!any || total > 1e11) return Bad(text, kWhat);
  return total;
}

StatusOr<int64_t> ParseSizeBytes(absl::string_view text) {
  static const Units* const units = new Units{{"", 1},
                                              {"B", 1},
                                              {"kB", 1e3},
                                              {"KB", 1e3},
                                              {"MB", 1e6},
                                              {"GB", 1e9},
                                              {"TB", 1e12},
                                              {"KiB", 1024},
                                              {"MiB", 1048576.0},
                                              {"GiB", 1073741824.0},
                                              {"TiB", 1099511627776.0}};
  return WholeNumber(text, *units, "a size such as 4096, 64MiB, 2GiB or 5GB");
}

StatusOr<int64_t> ParseCount(absl::string_view text) {
  static const Units* const units =
      new Units{{"", 1}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"B", 1e9}, {"T", 1e12}};
  const std::string plain = absl::StrReplaceAll(text, {{"_", ""}});
  auto count = WholeNumber(plain, *units, "a whole number such as 100, 52.4e9 or 10M");
  if (!count.ok()) return Bad(text, "a whole number such as 100, 52.4e9 or 10M");
  return count;
}

StatusOr<int64_t> ParseRateBitsPerSecond(absl::string_view text) {
  static const Units* const units =
      new Units{{"bit", 1}, {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"tbit", 1e12}};
  return WholeNumber(absl::AsciiStrToLower(text), *units, "a rate such as 100mbit or 2.5gbit");
}

std::string FormatDuration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "unknown";
  if (seconds < 0.9995) return absl::StrFormat("%.0f ms", seconds * 1e3);
  if (seconds < 99.95) return absl::StrFormat("%.1f s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return absl::StrFormat("%dm %02ds", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%dh %02dm", whole / 3600, whole % 3600 / 60);
  return absl::StrFormat("%dd %02dh", whole / 86400, whole % 86400 / 3600);
}

namespace {
std::string Scaled(double value, double base, const std::vector<const char*>& names) {
  size_t index = 0;
  while (value >= base * 0.99995 && index + 1 < names.size()) {
    value /= base;
    ++index;
  }
  const int digits = index == 0 ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return absl::StrFormat("%.*f%s%s", digits, value, *names[index] ? " " : "", names[index]);
}
}  // namespace

std::string FormatBytes(double bytes) {
  return Scaled(bytes, 1024, {"B", "KiB", "MiB", "GiB", "TiB", "PiB"});
}
std::string FormatCount(double count) { return Scaled(count, 1000, {"", "k", "M", "B", "T"}); }
std::string FormatRate(double bits_per_second) {
  return Scaled(bits_per_second, 1000, {"bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"});
}

}  // namespace atl
