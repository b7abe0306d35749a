#include "tests/collectives/battery.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/random.h"
#include "collectives/agreement.h"
#include "collectives/queue.h"

namespace atl {
namespace {

class HostMemoryImpl : public VectorMemory {
 public:
  float* Allocate(int64_t count) override { return new float[count]; }
  void Free(float* data) override { delete[] data; }
  void Write(float* to, const float* host, int64_t count) override { std::copy_n(host, count, to); }
  void Read(const float* from, float* host, int64_t count) override {
    std::copy_n(from, count, host);
  }
};

// What the communicator gives.
class AllocatedMemory : public VectorMemory {
 public:
  AllocatedMemory(Communicator& communicator, VectorMemory* access)
      : communicator_(communicator), access_(access) {}
  float* Allocate(int64_t count) override {
    auto buffer = communicator_.Allocate(count);
    CHECK(buffer.ok()) << buffer.status();
    float* const data = buffer->data();
    buffers_[data] = *std::move(buffer);
    return data;
  }
  void Free(float* data) override { CHECK_EQ(buffers_.erase(data), 1u); }
  void Write(float* to, const float* host, int64_t count) override {
    access_->Write(to, host, count);
  }
  void Read(const float* from, float* host, int64_t count) override {
    access_->Read(from, host, count);
  }

 private:
  Communicator& communicator_;
  VectorMemory* const access_;
  std::map<float*, Buffer> buffers_;
};

// What rank `rank` brings to test `seed`: any rank can compute it, so references need no messages.
// Values of different magnitude, so that the order of a sum shows in its bits.
float Input(uint64_t seed, int rank, int64_t index) {
  const uint64_t bits = CounterRandom(seed * 1000 + rank).Bits(index);
  const float scale = std::bit_cast<float>(static_cast<uint32_t>((bits >> 60) + 119) << 23);
  return static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31f * scale;  // scale: 2^-8 to 2^7
}

uint64_t Fingerprint(std::span<const float> values) {
  uint64_t hash = values.size();
  for (const float value : values) hash = Mix64(hash ^ std::bit_cast<uint32_t>(value));
  return hash;
}

// Ways to cut [begin, begin + count) into a range a rank.
enum class Cut { kEven, kGrowing, kAllToLast, kAllToFirst, kHolesBetween, kRandom };
constexpr Cut kCuts[] = {Cut::kEven,       Cut::kGrowing,      Cut::kAllToLast,
                         Cut::kAllToFirst, Cut::kHolesBetween, Cut::kRandom};

std::vector<Range> CutInto(Cut cut, int64_t begin, int64_t count, int ranks) {
  std::vector<int64_t> bounds(ranks + 1, begin);
  bounds[ranks] = begin + count;
  for (int64_t i = 1; i < ranks; ++i) {
    int64_t at = 0;
    switch (cut) {
      case Cut::kEven:
        at = count * i / ranks;
        break;
      case Cut::kGrowing:
        at = count * i * i / (ranks * ranks);
        break;
      case Cut::kAllToLast:
        at = 0;
        break;
      case Cut::kAllToFirst:
        at = count;
        break;
      case Cut::kHolesBetween:  // every second rank has nothing
        at = count * ((i + 1) / 2 * 2) / (ranks + 1);
        break;
      case Cut::kRandom:
        at = static_cast<int64_t>(CounterRandom(count).Bits(i) % (count + 1));
        break;
    }
    bounds[i] = begin + at;
  }
  std::sort(bounds.begin() + 1, bounds.end() - 1);
  std::vector<Range> ranges;
  for (int rank = 0; rank < ranks; ++rank) ranges.push_back({bounds[rank], bounds[rank + 1]});
  return ranges;
}

class Battery {
 public:
  Battery(Communicator& communicator, VectorMemory* memory, const BatteryOptions& options)
      : communicator_(communicator),
        access_(memory),
        allocated_(communicator, memory),
        memory_(options.allocate ? &allocated_ : memory),
        options_(options),
        rank_(communicator.rank()),
        ranks_(communicator.size()) {}

