#include "tests/wan/proxy.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace atl::wan {

Proxy::Proxy(const Endpoint& acceptor) : acceptor_(acceptor) {
  listener_ = *ListenTcp({"127.0.0.1", 0});
  endpoint_ = *LocalEndpoint(listener_);
  wake_ = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  thread_ = std::thread([this] { Run(); });
}

Proxy::~Proxy() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  Wake();
  thread_.join();
}

void Proxy::Wake() {
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof one);
}

void Proxy::FlipByte(uint64_t offset, uint8_t mask) {
  std::lock_guard<std::mutex> lock(mutex_);
  flip_in_ = offset;
  flip_mask_ = mask;
}

void Proxy::HoldDialler(bool hold) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    hold_dialler_ = hold;
  }
  Wake();
}

void Proxy::HoldAcceptor(bool hold) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    hold_acceptor_ = hold;
  }
  Wake();
}

void Proxy::Cut() {
  std::unique_lock<std::mutex> lock(mutex_);
  cut_ = true;
  Wake();
  cut_done_.wait(lock, [this] { return !cut_; });
}

std::vector<FrameHeader> Proxy::DiallersFrames() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return frames_;
}

void Proxy::Run() {
  while (true) {
    bool hold_dialler, hold_acceptor;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_) return;
      if (cut_) {
        pairs_.clear();
        cut_ = false;
        cut_done_.notify_all();
      }
      hold_dialler = hold_dialler_;
      hold_acceptor = hold_acceptor_;
    }
    std::vector<pollfd> polls = {{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    std::vector<std::pair<size_t, Pipe*>> owners;
    for (size_t i = 0; i < pairs_.size(); ++i) {
      for (Pipe* const pipe : {&pairs_[i]->out, &pairs_[i]->back}) {
        if (pipe->ended || (pipe->from_dialler ? hold_dialler : hold_acceptor)) continue;
        const bool writing = !pipe->waiting.empty();
        polls.push_back(
            {writing ? pipe->to : pipe->from, static_cast<int16_t>(writing ? POLLOUT : POLLIN), 0});
        owners.emplace_back(i, pipe);
      }
    }
    poll(polls.data(), polls.size(), -1);
    uint64_t count;
    (void)!read(wake_.get(), &count, sizeof count);
    for (size_t i = 0; i < owners.size(); ++i) {
      const auto [pair, pipe] = owners[i];
      if (polls[i + 2].revents != 0 && pairs_[pair] != nullptr && !Move(pipe, pair == 0)) {
        pairs_[pair].reset();
      }
    }
    std::erase(pairs_, nullptr);
    if (polls[1].revents != 0) AcceptOne();
  }
}

void Proxy::AcceptOne() {
  StatusOr<Fd> dialler = AcceptTcp(listener_);
  if (!dialler.ok() || !dialler->valid()) return;
  StatusOr<Fd> acceptor = StartConnectTcp(acceptor_);
  if (!acceptor.ok()) return;
  auto pair = std::make_unique<Pair>();
  pair->dialler = *std::move(dialler);
  pair->acceptor = *std::move(acceptor);
  pair->out.from = pair->back.to = pair->dialler.get();
  pair->out.to = pair->back.from = pair->acceptor.get();
  pair->out.from_dialler = true;
  pairs_.push_back(std::move(pair));
}

bool Proxy::Move(Pipe* pipe, bool first_pair) {
  if (!pipe->waiting.empty()) {
    const ssize_t sent =
        send(pipe->to, pipe->waiting.data(), pipe->waiting.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return errno == EAGAIN;
    pipe->waiting.erase(pipe->waiting.begin(), pipe->waiting.begin() + sent);
    return true;
  }
  uint8_t buffer[16 << 10];
  const ssize_t got = recv(pipe->from, buffer, sizeof buffer, MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN;
  if (got == 0) {
    shutdown(pipe->to, SHUT_WR);
    pipe->ended = true;
    return true;
  }
  if (pipe->from_dialler) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (first_pair && flip_in_.has_value()) {
      if (*flip_in_ < static_cast<uint64_t>(got)) {
        buffer[*flip_in_] ^= flip_mask_;
        flip_in_.reset();
      } else {
        *flip_in_ -= got;
      }
    }
    ReadHeaders(pipe, buffer, static_cast<size_t>(got));
  }
  pipe->passed += got;
  pipe->waiting.assign(buffer, buffer + got);
  return true;
}

void Proxy::ReadHeaders(Pipe* pipe, const uint8_t* data, size_t size) {
  uint64_t at = pipe->passed;
  const uint64_t end = pipe->passed + size;
  while (at < end) {
    if (at < pipe->next_header) {
      at = std::min(end, pipe->next_header);
      continue;
    }
    pipe->header.push_back(data[at - pipe->passed]);
    ++at;
    if (pipe->header.size() < kHeaderSize) continue;
    const auto header = ParseHeader(pipe->header);
    pipe->header.clear();
    if (!header.ok()) {
      pipe->next_header = UINT64_MAX;  // a test has changed it; what follows has no meaning here
      return;
    }
    frames_.push_back(*header);
    pipe->next_header = at + header->payload + kTagSize;
  }
}

}  // namespace atl::wan
