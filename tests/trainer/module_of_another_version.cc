// A trainer module from another time: only its version may be looked at.
#include "worker/trainer/trainer_abi.h"

extern "C" const atoll_trainer_api* atoll_trainer_entry(void) {
  static atoll_trainer_api api = {};
  api.abi_version = 4711;
  return &api;
}
