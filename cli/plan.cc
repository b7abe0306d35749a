// Steps: 1. read the lab file; 2. make the plan that was asked for, and one of every schedule to
// compare; 3. compute the bound; 4. print shares, trees, times. No traffic: all from the file.
#include "cli/plan.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/exit_code.h"
#include "base/units.h"
#include "cli/lab_links.h"
#include "collectives/wan/plan/planner.h"
#include "proto/lab_file.h"

namespace atl {
namespace {

using wan::LinkMatrix;
using wan::ScheduleKind;
using wan::Tree;
using wan::TreePlan;

// Text shows so many trees, the heaviest; --json has all.
constexpr size_t kMostTreesShown = 12;

struct Comparison {
  ScheduleKind kind = ScheduleKind::kAuto;
  Status status;  // why it is impossible
  wan::Prediction prediction;
};

struct Answer {
  LinkMatrix links;
  double bytes = 0;
  TreePlan plan;
  wan::Prediction prediction;
  wan::Bound bound;
  std::vector<Comparison> schedules;
  // 1 where nothing takes any time.
  double fraction() const {
    return prediction.seconds > 0 ? bound.seconds / prediction.seconds : 1;
  }
};

StatusOr<Answer> Plan(const ParsedFlags& flags) {
  Answer answer;
  ASSIGN_OR_RETURN(const int64_t bytes, ParseSizeBytes(flags.Text("bytes")));
  answer.bytes = static_cast<double>(bytes);
  const StatusOr<ScheduleKind> kind = wan::ParseSchedule(flags.Text("schedule"));
  if (!kind.ok()) return UsageError(absl::StrCat("--schedule: ", kind.status().message()));
  ASSIGN_OR_RETURN(const Lab lab, LoadLabFile(flags.Text("matrix")));
  answer.links = LabLinks(lab);
  StatusOr<TreePlan> plan = wan::MakePlan(answer.links, {answer.bytes, *kind});
  if (!plan.ok()) return Annotate(plan.status(), flags.Text("matrix"));
  answer.plan = *std::move(plan);
  answer.prediction = wan::Predict(answer.plan, answer.links, answer.bytes);
  answer.bound = wan::LowerBound(answer.links, answer.bytes);
  for (const ScheduleKind other :
       {ScheduleKind::kEqual, ScheduleKind::kDirect, ScheduleKind::kRing, ScheduleKind::kTrees}) {
    Comparison comparison;
    comparison.kind = other;
    const StatusOr<TreePlan> made = wan::MakePlan(answer.links, {answer.bytes, other});
    comparison.status = made.status();
    if (made.ok()) comparison.prediction = wan::Predict(*made, answer.links, answer.bytes);
    answer.schedules.push_back(std::move(comparison));
  }
  return answer;
}

// "johor(oslo lagos(delhi))": the root, and who hangs below.
std::string Nested(const LinkMatrix& links, const std::vector<int>& parents, int at) {
  std::string below;
  for (int i = 0; i < links.members(); ++i) {
    if (parents[i] != at) continue;
    absl::StrAppend(&below, below.empty() ? "" : " ", Nested(links, parents, i));
  }
  return below.empty() ? links.names[at] : absl::StrCat(links.names[at], "(", below, ")");
}

std::vector<double> Owned(const TreePlan& plan) {
  std::vector<double> owned(plan.members(), 0.0);
  for (const Tree& tree : plan.trees) owned[tree.root] += tree.weight;
  return owned;
}

nlohmann::json Json(const Answer& answer) {
  nlohmann::json shares = nlohmann::json::object();
  const std::vector<double> owned = Owned(answer.plan);
  for (size_t i = 0; i < owned.size(); ++i) shares[answer.links.names[i]] = owned[i];
  const auto parents = [&](const std::vector<int>& by_member) {
    nlohmann::json names = nlohmann::json::object();
    for (size_t i = 0; i < by_member.size(); ++i) {
      if (by_member[i] >= 0) names[answer.links.names[i]] = answer.links.names[by_member[i]];
    }
    return names;
  };
  nlohmann::json trees = nlohmann::json::array();
  for (const Tree& tree : answer.plan.trees) {
    trees.push_back({{"weight", tree.weight},
                     {"root", answer.links.names[tree.root]},
                     {"reduce_parent", parents(tree.reduce_parent)},
                     {"broadcast_parent", parents(tree.broadcast_parent)}});
  }
  nlohmann::json schedules = nlohmann::json::object();
  for (const Comparison& other : answer.schedules) {
    nlohmann::json& entry = schedules[wan::ScheduleName(other.kind)];
    if (other.status.ok()) {
      entry = {{"predicted_seconds", other.prediction.seconds},
               {"bottleneck", other.prediction.bottleneck}};
    } else {
      entry = {{"impossible", std::string(other.status.message())}};
    }
  }
  return {{"bytes", answer.bytes},
          {"schedule", wan::ScheduleName(answer.plan.kind)},
          {"same_bits", wan::IsOrderStable(answer.plan)},
          {"predicted_seconds", answer.prediction.seconds},
          {"bottleneck", answer.prediction.bottleneck},
          {"throughput_bytes_per_second", answer.plan.throughput},
          {"latency_seconds", answer.plan.latency},
          {"chunk_bytes", answer.plan.chunk_bytes},
          {"bound_seconds", answer.bound.seconds},
          {"bound_reason", answer.bound.reason},
          {"fraction_of_bound", answer.fraction()},
          {"shares", shares},
          {"trees", trees},
          {"schedules", schedules}};
}

std::string Summary(const Answer& answer) {
  const TreePlan& plan = answer.plan;
  return absl::StrCat(
      absl::StrFormat("%-10s %s, %d %s, chunks of %s%s\n", "plan", wan::ScheduleName(plan.kind),
                      plan.trees.size(), plan.trees.size() == 1 ? "tree" : "trees",
                      FormatBytes(static_cast<double>(plan.chunk_bytes)),
                      wan::IsOrderStable(plan) ? ", order-stable" : ""),
      absl::StrFormat("%-10s %.4f s for %s; limit: %s\n", "predicted", answer.prediction.seconds,
                      FormatBytes(answer.bytes), answer.prediction.bottleneck),
      absl::StrFormat("%-10s %.4f s: %s\n", "bound", answer.bound.seconds, answer.bound.reason),
      absl::StrFormat("%-10s %.1f%% of the bound\n", "", 100 * answer.fraction()));
}

std::string Shares(const Answer& answer) {
  const TreePlan& plan = answer.plan;
  const std::vector<double> owned = Owned(plan);
  const std::vector<double> loads = wan::EdgeLoads(plan);
  const int n = plan.members();
  size_t width = 8;
  for (const std::string& name : answer.links.names) width = std::max(width, name.size());
  const int columns = static_cast<int>(width);
  std::string text =
      absl::StrFormat("\n%-*s  owns    sends   receives, bytes a byte\n", columns, "region");
  for (int i = 0; i < n; ++i) {
    double sends = 0;
    double receives = 0;
    for (int j = 0; j < n; ++j) {
      sends += loads[i * n + j];
      receives += loads[j * n + i];
    }
    absl::StrAppendFormat(&text, "%-*s  %5.1f%%  %6.3f  %6.3f\n", columns, answer.links.names[i],
                          100 * owned[i], sends, receives);
  }
  return text;
}

std::string Trees(const Answer& answer) {
  std::vector<const Tree*> heaviest;
  for (const Tree& tree : answer.plan.trees) heaviest.push_back(&tree);
  std::stable_sort(heaviest.begin(), heaviest.end(),
                   [](const Tree* a, const Tree* b) { return a->weight > b->weight; });
  std::string text = "\nshare   tree: who sends to whom, and what comes back\n";
  for (size_t t = 0; t < std::min(heaviest.size(), kMostTreesShown); ++t) {
    const Tree& tree = *heaviest[t];
    const std::string up = Nested(answer.links, tree.reduce_parent, tree.root);
    const std::string down = Nested(answer.links, tree.broadcast_parent, tree.root);
    absl::StrAppendFormat(&text, "%5.1f%%  %s%s\n", 100 * tree.weight, up,
                          up == down ? "" : absl::StrCat(", back by ", down));
  }
  if (heaviest.size() > kMostTreesShown) {
    absl::StrAppendFormat(&text, "        and %d smaller ones (--json has all)\n",
                          heaviest.size() - kMostTreesShown);
  }
  return text;
}

std::string Why(const Answer& answer) {
  std::string text = "\nschedule  predicted\n";
  for (const Comparison& other : answer.schedules) {
    const char* name = wan::ScheduleName(other.kind);
    if (other.status.ok()) {
      absl::StrAppendFormat(&text, "%-8s  %.4f s; limit: %s\n", name, other.prediction.seconds,
                            other.prediction.bottleneck);
    } else {
      absl::StrAppendFormat(&text, "%-8s  impossible: %s\n", name, other.status.message());
    }
  }
  return text;
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(const Answer answer, Plan(flags));
  output.Answer(Json(answer));
  output.Print(absl::StrCat(Summary(answer), Shares(answer), Trees(answer), Why(answer)));
  return ExitCode::kDone;
}

}  // namespace

Verb PlanLinksVerb() {
  return {
      "plan links",
      {.command = "atoll plan links",
       .arguments = "",
       .summary = "say how regions would reduce a vector over given links, and why",
       .details = "Reads a lab file (docs/formats/lab.md) and sends nothing. Rates in it are on "
                  "the wire; 1448 bytes of 1500 carry the vector. docs/wan-planning.md "
                  "explains the plan, the prediction and the bound.",
       .flags = {{.name = "matrix",
                  .kind = FlagKind::kText,
                  .placeholder = "FILE",
                  .help = "regions and the links between them",
                  .required = true},
                 {.name = "bytes",
                  .kind = FlagKind::kText,
                  .placeholder = "SIZE",
                  .help = "the vector, as it travels",
                  .default_value = "64MiB"},
                 {.name = "schedule",
                  .kind = FlagKind::kText,
                  .placeholder = "NAME",
                  .help = "auto, equal, direct, ring or trees",
                  .default_value = "auto"},
                 JsonFlag()}},
      Run};
}

}  // namespace atl
