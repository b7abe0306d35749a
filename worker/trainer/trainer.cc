#include "worker/trainer/trainer.h"

#include <dlfcn.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/random.h"

namespace atl {
namespace {

constexpr char kModuleName[] = "libatoll_trainer_libtorch.so";

// Where the module may lie, best first.
std::vector<std::string> ModulePaths(const TrainerOptions& options) {
  if (!options.module_path.empty()) {
    // Made absolute: dlopen looks for a bare name in the system's folders only.
    return {std::filesystem::absolute(options.module_path).string()};
  }
  const std::string directory = ExecutableDirectory();
  return {absl::StrCat(directory, "/../lib/", kModuleName),
          absl::StrCat(directory, "/", kModuleName)};
}

// OpenBLAS takes its slowest kernels (SSE3, a third of the speed) on a CPU that is younger than it;
// Debian 12's does so on Intel's since 2022. Choosing by instruction set also makes CPUs of one
// kind give the same bits. SKYLAKEX is its name for AVX-512, HASWELL for AVX2.
void PinBlasKernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    SetEnv("OPENBLAS_CORETYPE", "SkylakeX", /*overwrite=*/false);
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    SetEnv("OPENBLAS_CORETYPE", "Haswell", /*overwrite=*/false);
  }
#endif
}

// Keeps freed memory for the next step: every step frees and asks for the same large tensors, and
// giving them back to the kernel in between costs a tenth of the step in page faults.
void KeepFreedMemory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the largest that glibc takes
  mallopt(M_TRIM_THRESHOLD, INT32_MAX);
  mallopt(M_TOP_PAD, 16 << 20);
#endif
}

// What the libraries behind libtorch read when they are loaded. A value that the user has set
// stays.
void PrepareEnvironment(const TrainerOptions& options) {
  const std::string threads = std::to_string(options.threads);
  SetEnv("OPENBLAS_NUM_THREADS", threads, /*overwrite=*/false);
  PinBlasKernels();
  SetEnv("OMP_NUM_THREADS", threads, false);
  // Waiting threads that spin cost a shared machine up to ten times its speed.
  SetEnv("OMP_WAIT_POLICY", "passive", false);
  // Without it cuBLAS may choose an algorithm whose bits differ from run to run.
  SetEnv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", false);
}

StatusOr<const atoll_trainer_api*> LoadModule(const TrainerOptions& options) {
  const std::vector<std::string> paths = ModulePaths(options);
  const auto found = std::find_if(paths.begin(), paths.end(), [](const std::string& path) {
    return access(path.c_str(), F_OK) == 0;
  });
  if (found == paths.end()) {
    return EnvironmentError(
        absl::StrCat("no trainer module at ", absl::StrJoin(paths, " or "),
                     "; build the target atoll_trainer_libtorch (scripts/setup installs libtorch), "
                     "or name another module"));
  }
  PrepareEnvironment(options);
  KeepFreedMemory();
  // Never closed: libtorch's threads and static objects outlive every trainer.
  void* module = dlopen(found->c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    return EnvironmentError(absl::StrCat("cannot load the trainer module ", *found, ": ", dlerror(),
                                         "; install what it misses (scripts/setup) or build it "
                                         "again with the libtorch of this host"));
  }
  const auto entry =
      reinterpret_cast<atoll_trainer_entry_function>(dlsym(module, ATOLL_TRAINER_ENTRY));
  if (entry == nullptr) {
    return EnvironmentError(absl::StrCat(*found, " is not a trainer module: ", dlerror(),
                                         "; see worker/trainer/trainer_abi.h for what it exports"));
  }
  const atoll_trainer_api* api = entry();
  if (api == nullptr || api->abi_version != ATOLL_TRAINER_ABI_VERSION) {
    return EnvironmentError(absl::StrCat("the trainer module ", *found, " speaks ABI version ",
                                         api == nullptr ? 0 : api->abi_version, ", this program ",
                                         ATOLL_TRAINER_ABI_VERSION,
                                         "; build both from the same source"));
  }
  return api;
}

