#include "proto/job_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "base/socket.h"
#include "proto/lease_terms.h"
#include "proto/model_presets.h"
#include "proto/yaml_to_message.h"
#include "proto/yaml_tree.h"

namespace atl {
namespace {

constexpr size_t kLongestName = 63;
// The vocabulary that stands in for the token file's where the file is not at hand: bytes.
constexpr int64_t kByteVocabulary = 256;

struct Finding {
  std::string path;
  std::string what;
};

bool WellFormed(const std::string& name, absl::string_view also) {
  return !name.empty() && name.size() <= kLongestName &&
         std::all_of(name.begin(), name.end(), [&also](char c) {
           return absl::ascii_isalnum(c) || absl::StrContains(also, std::string(1, c));
         });
}

void CheckRegions(const pb::Job& job, std::vector<Finding>* findings) {
  // A region's directory lies in the run directory, beside these.
  static constexpr absl::string_view kTaken[] = {"keys", "lock"};
  std::set<std::string> names;
  for (int i = 0; i < job.regions_size(); ++i) {
    const std::string& name = job.regions(i).name();
    const std::string path = absl::StrCat("regions[", i, "].name");
    if (!WellFormed(name, "-_")) {
      findings->push_back({path, absl::StrCat(name.empty() ? "missing" : "not well-formed", "; a ",
                                              "region's name is 1 to 63 letters, digits, '-' and "
                                              "'_'")});
    } else if (std::find(std::begin(kTaken), std::end(kTaken), name) != std::end(kTaken)) {
      findings->push_back({path, absl::StrCat("'", name, "' is taken: the run directory has a '",
                                              name, "' of its own")});
    } else if (!names.insert(name).second) {
      findings->push_back({path, absl::StrCat("'", name,
                                              "' is there twice; a name stands for one "
                                              "region")});
    }
  }
}

void CheckLeases(const pb::Job& job, std::vector<Finding>* findings) {
  std::string currency;
  bool priced = false;
  for (int i = 0; i < job.regions_size(); ++i) {
    const LeaseTerms terms = TermsOf(job.regions(i).lease());
    const std::string path = absl::StrCat("regions[", i, "].lease.");
    if (terms.lead > 0 && terms.end == 0) {
      findings->push_back({path + "lead", "a lead without an `end`; say when the lease ends"});
    }
    if (terms.end > 0 && terms.start > 0 && terms.end - terms.lead <= terms.start) {
      findings->push_back({path + "end", "not after the lease's start, or not after `lead` of it"});
    }
    if (terms.price <= 0) continue;
    if (priced && terms.currency != currency) {
      findings->push_back({path + "price",
                           "not in the currency of the region before it; costs are "
                           "added up, so give all in one"});
    }
    priced = true;
    currency = terms.currency;
  }
}

void CheckServe(const pb::Job& job, std::vector<Finding>* findings) {
  const auto check = [findings](const std::string& path, const std::string& listen) {
    if (listen.empty()) return;
    const StatusOr<Endpoint> endpoint = Endpoint::Parse(listen);
    if (!endpoint.ok()) findings->push_back({path, std::string(endpoint.status().message())});
  };
  check("checkpoint.serve.listen", job.checkpoint().serve().listen());
  for (int i = 0; i < job.regions_size(); ++i) {
    if (job.regions(i).serve() == "none") continue;
    check(absl::StrCat("regions[", i, "].serve"), job.regions(i).serve());
  }
}

void CheckModel(const pb::Job& job, std::vector<Finding>* findings) {
  const auto resolved = ResolveModel(job.model(), kByteVocabulary);
  if (resolved.ok()) return;
  // The resolver names the key in its message; the place of that key is where to look.
  std::string what(resolved.status().message());
  std::string path = "model";
  const size_t begin = what.find("model.");
  if (begin != std::string::npos) {
    size_t end = begin + 6;
    while (end < what.size() && (absl::ascii_islower(what[end]) || what[end] == '_')) ++end;
    path = what.substr(begin, end - begin);
    if (begin == 0 && absl::StartsWith(what.substr(end), ": ")) what = what.substr(end + 2);
  }
  findings->push_back({path, what});
}

std::vector<Finding> Examine(const pb::Job& job) {
  std::vector<Finding> findings;
  if (!WellFormed(job.name(), "-_.") || job.name()[0] == '.') {
    findings.push_back({"name", "a job's name is 1 to 63 letters, digits, '-', '_' and '.'"});
  }
  CheckModel(job, &findings);
  if (job.data().tokens().empty()) {
    findings.push_back({"data.tokens",
                        "missing; name a token file (`atoll data tokenize` makes "
                        "one from text)"});
  }
  if (job.train().global_batch() < job.regions_size()) {
    findings.push_back(
        {"train.global_batch",
         absl::StrCat(job.train().global_batch(), " samples are too few for ", job.regions_size(),
                      " regions; each needs one of every step")});
  }
  if (job.sync().method() == pb::Sync::EVERY_STEP &&
      job.sync().slow().policy() != pb::SlowRegions::WAIT) {
    findings.push_back({"sync.slow.policy",
                        "with sync.method every_step a round is one step, so the others can only "
                        "wait for a slow region"});
  }
  if (job.resume().empty()) {
    findings.push_back({"resume", "an empty value is not auto, never, or a path"});
  } else if (job.resume() != "auto" && job.resume() != "never" && job.resume()[0] != '/') {
    findings.push_back({"resume", absl::StrCat("'", job.resume(), "' is not an absolute path")});
  }
  CheckRegions(job, &findings);
  CheckLeases(job, &findings);
  CheckServe(job, &findings);
  return findings;
}

Status CheckReadable(const std::string& key, const std::string& path, const std::string& advice) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return UsageError(absl::StrCat(key, ": ", path, " does not exist; ", advice));
  }
  const auto fd = OpenFile(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (!fd.ok()) {
    return UsageError(absl::StrCat(key, ": ", std::string(fd.status().message())));
  }
  struct stat status;
  if (fstat(fd->get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return UsageError(absl::StrCat(key, ": ", path, " is not a file; ", advice));
  }
  return OkStatus();
}

}  // namespace

StatusOr<pb::Job> ParseJob(const std::string& text, const std::string& name,
                           const std::string& directory,
                           const std::vector<std::string>& overrides) {
  ASSIGN_OR_RETURN(const YamlNode root, ParseYaml(text, name));
  std::error_code error;
  const std::string absolute = std::filesystem::absolute(directory, error).string();
  pb::Job job;
  MessageReader reader(name, absolute, &job);
  reader.ReadTree(root);
  for (const std::string& override_text : overrides) reader.ReadOverride(override_text);
  RETURN_IF_ERROR(reader.status());
  reader.ApplyDefaults();
  for (const Finding& finding : Examine(job)) reader.AddError(finding.path, finding.what);
  RETURN_IF_ERROR(reader.status());
  return job;
}

StatusOr<pb::Job> LoadJob(const std::string& path, const std::vector<std::string>& overrides) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return UsageError(absl::StrCat(path, ": is a directory; expected a job file (YAML)"));
  }
  const auto text = ReadFile(path, kMaxYamlBytes);
  if (!text.ok()) {
    return UsageError(absl::StrCat("job file: ", std::string(text.status().message())));
  }
  const std::string directory = std::filesystem::path(path).parent_path().string();
  return ParseJob(*text, path, directory.empty() ? "." : directory, overrides);
}

