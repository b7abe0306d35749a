#include "base/suggest.h"

#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace atl {
namespace {

constexpr size_t kLongestName = 128;

std::string Normal(absl::string_view name) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(name.substr(0, kLongestName)), {{"-", "_"}});
}

}  // namespace

int EditDistance(absl::string_view a, absl::string_view b) {
  a = a.substr(0, kLongestName);
  b = b.substr(0, kLongestName);
  // Three rows of the usual table: two back (for swaps), the previous and the current one.
  std::vector<int> before(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int changed = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, changed});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        current[j] = std::min(current[j], before[j - 2] + 1);
      }
    }
    std::swap(before, previous);
    std::swap(previous, current);
  }
  return previous[b.size()];
}

std::string Nearest(absl::string_view typed, const std::vector<std::string>& names) {
  const std::string wanted = Normal(typed);
  if (wanted.empty()) return "";
  const std::string* best = nullptr;
  int best_distance = std::numeric_limits<int>::max();
  for (const std::string& name : names) {
    const std::string candidate = Normal(name);
    const int distance = EditDistance(wanted, candidate);
    const int longer = static_cast<int>(std::max(wanted.size(), candidate.size()));
    const size_t shorter = std::min(wanted.size(), candidate.size());
    const bool begins = shorter >= 3 && (absl::StartsWith(candidate, wanted) ||
                                         absl::StartsWith(wanted, candidate));
    if (distance > std::max(1, longer / 3) && !begins) continue;
    if (distance < longer && distance < best_distance) {
      best = &name;
      best_distance = distance;
    }
  }
  return best == nullptr ? "" : *best;
}

std::string DidYouMean(absl::string_view typed, const std::vector<std::string>& names) {
  const std::string nearest = Nearest(typed, names);
  return nearest.empty() ? "" : absl::StrCat("; did you mean '", nearest, "'?");
}

}  // namespace atl
