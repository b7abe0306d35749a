// SHA-256, the hash of checkpoints. The one place that knows OpenSSL here.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace atl::checkpoint {

inline constexpr char kHashName[] = "sha256";
inline constexpr size_t kHashBytes = 32;

// kHashBytes raw bytes.
std::string Sha256(absl::string_view bytes);
// 64 lower-case hexadecimal digits.
std::string Sha256Hex(absl::string_view bytes);

}  // namespace atl::checkpoint
