#include "orchestrator/store/run_files.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"

namespace atl {
namespace {

constexpr size_t kBufferBytes = 1 << 20;
constexpr double kSummarySeconds = 1;

}  // namespace

Status LineFile::BeginRewrite() {
  staging_ = absl::StrCat(path_, ".partial");
  buffer_.clear();
  size_ = 0;
  ASSIGN_OR_RETURN(fd_, OpenFile(staging_, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return OkStatus();
}

Status LineFile::FinishRewrite() {
  RETURN_IF_ERROR(Flush());
  if (std::rename(staging_.c_str(), path_.c_str()) != 0) {
    return ErrnoError(errno, absl::StrCat("cannot rename ", staging_, " to ", path_));
  }
  staging_.clear();
  return OkStatus();
}

Status LineFile::Add(const std::string& line) {
  absl::StrAppend(&buffer_, line, "\n");
  return buffer_.size() >= kBufferBytes ? Flush() : OkStatus();
}

Status LineFile::Flush() {
  if (buffer_.empty()) return OkStatus();
  const std::string& path = staging_.empty() ? path_ : staging_;
  RETURN_IF_ERROR(WriteAt(fd_, path, buffer_.data(), static_cast<int64_t>(buffer_.size()), size_));
  size_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
  return OkStatus();
}

RunFiles::RunFiles(const std::string& directory, Store* store)
    : summary_path_(absl::StrCat(directory, "/summary.json")),
      store_(store),
      rounds_(absl::StrCat(directory, "/rounds.jsonl")),
      events_(absl::StrCat(directory, "/events.jsonl")) {}

StatusOr<std::unique_ptr<RunFiles>> RunFiles::Open(const std::string& directory, Store* store) {
  std::unique_ptr<RunFiles> files(new RunFiles(directory, store));
  RETURN_IF_ERROR(files->Rewrite());
  return files;
}

Status RunFiles::Rewrite() {
  Status status;
  RETURN_IF_ERROR(rounds_.BeginRewrite());
  RETURN_IF_ERROR(store_->ForEachRound([&](const RoundRecord& round) {
    if (status.ok()) status = rounds_.Add(RoundToJson(round));
  }));
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(rounds_.FinishRewrite());
  RETURN_IF_ERROR(events_.BeginRewrite());
  RETURN_IF_ERROR(store_->ForEachEvent([&](const EventRecord& event) {
    if (status.ok()) status = events_.Add(EventToJson(event));
  }));
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(events_.FinishRewrite());
  ASSIGN_OR_RETURN(summary_, Summary::Load(*store_));
  return OkStatus();
}

Status RunFiles::Append(const std::vector<Record>& records, double now) {
  bool urgent = false;
  bool superseded = false;
  for (const Record& record : records) {
    const auto* job = std::get_if<JobRecord>(&record);
    urgent |= job != nullptr;
    superseded |= std::holds_alternative<SupersedeRecord>(record);
  }
  dirty_ |= !records.empty();
  if (superseded) {
    RETURN_IF_ERROR(Rewrite());
  } else {
    for (const Record& record : records) {
      summary_.Take(record);
      if (const auto* round = std::get_if<RoundRecord>(&record)) {
        RETURN_IF_ERROR(rounds_.Add(RoundToJson(*round)));
      } else if (const auto* event = std::get_if<EventRecord>(&record)) {
        RETURN_IF_ERROR(events_.Add(EventToJson(*event)));
      }
    }
    RETURN_IF_ERROR(rounds_.Flush());
    RETURN_IF_ERROR(events_.Flush());
  }
  return urgent ? WriteSummary(now) : Flush(now);
}

Status RunFiles::Flush(double now) {
  return dirty_ && now >= written_at_ + kSummarySeconds ? WriteSummary(now) : OkStatus();
}

Status RunFiles::WriteSummary(double now) {
  dirty_ = false;
  written_at_ = now;
  return WriteFileAtomically(summary_path_, summary_.ToJson(now) + "\n");
}

}  // namespace atl
