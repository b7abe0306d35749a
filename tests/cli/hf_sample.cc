// For hf_export_test.py and open_with_hugging_face.py: a tiny model's checkpoint and its logits, as
// the trainer computes them.
//
//   hf_sample write DIR tied|untied   saves DIR/round-000007, prints the logits of its model
//   hf_sample logits CHECKPOINT       loads a checkpoint into a new trainer, prints its logits
// The answer is JSON: {"tokens": [...], "logits": [...]} with 9 digits, which give back every fp32.
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "checkpoint/checkpoint.h"
#include "cli/hf_model.h"
#include "collectives/inprocess/inprocess.h"
#include "tests/trainer/tiny_trainer.h"

namespace atl {
namespace {

constexpr int64_t kSequence = 9;

std::vector<checkpoint::TensorSpec> SpecsOf(const Trainer& trainer) {
  std::vector<checkpoint::TensorSpec> specs;
  for (const TensorInfo& tensor : trainer.tensors()) {
    specs.push_back({tensor.name, tensor.shape, tensor.elements});
  }
  return specs;
}

Status PrintLogits(Trainer& trainer, int64_t vocabulary) {
  const std::vector<int32_t> tokens = RandomTokens(3, kSequence);
  std::vector<float> logits(kSequence * vocabulary);
  RETURN_IF_ERROR(trainer.Logits(tokens, 1, kSequence, logits));
  const std::string numbers = absl::StrJoin(logits, ",", [](std::string* out, float value) {
    absl::StrAppend(out, absl::StrFormat("%.9g", value));
  });
  std::printf("{\"tokens\":[%s],\"logits\":[%s]}\n", absl::StrJoin(tokens, ",").c_str(),
              numbers.c_str());
  return OkStatus();
}

Status Write(const std::string& directory, bool tied) {
  TrainerOptions trainer_options = TinyOptions();
  if (tied) trainer_options.model.set_embedding(pb::Model::TIED);
  const auto trainer = MakeTrainer(trainer_options);
  const std::vector<float> flat = ReadAll(*trainer, Vector::kParameters);
  checkpoint::SaveOptions options;
  options.directory = directory;
  options.tensors = SpecsOf(*trainer);
  options.description.round = 7;
  options.description.digest = "00112233445566778899aabbccddeeff";
  options.description.region = "oslo";
  options.description.job = "tiny";
  options.description.model_yaml = trainer_options.model.ShortDebugString();
  options.sections = {{"model",
                       checkpoint::SectionClass::kReplicated,
                       {{{0, static_cast<int64_t>(flat.size())}, flat.data()}}}};
  auto alone = MakeInProcessGroup(1);
  RETURN_IF_ERROR(checkpoint::Save(options, *alone[0]).status());
  // What the verbs take for the trainer's layout is the trainer's layout.
  const auto expected = TensorsOf(trainer_options.model);
  bool same = expected.size() == options.tensors.size();
  for (size_t i = 0; same && i < expected.size(); ++i) {
    same = expected[i].name == options.tensors[i].name &&
           expected[i].elements == options.tensors[i].elements;
  }
  if (!same) return absl::InternalError("TensorsOf is not the trainer's layout");
  return PrintLogits(*trainer, kVocabulary);
}

Status Logits(const std::string& path) {
  ASSIGN_OR_RETURN(const auto opened, checkpoint::Checkpoint::Open(path));
  TrainerOptions options;
  ASSIGN_OR_RETURN(options.model, ModelOfText(opened->description().model_yaml));
  ASSIGN_OR_RETURN(const auto trainer, Trainer::Create(options));
  std::vector<float> flat(trainer->size());
  RETURN_IF_ERROR(opened->Read("model", SpecsOf(*trainer), {0, trainer->size()}, flat));
  RETURN_IF_ERROR(trainer->Write(Vector::kParameters, 0, flat));
  return PrintLogits(*trainer, options.model.vocab_size());
}

}  // namespace
}  // namespace atl

int main(int argc, char** argv) {
  const std::string verb = argc > 1 ? argv[1] : "";
  atl::Status status = absl::InvalidArgumentError("see the first comment of hf_sample.cc");
  if (verb == "write" && argc == 4) {
    status = atl::Write(argv[2], std::string(argv[3]) == "tied");
  }
  if (verb == "logits" && argc == 3) status = atl::Logits(argv[2]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
