// The module's only exported function.
#include "collectives/nccl/nccl_communicator.h"
#include "collectives/nccl/nccl_module.h"

extern "C" __attribute__((visibility("default"))) const atl::NcclModule* atoll_nccl_entry() {
  static constexpr atl::NcclModule kModule = {atl::kNcclModuleVersion, atl::NcclDeviceUsable,
                                              atl::ConnectNcclCommunicator};
  return &kModule;
}
