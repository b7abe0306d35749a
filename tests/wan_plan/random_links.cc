#include "tests/wan_plan/random_links.h"

#include "tests/wan_plan/draws.h"

namespace atl::wan {

const char* KindName(LinksKind kind) {
  switch (kind) {
    case LinksKind::kLines:
      return "lines";
    case LinksKind::kUnevenLines:
      return "uneven lines";
    case LinksKind::kPairs:
      return "pairs";
    case LinksKind::kUnevenPairs:
      return "uneven pairs";
    case LinksKind::kLinesAndPairs:
      return "lines and pairs";
  }
  return "unknown";
}

LinkMatrix RandomLinks(LinksKind kind, int members, uint64_t seed) {
  Draws draws(DeriveSeed(seed, KindName(kind)));
  LinkMatrix links(members);
  const bool lines = kind != LinksKind::kPairs && kind != LinksKind::kUnevenPairs;
  const bool pairs = kind != LinksKind::kLines && kind != LinksKind::kUnevenLines;
  for (int i = 0; i < members && lines; ++i) {
    links.up[i] = draws.LogUniform(10, 1000) * kMbit;
    links.down[i] =
        kind == LinksKind::kUnevenLines ? draws.LogUniform(10, 1000) * kMbit : links.up[i];
  }
  for (int i = 0; i < members; ++i) {
    for (int j = 0; j < i; ++j) {
      links.delay(i, j) = links.delay(j, i) = draws.Uniform(0.005, 0.125);
      if (!pairs || (kind == LinksKind::kLinesAndPairs && draws.Chance(1.0 / 3))) continue;
      links.rate(i, j) = draws.LogUniform(10, 1000) * kMbit;
      links.rate(j, i) =
          kind == LinksKind::kUnevenPairs ? draws.LogUniform(10, 1000) * kMbit : links.rate(i, j);
    }
  }
  return links;
}

}  // namespace atl::wan
