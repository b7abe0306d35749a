// `atoll checkpoint export`: a checkpoint's model as a directory that Hugging Face's classes open.
//
//   1. the model is the one that the checkpoint's description names; its tensors must be exactly
//      those of LlamaForCausalLM;
//   2. everything is written into OUT.partial-TOKEN and synced: weights, config.json,
//      generation_config.json, tokenizer files;
//   3. that is renamed to OUT: nobody sees half of it.
#include <stdio.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/random.h"
#include "base/units.h"
#include "checkpoint/staging.h"
#include "checkpoint/weights.h"
#include "cli/bar.h"
#include "cli/checkpoint.h"
#include "cli/hf_model.h"

namespace atl {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using checkpoint::TensorSpec;
using checkpoint::WeightType;
using checkpoint::WriteNewFile;

constexpr int64_t kMaxTokenizerBytes = 256 << 20;

// The checkpoint holds the model that it says it holds.
Status CheckTensors(const Checkpoint& checkpoint, const pb::Model& model) {
  const std::vector<TensorSpec> expected = TensorsOf(model);
  const std::vector<TensorSpec>& there = checkpoint.tensors();
  bool same = expected.size() == there.size();
  for (size_t i = 0; same && i < expected.size(); ++i) {
    same = expected[i].name == there[i].name && expected[i].shape == there[i].shape;
  }
  if (same) return OkStatus();
  return UsageError(absl::StrCat(checkpoint.path(),
                                 " does not hold the tensors of the model that it names, so it "
                                 "can't be exported"));
}

// "bytes", a sentencepiece model, a directory with tokenizer files, or none. Returns what was
// written, for the answer.
StatusOr<std::string> WriteTokenizer(const std::string& tokenizer, const std::string& directory) {
  const auto write = [&](const std::string& name, const std::string& text) {
    return WriteNewFile(absl::StrCat(directory, "/", name), text);
  };
  if (tokenizer == "none") return std::string("none");
  if (tokenizer == "bytes") {
    const nlohmann::json settings = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                     {"clean_up_tokenization_spaces", false}};
    RETURN_IF_ERROR(write("tokenizer.json", BytesTokenizer()));
    RETURN_IF_ERROR(write("tokenizer_config.json", settings.dump(2) + "\n"));
    return std::string("bytes");
  }
  std::error_code error;
  if (fs::is_directory(tokenizer, error)) {
    int copied = 0;
    for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                             "special_tokens_map.json", "added_tokens.json"}) {
      const StatusOr<std::string> text =
          ReadFile(absl::StrCat(tokenizer, "/", name), kMaxTokenizerBytes);
      if (absl::IsNotFound(text.status())) continue;
      RETURN_IF_ERROR(text.status());
      RETURN_IF_ERROR(write(name, *text));
      ++copied;
    }
    if (copied == 0) return UsageError(absl::StrCat(tokenizer, " holds no tokenizer files"));
    return tokenizer;
  }
  if (!absl::EndsWith(tokenizer, ".model")) {
    return UsageError(absl::StrCat("--tokenizer is ", tokenizer,
                                   "; give bytes, a sentencepiece model (FILE.model), a directory "
                                   "with tokenizer files, or none"));
  }
  ASSIGN_OR_RETURN(const std::string model, ReadFile(tokenizer, kMaxTokenizerBytes));
  const nlohmann::json settings = {{"tokenizer_class", "LlamaTokenizer"},
                                   {"legacy", false},
                                   {"add_bos_token", false},
                                   {"add_eos_token", false},
                                   {"bos_token", "<s>"},
                                   {"eos_token", "</s>"},
                                   {"unk_token", "<unk>"}};
  RETURN_IF_ERROR(write("tokenizer.model", model));
  RETURN_IF_ERROR(write("tokenizer_config.json", settings.dump(2) + "\n"));
  return tokenizer;
}

struct Exported {
  int64_t bytes = 0;
  std::string tokenizer;
};

