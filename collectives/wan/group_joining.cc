// The joining half of GroupState: who dials whom, which connections are let in, who is missing.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/units.h"
#include "collectives/wan/group.h"

namespace atl::wan {
namespace {

constexpr double kFirstBackoffSeconds = 0.02;
constexpr double kLastBackoffSeconds = 1;

}  // namespace

Hello GroupState::HelloFor(int member, int stream) const {
  Hello hello;
  hello.view = static_cast<uint64_t>(group_.view.value);
  hello.lane = static_cast<uint32_t>(group_.lane.value);
  hello.from = static_cast<uint16_t>(self_);
  hello.to = static_cast<uint16_t>(member);
  hello.stream = static_cast<uint16_t>(stream);
  hello.streams = static_cast<uint16_t>(streams_);
  return hello;
}

Status GroupState::CheckHello(const Hello& hello) const {
  if (hello.to != self_ || hello.from <= self_ || hello.from >= members_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a call from member ", hello.from, " to member ",
                                                   hello.to, " has no place in ", Place()));
  }
  const Member& member = members_[hello.from];
  if (!joining_ || (!member.streams.empty() && (member.streams.size() != hello.streams ||
                                                member.streams[hello.stream] != nullptr))) {
    return absl::AlreadyExistsError(absl::StrCat("stream ", hello.stream, " of ", Name(hello.from),
                                                 " has no place in ", Place(), " any more"));
  }
  return OkStatus();
}

Status GroupState::Attach(Link* link) {
  Member& member = members_[link->member()];
  if (!link->dialled()) {
    // Another one with the same number may have been quicker to prove the key.
    RETURN_IF_ERROR(CheckHello(link->hello()));
    // The dialler decides how many streams there are.
    if (member.streams.empty()) member.streams.resize(link->hello().streams);
  }
  member.streams[link->hello().stream] = link;
  CheckStanding();
  MarkDirty(link->member());
  return OkStatus();
}

void GroupState::CheckStanding() {
  if (!joining_) return;
  for (int member = 0; member < static_cast<int>(members_.size()); ++member) {
    const std::vector<Link*>& streams = members_[member].streams;
    if (member == self_) continue;
    if (streams.empty() || std::count(streams.begin(), streams.end(), nullptr) > 0) return;
  }
  joining_ = false;
  progress_->Finish(OkStatus());
}

void GroupState::WantDial(int member, int stream, double delay_seconds) {
  progress_->WantDial({member, stream, Clock::Real()->MonotonicSeconds() + delay_seconds});
}

void GroupState::DialFailed(int member, int stream, const Status& status) {
  if (!joining_) return;
  if (absl::IsUnauthenticated(status) || absl::IsFailedPrecondition(status)) {
    progress_->Finish(Annotate(status, absl::StrCat("while joining ", Place(), ": ", Name(member),
                                                    " at ", group_.members[member].ToString())));
    return;
  }
  Member& peer = members_[member];
  peer.last_error = std::string(status.message());
  peer.backoff_seconds =
      std::clamp(2 * peer.backoff_seconds, kFirstBackoffSeconds, kLastBackoffSeconds);
  WantDial(member, stream, peer.backoff_seconds);
}

Status GroupState::Missing(double waited_seconds) const {
  std::vector<std::string> missing;
  bool refused = false;
  for (int member = 0; member < static_cast<int>(members_.size()); ++member) {
    const Member& peer = members_[member];
    if (member == self_ || (!peer.streams.empty() &&
                            std::count(peer.streams.begin(), peer.streams.end(), nullptr) == 0)) {
      continue;
    }
    refused = refused || peer.key_refused;
    std::string why = peer.last_error;
    if (peer.key_refused) {
      why = "it called, but could not prove that it has the view's key";
    } else if (member > self_) {
      why = peer.streams.empty() ? "it has not called" : "some of its connections are missing";
    } else if (why.empty()) {
      why = "it has not answered";
    }
    missing.push_back(
        absl::StrCat(Name(member), " at ", group_.members[member].ToString(), " (", why, ")"));
  }
  const std::string message =
      absl::StrCat("while joining ", Place(), ": waited ", FormatDuration(waited_seconds), " for ",
                   absl::StrJoin(missing, ", "));
  return refused ? absl::UnauthenticatedError(message) : absl::DeadlineExceededError(message);
}

}  // namespace atl::wan