  BatteryResult Run() {
    for (const int64_t size : options_.sizes) {
      AllReduce(size);
      for (const Cut cut : kCuts) {
        if (size > 100000 && cut != Cut::kEven && cut != Cut::kHolesBetween) continue;  // time
        ScatterAndGather(size, cut);
      }
    }
    for (const int64_t size : {0, 1, 2039, 2040, 2041, 100000}) {
      for (int root = 0; root < ranks_; ++root) Broadcast(size, root);
    }
    GatherBytes();
    Agreement();
    if (options_.oversized_message) OversizedMessage();
    Queue();
    Mixture();
    Places();
    for (int i = 0; i < 20; ++i) Succeeds(communicator_.Barrier(), "Barrier");
    return std::move(result_);
  }

 private:
  // A vector in the backend's memory with a guard on either side, which no method may touch.
  class Vector {
   public:
    static constexpr int64_t kGuard = 8;
    static constexpr float kGuardValue = -77.25f;
    Vector(VectorMemory* memory, int64_t count)
        : memory_(memory), count_(count), data_(memory->Allocate(count + 2 * kGuard)) {}
    ~Vector() { memory_->Free(data_); }
    Vector(const Vector&) = delete;
    float* data() { return data_ + kGuard; }
    void Fill(uint64_t seed, int rank) {
      std::vector<float> host(count_ + 2 * kGuard, kGuardValue);
      for (int64_t i = 0; i < count_; ++i) host[kGuard + i] = Input(seed, rank, i);
      memory_->Write(data_, host.data(), count_ + 2 * kGuard);
    }
    std::vector<float> Read(bool* guards_intact) {
      std::vector<float> host(count_ + 2 * kGuard);
      memory_->Read(data_, host.data(), count_ + 2 * kGuard);
      const auto is_guard = [](float value) { return value == kGuardValue; };
      *guards_intact = std::all_of(host.begin(), host.begin() + kGuard, is_guard) &&
                       std::all_of(host.end() - kGuard, host.end(), is_guard);
      return {host.begin() + kGuard, host.end() - kGuard};
    }

   private:
    VectorMemory* const memory_;
    const int64_t count_;
    float* const data_;
  };

  void Expect(bool ok, const std::string& what) {
    ++result_.checks;
    if (!ok && result_.failures.size() < 20) {
      result_.failures.push_back(absl::StrCat("rank ", rank_, "/", ranks_, ": ", what));
    }
  }
  void Succeeds(const Status& status, const std::string& what) {
    Expect(status.ok(), absl::StrCat(what, ": ", status.ToString()));
  }

  std::vector<float> Contents(Vector& vector, const std::string& what) {
    bool intact = false;
    std::vector<float> values = vector.Read(&intact);
    Expect(intact, absl::StrCat(what, " wrote outside the vector"));
    return values;
  }

  // The sums over the ranks of the inputs of a test, made once a test.
  struct Reference {
    std::vector<float> in_order;    // ((rank 0 + rank 1) + rank 2) + ..., in floats
    std::vector<double> exact;      // in doubles
    std::vector<double> magnitude;  // sums of absolute values: what rounding is relative to
  };

  Reference SumOfInputs(uint64_t seed, int64_t size) const {
    Reference sum;
    for (int rank = 0; rank < ranks_; ++rank) {
      sum.in_order.resize(size);
      sum.exact.resize(size);
      sum.magnitude.resize(size);
      for (int64_t i = 0; i < size; ++i) {
        const float value = Input(seed, rank, i);
        sum.in_order[i] = rank == 0 ? value : sum.in_order[i] + value;
        sum.exact[i] += value;
        sum.magnitude[i] += std::abs(value);
      }
    }
    return sum;
  }

  void ExpectSums(const std::vector<float>& values, Range range, const Reference& sum,
                  const std::string& what) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const bool ok =
          options_.sums_in_rank_order
              ? std::bit_cast<uint32_t>(values[i]) == std::bit_cast<uint32_t>(sum.in_order[i])
              : std::abs(values[i] - sum.exact[i]) <= ranks_ * 6e-8 * sum.magnitude[i];
      if (!ok) {
        Expect(false,
               absl::StrCat(what, ": element ", i, " is ", values[i], ", not ", sum.exact[i]));
        return;
      }
    }
    Expect(true, what);
  }

