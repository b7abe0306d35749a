// Quantities as users write them, and back: durations "30s", sizes "64MiB", counts "52.4e9", rates
// "1gbit".
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace atl {

// "250ms", "30s", "5m", "2h", "1d", "1h30m". A bare number is an error (which unit?), "0" is zero.
// Seconds.
StatusOr<double> ParseDurationSeconds(absl::string_view text);
// "512", "64KiB", "64MiB", "2GiB", "1TiB", "10kB", "5MB", "3GB": bytes. Fractions are allowed if
// the result is whole.
StatusOr<int64_t> ParseSizeBytes(absl::string_view text);
// "100", "52.4e9", "1_000_000", "10k", "1.5M", "2B" (billion), "3T": a whole number.
StatusOr<int64_t> ParseCount(absl::string_view text);
// "500kbit", "100mbit", "1gbit", "2.5gbit" (decimal): bits per second.
StatusOr<int64_t> ParseRateBitsPerSecond(absl::string_view text);

std::string FormatDuration(double seconds);      // "1h 02m", "3m 04s", "12.3 s", "45 ms"
std::string FormatBytes(double bytes);           // "14.2 GiB"
std::string FormatCount(double count);           // "11.0 M", "182 k"
std::string FormatRate(double bits_per_second);  // "2.1 Gbit/s"

}  // namespace atl
