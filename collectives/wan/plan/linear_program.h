// A packing linear program that grows: maximise the sum of gain x, subject to a sum of times x
// within each row's limit, x at least 0. The one place that knows GLPK.
//
// Solve() starts where the last one ended: after new columns with the primal simplex, after new
// rows with the dual one, so that little change costs few steps. Numbers should be near 1: callers
// scale. Thread rule: one program, one thread; programs of several threads do not meet (GLPK keeps
// its environment a thread).
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/status.h"

namespace atl::wan {

class LinearProgram {
 public:
  using Entries = std::vector<std::pair<int, double>>;  // (row or column, times above 0), each once

  LinearProgram();
  ~LinearProgram();
  LinearProgram(const LinearProgram&) = delete;
  LinearProgram& operator=(const LinearProgram&) = delete;

  // A variable, and the rows that it counts in. Returns its number, from 0.
  int AddColumn(double gain, const Entries& rows = {});
  // A limit (finite, not negative) for the sum over these columns. Returns its number, from 0.
  int AddRow(double limit, const Entries& columns);
  // A column that is not allowed stays 0.
  void Allow(int column, bool allowed);

  // kInternal: GLPK found no optimum (a column that no row limits is unbounded), with its reason.
  Status Solve();

  // After Solve().
  double value() const;
  double x(int column) const;
  // The dual: what a unit more of the row's limit would gain; at least 0.
  double price(int row) const;

 private:
  struct Problem;
  std::unique_ptr<Problem> problem_;
};

}  // namespace atl::wan