  // Every rank's vector must have the same bits.
  void ExpectSameEverywhere(const std::vector<float>& values, const std::string& what) {
    const uint64_t own = Fingerprint(values);
    const auto all = communicator_.AllGatherBytes(absl::StrCat(own));
    Succeeds(all.status(), "AllGatherBytes");
    if (!all.ok()) return;
    for (const std::string& other : *all) {
      Expect(other == absl::StrCat(own), absl::StrCat(what, ": ranks hold different bits"));
    }
  }

  void AllReduce(int64_t size) {
    const std::string what = absl::StrCat("AllReduce of ", size);
    const uint64_t seed = ++seed_;
    const Reference sum = SumOfInputs(seed, size);
    Vector vector(memory_, size);
    std::vector<float> first;
    for (int repetition = 0; repetition < 3; ++repetition) {
      vector.Fill(seed, rank_);
      Succeeds(communicator_.AllReduce(vector.data(), size), what);
      const std::vector<float> values = Contents(vector, what);
      if (repetition == 0) {
        ExpectSums(values, {0, size}, sum, what);
        ExpectSameEverywhere(values, what);
        first = values;
      } else {
        Expect(Fingerprint(values) == Fingerprint(first), what + ": other bits when repeated");
      }
    }
  }

  // A reduce-scatter and the all-gather of its result, on ranges that do not begin at 0.
  void ScatterAndGather(int64_t size, Cut cut) {
    constexpr int64_t kBefore = 5;
    const std::vector<Range> ranges = CutInto(cut, kBefore, size, ranks_);
    const std::string what =
        absl::StrCat("ReduceScatter of ", size, " cut ", static_cast<int>(cut));
    const uint64_t seed = ++seed_;
    const Reference sum = SumOfInputs(seed, kBefore + size);
    Vector vector(memory_, kBefore + size);
    std::vector<float> first;
    for (int repetition = 0; repetition < 2; ++repetition) {
      vector.Fill(seed, rank_);
      Succeeds(communicator_.ReduceScatter(vector.data(), ranges), what);
      ExpectSums(Contents(vector, what), ranges[rank_], sum, what);
      Succeeds(communicator_.AllGather(vector.data(), ranges), "AllGather after " + what);
      const std::vector<float> values = Contents(vector, "AllGather after " + what);
      ExpectSums(values, {kBefore, kBefore + size}, sum, "AllGather after " + what);
      for (int64_t i = 0; i < kBefore; ++i) {
        Expect(values[i] == Input(seed, rank_, i), what + ": touched what is in no range");
      }
      if (repetition == 0) first = values;
      Expect(Fingerprint(values) == Fingerprint(first), what + ": other bits when repeated");
    }
    ExpectSameEverywhere({first.begin() + kBefore, first.end()}, what);
  }

  static std::string Message(int64_t size, int source) {
    std::string bytes(size, '\0');
    for (int64_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 31 + source * 7 + 1);
    return bytes;
  }

  void Broadcast(int64_t size, int root) {
    std::string bytes = rank_ == root ? Message(size, root) : "what was here before";
    Succeeds(communicator_.Broadcast(&bytes, root), "Broadcast");
    Expect(bytes == Message(size, root), absl::StrCat("Broadcast of ", size, " from ", root));
  }

  void GatherBytes() {
    for (const int64_t base : {0, 1, 5000}) {
      const auto all = communicator_.AllGatherBytes(Message(base * rank_, rank_));
      Succeeds(all.status(), "AllGatherBytes");
      if (!all.ok()) continue;
      Expect(static_cast<int>(all->size()) == ranks_, "AllGatherBytes gives one entry a rank");
      for (int source = 0; source < static_cast<int>(all->size()); ++source) {
        Expect((*all)[source] == Message(base * source, source),
               absl::StrCat("AllGatherBytes, entry of rank ", source));
      }
    }
  }