atoll_trainer_config ConfigOf(const TrainerOptions& options) {
  const pb::Model& model = options.model;
  atoll_trainer_config config = {};
  config.vocab_size = model.vocab_size();
  config.hidden_size = model.hidden_size();
  config.intermediate_size = model.intermediate_size();
  config.layers = model.layers();
  config.heads = model.heads();
  config.kv_heads = model.kv_heads();
  config.rope_theta = model.rope_theta();
  config.norm_epsilon = model.norm_epsilon();
  config.tied_embedding = model.embedding() == pb::Model::TIED;
  config.activation_checkpointing = options.activation_checkpointing;
  config.bf16 = options.precision == pb::Train::BF16 ||
                (options.precision == pb::Train::AUTO && options.device >= 0);
  config.device = options.device;
  config.threads = options.threads;
  return config;
}

// Samples of `extra` tokens more than they predict; sizes that overflow are refused here.
Status CheckTokens(std::span<const int32_t> tokens, int64_t batch, int64_t sequence,
                   int64_t extra) {
  if (batch < 1 || sequence < 1 || sequence >= INT32_MAX || batch > INT32_MAX ||
      static_cast<int64_t>(tokens.size()) != batch * (sequence + extra)) {
    return UsageError(absl::StrCat(tokens.size(), " tokens do not make ", batch, " samples of ",
                                   sequence, " + ", extra));
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const TrainerOptions& options) {
  ASSIGN_OR_RETURN(const atoll_trainer_api* api, LoadModule(options));
  std::unique_ptr<Trainer> trainer(new Trainer());
  trainer->api_ = api;
  const atoll_trainer_config config = ConfigOf(options);
  if (api->create(&config, &trainer->trainer_) != 0) {
    trainer->trainer_ = nullptr;
    return EnvironmentError(absl::StrCat("the trainer (", api->version(),
                                         ") cannot make this model: ", api->last_error()));
  }
  const atoll_tensor* tensors = api->tensors(trainer->trainer_);
  const int64_t count = api->tensor_count(trainer->trainer_);
  for (int64_t i = 0; i < count; ++i) {
    trainer->tensors_.push_back({tensors[i].name,
                                 {tensors[i].shape, tensors[i].shape + tensors[i].rank},
                                 {tensors[i].offset, tensors[i].offset + tensors[i].size}});
  }
  trainer->size_ = api->size(trainer->trainer_);
  trainer->vocab_size_ = config.vocab_size;
  trainer->on_device_ = options.device >= 0;
  return trainer;
}

Trainer::~Trainer() {
  if (trainer_ != nullptr) api_->destroy(trainer_);
}

Status Trainer::Check(int32_t result, const char* what) const {
  if (result == 0) return OkStatus();
  return absl::InternalError(absl::StrCat("while ", what, ": ", api_->last_error()));
}

std::string Trainer::version() const { return api_->version(); }

int64_t Trainer::parameter_count() const {
  int64_t count = 0;
  for (const TensorInfo& tensor : tensors_) count += tensor.elements.size();
  return count;
}

float* Trainer::data(Vector vector) { return api_->data(trainer_, static_cast<int32_t>(vector)); }

int64_t Trainer::optimizer_bytes() const { return api_->optimizer_bytes(trainer_); }

Status Trainer::Read(Vector vector, int64_t offset, std::span<float> host) {
  return Check(api_->read(trainer_, static_cast<int32_t>(vector), offset,
                          static_cast<int64_t>(host.size()), host.data()),
               "reading from the trainer");
}

Status Trainer::Write(Vector vector, int64_t offset, std::span<const float> host) {
  return Check(api_->write(trainer_, static_cast<int32_t>(vector), offset,
                           static_cast<int64_t>(host.size()), host.data()),
               "writing to the trainer");
}

Status Trainer::Place(Vector vector, float* memory) {
  CHECK(placeable());
  return Check(api_->place(trainer_, static_cast<int32_t>(vector), memory), "placing a vector");
}

Status Trainer::ZeroGradients() {
  return Check(api_->zero_gradients(trainer_), "zeroing the gradients");
}

StatusOr<double> Trainer::LossAndGradient(
    std::span<const int32_t> tokens, int64_t batch, int64_t sequence, double scale,
    const std::function<void(int64_t tensor)>& gradient_ready) {
  RETURN_IF_ERROR(CheckTokens(tokens, batch, sequence, 1));
  using Callback = std::function<void(int64_t)>;
  const auto call = [](void* context, int64_t tensor) {
    (*static_cast<const Callback*>(context))(tensor);
  };
  double loss_sum = 0;
  RETURN_IF_ERROR(Check(api_->loss_and_gradient(trainer_, tokens.data(), batch, sequence, scale,
                                                gradient_ready ? +call : nullptr,
                                                const_cast<Callback*>(&gradient_ready), &loss_sum),
                        "computing loss and gradient"));
  return loss_sum;
}

StatusOr<double> Trainer::Loss(std::span<const int32_t> tokens, int64_t batch, int64_t sequence) {
  RETURN_IF_ERROR(CheckTokens(tokens, batch, sequence, 1));
  double loss_sum = 0;
  RETURN_IF_ERROR(
      Check(api_->loss(trainer_, tokens.data(), batch, sequence, &loss_sum), "computing the loss"));
  return loss_sum;
}

Status Trainer::Logits(std::span<const int32_t> tokens, int64_t batch, int64_t sequence,
                       std::span<float> out) {
  RETURN_IF_ERROR(CheckTokens(tokens, batch, sequence, 0));
  if (out.size() != tokens.size() * static_cast<size_t>(vocab_size_)) {
    return UsageError(absl::StrCat("room for ", out.size(), " logits, there are ", tokens.size(),
                                   " x ", vocab_size_));
  }
  return Check(api_->logits(trainer_, tokens.data(), batch, sequence, out.data()),
               "computing logits");
}

Status Trainer::Own(std::span<const Range> ranges) {
  std::vector<atoll_range> plain;
  for (const Range& range : ranges) plain.push_back({range.begin, range.end});
  return Check(api_->own(trainer_, plain.data(), static_cast<int64_t>(plain.size())),
               "choosing the optimizer's shard");
}

Status Trainer::AdamW(const atoll_adamw& settings) {
  return Check(api_->adamw(trainer_, &settings), "updating the parameters");
}

StatusOr<double> Trainer::GradientSquareSum(int64_t offset, int64_t count) {
  double sum = 0;
  RETURN_IF_ERROR(Check(api_->gradient_square_sum(trainer_, offset, count, &sum),
                        "summing the gradients' squares"));
  return sum;
}

namespace {

// Normal numbers `begin`, `begin` + 1, ... of the stream, times `deviation`. Each is a function of
// its place alone, so threads may share the work in any way.
void FillNormal(const CounterRandom& random, double deviation, int64_t begin,
                std::span<float> out) {
  constexpr int64_t kPiece = 1 << 18;  // elements: some 10 ms of work, more than a thread costs
  const auto size = static_cast<int64_t>(out.size());
  const auto fill = [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      out[i] = static_cast<float>(deviation * random.Normal(begin + i));
    }
  };
  std::vector<std::thread> threads;
  for (int64_t from = kPiece; from < size; from += kPiece) {
    threads.emplace_back(fill, from, std::min(from + kPiece, size));
  }
  fill(0, std::min(kPiece, size));
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

Status InitializeParameters(Trainer& trainer, uint64_t seed, int64_t layers) {
  CHECK_GE(layers, 1);
  constexpr int64_t kChunk = 1 << 22;  // elements: bounds the host copy, and the threads to 16
  std::vector<float> chunk;
  for (const TensorInfo& tensor : trainer.tensors()) {
    const bool output = absl::EndsWith(tensor.name, ".o_proj.weight") ||
                        absl::EndsWith(tensor.name, ".down_proj.weight");
    const double deviation = output ? 0.02 / std::sqrt(2.0 * static_cast<double>(layers)) : 0.02;
    const CounterRandom random(DeriveSeed(seed, absl::StrCat("init:", tensor.name)));
    for (int64_t begin = 0; begin < tensor.elements.size(); begin += kChunk) {
      chunk.assign(std::min(kChunk, tensor.elements.size() - begin), 1.0f);
      if (tensor.shape.size() >= 2) FillNormal(random, deviation, begin, chunk);
      RETURN_IF_ERROR(
          Annotate(trainer.Write(Vector::kParameters, tensor.elements.begin + begin, chunk),
                   absl::StrCat("while initializing ", tensor.name)));
    }
  }
  return OkStatus();
}

}  // namespace atl
