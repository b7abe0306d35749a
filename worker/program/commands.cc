#include "worker/program/commands.h"

#include <string>

namespace atl {
namespace {

StatusOr<std::vector<pb::RegionAnswer>> CarryOut(const pb::RegionCommand& command,
                                                 RegionWorker& worker, Communicator& control,
                                                 const AbortRegion& abort) {
  bool must_abort = false;
  const pb::RegionAnswer answer = worker.Execute(command, &must_abort);
  if (must_abort) abort(answer);
  ASSIGN_OR_RETURN(const auto gathered, control.AllGatherBytes(answer.SerializeAsString()));
  std::vector<pb::RegionAnswer> answers(gathered.size());
  for (size_t rank = 0; rank < gathered.size(); ++rank) {
    if (!answers[rank].ParseFromString(gathered[rank]))
      return absl::InternalError("a rank's answer is malformed");
  }
  worker.Observe(answers);
  return answers;
}

}  // namespace

StatusOr<std::vector<pb::RegionAnswer>> RunCommand(const pb::RegionCommand& command,
                                                   RegionWorker& worker, Communicator& control,
                                                   const AbortRegion& abort) {
  std::string bytes = command.SerializeAsString();
  RETURN_IF_ERROR(control.Broadcast(&bytes, 0));
  return CarryOut(command, worker, control, abort);
}

StatusOr<ExitCode> FollowLeader(RegionWorker& worker, Communicator& control,
                                const AbortRegion& abort) {
  for (;;) {
    std::string bytes;
    RETURN_IF_ERROR(control.Broadcast(&bytes, 0));
    pb::RegionCommand command;
    if (!command.ParseFromString(bytes))
      return absl::InternalError("the leader's command is malformed");
    RETURN_IF_ERROR(CarryOut(command, worker, control, abort).status());
    if (command.has_finish()) return static_cast<ExitCode>(command.finish().exit_code());
  }
}

}  // namespace atl
