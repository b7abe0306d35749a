// Save: the steps are told in checkpoint.h; rank 0's work with names and places is in staging.cc.
//
// Every step ends in Agree(), so that a failure anywhere is known everywhere before the next step
// begins. Between two Agree() calls a rank touches only its own byte ranges and rank 0 only what no
// other rank touches.
#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "checkpoint/agreement.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/coverage.h"
#include "checkpoint/encryption.h"
#include "checkpoint/file_plan.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"
#include "checkpoint/slice_writer.h"
#include "checkpoint/staging.h"

namespace atl::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little, "files hold little-endian floats");

constexpr int64_t kBlock = 4096;  // of file systems

int64_t OnDisk(int64_t bytes) { return (bytes + kBlock - 1) / kBlock * kBlock; }

class Saver {
 public:
  Saver(const SaveOptions& options, Communicator& region) : options_(options), region_(region) {}

  StatusOr<SaveResult> Run() {
    RETURN_IF_ERROR(AgreeOnPlan());
    const StatusOr<bool> present = AgreeOnPlace();
    Status saved = present.status();
    if (present.ok() && !*present) saved = FillAndCommit();
    if (saved.ok()) {
      if (leads()) TellReplicated();
      return result_;
    }
    // If the ranks agreed on the failure, none writes any more, and none goes on before the
    // directory is gone. If they can't reach each other, the others write into files without names.
    if (leads() && !staging_.empty()) LogIfFailed(RemoveTree(staging_));
    if (reachable_) (void)region_.Barrier();
    return saved;
  }

 private:
  bool leads() const { return region_.rank() == 0; }
  bool encrypts() const { return options_.key != nullptr; }

  static void LogIfFailed(const Status& status) {
    LOG_IF(WARNING, !status.ok()) << status.message();
  }

  // The checkpoint is there whatever happens here.
  void TellReplicated() {
    auto replicated = ReadReplicated(result_.path);
    LogIfFailed(replicated.status());
    if (replicated.ok()) result_.replicated = *std::move(replicated);
  }

  StatusOr<std::vector<std::string>> Together(const Status& mine, const std::string& message) {
    return Agree(region_, mine, message, &reachable_);
  }

  // Step 1. What this rank says of itself: the hash of what it is about to save, then its slices.
  Status AgreeOnPlan() {
    const Status planned = Plan();
    std::string message;
    if (planned.ok()) {
      message =
          Sha256(absl::StrCat(blueprint_, "\n", options_.directory, "\n", options_.max_file_bytes,
                              "\n", options_.keep, "\n", options_.keep_every));
      for (size_t section = 0; section < options_.sections.size(); ++section) {
        for (const Slice& slice : options_.sections[section].slices) {
          const int64_t numbers[] = {static_cast<int64_t>(section), slice.range.begin,
                                     slice.range.end};
          message.append(reinterpret_cast<const char*>(numbers), sizeof numbers);
        }
      }
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> answers, Together(planned, message));
    // All ranks have the same answers, so all come to the same result.
    writers_.resize(plans_.size());
    for (size_t rank = 0; rank < answers.size(); ++rank) {
      if (answers[rank].compare(0, kHashBytes, answers[0], 0, kHashBytes) != 0) {
        return absl::InternalError(
            absl::StrCat("ranks 0 and ", rank, " are about to save different checkpoints"));
      }
      int64_t numbers[3];
      for (size_t at = kHashBytes; at + sizeof numbers <= answers[rank].size();
           at += sizeof numbers) {
        std::memcpy(numbers, answers[rank].data() + at, sizeof numbers);
        writers_[numbers[0]].push_back({static_cast<int>(rank), {numbers[1], numbers[2]}});
      }
    }
    for (size_t section = 0; section < writers_.size(); ++section) {
      RETURN_IF_ERROR(Annotate(CheckCoverage(manifest_.tensors, writers_[section]),
                               options_.sections[section].prefix));
    }
    return OkStatus();
  }

