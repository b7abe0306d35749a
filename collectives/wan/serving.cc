#include "collectives/wan/serving.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace atl::wan {
namespace {

constexpr size_t kMaxAsked = 1024;
constexpr int64_t kReadAhead = 4 << 20;
constexpr size_t kMaxHeld = 64 << 20;
constexpr size_t kMaxUnacked = 1 << 16;  // frames

class Memory : public ByteSource {
 public:
  explicit Memory(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  Status Read(int64_t offset, std::span<uint8_t> out) override {
    std::copy_n(bytes_.begin() + offset, out.size(), out.begin());
    return OkStatus();
  }

 private:
  const std::span<const uint8_t> bytes_;
};

}  // namespace

std::shared_ptr<ByteSource> MemorySource(std::span<const uint8_t> bytes) {
  return std::make_shared<Memory>(bytes);
}

Status ServedSource::Read(int64_t offset, std::span<uint8_t> out) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (source_ == nullptr) return absl::CancelledError("it is no longer served");
  return source_->Read(offset, out);
}

void ServedSource::Stop() {
  std::lock_guard<std::mutex> lock(mutex_);
  source_.reset();
}

std::shared_ptr<ServedSource> Serving::Serve(const std::string& name,
                                             std::shared_ptr<ServedSource> source) {
  return std::exchange(served_[name], std::move(source));
}

std::shared_ptr<ServedSource> Serving::Stop(const std::string& name) {
  const auto at = served_.find(name);
  if (at == served_.end()) return nullptr;
  std::shared_ptr<ServedSource> source = std::move(at->second);
  served_.erase(at);
  return source;
}

std::vector<std::shared_ptr<ServedSource>> Serving::StopAll() {
  std::vector<std::shared_ptr<ServedSource>> all;
  for (auto& [name, source] : served_) all.push_back(std::move(source));
  served_.clear();
  for (size_t member = 0; member < members_.size(); ++member) Forget(static_cast<int>(member));
  return all;
}

Status Serving::OnFetch(int member, uint64_t id, FetchFrame fetch) {
  Member& of = members_[member];
  if (of.asked.size() + of.ready.size() + of.reading.size() >= kMaxAsked) {
    return absl::InvalidArgumentError("it fetches more at a time than anybody needs");
  }
  const auto at = served_.find(fetch.name);
  if (at == served_.end()) {
    End(member, id, FetchEndCode::kNotServed, "");
  } else if (fetch.range.end > at->second->size()) {
    End(member, id, FetchEndCode::kOutOfRange, absl::StrCat(at->second->size(), " bytes"));
  } else {
    of.asked.push_back({id, fetch.range, at->second});
    ReadAhead(member);
  }
  return OkStatus();
}

void Serving::OnCancel(int member, uint64_t id) {
  Member& of = members_[member];
  const size_t before = of.asked.size() + of.ready.size();
  std::erase_if(of.asked, [id](const Asked& asked) { return asked.id == id; });
  std::erase_if(of.ready, [&of, id](const Ready& ready) {
    if (ready.header.operation != id || ready.bytes == nullptr) return false;
    of.ahead -= ready.header.payload;
    return true;
  });
  const bool reading = of.reading.erase(id) > 0;
  if (reading || of.asked.size() + of.ready.size() < before) {
    End(member, id, FetchEndCode::kCancelled, "");
  }
  ReadAhead(member);
}

void Serving::Forget(int member) {
  Member& of = members_[member];
  const uint64_t epoch = of.epoch + 1;
  of = {};
  of.epoch = epoch;
}

void Serving::End(int member, uint64_t id, FetchEndCode code, const std::string& text) {
  Ready end;
  end.header.type = FrameType::kFetchEnd;
  end.header.operation = id;
  end.end = EncodeFetchEnd({code, text});
  members_[member].ready.push_back(std::move(end));
  hooks_.ready(member);
}

void Serving::ReadAhead(int member) {
  Member& of = members_[member];
  const int64_t frame_bytes = hooks_.frame_bytes(member);
  while (!of.asked.empty() && of.ahead < kReadAhead) {
    Asked& asked = of.asked.front();
    const Range range = {asked.left.begin,
                         std::min(asked.left.end, asked.left.begin + frame_bytes)};
    const auto source = asked.source;
    const uint64_t id = asked.id;
    asked.left.begin = range.end;
    if (asked.left.empty()) of.asked.pop_front();
    of.ahead += range.size();
    ++of.reading[id];
    const auto bytes = std::make_shared<std::pair<Status, std::shared_ptr<uint8_t[]>>>();
    hooks_.run(
        [source, range, bytes] {
          const auto size = static_cast<size_t>(range.size());
          bytes->second = std::make_shared_for_overwrite<uint8_t[]>(size);
          bytes->first = source->Read(range.begin, {bytes->second.get(), size});
        },
        [this, member, id, range, bytes, epoch = of.epoch] {
          Member& read = members_[member];
          if (read.epoch != epoch) return;
          const auto at = read.reading.find(id);
          const bool wanted = at != read.reading.end();
          if (wanted && --at->second == 0) read.reading.erase(at);
          if (wanted && bytes->first.ok()) {
            Ready ready;
            ready.header.type = FrameType::kBlock;
            ready.header.operation = id;
            ready.header.range = range;
            ready.header.payload = static_cast<uint32_t>(range.size());
            ready.bytes = std::move(bytes->second);
            read.ready.push_back(std::move(ready));
            hooks_.ready(member);
          } else {
            read.ahead -= range.size();
            if (wanted) {
              // The rest of the request is void.
              OnCancel(member, id);
              std::erase_if(read.ready, [id](const Ready& ready) {
                return ready.header.operation == id && ready.bytes == nullptr;
              });
              const bool later = absl::IsResourceExhausted(bytes->first);
              End(member, id, later ? FetchEndCode::kBusy : FetchEndCode::kFailed,
                  std::string(bytes->first.message()));
            }
          }
          ReadAhead(member);
        });
  }
}

int64_t Serving::NextBytes(int member) const {
  const Member& of = members_[member];
  return of.ready.empty() || of.ready.front().bytes == nullptr ? 0
                                                               : of.ready.front().header.payload;
}

bool Serving::AppendNext(Channel* channel, Link* link) {
  Member& of = members_[channel->member()];
  if (of.ready.empty() || channel->held_bytes() >= kMaxHeld || channel->unacked() >= kMaxUnacked) {
    return false;
  }
  Ready next = std::move(of.ready.front());
  of.ready.pop_front();
  if (next.bytes == nullptr) {
    channel->SendBytes(link, next.header, std::move(next.end));
  } else {
    of.ahead -= next.header.payload;
    channel->SendHeld(link, next.header, std::move(next.bytes));
    ReadAhead(channel->member());
  }
  return true;
}

bool Serving::Works(int member) const {
  const Member& of = members_[member];
  return !of.asked.empty() || !of.ready.empty() || !of.reading.empty();
}

}  // namespace atl::wan
