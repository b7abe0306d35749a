// A region's disk: saves behind the rounds.
#include "absl/strings/str_cat.h"
#include "tools/sim/region.h"
#include "tools/sim/world.h"

namespace atl::sim {

// The copy takes a moment, the disk its time behind the next rounds; who saves oftener than the
// disk can take skips.
void Region::RunSave(const pb::SaveCheckpoint& command) {
  Later(0.05 * slow_, [this, n = command_number_, command] {
    if (n != command_number_) return;
    if (command.round() != memory_.round || command.digest() != memory_.digest) {
      world_->promises().Break("model", absl::StrCat(name_, " saves round ", command.round(),
                                                     " but holds ", memory_.round));
    }
    pb::RegionAnswer answer;
    if (!command.wait() && unwritten_.size() >= 2) {
      world_->Count("save skipped");
      answer.set_skipped(true);
      return Answer(answer);
    }
    pb::CheckpointOnDisk checkpoint;
    checkpoint.set_round(command.round());
    checkpoint.set_digest(memory_.digest);
    checkpoint.set_path(absl::StrCat("/", name_, "/", command.round(), "/", memory_.digest));
    checkpoint.set_own(true);
    checkpoint.set_next_sample(command.next_sample());
    *checkpoint.mutable_returned() = command.returned();
    checkpoint.set_inner_steps(command.round() * world_->job().train().inner_steps());
    unwritten_.push_back(checkpoint);
    if (command.wait()) return AwaitWritten(n);
    answer.set_pending(true);
    // A quick disk: the word that it is written overtakes the answer.
    if (unwritten_.size() == 1 && world_->dice().Chance(0.05)) {
      world_->Count("a save ended before its answer");
      TellWritten();
      if (n == command_number_) Answer(answer);
      return;
    }
    Later(world_->dice().Uniform(0.2, 4) * slow_, [this] { TellWritten(); });
    Answer(answer);
  });
}

void Region::TellWritten() {
  const pb::CheckpointOnDisk written = Write();
  pb::SaveEnded ended;
  ended.set_round(written.round());
  ended.set_path(written.path());
  ended.set_bytes(1000);
  Do([&](Agent& agent) { return agent.OnSaved(ended, Clock()); });
}

void Region::AwaitWritten(int64_t command_number) {
  Later(0.3 * slow_, [this, command_number] {
    if (command_number != command_number_) return;
    if (unwritten_.size() > 1) return AwaitWritten(command_number);
    pb::RegionAnswer answer;
    answer.set_path(Write().path());
    answer.set_bytes(1000);
    Answer(answer);
  });
}

// The oldest save reaches the disk.
pb::CheckpointOnDisk Region::Write() {
  pb::CheckpointOnDisk written = unwritten_.front();
  unwritten_.pop_front();
  disk_.push_back(written);
  if (disk_.size() > 3) disk_.erase(disk_.begin());
  return written;
}

}  // namespace atl::sim
