#include "checkpoint/s3/client.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

constexpr int kTries = 5;
constexpr double kFirstPauseSeconds = 0.5;
constexpr double kStallSeconds = 30;
constexpr int kMostPages = 1000;
constexpr size_t kMostEntries = 100'000;
constexpr int kMostParts = 10'000;  // S3's own limit
// A request and its answer have so long, and the time that their bytes take at this rate.
constexpr double kFixedSeconds = 60, kSlowestRate = 64 << 10;
constexpr char kRootHeader[] = "x-amz-meta-atoll-root";

std::string FirstOf(const std::vector<const char*>& names) {
  for (const char* name : names) {
    if (const auto value = GetEnv(name); value && !value->empty()) return *value;
  }
  return "";
}

// A key as the path of a URL: slashes stay.
std::string EscapePath(const std::string& key) {
  std::vector<std::string> parts;
  for (const absl::string_view part : absl::StrSplit(key, '/')) parts.push_back(UrlEscape(part));
  return absl::StrJoin(parts, "/");
}

std::string First(absl::string_view xml, const std::string& tag) {
  const std::vector<std::string> texts = XmlTexts(xml, tag);
  return texts.empty() ? "" : texts[0];
}

std::string WithoutQuotes(const std::string& etag) {
  return absl::StrReplaceAll(etag, {{"\"", ""}});
}

Status ErrorOf(const HttpResponse& response, const std::string& what) {
  std::string said = First(response.body, "Code");
  if (const std::string more = First(response.body, "Message"); !more.empty()) {
    absl::StrAppend(&said, said.empty() ? "" : ": ", more);
  }
  const std::string text = absl::StrCat(what, ": HTTP status ", response.status,
                                        said.empty() ? "" : ", ", said.substr(0, 300));
  const int status = response.status;
  if (status == 404) return absl::NotFoundError(text);
  if (status == 401 || status == 403) {
    return WithExitCode(absl::PermissionDeniedError(absl::StrCat(
                            text, "; check the keys, the region, and this host's clock")),
                        ExitCode::kEnvironment);
  }
  if (status == 501) return absl::UnimplementedError(text);
  if (status == 429 || status >= 500) {
    return WithExitCode(absl::UnavailableError(text), ExitCode::kEnvironment);
  }
  return WithExitCode(absl::InternalError(text), ExitCode::kEnvironment);
}

HttpClient::Options HttpOptions(const std::string& endpoint) {
  HttpClient::Options options;
  // A server on this host is not behind a proxy.
  options.use_proxy =
      !absl::StrContains(endpoint, "://127.0.0.1") && !absl::StrContains(endpoint, "://localhost");
  return options;
}

}  // namespace

bool S3Place::Is(absl::string_view text) { return absl::StartsWith(text, "s3://"); }

StatusOr<S3Place> S3Place::Parse(absl::string_view text) {
  const Status wrong = UsageError(absl::StrCat("'", text, "' is no place like s3://bucket/prefix"));
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, "s3://")) return wrong;
  S3Place place;
  const size_t slash = rest.find('/');
  place.bucket = std::string(rest.substr(0, slash));
  if (place.bucket.empty() ||
      !std::all_of(place.bucket.begin(), place.bucket.end(), [](unsigned char c) {
        return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_';
      })) {
    return wrong;
  }
  if (slash == absl::string_view::npos) return place;
  std::vector<absl::string_view> parts = absl::StrSplit(rest.substr(slash), '/', absl::SkipEmpty());
  for (const absl::string_view part : parts) {
    if (part == "." || part == "..") return wrong;
  }
  place.prefix = absl::StrJoin(parts, "/");
  return place;
}

S3Place S3Place::In(absl::string_view name) const {
  return {bucket, prefix.empty() ? std::string(name) : absl::StrCat(prefix, "/", name)};
}

std::string S3Place::ToString() const {
  return absl::StrCat("s3://", bucket, prefix.empty() ? "" : "/", prefix);
}

