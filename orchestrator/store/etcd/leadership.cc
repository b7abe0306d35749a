#include "orchestrator/store/etcd/leadership.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"

namespace atl {
namespace {

constexpr double kLookSeconds = 0.25;
constexpr double kCallSeconds = 1;
// For the first answer of etcd: settings that are wrong are found at the beginning.
constexpr double kFirstAnswerSeconds = 5;
// A leader that was killed is gone after its lease and what etcd adds.
constexpr double kGoneSeconds = 4;

double Now() { return Clock::Real()->MonotonicSeconds(); }

std::string WhoLeads(const std::string& description) {
  const auto json = nlohmann::json::parse(description, nullptr, false);
  const auto host = json.find("host"), pid = json.find("pid");
  if (!json.is_object() || host == json.end() || !host->is_string() || pid == json.end() ||
      !pid->is_number_integer()) {
    return "another orchestrator";
  }
  return absl::StrCat("the orchestrator on ", host->get_ref<const std::string&>(), " (pid ",
                      pid->get<int64_t>(), ")");
}

// One try to lead. `comparisons`: what must hold beside that nobody does.
class Candidate {
 public:
  Candidate(EtcdClient* client, const Leadership::Options& options)
      : client_(client),
        options_(options),
        key_(absl::StrCat(options.place.prefix, "/leader")),
        term_key_(absl::StrCat(options.place.prefix, "/term")) {}

  int64_t lease = 0;
  double until = 0;
  std::string leader;  // who else leads; empty: the comparisons failed

  // The new term; 0: refused.
  StatusOr<int64_t> Try(const std::vector<EtcdCompare>& comparisons) {
    leader.clear();
    ASSIGN_OR_RETURN(const auto seen, client_->Range(key_, "", 1, /*local=*/true));
    if (!seen.empty() && (lease == 0 || seen[0].lease != lease)) {
      leader = seen[0].value;
      return 0;
    }
    if (lease == 0) {
      until = Now() + static_cast<double>(options_.ttl_seconds);
      ASSIGN_OR_RETURN(lease, client_->Grant(options_.ttl_seconds));
    }
    std::vector<EtcdCompare> all = comparisons;
    all.push_back(EtcdCompare::Absent(key_));
    const auto taken = client_->Txn(all,
                                    {EtcdOperation::Put(key_, options_.description, lease),
                                     EtcdOperation::Put(term_key_, options_.description)},
                                    {EtcdOperation::Get(key_)});
    // The lease ran out meanwhile: another one, next time.
    if (absl::IsNotFound(taken.status())) {
      lease = 0;
      return WithExitCode(absl::UnavailableError(taken.status().message()), ExitCode::kEnvironment);
    }
    RETURN_IF_ERROR(taken.status());
    if (taken->succeeded) return taken->revision;
    if (taken->fetched.empty()) return 0;
    // An earlier try of this process whose answer did not come.
    if (taken->fetched[0].lease == lease) return taken->fetched[0].create_revision;
    leader = taken->fetched[0].value;
    return 0;
  }

