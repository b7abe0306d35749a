// Fuzz entry of the reader of Hugging Face's config.json. What it accepts is a model whose tensors
// can be laid out, and which is the same model when it is written and read again.
#include <google/protobuf/util/message_differencer.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "cli/hf_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto model = atl::ModelOfHfConfig(text);
  if (!model.ok()) return 0;
  if (atl::TensorsOf(*model).size() < 11) std::abort();
  const auto again = atl::ModelOfHfConfig(atl::HfConfig(*model, "float32", 2048));
  if (!again.ok() || !google::protobuf::util::MessageDifferencer::Equals(*model, *again)) {
    std::abort();
  }
  return 0;
}