  // Fills plans_, manifest_ (without roots) and blueprint_. The same on every rank.
  Status Plan() {
    RETURN_IF_ERROR(options_.ready);
    if (options_.sections.empty() || options_.sections.size() > kMaxSections) {
      return UsageError(absl::StrCat("a checkpoint of ", options_.sections.size(), " sections"));
    }
    manifest_.description = options_.description;
    if (options_.key != nullptr) manifest_.encryption.emplace().key_id = options_.key->id();
    ASSIGN_OR_RETURN(manifest_.tensors, CheckedTensors(options_.tensors));
    for (const Section& section : options_.sections) {
      for (const Slice& slice : section.slices) {
        if (slice.range.begin < 0 || slice.range.size() < 0 ||
            (slice.data == nullptr && !slice.range.empty())) {
          return absl::InternalError(absl::StrCat("a slice of ", section.prefix, " at ",
                                                  slice.range.begin, " to ", slice.range.end));
        }
      }
      ASSIGN_OR_RETURN(FilePlan plan, FilePlan::Create(manifest_.tensors, section.prefix,
                                                       options_.max_file_bytes));
      manifest_.sections.push_back({section.prefix, section.section_class});
      plans_.push_back(std::move(plan));
    }
    ASSIGN_OR_RETURN(blueprint_, WriteManifest(manifest_));
    for (size_t i = 0; i < plans_.size(); ++i) {
      const FileClass file_class = ClassOfSection(options_.sections[i].section_class);
      for (const PlannedFile& file : plans_[i].files()) {
        manifest_.files.push_back({file.name, file_class, file.bytes, ""});
      }
      if (options_.sections[i].prefix == kModelPrefix) {
        index_ = plans_[i].IndexJson();
        manifest_.files.push_back(
            {kIndexName, file_class, static_cast<int64_t>(index_.size()), ""});
      }
    }
    std::sort(manifest_.files.begin(), manifest_.files.end(),
              [](const ManifestFile& a, const ManifestFile& b) { return a.name < b.name; });
    for (size_t i = 1; i < manifest_.files.size(); ++i) {
      if (ChunkHashName(manifest_.files[i - 1].name) == ChunkHashName(manifest_.files[i].name)) {
        return UsageError(absl::StrCat("two sections have files named ", manifest_.files[i].name));
      }
    }
    for (const ManifestFile& file : manifest_.files) {
      bytes_ += OnDisk(file.bytes) + OnDisk(ChunkCount(file.bytes) * kHashBytes);
    }
    // The manifest's final text adds a line a file, and folders take blocks of their own.
    bytes_ += OnDisk(static_cast<int64_t>(blueprint_.size() + manifest_.files.size() * 512)) +
              16 * kBlock;
    result_.path = absl::StrCat(options_.directory, "/", RoundName(options_.description.round));
    return OkStatus();
  }

  // Step 2. True if the round is there already. Rank 0 tells the size of what is there, or the
  // staging directory, and with a key a new salt.
  StatusOr<bool> AgreeOnPlace() {
    std::string place;
    Status status;
    if (leads()) {
      StatusOr<std::string> prepared = Prepare();
      if (prepared.ok()) place = *std::move(prepared);
      if (prepared.ok() && !staging_.empty() && manifest_.encryption) place.insert(0, NewSalt());
      status = prepared.status();
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> answers, Together(status, place));
    if (TakeBytes(answers[0]).ok()) return true;
    staging_ = answers[0];
    if (manifest_.encryption) {
      // In front of the directory.
      if (staging_.size() <= 2 * kHashBytes) return absl::InternalError("rank 0 gave no salt");
      manifest_.encryption->regional_salt = staging_.substr(0, 2 * kHashBytes);
      staging_.erase(0, 2 * kHashBytes);
    }
    return false;
  }

