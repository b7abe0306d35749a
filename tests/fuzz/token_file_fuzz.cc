// Fuzz entry: a token file with what is beside it. Byte 0 says what: bit 0 a note, bit 1 an index;
// bytes 1 and 2 are its size, then it comes, then the file. What is accepted must be readable to
// its last token.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "worker/data/token_layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const size_t beside_size = std::min<size_t>(data[1] + 256 * data[2], size - 3);
  const std::span<const uint8_t> beside(data + 3, beside_size);
  atl::TokenFileParts parts;
  parts.path = "fuzz.bin";
  parts.file = std::span(data, size).subspan(3 + beside_size);
  if (data[0] & 1) parts.note = std::string(beside.begin(), beside.end());
  if (data[0] & 2) parts.index = beside;
  const auto layout = atl::ParseTokenLayout(parts);
  if (!layout.ok()) return 0;
  std::vector<int32_t> tokens(static_cast<size_t>(layout->tokens));
  atl::ReadTokens(*layout, parts.file, 0, tokens);
  return 0;
}
