#include "cli/data.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "worker/data/token_file.h"
#include "worker/data/tokenizer.h"

namespace atl {
namespace {

void Show(const TokenFileInfo& info, Output& output) {
  output.Answer({{"path", info.path},
                 {"format", info.format},
                 {"tokenizer", info.tokenizer},
                 {"tokens", info.tokens},
                 {"vocab_size", info.vocab_size},
                 {"bytes_per_token", info.bytes_per_token},
                 {"documents", info.documents},
                 {"fingerprint", absl::StrFormat("%016x", info.fingerprint)}});
  const std::string documents = info.documents > 0 ? absl::StrCat(info.documents) : "unknown";
  output.Print(absl::StrCat(
      output.PaintAnswer(Colour::kBold, info.path), "\n",                                   //
      "  tokens       ", info.tokens, " (", FormatCount(static_cast<double>(info.tokens)),  //
      "), ", info.bytes_per_token, " bytes each\n",                                         //
      "  vocabulary   ", info.vocab_size, "\n",                                             //
      "  tokenizer    ", info.tokenizer.empty() ? "unknown" : info.tokenizer, "\n",         //
      "  documents    ", documents, "\n",                                                   //
      "  format       ", info.format, "\n",                                                 //
      "  fingerprint  ", absl::StrFormat("%016x", info.fingerprint), "\n"));
}

StatusOr<ExitCode> RunTokenize(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(
      const TokenFileInfo info,
      TokenizeFiles(flags.List("input"), flags.Text("tokenizer"), flags.Text("output")));
  Show(info, output);
  return ExitCode::kDone;
}

StatusOr<ExitCode> RunInfo(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(const auto file, TokenFile::Open(flags.positional()[0]));
  Show(file->info(), output);
  return ExitCode::kDone;
}

}  // namespace

Verb DataTokenizeVerb() {
  return {"data tokenize",
          {.command = "atoll data tokenize",
           .arguments = "",
           .summary = "make a token file from text files",
           .details = "Each input file is a document. The result is a file of tokens with a JSON "
                      "note beside it (FILE.json), ready for data.tokens of a job.",
           .flags = {{.name = "input",
                      .kind = FlagKind::kFiles,
                      .placeholder = "FILE",
                      .help = "text files",
                      .required = true},
                     {.name = "tokenizer",
                      .kind = FlagKind::kText,
                      .placeholder = "bytes|MODEL.model",
                      .help = "a token for each byte, or a sentencepiece model",
                      .default_value = "bytes"},
                     {.name = "output",
                      .kind = FlagKind::kText,
                      .placeholder = "FILE",
                      .help = "the token file to write",
                      .required = true},
                     JsonFlag()}},
          RunTokenize};
}

Verb DataInfoVerb() {
  return {"data info",
          {.command = "atoll data info",
           .arguments = "FILE",
           .summary = "say what a token file holds",
           .details = "Reads files of `atoll data tokenize`, of nanoGPT (raw uint16), of llm.c and "
                      "of Megatron (FILE.bin with FILE.idx beside it).",
           .flags = {JsonFlag()},
           .min_positional = 1,
           .max_positional = 1},
          RunInfo};
}

}  // namespace atl
