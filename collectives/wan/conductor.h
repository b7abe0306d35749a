// The hub of a group (group.h) decides on its plan: collects what members see of their links, asks
// for a probe at the start, and has plans made. Pure but for the plan-making, which a callback does
// elsewhere (it may take a while).
//
// 1. Standing: every member reports that its links stand, with their round trips. Where all are
//    short, equal shares without pacing do: nobody probes or reports.
// 2. Probing: everybody sends to everybody for a few round trips and reports what was acknowledged.
// 3. Steady: a report from each member after each operation feeds the LinkModel; when a plan made
//    from it is better, or the rates have moved, it becomes the candidate that the hub announces
//    with its next operation.
//
// Thread rule: the I/O thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "collectives/wan/frame.h"
#include "collectives/wan/plan/link_model.h"
#include "collectives/wan/plan/planner.h"

namespace atl::wan {

// MakePlan, but of kAuto deeper trees only where they are predicted to be well ahead of stars: what
// is believed of single pairs is less certain than what is believed of lines, and stars lean on it
// least. May take a while; any thread.
StatusOr<TreePlan> MakeSoundPlan(const LinkMatrix& links, const PlanRequest& request);

class Conductor {
 public:
  struct Hooks {
    std::function<void(double seconds)> probe;  // ask every member for a probe
    // Make a plan and give it to OnPlanned.
    std::function<void(const LinkMatrix& links, const PlanRequest& request)> solve;
    std::function<void(const NumberedPlan& plan)> first_plan;  // tell every member
    std::function<void(int member, const NumberedPlan& plan)> tell;
  };

  // Plans are numbered from `first_version` on, so that another conductor's are told apart.
  Conductor(std::vector<std::string> names, ScheduleKind kind, bool order_stable,
            uint32_t first_version, Hooks hooks, std::vector<bool> callable = {});

  // What is known of these links from a view before: no probe then. Before the first report.
  void Remember(const LinkModel& former);
  const LinkModel& model() const { return model_; }

  // A member's gateway has begun anew, before any operation: it will report that its links stand.
  void Restarted(int member);
  // After an operation its number comes along: not every member ends every operation well.
  void OnReport(int member, std::vector<LinkReport> reports, uint64_t operation = 0);
  void OnPlanned(StatusOr<TreePlan> plan);
  // An operation of so many encoded bytes has begun; later plans are made for such.
  void OnBegin(double bytes) { bytes_ = bytes; }
  // The plan that is to follow the current one, once.
  std::optional<NumberedPlan> TakeCandidate();
  const LinkMatrix& links() const { return model_.matrix(); }

 private:
  enum class Phase { kStanding, kProbing, kSteady };

  // Equal shares, owned by those whom all can reach.
  TreePlan EvenPlan() const;
  bool Possible(const TreePlan& plan) const;
  void OnSteadyReport(int member, std::vector<LinkReport> reports, uint64_t operation);
  void Advance(std::vector<LinkReport> reports);
  void AfterStanding(const std::vector<LinkReport>& reports);
  void Solve();
  NumberedPlan Numbered(TreePlan plan);

  const std::vector<std::string> names_;
  const ScheduleKind kind_;
  const bool order_stable_;
  const Hooks hooks_;
  const std::vector<bool> callable_;  // by member; pairs of which neither is have no connection
  Phase phase_ = Phase::kStanding;
  LinkModel model_;
  std::vector<std::deque<std::vector<LinkReport>>> waiting_;  // by member
  std::vector<std::vector<LinkReport>> standing_;             // by member
  // By operation, by member: what has come, until all are here.
  std::map<uint64_t, std::map<int, std::vector<LinkReport>>> steady_;
  double bytes_ = 64 << 20;
  uint32_t version_;
  int observed_ = 0;  // rounds of reports: the probe, operations
  bool solving_ = false;
  bool again_ = false;  // the model has moved on since
  bool fast_ = false;   // nobody paces
  bool known_ = false;  // the links were known at the start
  NumberedPlan announced_;
  NumberedPlan current_;  // the same, or the candidate
  std::set<int> untold_;  // members that began anew after the first plan
  std::optional<NumberedPlan> candidate_;
};

}  // namespace atl::wan
