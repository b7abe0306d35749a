#include "control/message.h"

#include <google/protobuf/stubs/logging.h>

#include "absl/strings/str_cat.h"
#include "control/server.h"

namespace atl {
namespace {

template <typename Message>
StatusOr<Message> Parse(const void* data, size_t size) {
  if (size > static_cast<size_t>(kMaxControlMessageBytes)) {
    return absl::InvalidArgumentError(absl::StrCat("a control message of ", size, " bytes"));
  }
  // The library would log each odd byte: a peer must not be able to fill the log.
  const google::protobuf::LogSilencer silencer;
  Message message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) {
    return absl::InvalidArgumentError(
        absl::StrCat(size, " bytes that are no ", message.GetTypeName()));
  }
  if (message.body_case() == Message::BODY_NOT_SET) {
    return absl::InvalidArgumentError(absl::StrCat("a ", message.GetTypeName(), " without a body"));
  }
  return message;
}

}  // namespace

StatusOr<pb::LeaderMessage> ParseLeaderMessage(const void* data, size_t size) {
  return Parse<pb::LeaderMessage>(data, size);
}

StatusOr<pb::OrchestratorMessage> ParseOrchestratorMessage(const void* data, size_t size) {
  return Parse<pb::OrchestratorMessage>(data, size);
}

}  // namespace atl
