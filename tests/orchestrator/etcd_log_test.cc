// The step log in a real etcd: what is written comes back, one leader at a time, faults of etcd.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "orchestrator/store/etcd/log.h"
#include "orchestrator/store/store.h"
#include "tests/orchestrator/etcd_server.h"

namespace atl {
namespace {

using ::testing::HasSubstr;
using Standing = StepLog::Standing;

class EtcdLogTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(EtcdServer::Installed()) << "scripts/setup installs etcd-server";
    directory_ = testing::TempDir() + "/etcd_log_test." + std::to_string(getpid());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(directory_);
  }
  void Start(std::vector<std::string> options = {}, const std::string& scheme = "http") {
    server_ = std::make_unique<EtcdServer>(directory_ + "/etcd", std::move(options), scheme);
    ASSERT_TRUE(server_->Start());
  }
  EtcdPlace Place() {
    EtcdPlace place;
    place.endpoints = {server_->endpoint()};
    place.prefix = "/atoll/job";
    place.ca_file = ca_, place.cert_file = cert_, place.key_file = key_;
    return place;
  }
  StatusOr<std::unique_ptr<EtcdLog>> Open(bool wait = false) {
    Leadership::Options leadership;
    leadership.place = Place();
    leadership.description = R"({"host": "test", "pid": 7})";
    leadership.wait = wait;
    leadership.ttl_seconds = ttl_seconds_;
    leadership.cancelled = [this] { return cancelled_; };
    return EtcdLog::Open(options_, leadership);
  }
  // All steps that are in the log, as encoded.
  static std::vector<std::vector<Record>> Steps(EtcdLog& log) {
    std::vector<std::vector<Record>> steps;
    const Status read = log.ReadSteps([&](const std::vector<Record>& records) {
      steps.push_back(records);
      return OkStatus();
    });
    EXPECT_TRUE(read.ok()) << read;
    return steps;
  }
  void OpenSsl(const std::string& arguments) {
    const std::string command =
        absl::StrCat("cd ", directory_, " && openssl ", arguments, " >/dev/null 2>&1");
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  // Files NAME.crt and NAME.key, signed by ca.crt.
  void MakeCertificate(const std::string& name) {
    OpenSsl(absl::StrCat("req -newkey rsa:2048 -nodes -keyout ", name, ".key -out ", name,
                         ".csr -subj /CN=", name, " -addext subjectAltName=IP:127.0.0.1"));
    OpenSsl(absl::StrCat("x509 -req -in ", name,
                         ".csr -CA ca.crt -CAkey ca.key -CAcreateserial "
                         "-days 2 -copy_extensions copy -out ",
                         name, ".crt"));
  }

  std::string directory_;
  std::unique_ptr<EtcdServer> server_;
  EtcdLog::Options options_{.keys = GenerateKeyPair()};
  std::string ca_, cert_, key_;
  // So long that a machine that stands still for a while loses no lease; etcd gives 2 at least.
  int64_t ttl_seconds_ = 30;
  bool cancelled_ = false;
};

EventRecord Event(int64_t number, const std::string& text = "text") {
  return {number, 1.5, "kind", "a", 4, text, {}};
}

int64_t NumberOf(const std::vector<Record>& step) {
  return std::get<EventRecord>(step.at(0)).number;
}

TEST_F(EtcdLogTest, StepsComeBackInOrderLongOnesToo) {
  Start();
  const std::string text(5000, 'x');
  options_.piece_bytes = 1000;
  {
    const auto log = Open();
    ASSERT_TRUE(log.ok()) << log.status();
    EXPECT_FALSE((*log)->ReadImage()->has_value());
    EXPECT_TRUE(Steps(**log).empty());
    for (int i = 1; i <= 150; ++i) {
      ASSERT_TRUE((*log)->Append({Event(i, i == 7 ? text : "short"), Event(i)}).ok());
    }
  }
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  const auto steps = Steps(**log);
  ASSERT_EQ(steps.size(), 150);
  for (int i = 0; i < 150; ++i) {
    EXPECT_EQ(NumberOf(steps[i]), i + 1);
    EXPECT_EQ(steps[i].size(), 2);
  }
  EXPECT_EQ(std::get<EventRecord>(steps[6][0]).text, text);
  EXPECT_TRUE((*log)->Append({Event(151)}).ok()) << "it goes on after the last";
}

TEST_F(EtcdLogTest, AStepAsLongAsEtcdNeverTakesInOneRequest) {
  Start();
  const std::string text(4 << 20, 'x');
  {
    const auto log = Open();
    ASSERT_TRUE(log.ok()) << log.status();
    const Status appended = (*log)->Append({Event(1, text)});
    ASSERT_TRUE(appended.ok()) << appended;
  }
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  const auto steps = Steps(**log);
  ASSERT_EQ(steps.size(), 1);
  EXPECT_EQ(std::get<EventRecord>(steps[0][0]).text, text);
}

TEST_F(EtcdLogTest, AnImageTakesThePlaceOfTheStepsInIt) {
  Start();
  options_.piece_bytes = 1000;
  options_.image_bytes = 2000;
  int64_t number = 0;
  const std::string first(3500, 'i'), second(1500, 'j');
  for (const std::string& image : {first, second}) {
    const auto log = Open();
    ASSERT_TRUE(log.ok()) << log.status();
    ASSERT_TRUE((*log)->ReadImage().ok());
    Steps(**log);
    while (!(*log)->WantsImage()) ASSERT_TRUE((*log)->Append({Event(++number)}).ok());
    ASSERT_TRUE((*log)->WriteImage(image).ok());
    EXPECT_FALSE((*log)->WantsImage());
    ASSERT_TRUE((*log)->Append({Event(++number)}).ok());
  }
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  const auto image = (*log)->ReadImage();
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(*image, second);
  const auto steps = Steps(**log);
  ASSERT_EQ(steps.size(), 1);
  EXPECT_EQ(NumberOf(steps[0]), number);
  // leader, term, key, image, its pieces (1500 bytes and the seal's), one step
  EXPECT_EQ(EtcdClient(Place()).Range("/atoll/job/", "/atoll/job0", 100)->size(), 4 + 2 + 1);
}

TEST_F(EtcdLogTest, AnImageThatIsTooLongIsNotMadeAndTheStepsStay) {
  Start();
  options_.piece_bytes = 1000;
  options_.image_bytes = 2000;
  int64_t number = 0;
  {
    const auto log = Open();
    ASSERT_TRUE(log.ok()) << log.status();
    while (!(*log)->WantsImage()) ASSERT_TRUE((*log)->Append({Event(++number)}).ok());
    ASSERT_TRUE((*log)->WriteImage(std::string(5'000'000, 'i')).ok());
    EXPECT_FALSE((*log)->WantsImage());
    ASSERT_TRUE((*log)->Append({Event(++number)}).ok());
    EXPECT_FALSE((*log)->WantsImage());
  }
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_FALSE((*log)->ReadImage()->has_value());
  EXPECT_EQ(static_cast<int64_t>(Steps(**log).size()), number);
}

TEST_F(EtcdLogTest, WhatIsInEtcdIsSealedAndBoundToItsPlace) {
  Start();
  {
    const auto log = Open();
    ASSERT_TRUE(log.ok()) << log.status();
    ASSERT_TRUE((*log)->Append({Event(1, "a secret")}).ok());
    ASSERT_TRUE((*log)->Append({Event(2)}).ok());
  }
  EtcdClient client(Place());
  const std::string first = "/atoll/job/step/0000000000000000";
  const std::string second = "/atoll/job/step/0000000000000001";
  const std::string value = *client.Get(first);
  EXPECT_EQ(value.find("secret"), std::string::npos);
  ASSERT_TRUE(client.Txn({}, {EtcdOperation::Put(second, value)}, {}).ok());
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  const Status read = (*log)->ReadSteps([](const std::vector<Record>&) { return OkStatus(); });
  EXPECT_THAT(std::string(read.message()), HasSubstr(second));
}

TEST_F(EtcdLogTest, AnotherOrchestratorsKeysAreRefusedBeforeTheWait) {
  Start();
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  options_.keys = GenerateKeyPair();
  const auto other = Open(/*wait=*/true);
  EXPECT_EQ(ExitCodeOf(other.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("keys directory"));
}

TEST_F(EtcdLogTest, WhileOneLeadsAnotherIsRefusedOrWaits) {
  Start();
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  ttl_seconds_ = 2;  // how long it waits for the end of one that may be dead
  const auto second = Open();
  EXPECT_EQ(ExitCodeOf(second.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("on test (pid 7)"));
  cancelled_ = true;
  EXPECT_TRUE(absl::IsCancelled(Open(/*wait=*/true).status()));
  cancelled_ = false;
  // Who leads may have written what is no such description.
  ASSERT_TRUE(EtcdClient(Place())
                  .Txn({}, {EtcdOperation::Put("/atoll/job/leader", R"({"host":5,"pid":"x"})")}, {})
                  .ok());
  EXPECT_THAT(std::string(Open().status().message()), HasSubstr("another orchestrator leads"));
  EXPECT_EQ((*log)->standing(), Standing::kLeading) << "its lease was kept alive meanwhile";
}

TEST_F(EtcdLogTest, WhoWasDeposedWritesNoMore) {
  Start();
  ttl_seconds_ = 5;
  const auto old = Open();
  ASSERT_TRUE(old.ok()) << old.status();
  ASSERT_TRUE((*old)->Append({Event(1)}).ok());
  // As if its lease had run out while it was stopped: it does not know. (Its thread may take it
  // again before the other one comes: then once more.)
  EtcdClient client(Place());
  StatusOr<std::unique_ptr<EtcdLog>> next = absl::UnavailableError("not tried");
  while (!next.ok()) {
    const auto leader = client.Range("/atoll/job/leader", "", 1);
    ASSERT_TRUE(leader.ok());
    if (!leader->empty()) ASSERT_TRUE(client.Revoke((*leader)[0].lease).ok());
    next = Open();
    ASSERT_TRUE(next.ok() || ExitCodeOf(next.status()) == ExitCode::kEnvironment) << next.status();
  }
  EXPECT_EQ(Steps(**next).size(), 1);
  // Before and after the new one has written.
  EXPECT_TRUE(absl::IsAborted((*old)->Append({Event(2, "of the old one")})));
  EXPECT_EQ((*old)->standing(), Standing::kDeposed);
  ASSERT_TRUE((*next)->Append({Event(2, "of the new one")}).ok());
  EXPECT_TRUE(absl::IsAborted((*old)->Append({Event(2, "of the old one")})));
  EXPECT_TRUE(absl::IsAborted((*old)->WriteImage("image")));
  EXPECT_NE((*next)->standing(), Standing::kDeposed);
}

TEST_F(EtcdLogTest, ALeaseThatRanOutIsTakenAgainIfNobodyLed) {
  Start();
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_TRUE((*log)->Append({Event(1)}).ok());
  EtcdClient client(Place());
  for (int i = 2; i <= 4; ++i) {
    const auto leader = client.Range("/atoll/job/leader", "", 1);
    ASSERT_TRUE(leader.ok() && leader->size() == 1);
    ASSERT_TRUE(client.Revoke((*leader)[0].lease).ok());
    const Status appended = (*log)->Append({Event(i)});
    ASSERT_TRUE(appended.ok()) << appended;
  }
  EXPECT_EQ(client.Range("/atoll/job/step/", "/atoll/job/step0", 10)->size(), 4);
}

TEST_F(EtcdLogTest, WhoLedAndEndedMeanwhileDeposesToo) {
  Start();
  const auto old = Open();
  ASSERT_TRUE(old.ok()) << old.status();
  EtcdClient client(Place());
  // Its own thread may see the lease go before the other one has led.
  const auto leader = client.Range("/atoll/job/leader", "", 1);
  ASSERT_TRUE(leader.ok() && leader->size() == 1);
  const EtcdKeyValue& mine = (*leader)[0];
  const auto replaced = client.Txn(
      {EtcdCompare::Created(mine.key, mine.create_revision)},
      {EtcdOperation::Delete(mine.key, ""), EtcdOperation::Put("/atoll/job/term", "another's")},
      {});
  ASSERT_TRUE(replaced.ok() && replaced->succeeded);
  EXPECT_TRUE(absl::IsAborted((*old)->Append({Event(1)})));
  EXPECT_EQ((*old)->standing(), Standing::kDeposed);
}

TEST_F(EtcdLogTest, AStepWhoseAnswerIsLostIsThereOnce) {
  Start();
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  // A stopped etcd takes the request, and carries it out when it goes on; the writer has asked
  // again by then.
  int asked = 0;
  (*log)->set_on_wait([&](const Status& why, double) {
    EXPECT_TRUE(absl::IsUnavailable(why)) << why;
    if (++asked == 1) server_->Signal(SIGCONT);
    return asked < 100;
  });
  server_->Signal(SIGSTOP);
  const Status appended = (*log)->Append({Event(1)});
  ASSERT_TRUE(appended.ok()) << appended;
  EXPECT_GE(asked, 1);
  ASSERT_TRUE((*log)->Append({Event(2)}).ok());
  log->get()->set_on_wait(nullptr);
  EXPECT_EQ(EtcdClient(Place()).Range("/atoll/job/step/", "/atoll/job/step0", 10)->size(), 2);
}

TEST_F(EtcdLogTest, AnEtcdThatComesBackFindsItsLeaderLeading) {
  Start();
  ttl_seconds_ = 2;
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_TRUE((*log)->Append({Event(1)}).ok());
  server_->Kill();
  bool unsure = false;
  (*log)->set_on_wait([&](const Status&, double seconds) {
    if (!unsure && (*log)->standing() == Standing::kUnsure) {
      unsure = true;
      EXPECT_TRUE(server_->StartAgain());
    }
    return seconds < 60;
  });
  const Status appended = (*log)->Append({Event(2)});
  ASSERT_TRUE(appended.ok()) << appended;
  EXPECT_TRUE(unsure) << "by its own clock the lease was over";
  (*log)->set_on_wait(nullptr);
}

TEST_F(EtcdLogTest, ALogThatIsAwayCanBeGivenUp) {
  Start();
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  server_->Kill();
  (*log)->set_on_wait([](const Status&, double) { return false; });
  const Status given_up = (*log)->Append({Event(1)});
  EXPECT_TRUE(absl::IsUnavailable(given_up)) << given_up;
  EXPECT_EQ(ExitCodeOf(given_up), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(given_up.message()), HasSubstr(server_->endpoint()));
}

TEST_F(EtcdLogTest, AFullEtcdIsNamedAndWaitedFor) {
  // etcd's least quota is that of its empty database and some pages.
  Start({"--quota-backend-bytes", "300000"});
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  Status why;
  (*log)->set_on_wait([&](const Status& status, double) {
    why = status;
    return false;
  });
  const std::string text(100000, 'x');
  Status status;
  for (int i = 1; i < 20 && status.ok(); ++i) status = (*log)->Append({Event(i, text)});
  EXPECT_TRUE(absl::IsResourceExhausted(why)) << why;
  EXPECT_THAT(std::string(why.message()), HasSubstr("etcdctl alarm disarm"));
}

TEST_F(EtcdLogTest, CertificatesAreCheckedOnBothSides) {
  OpenSsl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca");
  OpenSsl("req -x509 -newkey rsa:2048 -nodes -keyout o.key -out other.crt -days 2 -subj /CN=ca");
  MakeCertificate("etcd");
  MakeCertificate("atoll");
  Start({"--cert-file", directory_ + "/etcd.crt", "--key-file", directory_ + "/etcd.key",
         "--client-cert-auth", "--trusted-ca-file", directory_ + "/ca.crt"},
        "https");
  ca_ = directory_ + "/ca.crt";
  const auto none = Open();
  EXPECT_EQ(ExitCodeOf(none.status()), ExitCode::kEnvironment) << none.status();
  cert_ = directory_ + "/atoll.crt", key_ = directory_ + "/atoll.key";
  {
    const auto log = Open();
    ASSERT_TRUE(log.ok()) << log.status();
    EXPECT_TRUE((*log)->Append({Event(1)}).ok());
  }
  ca_ = directory_ + "/other.crt";
  const auto stranger = Open();
  EXPECT_TRUE(absl::IsUnauthenticated(stranger.status())) << stranger.status();
  ca_ = directory_ + "/ca.crt", key_ = directory_ + "/nothing.key";
  EXPECT_EQ(ExitCodeOf(Open().status()), ExitCode::kUsage);
}

TEST_F(EtcdLogTest, AnEndpointWhereNobodyIsIsNamed) {
  Start();
  server_->Kill();
  const auto log = Open();
  EXPECT_EQ(ExitCodeOf(log.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(log.status().message()), HasSubstr(server_->endpoint()));
}

TEST_F(EtcdLogTest, AStoreIsMadeAnewFromTheLogOnAnotherHost) {
  Start();
  options_.image_bytes = 20000;  // so that there is an image, and steps after it
  {
    const auto log = Open();
    ASSERT_TRUE(log.ok()) << log.status();
    const auto store = Store::Open(directory_ + "/a.db", log->get());
    ASSERT_TRUE(store.ok()) << store.status();
    ViewRecord view;
    view.view.set_id(1);
    ASSERT_TRUE((*store)->Apply({view}).ok());
    for (int round = 1; round <= 100; ++round) {
      ASSERT_TRUE((*store)
                      ->Apply({RoundRecord{.view = 1, .round = round, .digest = "d"},
                               Event(round, std::string(500, 'x'))})
                      .ok());
    }
    // A step that the database refuses is not in the log either.
    EXPECT_FALSE((*store)->Apply({RoundRecord{.view = 9, .round = 101}}).ok());
  }
  EXPECT_TRUE(EtcdClient(Place()).Get("/atoll/job/image").ok());
  const auto log = Open();
  ASSERT_TRUE(log.ok()) << log.status();
  const auto store = Store::Open(directory_ + "/b.db", log->get());
  ASSERT_TRUE(store.ok()) << store.status();
  int64_t next = 1;
  ASSERT_TRUE(
      (*store)->ForEachRound([&](const RoundRecord& r) { EXPECT_EQ(r.round, next++); }).ok());
  EXPECT_EQ(next, 101);
  EXPECT_EQ((*store)->LoadHistory()->last_event, 100);
  ASSERT_TRUE((*store)->Apply({RoundRecord{.view = 1, .round = 101}}).ok());
  // A former copy is replaced, another job's database is not.
  ASSERT_TRUE(Store::Open(directory_ + "/own.db").ok());
  EXPECT_EQ(ExitCodeOf(Store::Open(directory_ + "/own.db", log->get()).status()), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(Store::Open(directory_ + "/a.db").status()), ExitCode::kUsage)
      << "a copy is no job's own store";
}

TEST(EtcdPlaceTest, EndpointsAreParsed) {
  const auto place = EtcdPlace::Parse("https://a:2379,https://[::1]:2380/p/q/", "", "", "");
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_THAT(place->endpoints, testing::ElementsAre("https://a:2379", "https://[::1]:2380"));
  EXPECT_EQ(place->prefix, "/p/q");
  EXPECT_EQ(EtcdPlace::Parse("a:1", "", "", "")->endpoints[0], "http://a:1");
  EXPECT_EQ(EtcdPlace::Parse("a:1", "ca", "", "")->endpoints[0], "https://a:1");
  for (const char* text : {"", "a", "a:0", "a:65536", ":1", "http://", "u:p@a:1", "a:1,,b:1"}) {
    EXPECT_EQ(ExitCodeOf(EtcdPlace::Parse(text, "", "", "").status()), ExitCode::kUsage) << text;
  }
  EXPECT_FALSE(EtcdPlace::Parse("a:1", "ca", "cert", "").ok());
}

}  // namespace
}  // namespace atl
