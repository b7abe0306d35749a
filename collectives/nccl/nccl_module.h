// The border between the programs and the NCCL module: one function, looked up by name. Program and
// module come from one build (the version says so), so C++ types may cross.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "collectives/communicator.h"

namespace atl {

struct NcclModule {
  uint32_t version;
  // As in loader.h.
  bool (*usable)(std::string* why);
  StatusOr<std::unique_ptr<Communicator>> (*make_communicator)(Communicator& control, int device);
};

inline constexpr uint32_t kNcclModuleVersion = 1;
inline constexpr char kNcclModuleEntry[] = "atoll_nccl_entry";
using NcclModuleEntry = const NcclModule* (*)();

}  // namespace atl
