// Which checkpoint a pull takes, of those that its sources offer (pure).
//
// 1. With a hash (--root): the offer whose manifest, whose root or whose replicated root it is. The
//    first two vouch for every byte of every file; the last for all but the files of a region
//    alone.
// 2. Without one: the round that was asked for, else the newest that anybody offers whole. All
//    sources that have the round must name the same replicated root, else nothing is taken: only
//    the user can say who is right. Among the manifests of that round the one that most sources
//    have is taken (regions differ in what is theirs alone).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/transfer/wire.h"

namespace atl::checkpoint {

struct SourceOffers {
  std::string name;  // of the source, for messages
  std::vector<Offer> offers;
};

struct Choice {
  Offer offer;
  // Who says that it is the right one, as a user is told.
  std::string vouched;
};

// `root`: 64 hexadecimal digits, or empty. Errors have exit code 2 and tell what there is.
StatusOr<Choice> Choose(const std::vector<SourceOffers>& sources, std::optional<int64_t> round,
                        const std::string& root);

}  // namespace atl::checkpoint
