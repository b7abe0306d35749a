// Values as they lie in etcd: AES-256-GCM under a key that follows from the orchestrator's secret
// key, bound to the etcd key under which they lie. Who can read etcd learns no view's key; who can
// write there cannot make a step up, nor move one.
//
//   nonce (12 bytes, random) | ciphertext | tag (16 bytes)
//
// 96-bit random nonces: with 2^32 values under one key the chance of a repetition is 2^-33.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace atl {

class ValueSealer {
 public:
  explicit ValueSealer(const std::string& secret);
  std::string Seal(absl::string_view etcd_key, absl::string_view plain) const;
  StatusOr<std::string> Open(absl::string_view etcd_key, absl::string_view sealed) const;

 private:
  std::string key_;
};

}  // namespace atl
