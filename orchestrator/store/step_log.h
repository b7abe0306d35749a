// A log of the core's steps outside of this host, written by one orchestrator at a time: what lets
// a standby on another host go on. The store (store.h) writes each step there before it commits it
// to its own database, which is then a copy.
//
// Contract:
//   L1. A step is in the log as a whole or not at all, after those before it.
//   L2. Once another orchestrator leads, this one's steps are refused for ever (fencing).
//   L3. Append returns OK only when the step is there. While the log is out of reach it waits.
// One thread, but `standing`.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "orchestrator/core/records.h"

namespace atl {

class StepLog {
 public:
  enum class Standing {
    kLeading,  // nobody else can write
    kUnsure,   // the log has been out of reach for so long that somebody else may lead
    kDeposed,  // somebody else leads, or has led: this process must end
  };
  // Asked while the log is out of reach: why, for how long. False: give up.
  using OnWait = std::function<bool(const Status& why, double seconds)>;

  virtual ~StepLog() = default;

  // Where it is, for messages.
  virtual std::string name() const = 0;
  // An image of the store's database after the first steps; nothing: the log begins with step 0.
  virtual StatusOr<std::optional<std::string>> ReadImage() = 0;
  // The steps after the image, in order. Before the first Append.
  virtual Status ReadSteps(
      const std::function<Status(const std::vector<Record>& records)>& use) = 0;
  // Errors: deposed (kAborted); given up (the reason).
  virtual Status Append(const std::vector<Record>& records) = 0;
  // The steps since the image are many; WriteImage with all of them in it makes them superfluous.
  virtual bool WantsImage() const = 0;
  virtual Status WriteImage(const std::string& image) = 0;
  virtual Standing standing() const = 0;
  virtual void set_on_wait(OnWait on_wait) = 0;
};

}  // namespace atl
