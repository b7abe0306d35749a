// One TCP connection between two gateways, from its first byte to its last. Non-blocking; knows
// greetings, keys and frames, but no groups and no operations.
//
// 1. Dialler: connect, send Hello, await Answer, send the sealed confirmation, await the other's.
//    Acceptor: await Hello, then pause (nothing more is read) until its owner calls Accept(); send
//    Answer and confirmation, await the other's.
// 2. A confirmation that does not open ends the connection with kUnauthenticated: the other end has
//    another key, or somebody stands between. Until then nothing but the greeting was accepted and
//    nothing bigger was allocated.
// 3. Ready: frames both ways. Reading goes header first, then exactly the rest of the frame. The
//    owner may answer "not now" to a frame; then reading stops, and with it, by TCP's own
//    back-pressure, the sender, until Resume(). Writing asks the owner for the next frame whenever
//    the last has gone to the kernel, so that what is most urgent goes next and whichever
//    connection drains takes the most.
// 4. Close: after CloseGently() what is buffered is still sent, then the sending direction is shut;
//    what comes in is thrown away until the other end shuts too. (A plain close with unread bytes
//    would reset the connection and destroy what is on its way.)
//
// 5. A payload that lies in memory which stays as it is (AppendInPlace) is sealed from there, or,
//    on a plain connection, handed to the kernel from there.
//
// Every method that returns an error leaves the link to be destroyed by its owner. Thread rule: the
// I/O thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/socket.h"
#include "base/status.h"
#include "base/tcp.h"
#include "collectives/wan/frame.h"
#include "collectives/wan/seal.h"

namespace atl::wan {

class Link {
 public:
  enum class Verdict { kTaken, kNotNow };

  class Owner {
   public:
    virtual ~Owner() = default;
    // Acceptor: a well-formed hello of our version. Accept() now, later, or an error.
    virtual Status OnHello(Link* link) = 0;
    // Both ends have proven the key.
    virtual Status OnReady(Link* link) = 0;
    // May a frame with this header come here? Asked before its payload is read or stored; the
    // header is not yet authentic.
    virtual Status OnHeader(Link* link, const FrameHeader& header) = 0;
    virtual StatusOr<Verdict> OnFrame(Link* link, const FrameHeader& header, Bytes payload) = 0;
    // Appends the next frame with Link::Append, or returns false: there is none for now.
    virtual bool NextFrame(Link* link) = 0;
    // So many bytes went to the kernel.
    virtual void OnSent(size_t bytes) = 0;
  };

  // `fd` is connecting; `hello` lacks only its nonce.
  static std::unique_ptr<Link> Dialled(Owner* owner, int epoll, Fd fd, const Endpoint& to,
                                       const Hello& hello, const Key& key);
  static std::unique_ptr<Link> Accepted(Owner* owner, int epoll, Fd fd);
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // What epoll reported. kUnavailable: closed or reset; kUnauthenticated, kFailedPrecondition: see
  // above; kInvalidArgument: bytes that break the protocol; kDataLoss: a frame that did not open.
  Status OnEvents(uint32_t events);
  // Goes on with an accepted connection whose hello was held. `incarnation` is ours.
  Status Accept(const Key& key, uint64_t incarnation);
  // Offers the frame again that was answered with kNotNow, and reads on.
  Status Resume();
  // Sends what it can; asks NextFrame when nothing is left.
  Status Flush();
  void CloseGently();

  // Room for a frame's payload, to be filled and then sealed by FinishFrame.
  uint8_t* BeginFrame(const FrameHeader& header);
  void FinishFrame();
  void Append(const FrameHeader& header, Bytes payload);
  // `payload` stays as it is until it has been sent or Detach() was called.
  void AppendInPlace(const FrameHeader& header, Bytes payload);
  void Detach();

  // Tells the kernel how fast to send, unless it has been told so already.
  void Pace(double bytes_per_second);
  // Chooses the congestion control that suits the link's round trip.
  void Tune();
  // Before an operation: the rate that the kernel has found for this link so far is found anew, at
  // most as fast as it is paced.
  void ForgetRate();
  StatusOr<TcpState> Tcp() const { return GetTcpState(fd_); }

