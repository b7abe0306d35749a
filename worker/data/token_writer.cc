// TokenFileWriter (token_file.h).
//
// Steps: 1. tokens go to PATH.PID.tmp; Finish 2. syncs it, 3. removes an older file at PATH,
// 4. writes the note, 5. renames the tokens to PATH. Whenever the power goes, PATH is either absent
// or has the note that belongs to it: without step 3 the new note could meet the old tokens.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "worker/data/token_file.h"
#include "worker/data/token_note.h"

namespace atl {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

class Writer : public TokenFileWriter {
 public:
  Writer(std::string path, std::string staging, Fd fd, TokenNote note)
      : path_(std::move(path)),
        staging_(std::move(staging)),
        fd_(std::move(fd)),
        note_(std::move(note)),
        width_(static_cast<size_t>(BytesPerToken(note_.type))) {}
  ~Writer() override {
    if (!staging_.empty()) unlink(staging_.c_str());
  }

  Status Append(std::span<const int32_t> tokens) override {
    for (const int32_t token : tokens) {
      if (token < 0 || token >= note_.vocab_size) {
        return absl::InvalidArgumentError(
            absl::StrCat("token ", token, " is outside the vocabulary of ", note_.vocab_size));
      }
      // Little-endian (asserted in token_layout.cc): the low bytes come first.
      const auto value = static_cast<uint32_t>(token);
      char bytes[sizeof value];
      std::memcpy(bytes, &value, sizeof value);
      buffer_.append(bytes, width_);
      if (buffer_.size() >= kBufferBytes) RETURN_IF_ERROR(Flush());
    }
    note_.tokens += static_cast<int64_t>(tokens.size());
    return OkStatus();
  }

  Status EndDocument() override {
    ++note_.documents;
    return OkStatus();
  }

  StatusOr<TokenFileInfo> Finish() override {
    if (note_.tokens == 0) return UsageError(absl::StrCat("no tokens to write to ", path_));
    RETURN_IF_ERROR(Flush());
    RETURN_IF_ERROR(SyncFile(fd_, staging_));
    fd_.Reset();
    const std::string parent = std::filesystem::path(path_).parent_path().string();
    const std::string directory = parent.empty() ? "." : parent;
    if (unlink(path_.c_str()) != 0 && errno != ENOENT) {
      return ErrnoError(errno, absl::StrCat("cannot replace ", path_));
    }
    RETURN_IF_ERROR(SyncDirectory(directory));
    RETURN_IF_ERROR(WriteFileAtomically(NotePath(path_), FormatNote(note_)));
    if (rename(staging_.c_str(), path_.c_str()) != 0) {
      return ErrnoError(errno, absl::StrCat("cannot rename to ", path_));
    }
    staging_.clear();
    RETURN_IF_ERROR(SyncDirectory(directory));
    ASSIGN_OR_RETURN(const std::unique_ptr<TokenFile> file, TokenFile::Open(path_));
    return file->info();
  }

 private:
  Status Flush() {
    const auto size = static_cast<int64_t>(buffer_.size());
    RETURN_IF_ERROR(WriteAt(fd_, staging_, buffer_.data(), size, written_));
    written_ += size;
    buffer_.clear();
    return OkStatus();
  }

  const std::string path_;
  std::string staging_;  // empty once renamed
  Fd fd_;
  TokenNote note_;
  const size_t width_;
  std::string buffer_;
  int64_t written_ = 0;
};

}  // namespace

StatusOr<std::unique_ptr<TokenFileWriter>> TokenFileWriter::Create(const std::string& path,
                                                                   const std::string& tokenizer,
                                                                   int64_t vocab_size) {
  if (vocab_size < 1 || vocab_size > kMaxVocabulary) {
    return absl::InvalidArgumentError(absl::StrCat("a vocabulary of ", vocab_size, " tokens"));
  }
  const std::string parent = std::filesystem::path(path).parent_path().string();
  if (!parent.empty()) RETURN_IF_ERROR(MakeDirectories(parent));
  std::error_code ignored;
  if (path.empty() || std::filesystem::is_directory(path, ignored)) {
    return UsageError(absl::StrCat("'", path, "' is not a file to write tokens to"));
  }
  TokenNote note;
  note.type = vocab_size <= 65536 ? TokenType::kUint16 : TokenType::kUint32;
  note.vocab_size = vocab_size;
  note.tokenizer = tokenizer;
  std::string staging = absl::StrCat(path, ".", getpid(), ".tmp");
  ASSIGN_OR_RETURN(Fd fd, OpenFile(staging, O_WRONLY | O_CREAT | O_TRUNC));
  return std::make_unique<Writer>(path, std::move(staging), std::move(fd), std::move(note));
}

}  // namespace atl
