// The functions below take the place of the C library's, because the dynamic linker takes a symbol
// of the program itself first; the real ones are found with dlsym(RTLD_NEXT).
#include "tests/checkpoint/fault_calls.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace atl::checkpoint {
namespace {

std::atomic<bool> armed = false;
std::atomic<int64_t> calls = 0;
Fault chosen_fault = Fault::kNone;
int64_t chosen_call = 0;

enum class Verdict { kGoOn, kFail, kKillHalfWay };

// For a call that `needs_space` or not.
Verdict Judge(bool needs_space) {
  if (!armed.load()) return Verdict::kGoOn;
  const int64_t call = calls.fetch_add(1);
  switch (chosen_fault) {
    case Fault::kNone:
      return Verdict::kGoOn;
    case Fault::kKill:
      return call == chosen_call ? Verdict::kKillHalfWay : Verdict::kGoOn;
    case Fault::kNoSpace:
      if (call < chosen_call || !needs_space) return Verdict::kGoOn;
      errno = ENOSPC;
      return Verdict::kFail;
    case Fault::kIoError:
      if (call != chosen_call) return Verdict::kGoOn;
      errno = EIO;
      return Verdict::kFail;
  }
  return Verdict::kGoOn;
}

// True if the call must fail now.
bool Fails(bool needs_space) {
  const Verdict verdict = Judge(needs_space);
  if (verdict == Verdict::kKillHalfWay) kill(getpid(), SIGKILL);
  return verdict == Verdict::kFail;
}

template <typename Function>
Function* Real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

void ArmFault(Fault fault, int64_t call) {
  chosen_fault = fault;
  chosen_call = call;
  calls = 0;
  armed = true;
}

int64_t DisarmFault() {
  armed = false;
  return calls;
}

}  // namespace atl::checkpoint

using atl::checkpoint::Fails;
using atl::checkpoint::Judge;
using atl::checkpoint::Real;
using atl::checkpoint::Verdict;

extern "C" {

int open(const char* path, int flags, ...) {
  static const auto real = Real<int(const char*, int, ...)>("open");
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if ((flags & O_CREAT) != 0 && Fails(true)) return -1;
  return real(path, flags, mode);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  static const auto real = Real<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  const Verdict verdict = Judge(true);
  if (verdict == Verdict::kFail) return -1;
  if (verdict == Verdict::kKillHalfWay) {
    (void)!real(fd, data, size / 2, offset);
    kill(getpid(), SIGKILL);
  }
  return real(fd, data, size, offset);
}

// Never waits for the disk: what a process wrote survives the process, and these tests kill nothing
// else. (Power cuts need a file system of their own.)
int fsync(int) { return Fails(true) ? -1 : 0; }

int fallocate(int fd, int mode, off_t offset, off_t size) {
  static const auto real = Real<int(int, int, off_t, off_t)>("fallocate");
  return Fails(true) ? -1 : real(fd, mode, offset, size);
}

int mkdir(const char* path, mode_t mode) {
  static const auto real = Real<int(const char*, mode_t)>("mkdir");
  return Fails(true) ? -1 : real(path, mode);
}

int rename(const char* from, const char* to) {
  static const auto real = Real<int(const char*, const char*)>("rename");
  return Fails(false) ? -1 : real(from, to);
}

int renameat2(int from_fd, const char* from, int to_fd, const char* to, unsigned int flags) {
  static const auto real = Real<int(int, const char*, int, const char*, unsigned int)>("renameat2");
  return Fails(false) ? -1 : real(from_fd, from, to_fd, to, flags);
}

int link(const char* from, const char* to) {
  static const auto real = Real<int(const char*, const char*)>("link");
  return Fails(true) ? -1 : real(from, to);
}

int unlink(const char* path) {
  static const auto real = Real<int(const char*)>("unlink");
  return Fails(false) ? -1 : real(path);
}

int unlinkat(int fd, const char* path, int flags) {
  static const auto real = Real<int(int, const char*, int)>("unlinkat");
  return Fails(false) ? -1 : real(fd, path, flags);
}

}  // extern "C"
