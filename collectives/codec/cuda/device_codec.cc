#include "collectives/codec/cuda/device_codec.h"

#include <dlfcn.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "collectives/codec/cuda/device_module.h"

namespace atl {
namespace {

constexpr char kFileName[] = "libatoll_codec_cuda.so";

StatusOr<const DeviceCodecModule*> Load() {
  const std::string directory = ExecutableDirectory();
  const std::string candidates[] = {absl::StrCat(directory, "/../lib/", kFileName),
                                    absl::StrCat(directory, "/", kFileName)};
  for (const std::string& path : candidates) {
    if (access(path.c_str(), R_OK) != 0) continue;
    // Never closed: CUDA keeps threads of its own.
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      return EnvironmentError(absl::StrCat("cannot load ", path, ": ", dlerror()));
    }
    void* symbol = dlsym(handle, kDeviceCodecModuleEntry);
    if (symbol == nullptr) return EnvironmentError(absl::StrCat(path, " is no module of codecs"));
    const DeviceCodecModule* module = reinterpret_cast<DeviceCodecModuleEntry>(symbol)();
    if (module->version != kDeviceCodecModuleVersion) {
      return EnvironmentError(absl::StrCat(path, " is of another version; build it again"));
    }
    if (const char* error = module->usable()) return EnvironmentError(error);
    return module;
  }
  return EnvironmentError(
      absl::StrCat("there is no ", candidates[0], ": it is built where the CUDA toolkit is found"));
}

const StatusOr<const DeviceCodecModule*>& Module() {
  static const auto* const module = new StatusOr<const DeviceCodecModule*>(Load());
  return *module;
}

Status Checked(const char* what, const char* error) {
  if (error == nullptr) return OkStatus();
  return absl::InternalError(absl::StrCat("CUDA: ", error, " while ", what));
}

// The module, for encoded bytes that lie as the kernels need them.
StatusOr<const DeviceCodecModule*> ModuleFor(Codec codec, const uint8_t* bytes) {
  RETURN_IF_ERROR(Module().status());
  const uintptr_t alignment = codec == Codec::kFp32 ? 4 : 2;
  if (reinterpret_cast<uintptr_t>(bytes) % alignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        CodecName(codec), " bytes on a device must be aligned to ", alignment, " bytes"));
  }
  return *Module();
}

}  // namespace

bool DeviceCodecUsable(std::string* why) {
  if (Module().ok()) return true;
  *why = std::string(Module().status().message());
  return false;
}

Status DeviceEncode(Codec codec, const float* in, size_t count, uint8_t* out, void* stream) {
  ASSIGN_OR_RETURN(const DeviceCodecModule* module, ModuleFor(codec, out));
  return Checked("encoding", module->encode(static_cast<uint8_t>(codec), in, count, out, stream));
}

Status DeviceDecode(Codec codec, const uint8_t* in, size_t count, float* out, void* stream) {
  ASSIGN_OR_RETURN(const DeviceCodecModule* module, ModuleFor(codec, in));
  return Checked("decoding", module->decode(static_cast<uint8_t>(codec), in, count, out, stream));
}

Status DeviceDecodeAdd(Codec codec, const uint8_t* in, size_t count, float* out, void* stream) {
  ASSIGN_OR_RETURN(const DeviceCodecModule* module, ModuleFor(codec, in));
  return Checked("adding what was decoded",
                 module->decode_add(static_cast<uint8_t>(codec), in, count, out, stream));
}

Status DeviceAdd(const float* in, size_t count, float* out, void* stream) {
  RETURN_IF_ERROR(Module().status());
  return Checked("adding", (*Module())->add(in, count, out, stream));
}

StatusOr<DeviceMemory> AllocateOnDevice(size_t bytes) {
  RETURN_IF_ERROR(Module().status());
  void* memory = nullptr;
  RETURN_IF_ERROR(Checked("allocating memory", (*Module())->allocate(bytes, &memory)));
  return DeviceMemory(memory, (*Module())->release);
}

Status DeviceCopy(void* to, const void* from, size_t bytes, void* stream) {
  RETURN_IF_ERROR(Module().status());
  return Checked("copying", (*Module())->copy(to, from, bytes, stream));
}

Status DeviceWait(void* stream) {
  RETURN_IF_ERROR(Module().status());
  return Checked("waiting for a stream", (*Module())->wait(stream));
}

}  // namespace atl
