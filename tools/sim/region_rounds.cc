// A region's rounds: what is trained, contributed, taken and committed, as numbers (region.h).
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/random.h"
#include "tools/sim/region.h"
#include "tools/sim/world.h"

namespace atl::sim {
namespace {

uint64_t Mix(uint64_t one, uint64_t other) {
  return Mix64(one * 0x9E3779B97F4A7C15ull ^ Mix64(other));
}

uint64_t Bits(const std::string& digest) {
  const auto parsed = Digest::FromHex(digest);
  return parsed.ok() ? parsed->low : 0;
}

std::string DigestOf(uint64_t bits) { return Digest{bits, 1}.Hex(); }

uint64_t BitsOf(const std::vector<Range>& samples) {
  uint64_t bits = 0;
  for (const Range& range : samples) {
    for (int64_t at = range.begin; at < range.end; ++at) bits += Mix64(static_cast<uint64_t>(at));
  }
  return bits;
}

}  // namespace

std::string SeedDigest() { return DigestOf(0x5EED); }

void Region::RunTrain(const pb::TrainRound& command) {
  if (command.first_step() == 0) {
    if (memory_.training == command.round() && memory_.trained_on == memory_.digest &&
        !memory_.trained.empty()) {
      world_->promises().Break("P4", absl::StrCat(name_, " trains round ", command.round(),
                                                  " again, though it holds what it trained"));
    }
    if (memory_.training == command.round() && memory_.carries) {
      world_->promises().Break("P4", absl::StrCat(name_, " forgets what it holds for round ",
                                                  command.round(), " though it was late"));
    }
    memory_.training = command.round();
    memory_.trained.clear();
    memory_.trained_on = memory_.digest;
    memory_.carries = false;
  }
  if (memory_.carries) world_->Count("a late region trained on");
  if (!memory_.has_state || memory_.training != command.round() ||
      command.round() != memory_.round + 1) {
    world_->promises().Break("model", absl::StrCat(name_, " is to train round ", command.round(),
                                                   " at round ", memory_.round));
  }
  StepDone(command.first_step() - 1);
}

void Region::StepDone(int64_t step) {
  const pb::TrainRound& train = command_->train();
  const std::vector<Range> samples = FromProto(train.samples());
  const int64_t per_step = SizeOf(samples) / train.steps();
  if (step >= train.first_step()) {
    for (const Range& range : Prefix(Suffix(samples, step * per_step), per_step)) {
      memory_.trained.push_back(range);
    }
  }
  const int64_t done = step + 1;
  const bool more = done < train.steps() && done > train.first_step();
  const bool quorum = more && train.quorum() > 0 &&
                      world_->sea().Begun(memory_.view, train.position()) >= train.quorum();
  const bool enough = done >= train.steps() || (more && (interrupt_ || quorum));
  if (!enough) {
    return Later(world_->settings().step_seconds * slow_ * world_->dice().Uniform(0.9, 1.2),
                 [this, n = command_number_, done] {
                   if (n == command_number_) StepDone(done);
                 });
  }
  pb::RegionAnswer answer;
  answer.set_steps(done);
  answer.set_quorum(quorum);
  answer.set_tokens((done - train.first_step()) * per_step *
                    world_->job().data().sequence_length());
  answer.set_loss_sum(2.0 * static_cast<double>(answer.tokens()));
  Answer(answer);
}

void Region::RunReduce(const pb::ReduceRound& command) {
  Contribution contribution;
  if (command.mode() == pb::ReduceRound::CONTRIBUTE) {
    const std::string& on = memory_.carries ? memory_.before : memory_.digest;
    if (memory_.training != command.round() || memory_.trained_on != on ||
        SizeOf(memory_.trained) != command.note().samples()) {
      world_->promises().Break(
          "P4", absl::StrCat(name_, " is to contribute ", command.note().samples(),
                             " samples to round ", command.round(), ", but holds ",
                             SizeOf(memory_.trained), " of round ", memory_.training));
    }
    contribution.bits = Mix(Bits(memory_.trained_on), BitsOf(memory_.trained));
    contribution.tokens = command.note().tokens();
    contribution.samples = memory_.trained;
    if (memory_.carries) CountCarried(command);
  }
  if (command.mode() == pb::ReduceRound::LATE &&
      (memory_.training != command.round() || memory_.trained.empty() || memory_.carries)) {
    world_->promises().Break("P4", absl::StrCat(name_, " is late in round ", command.round(),
                                                " with nothing, or for the second time"));
  }
  last_reduction_late_ = command.mode() == pb::ReduceRound::LATE;
  if (command.mode() == pb::ReduceRound::GIVE &&
      (memory_.kept == nullptr || memory_.kept->round != command.round())) {
    world_->promises().Break("P4", absl::StrCat(name_, " is to give the result of round ",
                                                command.round(), ", but does not hold it"));
    return;
  }
  world_->sea().Begin(index_, memory_.view, command, contribution, memory_.kept);
}

void Region::OnReduced(ResultPtr result, const std::vector<pb::RoundNote>& notes) {
  if (!command_ || !command_->has_reduce()) return;
  const pb::ReduceRound::Mode mode = command_->reduce().mode();
  if (mode != pb::ReduceRound::GIVE && mode != pb::ReduceRound::PASS) {
    memory_.pending = std::move(result);
    memory_.kept.reset();  // all have committed the round before
  }
  pb::RegionAnswer answer;
  for (const pb::RoundNote& note : notes) *answer.add_notes() = note;
  answer.set_wan_bytes_sent(100);
  Later(0.005, [this, n = command_number_, answer] {
    if (n == command_number_ && command_) Answer(answer);
  });
}

void Region::CountCarried(const pb::ReduceRound& command) {
  if (memory_.carried_in != memory_.view) world_->Count("a late contribution survived a fence");
  const pb::View& view = agent_->view();
  const int self = MemberOf(view, name_);
  if (command.note().samples() < PlannedSamples(view, world_->job(), self, command.round())) {
    world_->Count("a late contribution was short");
  }
}

bool Region::ApplyResult(const Result& result) {
  if (result.round != memory_.round + 1) {
    world_->promises().Break("model", absl::StrCat(name_, " at round ", memory_.round,
                                                   " applies the result of round ", result.round));
    return false;
  }
  const std::string parent = memory_.digest;
  memory_.before = parent;
  uint64_t bits = Mix(Bits(parent), result.sum);
  bits = Mix(bits, static_cast<uint64_t>(result.tokens) * 1000003 +
                       static_cast<uint64_t>(result.expected_tokens));
  if (damage_) {
    damage_ = false;
    memory_.damaged = true;
    world_->NoteDamage(result.round);
    world_->Say(absl::StrCat(name_, "'s state is damaged"));
    bits ^= Mix(static_cast<uint64_t>(index_) + 1, bits);  // of each region differently
  }
  memory_.digest = DigestOf(bits);
  memory_.round = result.round;
  world_->promises().NoteState(memory_.digest, {parent, result.round, result.samples});
  return true;
}

void Region::RunCommit(const pb::CommitRound& command) {
  // Short mostly; but a fence may come while the outer step is under way.
  const double seconds =
      world_->dice().Chance(0.2) ? world_->dice().Uniform(0.02, 1) * slow_ : 0.02;
  Later(seconds, [this, n = command_number_, command] {
    if (n != command_number_) return;
    const ResultPtr result = memory_.pending;
    memory_.pending.reset();
    if (result == nullptr || result->round != command.round() ||
        result->tokens != command.tokens() ||
        result->expected_tokens != command.expected_tokens()) {
      return world_->promises().Break(
          "model",
          absl::StrCat(name_, " is to commit round ", command.round(), " of ", command.tokens(),
                       " tokens of ", command.expected_tokens(), ", but holds ",
                       result ? result->round : -1, ", ", result ? result->tokens : 0, ", ",
                       result ? result->expected_tokens : 0));
    }
    memory_.kept = result;
    pb::RegionAnswer answer;
    if (!memory_.has_state) {
      memory_.heard.push_back(result);
      if (memory_.fetched && memory_.fetched->first + 1 <= memory_.heard.front()->round) {
        memory_.has_state = true;
        memory_.damaged = false;
        memory_.round = memory_.fetched->first;
        memory_.digest = memory_.fetched->second;
        for (const ResultPtr& one : memory_.heard) {
          if (!ApplyResult(*one)) return;
        }
        memory_.heard.clear();
        world_->Count("caught up");
      }
    } else {
      if (!ApplyResult(*result)) return;
      memory_.carries = command.keep_training();
      if (command.keep_training()) {
        if (memory_.training != memory_.round) {
          world_->promises().Break(
              "model", absl::StrCat(name_, " keeps what it trained for round ", memory_.training,
                                    " past round ", memory_.round));
        }
        if (!last_reduction_late_) world_->Count("late, then taken");
        memory_.training = memory_.round + 1;
        memory_.carried_in = memory_.view;
      }
      if (memory_.round == memory_.serves_round) memory_.served = {memory_.round, memory_.digest};
    }
    answer.set_state_round(memory_.has_state ? memory_.round : 0);
    answer.set_digest(memory_.has_state ? memory_.digest : Digest{0, 0}.Hex());
    Answer(answer);
    world_->CheckMembers(index_);
  });
}

}  // namespace atl::sim
