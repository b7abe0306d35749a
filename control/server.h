// The orchestrator's end of the control plane: a ZeroMQ ROUTER with CURVE. A message's sender is
// known by its key, never by what it claims. Strangers fail in the handshake; bytes that are no
// LeaderMessage are counted and dropped. Thread rule: one thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "control/keys.h"
#include "proto/control.pb.h"

namespace atl {

inline constexpr uint32_t kControlProtocol = 1;
inline constexpr int64_t kMaxControlMessageBytes = 4 << 20;

class ControlServer {
 public:
  struct Options {
    std::string listen;  // "tcp://127.0.0.1:0"; port 0 or '*' takes a free one
    KeyPair keys;
    std::map<std::string, std::string> regions;  // lease public key -> region
  };
  struct Incoming {
    std::string region;
    pb::LeaderMessage message;
  };

  // A port in use, or an address that is not this host's, is an error with exit code 4 that names
  // it.
  static StatusOr<std::unique_ptr<ControlServer>> Create(const Options& options);
  virtual ~ControlServer() = default;

  // The bound address, "tcp://127.0.0.1:45123".
  virtual std::string address() const = 0;
  // The next message, waiting at most `seconds`; nothing when none came, or when `Wake` was called.
  virtual std::optional<Incoming> Receive(double seconds) = 0;
  // To the connection from which the region last spoke. Dropped if it never did; never blocks.
  virtual void Send(const std::string& region, const pb::OrchestratorMessage& message) = 0;
  // Ends a Receive under way or the next one. Async-signal-safe; any thread.
  virtual void Wake() = 0;
  // Ends all connections and listens no more; Receive then only waits. For an orchestrator that may
  // not be the one that leads: its regions must be free to find another.
  virtual void Close() = 0;
  // Listens again, at the same address. Fails while another program has it.
  virtual Status Reopen() = 0;
  virtual bool open() const = 0;
  virtual int64_t rejected_messages() const = 0;
};

}  // namespace atl
