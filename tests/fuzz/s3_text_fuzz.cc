// Fuzz entry of what comes from object stores and their users' files: answers in XML, credentials,
// places.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "checkpoint/s3/client.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace checkpoint = atl::checkpoint;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  size_t taken = 0;
  for (const std::string& one : checkpoint::XmlTexts(text, "Key", /*raw=*/true)) {
    taken += one.size();
    checkpoint::XmlTexts(one, "Key");
  }
  if (taken > size) std::abort();
  checkpoint::ParseCredentials(text, "default");
  const auto place = checkpoint::S3Place::Parse(text);
  if (!place.ok()) return 0;
  // The short form of a place is a place, and its own short form.
  const auto again = checkpoint::S3Place::Parse(place->ToString());
  if (!again.ok() || again->ToString() != place->ToString()) std::abort();
  return 0;
}
