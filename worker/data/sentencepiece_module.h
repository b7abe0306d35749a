/* The border between atoll and its sentencepiece module: plain C.
 *
 * Why a module: libsentencepiece.so carries and exports its own protobuf 3.14. In a process that
 * links a newer libprotobuf as well, the two take each other's functions and the process aborts.
 * tokenizer.cc loads the module with dlmopen into a namespace of its own, where neither sees the
 * other. So nothing that one side allocates is freed by the other, and no exception crosses.
 *
 * A model is immutable once opened; any thread may use it.
 */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATOLL_SENTENCEPIECE_ABI_VERSION 1

typedef struct atoll_sentencepiece_model atoll_sentencepiece_model; /* opaque, of the module */

typedef struct {
  uint32_t abi_version; /* ATOLL_SENTENCEPIECE_ABI_VERSION */

  /* Opens a model from the bytes of its file. NULL on failure: `error` then holds a message of at
   * most error_size - 1 characters. */
  atoll_sentencepiece_model* (*open)(const char* bytes, int64_t size, char* error,
                                     int64_t error_size);
  void (*close)(atoll_sentencepiece_model* model);
  int64_t (*vocab_size)(const atoll_sentencepiece_model* model);
  int64_t (*end_of_sentence)(const atoll_sentencepiece_model* model); /* -1: none */

  /* Writes at most `capacity` ids; returns how many there are (call again with more room if that is
   * larger), or -1 on failure. */
  int64_t (*encode)(const atoll_sentencepiece_model* model, const char* text, int64_t size,
                    int32_t* ids, int64_t capacity);
  /* The reverse, in bytes; ids lie inside the vocabulary. */
  int64_t (*decode)(const atoll_sentencepiece_model* model, const int32_t* ids, int64_t count,
                    char* text, int64_t capacity);
} atoll_sentencepiece_api;

/* The module's one symbol. */
const atoll_sentencepiece_api* atoll_sentencepiece_entry(void);

#ifdef __cplusplus
}
#endif