  void Agreement() {
    Succeeds(AgreeOnSuccess(communicator_, OkStatus()), "AgreeOnSuccess");
    const int failing = ranks_ - 1;
    const Status own = rank_ == failing ? absl::DataLossError("no such luck") : OkStatus();
    const Status agreed = AgreeOnSuccess(communicator_, own);
    Expect(agreed.code() == absl::StatusCode::kDataLoss, "AgreeOnSuccess keeps the code");
    const std::string expected =
        absl::StrCat(rank_ == failing ? "" : absl::StrCat("rank ", failing, ": "), "no such luck");
    Expect(agreed.message() == expected, "AgreeOnSuccess names the rank");
  }

  void OversizedMessage() {
    std::string bytes;
    if (rank_ == 0) bytes.resize(Communicator::kMaxControlBytes + 1);
    Expect(communicator_.Broadcast(&bytes, 0).code() == absl::StatusCode::kInvalidArgument,
           "Broadcast refuses an oversized message");
    Expect(communicator_.AllGatherBytes(rank_ == 0 ? bytes : "").status().code() ==
               absl::StatusCode::kInvalidArgument,
           "AllGatherBytes refuses an oversized message");
    Succeeds(communicator_.Barrier(), "Barrier after a refused message");
  }

  // Operations of all kinds, in an order drawn at random but the same on all ranks, on the queue's
  // thread, several queued at a time.
  void Queue() {
    constexpr int64_t kSize = 3001;
    const std::vector<Range> ranges = CutInto(Cut::kGrowing, 0, kSize, ranks_);
    Vector reduced(memory_, kSize), scattered(memory_, kSize);
    CollectiveQueue queue;
    for (uint64_t round = 0; round < 30; ++round) {
      const uint64_t seed = ++seed_;
      const int root = static_cast<int>(Mix64(seed) % ranks_);
      std::string message = rank_ == root ? Message(300 * round, root) : "";
      reduced.Fill(seed, rank_);
      scattered.Fill(seed, rank_);
      const Reference sum = SumOfInputs(seed, kSize);
      std::vector<std::function<Status()>> operations = {
          [&] { return communicator_.AllReduce(reduced.data(), kSize); },
          [&] { return communicator_.Broadcast(&message, root); },
          [&] { return communicator_.Barrier(); },
          [&]() -> Status {
            RETURN_IF_ERROR(communicator_.ReduceScatter(scattered.data(), ranges));
            return communicator_.AllGather(scattered.data(), ranges);
          }};
      std::rotate(operations.begin(), operations.begin() + Mix64(seed + 1) % 4, operations.end());
      if (Mix64(seed + 2) % 2) std::swap(operations[0], operations[2]);
      for (const auto& operation : operations) queue.Submit(operation);
      Succeeds(queue.Drain(), "the queue");
      ExpectSums(Contents(reduced, "queued AllReduce"), {0, kSize}, sum, "queued AllReduce");
      ExpectSums(Contents(scattered, "queued AllGather"), {0, kSize}, sum, "queued AllGather");
      Expect(message == Message(300 * round, root), "queued Broadcast");
    }
  }

  // Calls on vectors of all lengths close behind each other: what one call leaves behind must not
  // reach the next.
  void Mixture() {
    constexpr int64_t kLongest = 60000;
    Vector vector(memory_, kLongest);
    for (uint64_t round = 0; round < 60; ++round) {
      const uint64_t seed = ++seed_;
      const int64_t size =
          static_cast<int64_t>(Mix64(seed) % (kLongest + 1)) >> Mix64(seed + 1) % 12;
      const std::vector<Range> ranges = CutInto(kCuts[Mix64(seed + 2) % 6], 0, size, ranks_);
      const std::string what = absl::StrCat("call ", round, " of a mixture, of ", size);
      const Reference sum = SumOfInputs(seed, size);
      vector.Fill(seed, rank_);
      switch (Mix64(seed + 3) % 4) {
        case 0:
          Succeeds(communicator_.AllReduce(vector.data(), size), what);
          Succeeds(communicator_.AllReduce(vector.data(), 0), what);
          ExpectSums(Contents(vector, what), {0, size}, sum, what);
          break;
        case 1:
          Succeeds(communicator_.ReduceScatter(vector.data(), ranges), what);
          ExpectSums(Contents(vector, what), ranges[rank_], sum, what);
          break;
        case 2:
          Succeeds(communicator_.AllGather(vector.data(), ranges), what);
          ExpectGathered(Contents(vector, what), ranges, seed, what);
          break;
        default:
          Succeeds(communicator_.ReduceScatter(vector.data(), ranges), what);
          Succeeds(communicator_.AllGather(vector.data(), ranges), what);
          ExpectSums(Contents(vector, what), {0, size}, sum, what);
      }
    }
  }

