// Weights as other tools want them, and as they give them: a directory with model.safetensors, or
// with several files and model.safetensors.index.json, in the names and the layout of Hugging Face.
//
// Out: the tensors of section "model" of a checkpoint, in the order of the flat vector, as fp32 or
// rounded to bf16 (to nearest, ties to even; NaN stays NaN). Every chunk that is read is verified.
// In: F32, BF16 and F16, which fp32 holds exactly; every file under the strict rules
// (safetensors.h). Memory: a few MiB, whatever the model. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace atl::checkpoint {

enum class WeightType { kF32, kBF16 };

uint16_t Bf16Of(float value);
float FloatOfBf16(uint16_t bits);
float FloatOfF16(uint16_t bits);

struct ExportOptions {
  std::string directory;  // is there and is empty
  WeightType type = WeightType::kF32;
  int64_t max_file_bytes = int64_t{5} * 1000 * 1000 * 1000;
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress;  // may be empty
};

// Writes and syncs the files; returns their bytes. A full disk has exit code 4.
StatusOr<int64_t> ExportWeights(const Checkpoint& checkpoint, const ExportOptions& options);

class WeightFiles {
 public:
  // Errors have exit code 2: neither of the two names there, a file that the index names is
  // missing or breaks a rule, a tensor in two files or in none.
  static StatusOr<WeightFiles> Open(const std::string& directory);

  struct Tensor {
    std::string path;
    std::string dtype;
    std::vector<int64_t> shape;
    Range bytes;  // of the file
  };
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  // Elements of one tensor as fp32. kInvalidArgument for a dtype that fp32 can't hold exactly.
  Status Read(const std::string& name, Range elements, std::span<float> out) const;

 private:
  Status AddFile(const std::string& path);

  std::map<std::string, Tensor> tensors_;
};

}  // namespace atl::checkpoint
