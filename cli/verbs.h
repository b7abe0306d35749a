// The table of all verbs, and the help that lists them.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "cli/verb.h"

namespace atl {

// In the order in which help lists them. Immutable.
const std::vector<Verb>& Verbs();

struct VerbCall {
  const Verb* verb = nullptr;          // null: help was asked for, about `topic`
  std::string topic;                   // "", a verb, or the first word of some ("data")
  std::vector<std::string> arguments;  // after the verb
};

// Splits the words after "atoll" at the verb. No words, "help", "--help", "-h" ask for help;
// "--version" is the verb "version". An unknown verb is an error (exit code 2) that names the
// nearest one.
StatusOr<VerbCall> SplitAtVerb(const std::vector<std::string>& words);

// The text of `atoll help TOPIC`; an error if there is no such verb.
StatusOr<std::string> HelpText(const std::string& topic);

}  // namespace atl
