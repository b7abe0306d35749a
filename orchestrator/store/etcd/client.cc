// The gateway's rules: bytes are base64, 64-bit numbers are strings in answers, members that are
// zero are left out, an error is {"error": text, "code": gRPC's code}.
#include "orchestrator/store/etcd/client.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/exit_code.h"

namespace atl {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxAnswerBytes = 96 << 20;
// gRPC's codes.
constexpr int kNotFoundCode = 5, kExhaustedCode = 8, kUnavailableCode = 14, kDeadlineCode = 4,
              kUnknownCode = 2, kCancelledCode = 1;

std::string Base64(const std::string& bytes) { return absl::Base64Escape(bytes); }

int64_t Number(const Json& json, const char* member) {
  const auto found = json.find(member);  // of what is no object: the end
  if (found == json.end()) return 0;
  if (found->is_number_integer()) return found->get<int64_t>();
  int64_t value = 0;
  if (found->is_string()) (void)absl::SimpleAtoi(found->get_ref<const std::string&>(), &value);
  return value;
}

std::string Bytes(const Json& json, const char* member) {
  const auto found = json.find(member);
  std::string bytes;
  if (found != json.end() && found->is_string()) {
    (void)absl::Base64Unescape(found->get_ref<const std::string&>(), &bytes);
  }
  return bytes;
}

void TakeKeyValues(const Json& json, std::vector<EtcdKeyValue>* out) {
  const auto kvs = json.find("kvs");
  if (kvs == json.end() || !kvs->is_array()) return;
  for (const Json& kv : *kvs) {
    if (!kv.is_object()) continue;
    out->push_back(
        {Bytes(kv, "key"), Bytes(kv, "value"), Number(kv, "create_revision"), Number(kv, "lease")});
  }
}

StatusOr<Json> Parse(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InternalError("etcd's answer is no JSON object: is that etcd's client port?");
  }
  return json;
}

Json ToJson(const std::vector<EtcdOperation>& operations) {
  Json list = Json::array();
  for (const EtcdOperation& operation : operations) {
    Json body{{"key", Base64(operation.key)}};
    switch (operation.kind) {
      case EtcdOperation::Kind::kPut:
        body["value"] = Base64(operation.value);
        if (operation.lease != 0) body["lease"] = std::to_string(operation.lease);
        list.push_back({{"request_put", std::move(body)}});
        break;
      case EtcdOperation::Kind::kGet:
        list.push_back({{"request_range", std::move(body)}});
        break;
      case EtcdOperation::Kind::kDelete:
        if (!operation.end.empty()) body["range_end"] = Base64(operation.end);
        list.push_back({{"request_delete_range", std::move(body)}});
        break;
    }
  }
  return list;
}

Status ErrorOf(const std::string& endpoint, int status, const std::string& body) {
  const Json json = Json::parse(body, nullptr, false);
  std::string text = absl::StrCat("HTTP status ", status);
  int64_t code = status >= 500 || status == 429 ? kUnavailableCode : 0;
  if (json.is_object() && json.contains("error") && json["error"].is_string()) {
    text = json["error"].get<std::string>();
    code = Number(json, "code");
  } else if (json.is_object() && json.contains("error") && json["error"].is_object()) {
    // Streams (keepalive) say it one level down.
    const auto message = json["error"].find("message");
    if (message != json["error"].end() && message->is_string()) text = *message;
    code = Number(json["error"], "grpc_code");
  }
  const std::string what = absl::StrCat("etcd at ", endpoint, ": ", text);
  if (absl::StrContains(text, "database space exceeded") || code == kExhaustedCode) {
    return WithExitCode(
        absl::ResourceExhaustedError(absl::StrCat(
            what,
            "; its quota is full: compact and defragment it, then `etcdctl alarm disarm`; "
            "etcd's --auto-compaction-retention=1h keeps it from coming back")),
        ExitCode::kEnvironment);
  }
  if (code == kNotFoundCode) return absl::NotFoundError(what);
  if (code == kUnavailableCode || code == kDeadlineCode || code == kUnknownCode ||
      code == kCancelledCode) {
    return WithExitCode(absl::UnavailableError(what), ExitCode::kEnvironment);
  }
  return WithExitCode(absl::InternalError(what), ExitCode::kEnvironment);
}

}  // namespace

StatusOr<EtcdPlace> EtcdPlace::Parse(const std::string& text, const std::string& ca_file,
                                     const std::string& cert_file, const std::string& key_file) {
  EtcdPlace place;
  place.ca_file = ca_file;
  place.cert_file = cert_file;
  place.key_file = key_file;
  if (cert_file.empty() != key_file.empty()) {
    return UsageError("--store_cert and --store_key go together: a certificate and its key");
  }
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    std::string scheme = ca_file.empty() && cert_file.empty() ? "http://" : "https://";
    for (const char* known : {"http://", "https://"}) {
      if (absl::ConsumePrefix(&part, known)) scheme = known;
    }
    const size_t slash = part.find('/');
    const absl::string_view host = part.substr(0, slash);
    if (slash != absl::string_view::npos) {
      absl::string_view prefix = part.substr(slash);
      while (absl::ConsumeSuffix(&prefix, "/")) {
      }
      if (!place.prefix.empty() && place.prefix != prefix) {
        return UsageError(absl::StrCat("--store=etcd:", text, " names two prefixes"));
      }
      place.prefix = std::string(prefix);
    }
    const size_t colon = host.rfind(':');
    int port = 0;
    if (colon == absl::string_view::npos || colon == 0 ||
        !absl::SimpleAtoi(host.substr(colon + 1), &port) || port <= 0 || port > 65535 ||
        absl::StrContains(host, "@")) {
      return UsageError(absl::StrCat("--store=etcd:", text, ": '", host,
                                     "' is not HOST:PORT; an example is "
                                     "etcd:https://10.0.0.1:2379,https://10.0.0.2:2379"));
    }
    place.endpoints.push_back(absl::StrCat(scheme, host));
  }
  return place;
}

