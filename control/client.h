// A leader's end of the control plane: a ZeroMQ DEALER with CURVE that reconnects by itself and
// says how the connection stands. Thread rule: one thread, but Wake.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "control/keys.h"
#include "proto/control.pb.h"

namespace atl {

class ControlClient {
 public:
  enum class State {
    kConnecting,    // nothing heard yet
    kNobodyThere,   // connection refused, host unreachable: retried
    kKeyRejected,   // somebody is there, but the handshake failed: our lease or their key is not
                    // right
    kConnected,     // handshake done
    kDisconnected,  // was connected; retried
  };

  // `address` may be several, with commas between: those of an orchestrator and its standbys. One
  // after the other is tried until one answers. Errors: a malformed address (exit code 2).
  static StatusOr<std::unique_ptr<ControlClient>> Create(const std::string& address,
                                                         const Lease& lease);
  virtual ~ControlClient() = default;

  // The next message, waiting at most `seconds`; nothing when none came or Wake was called. Keeps
  // `state` up to date.
  virtual std::optional<pb::OrchestratorMessage> Receive(double seconds) = 0;
  // Queued while not connected (bounded; the oldest heartbeats are dropped first). Never blocks.
  virtual void Send(const pb::LeaderMessage& message) = 0;
  virtual State state() const = 0;
  // One line for users: "nobody answers at tcp://...: Connection refused".
  virtual std::string StateText() const = 0;
  // Ends a Receive under way or the next one. Async-signal-safe; any thread.
  virtual void Wake() = 0;
};

}  // namespace atl
