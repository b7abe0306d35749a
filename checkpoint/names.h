// Names inside a directory of checkpoints, and which of them are accepted from a manifest.
//
//     checkpoints/.lock                          held while a save runs here
//     checkpoints/round-000041                   a committed checkpoint
//     checkpoints/.round-000041.1f2e3d4c.partial being written, or left over: removed by the next
//                                                save
//     checkpoints/.round-000041.removed          being removed
//     checkpoints/.round-000041.0123456789abcdef.pull   on its way from other places
//     checkpoints/.transfer-key                  which others need to pull from here
//     checkpoints/.transfer-address              where a running job gives them
//     checkpoints/.rate-cap                      how quickly, at most
//     checkpoints/.round-000041.replaced         the committed one, moved aside while its successor
//                                                takes its place (see staging.h)
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace atl::checkpoint {

inline constexpr char kManifestName[] = "MANIFEST.json";
inline constexpr char kIndexName[] = "model.safetensors.index.json";
inline constexpr char kModelPrefix[] = "model";
inline constexpr char kChunkFolder[] = "chunks";
// Of files that are being pulled: no file of a checkpoint ends so.
inline constexpr char kPartSuffix[] = ".part";

std::string RoundName(int64_t round);                              // "round-000041"
std::string PartialName(int64_t round, const std::string& token);  // ".round-000041.TOKEN.partial"
std::string RemovedName(int64_t round);                            // ".round-000041.removed"
std::string ReplacedName(int64_t round);                           // ".round-000041.replaced"
std::optional<int64_t> RoundOfName(absl::string_view name);        // of "round-000041" only
std::optional<int64_t> RoundOfReplacedName(absl::string_view name);  // of ".round-000041.replaced"
// A checkpoint that is being pulled (checkpoint/transfer/); it stays until the pull is done,
// through any number of attempts. TOKEN names the manifest: 16 hexadecimal digits.
std::string PullName(int64_t round, const std::string& token);  // ".round-000041.TOKEN.pull"
bool IsPullName(absl::string_view name);
bool IsOfTransfers(absl::string_view name);   // .transfer-*, .rate-cap
bool IsLeftoverName(absl::string_view name);  // partial or removed

// Relative file names that a manifest may hold: `[A-Za-z0-9._-]` in each part, no part begins with
// a dot, and the folders are our own: none, outer/, optim/, extra/REGION/. None ends with ".part".
bool IsFileName(absl::string_view name);
// A section's files are named PREFIX-00001-of-00002.safetensors.
bool IsSectionPrefix(absl::string_view prefix);
std::string SectionFileName(const std::string& prefix, int64_t number, int64_t count);
bool IsFileOfSection(absl::string_view name, const std::string& prefix);

// "chunks/outer_momentum-00001-of-00001.safetensors.b32".
std::string ChunkHashName(const std::string& file);

}  // namespace atl::checkpoint
