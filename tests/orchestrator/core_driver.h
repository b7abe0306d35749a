// Drives a Core in tests: feeds it messages, keeps what it said, and shows a step as text:
//   event waiting: since 00:16:40 UTC waiting for ...
//   job starting
//   round 1 loss 2.5 digest d1
//   -> a view 1 from round 1 sample 0 share 4
//   end done 0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "orchestrator/core/core.h"

namespace atl {

inline constexpr uint32_t kTestProtocol = 1;

class CoreDriver {
 public:
  explicit CoreDriver(pb::Job job, History history = {});
  // Regions a, b, c, ...; 4 samples a step, 2 inner steps, `rounds` rounds, no lanes given.
  static pb::Job TestJob(int regions, int64_t rounds = 3);

  // Each returns the step as text.
  std::string Start();
  std::string Hello(const std::string& region, const std::string& attempt = "1", int workers = 1);
  std::string Ready(const std::string& region,
                    const std::vector<pb::CheckpointOnDisk>& checkpoints = {});
  std::string Round(const std::string& region, int64_t round, const std::string& digest = "");
  std::string Evaluation(const std::string& region, int64_t round, double loss_sum, int64_t tokens);
  std::string Checkpoint(const std::string& region, int64_t round, const std::string& failure = "");
  std::string Fault(const std::string& region, const std::string& what, int exit_code = 1,
                    const std::string& blames = "");
  std::string Left(const std::string& region, int64_t round, int exit_code,
                   bool never_entered = false);
  std::string Fenced(const std::string& region, int64_t id, int64_t round);
  std::string Suspect(const std::string& region, const std::string& whom, int64_t round, bool gone);
  // It hears nothing of `whom` for so long; below 0: it hears it again.
  std::string Silent(const std::string& region, const std::string& whom, int64_t round,
                     double seconds);
  std::string Heartbeat(const std::string& region);
  std::string Message(const std::string& region, pb::LeaderMessage message);
  // Numbered, as a report of the region's present start.
  std::string Send(const std::string& region, pb::LeaderMessage message);
  std::string Stop();
  std::string Advance(double seconds);  // then a tick
  // Hello and Ready of every region.
  std::string AllReady(const std::vector<pb::CheckpointOnDisk>& checkpoints = {});
  std::string AllRound(int64_t round);

  // A report of the right samples in the view that went out last.
  pb::LeaderMessage RoundReport(const std::string& region, int64_t round,
                                const std::string& digest = "");
  pb::Ready ReadyMessage(const std::string& region) const;

  Core& core() { return core_; }
  double now() const { return now_; }
  const pb::View& view(const std::string& region) const { return views_.at(region); }
  const std::vector<Record>& records() const { return records_; }
  const std::optional<Ended>& ended() const { return ended_; }
  const std::vector<std::string>& names() const { return names_; }
  const std::optional<double>& wake_at() const { return wake_at_; }
  std::string Take(Actions actions);
  // Numbers of the reports acknowledged so far.
  const std::map<std::string, std::vector<uint64_t>>& acknowledged() const { return acked_; }

  bool survives = false;  // what Ready says

 private:
  pb::Job job_;
  std::vector<std::string> names_;
  Core core_;
  double now_ = 1000;
  std::map<std::string, uint64_t> sequence_;
  std::map<std::string, int> workers_;
  std::map<std::string, std::string> attempts_;
  std::map<std::string, pb::View> views_;
  std::map<std::string, std::vector<uint64_t>> acked_;
  std::vector<Record> records_;
  std::optional<Ended> ended_;
  std::optional<double> wake_at_;
};

pb::CheckpointOnDisk CheckpointAt(int64_t round, const std::string& path = "", bool own = true);

}  // namespace atl
