#include "cli/verb.h"

namespace atl {

FlagSpec JsonFlag() {
  return {.name = "json",
          .kind = FlagKind::kSwitch,
          .placeholder = "",
          .help = "print the answer, or the error, as one JSON object on stdout"};
}

FlagSpec SetFlag() {
  return {.name = "set",
          .kind = FlagKind::kList,
          .placeholder = "KEY=VALUE",
          .help = "override a key of the job file: --set train.rounds=12"};
}

}  // namespace atl
