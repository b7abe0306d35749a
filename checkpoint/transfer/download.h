// The chunks of one checkpoint, from many sources into part files: what is under way.
//
// 1. The scheduler says which chunk is asked of whom. A source gets as many at a time as its rate
//    times its round trip need, and two more; all together kMaxUnderWay of them, which bounds
//    memory. Under a rate cap each chunk costs its bytes of an allowance that grows by the cap.
//    When the cap changes, what is under way is asked for anew under the new one.
// 2. A chunk whose source fails, or is too slow, keeps what has come of it; another source gives
//    the rest.
// 3. A chunk that is whole is hashed and written by a worker thread. One that is wrong is fetched
//    again (Scheduler::Wrong).
// 4. Each second, or after kSyncChunks chunks, the data is synced and then the journal written, so
//    a pull that is killed has at most that to fetch again.
// 5. It ends when all is durable; when the disk fails; when nothing has come for stall_seconds; or
//    when a chunk is wrong at every source that has it.
// Thread rule: Run is one thread's, which owns all state; the sessions' hooks, the engine and the
// worker threads send it events.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/transfer/part_files.h"
#include "checkpoint/transfer/scheduler.h"
#include "checkpoint/transfer/session.h"
#include "checkpoint/transfer/wire.h"
#include "collectives/wan/background.h"

namespace atl::checkpoint {

struct SourceState {
  std::string name;
  int64_t bytes = 0;    // that came from it, of chunks
  int wrong = 0;        // chunks
  std::string trouble;  // the last; empty: none
};

struct DownloadState {
  int64_t wanted = 0;    // bytes of the checkpoint
  int64_t resumed = 0;   // of them, here from an earlier attempt
  int64_t verified = 0;  // of them, here now
  int64_t received = 0;  // bytes of chunks that came
  int64_t again = 0;     // of them, that had come before or were wrong
  double seconds = 0;
  std::vector<SourceState> sources;
};

class Download {
 public:
  struct Options {
    // Bytes a second, of all sources; 0: none. Asked for about once a second, in Run.
    std::function<double()> rate_cap;
    double stall_seconds = 60;
    std::function<void(const DownloadState&)> progress;  // about twice a second, in Run
  };

  // `hashes`: by file, kHashBytes a chunk.
  Download(const Options& options, std::shared_ptr<const Target> target,
           std::vector<std::string> hashes, PartFiles* parts);
  ~Download();

  // By number; called in Run's thread. Before Run.
  void SetSources(std::vector<Session*> sessions);
  // Any thread: what the source's session tells.
  void OnHas(int source, FilesAt at, std::string has);
  void OnTrouble(int source, const Status& why);

  Status Run();
  DownloadState state() const;

 private:
  struct Buffer;
  // Outlives the download where the engine still has something to tell.
  struct Events {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> waiting;  // guarded by mutex
    void Post(std::function<void()> event);
  };
  struct Job {
    int source = -1;  // -1: nobody; what has come waits
    std::shared_ptr<wan::Transfer> transfer;
    std::unique_ptr<Buffer> buffer;
    std::vector<Range> missing;  // of the file
    std::set<int> from;          // whose bytes are in it
    int64_t before = 0;          // bytes that came of it before this transfer
    int move_to = -1;            // the source that takes over
    bool again = false;          // it is ended only to be asked for anew
  };
  struct Source {
    Session* session = nullptr;
    FilesAt at;
    int under_way = 0;
    int64_t ended = 0;                            // bytes of transfers that have ended
    std::deque<std::pair<double, int64_t>> seen;  // time, bytes that have come
    double rate = 0, round_trip = 0;
    SourceState state;
  };

  void Take();  // events, or waits for the next moment
  void Tick(double now);
  void LookAtCap(double now);
  void Fill(double now);
  bool FillOne(int source, double now);
  bool HasRoom(const Source& source) const;
  void Begin(int64_t chunk, int source, double now);
  void OnFetched(int64_t chunk);
  void Lost(int source, const Status& why);
  void Verify(int64_t chunk);
  void OnWritten(int64_t chunk, const Status& status);
  void OnWrong(int64_t chunk, double now);
  void Drop(int64_t chunk);
  void Free(int64_t chunk);
  void BeginSync();
  bool Idle() const;  // nobody owes anything, and nothing is being verified
  Status Ended(double now);
  Status KeepForNextTime(const Status& why);
  std::string Named(int64_t chunk) const;
  int64_t Came() const;
  Status NothingComes() const;

  const Options options_;
  const std::shared_ptr<const Target> target_;
  const std::vector<std::string> hashes_;
  PartFiles* const parts_;
  const ChunkMap chunks_;
  std::string bitmap_;  // verified and written
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<Source> sources_;
  std::map<int64_t, Job> jobs_;
  std::set<int64_t> alone_;  // chunks that were wrong, of several sources
  std::vector<std::unique_ptr<Buffer>> spare_;
  double cap_ = 0;  // bytes a second; 0: none
  double began_ = 0, allowed_at_ = 0, allowance_ = 0, ticked_ = 0, told_ = 0, looked_ = 0,
         capped_ = 0;
  double moved_at_ = 0;  // when bytes came last
  int64_t moved_ = 0;    // how many there were then
  int64_t resumed_ = 0, wanted_ = 0, verified_ = 0, again_ = 0;
  int unsynced_ = 0;  // chunks
  double synced_at_ = 0;
  bool syncing_ = false;
  Status failure_;  // of the disk

  const std::shared_ptr<Events> events_ = std::make_shared<Events>();
  std::vector<std::unique_ptr<wan::Background>> workers_;
  std::unique_ptr<wan::Background> syncer_;
};

}  // namespace atl::checkpoint
