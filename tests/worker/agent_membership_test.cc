// Views that change, as a leader lives through them: transcripts. What happens in every order is
// the simulator's (tests/sim).
#include <gtest/gtest.h>

#include "base/digest.h"
#include "worker/agent/agent.h"

namespace atl {
namespace {

using State = Agent::State;

class AgentMembership : public ::testing::Test {
 protected:
  AgentMembership() : agent_(Options()) {
    agent_.Start(now_);
    pb::OrchestratorMessage welcome;
    pb::Job* job = welcome.mutable_welcome()->mutable_job();
    job->mutable_train()->set_rounds(9);
    job->mutable_train()->set_inner_steps(2);
    job->mutable_train()->set_global_batch(4);
    Message(welcome);
    pb::RegionAnswer ready;
    ready.set_gateway("here:1");
    Answer(ready);
    EXPECT_EQ(agent_.state(), State::kWaiting);
  }
  static AgentOptions Options() {
    AgentOptions options;
    options.hello.set_region("johor");
    options.hello.set_workers(1);
    options.hello.set_attempt("second");
    options.survives = true;
    return options;
  }
  AgentActions Message(const pb::OrchestratorMessage& message) {
    return agent_.OnMessage(message, ++now_);
  }
  AgentActions Answer(const pb::RegionAnswer& answer) { return agent_.OnAnswers({answer}, ++now_); }
  // With johor as an observer. `after` 0: absolute.
  static pb::OrchestratorMessage View(int64_t id, int64_t after, int64_t first_round) {
    pb::OrchestratorMessage message;
    pb::View* view = message.mutable_view();
    view->set_id(id);
    view->set_after(after);
    view->set_lanes(1);
    view->set_key(std::string(32, 'k'));
    view->set_first_round(first_round);
    view->set_last_round(9);
    view->set_first_sample(first_round > 0 ? (first_round - 1) * 8 : 0);
    for (const char* region : {"johor", "oslo"}) {
      const bool full = region[0] == 'o';
      pb::Member* member = view->add_members();
      member->set_region(region);
      member->set_workers(1);
      member->add_gateways("127.0.0.1:1000");
      member->set_role(full ? pb::Member::FULL : pb::Member::OBSERVER);
      member->set_samples_per_step(full ? 4 : 0);
    }
    return message;
  }
  static pb::OrchestratorMessage Dropped(int64_t view, const std::string& attempt) {
    pb::OrchestratorMessage message;
    message.mutable_dropped()->set_view(view);
    message.mutable_dropped()->set_attempt(attempt);
    return message;
  }
  static pb::RegionAnswer Broken() {
    pb::RegionAnswer answer;
    answer.set_interrupted(true);
    answer.set_error("oslo: silent for too long");
    answer.set_blames("oslo");
    return answer;
  }

