#include "cli/verbs.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/suggest.h"
#include "cli/bench_allreduce.h"
#include "cli/chaos.h"
#include "cli/check.h"
#include "cli/checkpoint.h"
#include "cli/config.h"
#include "cli/data.h"
#include "cli/drain.h"
#include "cli/env.h"
#include "cli/plan.h"
#include "cli/rehearse.h"
#include "cli/status.h"
#include "cli/train.h"
#include "cli/version.h"

namespace atl {
namespace {

const Verb* FindVerb(const std::string& name) {
  for (const Verb& verb : Verbs()) {
    if (verb.name == name) return &verb;
  }
  return nullptr;
}

// "data" is a family: it has the verbs "data tokenize" and "data info".
std::vector<const Verb*> Family(const std::string& name) {
  std::vector<const Verb*> family;
  for (const Verb& verb : Verbs()) {
    if (absl::StartsWith(verb.name, name + " ")) family.push_back(&verb);
  }
  return family;
}

std::string Lines(const std::vector<const Verb*>& verbs) {
  std::string text;
  for (const Verb* verb : verbs) {
    std::string line = absl::StrCat("  ", verb->name);
    line.resize(std::max<size_t>(line.size() + 1, 20), ' ');
    absl::StrAppend(&text, line, verb->command.summary, "\n");
  }
  return text;
}

std::string Overview() {
  std::vector<const Verb*> all;
  for (const Verb& verb : Verbs()) all.push_back(&verb);
  return absl::StrCat(
      "atoll trains one model on several clusters at once, joined only by the internet.\n\n"
      "usage: atoll VERB [arguments] [flags]\n\nverbs:\n",
      Lines(all), "  help [VERB]       this overview, or the help of a verb\n\n",
      "Start here:\n"
      "  atoll check configs/jobs/demo.yaml\n"
      "  atoll train configs/jobs/demo.yaml --regions=3 --run_dir=runs/demo\n\n"
      "Answers go to stdout, talk to stderr; --json makes the answer one JSON object.\n"
      "Exit codes: 0 done, 1 failed, 2 usage or configuration, 4 environment, 5 orchestrator\n"
      "lost, 6 another one took over, 75 stopped cleanly (start again), 76 stopped before a "
      "commit.\n");
}

Status UnknownVerb(const std::string& typed, const std::vector<std::string>& names) {
  const std::string did_you_mean = DidYouMean(typed, names);
  return UsageError(absl::StrCat(
      "unknown verb '", typed, "'", did_you_mean,
      did_you_mean.empty() ? absl::StrCat("; there are: ", absl::StrJoin(names, ", ")) : ""));
}

std::vector<std::string> FirstWords() {
  std::vector<std::string> words = {"help"};
  for (const Verb& verb : Verbs()) {
    const std::string word = verb.name.substr(0, verb.name.find(' '));
    if (words.back() != word) words.push_back(word);
  }
  return words;
}

std::vector<std::string> NamesOf(const std::vector<const Verb*>& verbs) {
  std::vector<std::string> names;
  for (const Verb* verb : verbs) names.push_back(verb->name);
  return names;
}

StatusOr<VerbCall> HelpCall(const std::vector<std::string>& topic_words) {
  VerbCall call;
  for (const std::string& word : topic_words) {
    if (absl::StartsWith(word, "-")) continue;  // `atoll help check --json`
    absl::StrAppend(&call.topic, call.topic.empty() ? "" : " ", word);
  }
  RETURN_IF_ERROR(HelpText(call.topic).status());
  return call;
}

}  // namespace

const std::vector<Verb>& Verbs() {
  static const std::vector<Verb>* const verbs = [] {
    auto* all = new std::vector<Verb>{CheckVerb(),         TrainVerb(),       RehearseVerb(),
                                      ChaosVerb(),         DrainVerb(),       StatusVerb(),
                                      DataTokenizeVerb(),  DataInfoVerb(),    ConfigSchemaVerb(),
                                      ConfigPresetsVerb(), EnvironmentVerb(), BenchAllReduceVerb(),
                                      PlanLinksVerb(),     VersionVerb()};
    const std::vector<Verb> checkpoint = CheckpointVerbs();
    all->insert(all->end() - 1, checkpoint.begin(), checkpoint.end());
    return all;
  }();
  return *verbs;
}

StatusOr<VerbCall> SplitAtVerb(const std::vector<std::string>& words) {
  if (words.empty()) return HelpCall({});
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  const std::string& first = words[0];
  if (first == "help" || first == "--help" || first == "-h") return HelpCall(rest);
  if (first == "--version") return VerbCall{FindVerb("version"), "", rest};
  if (absl::StartsWith(first, "-")) {
    return UsageError(absl::StrCat("expected a verb before '", first,
                                   "'; usage: atoll VERB [arguments] [flags] (see `atoll help`)"));
  }
  if (const Verb* verb = FindVerb(first)) return VerbCall{verb, "", rest};
  const std::vector<const Verb*> family = Family(first);
  if (family.empty()) return UnknownVerb(first, FirstWords());
  if (rest.empty()) {
    return UsageError(absl::StrCat(
        "'atoll ", first, "' needs one more word: ", absl::StrJoin(NamesOf(family), ", ")));
  }
  if (rest[0] == "--help" || rest[0] == "-h") return HelpCall({first});
  const std::string both = absl::StrCat(first, " ", rest[0]);
  if (const Verb* verb = FindVerb(both)) {
    return VerbCall{verb, "", std::vector<std::string>(rest.begin() + 1, rest.end())};
  }
  return UnknownVerb(both, NamesOf(family));
}

StatusOr<std::string> HelpText(const std::string& topic) {
  if (topic.empty()) return Overview();
  if (const Verb* verb = FindVerb(topic)) return FlagsHelp(verb->command);
  const std::vector<const Verb*> family = Family(topic);
  if (family.empty()) return UnknownVerb(topic, FirstWords());
  return absl::StrCat("usage: atoll ", topic, " VERB [arguments] [flags]\n\nverbs:\n",
                      Lines(family));
}

}  // namespace atl
