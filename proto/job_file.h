// The job file: YAML mapped onto pb::Job by reflection. The schema is proto/job.proto alone: names,
// types, units, defaults and bounds come from it.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "proto/job.pb.h"

namespace atl {

// Reads, checks and completes a job. `overrides` are "train.rounds=12", applied in order after the
// file; "regions" can't be overridden that way. Every field has its default afterwards, paths are
// absolute. Errors have exit code 2 and say file:line:column (or --set), the key, what was
// expected, and the nearest right key if there is one.
StatusOr<pb::Job> LoadJob(const std::string& path, const std::vector<std::string>& overrides);
// The same from text; `name` stands for the file in messages, relative paths are taken from
// `directory`.
StatusOr<pb::Job> ParseJob(const std::string& text, const std::string& name,
                           const std::string& directory, const std::vector<std::string>& overrides);
// Beyond single fields: region names unique and well-formed, resume's form, model shape. Part of
// ParseJob.
Status CheckJob(const pb::Job& job);
// Uses the first `count` regions of the job; where it lists fewer, adds region-N.
void SetRegionCount(pb::Job* job, int count);
// A complete YAML text that ParseJob reads back to the same message.
std::string JobToYaml(const pb::Job& job);
// The schema as a commented YAML file with every key, default, unit and bound: `atoll config
// schema`.
std::string JobSchemaYaml();

}  // namespace atl
