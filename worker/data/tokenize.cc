// TokenizeFiles (tokenizer.h). Steps, for each input: 1. read a block behind what is left of the
// one before; 2. encode the part that may be cut off (everything, or whole lines); 3. at the end of
// the file encode the rest and end the document. Memory: a block, a line and their tokens.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "worker/data/tokenizer.h"

namespace atl {
namespace {

constexpr size_t kBlockBytes = 1 << 20;
constexpr size_t kLongestLine = 256 << 10;

// Where a line that is too long is cut: behind the last blank of the first kLongestLine bytes, else
// before a character of UTF-8 that begins there or within the three bytes before.
size_t CutLongLine(absl::string_view line) {
  const size_t blank = line.substr(0, kLongestLine).rfind(' ');
  if (blank != absl::string_view::npos && blank > 0) return blank + 1;
  size_t cut = kLongestLine;
  for (int i = 0; i < 3 && (static_cast<unsigned char>(line[cut]) & 0xC0) == 0x80; ++i) --cut;
  return cut;
}

// Encodes the lines of `text`, the last one only if it is complete or `at_end`; returns how many
// bytes were used.
StatusOr<size_t> EncodeLines(const Tokenizer& tokenizer, absl::string_view text, bool at_end,
                             std::vector<int32_t>* ids) {
  size_t used = 0;
  while (used < text.size()) {
    absl::string_view line = text.substr(used);
    const size_t end = line.find('\n');
    if (end != absl::string_view::npos) {
      line = line.substr(0, end + 1);
    } else if (!at_end && line.size() <= kLongestLine) {
      break;
    }
    if (line.size() > kLongestLine) line = line.substr(0, CutLongLine(line));
    RETURN_IF_ERROR(tokenizer.Encode(line, ids));
    used += line.size();
  }
  return used;
}

Status TokenizeFile(const std::string& path, const Tokenizer& tokenizer, TokenFileWriter* writer) {
  ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_RDONLY));
  std::string text;
  std::vector<int32_t> ids;
  bool any = false;
  for (bool at_end = false; !at_end;) {
    const size_t rest = text.size();
    text.resize(rest + kBlockBytes);
    ssize_t got = 0;
    do {
      got = read(fd.get(), text.data() + rest, kBlockBytes);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return ErrnoError(errno, absl::StrCat("cannot read ", path));
    text.resize(rest + static_cast<size_t>(got));
    at_end = got == 0;
    any = any || got > 0;

    ids.clear();
    size_t used = text.size();
    if (tokenizer.cuts_anywhere()) {
      RETURN_IF_ERROR(tokenizer.Encode(text, &ids));
    } else {
      ASSIGN_OR_RETURN(used, EncodeLines(tokenizer, text, at_end, &ids));
    }
    text.erase(0, used);
    RETURN_IF_ERROR(writer->Append(ids));
  }
  if (!any) return OkStatus();
  if (const std::optional<int32_t> end = tokenizer.end_of_document()) {
    RETURN_IF_ERROR(writer->Append(std::span<const int32_t>(&*end, 1)));
  }
  return writer->EndDocument();
}

}  // namespace

StatusOr<TokenFileInfo> TokenizeFiles(const std::vector<std::string>& inputs,
                                      const std::string& spec, const std::string& output) {
  if (inputs.empty()) return UsageError("no input files to tokenize");
  for (const std::string& input : inputs) {
    std::error_code error;
    if (!std::filesystem::exists(input, error)) {
      return UsageError(absl::StrCat("no such input file ", input));
    }
    if (std::filesystem::is_directory(input, error)) {
      return UsageError(absl::StrCat("the input ", input, " is a directory; name its files"));
    }
    if (std::filesystem::equivalent(input, output, error)) {
      return UsageError(absl::StrCat("the output ", output, " is also an input"));
    }
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, MakeTokenizer(spec));
  ASSIGN_OR_RETURN(const std::unique_ptr<TokenFileWriter> writer,
                   TokenFileWriter::Create(output, tokenizer->name(), tokenizer->vocab_size()));
  for (const std::string& input : inputs) {
    const Status status = TokenizeFile(input, *tokenizer, writer.get());
    if (!status.ok()) return Annotate(status, "while tokenizing " + input);
  }
  return writer->Finish();
}

}  // namespace atl
