#include "orchestrator/store/summary.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/time/time.h"
#include "orchestrator/store/details.h"
#include "orchestrator/store/lease_json.h"
#include "proto/lease_terms.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

Json PhasesToJson(const pb::PhaseSeconds& phases) {
  return {{"idle", phases.idle()},      {"compute", phases.compute()},
          {"encode", phases.encode()},  {"wan", phases.wan()},
          {"wait", phases.wait()},      {"checkpoint", phases.checkpoint()},
          {"restart", phases.restart()}};
}

double SumOf(const pb::PhaseSeconds& phases) {
  return phases.idle() + phases.compute() + phases.encode() + phases.wan() + phases.wait() +
         phases.checkpoint() + phases.restart();
}

Json NumberOrNull(double number) {
  return std::isfinite(number) && number > 0 ? Json(number) : Json(nullptr);
}

Json LinksToJson(const std::vector<pb::WanLink>& links) {
  Json json = Json::array();
  for (const pb::WanLink& link : links) {
    json.push_back(
        {{"region", link.region()},
         {"connections", link.connections()},
         {"bytes_sent", link.bytes_sent()},
         {"up_bytes_per_second", NumberOrNull(link.up_rate())},
         {"rtt_seconds", NumberOrNull(link.rtt_seconds())},
         {"retransmitted", std::isfinite(link.retransmitted()) ? link.retransmitted() : 0},
         {"silent_seconds", std::isfinite(link.silent_seconds()) ? link.silent_seconds() : 0}});
  }
  return json;
}

Json TimeOrNull(double time) { return time > 0 ? Json(TimeToText(time)) : Json(nullptr); }

}  // namespace

std::string TimeToText(double time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::UnixEpoch() + absl::Seconds(time),
                          absl::UTCTimeZone());
}

std::string RoundToJson(const RoundRecord& round) {
  return Dump(Json{{"round", round.round},
                   {"train_loss", round.train_loss},
                   {"tokens", round.tokens},
                   {"digest", round.digest},
                   {"seconds", round.seconds},
                   {"wan_seconds", round.wan_seconds},
                   {"time", TimeToText(round.time)},
                   {"tokens_total", round.tokens_total},
                   {"gradient_norm", round.gradient_norm},
                   {"learning_rate", round.learning_rate},
                   {"wan_bytes_sent", round.wan_bytes_sent},
                   {"view", round.view}},
              -1);
}

std::string EventToJson(const EventRecord& event) {
  Json json{{"number", event.number}, {"time", TimeToText(event.time)}, {"kind", event.kind}};
  if (!event.region.empty()) json["region"] = event.region;
  if (event.round >= 0) json["round"] = event.round;
  json["text"] = event.text;
  json["details"] = Json::parse(DetailsToJson(event.details));
  return Dump(json, -1);
}

StatusOr<Summary> Summary::Load(Store& store) {
  Summary summary;
  ASSIGN_OR_RETURN(summary.job_, store.Job());
  ASSIGN_OR_RETURN(std::vector<RegionRecord> regions, store.Regions());
  for (RegionRecord& region : regions) summary.regions_[region.name] = std::move(region);
  ASSIGN_OR_RETURN(summary.totals_, store.Totals());
  RETURN_IF_ERROR(store.ForEachRound([&](const RoundRecord& round) {
    if (!summary.first_round_) summary.first_round_ = round;
    summary.last_round_ = round;
  }));
  RETURN_IF_ERROR(store.ForEachEvent([&](const EventRecord& event) { summary.Take(event); }));
  ASSIGN_OR_RETURN(const std::vector<Store::Evaluation> evaluations, store.Evaluations());
  if (!evaluations.empty()) {
    summary.first_evaluation_ = evaluations.front();
    summary.last_evaluation_ = evaluations.back();
  }
  ASSIGN_OR_RETURN(summary.last_checkpoint_, store.LastCheckpoint());
  return summary;
}

void Summary::Take(const Record& record) {
  if (const auto* job = std::get_if<JobRecord>(&record)) {
    job_ = *job;
  } else if (const auto* region = std::get_if<RegionRecord>(&record)) {
    regions_[region->name] = *region;
  } else if (const auto* round = std::get_if<RoundRecord>(&record)) {
    if (!first_round_) first_round_ = *round;
    last_round_ = *round;
  } else if (const auto* sample = std::get_if<SampleRecord>(&record)) {
    const std::pair key(sample->round, sample->region);
    if (sample->state == SampleState::kDone && sample->report) {
      reported_[key] = {sample->report->tokens(), sample->report->wan_bytes_sent()};
    } else if (sample->state != SampleState::kAssigned) {
      const auto found = reported_.find(key);
      if (found == reported_.end()) return;
      if (sample->state == SampleState::kCommitted) {
        totals_[sample->region].tokens += found->second.tokens;
        totals_[sample->region].wan_bytes_sent += found->second.wan_bytes_sent;
      }
      reported_.erase(found);
    }
  } else if (const auto* evaluation = std::get_if<EvaluationRecord>(&record)) {
    if (!evaluation->region.empty() || evaluation->tokens == 0) return;
    last_evaluation_ = {evaluation->round,
                        evaluation->loss_sum / static_cast<double>(evaluation->tokens)};
    if (!first_evaluation_) first_evaluation_ = last_evaluation_;
  } else if (const auto* event = std::get_if<EventRecord>(&record)) {
    TakeEvent(*event);
  } else if (const auto* checkpoint = std::get_if<CheckpointRecord>(&record)) {
    if (checkpoint->complete) {
      last_checkpoint_ = std::max(last_checkpoint_, checkpoint->checkpoint.round());
    }
  }
}

