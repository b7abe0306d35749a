// See megatron_index.h. Steps: 1. the fixed header; 2. the counts, against the file's size; 3. each
// sequence, against the .bin's size, joined to the one before where they touch; 4. the document
// list.
#include "worker/data/megatron_index.h"

#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace atl {
namespace {

constexpr char kMagic[] = "MMIDIDX\0";  // with the literal's own end: 9 bytes
constexpr int64_t kHeaderBytes = 34;
static_assert(sizeof kMagic == 9);

template <typename T>
T Load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::optional<TokenType> TypeOfCode(uint8_t code) {
  switch (code) {
    case 1:
      return TokenType::kUint8;
    case 2:
      return TokenType::kInt8;
    case 3:
      return TokenType::kInt16;
    case 4:
      return TokenType::kInt32;
    case 5:
      return TokenType::kInt64;
    case 8:
      return TokenType::kUint16;
    default:
      return std::nullopt;
  }
}

Status Bad(const std::string& path, const std::string& what) {
  return UsageError(absl::StrCat("data.tokens: ", path, " is not a sound Megatron index: ", what));
}

Status CheckDocuments(const uint8_t* documents, int64_t entries, int64_t sequences,
                      const std::string& path) {
  int64_t previous = 0;
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t begin = Load<int64_t>(documents + 8 * i);
    if (begin < previous || begin > sequences || (i == 0 && begin != 0)) {
      return Bad(path, absl::StrCat("document ", i, " begins at sequence ", begin, " of ",
                                    sequences, ", after one that begins at ", previous));
    }
    previous = begin;
  }
  return OkStatus();
}

}  // namespace

StatusOr<TokenLayout> ParseMegatronIndex(std::span<const uint8_t> index, int64_t bin_bytes,
                                         const std::string& path) {
  const auto size = static_cast<int64_t>(index.size());
  if (size < kHeaderBytes) {
    return Bad(path, absl::StrCat("it has ", size, " bytes, the header alone ", kHeaderBytes));
  }
  if (std::memcmp(index.data(), kMagic, sizeof kMagic) != 0) {
    return Bad(path, "it does not begin with MMIDIDX");
  }
  const auto version = Load<uint64_t>(index.data() + 9);
  if (version != 1) return Bad(path, absl::StrCat("version ", version, ", 1 is known"));
  const std::optional<TokenType> type = TypeOfCode(index[17]);
  if (!type) return Bad(path, absl::StrCat("token type ", index[17], " is not a whole number"));

  const auto sequences = Load<uint64_t>(index.data() + 18);
  const auto entries = Load<uint64_t>(index.data() + 26);
  const auto room = static_cast<uint64_t>(size - kHeaderBytes);
  if (sequences > room / 12 || entries > (room - 12 * sequences) / 8) {
    return Bad(path, absl::StrCat("it names ", sequences, " sequences and ", entries,
                                  " document entries, more than its ", size, " bytes hold"));
  }
  const uint64_t rest = room - 12 * sequences - 8 * entries;
  if (rest != 0 && rest != sequences) {
    return Bad(path, absl::StrCat(rest, " bytes are left over at its end"));
  }

  TokenLayout layout;
  layout.format = "megatron";
  layout.type = *type;
  const int64_t width = BytesPerToken(*type);
  const int64_t capacity = bin_bytes / width;
  const uint8_t* lengths = index.data() + kHeaderBytes;
  const uint8_t* pointers = lengths + 4 * sequences;
  int64_t next_byte = -1;
  for (uint64_t i = 0; i < sequences; ++i) {
    const int64_t length = Load<int32_t>(lengths + 4 * i);
    const int64_t pointer = Load<int64_t>(pointers + 8 * i);
    // length * width < 2^34, so the sum cannot overflow once pointer is inside the file.
    if (length < 0 || pointer < 0 || pointer > bin_bytes || pointer + length * width > bin_bytes) {
      return Bad(path, absl::StrCat("sequence ", i, " (", length, " tokens at byte ", pointer,
                                    ") lies outside the .bin of ", bin_bytes, " bytes"));
    }
    if (length == 0) continue;
    if (pointer != next_byte) layout.extents.push_back({layout.tokens, pointer});
    next_byte = pointer + length * width;
    layout.tokens += length;
    if (layout.tokens > capacity) {
      return Bad(path, absl::StrCat("its sequences overlap: they name more than the ", capacity,
                                    " tokens that the .bin holds"));
    }
  }
  RETURN_IF_ERROR(CheckDocuments(pointers + 8 * sequences, static_cast<int64_t>(entries),
                                 static_cast<int64_t>(sequences), path));
  layout.documents = entries > 0 ? static_cast<int64_t>(entries) - 1 : 0;
  return layout;
}

}  // namespace atl
