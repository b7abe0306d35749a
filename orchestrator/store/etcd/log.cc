#include "orchestrator/store/etcd/log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "orchestrator/store/step_codec.h"

namespace atl {
namespace {

// A step's value begins with one of these: the sealed bytes follow, or the number of pieces does.
constexpr char kWhole = 'W';
constexpr char kInPieces = 'P';
constexpr int kStepsAPage = 64;
constexpr int64_t kMaxPieces = 4096;
constexpr int64_t kMaxImageBytes = 1000 << 20;  // below what can be sealed as a whole
// Before somebody else says how long to wait.
constexpr double kPatienceSeconds = 15;

std::string AfterPrefix(std::string prefix) {
  prefix.back() = static_cast<char>(prefix.back() + 1);  // '/' -> '0'
  return prefix;
}

// Errors of a write that may go away.
bool MayPass(const Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsUnauthenticated(status);
}

}  // namespace

EtcdLog::EtcdLog(const Options& options, const EtcdPlace& place,
                 std::unique_ptr<Leadership> leadership)
    : options_(options),
      place_(place),
      leadership_(std::move(leadership)),
      sealer_(options.keys.secret_key),
      client_(place),
      on_wait_([](const Status&, double seconds) { return seconds < kPatienceSeconds; }) {}

StatusOr<std::unique_ptr<EtcdLog>> EtcdLog::Open(const Options& options,
                                                 const Leadership::Options& leadership) {
  // Before the wait: a standby with the wrong key is of no use, and should say so now.
  {
    EtcdLog reader(options, leadership.place, nullptr);
    const Status checked = reader.CheckKey();
    if (!checked.ok() && !absl::IsUnavailable(checked)) return checked;
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Leadership> leader, Leadership::Campaign(leadership));
  std::unique_ptr<EtcdLog> log(new EtcdLog(options, leadership.place, std::move(leader)));
  RETURN_IF_ERROR(log->Persist([&]() -> Status {
    RETURN_IF_ERROR(log->CheckKey());
    return log->PutAsLeader(log->Key("key"), options.keys.public_key);
  }));
  return log;
}

Status EtcdLog::CheckKey() {
  const StatusOr<std::string> key = client_.Get(Key("key"));
  if (absl::IsNotFound(key.status())) return OkStatus();
  RETURN_IF_ERROR(Annotate(key.status(), "--store"));
  if (*key == options_.keys.public_key) return OkStatus();
  return UsageError(
      absl::StrCat("the job in ", name(),
                   " belongs to another orchestrator key: a standby needs a copy of the "
                   "keys directory of the orchestrator that began the job (--keys)"));
}

std::string EtcdLog::Key(absl::string_view kind) const {
  return absl::StrCat(place_.prefix, "/", kind);
}

std::string EtcdLog::Key(absl::string_view kind, int64_t number) const {
  return absl::StrFormat("%s/%s/%016x", place_.prefix, kind, number);
}

Status EtcdLog::Deposed() {
  return absl::AbortedError(absl::StrCat("another orchestrator has taken the job over in ", name(),
                                         ": this one writes no more"));
}

Status EtcdLog::NotAccepted() {
  RETURN_IF_ERROR(leadership_->Verify(&client_));
  if (standing() == Standing::kDeposed) return Deposed();
  return absl::UnavailableError(absl::StrCat(
      "the lease in ", name(), " had run out, and nobody else has taken it: taken again"));
}

Status EtcdLog::Persist(const std::function<Status()>& call) {
  const double began = Clock::Real()->MonotonicSeconds();
  while (true) {
    if (standing() == Standing::kDeposed) return Deposed();
    const Status status = call();
    if (!MayPass(status)) return status;
    const double waited = Clock::Real()->MonotonicSeconds() - began;
    if (on_wait_ == nullptr || !on_wait_(status, waited)) return status;
    Clock::Real()->SleepFor(absl::Seconds(options_.retry_seconds));
  }
}

Status EtcdLog::PutAsLeader(const std::string& key, const std::string& value) {
  ASSIGN_OR_RETURN(const auto put,
                   client_.Txn({leadership_->IsMine()}, {EtcdOperation::Put(key, value)}, {}));
  return put.succeeded ? OkStatus() : NotAccepted();
}

std::vector<std::string> EtcdLog::Cut(const std::string& bytes) const {
  std::vector<std::string> pieces;
  for (size_t at = 0; at < bytes.size(); at += options_.piece_bytes) {
    pieces.push_back(bytes.substr(at, options_.piece_bytes));
  }
  return pieces;
}

StatusOr<std::string> EtcdLog::ReadPieces(const std::string& folder, int64_t count) {
  std::string bytes;
  for (int64_t piece = 0; piece < count; ++piece) {
    RETURN_IF_ERROR(Persist([&]() -> Status {
      ASSIGN_OR_RETURN(const std::string one,
                       client_.Get(absl::StrFormat("%s/%08x", folder, piece)));
      bytes += one;
      return OkStatus();
    }));
  }
  return bytes;
}

StatusOr<std::optional<std::string>> EtcdLog::ReadImage() {
  StatusOr<std::string> sealed = "";
  RETURN_IF_ERROR(Persist([&]() -> Status {
    sealed = client_.Get(Key("image"));
    return absl::IsNotFound(sealed.status()) ? OkStatus() : sealed.status();
  }));
  if (absl::IsNotFound(sealed.status())) return std::optional<std::string>();
  ASSIGN_OR_RETURN(const std::string text, sealer_.Open(Key("image"), *sealed));
  const std::vector<std::string> words = absl::StrSplit(text, ' ');
  int64_t first = 0, pieces = 0;
  if (words.size() != 2 || !absl::SimpleAtoi(words[0], &first) ||
      !absl::SimpleAtoi(words[1], &pieces) || first < 0 || pieces < 1 || pieces > kMaxPieces) {
    return UsageError(absl::StrCat("the key ", Key("image"), " in etcd is not understood"));
  }
  const std::string folder = Key("image", first);
  ASSIGN_OR_RETURN(const std::string bytes, ReadPieces(folder, pieces));
  ASSIGN_OR_RETURN(std::string image, sealer_.Open(folder, bytes));
  first_ = next_ = first;
  image_size_ = static_cast<int64_t>(bytes.size());
  return std::optional<std::string>(std::move(image));
}

Status EtcdLog::ReadSteps(const std::function<Status(const std::vector<Record>& records)>& use) {
  const std::string end = AfterPrefix(Key("step") + "/");
  while (true) {
    std::vector<EtcdKeyValue> page;
    RETURN_IF_ERROR(Persist([&]() -> Status {
      ASSIGN_OR_RETURN(page, client_.Range(Key("step", next_), end, kStepsAPage));
      return OkStatus();
    }));
    if (page.empty()) return OkStatus();
    for (const EtcdKeyValue& one : page) {
      const std::string key = Key("step", next_);
      if (one.key != key) {
        return UsageError(absl::StrCat("etcd lacks ", key, ", but has ", one.key,
                                       ": the log was damaged by another program"));
      }
      std::string sealed = one.value.empty() ? "" : one.value.substr(1);
      int64_t pieces = 0;
      if (!one.value.empty() && one.value[0] == kInPieces) {
        if (!absl::SimpleAtoi(sealed, &pieces) || pieces < 1 || pieces > kMaxPieces) {
          return UsageError(absl::StrCat("the key ", key, " in etcd is not understood"));
        }
        ASSIGN_OR_RETURN(sealed, ReadPieces(Key("part", next_), pieces));
      }
      ASSIGN_OR_RETURN(const std::string plain, sealer_.Open(key, sealed));
      ASSIGN_OR_RETURN(const std::vector<Record> records, DecodeStep(plain));
      RETURN_IF_ERROR(Annotate(use(records), absl::StrCat("while applying ", key)));
      steps_bytes_ += static_cast<int64_t>(sealed.size());
      ++next_;
    }
  }
}

Status EtcdLog::TryAppend(const std::string& key, const std::string& value,
                          const std::vector<std::string>& pieces) {
  const std::string folder = Key("part", next_);
  for (size_t piece = 0; piece < pieces.size(); ++piece) {
    RETURN_IF_ERROR(PutAsLeader(absl::StrFormat("%s/%08x", folder, piece), pieces[piece]));
  }
  ASSIGN_OR_RETURN(const auto put,
                   client_.Txn({leadership_->IsMine(), EtcdCompare::Absent(key)},
                               {EtcdOperation::Put(key, value)}, {EtcdOperation::Get(key)}));
  if (put.succeeded) return OkStatus();
  if (put.fetched.empty()) return NotAccepted();
  // An earlier try arrived. A value in pieces is only their number: the last piece tells whose.
  std::string last = put.fetched[0].value;
  std::string expected = value;
  if (!pieces.empty()) {
    expected = pieces.back();
    ASSIGN_OR_RETURN(last, client_.Get(absl::StrFormat("%s/%08x", folder, pieces.size() - 1)));
  }
  return last == expected ? OkStatus() : NotAccepted();
}

Status EtcdLog::Append(const std::vector<Record>& records) {
  const std::string key = Key("step", next_);
  const std::string sealed = sealer_.Seal(key, EncodeStep(records));
  std::vector<std::string> pieces;
  std::string value;
  if (sealed.size() > options_.piece_bytes) {
    pieces = Cut(sealed);
    value = absl::StrCat(std::string(1, kInPieces), pieces.size());
  } else {
    value = absl::StrCat(std::string(1, kWhole), sealed);
  }
  RETURN_IF_ERROR(Persist([&] { return TryAppend(key, value, pieces); }));
  ++next_;
  steps_bytes_ += static_cast<int64_t>(sealed.size());
  return OkStatus();
}

bool EtcdLog::WantsImage() const {
  return steps_bytes_ > std::max(options_.image_bytes, 2 * image_size_);
}

Status EtcdLog::WriteImage(const std::string& image) {
  const auto image_bytes = static_cast<int64_t>(image.size());
  if (image_bytes > kMaxImageBytes ||
      image_bytes / static_cast<int64_t>(options_.piece_bytes) >= kMaxPieces) {
    // The steps stay, and say everything; the next look at it is when there are twice as many.
    LOG(WARNING) << "the job's history, " << image_bytes
                 << " bytes, is too long for one image in etcd: every step stays there, and a "
                 << "standby takes longer to read them";
    image_size_ = std::max(image_size_, steps_bytes_);
    return OkStatus();
  }
  const std::string folder = Key("image", next_);
  const std::string sealed = sealer_.Seal(folder, image);
  const std::vector<std::string> pieces = Cut(sealed);
  for (size_t piece = 0; piece < pieces.size(); ++piece) {
    RETURN_IF_ERROR(Persist(
        [&] { return PutAsLeader(absl::StrFormat("%s/%08x", folder, piece), pieces[piece]); }));
  }
  const std::string text = sealer_.Seal(Key("image"), absl::StrCat(next_, " ", pieces.size()));
  const std::string images = Key("image") + "/";
  RETURN_IF_ERROR(Persist([&]() -> Status {
    ASSIGN_OR_RETURN(
        const auto done,
        client_.Txn({leadership_->IsMine()},
                    {EtcdOperation::Put(Key("image"), text),
                     EtcdOperation::Delete(Key("step", 0), Key("step", next_)),
                     EtcdOperation::Delete(Key("part", 0), Key("part", next_)),
                     EtcdOperation::Delete(images, folder),
                     EtcdOperation::Delete(AfterPrefix(folder + "/"), AfterPrefix(images))},
                    {}));
    return done.succeeded ? OkStatus() : NotAccepted();
  }));
  first_ = next_;
  steps_bytes_ = 0;
  image_size_ = static_cast<int64_t>(sealed.size());
  return OkStatus();
}

}  // namespace atl
