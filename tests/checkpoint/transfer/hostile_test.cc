// Sources that lie: wrong bytes, a false catalog, false bitmaps, absurd sizes, bytes that drip.
// They cost time; what is pulled is right, or nothing is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/chunks.h"
#include "checkpoint/names.h"
#include "checkpoint/repair.h"
#include "checkpoint/sha256.h"
#include "checkpoint/transfer/key_file.h"
#include "checkpoint/transfer/remote_source.h"
#include "checkpoint/transfer/served.h"
#include "tests/checkpoint/transfer/transfer_test_util.h"

namespace atl::checkpoint {
namespace {

using testing::HasSubstr;

// Bytes of nothing, as many as are asked for.
class Endless : public wan::ByteSource {
 public:
  explicit Endless(int64_t bytes) : bytes_(bytes) {}
  int64_t size() const override { return bytes_; }
  Status Read(int64_t, std::span<uint8_t> out) override {
    std::fill(out.begin(), out.end(), uint8_t{0x5A});
    return OkStatus();
  }

 private:
  const int64_t bytes_;
};

// Gives one read, and then holds the next until it is let go.
class Drip : public wan::ByteSource {
 public:
  Drip(int64_t bytes) : bytes_(bytes) {}
  ~Drip() override = default;
  int64_t size() const override { return bytes_; }
  Status Read(int64_t, std::span<uint8_t> out) override {
    std::unique_lock<std::mutex> lock(mutex_);
    std::fill(out.begin(), out.end(), uint8_t{0});
    if (++reads_ > 1) changed_.wait(lock, [this] { return over_; });
    return over_ ? absl::CancelledError("over") : OkStatus();
  }
  void End() {
    std::lock_guard<std::mutex> lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }

 private:
  const int64_t bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int reads_ = 0;
  bool over_ = false;
};

// A source that says what it is told to say.
class Liar {
 public:
  using Objects = std::map<std::string, std::shared_ptr<wan::ByteSource>>;
  explicit Liar(Objects objects) : objects_(std::move(objects)) {
    wan::EngineOptions options;
    options.listen = {"127.0.0.1", 0};
    options.on_call = [this](const wan::Call& call) {
      std::lock_guard<std::mutex> lock(mutex_);
      called_.insert(call.view.value);
      changed_.notify_all();
      return true;
    };
    auto engine = wan::Engine::Create(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    thread_ = std::thread([this] { Run(); });
  }
  ~Liar() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
    engine_.reset();
  }
  Endpoint endpoint() const { return engine_->endpoint(); }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !called_.empty(); });
      if (stopping_) return;
      std::set<int64_t> called;
      called.swap(called_);
      lock.unlock();
      for (const int64_t view : called) {
        wan::Group group;
        group.view = {view};
        group.self = {1};
        group.members = {Endpoint(), engine_->endpoint()};
        group.names = {"caller", "liar"};
        group.key = TestKey();
        group.transfers_only = true;
        for (const auto& [name, source] : objects_) {
          EXPECT_TRUE(engine_->Serve({view}, {0}, name, source).ok());
        }
        (void)engine_->Join(group, 1);
      }
      lock.lock();
    }
  }

  const Objects objects_;
  std::unique_ptr<wan::Engine> engine_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<int64_t> called_;
  bool stopping_ = false;
  std::thread thread_;
};

class TransferHostile : public testing::Test {
 protected:
  void SetUp() override {
    original_ = SaveChunky(In("a"));
    text_ = *ReadFile(original_ + "/" + kManifestName);
    manifest_ = *ParseManifest(text_);
    offer_ = OfferOf(manifest_, text_, true);
  }
  std::string In(const std::string& name) const { return root_.path() + "/" + name; }
  // What an honest source would say, but for the files' bytes.
  Liar::Objects Honest(bool complete = true) const {
    Offer offer = offer_;
    offer.complete = complete;
    Liar::Objects objects;
    objects[kCatalogName] = ServedBytes(EncodeCatalog({offer}));
    objects[ManifestObject(offer_.manifest_hash)] = ServedBytes(text_);
    for (size_t i = 0; i < manifest_.files.size(); ++i) {
      const auto number = static_cast<int64_t>(i);
      const std::string hashes = ChunkHashName(manifest_.files[i].name);
      objects[HashesObject(offer_.manifest_hash, number)] =
          ServedBytes(*ReadFile(original_ + "/" + hashes));
    }
    return objects;
  }
  void ExpectPulledBeside(const Liar& liar) {
    const auto a = Serve(In("a"));
    const auto result = Pull(PullFrom({liar.endpoint(), a->endpoint()}, In("to")));
    ASSERT_TRUE(result.ok()) << result.status();
    ExpectSame(original_, result->path);
  }

  TemporaryDirectory root_;
  std::string original_, text_;
  Manifest manifest_;
  Offer offer_;
};

