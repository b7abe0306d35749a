// Several engines in one process that join over loopback.
#pragma once

#include <gtest/gtest.h>
#include <time.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/random.h"
#include "collectives/wan/engine.h"
#include "tests/wan/sums.h"

namespace atl::wan {

// The C library reads the time zone on first use, in whichever thread logs first, and the thread
// sanitizer sees no lock around it: read it before there are threads.
inline const bool kTimeZoneIsRead = (tzset(), true);

inline const char* const kNames[] = {"johor", "oslo",  "batam", "turku", "lagos",
                                     "quito", "perth", "izmir", "dakar"};

inline std::unique_ptr<Engine> MakeEngine(int streams = 2, int64_t chunk_bytes = 64 << 10,
                                          uint16_t port = 0) {
  EngineOptions options;
  options.listen = {"127.0.0.1", port};
  options.streams = streams;
  options.chunk_bytes = chunk_bytes;
  auto engine = Engine::Create(options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

class Cluster {
 public:
  explicit Cluster(int members, int streams = 2, int64_t chunk_bytes = 64 << 10) {
    for (int member = 0; member < members; ++member) {
      engines.push_back(MakeEngine(streams, chunk_bytes));
      endpoints.push_back(engines.back()->endpoint());
    }
  }

  int members() const { return static_cast<int>(engines.size()); }

  Group GroupOf(int member, int64_t view = 1, int64_t lane = 0) const {
    Group group;
    group.view = {view};
    group.lane = {lane};
    group.self = {member};
    group.members = endpoints;
    for (size_t i = 0; i < endpoints.size(); ++i) group.names.push_back(kNames[i]);
    group.key.fill(static_cast<uint8_t>(view));
    return group;
  }

  void JoinAll(int64_t view = 1, int64_t lane = 0) {
    std::vector<std::thread> threads;
    for (int member = 0; member < members(); ++member) {
      threads.emplace_back([this, member, view, lane] {
        const Status status = engines[member]->Join(GroupOf(member, view, lane), 30);
        EXPECT_TRUE(status.ok()) << status;
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::vector<std::shared_ptr<Operation>> StartAll(uint64_t id,
                                                   std::vector<std::vector<float>>* data,
                                                   const AllReduceOptions& options = {},
                                                   int64_t view = 1, int64_t lane = 0) {
    std::vector<std::shared_ptr<Operation>> operations;
    for (int member = 0; member < members(); ++member) {
      operations.push_back(
          engines[member]->AllReduce({view}, {lane}, id, (*data)[member], options));
    }
    return operations;
  }

  // Who talks to member 0 does so through this proxy: nobody else can be called by it.
  void GoThrough(const Endpoint& proxy) {
    endpoints.assign(endpoints.size(), Endpoint());
    endpoints[0] = proxy;
  }

  std::vector<std::unique_ptr<Engine>> engines;
  std::vector<Endpoint> endpoints;  // what the members dial; a test may put a proxy in between
};

// Numbers of very different sizes, so that a sum in another order has other bits.
inline std::vector<std::vector<float>> MakeInputs(int members, size_t elements, uint64_t seed) {
  std::vector<std::vector<float>> inputs(members, std::vector<float>(elements));
  for (int member = 0; member < members; ++member) {
    for (size_t i = 0; i < elements; ++i) {
      const uint64_t bits = Mix64(seed * 0x9E3779B97F4A7C15ull + member * elements + i);
      const float unit = static_cast<float>(static_cast<int64_t>(bits >> 32) - (1LL << 31));
      inputs[member][i] = unit * (bits % 3 == 0 ? 1e-9f : bits % 3 == 1 ? 1e-3f : 3.0f);
    }
  }
  return inputs;
}

inline void ExpectSums(Cluster* cluster, uint64_t id, size_t elements = 100000) {
  const auto inputs = MakeInputs(cluster->members(), elements, id);
  auto data = inputs;
  for (const auto& operation : cluster->StartAll(id, &data)) {
    const auto result = operation->Wait();
    ASSERT_TRUE(result.ok()) << result.status();
  }
  for (const auto& vector : data) EXPECT_TRUE(SameBits(vector, Reference(inputs, Codec::kFp32)));
}

}  // namespace atl::wan
