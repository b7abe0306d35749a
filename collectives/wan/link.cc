#include "collectives/wan/link.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"

namespace atl::wan {
namespace {

// Work for one connection before the others get their turn.
constexpr size_t kBytesPerTurn = 1 << 20;
// Bytes that the kernel may hold beyond what is on its way: small, so that what is most urgent is
// chosen late.
constexpr int kUnsentInKernel = 128 << 10;

// Shorter round trips are those of one building: there loss is rare and BBR halves the rate.
constexpr double kLongRoundTripSeconds = 2e-3;

// BBR that knows of so much of what a link is to carry is left alone.
constexpr double kEnoughOfPace = 0.95;

// Only tuning: a kernel that lacks one of these still carries every byte.
void Wish(const Status& status) {
  if (!status.ok()) VLOG(1) << status.message();
}

}  // namespace

Link::Link(Owner* owner, int epoll, Fd fd, bool dialled)
    : owner_(owner),
      epoll_(epoll),
      fd_(std::move(fd)),
      dialled_(dialled),
      state_(dialled ? State::kConnecting : State::kAwaitHello) {
  Wish(SetKeepAlive(fd_));
  Wish(SetUnsentLimit(fd_, kUnsentInKernel));
  epoll_event event = {};
  event.events = interest_ = dialled ? EPOLLOUT : EPOLLIN;
  event.data.ptr = this;
  CHECK_EQ(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd_.get(), &event), 0) << std::strerror(errno);
}

Link::~Link() { epoll_ctl(epoll_, EPOLL_CTL_DEL, fd_.get(), nullptr); }

std::unique_ptr<Link> Link::Dialled(Owner* owner, int epoll, Fd fd, const Endpoint& to,
                                    const Hello& hello, const Key& key) {
  std::unique_ptr<Link> link(new Link(owner, epoll, std::move(fd), true));
  link->endpoint_ = to;
  link->hello_ = hello;
  link->key_ = key;
  FillWithSystemRandom(link->hello_.nonce.data(), kNonceSize);
  return link;
}

std::unique_ptr<Link> Link::Accepted(Owner* owner, int epoll, Fd fd) {
  std::unique_ptr<Link> link(new Link(owner, epoll, std::move(fd), false));
  link->Expect(kGreetingHead);
  return link;
}

Status Link::OnEvents(uint32_t events) {
  if (state_ == State::kConnecting) {
    RETURN_IF_ERROR(OnConnected());
  } else if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP)) != 0) {
    if (Paused()) {
      // Only the end of the connection is reported while nothing is read.
      int error = 0;
      socklen_t size = sizeof error;
      getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
      return Closed(error);
    }
    RETURN_IF_ERROR(Read());
  }
  return Flush();
}

Status Link::OnConnected() {
  RETURN_IF_ERROR(ConnectResult(fd_, endpoint_));
  EncodeHello(hello_, Reserve(kHelloSize));
  state_ = State::kAwaitAnswer;
  Expect(kGreetingHead);
  return OkStatus();
}

Status Link::Read() {
  size_t read_now = 0;
  while (read_now < kBytesPerTurn && !Paused()) {
    if (state_ == State::kClosing) return DiscardInput();
    const ssize_t got = recv(fd_.get(), in_.data() + in_have_, in_need_ - in_have_, 0);
    if (got == 0) return Closed(0);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return OkStatus();
      return Closed(errno);
    }
    heard = Clock::Real()->MonotonicSeconds();
    read_now += static_cast<size_t>(got);
    in_have_ += static_cast<size_t>(got);
    if (in_have_ == in_need_) RETURN_IF_ERROR(Consume());
  }
  UpdateInterest();
  return OkStatus();
}

Status Link::Consume() {
  switch (state_) {
    case State::kAwaitHello:
      return ConsumeHello();
    case State::kAwaitAnswer:
      return ConsumeAnswer();
    case State::kAwaitConfirm:
    case State::kReady:
      return header_.has_value() ? ConsumeFrame() : ConsumeHeader();
    case State::kConnecting:
    case State::kHeld:
    case State::kClosing:
      break;
  }
  LOG(FATAL) << "a link reads in a state in which it awaits nothing";
  return OkStatus();
}

