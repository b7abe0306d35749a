#include "checkpoint/transfer/wire.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "checkpoint/chunks.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

constexpr char kMagic[] = "atollcat";
constexpr uint32_t kVersion = 1;
constexpr uint64_t kComplete = 1;

void Put(std::string* out, size_t at, uint64_t value) {
  for (size_t i = 0; i < 8; ++i) (*out)[at + i] = static_cast<char>(value >> (8 * i));
}

uint64_t Take(absl::string_view bytes, size_t at) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value |= uint64_t{static_cast<uint8_t>(bytes[at + i])} << (8 * i);
  return value;
}

Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("its catalog ", what));
}

std::string Object(absl::string_view hash, absl::string_view rest) {
  return absl::StrCat(absl::BytesToHexString(hash), "/", rest);
}

}  // namespace

std::string EncodeCatalog(const std::vector<Offer>& offers) {
  CHECK_LE(static_cast<int64_t>(offers.size()), kMaxOffers);
  std::string out(kCatalogBytes, '\0');
  out.replace(0, 8, kMagic);
  Put(&out, 8, kVersion | uint64_t{offers.size()} << 32);
  size_t at = kCatalogHead;
  for (const Offer& offer : offers) {
    CHECK(offer.manifest_hash.size() == kHashBytes && offer.root.size() == kHashBytes &&
          offer.replicated_root.size() == kHashBytes);
    Put(&out, at, static_cast<uint64_t>(offer.round));
    Put(&out, at + 8, static_cast<uint64_t>(offer.manifest_bytes));
    Put(&out, at + 16, static_cast<uint64_t>(offer.bytes));
    Put(&out, at + 24, offer.complete ? kComplete : 0);
    out.replace(at + 32, kHashBytes, offer.manifest_hash);
    out.replace(at + 64, kHashBytes, offer.root);
    out.replace(at + 96, kHashBytes, offer.replicated_root);
    at += kOfferBytes;
  }
  return out;
}

StatusOr<std::vector<Offer>> ParseCatalog(absl::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) != kCatalogBytes || bytes.substr(0, 8) != kMagic) {
    return Bad("is none");
  }
  const uint64_t head = Take(bytes, 8);
  if (static_cast<uint32_t>(head) != kVersion) {
    return Bad(absl::StrCat("is of version ", static_cast<uint32_t>(head),
                            "; this program reads version ", kVersion));
  }
  const auto count = static_cast<int64_t>(head >> 32);
  if (count > kMaxOffers) return Bad(absl::StrCat("holds ", count, " checkpoints"));
  std::vector<Offer> offers;
  for (int64_t i = 0; i < count; ++i) {
    const size_t at = static_cast<size_t>(kCatalogHead + i * kOfferBytes);
    const uint64_t round = Take(bytes, at);
    const uint64_t manifest_bytes = Take(bytes, at + 8);
    const uint64_t total = Take(bytes, at + 16);
    const uint64_t flags = Take(bytes, at + 24);
    if (round > uint64_t{1} << 53) return Bad(absl::StrCat("names round ", round));
    if (manifest_bytes == 0 || manifest_bytes > uint64_t{kMaxManifestBytes}) {
      return Bad(absl::StrCat("names a manifest of ", manifest_bytes, " bytes"));
    }
    if (total > uint64_t{kMaxPulledBytes}) {
      return Bad(absl::StrCat("names a checkpoint of ", total, " bytes"));
    }
    if (flags > kComplete) return Bad(absl::StrCat("has unknown flags ", flags));
    Offer offer;
    offer.round = static_cast<int64_t>(round);
    offer.manifest_bytes = static_cast<int64_t>(manifest_bytes);
    offer.bytes = static_cast<int64_t>(total);
    offer.complete = flags == kComplete;
    offer.manifest_hash = std::string(bytes.substr(at + 32, kHashBytes));
    offer.root = std::string(bytes.substr(at + 64, kHashBytes));
    offer.replicated_root = std::string(bytes.substr(at + 96, kHashBytes));
    offers.push_back(std::move(offer));
  }
  // One text for one content.
  if (EncodeCatalog(offers) != bytes) return Bad("has bytes that mean nothing");
  return offers;
}

std::string ManifestObject(absl::string_view hash) { return Object(hash, "manifest"); }
std::string HashesObject(absl::string_view hash, int64_t file) {
  return Object(hash, absl::StrCat("hashes/", file));
}
std::string FileObject(absl::string_view hash, int64_t file) {
  return Object(hash, absl::StrCat("file/", file));
}
std::string HaveObject(absl::string_view hash) { return Object(hash, "have"); }

Offer OfferOf(const Manifest& manifest, absl::string_view text, bool complete) {
  Offer offer;
  offer.round = manifest.description.round;
  offer.manifest_bytes = static_cast<int64_t>(text.size());
  for (const ManifestFile& file : manifest.files) offer.bytes += file.bytes;
  offer.complete = complete;
  offer.manifest_hash = Sha256(text);
  offer.root = absl::HexStringToBytes(RootOf(manifest, false));
  offer.replicated_root = absl::HexStringToBytes(RootOf(manifest, true));
  return offer;
}

ChunkMap::ChunkMap(const Manifest& manifest) : first_{0} {
  for (const ManifestFile& file : manifest.files) {
    first_.push_back(first_.back() + ChunkCount(file.bytes));
    bytes_.push_back(file.bytes);
  }
}

ChunkMap::Place ChunkMap::At(int64_t chunk) const {
  CHECK(chunk >= 0 && chunk < count());
  const auto after = std::upper_bound(first_.begin(), first_.end(), chunk);
  const int file = static_cast<int>(after - first_.begin()) - 1;
  const int64_t of_file = chunk - first_[file];
  return {file, of_file, ChunkRange(of_file, bytes_[file])};
}

}  // namespace atl::checkpoint
