// The safetensors format: a strict reader of headers and a deterministic writer of them.
//
// A file is: 8 bytes N, little-endian; N bytes of JSON, the header; data. The header maps tensor
// names to {"dtype", "shape", "data_offsets": [begin, end)} with offsets counted from the end of
// the header; "__metadata__" maps texts to texts.
//
// The reader is stricter than the reference: what two readers could understand in two ways is
// refused. Every error has exit code 2 and names a rule:
//   file-length         the file holds 8 + N bytes at least
//   header-limit        N <= 100,000,000; checked before anything is allocated
//   header-start        the header begins with '{' (no byte order mark, no space)
//   header-end          only spaces follow the JSON (no NUL, no line feed)
//   json                well-formed JSON in UTF-8: no raw control characters, no lone surrogates
//   depth               nesting up to 16
//   duplicate-name      no tensor name twice ("__metadata__" included)
//   duplicate-field     no field of an entry twice
//   duplicate-metadata  no metadata key twice
//   metadata            "__metadata__" is an object of texts
//   entry               an entry is an object of exactly dtype, shape and data_offsets
//   dtype               one of the known names, in capitals
//   number              sizes and offsets: digits only, without leading zeros, up to 2^53
//   offsets             two of them, begin <= end
//   length              product(shape) x bits / 8 is the length, without overflow in any order
//   layout              sorted by offset, the ranges follow each other from 0 to the file's end
// Accepted: any order in the header, unaligned offsets, empty tensors, empty names, metadata alone.
// Pure, but for ReadSafetensorsHeader; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/range.h"
#include "base/status.h"

namespace atl::checkpoint {

inline constexpr int64_t kMaxSafetensorsHeader = 100'000'000;
// Our own headers are padded with spaces so that data begins on a multiple of this (O_DIRECT).
inline constexpr int64_t kSafetensorsAlignment = 4096;

struct SafetensorsTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  Range data;  // bytes, counted from data_begin of the header
};

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;  // by offset
  std::map<std::string, std::string> metadata;
  int64_t data_begin = 0;  // 8 + N
};

// The rule that an error of the reader names, "layout"; empty for other errors.
std::string SafetensorsRule(const Status& status);

// Bits of an element; 0 for a name that is not a dtype.
int SafetensorsBits(absl::string_view dtype);

// 8 + N, from the first 8 bytes of a file of `file_bytes`: how much to read for the next call.
StatusOr<int64_t> SafetensorsHeadBytes(absl::string_view first_bytes, int64_t file_bytes);
// `head` is the beginning of the file, 8 + N bytes or more.
StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view head, int64_t file_bytes);
// `decrypt`, if there, is given what was read and the place in the file where it began.
using HeaderDecrypt = std::function<void(int64_t offset, std::string* bytes)>;
StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const std::string& path,
                                                  const HeaderDecrypt& decrypt = nullptr);

// The 8 bytes and the padded header of a file that holds `tensors` in this order, back to back from
// offset 0; their `data` are ignored. Same input, same bytes. Errors: a name that is not UTF-8.
StatusOr<std::string> SafetensorsHead(const std::vector<SafetensorsTensor>& tensors);

}  // namespace atl::checkpoint
