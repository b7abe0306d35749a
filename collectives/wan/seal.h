// Keys and sealing of one connection. The only file that uses OpenSSL.
//
// 1. Both ends derive two keys, one a direction, with HKDF-SHA256: the input key is the view's, the
//    salt is the dialler's nonce and the acceptor's, the context is "atoll-wan-v3" and both
//    greetings byte for byte. A connection whose greeting was changed on the way has other keys.
// 2. A frame's payload is encrypted with AES-256-GCM under its direction's key; the nonce is a
//    64-bit counter of the frames so far (4 zero bytes, then the counter), the header is
//    authenticated along with it. So a frame that was changed, dropped, repeated or moved does not
//    open.
// 3. Where both ends were told to go without encryption (plain), the first frame of each direction
//    is sealed all the same, which proves the key; the tag of the others is the 64-bit XXH3 of
//    header and payload and the counter, which finds accidents and no intent.
//
// Thread rule: one thread at a time per Sealer or Opener.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "collectives/wan/engine.h"
#include "collectives/wan/frame.h"

struct evp_cipher_ctx_st;

namespace atl::wan {

struct StreamKeys {
  Key from_dialler;
  Key from_acceptor;
};

StreamKeys DeriveStreamKeys(const Key& view_key, const Hello& hello, const Answer& answer);

struct CipherContextDeleter {
  void operator()(evp_cipher_ctx_st* context) const;
};
using CipherContext = std::unique_ptr<evp_cipher_ctx_st, CipherContextDeleter>;

class Sealer {
 public:
  Sealer(const Key& key, bool plain);
  // Encrypts `plain` into as many bytes at `out`, which may be the same, and writes kTagSize bytes
  // to `tag`.
  void Seal(Bytes header, Bytes plain, uint8_t* out, uint8_t* tag);
  bool plain() const { return plain_; }
  // Plain only: the tag of bytes that stay where they are.
  void Check(Bytes header, Bytes payload, uint8_t* tag);

 private:
  const bool plain_;
  CipherContext context_;
  uint64_t counter_ = 0;
};

class Opener {
 public:
  Opener(const Key& key, bool plain);
  // Decrypts in place. False: the frame is not what the other end sealed; `data` is then garbage.
  [[nodiscard]] bool Open(Bytes header, uint8_t* data, size_t size, const uint8_t* tag);

 private:
  const bool plain_;
  CipherContext context_;
  uint64_t counter_ = 0;
};

}  // namespace atl::wan
