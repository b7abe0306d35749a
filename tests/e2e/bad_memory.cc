// For LD_PRELOAD: memory that goes bad in one region. In the first worker of the region that
// $BAD_MEMORY_REGION names, one bit of the first long run of bytes that is hashed flips before it
// is: of a checkpoint's first tensor, in the copy that is being written.
#include <dlfcn.h>
#include <stddef.h>

#include <atomic>
#include <cstdio>
#include <string>

namespace {

constexpr size_t kLong = 16 << 10;

std::string ReadAll(const char* path) {
  std::string text(1, '\0');
  if (FILE* const file = fopen(path, "r")) {
    char bytes[4096];
    for (size_t size; (size = fread(bytes, 1, sizeof bytes, file)) > 0;) text.append(bytes, size);
    fclose(file);
  }
  return text + '\0';
}

// Arguments and variables are apart by zeros.
bool IsChosen() {
  const std::string variables = ReadAll("/proc/self/environ");
  const std::string name = std::string(1, '\0') + "BAD_MEMORY_REGION=";
  const size_t at = variables.find(name);
  if (at == std::string::npos) return false;
  const std::string region = variables.c_str() + at + name.size();
  const std::string wanted = std::string(1, '\0') + "--region=" + region + '\0';
  return ReadAll("/proc/self/cmdline").find(wanted) != std::string::npos;
}

}  // namespace

extern "C" int SHA256_Update(void* context, const void* data, size_t size) {
  static const auto real =
      reinterpret_cast<int (*)(void*, const void*, size_t)>(dlsym(RTLD_NEXT, "SHA256_Update"));
  static std::atomic<bool> flips = IsChosen();
  if (size >= kLong && flips.exchange(false)) {
    static_cast<char*>(const_cast<void*>(data))[size / 2] ^= 0x10;
  }
  return real(context, data, size);
}
