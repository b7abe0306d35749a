#include "cli/launcher.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace atl {
namespace {

struct Rule {
  const char* name;
  std::vector<const char*> needed;  // variables that must all be there for the rule to match
  const char* rank;                 // nullptr: this launcher tells no rank
  const char* world_size;           // nullptr: nor the number of ranks
};

const std::vector<Rule>& Rules() {
  static const std::vector<Rule>* const rules = new std::vector<Rule>{
      {"atoll", {"ATOLL_RANK"}, "ATOLL_RANK", "ATOLL_WORLD_SIZE"},
      {"torchrun", {"TORCHELASTIC_RUN_ID"}, "RANK", "WORLD_SIZE"},
      {"open-mpi", {"OMPI_COMM_WORLD_RANK"}, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
      {"slurm", {"SLURM_PROCID", "SLURM_STEP_ID"}, "SLURM_PROCID", "SLURM_NTASKS"},
      {"pmix", {"PMIX_RANK"}, "PMIX_RANK", nullptr},
      {"pmi", {"PMI_RANK"}, "PMI_RANK", "PMI_SIZE"},
      {"plain", {"RANK"}, "RANK", "WORLD_SIZE"},
      {"kubernetes", {"KUBERNETES_SERVICE_HOST"}, nullptr, nullptr}};
  return *rules;
}

StatusOr<int64_t> Number(const EnvironmentLookup& lookup, const Rule& rule, const char* variable) {
  const auto text = lookup(variable);
  if (!text) {
    return UsageError(absl::StrCat("the environment of ", rule.name, " lacks ", variable));
  }
  int64_t number = 0;
  if (!absl::SimpleAtoi(*text, &number) || number < 0) {
    return UsageError(absl::StrCat(variable, "='", *text, "' is not a number"));
  }
  return number;
}

bool Matches(const Rule& rule, const EnvironmentLookup& lookup) {
  for (const char* variable : rule.needed) {
    if (!lookup(variable)) return false;
  }
  return true;
}

StatusOr<Launcher> Read(const Rule& rule, const EnvironmentLookup& lookup) {
  Launcher launcher;
  launcher.name = rule.name;
  std::vector<const char*> variables = rule.needed;
  if (rule.rank != nullptr) {
    ASSIGN_OR_RETURN(launcher.rank, Number(lookup, rule, rule.rank));
    if (rule.needed[0] != std::string(rule.rank)) variables.push_back(rule.rank);
  }
  if (rule.world_size != nullptr) {
    ASSIGN_OR_RETURN(launcher.world_size, Number(lookup, rule, rule.world_size));
    variables.push_back(rule.world_size);
    if (*launcher.rank >= *launcher.world_size) {
      return UsageError(absl::StrCat(rule.rank, "=", *launcher.rank, " is outside ",
                                     rule.world_size, "=", *launcher.world_size));
    }
  }
  for (const char* variable : variables) {
    launcher.found.emplace_back(variable, lookup(variable).value_or(""));
  }
  return launcher;
}

}  // namespace

StatusOr<Launcher> DetectLauncher(const EnvironmentLookup& lookup) {
  std::optional<Launcher> chosen;
  for (const Rule& rule : Rules()) {
    if (!Matches(rule, lookup)) continue;
    ASSIGN_OR_RETURN(Launcher launcher, Read(rule, lookup));
    if (!chosen) {
      chosen = std::move(launcher);
      // Only what ATOLL_* says is compared with the launcher beneath; others may nest.
      if (chosen->name != "atoll") break;
      continue;
    }
    if (launcher.rank && *launcher.rank != *chosen->rank) {
      return UsageError(absl::StrCat("ATOLL_RANK=", *chosen->rank, " contradicts ", launcher.name,
                                     ", which says rank ", *launcher.rank, "; unset ATOLL_RANK"));
    }
    if (launcher.world_size && *launcher.world_size != *chosen->world_size) {
      return UsageError(absl::StrCat("ATOLL_WORLD_SIZE=", *chosen->world_size, " contradicts ",
                                     launcher.name, ", which says ", *launcher.world_size,
                                     "; unset ATOLL_WORLD_SIZE"));
    }
    break;
  }
  if (chosen) return *std::move(chosen);
  return Launcher{"none", std::nullopt, std::nullopt, {}};
}

}  // namespace atl
