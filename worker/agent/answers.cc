#include "worker/agent/answers.h"

#include "base/digest.h"

namespace atl {

const pb::RegionAnswer* FirstFailure(const std::vector<pb::RegionAnswer>& answers, int* rank) {
  const pb::RegionAnswer* found = nullptr;
  for (size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].error().empty() && !answers[i].interrupted()) continue;
    const bool follows = !answers[i].blames().empty() || answers[i].interrupted();
    const bool found_follows =
        found != nullptr && (!found->blames().empty() || found->interrupted());
    if (found == nullptr || (found_follows && !follows)) {
      found = &answers[i];
      *rank = static_cast<int>(i);
    }
  }
  return found;
}

StatusOr<std::string> SumOfDigests(const std::vector<pb::RegionAnswer>& answers) {
  Digest sum;
  for (const pb::RegionAnswer& answer : answers) {
    ASSIGN_OR_RETURN(const Digest digest, Digest::FromHex(answer.digest()));
    sum.Add(digest);
  }
  return sum.Hex();
}

std::vector<pb::RoundNote> NotesOf(const std::vector<pb::RegionAnswer>& answers) {
  for (const pb::RegionAnswer& answer : answers) {
    if (answer.notes_size() > 0) return {answer.notes().begin(), answer.notes().end()};
  }
  return {};
}

}  // namespace atl
