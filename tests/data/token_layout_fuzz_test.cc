// Seeded mutations of valid token files, notes and indexes: whatever the bytes say, the layout is
// refused or every token of it can be read (a sanitizer build sees the rest).
#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"
#include "tests/data/token_test_util.h"
#include "worker/data/token_layout.h"

namespace atl {
namespace {

struct Sample {
  std::string file;
  std::optional<std::string> note;
  std::optional<std::string> index;
};

std::vector<Sample> Samples() {
  MegatronParts index;
  index.lengths = {2, 3, 1, 0, 2};
  index.pointers = {10, 0, 6, 0, 14};
  index.documents = {0, 2, 5};
  const std::string tokens = LittleAll(Count(9), 2);
  return {
      {tokens,
       R"({"format":"atoll-tokens","version":1,"dtype":"uint16","vocab_size":9,"tokens":9})",
       {}},
      {LittleAll(Count(5), 4),
       R"({"format":"atoll-tokens","version":1,"dtype":"uint32","vocab_size":99999,"tokens":5,)"
       R"("documents":2,"tokenizer":"sentencepiece:x.model"})",
       {}},
      {tokens, {}, index.Bytes()},
      {LlmcBytes(20240520, 1, 9, tokens), {}, {}},
      {LlmcBytes(20240801, 7, 5, LittleAll(Count(5), 4)), {}, {}},
      {tokens, {}, {}},
  };
}

// One to four changes: a byte, a bit, an 8-byte extreme, a cut, an inserted piece.
std::string Mutate(std::string text, const CounterRandom& random, uint64_t* at) {
  const auto draw = [&](uint64_t bound) { return bound == 0 ? 0 : random.Bits((*at)++) % bound; };
  for (uint64_t changes = 1 + draw(4); changes > 0; --changes) {
    const uint64_t place = draw(text.size() + 1);
    switch (draw(5)) {
      case 0:
        if (place < text.size()) text[place] = static_cast<char>(draw(256));
        break;
      case 1:
        if (place < text.size()) text[place] = static_cast<char>(text[place] ^ 1 << draw(8));
        break;
      case 2: {
        const uint64_t extremes[] = {0, 1, UINT64_MAX, INT64_MAX, uint64_t{1} << 63, 1u << 31};
        const std::string value = Little(extremes[draw(6)], draw(2) ? 8 : 4);
        if (place + value.size() <= text.size()) text.replace(place, value.size(), value);
        break;
      }
      case 3:
        text.resize(place);
        break;
      case 4:
        text.insert(place, Little(random.Bits((*at)++), static_cast<int>(1 + draw(8))));
        break;
    }
  }
  return text;
}

TEST(TokenLayoutFuzz, RefusesOrReadsWhateverTheBytesSay) {
  const CounterRandom random(20240607);
  uint64_t at = 0;
  int accepted = 0;
  int refused = 0;
  for (const Sample& sample : Samples()) {
    for (int round = 0; round < 3000; ++round) {
      Sample changed = sample;
      const uint64_t which = random.Bits(at++) % 3;
      if (which == 0 || (!sample.note && !sample.index)) {
        changed.file = Mutate(changed.file, random, &at);
      } else if (sample.note) {
        changed.note = Mutate(*changed.note, random, &at);
      } else {
        changed.index = Mutate(*changed.index, random, &at);
      }
      TokenFileParts parts;
      parts.path = "x.bin";
      parts.file = AsBytes(changed.file);
      parts.note = changed.note;
      if (changed.index) parts.index = AsBytes(*changed.index);
      const auto layout = ParseTokenLayout(parts);
      ++(layout.ok() ? accepted : refused);
      if (!layout.ok()) continue;
      ASSERT_LE(layout->tokens, static_cast<int64_t>(changed.file.size()));
      std::vector<int32_t> all(static_cast<size_t>(layout->tokens));
      ReadTokens(*layout, parts.file, 0, all);
    }
  }
  EXPECT_GT(accepted, 500) << "the mutations are too coarse to reach the readers";
  EXPECT_GT(refused, 5000);
}

}  // namespace
}  // namespace atl