std::string EtcdPlace::ToString() const {
  return absl::StrCat(absl::StrJoin(endpoints, ","), prefix);
}

EtcdClient::EtcdClient(const EtcdPlace& place, double seconds)
    : place_(place),
      seconds_(seconds),
      http_({.ca_file = place.ca_file,
             .cert_file = place.cert_file,
             .key_file = place.key_file,
             .connect_seconds = seconds}) {}

StatusOr<std::string> EtcdClient::CallEndpoint(const std::string& endpoint, const std::string& path,
                                               const std::string& body) {
  HttpRequest request;
  request.method = "POST";
  request.url = endpoint + path;
  request.headers = {"Content-Type: application/json"};
  request.body = body;
  request.max_body_bytes = kMaxAnswerBytes;
  request.seconds = seconds_;
  ASSIGN_OR_RETURN(HttpResponse response, http_.Do(request));
  if (response.status != 200) return ErrorOf(endpoint, response.status, response.body);
  return std::move(response.body);
}

StatusOr<std::string> EtcdClient::Call(const std::string& path, const std::string& body) {
  Status first;
  for (size_t tried = 0; tried < place_.endpoints.size(); ++tried) {
    StatusOr<std::string> answer = CallEndpoint(place_.endpoints[current_], path, body);
    // Another endpoint knows no better about what is not there, and shares its quota.
    if (answer.ok() ||
        (!absl::IsUnavailable(answer.status()) && !absl::IsUnauthenticated(answer.status()))) {
      return answer;
    }
    if (first.ok()) first = answer.status();
    current_ = (current_ + 1) % place_.endpoints.size();
  }
  return first;
}

StatusOr<EtcdClient::TxnResult> EtcdClient::Txn(const std::vector<EtcdCompare>& compares,
                                                const std::vector<EtcdOperation>& then,
                                                const std::vector<EtcdOperation>& otherwise) {
  Json compare = Json::array();
  for (const EtcdCompare& one : compares) {
    const bool created = one.what == EtcdCompare::What::kCreated;
    compare.push_back(
        {{"key", Base64(one.key)},
         {"target", created ? "CREATE" : "MOD"},
         {"result", "EQUAL"},
         {created ? "create_revision" : "mod_revision", std::to_string(one.revision)}});
  }
  const Json body{
      {"compare", std::move(compare)}, {"success", ToJson(then)}, {"failure", ToJson(otherwise)}};
  ASSIGN_OR_RETURN(const std::string text, Call("/v3/kv/txn", body.dump()));
  ASSIGN_OR_RETURN(const Json answer, Parse(text));
  TxnResult result;
  result.succeeded = answer.contains("succeeded") && answer["succeeded"] == true;
  if (answer.contains("header")) result.revision = Number(answer["header"], "revision");
  const auto responses = answer.find("responses");
  if (responses != answer.end() && responses->is_array()) {
    for (const Json& response : *responses) {
      const auto range = response.find("response_range");
      if (range != response.end() && range->is_object()) TakeKeyValues(*range, &result.fetched);
    }
  }
  return result;
}

StatusOr<std::vector<EtcdKeyValue>> EtcdClient::Range(const std::string& key,
                                                      const std::string& end, int limit,
                                                      bool local) {
  Json body{{"key", Base64(key)}, {"limit", std::to_string(limit)}, {"serializable", local}};
  if (!end.empty()) body["range_end"] = Base64(end);
  ASSIGN_OR_RETURN(const std::string text, Call("/v3/kv/range", body.dump()));
  ASSIGN_OR_RETURN(const Json answer, Parse(text));
  std::vector<EtcdKeyValue> found;
  TakeKeyValues(answer, &found);
  return found;
}

StatusOr<std::string> EtcdClient::Get(const std::string& key) {
  ASSIGN_OR_RETURN(std::vector<EtcdKeyValue> found, Range(key, "", 1));
  if (found.empty()) return absl::NotFoundError(absl::StrCat("etcd has no key ", key));
  return std::move(found[0].value);
}

StatusOr<int64_t> EtcdClient::Grant(int64_t ttl_seconds) {
  const Json body{{"TTL", std::to_string(ttl_seconds)}};
  ASSIGN_OR_RETURN(const std::string text, Call("/v3/lease/grant", body.dump()));
  ASSIGN_OR_RETURN(const Json answer, Parse(text));
  const int64_t lease = Number(answer, "ID");
  if (lease == 0) return absl::InternalError("etcd's answer has no lease");
  return lease;
}

StatusOr<int64_t> EtcdClient::KeepAlive(int64_t lease) {
  const Json body{{"ID", std::to_string(lease)}};
  ASSIGN_OR_RETURN(const std::string text, Call("/v3/lease/keepalive", body.dump()));
  ASSIGN_OR_RETURN(const Json answer, Parse(text));
  const auto result = answer.find("result");
  if (result == answer.end() || !result->is_object()) {
    return ErrorOf(place_.endpoints[current_], 200, text);
  }
  return Number(*result, "TTL");
}

Status EtcdClient::Revoke(int64_t lease) {
  const Json body{{"ID", std::to_string(lease)}};
  return Call("/v3/lease/revoke", body.dump()).status();
}

}  // namespace atl
