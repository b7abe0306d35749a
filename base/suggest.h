// "Did you mean ...": the nearest of some names to what a user typed.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace atl {

// Edit distance between `a` and `b`: insertions, deletions, changes, and swaps of two neighbours,
// each 1 (optimal string alignment). Letters of another case count as changed. O(|a| |b|) time;
// both are cut to 128 bytes, since no name here is longer.
int EditDistance(absl::string_view a, absl::string_view b);

// The name nearest to `typed`, ignoring case and taking '-' for '_', if it is near enough to be
// meant: at most a third of the longer of the two is wrong, or one is the beginning of the other.
// Empty if none is. The first of equally near ones wins.
std::string Nearest(absl::string_view typed, const std::vector<std::string>& names);

// "; did you mean 'x'?" or "".
std::string DidYouMean(absl::string_view typed, const std::vector<std::string>& names);

}  // namespace atl
