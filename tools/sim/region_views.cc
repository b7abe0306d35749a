// What a region does to come into a view: it loads or fetches its state, and joins the others.
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/sim/region.h"
#include "tools/sim/world.h"

namespace atl::sim {

void Region::RunSetUp() {
  Later(world_->dice().Uniform(0.2, 3), [this, n = command_number_] {
    if (n != command_number_) return;
    pb::RegionAnswer answer;
    answer.set_parameters(1000);
    answer.set_dataset_samples(1000000);
    answer.set_dataset_fingerprint(7);
    for (const pb::CheckpointOnDisk& checkpoint : disk_) *answer.add_checkpoints() = checkpoint;
    Answer(answer);
  });
}

void Region::RunEnter(const pb::View& view) {
  Later(world_->dice().Uniform(0.1, 1), [this, n = command_number_, view] {
    if (n != command_number_) return;
    pb::RegionAnswer answer;
    Memory fresh;
    fresh.has_state = true;
    fresh.round = view.first_round() - 1;
    fresh.view = view.id();
    if (view.checkpoint().empty()) {
      fresh.digest = SeedDigest();
    } else if (view.checkpoint() == kMemoryCheckpoint) {
      world_->Count("went on from memory");
      fresh.digest = memory_.has_state ? memory_.digest : stale_.second;
    } else {
      for (const pb::CheckpointOnDisk& checkpoint : disk_) {
        if (checkpoint.path() == view.checkpoint()) fresh.digest = checkpoint.digest();
      }
      world_->Count("loaded a checkpoint");
    }
    if (fresh.digest.empty()) {
      answer.set_checkpoint_unusable(true);
      answer.set_error("it is not there");
      return Answer(answer);
    }
    memory_ = fresh;
    answer.set_digest(fresh.digest);
    world_->sea().BeginJoin(index_, view);
    AwaitJoined(view.id(), [this, answer] { Answer(answer); });
  });
}

void Region::AwaitJoined(int64_t view, std::function<void()> then) {
  joining_ = view;
  if (world_->sea().HasJoined(index_, view)) {
    joining_ = 0;
    return Later(0.1, [n = command_number_, this, then = std::move(then)] {
      if (n == command_number_) then();
    });
  }
  Later(0.1, [this, n = command_number_, view, then = std::move(then)] {
    if (n == command_number_) AwaitJoined(view, then);
  });
}

void Region::RunSwitch(const pb::SwitchView& command) {
  const pb::View view = command.view();
  world_->sea().BeginJoin(index_, view);
  AwaitJoined(view.id(), [this, view, fetch = command.fetch()] {
    if (fetch && memory_.has_state) {
      stale_ = {memory_.round, memory_.digest};
      memory_.has_state = false;
      memory_.carries = false;
    }
    memory_.view = view.id();
    bool observers = false;
    for (const pb::Member& member : view.members()) {
      observers |= !IsFull(member);
      if (member.region() == name_) memory_.observes = !IsFull(member);
    }
    // A copy of the state before the first round; made now, or when that state has been taken.
    memory_.served.reset();
    memory_.serves_round = observers && !memory_.observes ? view.first_round() - 1 : -1;
    if (memory_.has_state && memory_.round == memory_.serves_round) {
      memory_.served = {memory_.round, memory_.digest};
    }
    if (fetch) {
      memory_.heard.clear();
      memory_.fetched.reset();
      BeginFetch();
    }
    Answer({});
  });
}

// From whoever serves; a part at a time is not modelled, its time is.
void Region::BeginFetch() {
  const int64_t number = ++fetch_number_;
  const double seconds = world_->dice().Uniform(0.5, 4) *
                         (world_->settings().step_seconds + world_->settings().reduce_seconds);
  Later(seconds, [this, number] {
    if (number != fetch_number_ || memory_.has_state || !memory_.observes) return;
    EndFetch();
    if (!memory_.fetched)
      Later(0.5, [this, number] {
        if (number == fetch_number_) BeginFetch();
      });
  });
}

void Region::EndFetch() {
  for (int other = 0; other < world_->regions(); ++other) {
    const Region& source = world_->region(other);
    if (other == index_ || !source.alive() || !world_->sea().Reaches(index_, other)) continue;
    if (source.memory_.view != memory_.view || !source.memory_.served) continue;
    memory_.fetched = source.memory_.served;
    return;
  }
}

}  // namespace atl::sim
