#include "checkpoint/transfer/journal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "checkpoint/sha256.h"
#include "checkpoint/transfer/wire.h"

namespace atl::checkpoint {
namespace {

constexpr char kMagic[] = "atolpull";
constexpr uint64_t kVersion = 1;
constexpr int64_t kHead = 8 + 8 + 8 + 8 + static_cast<int64_t>(kHashBytes);
constexpr int64_t kAlignment = 4096;
constexpr int64_t kMaxChunks = kMaxPulledBytes / kChunkBytes + (1 << 20);

void Append(std::string* out, uint64_t value) {
  for (int i = 0; i < 8; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t Take(absl::string_view bytes, size_t at) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value |= uint64_t{static_cast<uint8_t>(bytes[at + i])} << (8 * i);
  return value;
}

}  // namespace

int64_t JournalSlotBytes(int64_t chunks) {
  const int64_t bytes = kHead + BitmapBytes(chunks) + static_cast<int64_t>(kHashBytes);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

std::string EncodeJournalSlot(const JournalSlot& slot) {
  std::string out = kMagic;
  Append(&out, kVersion);
  Append(&out, slot.number);
  Append(&out, static_cast<uint64_t>(slot.chunks));
  out += slot.manifest_hash;
  out += slot.bitmap;
  out += Sha256(out);
  out.resize(static_cast<size_t>(JournalSlotBytes(slot.chunks)), '\0');
  return out;
}

StatusOr<JournalSlot> ParseJournalSlot(absl::string_view bytes) {
  const auto bad = [](absl::string_view what) {
    return absl::DataLossError(absl::StrCat("the journal ", what));
  };
  if (static_cast<int64_t>(bytes.size()) < kHead || bytes.substr(0, 8) != kMagic) {
    return bad("is none");
  }
  if (Take(bytes, 8) != kVersion) return bad("is of another version");
  JournalSlot slot;
  slot.number = Take(bytes, 16);
  const uint64_t chunks = Take(bytes, 24);
  if (chunks > uint64_t{kMaxChunks} ||
      static_cast<int64_t>(bytes.size()) != JournalSlotBytes(static_cast<int64_t>(chunks))) {
    return bad("has another length than it says");
  }
  slot.chunks = static_cast<int64_t>(chunks);
  slot.manifest_hash = std::string(bytes.substr(32, kHashBytes));
  const auto map = static_cast<size_t>(BitmapBytes(slot.chunks));
  slot.bitmap = std::string(bytes.substr(kHead, map));
  if (bytes != EncodeJournalSlot(slot)) return bad("does not match its own hash");
  return slot;
}

StatusOr<JournalSlot> ParseJournal(absl::string_view bytes) {
  const size_t half = bytes.size() / 2;
  StatusOr<JournalSlot> first = ParseJournalSlot(bytes.substr(0, half));
  StatusOr<JournalSlot> second = ParseJournalSlot(bytes.substr(half));
  if (!first.ok()) return second;
  if (!second.ok()) return first;
  return first->number > second->number ? first : second;
}

StatusOr<Journal> Journal::Open(const std::string& path, absl::string_view manifest_hash,
                                int64_t chunks) {
  ASSIGN_OR_RETURN(Fd file, OpenFile(path, O_RDWR | O_CREAT, 0644));
  Journal journal(path, std::move(file));
  const int64_t slot_bytes = JournalSlotBytes(chunks);
  struct stat info;
  if (fstat(journal.file_.get(), &info) != 0) return ErrnoError(errno, path);
  if (info.st_size == 2 * slot_bytes) {
    std::string bytes(static_cast<size_t>(2 * slot_bytes), '\0');
    RETURN_IF_ERROR(ReadAt(journal.file_, path, bytes.data(), 2 * slot_bytes, 0));
    StatusOr<JournalSlot> slot = ParseJournal(bytes);
    if (slot.ok() && slot->chunks == chunks && slot->manifest_hash == manifest_hash) {
      journal.slot_ = *std::move(slot);
      return journal;
    }
  }
  // Of nothing that can be trusted: all begins anew.
  journal.slot_ = {0, chunks, std::string(manifest_hash),
                   std::string(static_cast<size_t>(BitmapBytes(chunks)), '\0')};
  if (ftruncate(journal.file_.get(), 0) != 0 ||
      ftruncate(journal.file_.get(), 2 * slot_bytes) != 0) {
    return ErrnoError(errno, absl::StrCat("cannot make ", path));
  }
  RETURN_IF_ERROR(journal.Write(journal.slot_.bitmap));
  return journal;
}

Status Journal::Write(const std::string& bitmap) {
  slot_.bitmap = bitmap;
  ++slot_.number;
  const std::string bytes = EncodeJournalSlot(slot_);
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t at = slot_.number % 2 == 0 ? 0 : size;
  RETURN_IF_ERROR(WriteAt(file_, path_, bytes.data(), size, at));
  return SyncFile(file_, path_);
}

}  // namespace atl::checkpoint
