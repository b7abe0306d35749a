// The NCCL backend itself. Internal to the module; programs use loader.h.
#pragma once

#include <memory>
#include <string>

#include "collectives/communicator.h"

namespace atl {

// As NcclUsable in loader.h, once the module is there.
bool NcclDeviceUsable(std::string* why);

// As MakeNcclCommunicator in loader.h, once all ranks have found NCCL usable.
StatusOr<std::unique_ptr<Communicator>> ConnectNcclCommunicator(Communicator& control, int device);

}  // namespace atl
