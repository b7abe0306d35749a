// Which tensor lies where in which file: a pure function of the tensors, the section's prefix and
// the size limit, so that every worker comes to the same plan without talking, and the same model
// gives the same bytes whoever writes it.
//
//   1. Tensors are taken in the order of the flat vector.
//   2. A file is closed when the next tensor would bring its data above the limit; a tensor larger
//      than the limit has a file of its own. Tensors are never cut.
//   3. Inside a file they lie back to back behind the header, without the flat vector's padding.
// Immutable; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace atl::checkpoint {

// Checks what both a save and a read rely on and sorts by place in the flat vector: names are
// there once and can be written, shapes fit their elements, no two tensors overlap. Errors name the
// tensor.
StatusOr<std::vector<TensorSpec>> CheckedTensors(std::vector<TensorSpec> tensors);

struct PlannedFile {
  std::string name;
  std::string head;   // length and header, a multiple of kSafetensorsAlignment
  int64_t bytes = 0;  // of the whole file
};

// Elements of the flat vector that lie back to back in one file.
struct Piece {
  int file = 0;             // index into files()
  int64_t file_offset = 0;  // bytes from the start of the file
  Range elements;
};

class FilePlan {
 public:
  static StatusOr<FilePlan> Create(const std::vector<TensorSpec>& tensors,
                                   const std::string& prefix, int64_t max_file_bytes);

  const std::vector<PlannedFile>& files() const { return files_; }
  int64_t tensor_bytes() const { return tensor_bytes_; }

  // The parts of `elements` that are stored, ascending; padding is skipped.
  std::vector<Piece> Pieces(Range elements) const;
  // model.safetensors.index.json, to the byte as Hugging Face writes it.
  std::string IndexJson() const;

 private:
  struct Place {  // of a tensor
    Range elements;
    int file;
    int64_t file_offset;
  };

  std::vector<std::string> names_;  // of the tensors, in the order of places_
  std::vector<Place> places_;       // ascending
  std::vector<PlannedFile> files_;
  int64_t tensor_bytes_ = 0;
};

}  // namespace atl::checkpoint
