#include "cli/config.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/job_file.h"
#include "proto/model_presets.h"

namespace atl {
namespace {

StatusOr<ExitCode> RunSchema(const ParsedFlags& flags, Output& output) {
  nlohmann::json keys = nlohmann::json::array();
  for (const SchemaKey& key : JobSchemaKeys()) {
    keys.push_back({{"key", key.path},
                    {"value", key.value},
                    {"default", key.default_value},
                    {"meaning", key.doc}});
  }
  output.Answer({{"keys", keys}});
  output.Print(flags.Switch("markdown") ? JobSchemaMarkdown() : JobSchemaYaml());
  return ExitCode::kDone;
}

StatusOr<ExitCode> RunPresets(const ParsedFlags&, Output& output) {
  nlohmann::json presets = nlohmann::json::array();
  std::string text = absl::StrFormat("%-14s %6s %7s %6s  %s\n", "PRESET", "LAYERS", "HIDDEN",
                                     "VOCAB", "PARAMETERS, AND WHAT FOR");
  for (const ModelPreset& preset : ModelPresets()) {
    const pb::Model& model = preset.model;
    presets.push_back({{"name", preset.name},
                       {"parameters", ParameterCount(model)},
                       {"layers", model.layers()},
                       {"hidden_size", model.hidden_size()},
                       {"intermediate_size", model.intermediate_size()},
                       {"heads", model.heads()},
                       {"kv_heads", model.kv_heads()},
                       {"vocab_size", model.vocab_size()},
                       {"description", preset.description}});
    absl::StrAppendFormat(&text, "%-14s %6d %7d %6d  %s\n", preset.name, model.layers(),
                          model.hidden_size(), model.vocab_size(), preset.description);
  }
  output.Answer({{"presets", presets}});
  output.Print(text);
  return ExitCode::kDone;
}

}  // namespace

Verb ConfigSchemaVerb() {
  return {
      "config schema",
      {.command = "atoll config schema",
       .arguments = "",
       .summary = "print a commented job file with every key, default, unit and bound",
       .details = "The output is itself a job file: `atoll config schema > my-job.yaml`, name a "
                  "token file under data.tokens, and delete what you do not change.",
       .flags = {JsonFlag(),
                 {.name = "markdown",
                  .kind = FlagKind::kSwitch,
                  .placeholder = "",
                  .help = "print the table of docs/formats/job-file.md instead"}}},
      RunSchema};
}

Verb ConfigPresetsVerb() {
  return {"config presets",
          {.command = "atoll config presets",
           .arguments = "",
           .summary = "list the model shapes that model.preset may name",
           .details = "",
           .flags = {JsonFlag()}},
          RunPresets};
}

}  // namespace atl
