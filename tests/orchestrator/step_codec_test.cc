// Steps survive as bytes: every kind of record, every field.
#include "orchestrator/store/step_codec.h"

#include <gtest/gtest.h>

#include "base/exit_code.h"
#include "proto/record.pb.h"

namespace atl {
namespace {

std::vector<Record> EveryKind() {
  JobRecord job{3, "training", "why \xff",   4, 1.5, 2.5, 3.5, 4.5,
                5, 6,          ~uint64_t{0}, 7, "d", 8,   {}};
  job.job.set_name("n");
  RegionRecord region;
  region.name = "a", region.state = "training", region.why = "\xff", region.since = 1;
  region.heard = 2, region.attempt = "x", region.workers = 3, region.host = "h", region.pid = 4;
  region.version = "v", region.accelerator = "cpu", region.doing = "trains \xfe";
  region.round = 5, region.digest = "d", region.next_sequence = 6, region.phases.set_wan(1.5);
  region.caught_up = true, region.lease_end = 7;
  region.left.emplace().set_round(8);
  region.ready.emplace().add_gateways("h:1");
  ViewRecord view;
  view.view.set_id(2);
  view.view.set_key(std::string(32, '\0'));
  view.checkpoints["a"] = "/x";
  view.time = 9;
  SampleRecord sample{1, 2, "a", {{3, 4}, {5, 6}}, SampleState::kDone, pb::RoundReport(), 7};
  sample.report->set_tokens(8);
  CheckpointRecord checkpoint;
  checkpoint.view = 1, checkpoint.region = "a", checkpoint.checkpoint.set_path("/p");
  checkpoint.bytes = 2, checkpoint.seconds = 3, checkpoint.time = 4, checkpoint.complete = true;
  MembershipRecord membership;
  membership.membership.set_fence(5);
  LedgerRecord ledger;
  ledger.ledger.set_next_round(7);
  EventRecord event{
      5, 1.5, "kind", "a", 4, "text \xff", {{"n", int64_t{0}}, {"x", 0.5}, {"s", "t"}}};
  return {job,
          region,
          view,
          SupersedeRecord{3, "d3"},
          RoundRecord{1, 2, "d", 3, 4, 5, 6, 7, 8, 9, 10, 11},
          sample,
          EvaluationRecord{1, 2, "a", 3, 4},
          checkpoint,
          membership,
          ledger,
          event};
}

TEST(StepCodec, EveryKindOfRecordComesBackAsItWas) {
  const std::vector<Record> step = EveryKind();
  ASSERT_EQ(step.size(), std::variant_size_v<Record>) << "a kind is missing in this test";
  for (size_t i = 0; i < step.size(); ++i) ASSERT_EQ(step[i].index(), i);
  const auto back = DecodeStep(EncodeStep(step));
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->size(), step.size());
  const auto& job = std::get<JobRecord>((*back)[0]);
  EXPECT_EQ(job.reason, "why \xff");
  EXPECT_EQ(job.dataset_fingerprint, ~uint64_t{0});
  EXPECT_EQ(job.first_view, 3.5);
  EXPECT_EQ(job.resumed_sample, 8);
  EXPECT_EQ(job.job.name(), "n");
  const auto& region = std::get<RegionRecord>((*back)[1]);
  EXPECT_EQ(region.next_sequence, 6);
  EXPECT_EQ(region.lease_end, 7);
  ASSERT_TRUE(region.left && region.ready);
  EXPECT_EQ(region.left->round(), 8);
  EXPECT_EQ(region.ready->gateways(0), "h:1");
  EXPECT_EQ(std::get<ViewRecord>((*back)[2]).view.key(), std::string(32, '\0'));
  EXPECT_EQ(std::get<ViewRecord>((*back)[2]).checkpoints.at("a"), "/x");
  EXPECT_EQ(std::get<RoundRecord>((*back)[4]).wan_bytes_sent, 10);
  EXPECT_EQ(std::get<RoundRecord>((*back)[4]).time, 11);
  const auto& sample = std::get<SampleRecord>((*back)[5]);
  EXPECT_EQ(sample.samples, (std::vector<Range>{{3, 4}, {5, 6}}));
  EXPECT_EQ(sample.state, SampleState::kDone);
  EXPECT_EQ(sample.report->tokens(), 8);
  EXPECT_TRUE(std::get<CheckpointRecord>((*back)[7]).complete);
  const auto& event = std::get<EventRecord>((*back)[10]);
  EXPECT_EQ(event.text, "text \xff");
  EXPECT_EQ(event.details, std::get<EventRecord>(step[10]).details);
  // What the fields above leave out: the second encoding is the first one.
  EXPECT_EQ(EncodeStep(*back), EncodeStep(step));
}

TEST(StepCodec, WhatIsOptionalStaysAway) {
  const auto back = DecodeStep(EncodeStep({RegionRecord(), SampleRecord()}));
  ASSERT_TRUE(back.ok());
  EXPECT_FALSE(std::get<RegionRecord>((*back)[0]).left);
  EXPECT_FALSE(std::get<RegionRecord>((*back)[0]).ready);
  EXPECT_FALSE(std::get<SampleRecord>((*back)[1]).report);
}

TEST(StepCodec, BytesThatAreNoStepAreRefused) {
  EXPECT_EQ(ExitCodeOf(DecodeStep("\xff\xff").status()), ExitCode::kUsage);
  EXPECT_FALSE(DecodeStep("").ok()) << "no version";
  pb::StoredStep step;
  step.set_version(2);
  EXPECT_FALSE(DecodeStep(step.SerializeAsString()).ok());
  step.set_version(1);
  step.add_records();
  EXPECT_FALSE(DecodeStep(step.SerializeAsString()).ok()) << "a record of no kind";
  step.mutable_records(0)->mutable_sample()->set_state(4);
  EXPECT_FALSE(DecodeStep(step.SerializeAsString()).ok()) << "no such state";
  step.mutable_records(0)->mutable_sample()->set_state(3);
  EXPECT_TRUE(DecodeStep(step.SerializeAsString()).ok());
}

}  // namespace
}  // namespace atl