std::optional<AwsSigning> ParseCredentials(absl::string_view text, absl::string_view profile) {
  std::optional<AwsSigning> found;
  bool inside = false;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line[0] == '[') {
      absl::ConsumePrefix(&line, "[");
      absl::ConsumeSuffix(&line, "]");
      inside = absl::StripAsciiWhitespace(line) == profile;
      if (inside) found.emplace();
      continue;
    }
    const size_t equals = line.find('=');
    if (!inside || equals == absl::string_view::npos) continue;
    const absl::string_view name = absl::StripAsciiWhitespace(line.substr(0, equals));
    const std::string value(absl::StripAsciiWhitespace(line.substr(equals + 1)));
    if (name == "aws_access_key_id") found->access_key = value;
    if (name == "aws_secret_access_key") found->secret_key = value;
    if (name == "aws_session_token") found->session_token = value;
  }
  return found;
}

StatusOr<S3Settings> S3Settings::FromEnvironment(const std::string& endpoint) {
  S3Settings settings;
  settings.endpoint =
      !endpoint.empty() ? endpoint : FirstOf({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"});
  while (absl::EndsWith(settings.endpoint, "/")) settings.endpoint.pop_back();
  if (absl::StrContains(settings.endpoint, "@")) {  // not repeated here: it may hold a password
    return UsageError(
        "the S3 endpoint holds a user or a password (USER:PASSWORD@HOST): keys come from "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
  }
  if (!settings.endpoint.empty() && !absl::StartsWith(settings.endpoint, "http://") &&
      !absl::StartsWith(settings.endpoint, "https://")) {
    return UsageError(absl::StrCat("the S3 endpoint ", settings.endpoint,
                                   " does not begin with https:// or http://"));
  }
  AwsSigning& signing = settings.signing;
  signing.access_key = FirstOf({"AWS_ACCESS_KEY_ID"});
  signing.secret_key = FirstOf({"AWS_SECRET_ACCESS_KEY"});
  signing.session_token = FirstOf({"AWS_SESSION_TOKEN"});
  if (signing.access_key.empty() || signing.secret_key.empty()) {
    std::string file = FirstOf({"AWS_SHARED_CREDENTIALS_FILE"});
    if (file.empty()) file = absl::StrCat(HomeDirectory(), "/.aws/credentials");
    std::string profile = FirstOf({"AWS_PROFILE"});
    if (profile.empty()) profile = "default";
    const StatusOr<std::string> text = ReadFile(file, 1 << 20);
    std::optional<AwsSigning> found;
    if (text.ok()) found = ParseCredentials(*text, profile);
    if (!found || found->access_key.empty() || found->secret_key.empty()) {
      return UsageError(absl::StrCat(
          "no keys for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put the profile [",
          profile, "] into ", file));
    }
    signing = *found;
  }
  signing.region = FirstOf({"AWS_REGION", "AWS_DEFAULT_REGION"});
  if (signing.region.empty()) signing.region = "us-east-1";
  signing.service = "s3";
  return settings;
}

std::vector<std::string> XmlTexts(absl::string_view xml, const std::string& tag, bool raw) {
  const std::string begin = absl::StrCat("<", tag, ">"), end = absl::StrCat("</", tag, ">");
  std::vector<std::string> texts;
  for (size_t at = xml.find(begin); at != absl::string_view::npos; at = xml.find(begin, at)) {
    at += begin.size();
    const size_t close = xml.find(end, at);
    if (close == absl::string_view::npos) break;
    std::string text(xml.substr(at, close - at));
    if (!raw) {
      text = absl::StrReplaceAll(text, {{"&lt;", "<"},
                                        {"&gt;", ">"},
                                        {"&quot;", "\""},
                                        {"&#34;", "\""},
                                        {"&#x22;", "\""},
                                        {"&apos;", "'"},
                                        {"&#39;", "'"},
                                        {"&amp;", "&"}});
    }
    texts.push_back(std::move(text));
    at = close + end.size();
  }
  return texts;
}

S3Client::S3Client(const S3Settings& settings, std::string bucket)
    : settings_(settings), bucket_(std::move(bucket)), http_(HttpOptions(settings.endpoint)) {}

std::string S3Client::Url(const std::string& key, const Query& query) const {
  std::string url;
  if (settings_.endpoint.empty()) {
    url = absl::StrCat("https://", bucket_, ".s3.", settings_.signing.region, ".amazonaws.com/");
  } else {
    url = absl::StrCat(settings_.endpoint, "/", bucket_, key.empty() ? "" : "/");
  }
  absl::StrAppend(&url, EscapePath(key));
  char separator = '?';
  for (const auto& [name, value] : query) {  // sorted, as the signature wants it
    absl::StrAppend(&url, std::string(1, separator), UrlEscape(name), "=", UrlEscape(value));
    separator = '&';
  }
  return url;
}

StatusOr<HttpResponse> S3Client::Send(const std::string& method, const std::string& key,
                                      const Query& query, std::vector<std::string> headers,
                                      absl::string_view body, int64_t most) {
  HttpRequest request;
  request.method = method;
  request.url = Url(key, query);
  headers.push_back(absl::StrCat("x-amz-content-sha256: ", Sha256Hex(body)));
  if (method == "POST") headers.push_back("Content-Type: application/xml");
  request.headers = std::move(headers);
  request.body = body;
  request.max_body_bytes = most;
  // What trickles must end too. All tries together have twice the time of one.
  const double seconds = kFixedSeconds + static_cast<double>(body.size() + most) / kSlowestRate;
  const double deadline = Clock::Real()->MonotonicSeconds() + 2 * seconds;
  request.stall_seconds = kStallSeconds;
  request.signing = &settings_.signing;
  request.cancelled = settings_.cancelled;
  const std::string what = absl::StrCat(method, " ", S3Place{bucket_, key}.ToString());
  Status last;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    if (attempt > 0) {
      Clock::Real()->SleepFor(absl::Seconds(kFirstPauseSeconds * (1 << (attempt - 1))));
    }
    if (settings_.cancelled && settings_.cancelled()) {
      return absl::CancelledError(absl::StrCat(what, " was given up"));
    }
    const double left = deadline - Clock::Real()->MonotonicSeconds();
    if (left <= 0) break;
    request.seconds = std::min(seconds, left);
    StatusOr<HttpResponse> response = http_.Do(request);
    if (response.ok() && response->status >= 200 && response->status < 300) return response;
    last = response.ok() ? ErrorOf(*response, what) : Annotate(response.status(), what);
    if (!absl::IsUnavailable(last)) return last;
  }
  return last;
}

Status S3Client::Put(const std::string& key, absl::string_view body, const std::string& root) {
  return Send("PUT", key, {}, {absl::StrCat(kRootHeader, ": ", root)}, body).status();
}

StatusOr<S3Client::Object> S3Client::Head(const std::string& key) {
  ASSIGN_OR_RETURN(const HttpResponse response, Send("HEAD", key, {}, {}, ""));
  Object object;
  if (!absl::SimpleAtoi(response.Header("content-length"), &object.bytes)) object.bytes = -1;
  object.root = response.Header(kRootHeader);
  return object;
}

StatusOr<std::string> S3Client::Get(const std::string& key, std::optional<Range> range,
                                    int64_t most) {
  std::vector<std::string> headers;
  if (range) {
    headers.push_back(absl::StrCat("Range: bytes=", range->begin, "-", range->end - 1));
    most = range->size();
  }
  ASSIGN_OR_RETURN(HttpResponse response, Send("GET", key, {}, std::move(headers), "", most));
  if (range &&
      (response.status != 206 || static_cast<int64_t>(response.body.size()) != range->size())) {
    return absl::DataLossError(absl::StrCat("GET ", S3Place{bucket_, key}.ToString(),
                                            ": the server gave other bytes than asked for"));
  }
  return std::move(response.body);
}

StatusOr<S3Client::Listing> S3Client::List(const std::string& prefix, bool folders) {
  Listing listing;
  Query query{{"list-type", "2"}, {"prefix", prefix.empty() ? "" : prefix + "/"}};
  if (folders) query["delimiter"] = "/";
  for (int page = 0; page < kMostPages; ++page) {
    ASSIGN_OR_RETURN(const HttpResponse response, Send("GET", "", query, {}, ""));
    for (const std::string& contents : XmlTexts(response.body, "Contents", /*raw=*/true)) {
      listing.keys.push_back(First(contents, "Key"));
    }
    for (const std::string& common : XmlTexts(response.body, "CommonPrefixes", /*raw=*/true)) {
      std::string folder = First(common, "Prefix");
      if (absl::EndsWith(folder, "/")) folder.pop_back();
      listing.folders.push_back(std::move(folder));
    }
    if (listing.keys.size() + listing.folders.size() > kMostEntries) break;
    const std::string next = First(response.body, "NextContinuationToken");
    if (First(response.body, "IsTruncated") != "true" || next.empty()) return listing;
    query["continuation-token"] = next;
  }
  return absl::ResourceExhaustedError(absl::StrCat("more than ", kMostEntries, " objects in ",
                                                   S3Place{bucket_, prefix}.ToString(),
                                                   ": no directory of checkpoints holds so "
                                                   "many"));
}

Status S3Client::Delete(const std::string& key) {
  const Status status = Send("DELETE", key, {}, {}, "").status();
  return absl::IsNotFound(status) ? OkStatus() : status;
}

StatusOr<std::string> S3Client::CreateUpload(const std::string& key, const std::string& root) {
  ASSIGN_OR_RETURN(const HttpResponse response, Send("POST", key, {{"uploads", ""}},
                                                     {absl::StrCat(kRootHeader, ": ", root)}, ""));
  std::string upload = First(response.body, "UploadId");
  if (upload.empty()) return absl::InternalError("the S3 server's answer has no UploadId");
  return upload;
}

StatusOr<std::string> S3Client::FindUpload(const std::string& key) {
  const auto response = Send("GET", "", {{"prefix", key}, {"uploads", ""}}, {}, "");
  // Some servers do not list uploads. What they have of one is then sent again.
  if (absl::IsUnimplemented(response.status())) return "";
  RETURN_IF_ERROR(response.status());
  std::string newest, initiated;
  for (const std::string& upload : XmlTexts(response->body, "Upload", /*raw=*/true)) {
    // Times are RFC 3339 in UTC: as texts they sort as times.
    const std::string when = First(upload, "Initiated");
    if (First(upload, "Key") != key || when < initiated) continue;
    newest = First(upload, "UploadId");
    initiated = when;
  }
  return newest;
}

StatusOr<std::map<int, S3Client::Part>> S3Client::ListParts(const std::string& key,
                                                            const std::string& upload) {
  std::map<int, Part> parts;
  Query query{{"uploadId", upload}};
  for (int page = 0; page < kMostPages; ++page) {
    ASSIGN_OR_RETURN(const HttpResponse response, Send("GET", key, query, {}, ""));
    for (const std::string& text : XmlTexts(response.body, "Part", /*raw=*/true)) {
      int number = 0;
      Part part;
      if (absl::SimpleAtoi(First(text, "PartNumber"), &number) &&
          absl::SimpleAtoi(First(text, "Size"), &part.bytes) && number >= 1 &&
          number <= kMostParts) {
        part.etag = WithoutQuotes(First(text, "ETag"));
        parts[number] = std::move(part);
      }
    }
    const std::string next = First(response.body, "NextPartNumberMarker");
    if (First(response.body, "IsTruncated") != "true" || next.empty()) return parts;
    query["part-number-marker"] = next;
  }
  return absl::ResourceExhaustedError("more parts than can be listed");
}

StatusOr<std::string> S3Client::UploadPart(const std::string& key, const std::string& upload,
                                           int number, absl::string_view body) {
  ASSIGN_OR_RETURN(
      const HttpResponse response,
      Send("PUT", key, {{"partNumber", absl::StrCat(number)}, {"uploadId", upload}}, {}, body));
  return WithoutQuotes(response.Header("etag"));
}

Status S3Client::CompleteUpload(const std::string& key, const std::string& upload,
                                const std::map<int, Part>& parts) {
  std::string body = "<CompleteMultipartUpload>";
  for (const auto& [number, part] : parts) {
    absl::StrAppend(&body, "<Part><PartNumber>", number, "</PartNumber><ETag>\"", part.etag,
                    "\"</ETag></Part>");
  }
  absl::StrAppend(&body, "</CompleteMultipartUpload>");
  ASSIGN_OR_RETURN(const HttpResponse response,
                   Send("POST", key, {{"uploadId", upload}}, {}, body));
  // S3 may say 200 first and that it failed afterwards.
  if (!XmlTexts(response.body, "Error", /*raw=*/true).empty()) {
    return ErrorOf(response, absl::StrCat("completing ", S3Place{bucket_, key}.ToString()));
  }
  return OkStatus();
}

}  // namespace atl::checkpoint