 private:
  EtcdClient* const client_;
  const Leadership::Options& options_;
  const std::string key_;
  const std::string term_key_;
};

}  // namespace

StatusOr<std::unique_ptr<Leadership>> Leadership::Campaign(const Options& options) {
  EtcdClient client(options.place, kCallSeconds);
  Candidate candidate(&client, options);
  const double began = Now();
  bool answered = false;
  bool told_away = false;
  std::string told_leader;
  while (true) {
    if (options.cancelled && options.cancelled()) {
      return absl::CancelledError("told to stop while waiting to lead");
    }
    const StatusOr<int64_t> revision = candidate.Try({});
    if (revision.ok() && *revision > 0) {
      return std::unique_ptr<Leadership>(
          new Leadership(options, candidate.lease, *revision, candidate.until));
    }
    const double waited = Now() - began;
    if (revision.ok()) {
      answered = true;
      told_away = false;
      if (!options.wait && waited > static_cast<double>(options.ttl_seconds) + kGoneSeconds) {
        return EnvironmentError(absl::StrCat(
            WhoLeads(candidate.leader), " leads the job in etcd at ", options.place.ToString(),
            ": stop it, or start this one with --standby to wait for its end"));
      }
      if (options.say && told_leader != candidate.leader) {
        told_leader = candidate.leader;
        options.say(absl::StrCat(WhoLeads(candidate.leader), " leads; waiting for its end"));
      }
    } else if (!answered &&
               (!absl::IsUnavailable(revision.status()) || waited > kFirstAnswerSeconds)) {
      return Annotate(revision.status(), "--store");
    } else if (options.say && !told_away) {
      told_away = true;
      options.say(absl::StrCat("waiting for etcd: ", revision.status().message()));
    }
    Clock::Real()->SleepFor(absl::Seconds(kLookSeconds));
  }
}

Leadership::Leadership(const Options& options, int64_t lease, int64_t term, double until)
    : options_(options),
      key_(absl::StrCat(options.place.prefix, "/leader")),
      term_key_(absl::StrCat(options.place.prefix, "/term")),
      lease_(lease),
      term_(term),
      until_(until),
      thread_([this] { KeepAlive(); }) {}

Leadership::~Leadership() {
  {
    MutexLock lock(&mutex_);
    ending_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
  if (deposed_.load()) return;
  EtcdClient client(options_.place, kCallSeconds);
  client.Revoke(lease_.load()).IgnoreError();  // else it runs out
}

StepLog::Standing Leadership::standing() const {
  if (deposed_.load()) return StepLog::Standing::kDeposed;
  return Now() < until_.load() ? StepLog::Standing::kLeading : StepLog::Standing::kUnsure;
}

Status Leadership::Verify(EtcdClient* client) {
  MutexLock lock(&verifying_);
  if (deposed_.load()) return OkStatus();
  ASSIGN_OR_RETURN(const auto seen, client->Range(key_, "", 1));
  if (seen.empty()) return TakeAgain(client);
  if (seen[0].create_revision == term_.load()) return OkStatus();
  if (lease_of_try_ != 0 && seen[0].lease == lease_of_try_) {
    Adopt(lease_of_try_, seen[0].create_revision, 0);
    return OkStatus();
  }
  deposed_.store(true);
  return OkStatus();
}

Status Leadership::TakeAgain(EtcdClient* client) {
  Candidate candidate(client, options_);
  candidate.lease = lease_of_try_;
  const StatusOr<int64_t> term = candidate.Try({EtcdCompare::Changed(term_key_, term_.load())});
  lease_of_try_ = candidate.lease;
  RETURN_IF_ERROR(term.status());
  if (*term == 0) {
    deposed_.store(true);
  } else {
    Adopt(candidate.lease, *term, candidate.until);
  }
  return OkStatus();
}

void Leadership::Adopt(int64_t lease, int64_t term, double until) {
  LOG(WARNING) << "the lease in etcd had run out; nobody else led meanwhile, and it is taken again";
  lease_.store(lease);
  term_.store(term);
  until_.store(until);
}

void Leadership::KeepAlive() {
  EtcdClient client(options_.place, kCallSeconds);
  const double pause = static_cast<double>(options_.ttl_seconds) / 3;
  double next = Now() + pause;
  while (!deposed_.load()) {
    {
      MutexLock lock(&mutex_);
      while (!ending_ && Now() < next) changed_.WaitFor(&mutex_, next - Now());
      if (ending_) return;
    }
    const double sent = Now();
    const int64_t lease = lease_.load();
    const StatusOr<int64_t> left = client.KeepAlive(lease);
    const bool gone = absl::IsNotFound(left.status()) || (left.ok() && *left <= 0);
    next = Now() + (left.ok() && !gone ? pause : kLookSeconds);
    if (gone) {
      const Status verified = Verify(&client);
      if (!verified.ok()) VLOG(1) << verified;
    } else if (left.ok() && lease == lease_.load()) {
      until_.store(sent + static_cast<double>(*left));
    }
  }
}

}  // namespace atl
