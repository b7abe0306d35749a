// The engine: one thread with one epoll runs all links, groups and operations; the public methods
// send it commands.
//
// 1. A connection that was accepted is pending until it has proven a view's key: at most
//    kMaxPending of them, each with the bytes of a greeting, for kHandshakeSeconds; the oldest goes
//    when there are too many. One that calls for a (view, lane) that has not joined here yet is
//    held unanswered within the same bounds, so that members may join in any order; a dialler whose
//    connection was dropped dials again.
// 2. After each batch of events the groups settle: they read on where a link waited, send what has
//    become possible, and deal with links that broke.
// 3. Leave says Bye on every link, sends what is buffered and waits at most kDrainSeconds for the
//    other ends to close.
//
// Thread rule: members below "I/O thread" belong to it alone once it runs.
#pragma once

#include <atomic>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "collectives/wan/background.h"
#include "collectives/wan/commands.h"
#include "collectives/wan/engine.h"
#include "collectives/wan/group.h"
#include "collectives/wan/join.h"
#include "collectives/wan/link.h"

namespace atl::wan {

class EngineImpl : public Engine, public Link::Owner {
 public:
  EngineImpl(const EngineOptions& options, Fd listener, Endpoint endpoint, Fd epoll,
             std::shared_ptr<CommandQueue> commands);
  ~EngineImpl() override;

  Endpoint endpoint() const override { return endpoint_; }
  Status Join(const Group& group, double deadline_seconds) override;
  void Leave(ViewId view) override;
  std::shared_ptr<Operation> AllReduce(ViewId view, LaneId lane, uint64_t id, std::span<float> data,
                                       const AllReduceOptions& options) override;
  Status Serve(ViewId view, LaneId lane, const std::string& name,
               std::shared_ptr<ByteSource> source) override;
  void StopServing(ViewId view, LaneId lane, const std::string& name) override;
  void CapServing(double bytes_per_second) override;
  std::shared_ptr<Transfer> Fetch(ViewId view, LaneId lane, FetchRequest request) override;
  std::vector<MemberIndex> Announced(ViewId view, LaneId lane, uint64_t id) override;
  std::vector<LinkStatus> Links() override;
  std::optional<LinkMatrix> Matrix(ViewId view, LaneId lane) override;
  int64_t bytes_sent() const override { return bytes_sent_; }
  int64_t connections_refused() const override { return refused_; }

  // Link::Owner
  Status OnHello(Link* link) override;
  Status OnReady(Link* link) override;
  Status OnHeader(Link* link, const FrameHeader& header) override;
  StatusOr<Link::Verdict> OnFrame(Link* link, const FrameHeader& header, Bytes payload) override;
  bool NextFrame(Link* link) override;
  void OnSent(size_t bytes) override { bytes_sent_ += static_cast<int64_t>(bytes); }

 private:
  using GroupName = std::pair<int64_t, int64_t>;  // view, lane
  using Served = std::vector<std::shared_ptr<ServedSource>>;
  struct Entry {
    std::shared_ptr<JoinProgress> progress;
    std::unique_ptr<GroupState> state;
  };

  void Run();
  int TimeoutMs() const;
  void AcceptAll();
  void PauseAccepting(bool pause);
  Status AddGroup(const Group& group, std::shared_ptr<JoinProgress> progress);
  Status GiveUpJoining(const GroupName& name, double waited_seconds);
  GroupState::Hooks HooksFor(const GroupName& name, uint64_t incarnation,
                             const std::shared_ptr<JoinProgress>& progress, const Group& group);
  // The group of that name, if it is still the same one.
  GroupState* Find(const GroupName& name, uint64_t incarnation);
  void StartLink(const GroupName& name, uint64_t incarnation, int member, StatusOr<Fd> fd);
  Status Admit(Link* link, GroupState* group);
  // Returns what was served in it, to be stopped by another thread than this one.
  Served RemoveGroup(GroupName name);
  // Runs the first on `thread`, made when it is first needed, then the second here, if the group
  // still is.
  void RunAside(std::unique_ptr<Background>* thread, const GroupName& name, uint64_t incarnation,
                std::function<void()> task, std::function<void()> then);
  void CloseGently(Link* link);
  void Drop(Link* link, const Status& status);
  void Settle();
  void Expire();
  void Tick();
  GroupState* Find(const GroupName& name);
  // What is known of the links between members of these names; null: not of all.
  const LinkModel* KnownLinks(int64_t lane, const std::vector<std::string>& names) const;
  void KeepLinks(int64_t lane, const GroupState& group);
  GroupState* GroupOf(const Link* link) { return Find(NameOf(link->hello())); }
  static GroupName NameOf(const Hello& hello) {
    return {static_cast<int64_t>(hello.view), static_cast<int64_t>(hello.lane)};
  }

  const EngineOptions options_;
  const Endpoint endpoint_;
  const std::shared_ptr<CommandQueue> commands_;
  std::atomic<int64_t> bytes_sent_{0};
  std::atomic<int64_t> refused_{0};

  // I/O thread
  Fd epoll_;
  Fd listener_;
  double accept_again_ = 0;  // 0: not paused
  // For groups that have not been joined yet.
  std::map<GroupName, std::map<std::string, std::shared_ptr<ServedSource>>> served_;
  bool stopping_ = false;
  std::map<GroupName, Entry> groups_;
  // What was learned of links in views that have been left, by lane, newest first: views follow one
  // another, and a probe takes longer than all else that a new one needs.
  std::map<int64_t, std::deque<LinkModel>> learned_;
  std::unordered_map<Link*, std::unique_ptr<Link>> links_;
  std::list<Link*> pending_;                    // accepted and not proven, oldest first
  std::list<Link*> dialling_;                   // dialled and not proven, oldest first
  std::list<Link*> closing_;                    // oldest first
  double tick_at_ = 0;                          // of the groups
  double rest_seconds_ = 0;                     // between turns
  RateCap cap_;                                 // of what is served
  std::vector<std::unique_ptr<Link>> dropped_;  // until the events at hand are done

  std::thread thread_;  // uses all of the above
  std::unique_ptr<Background> background_;
  std::unique_ptr<Background> reads_;  // of what is served
  std::unique_ptr<Background> sinks_;  // of what is fetched
};

}  // namespace atl::wan
