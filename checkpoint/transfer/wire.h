// What a source of checkpoints says, as bytes (docs/protocols/checkpoint-transfer.md). Everything
// is an object that is fetched over the WAN engine's links (collectives/wan/transfer.h):
//
//     catalog               which checkpoints there are; always kCatalogBytes
//     HEX/manifest          MANIFEST.json of the checkpoint whose manifest has this SHA-256
//     HEX/hashes/I          SHA-256 of every chunk of the I-th file of that manifest
//     HEX/file/I            the I-th file
//     HEX/have              of a checkpoint that is still coming: a bit a chunk, over all files
//
// Nothing that comes is believed: the receiver checks the manifest against what it wants, hashes
// against the manifest and chunks against hashes. Numbers are little-endian. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "checkpoint/manifest.h"

namespace atl::checkpoint {

inline constexpr char kCatalogName[] = "catalog";
inline constexpr int64_t kCatalogHead = 32;
inline constexpr int64_t kOfferBytes = 128;
inline constexpr int64_t kMaxOffers = 256;
inline constexpr int64_t kCatalogBytes = kCatalogHead + kMaxOffers * kOfferBytes;
// Checkpoints of more bytes are not pulled: what a liar can make us keep in memory is bounded.
inline constexpr int64_t kMaxPulledBytes = int64_t{1} << 46;

// A checkpoint that a source gives. Hashes are raw, kHashBytes each.
struct Offer {
  int64_t round = 0;
  int64_t manifest_bytes = 0;
  int64_t bytes = 0;  // of all files
  bool complete = true;
  std::string manifest_hash;    // SHA-256 of MANIFEST.json
  std::string root;             // as the manifest says
  std::string replicated_root;  // as the manifest says
  friend bool operator==(const Offer&, const Offer&) = default;
};

// At most kMaxOffers of them. Exactly kCatalogBytes.
std::string EncodeCatalog(const std::vector<Offer>& offers);
// Errors (kInvalidArgument): what EncodeCatalog would not write.
StatusOr<std::vector<Offer>> ParseCatalog(absl::string_view bytes);

// `hash` is raw.
std::string ManifestObject(absl::string_view hash);
std::string HashesObject(absl::string_view hash, int64_t file);
std::string FileObject(absl::string_view hash, int64_t file);
std::string HaveObject(absl::string_view hash);

// The offer of a manifest, given its text and what was parsed of it.
Offer OfferOf(const Manifest& manifest, absl::string_view text, bool complete);

// All chunks of a checkpoint in one row: file by file, as in the manifest.
class ChunkMap {
 public:
  explicit ChunkMap(const Manifest& manifest);
  struct Place {
    int file = 0;
    int64_t chunk = 0;  // of the file
    Range bytes;        // of the file
  };
  int64_t count() const { return first_.back(); }
  int64_t first(int file) const { return first_[file]; }  // chunk of the file, in the row
  Place At(int64_t chunk) const;

 private:
  std::vector<int64_t> first_;  // by file, and the end
  std::vector<int64_t> bytes_;
};

// A bit a chunk, the lowest bit of the first byte first.
inline int64_t BitmapBytes(int64_t chunks) { return (chunks + 7) / 8; }
inline bool BitOf(absl::string_view bitmap, int64_t chunk) {
  return (static_cast<uint8_t>(bitmap[chunk / 8]) >> (chunk % 8) & 1) != 0;
}
inline void SetBit(std::string* bitmap, int64_t chunk) {
  (*bitmap)[chunk / 8] = static_cast<char>((*bitmap)[chunk / 8] | 1 << (chunk % 8));
}

}  // namespace atl::checkpoint