  bool dialled() const { return dialled_; }
  bool ready() const { return state_ == State::kReady; }
  bool held() const { return state_ == State::kHeld; }
  bool closing() const { return state_ == State::kClosing; }
  bool stalled() const { return stalled_.has_value(); }
  // Bytes of user memory that wait to be sent.
  size_t unsent() const { return out_end_ - out_begin_ + outside_.size(); }
  // The kernel takes no more for now; epoll will say when it does.
  bool awaits_room() const;
  // Valid from OnHello on, at the dialler from the start.
  const Hello& hello() const { return hello_; }
  // The other end's member index, and its incarnation (from OnReady on).
  int member() const { return dialled_ ? hello_.to : hello_.from; }
  uint64_t peer_incarnation() const { return dialled_ ? answered_ : hello_.incarnation; }

  // For the owner's use: when to give up on the handshake or the gentle close, when something last
  // came in and was asked for in vain, whether the peer wants to hear something, which operations'
  // starts it has carried, and whether the other end has said that it sends no more, or we have.
  double deadline = 0;
  double heard = 0;
  double pinged = 0;  // first ping since then; 0: none
  double last_ping = 0;
  bool ack_wanted = false;
  int unsent_acks = 0;  // since all was last with the kernel
  std::set<uint64_t> announced;
  bool bye_received = false;
  bool bye_sent = false;
  double attached = 0;   // when it became one of its channel's links
  bool surplus = false;  // one too many: to be closed
  // The owner has taken the link off its lists; it is destroyed when the events at hand are done.
  bool dropped = false;

 private:
  enum class State {
    kConnecting,
    kAwaitHello,
    kHeld,
    kAwaitAnswer,
    kAwaitConfirm,
    kReady,
    kClosing
  };

  Link(Owner* owner, int epoll, Fd fd, bool dialled);
  Status OnConnected();
  Status Read();
  // The bytes that were asked for are here: a greeting, a header, or a whole frame.
  Status Consume();
  // The head of a greeting that is so long in our version.
  Status ConsumeVersion(size_t whole);
  Status ConsumeHello();
  Status ConsumeAnswer();
  Status ConsumeHeader();
  Status ConsumeFrame();
  Status DiscardInput();
  void MakeKeys(const Key& key, const Answer& answer);
  void Expect(size_t bytes);
  // One system call's worth of what waits; what send() returns.
  ssize_t SendSome();
  // Appends plain bytes to what is to be sent.
  uint8_t* Reserve(size_t bytes);
  void UpdateInterest();
  bool Paused() const { return state_ == State::kHeld || stalled_.has_value(); }
  Status Closed(int error_number) const;

  Owner* const owner_;
  const int epoll_;
  const Fd fd_;
  const bool dialled_;
  State state_;
  Endpoint endpoint_;  // of a dialled link
  Hello hello_;
  Key key_ = {};           // of the view; a dialled link's, until it made its own
  uint64_t answered_ = 0;  // incarnation of who answered a dialled link
  std::optional<Sealer> sealer_;
  std::optional<Opener> opener_;

  std::vector<uint8_t> in_;
  size_t in_have_ = 0;
  size_t in_need_ = 0;
  std::optional<FrameHeader> header_;   // of the frame that is being read
  std::optional<FrameHeader> stalled_;  // of the opened frame in in_ that was answered with kNotNow

  std::vector<uint8_t> out_;
  size_t out_begin_ = 0;
  size_t out_end_ = 0;
  size_t frame_begin_ = 0;  // between BeginFrame and FinishFrame
  Bytes outside_;           // what is left of a payload in place; it belongs at out_[outside_at_]
  size_t outside_at_ = 0;
  bool bbr_ = false;
  double pace_ = 0;        // 0: not told yet
  bool shut_ = false;      // the sending direction is
  uint32_t interest_ = 0;  // what epoll watches
};

}  // namespace atl::wan
