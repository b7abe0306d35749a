// Steps: 1. load the job with its overrides (proto/job_file.h); 2. apply --regions and check again;
// 3. open its token file; 4. resolve the model with the file's vocabulary; 5. estimate and print.
#include "cli/check.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/units.h"
#include "cli/estimate.h"
#include "proto/field_value.h"
#include "proto/job_file.h"
#include "proto/model_presets.h"
#include "worker/data/dataset.h"

namespace atl {
namespace {

struct Checked {
  pb::Job job;
  pb::Model model;  // resolved
  TokenFileInfo tokens;
  int64_t training_samples = 0;
  int64_t validation_samples = 0;
  int regions = 1;
  int workers = 1;
  JobEstimate estimate;
};

StatusOr<Checked> Check(const ParsedFlags& flags) {
  Checked checked;
  ASSIGN_OR_RETURN(checked.job, LoadJob(flags.positional()[0], flags.List("set")));
  if (flags.Has("regions")) {
    SetRegionCount(&checked.job, static_cast<int>(flags.Count("regions")));
  }
  RETURN_IF_ERROR(CheckJob(checked.job));
  RETURN_IF_ERROR(CheckJobFiles(checked.job));
  checked.regions = std::max(1, checked.job.regions_size());
  checked.workers = static_cast<int>(flags.Count("workers"));

  ASSIGN_OR_RETURN(const auto dataset, Dataset::Open(checked.job.data(), checked.job.seed()));
  checked.tokens = dataset->info();
  checked.training_samples = dataset->training_samples();
  checked.validation_samples = dataset->validation_samples();
  ASSIGN_OR_RETURN(checked.model, ResolveModel(checked.job.model(), dataset->vocab_size()));
  checked.estimate = EstimateJob(checked.job, checked.model, checked.regions, checked.workers);
  return checked;
}

std::vector<std::string> RegionNames(const pb::Job& job) {
  std::vector<std::string> names;
  for (const pb::Region& region : job.regions()) names.push_back(region.name());
  return names;
}

// An enum's value as the job file spells it.
std::string Word(const google::protobuf::Message& message, const char* field) {
  return FormatField(*message.GetDescriptor()->FindFieldByName(field), message);
}

// How often the job reads its training data.
double Epochs(const Checked& checked) {
  const double samples = checked.estimate.tokens_total / checked.job.data().sequence_length();
  return samples / std::max<double>(1, static_cast<double>(checked.training_samples));
}

nlohmann::json ToJson(const Checked& checked) {
  const pb::Job& job = checked.job;
  const pb::Model& model = checked.model;
  const JobEstimate& estimate = checked.estimate;
  // Whole numbers as such, unless they are beyond what a double counts exactly.
  const auto whole = [](double value) {
    return value < 9e15 ? nlohmann::json(static_cast<int64_t>(value)) : nlohmann::json(value);
  };
  return {{"ok", true},
          {"job", job.name()},
          {"seed", job.seed()},
          {"resume", job.resume()},
          {"model",
           {{"preset", job.model().preset()},
            {"parameters", estimate.parameters},
            {"layers", model.layers()},
            {"hidden_size", model.hidden_size()},
            {"intermediate_size", model.intermediate_size()},
            {"heads", model.heads()},
            {"kv_heads", model.kv_heads()},
            {"vocab_size", model.vocab_size()},
            {"tied_embedding", model.embedding() == pb::Model::TIED}}},
          {"data",
           {{"tokens_file", checked.tokens.path},
            {"format", checked.tokens.format},
            {"tokens", checked.tokens.tokens},
            {"sequence_length", job.data().sequence_length()},
            {"training_samples", checked.training_samples},
            {"validation_samples", checked.validation_samples},
            {"epochs", Epochs(checked)}}},
          {"regions", RegionNames(job)},
          {"workers_per_region", checked.workers},
          {"method", Word(job.sync(), "method")},
          {"codec", Word(job.sync(), "codec")},
          {"rounds", job.train().rounds()},
          {"steps_per_round", estimate.steps_per_round},
          {"tokens_per_round", whole(estimate.tokens_per_round)},
          {"tokens_total", whole(estimate.tokens_total)},
          {"flops_total", estimate.flops_total},
          {"memory_bytes_per_worker",
           {{"parameters", whole(estimate.parameter_bytes)},
            {"gradients", whole(estimate.gradient_bytes)},
            {"optimizer", whole(estimate.optimizer_bytes)},
            {"outer", whole(estimate.outer_bytes)},
            {"exchange", whole(estimate.exchange_bytes)},
            {"activations", whole(estimate.activation_bytes)},
            {"total", whole(estimate.memory_bytes)}}},
          {"checkpoint_bytes_per_worker", whole(estimate.checkpoint_bytes / checked.workers)},
          {"checkpoint_bytes_per_region", whole(estimate.checkpoint_bytes)},
          {"wan_bytes_sent_per_region_per_round", whole(estimate.wan_bytes_sent_per_round)},
          {"wan_bytes_sent_per_round", whole(estimate.wan_bytes_sent_per_round * checked.regions)}};
}

std::string DataText(const Checked& checked) {
  const TokenFileInfo& tokens = checked.tokens;
  return absl::StrFormat("%s tokens in %s (%s%s), %d + %d held-out samples of %d",
                         FormatCount(static_cast<double>(tokens.tokens)), tokens.path,
                         tokens.format, tokens.tokenizer.empty() ? "" : ", " + tokens.tokenizer,
                         checked.training_samples, checked.validation_samples,
                         checked.job.data().sequence_length());
}

std::string ModelText(const Checked& checked) {
  const pb::Model& model = checked.model;
  return absl::StrFormat(
      "%s: %s parameters (%d layers, hidden %d, %d heads, %d key/value heads, vocabulary %d, %s "
      "head)",
      checked.job.model().preset(), FormatCount(static_cast<double>(checked.estimate.parameters)),
      model.layers(), model.hidden_size(), model.heads(), model.kv_heads(), model.vocab_size(),
      model.embedding() == pb::Model::TIED ? "tied" : "untied");
}

std::string MemoryText(const JobEstimate& estimate) {
  return absl::StrFormat(
      "about %s a worker: parameters %s, gradients %s, optimizer %s, outer state %s, exchange %s, "
      "activations about %s; what libraries take comes on top",
      FormatBytes(estimate.memory_bytes), FormatBytes(estimate.parameter_bytes),
      FormatBytes(estimate.gradient_bytes), FormatBytes(estimate.optimizer_bytes),
      FormatBytes(estimate.outer_bytes), FormatBytes(estimate.exchange_bytes),
      FormatBytes(estimate.activation_bytes));
}

std::string CheckpointText(const Checked& checked) {
  const pb::CheckpointPolicy& policy = checked.job.checkpoint();
  const std::string when = policy.every() == 0 ? "when stopping and at the end"
                                               : absl::StrCat("every ", policy.every(), " rounds");
  const std::string share =
      checked.workers == 1
          ? ""
          : absl::StrCat(", of which a worker writes ",
                         FormatBytes(checked.estimate.checkpoint_bytes / checked.workers), ",");
  return absl::StrFormat("about %s a region%s %s, %d kept",
                         FormatBytes(checked.estimate.checkpoint_bytes), share, when,
                         policy.keep());
}

std::string ToText(const Checked& checked, const std::string& path, const Output& output) {
  const pb::Job& job = checked.job;
  const JobEstimate& estimate = checked.estimate;
  std::string text = absl::StrCat(path, ": ", output.PaintAnswer(Colour::kGreen, "ok"), "\n");
  const auto add = [&text](const char* label, const std::string& value) {
    absl::StrAppend(&text, absl::StrFormat("  %-11s ", label), WrapText(value, 14), "\n");
  };
  const std::string names = absl::StrJoin(RegionNames(job), ", ");
  add("job", absl::StrCat(job.name(), ", seed ", job.seed(), ", resume ", job.resume()));
  add("model", ModelText(checked));
  add("data", DataText(checked));
  add("regions",
      absl::StrCat(checked.regions, names.empty() ? "" : ": ", names, "; ", checked.workers,
                   checked.workers == 1 ? " worker each" : " workers each"));
  add("training",
      absl::StrFormat("%s, %d rounds x %d %s x %d samples x %d tokens", Word(job.sync(), "method"),
                      job.train().rounds(), estimate.steps_per_round,
                      estimate.steps_per_round == 1 ? "step" : "steps", job.train().global_batch(),
                      job.data().sequence_length()));
  add("tokens", absl::StrFormat("%s a round, %s in all (%.2f passes over the data)",
                                FormatCount(estimate.tokens_per_round),
                                FormatCount(estimate.tokens_total), Epochs(checked)));
  add("work", absl::StrFormat("%.3g floating-point operations", estimate.flops_total));
  add("memory", MemoryText(estimate));
  add("checkpoint", CheckpointText(checked));
  add("sea",
      absl::StrFormat("%s sent by each region a round (%s), %s by all together",
                      FormatBytes(estimate.wan_bytes_sent_per_round), Word(job.sync(), "codec"),
                      FormatBytes(estimate.wan_bytes_sent_per_round * checked.regions)));
  return text;
}

StatusOr<ExitCode> RunCheck(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(const Checked checked, Check(flags));
  output.Answer(ToJson(checked));
  output.Print(ToText(checked, flags.positional()[0], output));
  return ExitCode::kDone;
}

}  // namespace

Verb CheckVerb() {
  return {
      "check",
      {.command = "atoll check",
       .arguments = "JOB.yaml",
       .summary = "say whether a job file is sound, and what the job will take",
       .details = "Prints model, tokens, memory, checkpoints and traffic between regions. Starts "
                  "nothing. `atoll config schema` lists the keys of a job file.",
       .flags = {SetFlag(),
                 {.name = "regions",
                  .kind = FlagKind::kCount,
                  .placeholder = "N",
                  .help = "use the first N regions of the file, or add region-K up to N",
                  .min = 1,
                  .max = 1024},
                 {.name = "workers",
                  .kind = FlagKind::kCount,
                  .placeholder = "N",
                  .help = "workers of each region",
                  .default_value = "1",
                  .min = 1,
                  .max = 65536},
                 JsonFlag()},
       .min_positional = 1,
       .max_positional = 1},
      RunCheck};
}

}  // namespace atl