TEST_F(TransferHostile, WrongBytesCostTimeOnly) {
  Liar::Objects objects = Honest();
  for (size_t i = 0; i < manifest_.files.size(); ++i) {
    objects[FileObject(offer_.manifest_hash, static_cast<int64_t>(i))] =
        std::make_shared<Endless>(manifest_.files[i].bytes);
  }
  const Liar liar(std::move(objects));
  // Alone it is found out.
  PullOptions alone = PullFrom({liar.endpoint()}, In("to"));
  const auto failed = Pull(alone);
  EXPECT_FALSE(failed.ok());
  EXPECT_THAT(failed.status().message(), HasSubstr("is damaged at every source"));
  ExpectPulledBeside(liar);
}

TEST_F(TransferHostile, FalseBitmapsCostTimeOnly) {
  Liar::Objects objects = Honest(false);
  const int64_t bytes = BitmapBytes(ChunkMap(manifest_).count());
  objects[HaveObject(offer_.manifest_hash)] = ServedBytes(std::string(bytes, '\xff'));
  ExpectPulledBeside(Liar(std::move(objects)));
}

TEST_F(TransferHostile, BytesThatDripCostTimeOnly) {
  Liar::Objects objects = Honest();
  std::vector<std::shared_ptr<Drip>> drips;
  for (size_t i = 0; i < manifest_.files.size(); ++i) {
    drips.push_back(std::make_shared<Drip>(manifest_.files[i].bytes));
    objects[FileObject(offer_.manifest_hash, static_cast<int64_t>(i))] = drips.back();
  }
  const Liar liar(std::move(objects));
  ExpectPulledBeside(liar);
  for (const auto& drip : drips) drip->End();
}

TEST_F(TransferHostile, CatalogsThatCannotBeAreTold) {
  const std::string good = EncodeCatalog({offer_});
  for (const size_t at : {0, 8, 12, 32 + 7, 32 + 12, 32 + 23, 32 + 31, 32000}) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x7f);
    const Liar liar({{kCatalogName, ServedBytes(bad)}});
    const auto result = Pull(PullFrom({liar.endpoint()}, In("to")));
    EXPECT_THAT(result.status().message(), HasSubstr("its catalog")) << at;
  }
}

TEST_F(TransferHostile, AManifestThatIsNotTheOneThatIsOfferedIsNotTaken) {
  Liar::Objects objects = Honest();
  std::string other = text_;
  other[other.size() / 2] ^= 1;
  objects[ManifestObject(offer_.manifest_hash)] = ServedBytes(other);
  ExpectPulledBeside(Liar(std::move(objects)));
}

TEST_F(TransferHostile, AnOfferThatItsManifestDoesNotKeepIsRefused) {
  Offer offer = offer_;
  offer.root = std::string(kHashBytes, '\x01');
  Liar::Objects objects = Honest();
  objects[kCatalogName] = ServedBytes(EncodeCatalog({offer}));
  const Liar liar(std::move(objects));
  const auto result = Pull(PullFrom({liar.endpoint()}, In("to")));
  EXPECT_THAT(result.status().message(), HasSubstr("than its source offered"));
}

TEST_F(TransferHostile, ACheckpointThatFitsNoDiskIsRefusedBeforeAnythingIsMade) {
  // Sizes alone are changed, so the manifest is a whole one.
  Manifest huge = manifest_;
  huge.files[0].bytes = int64_t{1} << 45;
  const auto text = WriteManifest(huge);
  ASSERT_TRUE(text.ok()) << text.status();
  const Offer offer = OfferOf(huge, *text, true);
  const Liar liar({{kCatalogName, ServedBytes(EncodeCatalog({offer}))},
                   {ManifestObject(offer.manifest_hash), ServedBytes(*text)}});
  const auto result = Pull(PullFrom({liar.endpoint()}, In("to")));
  EXPECT_EQ(ExitCodeOf(result.status()), ExitCode::kEnvironment) << result.status();
  EXPECT_THAT(result.status().message(), HasSubstr("disk full"));
  EXPECT_TRUE(NamesIn(In("to")).empty());
}

TEST_F(TransferHostile, ARepairTakesFromAServerAndNotFromALiar) {
  const std::string damaged = In("d") + "/" + RoundName(41);
  CopyTree(original_, damaged);
  FlipIn(damaged + "/" + manifest_.files.back().name, {0});
  std::filesystem::remove(damaged + "/" + manifest_.files.front().name);
  Liar::Objects objects = Honest();
  for (size_t i = 0; i < manifest_.files.size(); ++i) {
    objects[FileObject(offer_.manifest_hash, static_cast<int64_t>(i))] =
        std::make_shared<Endless>(manifest_.files[i].bytes);
  }
  const Liar liar(std::move(objects));
  const auto a = Serve(In("a"));
  RepairOptions options;
  options.path = damaged;
  for (const Endpoint& endpoint : {liar.endpoint(), a->endpoint()}) {
    auto source = MakeRemoteSource(endpoint, TestKey(), 41);
    ASSERT_TRUE(source.ok()) << source.status();
    options.sources.push_back(*std::move(source));
  }
  const auto result = Repair(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->repaired);
  EXPECT_GT(result->fetched[0].bad, 0);
  EXPECT_GT(result->fetched[1].chunks, 0);
  ExpectSame(original_, damaged);
}

}  // namespace
}  // namespace atl::checkpoint