void Summary::TakeEvent(const EventRecord& event) {
  if (event.kind == "region_hello") first_heard_.emplace(event.region, event.time);
  if (event.kind == "checkpoint_differs" && event.round >= differing_round_) {
    if (event.round > differing_round_) differing_.clear(), decided_ = false;
    differing_round_ = event.round;
    differing_.insert(event.region);
  }
  if (event.round != differing_round_) return;
  if (event.kind == "checkpoint_mended") differing_.erase(event.region);
  if (event.kind == "checkpoint_decided") {
    if (!std::exchange(decided_, true)) differing_.clear();
    differing_.insert(event.region);
  }
}

std::string Summary::ToJson(double now) const {
  const JobRecord job = job_.value_or(JobRecord());
  int64_t wan_bytes_sent = 0;
  double compute = 0;
  double seconds = 0;
  Json regions = Json::array();
  const int64_t job_steps = InnerSteps(job.job);
  LeaseCost cost;
  std::string currency;
  bool priced = false;
  const double until = job.ended > 0 ? job.ended : now;
  for (const pb::Region& listed : job.job.regions()) {
    const auto found = regions_.find(listed.name());
    RegionRecord region = found != regions_.end() ? found->second : RegionRecord();
    const auto sums = totals_.find(listed.name());
    const Store::RegionTotals totals = sums != totals_.end() ? sums->second : Store::RegionTotals();
    compute += region.phases.compute();
    seconds += SumOf(region.phases);
    if (region.digest.empty()) region.digest = job.resumed_digest;
    const auto heard = first_heard_.find(listed.name());
    const double first_heard = heard != first_heard_.end() ? heard->second : 0;
    const LeaseTerms terms = TermsOf(listed.lease());
    const LeaseCost one = CostOf(listed.lease(), region, first_heard, until);
    priced = priced || terms.price > 0;
    if (terms.price > 0) currency = terms.currency;
    cost.so_far += one.so_far, cost.at_end += one.at_end;
    cost.at_end_known = cost.at_end_known && one.at_end_known;
    regions.push_back({{"name", listed.name()},
                       {"workers", region.workers},
                       {"digest", region.digest},
                       {"tokens", totals.tokens},
                       {"state", region.state},
                       {"why", region.why},
                       {"since", TimeOrNull(region.since)},
                       {"heard", TimeOrNull(region.heard)},
                       {"round", region.round},
                       {"doing", region.doing},
                       {"inner_steps", region.inner_steps > 0 ? region.inner_steps : job_steps},
                       {"host", region.host},
                       {"accelerator", region.accelerator},
                       {"wan_bytes_sent", totals.wan_bytes_sent},
                       {"lease", LeaseToJson(listed.lease(), region, first_heard, until)},
                       {"links", LinksToJson(region.links)},
                       {"phases", PhasesToJson(region.phases)}});
  }
  // Regions of former runs took part as well.
  for (const auto& [name, totals] : totals_) wan_bytes_sent += totals.wan_bytes_sent;
  const int64_t round = last_round_ ? last_round_->round : 0;
  const bool resumed_later = job.resumed_from > round;
  const auto or_null = [](bool there, auto value) { return there ? Json(value) : Json(nullptr); };
  const Json costs{{"so_far", cost.so_far},
                   {"at_end", or_null(cost.at_end_known, cost.at_end)},
                   {"currency", or_null(!currency.empty(), currency)}};
  return Dump(
      Json{{"job", job.job.name()},
           {"state", job.state},
           {"reason", job.reason},
           {"exit_code", or_null(job.ended > 0, job.exit_code)},
           {"since", TimeOrNull(job.since)},
           {"rounds_committed", std::max(round, job.resumed_from)},
           {"rounds_total", job.job.train().rounds()},
           {"tokens", last_round_ && !resumed_later
                          ? last_round_->tokens_total
                          : job.resumed_sample * job.job.data().sequence_length()},
           {"train_loss_first",
            or_null(first_round_.has_value(), first_round_ ? first_round_->train_loss : 0)},
           {"train_loss_last",
            or_null(last_round_.has_value(), last_round_ ? last_round_->train_loss : 0)},
           {"validation_loss_first", or_null(first_evaluation_.has_value(),
                                             first_evaluation_ ? first_evaluation_->loss : 0)},
           {"validation_loss",
            or_null(last_evaluation_.has_value(), last_evaluation_ ? last_evaluation_->loss : 0)},
           {"validation_round",
            or_null(last_evaluation_.has_value(), last_evaluation_ ? last_evaluation_->round : 0)},
           {"digest", last_round_ && !resumed_later ? last_round_->digest : job.resumed_digest},
           {"regions", std::move(regions)},
           {"cost", priced ? costs : Json(nullptr)},
           {"wan_bytes_sent", wan_bytes_sent},
           {"compute_utilization", seconds > 0 ? compute / seconds : 0.0},
           {"wall_seconds", job.first_view > 0 ? std::max(0.0, until - job.first_view) : 0.0},
           {"run", job.run},
           {"resumed_from", or_null(job.resumed_from > 0, job.resumed_from)},
           {"last_checkpoint", or_null(last_checkpoint_ > 0, last_checkpoint_)},
           {"last_checkpoint_differs_in",
            differing_round_ == last_checkpoint_ ? differing_ : std::set<std::string>()},
           {"parameters", job.parameters},
           {"seed", job.job.seed()},
           {"method", job.job.sync().method() == pb::Sync::EVERY_STEP ? "every_step" : "diloco"},
           {"started", TimeOrNull(job.started)},
           {"ended", TimeOrNull(job.ended)},
           {"updated", TimeToText(now)}},
      2);
}

}  // namespace atl
