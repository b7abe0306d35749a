// The job file: YAML mapped onto pb::Job by reflection. The schema is proto/job.proto alone: names,
// types, units, defaults and bounds come from it.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "proto/job.pb.h"

namespace atl {

// Reads, checks and completes a job file of at most 1 MiB. `overrides` are "train.rounds=12",
// applied in order after the file; "regions" can't be overridden that way. Every field has its
// default afterwards, paths are absolute. Errors have exit code 2 and say file:line:column (or
// --set), the key, what was expected, and the nearest right key if there is one; several errors are
// a line each.
StatusOr<pb::Job> LoadJob(const std::string& path, const std::vector<std::string>& overrides);
// The same from text; `name` stands for the file in messages, relative paths are taken from
// `directory`.
StatusOr<pb::Job> ParseJob(const std::string& text, const std::string& name,
                           const std::string& directory, const std::vector<std::string>& overrides);
// Beyond single fields: region names unique and well-formed, resume's form, model shape. Part of
// ParseJob.
Status CheckJob(const pb::Job& job);
// Beyond the job file itself: the files that it names exist and can be read. Exit code 2; the
// message says how to make a token file. For those who start a job on this host: a region checks
// its own.
Status CheckJobFiles(const pb::Job& job);
// Uses the first `count` regions of the job; where it lists fewer, adds region-N.
void SetRegionCount(pb::Job* job, int count);
// A complete YAML text that ParseJob reads back to the same message.
std::string JobToYaml(const pb::Job& job);
// The schema as a commented YAML file with every key, default, unit and bound: `atoll config
// schema`.
std::string JobSchemaYaml();
struct SchemaKey {
  std::string path;           // "train.rounds", "regions[].name"
  std::string value;          // "a whole number such as 100, 52.4e9 or 10M; 1 to 1e12"
  std::string default_value;  // as the file would have it; empty: none
  std::string doc;
};
// Every key, sections aside, in the order of the schema.
std::vector<SchemaKey> JobSchemaKeys();
// The same as a Markdown table, for docs/formats/job-file.md.
std::string JobSchemaMarkdown();

}  // namespace atl
