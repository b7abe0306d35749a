#include "checkpoint/file_writer.h"

#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"

namespace atl::checkpoint {
namespace {

// A rank of a large job writes hundreds of files; those that it is done with are synced and closed.
constexpr size_t kMostOpen = 32;

struct OpenedFile {
  std::string path;
  Fd plain;
  Fd direct;  // invalid: this file system has no O_DIRECT
};

// Files in the order of their opening.
class OpenFiles {
 public:
  explicit OpenFiles(bool direct) : direct_(direct) {}

  OpenedFile* Find(const std::string& path) {
    for (const auto& file : files_) {
      if (file->path == path) return file.get();
    }
    return nullptr;
  }
  bool full() const { return files_.size() >= kMostOpen; }

  StatusOr<OpenedFile*> Open(const std::string& path) {
    auto file = std::make_unique<OpenedFile>();
    file->path = path;
    ASSIGN_OR_RETURN(file->plain, OpenFile(path, O_WRONLY));
    if (direct_) file->direct.Reset(open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC));
    files_.push_back(std::move(file));
    return files_.back().get();
  }
  // By the rank that wrote: on a network file system others see the bytes only afterwards.
  Status SyncOldest() {
    const std::unique_ptr<OpenedFile> file = std::move(files_.front());
    files_.pop_front();
    return SyncFile(file->plain, file->path);
  }
  Status SyncAll() {
    while (!files_.empty()) RETURN_IF_ERROR(SyncOldest());
    return OkStatus();
  }

 private:
  const bool direct_;
  std::deque<std::unique_ptr<OpenedFile>> files_;
};

class PlainWriter : public FileWriter {
 public:
  explicit PlainWriter(std::string why) : why_(std::move(why)) {}

  Status Write(const std::string& path, const char* data, int64_t size, int64_t offset) override {
    OpenedFile* file = files_.Find(path);
    if (file == nullptr) {
      if (files_.full()) RETURN_IF_ERROR(files_.SyncOldest());
      ASSIGN_OR_RETURN(file, files_.Open(path));
    }
    return WriteAt(file->plain, path, data, size, offset);
  }
  Status Finish() override { return files_.SyncAll(); }
  std::string Describe() const override { return absl::StrCat("pwrite (", why_, ")"); }

 private:
  const std::string why_;
  OpenFiles files_{false};
};

struct FreeDeleter {
  void operator()(char* memory) const { free(memory); }
};
using AlignedMemory = std::unique_ptr<char, FreeDeleter>;

class RingWriter : public FileWriter {
 public:
  // Null and errno's number if the system has no ring for us.
  static std::unique_ptr<RingWriter> Create(int* error) {
    auto writer = std::unique_ptr<RingWriter>(new RingWriter);
    *error = -io_uring_queue_init(kDepth, &writer->ring_, 0);
    if (*error != 0) return nullptr;
    writer->has_ring_ = true;
    for (Block& block : writer->blocks_) {
      // One page more: a run begins at its place within a page.
      block.memory.reset(
          static_cast<char*>(aligned_alloc(writer->page_, kBlockBytes + writer->page_)));
      if (block.memory == nullptr) {
        *error = ENOMEM;
        return nullptr;
      }
    }
    return writer;
  }
  ~RingWriter() override {
    // The kernel reads the blocks until it has answered.
    while (under_way_ > 0 && Reap().ok()) {
    }
    if (has_ring_) io_uring_queue_exit(&ring_);
  }

  Status Write(const std::string& path, const char* data, int64_t size, int64_t offset) override {
    while (size > 0) {
      if (current_ == nullptr || current_->file->path != path || current_->end() != offset) {
        RETURN_IF_ERROR(Submit());
        RETURN_IF_ERROR(Begin(path, offset));
      }
      // Blocks end where blocks of the file do.
      const int64_t limit = (current_->offset / kBlockBytes + 1) * kBlockBytes;
      const int64_t part = std::min(size, limit - offset);
      std::memcpy(current_->data(page_) + current_->size, data, part);
      current_->size += part;
      data += part, offset += part, size -= part;
      if (current_->end() == limit) RETURN_IF_ERROR(Submit());
    }
    return OkStatus();
  }

  Status Finish() override {
    RETURN_IF_ERROR(Submit());
    RETURN_IF_ERROR(Drain());
    return files_.SyncAll();
  }
  std::string Describe() const override {
    return direct_ ? "io_uring" : "pwrite (this file system has no O_DIRECT)";
  }

