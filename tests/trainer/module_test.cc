// What happens when the module is missing, alien, or of another version; and the device's path of
// the libtorch module, run on the CPU.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/env.h"
#include "base/exit_code.h"
#include "tests/trainer/tiny_trainer.h"

namespace atl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Status CreateFrom(const std::string& path) {
  TrainerOptions options = TinyOptions();
  options.module_path = path;
  return Trainer::Create(options).status();
}

TEST(TrainerModule, ThatIsMissingIsAnErrorOfTheEnvironmentThatNamesThePath) {
  const Status status = CreateFrom("/nowhere/trainer.so");
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kEnvironment);
  EXPECT_THAT(status.ToString(), AllOf(HasSubstr("/nowhere/trainer.so"), HasSubstr("build")));
}

TEST(TrainerModule, ThatIsNoLibraryIsAnErrorThatSaysWhatTheLoaderSaid) {
  const std::string path = testing::TempDir() + "not_a_library_" + std::to_string(getpid()) + ".so";
  std::ofstream(path) << std::string(4096, 'x');
  const Status status = CreateFrom(path);
  std::filesystem::remove(path);
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kEnvironment);
  EXPECT_THAT(status.ToString(), AllOf(HasSubstr(path), HasSubstr("invalid ELF header")));
}

TEST(TrainerModule, WithoutTheEntryIsAnError) {
  const Status status = CreateFrom(ExecutableDirectory() + "/module_without_entry.so");
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kEnvironment);
  EXPECT_THAT(status.ToString(), HasSubstr("is not a trainer module"));
}

TEST(TrainerModule, OfAnotherVersionIsAnError) {
  const Status status = CreateFrom(ExecutableDirectory() + "/module_of_another_version.so");
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kEnvironment);
  EXPECT_THAT(status.ToString(), AllOf(HasSubstr("ABI version 4711"), HasSubstr("build both")));
}

TEST(TrainerModule, WithoutAGpuRefusesOne) {
  TrainerOptions options = TinyOptions();
  options.device = 4096;
  const Status status = Trainer::Create(options).status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kEnvironment);
}

class DevicePathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = ExecutableDirectory() + "/../lib/libatoll_trainer_libtorch.so";
    module_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(module_, nullptr) << dlerror();
    api_ = reinterpret_cast<atoll_trainer_entry_function>(dlsym(module_, ATOLL_TRAINER_ENTRY))();
    atoll_trainer_config config = {};
    config.vocab_size = 23, config.hidden_size = 24, config.intermediate_size = 40;
    config.layers = config.heads = config.kv_heads = 2;
    config.rope_theta = 10000, config.norm_epsilon = 1e-5, config.device = -1, config.threads = 1;
    for (atoll_trainer*& trainer : trainers_) {
      ASSERT_EQ(api_->create(&config, &trainer), 0) << api_->last_error();
      const atoll_range ranges[] = {{256, 1024}, {1280, api_->size(trainer)}};
      ASSERT_EQ(api_->own(trainer, ranges, 2), 0);
      FillTensors(trainer, ATOLL_PARAMETERS, 1);
    }
  }
  void TearDown() override {
    for (atoll_trainer* trainer : trainers_) api_->destroy(trainer);
  }
  void FillTensors(atoll_trainer* trainer, int32_t kind, uint64_t seed) {
    const atoll_tensor* tensors = api_->tensors(trainer);
    for (int64_t n = 0; n < api_->tensor_count(trainer); ++n) {
      std::vector<float> values(tensors[n].size);
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<float>(0.02 * CounterRandom(seed + n).Normal(i));
      }
      ASSERT_EQ(api_->write(trainer, kind, tensors[n].offset, tensors[n].size, values.data()), 0);
    }
  }

  void* module_ = nullptr;
  const atoll_trainer_api* api_ = nullptr;
  atoll_trainer* trainers_[2] = {};
};

TEST_F(DevicePathTest, UpdatesAsTheHostsDoes) {
  const auto by_operators = reinterpret_cast<int32_t (*)(atoll_trainer*, const atoll_adamw*)>(
      dlsym(module_, "atoll_libtorch_adamw_by_operators"));
  ASSERT_NE(by_operators, nullptr);
  for (int64_t step = 1; step <= 50; ++step) {
    const atoll_adamw settings = {step, 1e-3, 0.9, 0.95, 1e-8, 0.1, step % 2 == 0 ? 0.3 : 1.0};
    for (atoll_trainer* trainer : trainers_) {
      FillTensors(trainer, ATOLL_GRADIENTS, 1000 * step);
    }
    ASSERT_EQ(api_->adamw(trainers_[0], &settings), 0);
    ASSERT_EQ(by_operators(trainers_[1], &settings), 0);
  }
  for (const int32_t kind : {ATOLL_PARAMETERS, ATOLL_EXP_AVG, ATOLL_EXP_AVG_SQ}) {
    const int64_t size = kind == ATOLL_PARAMETERS ? api_->size(trainers_[0])
                                                  : api_->optimizer_bytes(trainers_[0]) / 8;
    const float* host = api_->data(trainers_[0], kind);
    const float* device = api_->data(trainers_[1], kind);
    for (int64_t i = 0; i < size; ++i) ASSERT_NEAR(host[i], device[i], 1e-6) << kind << " " << i;
  }
}

TEST_F(DevicePathTest, SumsSquaresAsTheHostsDoes) {
  const auto by_operators =
      reinterpret_cast<int32_t (*)(atoll_trainer*, int64_t, int64_t, double*)>(
          dlsym(module_, "atoll_libtorch_square_sum_by_operators"));
  ASSERT_NE(by_operators, nullptr);
  FillTensors(trainers_[0], ATOLL_GRADIENTS, 5);
  double host = 0, device = 0;
  ASSERT_EQ(api_->gradient_square_sum(trainers_[0], 256, 4096, &host), 0);
  ASSERT_EQ(by_operators(trainers_[0], 256, 4096, &device), 0);
  EXPECT_GT(host, 0);
  EXPECT_NEAR(host, device, 1e-12 * host);
}

}  // namespace
}  // namespace atl
