#include "collectives/wan/plan/link_matrix.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl::wan {

LinkMatrix::LinkMatrix(int members) {
  CHECK_GE(members, 0);
  const double unlimited = std::numeric_limits<double>::infinity();
  for (int i = 0; i < members; ++i) names.push_back(absl::StrCat("member ", i));
  up.assign(members, unlimited);
  down.assign(members, unlimited);
  const size_t pairs = static_cast<size_t>(members) * members;
  rates.assign(pairs, unlimited);
  delays.assign(pairs, 0.0);
}

}  // namespace atl::wan