Status CheckJob(const pb::Job& job) {
  std::vector<std::string> lines;
  for (const Finding& finding : Examine(job)) {
    lines.push_back(absl::StrCat(finding.path, ": ", finding.what));
  }
  return lines.empty() ? OkStatus() : UsageError(absl::StrJoin(lines, "\n"));
}

Status CheckJobFiles(const pb::Job& job) {
  const std::string& tokens = job.data().tokens();
  RETURN_IF_ERROR(CheckReadable(
      "data.tokens", tokens,
      absl::StrCat("make it with `atoll data tokenize --input FILES --tokenizer bytes --output ",
                   tokens, "`")));
  if (const std::string& held_out = job.data().validation_tokens(); !held_out.empty()) {
    RETURN_IF_ERROR(
        CheckReadable("data.validation_tokens", held_out,
                      "leave it empty to hold out the last validation_fraction of data.tokens"));
  }
  std::error_code error;
  if (job.resume() != "auto" && job.resume() != "never" &&
      !std::filesystem::exists(job.resume(), error)) {
    return UsageError(absl::StrCat("resume: ", job.resume(), " does not exist; give the path of a ",
                                   "checkpoint or of a run directory, or auto, or never"));
  }
  return OkStatus();
}

void SetRegionCount(pb::Job* job, int count) {
  CHECK(count >= 1);
  std::set<std::string> names;
  while (job->regions_size() > count) job->mutable_regions()->RemoveLast();
  for (const pb::Region& region : job->regions()) names.insert(region.name());
  // "region-N" by position; where the file has that name already, the next free number.
  for (int number = job->regions_size() + 1; job->regions_size() < count; ++number) {
    const std::string name = absl::StrCat("region-", number);
    if (names.insert(name).second) job->add_regions()->set_name(name);
  }
}

}  // namespace atl
