// Megatron-LM's index of a token file (NAME.idx beside NAME.bin), read and checked.
//
// Source: NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py. Little-endian, packed:
//   9 bytes  "MMIDIDX\0\0"
//   uint64   version, 1
//   uint8    type of a token: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16 (6, 7: floats)
//   uint64   S, sequences
//   uint64   D, entries of the document list: documents + 1, or 0
//   int32[S] tokens of each sequence
//   int64[S] byte of NAME.bin at which each sequence begins
//   int64[D] the sequence at which each document begins, from 0, and S at the end
//   int8[S]  optional: mode of each sequence (other data than text), which is ignored
//
// The token stream is the sequences one after another, in the index's order. Nothing that the index
// says is believed: every size and pointer must lie inside the two files, and together the
// sequences may not name more tokens than NAME.bin holds. Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/data/token_layout.h"

namespace atl {

// `index`: the bytes of the .idx; `bin_bytes`: the size of the .bin; `path`: of the .idx, for
// messages. Allocates at most 4/3 of the index's size.
StatusOr<TokenLayout> ParseMegatronIndex(std::span<const uint8_t> index, int64_t bin_bytes,
                                         const std::string& path);

}  // namespace atl