 private:
  struct Block {
    AlignedMemory memory;
    OpenedFile* file = nullptr;
    int64_t offset = 0;  // of the run in the file
    int64_t size = 0;
    Range direct;  // of the file: what the ring writes
    bool busy = false;
    int64_t end() const { return offset + size; }
    char* data(int64_t page) const { return memory.get() + offset % page; }
  };

  RingWriter() : page_(std::max<int64_t>(4096, sysconf(_SC_PAGESIZE))) {}

  Status Begin(const std::string& path, int64_t offset) {
    OpenedFile* file = files_.Find(path);
    if (file == nullptr) {
      if (files_.full()) {
        RETURN_IF_ERROR(Drain());  // no block refers to the file any more
        RETURN_IF_ERROR(files_.SyncOldest());
      }
      ASSIGN_OR_RETURN(file, files_.Open(path));
      direct_ = direct_ && file->direct.valid();
    }
    while (under_way_ == kDepth) RETURN_IF_ERROR(Reap());
    for (Block& block : blocks_) {
      if (!block.busy) current_ = &block;
    }
    current_->file = file;
    current_->offset = offset;
    current_->size = 0;
    return OkStatus();
  }

  Status Plain(const Block& block, Range bytes) {
    if (bytes.empty()) return OkStatus();
    return WriteAt(block.file->plain, block.file->path,
                   block.data(page_) + (bytes.begin - block.offset), bytes.size(), bytes.begin);
  }

  // The run that is being filled goes on its way.
  Status Submit() {
    if (current_ == nullptr || current_->size == 0) return OkStatus();
    Block& block = *std::exchange(current_, nullptr);
    block.direct = {(block.offset + page_ - 1) / page_ * page_, block.end() / page_ * page_};
    if (!direct_ || block.direct.size() <= 0) return Plain(block, {block.offset, block.end()});
    RETURN_IF_ERROR(Plain(block, {block.offset, block.direct.begin}));
    RETURN_IF_ERROR(Plain(block, {block.direct.end, block.end()}));
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    CHECK(entry != nullptr) << "at most kDepth writes are under way";
    io_uring_prep_write(entry, block.file->direct.get(),
                        block.data(page_) + (block.direct.begin - block.offset),
                        static_cast<unsigned int>(block.direct.size()), block.direct.begin);
    io_uring_sqe_set_data(entry, &block);
    block.busy = true;
    ++under_way_;
    int submitted = 0;
    do {
      submitted = io_uring_submit(&ring_);
    } while (submitted == -EINTR);
    if (submitted >= 0) return OkStatus();
    --under_way_;
    block.busy = false;
    return ErrnoError(-submitted, absl::StrCat("cannot write ", block.file->path));
  }

  // Waits for one write.
  Status Reap() {
    io_uring_cqe* answer = nullptr;
    int waited = 0;
    do {
      waited = io_uring_wait_cqe(&ring_, &answer);
    } while (waited == -EINTR);
    if (waited < 0) return ErrnoError(-waited, "cannot wait for writes");
    Block& block = *static_cast<Block*>(io_uring_cqe_get_data(answer));
    const int result = answer->res;
    io_uring_cqe_seen(&ring_, answer);
    block.busy = false;
    --under_way_;
    if (result == block.direct.size()) return OkStatus();
    // Refused for how, not for what; or short: pwrite says why, if there is a reason.
    if (result == -EINVAL || result == -EOPNOTSUPP) direct_ = false;
    if (result >= 0 || result == -EINVAL || result == -EOPNOTSUPP || result == -EAGAIN ||
        result == -EINTR) {
      return Plain(block,
                   {block.direct.begin + std::max(result, 0) / page_ * page_, block.direct.end});
    }
    return ErrnoError(-result, absl::StrCat("cannot write ", block.file->path));
  }

  Status Drain() {
    Status status;
    while (under_way_ > 0) {
      const int before = under_way_;
      const Status one = Reap();
      if (status.ok()) status = one;
      if (under_way_ == before) break;  // the ring itself fails
    }
    return status;
  }

  const int64_t page_;
  io_uring ring_ = {};
  bool has_ring_ = false;
  bool direct_ = true;
  OpenFiles files_{true};
  Block blocks_[kDepth + 1];  // one is being filled
  Block* current_ = nullptr;
  int under_way_ = 0;
};

}  // namespace

std::unique_ptr<FileWriter> FileWriter::Create(WriteWay way) {
  if (way == WriteWay::kPlain) return std::make_unique<PlainWriter>("as asked for");
  int error = 0;
  std::unique_ptr<FileWriter> writer = RingWriter::Create(&error);
  if (writer != nullptr) return writer;
  return std::make_unique<PlainWriter>(absl::StrCat("no io_uring: ", strerror(error)));
}

}  // namespace atl::checkpoint
