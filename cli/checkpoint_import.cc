// `atoll checkpoint import`: weights in Hugging Face's layout as a start for a job.
//
//   1. config.json says which model it is (cli/hf_model.h); every tensor of it must be there with
//      its shape, and nothing else but what old files also store (inverse frequencies of the rotary
//      embedding) and, with tied embeddings, the head, which must be equal to the embedding;
//   2. it is saved as the checkpoint of round 0: no optimizer state, no samples taken. A job begins
//      with it if it says `resume: OUT/round-000000`.
// The whole parameter vector is held in memory.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/units.h"
#include "checkpoint/sha256.h"
#include "checkpoint/weights.h"
#include "cli/bar.h"
#include "cli/checkpoint.h"
#include "cli/hf_model.h"
#include "collectives/inprocess/inprocess.h"
#include "proto/model_presets.h"

namespace atl {
namespace {

using checkpoint::TensorSpec;
using checkpoint::WeightFiles;

constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int64_t kPieceElements = 4 << 20;
constexpr size_t kDigestLetters = 32;

// What files hold besides the tensors of the model.
bool MayBeIgnored(const std::string& name, const pb::Model& model) {
  return absl::EndsWith(name, ".rotary_emb.inv_freq") ||
         (name == "lm_head.weight" && model.embedding() == pb::Model::TIED);
}

Status CheckTensors(const WeightFiles& files, const std::vector<TensorSpec>& tensors,
                    const pb::Model& model) {
  std::unordered_set<std::string> known;
  for (const TensorSpec& tensor : tensors) {
    const auto there = files.tensors().find(tensor.name);
    if (there == files.tensors().end()) {
      return UsageError(
          absl::StrCat("the weights lack ", tensor.name, ", which the model of config.json has"));
    }
    if (there->second.shape != tensor.shape) {
      return UsageError(
          absl::StrCat(tensor.name, " has the shape [", absl::StrJoin(there->second.shape, ", "),
                       "]; config.json asks for [", absl::StrJoin(tensor.shape, ", "), "]"));
    }
    known.insert(tensor.name);
  }
  for (const auto& [name, tensor] : files.tensors()) {
    if (known.contains(name) || MayBeIgnored(name, model)) continue;
    return UsageError(absl::StrCat("the weights hold ", Readable(name),
                                   ", which the model of config.json does not have"));
  }
  return OkStatus();
}

// A head that is stored although it is tied must be the embedding.
Status CheckTiedHead(const WeightFiles& files, const pb::Model& model) {
  const auto head = files.tensors().find("lm_head.weight");
  if (model.embedding() != pb::Model::TIED || head == files.tensors().end()) return OkStatus();
  const Status different = UsageError(
      "tie_word_embeddings is true, but lm_head.weight is not equal to model.embed_tokens.weight");
  const int64_t size = model.vocab_size() * model.hidden_size();
  if (head->second.shape != std::vector<int64_t>{model.vocab_size(), model.hidden_size()}) {
    return different;
  }
  std::vector<float> a, b;
  for (int64_t first = 0; first < size; first += kPieceElements) {
    const Range piece = {first, std::min(first + kPieceElements, size)};
    a.resize(piece.size()), b.resize(piece.size());
    RETURN_IF_ERROR(files.Read("lm_head.weight", piece, a));
    RETURN_IF_ERROR(files.Read("model.embed_tokens.weight", piece, b));
    if (a != b) return different;
  }
  return OkStatus();
}

StatusOr<std::vector<float>> ReadFlat(const WeightFiles& files,
                                      const std::vector<TensorSpec>& tensors, Output& output) {
  Bar bar("import", &output);
  std::vector<float> flat(static_cast<size_t>(tensors.back().elements.end));
  for (const TensorSpec& tensor : tensors) {
    for (int64_t first = 0; first < tensor.elements.size(); first += kPieceElements) {
      const Range piece = {first, std::min(first + kPieceElements, tensor.elements.size())};
      RETURN_IF_ERROR(
          files.Read(tensor.name, piece,
                     std::span<float>(flat).subspan(tensor.elements.begin + first, piece.size())));
      bar.Update(4 * (tensor.elements.begin + piece.end), 4 * static_cast<int64_t>(flat.size()));
    }
  }
  return flat;
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  const std::string from = WithoutSlash(flags.positional()[0]);
  const std::string out = WithoutSlash(flags.positional()[1]);
  const std::string config_name = absl::StrCat(from, "/config.json");
  ASSIGN_OR_RETURN(const std::string config, ReadFile(config_name, kMaxConfigBytes));
  StatusOr<pb::Model> parsed = ModelOfHfConfig(config);
  if (!parsed.ok()) return Annotate(parsed.status(), from);
  const pb::Model model = *std::move(parsed);
  ASSIGN_OR_RETURN(const WeightFiles files, WeightFiles::Open(from));
  const std::vector<TensorSpec> tensors = TensorsOf(model);
  RETURN_IF_ERROR(CheckTensors(files, tensors, model));
  RETURN_IF_ERROR(CheckTiedHead(files, model));
  ASSIGN_OR_RETURN(const std::vector<float> flat, ReadFlat(files, tensors, output));

  checkpoint::SaveOptions options;
  ASSIGN_OR_RETURN(options.key, EncryptionKeyOf(flags));
  options.directory = out;
  options.keep = 1'000'000;
  options.tensors = tensors;
  options.description.round = 0;
  options.description.region = "(import)";  // no region can be called so
  options.description.job = "(import)";
  options.description.model_yaml = model.ShortDebugString();
  options.description.digest =
      checkpoint::Sha256Hex({reinterpret_cast<const char*>(flat.data()), flat.size() * 4})
          .substr(0, kDigestLetters);
  options.sections = {{"model",
                       checkpoint::SectionClass::kReplicated,
                       {{{0, static_cast<int64_t>(flat.size())}, flat.data()}}}};
  auto alone = MakeInProcessGroup(1);
  RETURN_IF_ERROR(MakeDirectories(out));
  ASSIGN_OR_RETURN(const checkpoint::SaveResult saved, checkpoint::Save(options, *alone[0]));
  std::error_code error;
  const std::string path = std::filesystem::absolute(saved.path, error).lexically_normal().string();
  output.Answer({{"resume", path}, {"bytes", saved.bytes}, {"model", ModelSection(model)}});
  output.Print(absl::StrCat(path, ": ", ParameterCount(model), " parameters, ",
                            FormatBytes(static_cast<double>(saved.bytes)),
                            "\nA job starts from it with these lines:\n", ModelSection(model),
                            "\nresume: ", path, "\n"));
  return ExitCode::kDone;
}

}  // namespace

Verb CheckpointImportVerb() {
  return {"checkpoint import",
          {.command = "atoll checkpoint import",
           .arguments = "HFDIR OUT",
           .summary = "make a checkpoint that a job can start from, of Hugging Face's files",
           .details =
               "HFDIR holds a LLaMA model in Hugging Face's layout: config.json and safetensors "
               "weights in F32, BF16 or F16. OUT/round-000000 becomes a checkpoint of it, without "
               "optimizer state. The lines that a job needs to start from it are printed.",
           .flags = {EncryptionKeyFlag(), EncryptionKeyCommandFlag(), JsonFlag()},
           .min_positional = 2,
           .max_positional = 2},
          Run};
}

}  // namespace atl
