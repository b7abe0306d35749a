#include "collectives/nccl/loader.h"

#include <dlfcn.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "collectives/agreement.h"
#include "collectives/nccl/nccl_module.h"

namespace atl {
namespace {

constexpr char kFileName[] = "libatoll_nccl.so";

StatusOr<const NcclModule*> Load() {
  const std::string directory = ExecutableDirectory();
  const std::string candidates[] = {absl::StrCat(directory, "/../lib/", kFileName),
                                    absl::StrCat(directory, "/", kFileName)};
  for (const std::string& path : candidates) {
    if (access(path.c_str(), R_OK) != 0) continue;
    // Never closed: CUDA and NCCL keep threads of their own.
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      return EnvironmentError(absl::StrCat("cannot load ", path, ": ", dlerror()));
    }
    void* symbol = dlsym(handle, kNcclModuleEntry);
    if (symbol == nullptr) return EnvironmentError(absl::StrCat(path, " is not an NCCL module"));
    const NcclModule* module = reinterpret_cast<NcclModuleEntry>(symbol)();
    if (module->version != kNcclModuleVersion) {
      return EnvironmentError(absl::StrCat(path, " is of another version; build it again"));
    }
    return module;
  }
  return EnvironmentError(absl::StrCat("there is no ", candidates[0],
                                       ": it is built where the CUDA toolkit and NCCL are found"));
}

const StatusOr<const NcclModule*>& Module() {
  static const auto* const module = new StatusOr<const NcclModule*>(Load());
  return *module;
}

}  // namespace

bool NcclUsable(std::string* why) {
  const StatusOr<const NcclModule*>& module = Module();
  if (module.ok()) return (*module)->usable(why);
  *why = std::string(module.status().message());
  return false;
}

StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(Communicator& control, int device) {
  std::string why;
  const bool usable = NcclUsable(&why);
  RETURN_IF_ERROR(AgreeOnSuccess(
      control, usable ? OkStatus() : EnvironmentError(absl::StrCat("cannot use NCCL: ", why))));
  return (*Module())->make_communicator(control, device);
}

}  // namespace atl
