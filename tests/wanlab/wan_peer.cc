// One region's gateway as a process of its own, for tests that stop and cut whole regions: an
// engine that does what lines on stdin say, and says on stdout what happens.
//
//     wan_peer INDEX NAME=ADDRESS,NAME=ADDRESS... SCHEDULE
//
// A region with the address 'none' only calls out.
//
//     join VIEW INDEX,INDEX...            -> joined | failed
//     reduce VIEW ID ELEMENTS CODEC       -> moving (once numbers have arrived), then done | failed
//     plan VIEW                           -> plan SCHEDULE stars|deep|unknown (of member 0)
//     cancel, leave VIEW                  -> cancelled, left
//
// Every answer is "EVENT TIME ...", TIME the host's monotonic clock in seconds:
//     silent TIME NAME SECONDS            the engine's word on a member, SECONDS by its own clock
//     done TIME SCHEDULE SECONDS DIGEST   the digest of all bits; the sum was right (sums.h)
//     wrong TIME WORDS                    it was not
//     failed TIME WORDS
//
// Members of a view are counted in the order of its list; their weighed numbers come from the
// view's and the operation's number, so that every process knows the sum. Ends with stdin.
#include <poll.h>

#include <cstdio>
#include <iostream>
#include <map>
#include <mutex>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/log.h"
#include "collectives/wan/engine.h"
#include "collectives/wan/plan/planner.h"
#include "tests/wan/sums.h"

namespace atl::wan {
namespace {

constexpr uint16_t kPort = 7500;
constexpr double kJoinSeconds = 60;

void Say(const std::string& event, const std::string& words = "") {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  std::printf("%s %.6f %s\n", event.c_str(), Clock::Real()->MonotonicSeconds(), words.c_str());
  std::fflush(stdout);
}

std::string OneLine(const Status& status) {
  return absl::StrJoin(absl::StrSplit(status.ToString(), '\n'), " / ");
}

int64_t Number(const std::string& word) {
  int64_t number = 0;
  CHECK(absl::SimpleAtoi(word, &number)) << word;
  return number;
}

class Peer {
 public:
  Peer(int index, const std::string& regions, ScheduleKind schedule)
      : index_(index), schedule_(schedule) {
    for (const std::string& region : std::vector<std::string>(absl::StrSplit(regions, ','))) {
      const std::vector<std::string> parts = absl::StrSplit(region, '=');
      names_.push_back(parts.at(0));
      endpoints_.push_back(parts.at(1) == "none" ? Endpoint() : Endpoint{parts.at(1), kPort});
    }
    EngineOptions options;
    options.listen = endpoints_.at(index);
    options.only_calls_out = options.listen.host.empty();
    options.schedule = schedule;
    options.order_stable = schedule != ScheduleKind::kTrees;
    options.on_silence = [](const Silence& silence) {
      Say("silent", absl::StrCat(silence.name, " ", silence.seconds));
    };
    auto engine = Engine::Create(options);
    CHECK(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  ~Peer() {
    engine_.reset();
    if (waiter_.joinable()) waiter_.join();
  }

  void Obey(const std::vector<std::string>& words) {
    const std::string& verb = words.at(0);
    if (verb == "join") {
      Join(Number(words.at(1)), absl::StrSplit(words.at(2), ','));
    } else if (verb == "reduce") {
      Reduce(Number(words.at(1)), Number(words.at(2)), Number(words.at(3)), words.at(4));
    } else if (verb == "plan") {
      Plan(Number(words.at(1)));
    } else if (verb == "cancel") {
      operation_->Cancel();
      Say("cancelled");
    } else if (verb == "leave") {
      engine_->Leave({Number(words.at(1))});
      Say("left");
    } else {
      LOG(FATAL) << "unknown verb '" << verb << "'";
    }
  }

 private:
  void Join(int64_t view, const std::vector<std::string>& members) {
    Group group;
    group.view = {view};
    for (const std::string& word : members) {
      const auto member = static_cast<int>(Number(word));
      if (member == index_) group.self = {static_cast<int>(group.members.size())};
      group.members.push_back(endpoints_.at(member));
      group.names.push_back(names_.at(member));
    }
    group.key.fill(static_cast<uint8_t>(view));
    const Status status = engine_->Join(group, kJoinSeconds);
    status.ok() ? Say("joined") : Say("failed", OneLine(status));
    groups_[view] = group;
  }

  void Reduce(int64_t view, int64_t id, int64_t elements, const std::string& codec_name) {
    if (waiter_.joinable()) waiter_.join();
    const std::optional<Codec> codec = CodecNamed(codec_name);
    CHECK(codec.has_value()) << codec_name;
    const Group& group = groups_.at(view);
    inputs_ = WeighedInputs(static_cast<int>(group.members.size()), elements, 1000 * view + id);
    data_ = inputs_[group.self.value];
    AllReduceOptions options;
    options.codec = *codec;
    operation_ = engine_->AllReduce({view}, {0}, id, data_, options);
    waiter_ = std::thread([this, codec] { Await(*codec); });
  }

  void Await(Codec codec) {
    while (!operation_->Done() && operation_->elements_done() == 0) poll(nullptr, 0, 1);
    if (operation_->elements_done() > 0) Say("moving");
    const auto result = operation_->Wait();
    if (!result.ok()) return Say("failed", OneLine(result.status()));
    const std::string wrong = WrongIn(inputs_, data_, codec, result->schedule);
    if (!wrong.empty()) return Say("wrong", wrong);
    uint64_t digest = 0;
    for (const float number : data_) {
      uint32_t bits;
      std::memcpy(&bits, &number, sizeof bits);
      digest = Mix64(digest + bits);
    }
    Say("done", absl::StrCat(ScheduleName(result->schedule), " ", result->seconds, " ", digest));
  }

  // What is planned over the links as member 0 has learned them.
  void Plan(int64_t view) {
    const std::optional<LinkMatrix> links = engine_->Matrix({view}, {0});
    if (!links.has_value()) return Say("plan", "none unknown");
    const auto plan = MakePlan(*links, {.kind = schedule_});
    if (!plan.ok()) return Say("failed", OneLine(plan.status()));
    Say("plan", absl::StrCat(ScheduleName(plan->kind), IsOrderStable(*plan) ? " stars" : " deep"));
  }

  const int index_;
  const ScheduleKind schedule_;
  std::vector<std::string> names_;
  std::vector<Endpoint> endpoints_;
  std::map<int64_t, Group> groups_;
  std::vector<std::vector<float>> inputs_;
  std::vector<float> data_;
  std::shared_ptr<Operation> operation_;
  std::thread waiter_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace
}  // namespace atl::wan

int main(int argc, char** argv) {
  atl::InitLogging(argv[0]);
  CHECK_EQ(argc, 4) << "wan_peer INDEX NAME=ADDRESS,... SCHEDULE";
  const auto schedule = atl::wan::ParseSchedule(argv[3]);
  CHECK(schedule.ok()) << schedule.status();
  atl::wan::Peer peer(static_cast<int>(atl::wan::Number(argv[1])), argv[2], *schedule);
  atl::wan::Say("ready");
  std::string line;
  while (std::getline(std::cin, line)) peer.Obey(absl::StrSplit(line, ' '));
  return 0;
}