  // The staging directory with all files reserved, or the size of the checkpoint that is there.
  StatusOr<std::string> Prepare() {
    RETURN_IF_ERROR(WithExitCode(MakeDirectories(options_.directory), ExitCode::kEnvironment));
    StatusOr<FileLock> lock = LockDirectory(options_.directory, options_.lock_seconds);
    if (lock.ok()) {
      lock_.emplace(*std::move(lock));
    } else if (absl::IsFailedPrecondition(lock.status())) {
      return Annotate(lock.status(), "another save is under way in the same directory");
    } else {
      LOG(WARNING) << "saving without a lock: " << lock.status().message();
    }
    ClearLeftovers(options_.directory);
    if (const auto present = PresentBytes()) return absl::StrCat(*present);
    RETURN_IF_ERROR(CheckFreeSpace(options_.directory, bytes_));

    uint32_t token = 0;
    FillWithSystemRandom(&token, sizeof token);
    const std::string name =
        PartialName(options_.description.round, absl::StrCat(absl::Hex(token, absl::kZeroPad8)));
    staging_ = absl::StrCat(options_.directory, "/", name);
    const Status reserved = Reserve(staging_);
    if (reserved.ok()) return staging_;
    return ExplainWriteError(reserved, options_.directory, bytes_);
  }

