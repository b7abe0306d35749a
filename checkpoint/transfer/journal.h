// The journal of a pull: which chunks of a checkpoint are here, verified and durable. A restart
// trusts it.
//
// 1. Two slots, each a whole journal with a number that rises and its own SHA-256. They are written
//    in turn, so that a torn write leaves the other one; the valid slot with the higher number
//    counts.
// 2. A slot is written after the data of its chunks has been synced, and synced itself before it
//    counts for anybody.
//
// A slot: "atolpull", u32 version, u32 0, u64 number, u64 chunks, 32 bytes SHA-256 of the manifest,
// a bit a chunk (wire.h), 32 bytes SHA-256 of all this; then zeros up to a multiple of 4096.
// Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "base/file.h"
#include "base/status.h"

namespace atl::checkpoint {

struct JournalSlot {
  uint64_t number = 0;
  int64_t chunks = 0;
  std::string manifest_hash;  // raw
  std::string bitmap;
};
int64_t JournalSlotBytes(int64_t chunks);
std::string EncodeJournalSlot(const JournalSlot& slot);
// Of `bytes` as long as a slot of so many chunks is. Errors: not a whole slot.
StatusOr<JournalSlot> ParseJournalSlot(absl::string_view bytes);
// A whole file, as others than its pull read it: the slot that counts. An error if there is none.
StatusOr<JournalSlot> ParseJournal(absl::string_view bytes);

class Journal {
 public:
  // What is there of an earlier attempt at this checkpoint, or nothing yet. The caller has the
  // folder for itself.
  static StatusOr<Journal> Open(const std::string& path, absl::string_view manifest_hash,
                                int64_t chunks);

  // What the file says.
  const std::string& bitmap() const { return slot_.bitmap; }
  // Durably.
  Status Write(const std::string& bitmap);
  const std::string& path() const { return path_; }

 private:
  Journal(std::string path, Fd file) : path_(std::move(path)), file_(std::move(file)) {}

  std::string path_;
  Fd file_;
  JournalSlot slot_;
};

}  // namespace atl::checkpoint
