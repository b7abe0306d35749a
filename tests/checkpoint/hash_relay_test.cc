// Hashes that several ranks make together: the plan, and the hash's state on its way.
#include "checkpoint/hash_relay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/random.h"
#include "checkpoint/manifest.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

std::string RandomBytes(int64_t size, uint64_t seed) {
  const CounterRandom random(seed);
  std::string bytes(size, '\0');
  for (int64_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(random.Bits(i));
  return bytes;
}

TEST(Sha256Stream, IsTheHashOfAllPiecesWhereverItIsCut) {
  const std::string bytes = RandomBytes(300, 1);
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    Sha256Stream first;
    first.Update(bytes.data(), cut);
    const std::string state = first.State();
    EXPECT_EQ(state.size(), Sha256Stream::kStateBytes);
    auto second = Sha256Stream::FromState(state);
    ASSERT_TRUE(second.ok());
    second->Update(bytes.data() + cut, bytes.size() - cut);
    EXPECT_EQ(second->Finish(), Sha256(bytes)) << cut;
  }
}

TEST(Sha256Stream, CountsBeyondFourGibibits) {
  // The number of bytes, which the hash ends with, crosses 32 bits of bits.
  const std::string block(1 << 20, 'x');
  Sha256Stream whole, parts;
  for (int i = 0; i < 520; ++i) {
    whole.Update(block.data(), block.size());
    auto next = Sha256Stream::FromState(parts.State());
    ASSERT_TRUE(next.ok());
    parts = *std::move(next);
    parts.Update(block.data(), block.size());
  }
  EXPECT_EQ(whole.Finish(), parts.Finish());
}

TEST(Sha256Stream, RefusesAStateOfAnotherLength) {
  EXPECT_FALSE(Sha256Stream::FromState("").ok());
  EXPECT_FALSE(Sha256Stream::FromState(std::string(Sha256Stream::kStateBytes + 1, 'x')).ok());
  EXPECT_FALSE(Sha256Stream::FromState(std::string(Sha256Stream::kStateBytes, '\xFF')).ok());
}

// Carries the relay out over files of these parts and returns the hashes by chunk.
std::map<int64_t, std::string> Relay(const std::vector<std::string>& contents,
                                     const std::vector<FileParts>& files, int ranks,
                                     int64_t* exchanges) {
  std::vector<HashRelay> relays;
  for (int rank = 0; rank < ranks; ++rank) {
    auto relay = HashRelay::Plan(files, rank, ranks);
    EXPECT_TRUE(relay.ok()) << relay.status();
    relays.push_back(*std::move(relay));
  }
  std::map<int64_t, std::string> hashes, states;
  *exchanges = 0;
  for (int64_t wave = 0; wave < relays[0].waves(); ++wave) {
    std::map<int64_t, std::string> next;
    for (const HashRelay& relay : relays) {
      EXPECT_EQ(relay.waves(), relays[0].waves());
      EXPECT_EQ(relay.ExchangesAfter(wave), relays[0].ExchangesAfter(wave));
      for (const HashPart& part : relay.Wave(wave)) {
        EXPECT_EQ(part.begins, !states.contains(part.chunk));
        Sha256Stream stream;
        if (!part.begins) stream = *Sha256Stream::FromState(states.at(part.chunk));
        stream.Update(contents[part.file].data() + part.bytes.begin, part.bytes.size());
        if (part.ends) {
          EXPECT_TRUE(hashes.emplace(part.chunk, stream.Finish()).second);
        } else {
          next[part.chunk] = stream.State();
        }
      }
    }
    EXPECT_TRUE(next.empty() || relays[0].ExchangesAfter(wave)) << "a state is lost";
    *exchanges += relays[0].ExchangesAfter(wave);
    states = std::move(next);
  }
  return hashes;
}

void ExpectHashes(const std::vector<std::string>& contents,
                  const std::map<int64_t, std::string>& hashes) {
  int64_t chunk = 0;
  for (const std::string& content : contents) {
    for (int64_t i = 0; i < ChunkCount(content.size()); ++i, ++chunk) {
      ASSERT_TRUE(hashes.contains(chunk));
      EXPECT_EQ(hashes.at(chunk), Sha256(content.substr(i * kChunkBytes, kChunkBytes))) << chunk;
    }
  }
  EXPECT_EQ(static_cast<int64_t>(hashes.size()), chunk);
}

// Parts of random length, each of a random rank.
FileParts RandomParts(int64_t bytes, int64_t longest, int ranks, uint64_t seed) {
  const CounterRandom random(seed);
  FileParts parts;
  for (int64_t at = 0, i = 0; at < bytes; i += 2) {
    const int64_t size = std::min<int64_t>(bytes - at, 1 + random.Bits(i) % longest);
    parts.push_back({{at, at + size}, static_cast<int>(random.Bits(i + 1) % ranks)});
    at += size;
  }
  return parts;
}

TEST(HashRelay, GivesEveryChunksHashWhoeverWritesWhichPart) {
  const std::vector<std::string> contents = {RandomBytes(2 * kChunkBytes + 1234, 1), "",
                                             RandomBytes(kChunkBytes, 2), RandomBytes(7, 3)};
  for (const int ranks : {1, 2, 3, 8}) {
    for (const int64_t longest : {kChunkBytes / 50, kChunkBytes * 2}) {
      std::vector<FileParts> files;
      for (size_t i = 0; i < contents.size(); ++i) {
        files.push_back(RandomParts(contents[i].size(), longest, ranks, 7 * ranks + i));
      }
      int64_t exchanges = 0;
      ExpectHashes(contents, Relay(contents, files, ranks, &exchanges));
      if (ranks == 1) EXPECT_EQ(exchanges, 0);
    }
  }
}

TEST(HashRelay, KeepsAllRanksAtWorkWhereEachOwnsASliceOfEveryChunk) {
  constexpr int kRanks = 4;
  FileParts parts;
  for (int64_t at = 0; at < 400 * kChunkBytes; at += kChunkBytes / kRanks) {
    parts.push_back(
        {{at, at + kChunkBytes / kRanks}, static_cast<int>(at / (kChunkBytes / kRanks) % kRanks)});
  }
  const auto relay = HashRelay::Plan({parts}, 0, kRanks);
  ASSERT_TRUE(relay.ok());
  // A wave lasts as long as its longest share: of the waves' sum, a quarter is the best.
  int64_t longest = 0;
  for (int64_t wave = 0; wave < relay->waves(); ++wave) {
    int64_t most = 0;
    for (int rank = 0; rank < kRanks; ++rank) {
      int64_t bytes = 0;
      const auto of_rank = HashRelay::Plan({parts}, rank, kRanks);
      for (const HashPart& part : of_rank->Wave(wave)) bytes += part.bytes.size();
      most = std::max(most, bytes);
    }
    longest += most;
  }
  EXPECT_LT(static_cast<double>(longest), 1.15 * 400 * kChunkBytes / kRanks);
}

TEST(HashRelay, RefusesPartsThatLeaveAGapOrOverlap) {
  EXPECT_FALSE(HashRelay::Plan({{{{0, 5}, 0}, {{6, 8}, 1}}}, 0, 2).ok());
  EXPECT_FALSE(HashRelay::Plan({{{{0, 5}, 0}, {{4, 8}, 1}}}, 0, 2).ok());
  EXPECT_FALSE(HashRelay::Plan({{{{1, 5}, 0}}}, 0, 2).ok());
}

}  // namespace
}  // namespace atl::checkpoint