StatusOr<Exported> WriteAll(const Checkpoint& checkpoint, const pb::Model& model,
                            const ParsedFlags& flags, const std::string& directory,
                            Output& output) {
  checkpoint::ExportOptions options;
  options.directory = directory;
  options.type = flags.Text("dtype") == "bf16" ? WeightType::kBF16 : WeightType::kF32;
  Bar bar("export  " + checkpoint.path(), &output);
  options.progress = [&](int64_t done, int64_t total) { bar.Update(done, total); };
  Exported exported;
  const std::string dtype = options.type == WeightType::kBF16 ? "bfloat16" : "float32";
  RETURN_IF_ERROR(WriteNewFile(directory + "/config.json",
                               HfConfig(model, dtype, flags.Count("max_positions"))));
  RETURN_IF_ERROR(WriteNewFile(directory + "/generation_config.json",
                               "{\n  \"_from_model_config\": true\n}\n"));
  std::string tokenizer = flags.Text("tokenizer");
  if (tokenizer.empty()) tokenizer = model.vocab_size() == 256 ? "bytes" : "none";
  ASSIGN_OR_RETURN(exported.tokenizer, WriteTokenizer(tokenizer, directory));
  ASSIGN_OR_RETURN(exported.bytes, ExportWeights(checkpoint, options));
  RETURN_IF_ERROR(SyncDirectory(directory));
  return exported;
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  if (flags.Text("to") != "hf") {
    return UsageError(absl::StrCat("--to is ", flags.Text("to"), "; there is: hf"));
  }
  if (flags.Text("dtype") != "fp32" && flags.Text("dtype") != "bf16") {
    return UsageError(absl::StrCat("--dtype is ", flags.Text("dtype"), "; there are: bf16, fp32"));
  }
  ASSIGN_OR_RETURN(const std::string path, OneCheckpoint(WithoutSlash(flags.positional()[0])));
  const std::string out = WithoutSlash(flags.positional()[1]);
  std::error_code error;
  if (fs::exists(out, error) && !fs::is_empty(out, error)) {
    return UsageError(absl::StrCat(out, " is there already and is not empty"));
  }
  ASSIGN_OR_RETURN(const auto key, EncryptionKeyOf(flags));
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(path, key.get()));
  if (key == nullptr && !checkpoint->key_id().empty()) {
    return UsageError(absl::StrCat(path, " is encrypted with the key ", checkpoint->key_id(),
                                   ": give it with --encryption_key"));
  }
  ASSIGN_OR_RETURN(const pb::Model model, ModelOfText(checkpoint->description().model_yaml));
  RETURN_IF_ERROR(CheckTensors(*checkpoint, model));

  uint32_t token = 0;
  FillWithSystemRandom(&token, sizeof(token));
  const std::string staging = absl::StrCat(out, ".partial-", absl::Hex(token, absl::kZeroPad8));
  RETURN_IF_ERROR(MakeDirectories(staging));
  StatusOr<Exported> exported = WriteAll(*checkpoint, model, flags, staging, output);
  if (exported.ok() && rename(staging.c_str(), out.c_str()) != 0) {
    exported = ErrnoError(errno, absl::StrCat("cannot rename ", staging, " to ", out));
  }
  if (!exported.ok()) {
    (void)checkpoint::RemoveTree(staging);  // what stays bears its name
    return exported.status();
  }
  const std::string parent = fs::path(out).parent_path().string();
  RETURN_IF_ERROR(SyncDirectory(parent.empty() ? "." : parent));
  output.Answer({{"checkpoint", path},
                 {"directory", out},
                 {"dtype", flags.Text("dtype")},
                 {"bytes", exported->bytes},
                 {"tokenizer", exported->tokenizer}});
  output.Print(absl::StrCat(out, ": ", path, " as ", flags.Text("dtype"), ", ",
                            FormatBytes(static_cast<double>(exported->bytes)), ", tokenizer ",
                            exported->tokenizer, "\n"));
  return ExitCode::kDone;
}

}  // namespace

Verb CheckpointExportVerb() {
  return {
      "checkpoint export",
      {.command = "atoll checkpoint export",
       .arguments = "DIR OUT",
       .summary = "write the model for other tools",
       .details =
           "DIR is one checkpoint, or a run directory or a directory of checkpoints, of which "
           "the newest is taken. OUT becomes a directory that Hugging Face's AutoModel opens "
           "(LlamaForCausalLM): weights in safetensors, config.json, generation_config.json, "
           "tokenizer files. Every byte that is read is verified.",
       .flags = {{.name = "to",
                  .kind = FlagKind::kText,
                  .placeholder = "hf",
                  .help = "the layout",
                  .default_value = "hf"},
                 {.name = "dtype",
                  .kind = FlagKind::kText,
                  .placeholder = "bf16|fp32",
                  .help = "how the weights are stored; bf16 is rounded to nearest",
                  .default_value = "bf16"},
                 {.name = "tokenizer",
                  .kind = FlagKind::kText,
                  .placeholder = "WHAT",
                  .help = "bytes, FILE.model (sentencepiece), a directory with tokenizer files, "
                          "or none; without it: bytes if the vocabulary has 256 entries"},
                 {.name = "max_positions",
                  .kind = FlagKind::kCount,
                  .placeholder = "N",
                  .help = "max_position_embeddings of config.json: how long a text the model "
                          "was trained for (data.sequence_length)",
                  .default_value = "2048",
                  .min = 1,
                  .max = 1 << 24},
                 EncryptionKeyFlag(),
                 EncryptionKeyCommandFlag(),
                 JsonFlag()},
       .min_positional = 2,
       .max_positional = 2},
      Run};
}

}  // namespace atl
