// SHA-256, the hash of checkpoints. The one place that knows OpenSSL here.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace atl::checkpoint {

inline constexpr char kHashName[] = "sha256";
inline constexpr size_t kHashBytes = 32;

// kHashBytes raw bytes.
std::string Sha256(absl::string_view bytes);
// 64 lower-case hexadecimal digits.
std::string Sha256Hex(absl::string_view bytes);

// A hash of bytes that come piece by piece, some of them in another process: its state can be taken
// out and put in again. One thread.
class Sha256Stream {
 public:
  static constexpr size_t kStateBytes = 32 + 8 + 64;

  Sha256Stream();
  ~Sha256Stream();
  Sha256Stream(Sha256Stream&&) noexcept;
  Sha256Stream& operator=(Sha256Stream&&) noexcept;

  void Update(const void* bytes, size_t size);
  // kHashBytes raw bytes; then it is used up.
  std::string Finish();

  // kStateBytes: the chaining value, the number of bytes so far, and those of them that do not fill
  // a block yet; numbers in this machine's order.
  std::string State() const;
  static StatusOr<Sha256Stream> FromState(absl::string_view state);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace atl::checkpoint
