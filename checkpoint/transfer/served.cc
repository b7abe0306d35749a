#include "checkpoint/transfer/served.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/file.h"
#include "checkpoint/transfer/journal.h"

namespace atl::checkpoint {
namespace {

class File : public wan::ByteSource {
 public:
  File(std::string path, int64_t bytes, std::shared_ptr<OpenFiles> files,
       std::shared_ptr<Hold> hold)
      : path_(std::move(path)), bytes_(bytes), files_(std::move(files)), hold_(std::move(hold)) {}
  ~File() override { files_->Forget(this); }
  int64_t size() const override { return bytes_; }
  Status Read(int64_t offset, std::span<uint8_t> out) override {
    if (hold_ != nullptr) hold_->Touch(Clock::Real()->MonotonicSeconds());
    ASSIGN_OR_RETURN(const auto file, files_->Get(this, path_, O_RDONLY));
    return ReadAt(*file, path_, out.data(), static_cast<int64_t>(out.size()), offset);
  }

 private:
  const std::string path_;
  const int64_t bytes_;
  const std::shared_ptr<OpenFiles> files_;
  const std::shared_ptr<Hold> hold_;
};

class InMemory : public wan::ByteSource {
 public:
  explicit InMemory(std::string bytes) : bytes_(std::move(bytes)) {}
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  Status Read(int64_t offset, std::span<uint8_t> out) override {
    std::copy_n(bytes_.begin() + offset, out.size(), out.begin());
    return OkStatus();
  }

 private:
  const std::string bytes_;
};

class JournalBits : public wan::ByteSource {
 public:
  JournalBits(std::string path, int64_t chunks) : path_(std::move(path)), chunks_(chunks) {}
  int64_t size() const override { return BitmapBytes(chunks_); }
  Status Read(int64_t offset, std::span<uint8_t> out) override {
    ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path_, 2 * JournalSlotBytes(chunks_)));
    ASSIGN_OR_RETURN(const JournalSlot slot, ParseJournal(bytes));
    if (slot.chunks != chunks_) return absl::DataLossError(path_ + " is of something else");
    std::copy_n(slot.bitmap.begin() + offset, out.size(), out.begin());
    return OkStatus();
  }

 private:
  const std::string path_;
  const int64_t chunks_;
};

}  // namespace

void Hold::Touch(double now) {
  touched_ = now;
  std::lock_guard<std::mutex> lock(mutex_);
  if (folder_.valid()) return;
  if (held_->fetch_add(1) >= most_) {
    --*held_;
    return;
  }
  StatusOr<Fd> folder = OpenFile(path_, O_RDONLY | O_DIRECTORY);
  if (folder.ok() && flock(folder->get(), LOCK_SH | LOCK_NB) == 0) {
    folder_ = *std::move(folder);
  } else {
    --*held_;
  }
}

void Hold::Release() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!folder_.valid()) return;
  folder_.Reset();
  --*held_;
}

std::shared_ptr<wan::ByteSource> ServedFile(std::string path, int64_t bytes,
                                            std::shared_ptr<OpenFiles> files,
                                            std::shared_ptr<Hold> hold) {
  return std::make_shared<File>(std::move(path), bytes, std::move(files), std::move(hold));
}
std::shared_ptr<wan::ByteSource> ServedBytes(std::string bytes) {
  return std::make_shared<InMemory>(std::move(bytes));
}
std::shared_ptr<wan::ByteSource> ServedJournal(std::string path, int64_t chunks) {
  return std::make_shared<JournalBits>(std::move(path), chunks);
}

}  // namespace atl::checkpoint
