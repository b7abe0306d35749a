/* The border between a worker and its trainer module: plain C, so that a module may be built with
 * another compiler, another C++ library ABI (older PyTorch wheels), or in another language. The
 * libtorch module is one; a user's own is loaded the same way
 * (--trainer=PATH). A module exports `const atoll_trainer_api* atoll_trainer_entry(void)`.
 *
 * The model is one flat fp32 vector of `size` elements, cut into tensors; each begins on a multiple
 * of ATOLL_TENSOR_ALIGNMENT elements, the padding between is zero and stays zero. Gradients are a
 * second vector of the same shape. The optimizer state of the owned shard (ZeRO-1) is two more
 * vectors over the shard's ranges, concatenated.
 *
 * Functions return 0, or non-zero with a message in atoll_trainer_api.last_error(). No exception
 * leaves a module. Thread rule: one thread at a time uses a trainer, but `gradient_ready` is called
 * from within loss_and_gradient. Several trainers may live in one process, each used by its own
 * thread.
 */
#ifndef ATOLL_WORKER_TRAINER_TRAINER_ABI_H_
#define ATOLL_WORKER_TRAINER_TRAINER_ABI_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATOLL_TRAINER_ABI_VERSION 2
#define ATOLL_TENSOR_ALIGNMENT 256
#define ATOLL_MAX_RANK 4

typedef struct atoll_trainer atoll_trainer; /* opaque, of the module */

typedef struct {
  int64_t vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads;
  double rope_theta, norm_epsilon;
  int32_t tied_embedding;           /* 1: the head is the transposed embedding */
  int32_t activation_checkpointing; /* 1: recompute each layer in the backward pass */
  int32_t bf16;                     /* 1: matrix products in bf16, sums and the rest in fp32 */
  int32_t device;                   /* -1: CPU, else the CUDA device's number */
  int32_t threads;                  /* CPU threads */
} atoll_trainer_config;

typedef struct {
  const char* name; /* Hugging Face's, "model.layers.0.self_attn.q_proj.weight" */
  int64_t shape[ATOLL_MAX_RANK];
  int32_t rank;
  int64_t offset; /* elements from the start of the flat vector */
  int64_t size;   /* elements, without padding */
} atoll_tensor;

enum { ATOLL_PARAMETERS = 0, ATOLL_GRADIENTS = 1, ATOLL_EXP_AVG = 2, ATOLL_EXP_AVG_SQ = 3 };

typedef struct {
  int64_t begin, end; /* elements of the flat vector */
} atoll_range;

/* AdamW, Loshchilov and Hutter 2019, algorithm 2, bias-corrected; step counts from 1. The gradient
 * is multiplied by gradient_scale first (clipping). Decay applies to tensors of rank 2 and more. */
typedef struct {
  int64_t step;
  double learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
} atoll_adamw;

typedef struct {
  uint32_t abi_version;            /* ATOLL_TRAINER_ABI_VERSION */
  const char* (*version)(void);    /* "libtorch 1.13.1, OpenBLAS" */
  const char* (*last_error)(void); /* of the calling thread; valid until its next call */

  int32_t (*create)(const atoll_trainer_config* config,
                    atoll_trainer** trainer); /* parameters are zero */
  void (*destroy)(atoll_trainer* trainer);

  int64_t (*tensor_count)(atoll_trainer* trainer);
  const atoll_tensor* (*tensors)(atoll_trainer* trainer);
  int64_t (*size)(atoll_trainer* trainer); /* elements of the flat vector, padding included: a
                                              multiple of ATOLL_TENSOR_ALIGNMENT */

  /* The vector in the trainer's own memory: host memory, or device memory for a CUDA trainer. For
   * collectives. */
  float* (*data)(atoll_trainer* trainer, int32_t kind);
  /* Copies elements [offset, offset + count) of a vector to or from host memory. */
  int32_t (*read)(atoll_trainer* trainer, int32_t kind, int64_t offset, int64_t count, float* host);
  int32_t (*write)(atoll_trainer* trainer, int32_t kind, int64_t offset, int64_t count,
                   const float* host);
  int32_t (*zero_gradients)(atoll_trainer* trainer);

  /* Forward and backward over `batch` samples of `sequence` + 1 tokens each (row-major, int32):
   * adds scale x d(sum of the cross entropies of all batch x sequence predictions) to the
   * gradients; *loss_sum gets that sum in nats, unscaled. `gradient_ready`, if not null, is called
   * once a tensor, with its index, when its gradient is final, while the backward pass goes on with
   * other tensors. */
  int32_t (*loss_and_gradient)(atoll_trainer* trainer, const int32_t* tokens, int64_t batch,
                               int64_t sequence, double scale,
                               void (*gradient_ready)(void* context, int64_t tensor), void* context,
                               double* loss_sum);
  int32_t (*loss)(atoll_trainer* trainer, const int32_t* tokens, int64_t batch, int64_t sequence,
                  double* loss_sum);
  /* Scores of the next token at every place: batch x sequence x vocab_size floats; `tokens` is
   * batch x sequence. */
  int32_t (*logits)(atoll_trainer* trainer, const int32_t* tokens, int64_t batch, int64_t sequence,
                    float* out);

  /* Chooses the shard whose optimizer state is held here: ascending disjoint ranges. Both moments
   * become zero. */
  int32_t (*own)(atoll_trainer* trainer, const atoll_range* ranges, int64_t count);
  /* Bytes of optimizer state held. */
  int64_t (*optimizer_bytes)(atoll_trainer* trainer);
  /* Updates the parameters of the owned ranges from their gradients. */
  int32_t (*adamw)(atoll_trainer* trainer, const atoll_adamw* settings);
  /* Sum of squares of elements [offset, offset + count) of the gradients, in double precision, in
   * an order that depends on count alone. */
  int32_t (*gradient_square_sum)(atoll_trainer* trainer, int64_t offset, int64_t count,
                                 double* sum);

  /* Moves a flat vector (parameters or gradients) with what it holds into `memory`: size() floats
   * on a page boundary, which the caller keeps until the trainer is destroyed or the vector is
   * placed again. The ranks of a region give memory that all of them see, where sums are quickest.
   * Null in a module that keeps its vectors where they are. Fails if the vectors are in device
   * memory. */
  int32_t (*place)(atoll_trainer* trainer, int32_t kind, float* memory);
} atoll_trainer_api;

typedef const atoll_trainer_api* (*atoll_trainer_entry_function)(void);
#define ATOLL_TRAINER_ENTRY "atoll_trainer_entry"

#ifdef __cplusplus
}
#endif
#endif
