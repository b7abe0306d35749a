#include "worker/region/proving.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "worker/sync/lane_buffer.h"

namespace atl {
namespace {

constexpr int64_t kStepElements = 8 << 20;  // few chunks are hashed in two steps
static_assert(kStepElements % kDigestBlock == 0);

StatusOr<uint64_t> DomainOf(const std::string& section) {
  if (section == checkpoint::kModelPrefix) return kParametersDomain;
  if (section == "outer/momentum") return kMomentumDomain;
  return absl::UnimplementedError(absl::StrCat("the round's digest says nothing of ", section));
}

}  // namespace

Status HasItsState(const std::string& path, const checkpoint::EncryptionKey* key, int64_t elements,
                   const std::function<bool()>& stopped) {
  ASSIGN_OR_RETURN(
      const std::string text,
      ReadFile(absl::StrCat(path, "/", checkpoint::kManifestName), checkpoint::kMaxManifestBytes));
  ASSIGN_OR_RETURN(const checkpoint::Manifest manifest, checkpoint::ParseManifest(text));
  ASSIGN_OR_RETURN(const auto opened, checkpoint::Checkpoint::Open(path, key));
  Digest digest;
  std::vector<float> part;
  for (const checkpoint::ManifestSection& section : manifest.sections) {
    if (section.section_class != checkpoint::SectionClass::kReplicated) continue;
    ASSIGN_OR_RETURN(const uint64_t domain, DomainOf(section.prefix));
    for (int64_t at = 0; at < elements; at += kStepElements) {
      if (stopped()) return absl::CancelledError("this region ends");
      const Range range{at, std::min(at + kStepElements, elements)};
      part.resize(range.size());
      RETURN_IF_ERROR(opened->Read(section.prefix, opened->tensors(), range, part));
      digest.Add(DigestOfSlice(part.data(), range.begin, range.size(), domain));
    }
  }
  if (digest.Hex() == opened->description().digest) return OkStatus();
  return absl::DataLossError(absl::StrCat("its state has the digest ", digest.Hex(),
                                          ", and the regions agreed on ",
                                          opened->description().digest));
}

}  // namespace atl