  static int64_t Bytes(const Manifest& manifest, const std::string& text) {
    int64_t bytes = static_cast<int64_t>(text.size());
    for (const ManifestFile& file : manifest.files) {
      bytes += file.bytes + ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes);
    }
    return bytes;
  }

  Status TakeBytes(const std::string& answer) {
    if (absl::SimpleAtoi(answer, &result_.bytes)) return OkStatus();
    return absl::InternalError("rank 0 did not tell the checkpoint's size");
  }

  // The size of the same checkpoint, if it is there and whole. It is read to the last byte: a run
  // that went back because this one was damaged must be able to write it anew.
  std::optional<int64_t> PresentBytes() {
    const StatusOr<std::string> text =
        ReadFile(absl::StrCat(result_.path, "/", kManifestName), kMaxManifestBytes);
    if (!text.ok()) return std::nullopt;
    StatusOr<Manifest> manifest = ParseManifest(*text);
    if (!manifest.ok()) return std::nullopt;
    const int64_t bytes = Bytes(*manifest, *text);
    manifest->files.clear();
    if (manifest->encryption) {
      manifest->encryption = ManifestEncryption{manifest->encryption->key_id, "", "", ""};
    }
    const StatusOr<std::string> blueprint = WriteManifest(*manifest);
    if (!blueprint.ok() || *blueprint != blueprint_) return std::nullopt;
    const auto present = Checkpoint::Open(result_.path, options_.key.get());
    if (!present.ok() || !(*present)->Verify().ok()) return std::nullopt;
    return bytes;
  }

  Status Reserve(const std::string& staging) {
    RETURN_IF_ERROR(MakeDirectories(absl::StrCat(staging, "/", kChunkFolder)));
    for (const FilePlan& plan : plans_) {
      for (const PlannedFile& file : plan.files()) {
        const std::string path = absl::StrCat(staging, "/", file.name);
        RETURN_IF_ERROR(MakeDirectories(path.substr(0, path.rfind('/'))));
        // What is encrypted is written with the rest.
        RETURN_IF_ERROR(ReserveFile(path, encrypts() ? "" : file.head, file.bytes));
      }
    }
    if (index_.empty()) return OkStatus();
    const std::string path = absl::StrCat(staging, "/", kIndexName);
    if (encrypts()) return ReserveFile(path, "", static_cast<int64_t>(index_.size()));
    return WriteNewFile(path, index_);
  }

  // Steps 3 and 4, then the rest.
  Status FillAndCommit() {
    SliceWriter::Work work;
    if (encrypts()) {
      ASSIGN_OR_RETURN(const std::string hashes, AllHashes({.only_hash_replicated = true}));
      manifest_.encryption->replicated_salt = options_.key->ReplicatedSalt(manifest_, hashes);
      for (const ManifestFile& file : manifest_.files) {
        work.keys.push_back(options_.key->FileKey(manifest_, file));
      }
    }
    ASSIGN_OR_RETURN(const std::string hashes, AllHashes(std::move(work)));
    StatusOr<std::string> committed = std::string();
    if (leads()) committed = Commit(hashes);
    ASSIGN_OR_RETURN(const std::vector<std::string> answers, AgreeAfter(std::move(committed)));
    return TakeBytes(answers[0]);
  }

  // All ranks do this work; every rank has its result.
  StatusOr<std::string> AllHashes(SliceWriter::Work work) {
    SliceWriter writer(options_, manifest_, plans_, writers_, index_, region_.rank(),
                       region_.size(), std::move(work));
    bool agreed = false;
    StatusOr<std::string> share = writer.Run(
        staging_,
        [this](const Status& status, std::string states) {
          return AgreeAfter(status.ok() ? StatusOr<std::string>(std::move(states)) : status);
        },
        &agreed);
    if (agreed) return share.status();
    ASSIGN_OR_RETURN(const std::vector<std::string> shares, AgreeAfter(std::move(share)));
    return writer.AllHashes(shares);
  }

  StatusOr<std::vector<std::string>> AgreeAfter(StatusOr<std::string> step) {
    const Status status = ExplainWriteError(step.status(), options_.directory, bytes_);
    return Together(status, status.ok() ? *step : std::string());
  }

  // Steps 5 to 7, on rank 0.
  StatusOr<std::string> Commit(absl::string_view hashes) {
    size_t at = 0;
    for (ManifestFile& file : manifest_.files) {
      const size_t length = ChunkCount(file.bytes) * kHashBytes;
      const absl::string_view own = hashes.substr(at, length);
      at += length;
      file.root = Sha256Hex(own);
      RETURN_IF_ERROR(WriteNewFile(absl::StrCat(staging_, "/", ChunkHashName(file.name)), own));
    }
    if (encrypts()) {
      ASSIGN_OR_RETURN(manifest_.encryption->mac, options_.key->Mac(manifest_));
    }
    ASSIGN_OR_RETURN(const std::string text, WriteManifest(manifest_));
    // Nothing is committed that could not be opened.
    RETURN_IF_ERROR(ParseManifest(text).status());
    RETURN_IF_ERROR(SyncTree(staging_));
    RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(staging_, "/", kManifestName), text));
    RETURN_IF_ERROR(PutInPlace(options_.directory, staging_, options_.description.round));
    KeepNewest(options_.directory, options_.keep, options_.keep_every, result_.path);
    return absl::StrCat(Bytes(manifest_, text));
  }

  const SaveOptions& options_;
  Communicator& region_;
  bool reachable_ = true;  // the communicator works
  Manifest manifest_;
  std::string blueprint_;        // the manifest's text without files: equal for equal checkpoints
  std::string index_;            // model.safetensors.index.json
  std::vector<FilePlan> plans_;  // by section
  std::vector<std::vector<Writer>> writers_;  // by section: who writes what
  int64_t bytes_ = 0;                         // needed on disk
  std::string staging_;
  std::optional<FileLock> lock_;  // rank 0
  SaveResult result_;
};

}  // namespace

StatusOr<SaveResult> Save(const SaveOptions& options, Communicator& region) {
  StatusOr<SaveResult> saved = Saver(options, region).Run();
  if (saved.ok()) return saved;
  return Annotate(saved.status(),
                  absl::StrCat("cannot save the checkpoint of round ", options.description.round,
                               " in ", options.directory));
}

int64_t PredictedBytes(const std::vector<TensorSpec>& tensors, int sections) {
  const StatusOr<FilePlan> plan =
      FilePlan::Create(tensors, kModelPrefix, SaveOptions().max_file_bytes);
  if (!plan.ok()) return 0;
  int64_t bytes = 0;
  for (const PlannedFile& file : plan->files()) {
    bytes += OnDisk(file.bytes) + OnDisk(ChunkCount(file.bytes) * kHashBytes);
  }
  // The index and the manifest's list of tensors are each about as long as the header; the
  // description adds a model's text.
  const int64_t lists = 2 * static_cast<int64_t>(plan->IndexJson().size()) + (256 << 10);
  return bytes * sections + OnDisk(lists);
}

}  // namespace atl::checkpoint
