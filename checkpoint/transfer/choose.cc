#include "checkpoint/transfer/choose.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

constexpr size_t kToldDigits = 16;

std::string Told(absl::string_view hash) {
  return absl::BytesToHexString(hash).substr(0, kToldDigits);
}

std::string WhatThereIs(const std::vector<SourceOffers>& sources) {
  std::vector<std::string> lines;
  for (const SourceOffers& source : sources) {
    std::vector<std::string> rounds;
    for (const Offer& offer : source.offers) {
      rounds.push_back(absl::StrCat(offer.round, offer.complete ? "" : " (not whole yet)",
                                    " manifest ", Told(offer.manifest_hash)));
    }
    lines.push_back(absl::StrCat(source.name,
                                 rounds.empty() ? " has no checkpoint" : " has rounds ",
                                 absl::StrJoin(rounds, ", ")));
  }
  return absl::StrJoin(lines, "; ");
}

StatusOr<Choice> ByHash(const std::vector<SourceOffers>& sources, std::optional<int64_t> round,
                        const std::string& hash) {
  struct Way {
    std::string Offer::*field;
    const char* vouched;
  };
  const Way ways[] = {{&Offer::manifest_hash, "the hash that was given, of the whole manifest"},
                      {&Offer::root, "the hash that was given, of all files"},
                      {&Offer::replicated_root,
                       "the hash that was given, of the files that are equal in all regions; "
                       "nobody vouches for the "
                       "region's own files"}};
  for (const Way& way : ways) {
    for (const SourceOffers& source : sources) {
      for (const Offer& offer : source.offers) {
        if (offer.*way.field != hash || (round && offer.round != *round)) continue;
        return Choice{offer, way.vouched};
      }
    }
  }
  return UsageError(absl::StrCat("no source has a checkpoint with the hash ", Told(hash), "...",
                                 round ? absl::StrCat(" of round ", *round) : "", ": ",
                                 WhatThereIs(sources)));
}

}  // namespace

StatusOr<Choice> Choose(const std::vector<SourceOffers>& sources, std::optional<int64_t> round,
                        const std::string& root) {
  if (!root.empty()) {
    if (root.size() != 2 * kHashBytes ||
        !std::all_of(root.begin(), root.end(), absl::ascii_isxdigit)) {
      return UsageError(absl::StrCat("'", root.substr(0, 100),
                                     "' is no hash: 64 hexadecimal "
                                     "digits, as `atoll checkpoint show` tells them"));
    }
    return ByHash(sources, round, absl::HexStringToBytes(root));
  }
  std::optional<int64_t> newest = round;
  for (const SourceOffers& source : sources) {
    for (const Offer& offer : source.offers) {
      if (!round && offer.complete) newest = std::max(newest.value_or(offer.round), offer.round);
    }
  }
  std::map<std::string, std::vector<std::string>> says;  // replicated root -> sources
  std::map<std::string, int> have;                       // manifest -> sources
  std::optional<Offer> best;
  for (const SourceOffers& source : sources) {
    for (const Offer& offer : source.offers) {
      if (!newest || offer.round != *newest) continue;
      says[offer.replicated_root].push_back(source.name);
      ++have[offer.manifest_hash];
    }
  }
  if (says.empty()) {
    return UsageError(absl::StrCat("nobody has ",
                                   round ? absl::StrCat("round ", *round) : "a whole checkpoint",
                                   ": ", WhatThereIs(sources)));
  }
  if (says.size() > 1) {
    std::vector<std::string> sides;
    for (const auto& [hash, names] : says) {
      sides.push_back(
          absl::StrCat(absl::StrJoin(names, " and "), ": ", absl::BytesToHexString(hash)));
    }
    return WithExitCode(absl::DataLossError(absl::StrCat(
                            "the sources disagree about round ", *newest,
                            ", so one of them is wrong; name the "
                            "right one with --root. Roots of what should be equal everywhere: ",
                            absl::StrJoin(sides, "; "))),
                        ExitCode::kUsage);
  }
  for (const SourceOffers& source : sources) {
    for (const Offer& offer : source.offers) {
      if (offer.round != *newest) continue;
      if (!best || have[offer.manifest_hash] > have[best->manifest_hash]) best = offer;
    }
  }
  const std::set<std::string> who(says.begin()->second.begin(), says.begin()->second.end());
  return Choice{*best,
                who.size() == 1
                    ? absl::StrCat("nobody but ", *who.begin(), " itself: no hash was given")
                    : absl::StrCat("that ", absl::StrJoin(who, ", "), " agree: no hash was given")};
}

}  // namespace atl::checkpoint
