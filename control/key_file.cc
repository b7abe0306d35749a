#include "control/key_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "control/zmq_socket.h"

namespace atl {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kOrchestratorFormat[] = "atoll orchestrator key";
constexpr char kLeaseFormat[] = "atoll lease";
constexpr int kVersion = 1;

StatusOr<Json> ParseObject(const std::string& text, const std::string& format) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("it is not a JSON object");
  if (!json.contains("format") || json["format"] != format) {
    return absl::InvalidArgumentError(absl::StrCat("its \"format\" is not \"", format, "\""));
  }
  if (!json.contains("version") || json["version"] != kVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("its \"version\" is not ", kVersion, ", the one that this program reads"));
  }
  return json;
}

StatusOr<std::string> Key(const Json& json, const char* member) {
  const auto found = json.find(member);
  if (found == json.end() || !found->is_string() ||
      !DecodeKey(found->get_ref<const std::string&>()).ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("its \"", member, "\" is not a key of 40 Z85 characters"));
  }
  return found->get<std::string>();
}

StatusOr<KeyPair> Pair(const Json& json) {
  KeyPair keys;
  ASSIGN_OR_RETURN(keys.public_key, Key(json, "public_key"));
  ASSIGN_OR_RETURN(keys.secret_key, Key(json, "secret_key"));
  char derived[41] = {};
  if (zmq_curve_public(derived, keys.secret_key.c_str()) != 0 || keys.public_key != derived) {
    return absl::InvalidArgumentError("its public key does not belong to its secret key");
  }
  return keys;
}

}  // namespace

std::string OrchestratorKeyText(const KeyPair& keys) {
  const Json json = {{"format", kOrchestratorFormat},
                     {"version", kVersion},
                     {"public_key", keys.public_key},
                     {"secret_key", keys.secret_key}};
  return json.dump(2) + "\n";
}

std::string LeaseText(const Lease& lease) {
  const Json json = {{"format", kLeaseFormat},
                     {"version", kVersion},
                     {"region", lease.region},
                     {"public_key", lease.keys.public_key},
                     {"secret_key", lease.keys.secret_key},
                     {"orchestrator_public_key", lease.orchestrator_public_key}};
  return json.dump(2) + "\n";
}

StatusOr<KeyPair> ParseOrchestratorKey(const std::string& text) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text, kOrchestratorFormat));
  return Pair(json);
}

StatusOr<Lease> ParseLease(const std::string& text) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text, kLeaseFormat));
  Lease lease;
  const auto region = json.find("region");
  if (region == json.end() || !region->is_string() ||
      !IsRegionName(region->get_ref<const std::string&>())) {
    return absl::InvalidArgumentError("its \"region\" is not the name of a region");
  }
  lease.region = region->get<std::string>();
  ASSIGN_OR_RETURN(lease.keys, Pair(json));
  ASSIGN_OR_RETURN(lease.orchestrator_public_key, Key(json, "orchestrator_public_key"));
  return lease;
}

bool IsRegionName(const std::string& name) {
  return !name.empty() && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  });
}

}  // namespace atl
