// `atoll checkpoint SUBVERB`: looks at checkpoints, keeps them whole and moves them. A sub-verb a
// file, cli/checkpoint_X.cc with `Verb CheckpointXVerb();` here and its place in the list in
// cli/checkpoint.cc; what they share is below.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/encryption.h"
#include "checkpoint/inspect.h"
#include "checkpoint/manifest.h"
#include "cli/verb.h"

namespace atl {

Verb CheckpointLsVerb();
Verb CheckpointShowVerb();
Verb CheckpointVerifyVerb();
Verb CheckpointRepairVerb();
Verb CheckpointPruneVerb();
Verb CheckpointExportVerb();
Verb CheckpointImportVerb();
Verb CheckpointPushVerb();  // cli/checkpoint_s3.cc
Verb CheckpointPullVerb();
Verb CheckpointServeVerb();
Verb CheckpointKeygenVerb();

// In the order in which help lists them.
std::vector<Verb> CheckpointVerbs();

// --encryption_key and --encryption_key_command, and what they say; null: neither was given.
FlagSpec EncryptionKeyFlag();
FlagSpec EncryptionKeyCommandFlag();
StatusOr<std::shared_ptr<const checkpoint::EncryptionKey>> EncryptionKeyOf(
    const ParsedFlags& flags);

// True if `path` is a directory that holds, or held, one checkpoint: by its manifest or its name.
bool IsOneCheckpoint(const std::string& path);
// The directories of checkpoints that a user may mean by `path`: itself, PATH/checkpoints, or those
// of a run directory's regions (PATH/REGION/checkpoints). An error (exit code 2) if there are none.
StatusOr<std::vector<std::string>> CheckpointDirectories(const std::string& path);
// `path` itself if it is one checkpoint, else the newest complete one of all of its directories.
StatusOr<std::string> OneCheckpoint(const std::string& path);
// What bears the name of a checkpoint in a directory of them, complete or not, newest first. Other
// names but ".lock" and those of transfers go to `ignored`, a line each.
std::vector<std::string> RoundsIn(const std::string& directory, std::vector<std::string>* ignored);
// The manifest of a checkpoint, under its rules; errors name the path.
StatusOr<checkpoint::Manifest> ReadManifestOf(const std::string& path);
// Without '/' at its end.
std::string WithoutSlash(std::string path);
// What users read of a name from outside: in quotes, control characters escaped, if it needs that.
std::string Readable(const std::string& name);
nlohmann::json DamagesToJson(const std::vector<checkpoint::Damage>& damages);
// The sum of the manifest's files.
int64_t BytesOf(const checkpoint::Manifest& manifest);

}  // namespace atl
