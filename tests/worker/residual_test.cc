// What an int codec takes from a contribution is owed once, however the reduction ended: all that
// was contributed is in the results or still owed.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "collectives/inprocess/inprocess.h"
#include "tests/wan/cluster.h"
#include "worker/sync/method.h"

namespace atl {
namespace {

constexpr int64_t kElements = 16 * kDigestBlock;

// Contributes given numbers.
class Numbers : public SyncMethod {
 public:
  explicit Numbers(const RegionContext& context) : SyncMethod(context) {}

  std::vector<float> numbers;

  std::vector<float> Owed() { return RegionalVectors()[0].by_lane->front(); }
  Status ResetOuterState() override {
    ResetResiduals();
    return OkStatus();
  }
  StatusOr<TrainResult> Train(const TrainPart&) override { return TrainResult(); }
  Status Commit(int64_t, int64_t, int64_t) override { return OkStatus(); }
  Status SetAside() override { return OkStatus(); }
  Status Restore() override { return OkStatus(); }
  StatusOr<Digest> OuterDigest() override { return Digest(); }
  std::vector<LaneVector> OuterVectors() override { return {}; }
  bool inner_state_replicated() const override { return false; }
  int OuterCopies() const override { return 0; }
  Status CopyOuterState(int64_t, std::span<float>) override { return OkStatus(); }
  Status SetOuterState(LaneBuffers, int64_t) override { return OkStatus(); }

 protected:
  Status MakeContribution(double, LaneBuffers* buffers) override {
    buffers->front() = numbers;
    return OkStatus();
  }
};

class Residuals : public testing::Test {
 protected:
  Residuals() : cluster_(2), lanes_({{0, kElements}}, 1) {
    job_.mutable_sync()->set_codec(pb::Sync::INT4);
    view_.set_id(1);
    for (int region = 0; region < 2; ++region) {
      view_.add_members()->set_region(wan::kNames[region]);
      tensors_.push_back(MakeInProcessGroup(1));
      clocks_.push_back(std::make_unique<PhaseClock>(Clock::Real()));
      RegionContext context;
      context.job = &job_;
      context.view = &view_;
      context.tensors = tensors_.back()[0].get();
      context.lanes = &lanes_;
      context.wan = cluster_.engines[region].get();
      context.phases = clocks_.back().get();
      regions_.push_back(std::make_unique<Numbers>(context));
    }
    cluster_.JoinAll();
  }

  using Mode = pb::ReduceRound::Mode;

  // Both regions at once. `lost`: region 0 does not hear how it ended.
  void Reduce(int64_t round, Mode zero, Mode one, bool lost = false) {
    std::atomic<bool> ended = false;  // at region 1
    const Mode modes[] = {zero, one};
    std::vector<std::thread> threads;
    ++position_;
    for (int region = 0; region < 2; ++region) {
      threads.emplace_back([&, region] {
        ReducePart part;
        part.round = round;
        part.mode = modes[region];
        part.position = position_;
        part.expected_tokens = 1;
        part.note.set_tokens(1);
        part.agree = [&](const WaitingLanes& lanes) -> StatusOr<std::optional<bool>> {
          RETURN_IF_ERROR(lanes.failure);
          std::this_thread::yield();
          if (!lanes.done) return std::optional<bool>();
          if (region == 1 || !lost) return std::optional(true);
          return ended ? std::optional(false) : std::optional<bool>();
        };
        const auto result = regions_[region]->Reduce(part);
        EXPECT_TRUE(result.ok()) << result.status();
        EXPECT_EQ(result.ok() && result->well, !(lost && region == 0));
        if (region == 1) ended = true;
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  void Contribute(int64_t round, bool lost = false) {
    for (int region = 0; region < 2; ++region) {
      owed_[region] = regions_[region]->Owed();
      std::vector<float>& numbers = regions_[region]->numbers;
      numbers.resize(kElements);
      for (int64_t i = 0; i < kElements; ++i) {
        numbers[i] = static_cast<float>(random_.Uniform(round * 10 * kElements + i * 2 + region));
      }
    }
    Reduce(round, pb::ReduceRound::CONTRIBUTE, pb::ReduceRound::CONTRIBUTE, lost);
  }

  // The result is the sum of what each contributed and owed before, less what it owes now.
  void ExpectAllIsThere() {
    std::vector<float> sum(kElements, 0.0f);
    for (int region = 0; region < 2; ++region) {
      const std::vector<float> owed = regions_[region]->Owed();
      for (int64_t i = 0; i < kElements; ++i) {
        // The same numbers as what was sent decodes to (codec/error_feedback.h).
        sum[i] += (regions_[region]->numbers[i] + owed_[region][i]) - owed[i];
      }
      EXPECT_TRUE(wan::SameBits(regions_[region]->result()[0], regions_[1]->result()[0]));
    }
    std::vector<uint8_t> bytes(EncodedSize(Codec::kInt4, kElements));
    Encode(Codec::kInt4, sum, bytes.data());
    Decode(Codec::kInt4, bytes.data(), sum);
    EXPECT_TRUE(wan::SameBits(regions_[1]->result()[0], sum));
  }

  wan::Cluster cluster_;
  pb::Job job_;
  pb::View view_;
  const Lanes lanes_;
  const CounterRandom random_{7};
  std::vector<std::vector<std::unique_ptr<Communicator>>> tensors_;
  std::vector<std::unique_ptr<PhaseClock>> clocks_;
  std::vector<std::unique_ptr<Numbers>> regions_;
  std::vector<float> owed_[2];  // before the round
  int64_t position_ = 0;
};

TEST_F(Residuals, AreOwedOnceIfTheResultIsTakenOverFromARegionThatHeardIt) {
  for (int64_t round = 1; round <= 3; ++round) {
    Contribute(round);
    ExpectAllIsThere();
  }
  const std::vector<float> before = regions_[0]->Owed();
  Contribute(4, true);
  EXPECT_TRUE(wan::SameBits(regions_[0]->Owed(), before)) << "it may have to be repeated";
  Reduce(4, pb::ReduceRound::TAKE, pb::ReduceRound::GIVE);
  EXPECT_FALSE(wan::SameBits(regions_[0]->Owed(), before));
  ExpectAllIsThere();
  Contribute(5);
  ExpectAllIsThere();
}

TEST_F(Residuals, AreThoseOfTheRoundBeforeIfAReductionIsRepeated) {
  Contribute(1);
  ExpectAllIsThere();
  const std::vector<float> of_one = regions_[1]->Owed();
  Contribute(2, true);
  // Nobody holds that result any more: region 1 begins anew, with what it owed then.
  *regions_[1]->RegionalVectors()[0].by_lane = {of_one};
  Reduce(2, pb::ReduceRound::CONTRIBUTE, pb::ReduceRound::CONTRIBUTE);
  ExpectAllIsThere();
  // A result that this region was late for at last has nothing of it.
  const std::vector<float> owed = regions_[0]->Owed();
  Contribute(3, true);
  Reduce(3, pb::ReduceRound::LATE, pb::ReduceRound::CONTRIBUTE);
  EXPECT_TRUE(wan::SameBits(regions_[0]->Owed(), owed));
}

}  // namespace
}  // namespace atl
