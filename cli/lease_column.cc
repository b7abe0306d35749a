#include "cli/lease_column.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "cli/run_directory.h"

namespace atl {
namespace {

using Json = nlohmann::json;

absl::Time TimeOf(const Json& lease, const char* member) {
  absl::Time time = absl::InfinitePast();
  const std::string text = TextOr(lease, member, "");
  if (!text.empty()) absl::ParseTime(absl::RFC3339_full, text, &time, nullptr);
  return time;
}

std::string Between(absl::Time from, absl::Time to) {
  return FormatDuration(absl::ToDoubleSeconds(to - from));
}

}  // namespace

std::string LeaseColumn(const Json& region, absl::Time now) {
  const auto lease = region.find("lease");
  if (lease == region.end() || !lease->is_object()) return "open";
  const absl::Time start = TimeOf(*lease, "start");
  const absl::Time end = TimeOf(*lease, "end");
  if (start > now) return absl::StrCat("in ", Between(now, start));
  if (end == absl::InfinitePast()) return "open";
  if (end <= now) return "over";
  std::string text = Between(now, end);
  const double last = NumberOr(*lease, "last_round", 0);
  if (last > 0) absl::StrAppendFormat(&text, ", to round %.0f", last);
  return text;
}

std::string CostLine(const Json& summary) {
  const auto cost = summary.find("cost");
  if (cost == summary.end() || !cost->is_object()) return "";
  const std::string currency = TextOr(*cost, "currency", "");
  std::string text = absl::StrFormat(" cost        %.2f%s so far", NumberOr(*cost, "so_far", 0),
                                     currency.empty() ? "" : absl::StrCat(" ", currency));
  const double at_end = NumberOr(*cost, "at_end", -1);
  if (at_end >= 0) absl::StrAppendFormat(&text, ", about %.2f until the end", at_end);
  return text + "\n";
}

}  // namespace atl
