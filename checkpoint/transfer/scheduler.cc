#include "checkpoint/transfer/scheduler.h"

#include <limits>
#include <utility>

#include "base/log.h"
#include "checkpoint/transfer/wire.h"

namespace atl::checkpoint {
namespace {

constexpr double kMuchSooner = 1.5;
constexpr double kSoonerSeconds = 0.25;

}  // namespace

Scheduler::Scheduler(std::vector<int64_t> bytes, const std::string& done, int sources)
    : bytes_(std::move(bytes)), done_(bytes_.size()), sources_(sources) {
  for (size_t chunk = 0; chunk < bytes_.size(); ++chunk) {
    done_[chunk] = BitOf(done, static_cast<int64_t>(chunk));
    if (done_[chunk]) continue;
    ++left_;
    wanted_[0].insert(static_cast<int64_t>(chunk));
  }
}

bool Scheduler::Has(int source, int64_t chunk) const {
  const std::string& has = sources_[source].has;
  return !has.empty() && BitOf(has, chunk);
}

int Scheduler::Holders(int64_t chunk) const {
  int holders = 0;
  for (size_t source = 0; source < sources_.size(); ++source) {
    holders += Has(static_cast<int>(source), chunk) ? 1 : 0;
  }
  return holders;
}

void Scheduler::SetHas(int source, std::string has) {
  if (sources_[source].has == has) return;
  sources_[source].has = std::move(has);
  std::map<int, std::set<int64_t>> wanted;
  for (const auto& [holders, chunks] : wanted_) {
    for (const int64_t chunk : chunks) {
      std::set<int64_t>& of = wanted[Holders(chunk)];
      of.insert(of.end(), chunk);
    }
  }
  wanted_ = std::move(wanted);
}

bool Scheduler::Ready(int source, double now) const {
  return !sources_[source].has.empty() && now >= sources_[source].out_until;
}

bool Scheduler::CanGive(int source, int64_t chunk, double now) const {
  if (!Ready(source, now) || !Has(source, chunk)) return false;
  const auto wrong = wrong_.find(chunk);
  return wrong == wrong_.end() || wrong->second.count(source) == 0;
}

std::optional<int64_t> Scheduler::Take(int source, double now) {
  if (!Ready(source, now)) return std::nullopt;
  for (auto& [holders, chunks] : wanted_) {
    for (const int64_t chunk : chunks) {
      if (!CanGive(source, chunk, now)) continue;
      Ask(chunk, source, bytes_[chunk]);
      return chunk;
    }
  }
  return std::nullopt;
}

double Scheduler::SecondsToGive(int source, int64_t bytes) const {
  const double rate = sources_[source].rate;
  return rate > 0 ? static_cast<double>(bytes) / rate : std::numeric_limits<double>::infinity();
}

std::optional<Scheduler::TakeOver> Scheduler::Late(int source, double now) const {
  if (!Ready(source, now) || sources_[source].rate <= 0) return std::nullopt;
  std::optional<TakeOver> latest;
  double latest_seconds = 0;
  for (const auto& [chunk, asked] : asked_) {
    if (asked.source == source || asked.missing == 0 || !CanGive(source, chunk, now)) continue;
    // Its chunks come side by side: each is there when all are.
    const double there = SecondsToGive(asked.source, sources_[asked.source].owes);
    const double here = SecondsToGive(source, sources_[source].owes + asked.missing);
    if (there <= kMuchSooner * here + kSoonerSeconds || there <= latest_seconds) continue;
    latest = {chunk, asked.source};
    latest_seconds = there;
  }
  return latest;
}

void Scheduler::Ask(int64_t chunk, int source, int64_t missing) {
  CHECK(!done_[chunk]);
  for (auto& [holders, chunks] : wanted_) chunks.erase(chunk);
  Unask(chunk);
  asked_[chunk] = {source, missing};
  ++sources_[source].asked;
  sources_[source].owes += missing;
}

void Scheduler::SetMissing(int64_t chunk, int64_t missing) {
  const auto at = asked_.find(chunk);
  if (at == asked_.end()) return;
  sources_[at->second.source].owes += missing - at->second.missing;
  at->second.missing = missing;
}

void Scheduler::Unask(int64_t chunk) {
  const auto at = asked_.find(chunk);
  if (at == asked_.end()) return;
  Source& source = sources_[at->second.source];
  --source.asked;
  source.owes -= at->second.missing;
  asked_.erase(at);
}

void Scheduler::Want(int64_t chunk) { wanted_[Holders(chunk)].insert(chunk); }

void Scheduler::Return(int64_t chunk) {
  Unask(chunk);
  if (!done_[chunk]) Want(chunk);
}

void Scheduler::Done(int64_t chunk) {
  Unask(chunk);
  for (auto& [holders, chunks] : wanted_) chunks.erase(chunk);
  if (!done_[chunk]) --left_;
  done_[chunk] = true;
  wrong_.erase(chunk);
}

bool Scheduler::Wrong(int64_t chunk, int source, double now) {
  Return(chunk);
  wrong_[chunk].insert(source);
  Source& of = sources_[source];
  if (++of.strikes < kMaxStrikes) return false;
  of.strikes = 0;
  of.out_until = now + kOutSeconds;
  return true;
}

std::optional<int64_t> Scheduler::Hopeless() const {
  for (const auto& [chunk, wrong] : wrong_) {
    bool hope = false;
    for (size_t source = 0; source < sources_.size(); ++source) {
      hope = hope || wrong.count(static_cast<int>(source)) == 0;
    }
    if (!hope) return chunk;
  }
  return std::nullopt;
}

}  // namespace atl::checkpoint
