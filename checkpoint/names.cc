#include "checkpoint/names.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace atl::checkpoint {
namespace {

constexpr size_t kLongestPart = 200;  // with room for what we append; file systems allow 255

bool AllDigits(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

bool IsPart(absl::string_view part) {
  return !part.empty() && part.size() <= kLongestPart && part[0] != '.' &&
         std::all_of(part.begin(), part.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

}  // namespace

std::string RoundName(int64_t round) { return absl::StrFormat("round-%06d", round); }
std::string PartialName(int64_t round, const std::string& token) {
  return absl::StrCat(".", RoundName(round), ".", token, ".partial");
}
std::string RemovedName(int64_t round) { return absl::StrCat(".", RoundName(round), ".removed"); }
std::string ReplacedName(int64_t round) { return absl::StrCat(".", RoundName(round), ".replaced"); }

std::string PullName(int64_t round, const std::string& token) {
  return absl::StrCat(".", RoundName(round), ".", token, ".pull");
}

std::optional<int64_t> RoundOfName(absl::string_view name) {
  int64_t round = 0;
  absl::string_view digits = name;
  if (!absl::ConsumePrefix(&digits, "round-") || !AllDigits(digits) || digits.size() > 18 ||
      !absl::SimpleAtoi(digits, &round) || RoundName(round) != name) {
    return std::nullopt;
  }
  return round;
}

std::optional<int64_t> RoundOfReplacedName(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, ".") || !absl::ConsumeSuffix(&name, ".replaced")) {
    return std::nullopt;
  }
  return RoundOfName(name);
}

bool IsPullName(absl::string_view name) {
  return absl::StartsWith(name, ".round-") && absl::EndsWith(name, ".pull");
}

bool IsOfTransfers(absl::string_view name) {
  return name == ".transfer-key" || name == ".transfer-address" || name == ".rate-cap";
}

bool IsLeftoverName(absl::string_view name) {
  return absl::StartsWith(name, ".round-") &&
         (absl::EndsWith(name, ".partial") || absl::EndsWith(name, ".removed"));
}

bool IsFileName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (!std::all_of(parts.begin(), parts.end(), IsPart)) return false;
  if (absl::EndsWith(name, kPartSuffix)) return false;
  switch (parts.size()) {
    case 1:
      return name != kManifestName && name != kChunkFolder;
    case 2:
      return parts[0] == "outer" || parts[0] == "optim";
    case 3:
      return parts[0] == "extra";
    default:
      return false;
  }
}

bool IsSectionPrefix(absl::string_view prefix) {
  return IsFileName(prefix) && !absl::StartsWith(prefix, "extra/");
}

std::string SectionFileName(const std::string& prefix, int64_t number, int64_t count) {
  return absl::StrFormat("%s-%05d-of-%05d.safetensors", prefix, number, count);
}

bool IsFileOfSection(absl::string_view name, const std::string& prefix) {
  if (!absl::ConsumePrefix(&name, prefix) || !absl::ConsumePrefix(&name, "-") ||
      !absl::ConsumeSuffix(&name, ".safetensors")) {
    return false;
  }
  const std::vector<absl::string_view> numbers = absl::StrSplit(name, "-of-");
  return numbers.size() == 2 && AllDigits(numbers[0]) && AllDigits(numbers[1]);
}

std::string ChunkHashName(const std::string& file) {
  return absl::StrCat(kChunkFolder, "/", absl::StrReplaceAll(file, {{"/", "_"}}), ".b32");
}

}  // namespace atl::checkpoint
