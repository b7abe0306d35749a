// How far a long piece of work is: a bar that is repainted on a terminal, elsewhere a line now and
// then.
//
//   verify  round-000041  [##########..........]  52%  7.4 GiB of 14.2 GiB  1.4 GiB/s  5 s left
//
// Talk, on stderr. Work that is over within a second shows nothing. One thread.
#pragma once

#include <cstdint>
#include <string>

#include "cli/output.h"

namespace atl {

class Bar {
 public:
  // `what` is shown in front. `output` outlives this.
  Bar(std::string what, Output* output);
  ~Bar();
  Bar(const Bar&) = delete;
  Bar& operator=(const Bar&) = delete;

  // Bytes done so far, of all.
  void Update(int64_t done, int64_t total);

 private:
  const std::string what_;
  Output* const output_;
  const double began_;
  double shown_;
  bool painted_ = false;
};

}  // namespace atl
