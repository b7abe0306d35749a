// Fuzz entry of what a pull reads that others wrote: a source's catalog, and a journal on disk. The
// first byte says which. What is accepted must be what would be written.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "checkpoint/transfer/journal.h"
#include "checkpoint/transfer/wire.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 'c') {
    // Most inputs would be of the wrong length: the rest of a catalog is zeros.
    std::string whole(bytes.substr(0, atl::checkpoint::kCatalogBytes));
    whole.resize(atl::checkpoint::kCatalogBytes, '\0');
    const auto offers = atl::checkpoint::ParseCatalog(whole);
    if (offers.ok() && atl::checkpoint::EncodeCatalog(*offers) != whole) std::abort();
    return 0;
  }
  const auto slot = atl::checkpoint::ParseJournalSlot(bytes);
  if (slot.ok() && atl::checkpoint::EncodeJournalSlot(*slot) != bytes) std::abort();
  const auto either = atl::checkpoint::ParseJournal(bytes);
  if (either.ok() &&
      static_cast<int64_t>(either->bitmap.size()) != atl::checkpoint::BitmapBytes(either->chunks)) {
    std::abort();
  }
  return 0;
}
