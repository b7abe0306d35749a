#include "checkpoint/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/units.h"

namespace atl::checkpoint {
namespace {

constexpr int64_t kHugePage = 2 << 20;

}  // namespace

Status Arena::Fit(int64_t elements) {
  // Of a rank that holds nothing too: no memory would look like none left.
  const int64_t bytes = std::max<int64_t>(1, elements) * static_cast<int64_t>(sizeof(float));
  const int64_t wanted = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  if (wanted <= bytes_) return OkStatus();
  Free();
  void* const memory =
      mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return WithExitCode(
        absl::ResourceExhaustedError(absl::StrCat(
            "no memory to copy the state to: ", FormatBytes(wanted), " were asked for")),
        ExitCode::kEnvironment);
  }
  madvise(memory, wanted, MADV_HUGEPAGE);  // a wish
  data_ = static_cast<float*>(memory);
  bytes_ = wanted;
  return OkStatus();
}

void Arena::Touch(int64_t begin, int64_t end) {
  constexpr int64_t kPage = 4096;
  auto* const bytes = reinterpret_cast<volatile char*>(data_);
  for (int64_t at = begin; at < end; at += kPage) bytes[at] = 0;
}

void Arena::Free() {
  if (data_ != nullptr) munmap(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace atl::checkpoint
