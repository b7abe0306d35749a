#include "checkpoint/transfer/open_files.h"

namespace atl::checkpoint {

StatusOr<std::shared_ptr<const Fd>> OpenFiles::Get(const void* owner, const std::string& path,
                                                   int flags) {
  const Key key = {owner, flags};
  std::lock_guard<std::mutex> lock(mutex_);
  const auto at = by_key_.find(key);
  if (at != by_key_.end()) {
    entries_.splice(entries_.begin(), entries_, at->second);
    return at->second->file;
  }
  while (entries_.size() >= most_) {
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
  StatusOr<Fd> file = OpenFile(path, flags);
  if (absl::IsResourceExhausted(file.status()) && !entries_.empty()) {
    by_key_.clear();
    entries_.clear();
    file = OpenFile(path, flags);
  }
  RETURN_IF_ERROR(file.status());
  entries_.push_front({key, std::make_shared<const Fd>(*std::move(file))});
  by_key_[key] = entries_.begin();
  return entries_.front().file;
}

void OpenFiles::Forget(const void* owner) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto at = entries_.begin(); at != entries_.end();) {
    if (at->key.first != owner) {
      ++at;
      continue;
    }
    by_key_.erase(at->key);
    at = entries_.erase(at);
  }
}

}  // namespace atl::checkpoint