Status Link::ConsumeVersion(size_t whole) {
  ASSIGN_OR_RETURN(const uint16_t version, ParseVersion(Bytes(in_.data(), kGreetingHead)));
  if (version == kWireVersion) {
    in_need_ = whole;
    if (in_.size() < whole) in_.resize(whole);
    return OkStatus();
  }
  if (!dialled_) {
    // The answer in our version tells the other end why; one write reaches an idle socket whole.
    // What is left of the hello is taken first: closed over unread bytes, the connection would be
    // reset, and the answer lost.
    uint8_t waste[1024];
    (void)!recv(fd_.get(), waste, sizeof waste, 0);
    uint8_t answer[kAnswerSize];
    EncodeAnswer(Answer(), answer);
    (void)!send(fd_.get(), answer, sizeof answer, MSG_NOSIGNAL);
  }
  return absl::FailedPreconditionError(absl::StrCat(dialled_ ? "it" : "a caller",
                                                    " speaks wire version ", version,
                                                    ", this gateway speaks ", kWireVersion));
}

Status Link::ConsumeHello() {
  if (in_need_ == kGreetingHead) return ConsumeVersion(kHelloSize);
  ASSIGN_OR_RETURN(hello_, ParseHello(Bytes(in_.data(), kHelloSize)));
  state_ = State::kHeld;
  return owner_->OnHello(this);
}

Status Link::Accept(const Key& key, uint64_t incarnation) {
  CHECK(state_ == State::kHeld);
  Answer answer;
  answer.incarnation = incarnation;
  FillWithSystemRandom(answer.nonce.data(), kNonceSize);
  EncodeAnswer(answer, Reserve(kAnswerSize));
  MakeKeys(key, answer);
  return Flush();
}

Status Link::ConsumeAnswer() {
  if (in_need_ == kGreetingHead) return ConsumeVersion(kAnswerSize);
  ASSIGN_OR_RETURN(const Answer answer, ParseAnswer(Bytes(in_.data(), kAnswerSize)));
  answered_ = answer.incarnation;
  MakeKeys(key_, answer);
  // Before the other's confirmation is looked at: if the keys differ, both ends shall know.
  return Flush();
}

void Link::MakeKeys(const Key& key, const Answer& answer) {
  const StreamKeys keys = DeriveStreamKeys(key, hello_, answer);
  const bool plain = hello_.plain != 0;
  sealer_.emplace(dialled_ ? keys.from_dialler : keys.from_acceptor, plain);
  opener_.emplace(dialled_ ? keys.from_acceptor : keys.from_dialler, plain);
  Append(FrameHeader(), {});
  state_ = State::kAwaitConfirm;
  Expect(kHeaderSize);
}

Status Link::ConsumeHeader() {
  ASSIGN_OR_RETURN(const FrameHeader header, ParseHeader(Bytes(in_.data(), kHeaderSize)));
  const bool confirming = state_ == State::kAwaitConfirm;
  if ((header.type == FrameType::kConfirm) != confirming) {
    return absl::InvalidArgumentError("a frame that has no place here");
  }
  if (!confirming) RETURN_IF_ERROR(owner_->OnHeader(this, header));
  header_ = header;
  in_need_ = kHeaderSize + header.payload + kTagSize;
  if (in_.size() < in_need_) in_.resize(in_need_);
  return OkStatus();
}

Status Link::ConsumeFrame() {
  const FrameHeader header = *header_;
  uint8_t* const payload = in_.data() + kHeaderSize;
  const bool authentic = opener_->Open(Bytes(in_.data(), kHeaderSize), payload, header.payload,
                                       payload + header.payload);
  header_.reset();
  if (state_ == State::kAwaitConfirm) {
    Expect(kHeaderSize);
    if (!authentic) return absl::UnauthenticatedError("could not prove that it has the view's key");
    state_ = State::kReady;
    return owner_->OnReady(this);
  }
  if (!authentic) return absl::DataLossError("sent a frame that was damaged or forged on the way");
  ASSIGN_OR_RETURN(const Verdict verdict,
                   owner_->OnFrame(this, header, Bytes(payload, header.payload)));
  if (verdict == Verdict::kNotNow) {
    stalled_ = header;
  } else {
    Expect(kHeaderSize);
  }
  return OkStatus();
}

