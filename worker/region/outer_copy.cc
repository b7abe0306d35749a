#include "worker/region/outer_copy.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl {
namespace {

constexpr char kMagic[] = "ATLOUTER";
constexpr int64_t kHeaderFloats = OuterCopyHeader::kBytes / static_cast<int64_t>(sizeof(float));
constexpr double kRetrySeconds = 0.3;

class OuterCopy : public wan::ByteSource {
 public:
  OuterCopy(const OuterCopyHeader& header, std::span<const float> lane,
            std::shared_ptr<const void> room)
      : lane_(lane), room_(std::move(room)) {
    header.Encode(header_);
  }
  int64_t size() const override {
    return OuterCopyHeader::kBytes + static_cast<int64_t>(lane_.size() * sizeof(float));
  }
  Status Read(int64_t offset, std::span<uint8_t> out) override {
    const int64_t head = std::clamp<int64_t>(OuterCopyHeader::kBytes - offset, 0, out.size());
    if (head > 0) std::memcpy(out.data(), header_ + offset, head);
    const auto* const bytes = reinterpret_cast<const uint8_t*>(lane_.data());
    if (head < static_cast<int64_t>(out.size())) {
      std::memcpy(out.data() + head, bytes + offset + head - OuterCopyHeader::kBytes,
                  out.size() - head);
    }
    return OkStatus();
  }

 private:
  uint8_t header_[OuterCopyHeader::kBytes];
  const std::span<const float> lane_;
  const std::shared_ptr<const void> room_;
};

void PutNumber(uint8_t* out, int64_t number) {
  for (int i = 0; i < 8; ++i) out[i] = static_cast<uint8_t>(static_cast<uint64_t>(number) >> 8 * i);
}

int64_t GetNumber(const uint8_t* bytes) {
  uint64_t number = 0;
  for (int i = 0; i < 8; ++i) number |= static_cast<uint64_t>(bytes[i]) << 8 * i;
  return static_cast<int64_t>(number);
}

}  // namespace

void OuterCopyHeader::Encode(uint8_t* out) const {
  std::memcpy(out, kMagic, 8);
  PutNumber(out + 8, round);
  PutNumber(out + 16, updates);
  PutNumber(out + 24, elements);
}

StatusOr<OuterCopyHeader> OuterCopyHeader::Parse(const uint8_t* bytes) {
  OuterCopyHeader header;
  header.round = GetNumber(bytes + 8);
  header.updates = GetNumber(bytes + 16);
  header.elements = GetNumber(bytes + 24);
  if (std::memcmp(bytes, kMagic, 8) != 0 || header.round < 0 || header.updates < 0 ||
      header.elements < 0) {
    return absl::DataLossError("what was fetched is no copy of an outer state");
  }
  return header;
}

std::shared_ptr<wan::ByteSource> MakeOuterCopy(int64_t round, int64_t updates,
                                               std::span<const float> lane,
                                               std::shared_ptr<const void> room) {
  OuterCopyHeader header;
  header.round = round;
  header.updates = updates;
  header.elements = static_cast<int64_t>(lane.size());
  return std::make_shared<OuterCopy>(header, lane, std::move(room));
}

OuterFetch::OuterFetch(wan::Engine* engine, std::string name, ViewId view,
                       std::vector<LaneId> lanes, std::vector<int64_t> elements,
                       std::vector<MemberIndex> sources)
    : engine_(engine),
      name_(std::move(name)),
      view_(view),
      lanes_(std::move(lanes)),
      elements_(std::move(elements)),
      sources_(std::move(sources)),
      thread_([this] { Run(); }) {}

OuterFetch::~OuterFetch() {
  std::vector<std::shared_ptr<wan::Transfer>> transfers;
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    transfers = transfers_;
  }
  changed_.NotifyAll();
  for (const auto& transfer : transfers) transfer->Cancel();
  thread_.join();
}

std::vector<std::vector<Range>> OuterFetch::Everything() const {
  std::vector<std::vector<Range>> ranges;
  for (const int64_t elements : elements_) {
    const int64_t bytes = elements * static_cast<int64_t>(sizeof(float));
    ranges.push_back({{0, OuterCopyHeader::kBytes + bytes}});
  }
  return ranges;
}

void OuterFetch::Run() {
  for (const int64_t elements : elements_) lanes_data_.emplace_back(kHeaderFloats + elements);
  std::vector<std::vector<Range>> missing = Everything();
  for (;;) {
    if (Attempt(&missing) && CheckHeaders(&missing)) break;
    MutexLock lock(&mutex_);
    if (!stop_) changed_.WaitFor(&mutex_, kRetrySeconds);
    if (stop_) return;
  }
  for (std::vector<float>& lane : lanes_data_)
    lane.erase(lane.begin(), lane.begin() + kHeaderFloats);
  done_.store(true);
}

bool OuterFetch::Attempt(std::vector<std::vector<Range>>* missing) {
  std::vector<std::shared_ptr<wan::Transfer>> transfers(lanes_.size());
  {
    MutexLock lock(&mutex_);
    if (stop_) return false;
    for (size_t i = 0; i < lanes_.size(); ++i) {
      if ((*missing)[i].empty()) continue;
      wan::FetchRequest request;
      request.name = name_;
      request.sources = sources_;
      request.ranges = (*missing)[i];
      request.out = {reinterpret_cast<uint8_t*>(lanes_data_[i].data()),
                     lanes_data_[i].size() * sizeof(float)};
      transfers[i] = engine_->Fetch(view_, lanes_[i], std::move(request));
    }
    transfers_ = transfers;
  }
  bool all = true;
  for (size_t i = 0; i < lanes_.size(); ++i) {
    if (transfers[i] == nullptr) continue;
    const Status status = transfers[i]->Wait();
    (*missing)[i].clear();
    if (status.ok()) continue;
    all = false;
    (*missing)[i] = transfers[i]->Progress().missing;
    LOG(INFO) << "fetching the " << name_ << " state of lane " << lanes_[i].value << ": "
              << status.message();
  }
  MutexLock lock(&mutex_);
  transfers_.clear();
  return all;
}

// All lanes are of one copy; else all is fetched anew.
bool OuterFetch::CheckHeaders(std::vector<std::vector<Range>>* missing) {
  for (size_t i = 0; i < lanes_.size(); ++i) {
    const auto header =
        OuterCopyHeader::Parse(reinterpret_cast<const uint8_t*>(lanes_data_[i].data()));
    const bool first = i == 0;
    if (header.ok() && header->elements == elements_[i] &&
        (first || (header->round == header_.round && header->updates == header_.updates))) {
      header_ = *header;
      continue;
    }
    LOG(WARNING) << "the " << name_ << " state of lane " << lanes_[i].value
                 << " does not fit; once more";
    *missing = Everything();
    return false;
  }
  return true;
}

}  // namespace atl
