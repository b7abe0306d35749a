#include "checkpoint/slice_writer.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "checkpoint/names.h"

namespace atl::checkpoint {
namespace {

constexpr int64_t kElementBytes = sizeof(float);
constexpr int64_t kStepBytes = 256 << 10;  // stays in a core's cache between hash and copy
constexpr size_t kNumberBytes = sizeof(int64_t);

void AppendNumber(int64_t number, std::string* bytes) {
  bytes->append(reinterpret_cast<const char*>(&number), kNumberBytes);
}

int64_t NumberAt(const std::string& bytes, size_t at) {
  int64_t number = 0;
  std::memcpy(&number, bytes.data() + at, kNumberBytes);
  return number;
}

}  // namespace

SliceWriter::SliceWriter(const SaveOptions& options, const Manifest& manifest,
                         const std::vector<FilePlan>& plans,
                         const std::vector<std::vector<Writer>>& writers, const std::string& index,
                         int rank, int ranks, Work work)
    : options_(options),
      manifest_(manifest),
      plans_(plans),
      writers_(writers),
      rank_(rank),
      ranks_(ranks),
      work_(std::move(work)),
      own_(manifest.files.size()) {
  std::vector<FileParts> parts(manifest_.files.size());
  for (size_t section = 0; section < plans_.size(); ++section) AddSection(section, &parts);
  if (!index.empty()) AddWhole(FileNumber(kIndexName), index, &parts);
  for (size_t file = 0; file < parts.size(); ++file) {
    const bool replicated = manifest_.files[file].file_class == FileClass::kReplicated;
    if (work_.only_hash_replicated && !replicated) parts[file].clear();
  }
  for (const std::string& key : work_.keys) ciphers_.push_back(std::make_unique<FileCipher>(key));
  if (!ciphers_.empty()) encrypted_.resize(kStepBytes);
  for (auto& own : own_) {
    std::sort(own.begin(), own.end(),
              [](const Bytes& a, const Bytes& b) { return a.bytes.begin < b.bytes.begin; });
  }
  auto relay = HashRelay::Plan(parts, rank_, ranks_);
  planned_ = relay.status();
  if (relay.ok()) relay_ = *std::move(relay);
}

int SliceWriter::FileNumber(const std::string& name) const {
  const auto file = std::lower_bound(manifest_.files.begin(), manifest_.files.end(), name,
                                     [](const ManifestFile& candidate, const std::string& wanted) {
                                       return candidate.name < wanted;
                                     });
  CHECK(file != manifest_.files.end() && file->name == name) << name;
  return static_cast<int>(file - manifest_.files.begin());
}

// Rank 0 hashes what it wrote before.
void SliceWriter::AddWhole(int file, const std::string& content, std::vector<FileParts>* parts) {
  const Range bytes = {0, static_cast<int64_t>(content.size())};
  (*parts)[file].push_back({bytes, 0});
  if (rank_ == 0) own_[file].push_back({bytes, content.data(), /*head=*/true});
}

void SliceWriter::AddSection(size_t section, std::vector<FileParts>* parts) {
  const FilePlan& plan = plans_[section];
  std::vector<int> numbers;  // of the plan's files
  for (const PlannedFile& file : plan.files()) numbers.push_back(FileNumber(file.name));
  const auto bytes_of = [](const Piece& piece) {
    return Range{piece.file_offset, piece.file_offset + piece.elements.size() * kElementBytes};
  };
  for (const Writer& writer : writers_[section]) {
    for (const Piece& piece : plan.Pieces(writer.elements)) {
      (*parts)[numbers[piece.file]].push_back({bytes_of(piece), writer.rank});
    }
  }
  for (const Slice& slice : options_.sections[section].slices) {
    for (const Piece& piece : plan.Pieces(slice.range)) {
      own_[numbers[piece.file]].push_back(
          {bytes_of(piece),
           reinterpret_cast<const char*>(slice.data + (piece.elements.begin - slice.range.begin))});
    }
  }
  for (size_t i = 0; i < numbers.size(); ++i) {
    FileParts& file = (*parts)[numbers[i]];
    std::sort(file.begin(), file.end(),
              [](const FilePart& a, const FilePart& b) { return a.bytes.begin < b.bytes.begin; });
    // The head goes with what follows it, so that its chunk is not shared for its sake.
    const std::string& head = plan.files()[i].head;
    const Range bytes = {0, static_cast<int64_t>(head.size())};
    const int rank = file.empty() ? 0 : file.front().rank;
    file.insert(file.begin(), {bytes, rank});
    if (rank_ == rank) own_[numbers[i]].push_back({bytes, head.data(), /*head=*/true});
  }
}

StatusOr<std::string> SliceWriter::Run(const std::string& staging, const Exchange& exchange,
                                       bool* agreed) {
  *agreed = false;
  RETURN_IF_ERROR(planned_);
  staging_ = staging;
  if (!work_.only_hash_replicated) writer_ = FileWriter::Create(options_.way);
  Status status;
  for (int64_t wave = 0; wave < relay_.waves(); ++wave) {
    if (status.ok()) status = Wave(relay_.Wave(wave));
    if (!relay_.ExchangesAfter(wave)) continue;
    const auto all = exchange(status, std::exchange(outgoing_, {}));
    if (!all.ok()) {
      *agreed = true;
      return all.status();
    }
    status = TakeStates(*all);
  }
  RETURN_IF_ERROR(status);
  if (writer_ != nullptr) {
    RETURN_IF_ERROR(writer_->Finish());
    LOG_FIRST_N(INFO, 1) << "checkpoints are written with " << writer_->Describe();
    writer_.reset();
  }
  std::string share;
  AppendNumber(written_, &share);
  return share + hashes_;
}

Status SliceWriter::TakeStates(const std::vector<std::string>& all) {
  constexpr size_t kEntry = kNumberBytes + Sha256Stream::kStateBytes;
  incoming_.clear();
  for (const std::string& states : all) {
    if (states.size() % kEntry != 0) return absl::InternalError("a rank's states of hashes");
    for (size_t at = 0; at < states.size(); at += kEntry) {
      incoming_[NumberAt(states, at)] = states.substr(at + kNumberBytes, Sha256Stream::kStateBytes);
    }
  }
  return OkStatus();
}

Status SliceWriter::Wave(const std::vector<HashPart>& parts) {
  for (const HashPart& part : parts) {
    Sha256Stream stream;
    if (!part.begins) {
      ASSIGN_OR_RETURN(stream, Sha256Stream::FromState(incoming_[part.chunk]));
    }
    RETURN_IF_ERROR(Part(part, &stream));
    std::string* const to = part.ends ? &hashes_ : &outgoing_;
    AppendNumber(part.chunk, to);
    *to += part.ends ? stream.Finish() : stream.State();
  }
  return OkStatus();
}

Status SliceWriter::Part(const HashPart& part, Sha256Stream* stream) {
  const std::vector<Bytes>& own = own_[part.file];
  const std::string path = absl::StrCat(staging_, "/", manifest_.files[part.file].name);
  auto run = std::partition_point(own.begin(), own.end(), [&](const Bytes& candidate) {
    return candidate.bytes.end <= part.bytes.begin;
  });
  int64_t at = part.bytes.begin;
  for (; at < part.bytes.end && run != own.end(); ++run) {
    if (run->bytes.begin > at) break;
    const int64_t end = std::min(run->bytes.end, part.bytes.end);
    while (at < end) {
      const int64_t size = std::min(kStepBytes, end - at);
      const char* data = run->data + (at - run->bytes.begin);
      if (!ciphers_.empty()) {
        ciphers_[part.file]->Apply(at, data, encrypted_.data(), size);
        data = encrypted_.data();
      }
      stream->Update(data, size);
      if (writer_ != nullptr && (!run->head || !ciphers_.empty())) {
        RETURN_IF_ERROR(writer_->Write(path, data, size, at));
      }
      if (!run->head) written_ += size;
      at += size;
    }
  }
  if (at == part.bytes.end) return OkStatus();
  return absl::InternalError(absl::StrCat("this rank has no bytes of ", path, " at ", at));
}

StatusOr<std::string> SliceWriter::AllHashes(const std::vector<std::string>& shares) const {
  constexpr size_t kEntry = kNumberBytes + kHashBytes;
  std::string hashes(relay_.chunks() * kHashBytes, '\0');
  std::vector<bool> there(relay_.chunks(), false);
  int64_t written = 0, expected = 0, hashed = 0;
  for (const std::string& share : shares) {
    if (share.size() % kEntry != kNumberBytes) return absl::InternalError("a rank's share");
    written += NumberAt(share, 0);
    for (size_t at = kNumberBytes; at < share.size(); at += kEntry) {
      const int64_t chunk = NumberAt(share, at);
      if (chunk < 0 || chunk >= relay_.chunks() || there[chunk]) {
        return absl::InternalError(absl::StrCat("chunk ", chunk, " was hashed twice"));
      }
      there[chunk] = true;
      ++hashed;
      std::memcpy(hashes.data() + chunk * kHashBytes, share.data() + at + kNumberBytes, kHashBytes);
    }
  }
  for (size_t section = 0; section < plans_.size(); ++section) {
    const SectionClass section_class = options_.sections[section].section_class;
    if (work_.only_hash_replicated && section_class != SectionClass::kReplicated) continue;
    expected += plans_[section].tensor_bytes();
  }
  if (written != expected) {
    return absl::InternalError(
        absl::StrCat("the ranks wrote ", written, " bytes of tensors instead of ", expected));
  }
  if (hashed != relay_.chunks()) {
    return absl::InternalError(
        absl::StrCat("the ranks hashed ", hashed, " chunks instead of ", relay_.chunks()));
  }
  return hashes;
}

}  // namespace atl::checkpoint