  double now_ = 100;
  Agent agent_;
};

TEST_F(AgentMembership, WhatAnEarlierStartWasToldDoesNotCount) {
  EXPECT_TRUE(Message(View(4, 3, 0)).run->has_switch_view());
  EXPECT_FALSE(Message(Dropped(9, "first")).interrupt);
  EXPECT_TRUE(Message(Dropped(9, "second")).interrupt);
}

TEST_F(AgentMembership, APlannedViewThatComesFirstDoesNotHideTheOneThatItFollows) {
  EXPECT_TRUE(Message(View(4, 3, 0)).run->has_switch_view());
  EXPECT_TRUE(Message(View(3, 0, 2)).interrupt) << "the members wait for it in view 3";
  pb::RegionAnswer interrupted;
  interrupted.set_interrupted(true);
  const AgentActions next = Answer(interrupted);
  ASSERT_TRUE(next.run && next.run->has_switch_view());
  EXPECT_EQ(next.run->switch_view().view().id(), 3);
  EXPECT_EQ(agent_.Heartbeat("", {}).heartbeat().planned(), 4) << "it is not forgotten";
}

TEST_F(AgentMembership, ANewcomerThatCannotConnectToAPlannedViewBlamesNobodyAndWaits) {
  Message(View(4, 3, 0));
  EXPECT_TRUE(Answer(Broken()).send.empty());
  EXPECT_TRUE(Message(View(4, 3, 0)).run->has_switch_view()) << "when it is sent again";
}

TEST_F(AgentMembership, ANewcomerThatCannotConnectToAViewThatHasBegunSaysThatItHolds) {
  Message(View(4, 3, 0));
  EXPECT_FALSE(Message(View(4, 3, 6)).interrupt) << "the same, and the members are in it";
  const AgentActions actions = Answer(Broken());
  ASSERT_EQ(actions.send.size(), 1u);
  EXPECT_EQ(actions.send[0].suspect().region(), "oslo");
  const pb::Heartbeat heartbeat = agent_.Heartbeat("", {}).heartbeat();
  EXPECT_TRUE(heartbeat.holds());
  EXPECT_EQ(heartbeat.view(), 4);
}

TEST_F(AgentMembership, WhoIsHeardAgainIsSuspectedAnewAndWhoIsNoMemberNever) {
  Message(View(4, 3, 0));
  Message(View(4, 3, 6));
  ASSERT_TRUE(Answer({}).run->has_reduce());
  EXPECT_TRUE(agent_.OnSilence("bergen", 2.5, now_).send.empty()) << "it was in the view before";
  EXPECT_TRUE(agent_.OnHeardAgain("oslo", now_).send.empty()) << "nothing was said of it";
  for (int time = 0; time < 2; ++time) {
    const AgentActions silent = agent_.OnSilence("oslo", 2.5, now_);
    ASSERT_EQ(silent.send.size(), 1u);
    EXPECT_GT(silent.send[0].suspect().silent_seconds(), 0);
    EXPECT_TRUE(agent_.OnSilence("oslo", 2.7, now_).send.empty()) << "it is said once";
    const AgentActions heard = agent_.OnHeardAgain("oslo", now_);
    ASSERT_EQ(heard.send.size(), 1u);
    EXPECT_EQ(heard.send[0].suspect().region(), "oslo");
    EXPECT_LT(heard.send[0].suspect().silent_seconds(), 0);
  }
}

TEST_F(AgentMembership, WhoHasCaughtUpGoesOnWhenAllOthersLeave) {
  Message(View(4, 3, 0));
  Message(View(4, 3, 6));
  ASSERT_TRUE(Answer({}).run->has_reduce());
  // The round's notes, then its commit; what is next.
  const auto hear = [&](int64_t round, int64_t next_view, bool oslo_leaves) {
    pb::RegionAnswer notes;
    notes.add_notes()->set_next_view(next_view);
    notes.add_notes()->set_round(round);
    notes.mutable_notes(1)->set_samples(8);
    notes.mutable_notes(1)->set_tokens(8);
    notes.mutable_notes(1)->set_leave(oslo_leaves);
    EXPECT_TRUE(Answer(notes).run->has_commit());
    pb::RegionAnswer committed;
    committed.set_state_round(round);
    committed.set_digest(Digest{1, 1}.Hex());
    return Answer(committed);
  };
  EXPECT_TRUE(hear(6, 0, false).run->has_reduce());
  pb::OrchestratorMessage planned = View(5, 4, 0);
  planned.mutable_view()->mutable_members()->RemoveLast();
  planned.mutable_view()->mutable_members(0)->set_role(pb::Member::FULL);
  planned.mutable_view()->mutable_members(0)->set_samples_per_step(4);
  Message(planned);
  EXPECT_TRUE(hear(7, 0, false).run->has_prepare_view());
  pb::RegionAnswer prepared;
  prepared.set_prepared_view(5);
  EXPECT_EQ(Answer(prepared).run->reduce().note().next_view(), 5);
  const AgentActions next = hear(8, 5, true);
  ASSERT_TRUE(next.run && next.run->has_switch_view());
  EXPECT_EQ(next.run->switch_view().view().id(), 5);
}

}  // namespace
}  // namespace atl