  // Vectors that lie in what Allocate() gave on some ranks and elsewhere on others, in different
  // ones and at different places of them, and in ones that some ranks have given back.
  void Places() {
    constexpr int64_t kRoom = 40000;
    std::vector<Buffer> buffers;
    for (int i = 0; i < 2; ++i) {
      auto buffer = communicator_.Allocate(kRoom + (i == 1 ? 1000 * rank_ : 0));
      Succeeds(buffer.status(), "Allocate");
      if (!buffer.ok()) return;
      buffers.push_back(*std::move(buffer));
      std::vector<float> host(kRoom, 1.0f);
      access_->Read(buffers[i].data(), host.data(), kRoom);
      Expect(std::all_of(host.begin(), host.end(), [](float value) { return value == 0; }),
             "Allocate gives zeros");
    }
    float* const elsewhere = access_->Allocate(kRoom);
    const bool odd = rank_ % 2 == 1;
    for (const int64_t size : {1, 5000, 30000}) {
      AllReduceAt(buffers[0].data(), size, "all at the beginning");
      AllReduceAt(buffers[0].data() + 3 + 16 * rank_, size, "each at another place");
      AllReduceAt(buffers[1].data() + 999 * rank_, size, "in buffers of different lengths");
      AllReduceAt(rank_ == 0 ? buffers[0].data() : elsewhere, size, "of one rank in a buffer");
      AllReduceAt(rank_ == 0 ? elsewhere : buffers[1].data(), size, "of one rank elsewhere");
      AllReduceAt(buffers[odd].data(), size, "in different buffers");
      AllReduceAt(buffers[1].data() + kRoom + 1000 * rank_ - size, size, "all at the end");
    }
    if (odd) {  // the others keep theirs
      buffers[0] = Buffer();
      AllReduceAt(buffers[1].data(), 30000, "after a buffer was given back");
      AllReduceAt(elsewhere, 30000, "in a buffer that others have given back");
    } else {
      AllReduceAt(buffers[1].data(), 30000, "after a buffer was given back");
      AllReduceAt(buffers[0].data(), 30000, "in a buffer that others have given back");
    }
    access_->Free(elsewhere);
  }

  void AllReduceAt(float* data, int64_t size, const std::string& where) {
    const std::string what = absl::StrCat("AllReduce of ", size, ", ", where);
    const uint64_t seed = ++seed_;
    std::vector<float> host(size);
    for (int64_t i = 0; i < size; ++i) host[i] = Input(seed, rank_, i);
    access_->Write(data, host.data(), size);
    Succeeds(communicator_.AllReduce(data, size), what);
    access_->Read(data, host.data(), size);
    ExpectSums(host, {0, size}, SumOfInputs(seed, size), what);
    ExpectSameEverywhere(host, what);
  }

  void ExpectGathered(const std::vector<float>& values, const std::vector<Range>& ranges,
                      uint64_t seed, const std::string& what) {
    bool good = true;
    for (int owner = 0; owner < ranks_; ++owner) {
      for (int64_t i = ranges[owner].begin; i < ranges[owner].end; ++i) {
        good = good && values[i] == Input(seed, owner, i);
      }
    }
    Expect(good, what + ": not what the ranks have brought");
  }

  Communicator& communicator_;
  VectorMemory* const access_;
  AllocatedMemory allocated_;
  VectorMemory* const memory_;
  const BatteryOptions options_;
  const int rank_;
  const int ranks_;
  uint64_t seed_ = 0;
  BatteryResult result_;
};

}  // namespace

VectorMemory* HostMemory() {
  static auto* const memory = new HostMemoryImpl;
  return memory;
}

BatteryResult RunBattery(Communicator& communicator, VectorMemory* memory,
                         const BatteryOptions& options) {
  return Battery(communicator, memory, options).Run();
}

}  // namespace atl
