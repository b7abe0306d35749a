// A bounded number of open files for any number of them: the one that was used longest ago is
// closed. Who uses one holds it: it is closed when nobody does any more.
//
// kResourceExhausted: the process has no descriptor left, though nothing is kept open here; the
// same can go well later. Thread rule: any thread.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/file.h"
#include "base/status.h"

namespace atl::checkpoint {

class OpenFiles {
 public:
  // `most` >= 1, those apart that are held.
  explicit OpenFiles(size_t most) : most_(most) {}

  // `owner` and `flags` tell files apart, not the path: behind a path may come another file.
  StatusOr<std::shared_ptr<const Fd>> Get(const void* owner, const std::string& path, int flags);
  void Forget(const void* owner);

 private:
  using Key = std::pair<const void*, int>;
  struct Entry {
    Key key;
    std::shared_ptr<const Fd> file;
  };

  const size_t most_;
  std::mutex mutex_;
  std::list<Entry> entries_;                          // newest use first; guarded by mutex_
  std::map<Key, std::list<Entry>::iterator> by_key_;  // guarded by mutex_
};

}  // namespace atl::checkpoint