Status Link::Resume() {
  if (!stalled_.has_value()) return OkStatus();
  const FrameHeader header = *stalled_;
  const Bytes payload(in_.data() + kHeaderSize, header.payload);
  ASSIGN_OR_RETURN(const Verdict verdict, owner_->OnFrame(this, header, payload));
  if (verdict == Verdict::kNotNow) return OkStatus();
  stalled_.reset();
  Expect(kHeaderSize);
  UpdateInterest();  // epoll reports at once what has been waiting
  return OkStatus();
}

Status Link::DiscardInput() {
  uint8_t waste[16 << 10];
  for (size_t read_now = 0; read_now < kBytesPerTurn;) {
    const ssize_t got = recv(fd_.get(), waste, sizeof waste, 0);
    if (got > 0) {
      read_now += static_cast<size_t>(got);
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return OkStatus();
    } else {
      return Closed(got == 0 ? 0 : errno);
    }
  }
  return OkStatus();
}

Status Link::Flush() {
  if (state_ == State::kConnecting) return OkStatus();
  size_t sent_now = 0;
  while (sent_now < kBytesPerTurn) {
    if (unsent() == 0) {
      out_begin_ = out_end_ = 0;
      unsent_acks = 0;
      if (state_ != State::kReady || bye_sent || !owner_->NextFrame(this)) break;
    }
    const ssize_t sent = SendSome();
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) break;
      return Closed(errno);
    }
    sent_now += static_cast<size_t>(sent);
    owner_->OnSent(static_cast<size_t>(sent));
  }
  if (state_ == State::kClosing && unsent() == 0 && !shut_) {
    shutdown(fd_.get(), SHUT_WR);
    shut_ = true;
  }
  // Out of turn with the buffer empty: there may be more to ask for.
  if (sent_now >= kBytesPerTurn && unsent() == 0 && state_ == State::kReady && !bye_sent) {
    out_begin_ = out_end_ = 0;
    owner_->NextFrame(this);
  }
  UpdateInterest();
  return OkStatus();
}

ssize_t Link::SendSome() {
  iovec parts[3];
  int count = 0;
  const size_t before = outside_.empty() ? out_end_ : outside_at_;
  if (before > out_begin_) parts[count++] = {out_.data() + out_begin_, before - out_begin_};
  if (!outside_.empty()) {
    parts[count++] = {const_cast<uint8_t*>(outside_.data()), outside_.size()};
    if (out_end_ > before) parts[count++] = {out_.data() + before, out_end_ - before};
  }
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = static_cast<size_t>(count);
  const ssize_t sent = sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
  if (sent <= 0) return sent;
  size_t rest = static_cast<size_t>(sent);
  const size_t first = std::min(rest, before - out_begin_);
  out_begin_ += first;
  rest -= first;
  if (rest > 0) {
    const size_t middle = std::min(rest, outside_.size());
    outside_ = outside_.subspan(middle);
    out_begin_ += rest - middle;
  }
  return sent;
}

void Link::Detach() {
  if (outside_.empty()) return;
  const auto at = out_.begin() + static_cast<int64_t>(outside_at_);
  out_.insert(at, outside_.begin(), outside_.end());
  out_end_ += outside_.size();
  outside_ = {};
}

void Link::Pace(double bytes_per_second) {
  if (pace_ > 0 && std::abs(bytes_per_second - pace_) < 0.005 * pace_) return;
  if (pace_ == 0 && std::isinf(bytes_per_second)) return;
  pace_ = bytes_per_second;
  Wish(SetPacingRate(fd_, bytes_per_second));
}

