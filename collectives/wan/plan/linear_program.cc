#include "collectives/wan/plan/linear_program.h"

#include <glpk.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl::wan {
namespace {

// GLPK counts from 1, and leaves out element 0.
struct Sparse {
  std::vector<int> at = {0};
  std::vector<double> times = {0};
  Sparse(const LinearProgram::Entries& entries, int count) {
    for (const auto& [index, value] : entries) {
      CHECK(index >= 0 && index < count) << index;
      at.push_back(index + 1);
      times.push_back(value);
    }
  }
  int size() const { return static_cast<int>(at.size()) - 1; }
};

// GLPK makes an environment for each thread that uses it, and leaves it to the thread.
struct Environment {
  void Use() { used = true; }
  ~Environment() {
    if (used) glp_free_env();
  }
  bool used = false;
};
thread_local Environment environment;

}  // namespace

struct LinearProgram::Problem {
  glp_prob* glpk = glp_create_prob();
  bool rows_are_new = false;
  ~Problem() { glp_delete_prob(glpk); }
  int rows() const { return glp_get_num_rows(glpk); }
  int columns() const { return glp_get_num_cols(glpk); }
};

LinearProgram::LinearProgram() : problem_(std::make_unique<Problem>()) {
  environment.Use();
  glp_term_out(GLP_OFF);
  glp_set_obj_dir(problem_->glpk, GLP_MAX);
}

LinearProgram::~LinearProgram() = default;

int LinearProgram::AddColumn(double gain, const Entries& rows) {
  const Sparse sparse(rows, problem_->rows());
  const int column = glp_add_cols(problem_->glpk, 1);
  glp_set_mat_col(problem_->glpk, column, sparse.size(), sparse.at.data(), sparse.times.data());
  glp_set_obj_coef(problem_->glpk, column, gain);
  glp_set_col_bnds(problem_->glpk, column, GLP_LO, 0, 0);
  return column - 1;
}

int LinearProgram::AddRow(double limit, const Entries& columns) {
  CHECK(std::isfinite(limit) && limit >= 0) << limit;
  const Sparse sparse(columns, problem_->columns());
  const int row = glp_add_rows(problem_->glpk, 1);
  glp_set_mat_row(problem_->glpk, row, sparse.size(), sparse.at.data(), sparse.times.data());
  glp_set_row_bnds(problem_->glpk, row, GLP_UP, 0, limit);
  problem_->rows_are_new = true;
  return row - 1;
}

void LinearProgram::Allow(int column, bool allowed) {
  CHECK(column >= 0 && column < problem_->columns()) << column;
  glp_set_col_bnds(problem_->glpk, column + 1, allowed ? GLP_LO : GLP_FX, 0, 0);
}

Status LinearProgram::Solve() {
  glp_smcp parameters;
  glp_init_smcp(&parameters);
  parameters.msg_lev = GLP_MSG_OFF;
  // GLP_DUALP goes on with the primal one where the dual one does not apply.
  parameters.meth = problem_->rows_are_new ? GLP_DUALP : GLP_PRIMAL;
  // Where many optima lie side by side a bounded number of steps, far above what is usual.
  parameters.it_lim = 200000;
  int failure = glp_simplex(problem_->glpk, &parameters);
  if (failure == GLP_EBADB || failure == GLP_ESING || failure == GLP_ECOND ||
      failure == GLP_EFAIL) {
    // The last basis does not do as a start any more: begin afresh.
    glp_std_basis(problem_->glpk);
    parameters.meth = GLP_PRIMAL;
    failure = glp_simplex(problem_->glpk, &parameters);
  }
  problem_->rows_are_new = false;
  const int status = glp_get_status(problem_->glpk);
  if (failure != 0 || status != GLP_OPT) {
    return absl::InternalError(absl::StrCat("linear program of ", problem_->rows(), " rows and ",
                                            problem_->columns(), " columns: no optimum (GLPK code ",
                                            failure, ", status ", status, ")"));
  }
  return OkStatus();
}

double LinearProgram::value() const { return glp_get_obj_val(problem_->glpk); }

double LinearProgram::x(int column) const {
  return std::max(0.0, glp_get_col_prim(problem_->glpk, column + 1));
}

double LinearProgram::price(int row) const {
  return std::max(0.0, glp_get_row_dual(problem_->glpk, row + 1));
}

}  // namespace atl::wan
