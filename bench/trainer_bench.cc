// How many tokens a second one trainer takes: forward, backward and AdamW over the whole vector.
//   trainer_bench PRESET SEQUENCE BATCH [STEPS] [THREADS] [checkpoint]
// Prints one line, by the wall clock (the median step) and by CPU time, which other programs on the
// machine disturb less.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iostream>
#include <vector>

#include "base/clock.h"
#include "base/exit_code.h"
#include "base/random.h"
#include "proto/model_presets.h"
#include "worker/trainer/trainer.h"

namespace atl {
namespace {

Status Run(int argc, char** argv) {
  if (argc < 4)
    return UsageError("usage: trainer_bench PRESET SEQUENCE BATCH [STEPS] [THREADS] [checkpoint]");
  pb::Model preset;
  preset.set_preset(argv[1]);
  const int64_t sequence = std::atoll(argv[2]);
  const int64_t batch = std::atoll(argv[3]);
  const int64_t steps = argc > 4 ? std::atoll(argv[4]) : 5;
  TrainerOptions options;
  ASSIGN_OR_RETURN(options.model, ResolveModel(preset, 0));
  options.threads = argc > 5 ? std::atoi(argv[5]) : 1;
  options.activation_checkpointing = argc > 6 && std::strcmp(argv[6], "checkpoint") == 0;
  ASSIGN_OR_RETURN(auto trainer, Trainer::Create(options));
  RETURN_IF_ERROR(InitializeParameters(*trainer, 1, options.model.layers()));
  const Range all = {0, trainer->size()};
  RETURN_IF_ERROR(trainer->Own({&all, 1}));

  std::vector<int32_t> tokens(batch * (sequence + 1));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(CounterRandom(2).Bits(i) % options.model.vocab_size());
  }
  const double scale = 1.0 / static_cast<double>(batch * sequence);
  Clock* const clock = Clock::Real();
  std::clock_t cpu_begin = 0;
  std::vector<double> seconds;
  double update_seconds = 0;
  for (int64_t step = 0; step <= steps; ++step) {
    RETURN_IF_ERROR(trainer->ZeroGradients());
    const double begin = clock->MonotonicSeconds();
    RETURN_IF_ERROR(
        trainer->LossAndGradient(tokens, batch, sequence, scale, [](int64_t) {}).status());
    const double middle = clock->MonotonicSeconds();
    RETURN_IF_ERROR(trainer->AdamW({step + 1, 1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0}));
    if (step == 0) {  // warms caches up
      cpu_begin = std::clock();
      continue;
    }
    update_seconds += (clock->MonotonicSeconds() - middle) / static_cast<double>(steps);
    seconds.push_back(clock->MonotonicSeconds() - begin);
  }
  const double cpu =
      static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC / static_cast<double>(steps);
  std::nth_element(seconds.begin(), seconds.begin() + steps / 2, seconds.end());
  const double step_tokens = static_cast<double>(batch * sequence);
  const double wall = seconds[steps / 2];
  std::cout << trainer->version() << "  " << argv[1] << " (" << trainer->parameter_count()
            << " parameters)  sequence " << sequence << "  batch " << batch << "  threads "
            << options.threads << "  tokens/s " << static_cast<int64_t>(step_tokens / wall)
            << "  a CPU second " << static_cast<int64_t>(step_tokens / cpu) << " ("
            << step_tokens / cpu * TrainFlopsPerToken(options.model, sequence) / 1e9
            << " GFLOP/s)  adamw " << update_seconds * 1e3 << " ms of " << wall * 1e3 << " ms\n";
  return OkStatus();
}

}  // namespace
}  // namespace atl

int main(int argc, char** argv) {
  const atl::Status status = atl::Run(argc, argv);
  if (!status.ok()) std::cerr << status << "\n";
  return static_cast<int>(atl::ExitCodeOf(status));
}