// BBR keeps its rate through losses that are no congestion and through the idle time between
// rounds; where it is not to be had, pacing alone must do.
void Link::Tune() {
  const StatusOr<TcpState> state = Tcp();
  if (!state.ok() || state->rtt_seconds == 0) return;
  const bool bbr = state->rtt_seconds > kLongRoundTripSeconds;
  const Status set = SetCongestionControl(fd_, bbr ? "bbr" : "cubic");
  bbr_ = bbr && set.ok();
  Wish(set);
}

// What BBR thinks that the path delivers grows by a quarter in eight round trips: of a link that
// had to share its line in the operation before it is still too little seconds later, though the
// plan knows better. Taken anew it finds the rate in two round trips, held back by our pacing.
// Reno is the one that every user may have in between.
void Link::ForgetRate() {
  if (!bbr_) return;
  const StatusOr<double> rate = GetBbrRate(fd_);
  const bool paced = pace_ > 0 && !std::isinf(pace_);
  if (rate.ok() && paced && *rate >= kEnoughOfPace * pace_) return;
  Wish(SetCongestionControl(fd_, "reno"));
  const Status again = SetCongestionControl(fd_, "bbr");
  bbr_ = again.ok();
  Wish(again);
}

void Link::CloseGently() {
  state_ = State::kClosing;
  stalled_.reset();
  UpdateInterest();
}

bool Link::awaits_room() const { return (interest_ & EPOLLOUT) != 0; }

uint8_t* Link::BeginFrame(const FrameHeader& header) {
  uint8_t* const at = Reserve(kHeaderSize + header.payload + kTagSize);
  frame_begin_ = static_cast<size_t>(at - out_.data());
  EncodeHeader(header, at);
  return at + kHeaderSize;
}

void Link::FinishFrame() {
  uint8_t* const at = out_.data() + frame_begin_;
  const size_t size = out_end_ - frame_begin_ - kHeaderSize - kTagSize;
  uint8_t* const payload = at + kHeaderSize;
  sealer_->Seal(Bytes(at, kHeaderSize), Bytes(payload, size), payload, payload + size);
}

void Link::Append(const FrameHeader& header, Bytes payload) {
  uint8_t* const out = BeginFrame(header);
  sealer_->Seal(Bytes(out - kHeaderSize, kHeaderSize), payload, out, out + payload.size());
}

void Link::AppendInPlace(const FrameHeader& header, Bytes payload) {
  if (!sealer_->plain() || !outside_.empty() || payload.empty()) {
    Append(header, payload);
    return;
  }
  uint8_t* const at = Reserve(kHeaderSize + kTagSize);
  EncodeHeader(header, at);
  sealer_->Check(Bytes(at, kHeaderSize), payload, at + kHeaderSize);
  outside_ = payload;
  outside_at_ = static_cast<size_t>(at - out_.data()) + kHeaderSize;
}

void Link::Expect(size_t bytes) {
  in_have_ = 0;
  in_need_ = bytes;
  if (in_.size() < bytes) in_.resize(bytes);
}

uint8_t* Link::Reserve(size_t bytes) {
  if (out_.size() < out_end_ + bytes) out_.resize(out_end_ + bytes);
  uint8_t* const at = out_.data() + out_end_;
  out_end_ += bytes;
  return at;
}

void Link::UpdateInterest() {
  uint32_t wanted = 0;
  if (!Paused()) wanted |= EPOLLIN;
  // A dialler that gives up while it is held frees its place.
  if (state_ == State::kHeld) wanted |= EPOLLRDHUP;
  if (unsent() != 0 || state_ == State::kConnecting) wanted |= EPOLLOUT;
  if (wanted == interest_) return;
  epoll_event event = {};
  event.events = interest_ = wanted;
  event.data.ptr = this;
  CHECK_EQ(epoll_ctl(epoll_, EPOLL_CTL_MOD, fd_.get(), &event), 0) << std::strerror(errno);
}

Status Link::Closed(int error_number) const {
  if (error_number == 0) return absl::UnavailableError("the connection was closed");
  if (error_number == ECONNRESET || error_number == EPIPE) {
    return absl::UnavailableError("the connection was reset");
  }
  return absl::UnavailableError(
      absl::StrCat("the connection broke: ", std::strerror(error_number)));
}

}  // namespace atl::wan
