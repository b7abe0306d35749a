// A request: the handle is reset (connections and TLS sessions stay), told everything, performed.
// Callbacks collect into an Exchange, which knows the bounds.
#include "base/http.h"

#include <curl/curl.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/exit_code.h"
#include "base/log.h"

namespace atl {
namespace {

constexpr size_t kMaxHeaderBytes = 64 << 10;

struct Exchange {
  const HttpRequest* request = nullptr;
  HttpResponse response;
  size_t header_bytes = 0;
  int64_t body_bytes = 0;
  bool too_long = false;
  bool refused = false;  // by the sink
  size_t sent = 0;
};

size_t TakeHeader(char* data, size_t, size_t size, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  const absl::string_view line = absl::StripAsciiWhitespace(absl::string_view(data, size));
  // Another response begins: of a proxy, or "100 Continue".
  if (line.substr(0, 5) == "HTTP/") {
    exchange->response.headers.clear();
    exchange->header_bytes = 0;
  }
  exchange->header_bytes += size;
  if (exchange->header_bytes > kMaxHeaderBytes) {
    exchange->too_long = true;
    return 0;
  }
  const size_t colon = line.find(':');
  if (colon != absl::string_view::npos) {
    exchange->response.headers[absl::AsciiStrToLower(line.substr(0, colon))] =
        std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  }
  return size;
}

size_t TakeBody(char* data, size_t, size_t size, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  exchange->body_bytes += static_cast<int64_t>(size);
  if (exchange->body_bytes > exchange->request->max_body_bytes) {
    exchange->too_long = true;
    return 0;
  }
  if (exchange->request->sink == nullptr) {
    exchange->response.body.append(data, size);
  } else if (!exchange->request->sink(absl::string_view(data, size))) {
    exchange->refused = true;
    return 0;
  }
  return size;
}

size_t GiveBody(char* data, size_t unit, size_t count, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  const absl::string_view body = exchange->request->body;
  const size_t size = std::min(unit * count, body.size() - exchange->sent);
  std::copy_n(body.data() + exchange->sent, size, data);
  exchange->sent += size;
  return size;
}

int IsCancelled(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<Exchange*>(user)->request->cancelled() ? 1 : 0;
}

// A connection that broke is dialled again, and the body begins anew.
int Rewind(void* user, curl_off_t offset, int origin) {
  auto* exchange = static_cast<Exchange*>(user);
  if (origin != SEEK_SET || offset < 0 ||
      static_cast<size_t>(offset) > exchange->request->body.size()) {
    return CURL_SEEKFUNC_FAIL;
  }
  exchange->sent = static_cast<size_t>(offset);
  return CURL_SEEKFUNC_OK;
}

Status TransferError(CURLcode code, const char* detail, const std::string& url) {
  const std::string what = absl::StrCat("cannot reach ", url, ": ",
                                        detail[0] != '\0' ? detail : curl_easy_strerror(code));
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
      return WithExitCode(
          absl::UnauthenticatedError(absl::StrCat(
              what,
              "; its certificate is not from the authority that was given, or not for this "
              "name")),
          ExitCode::kEnvironment);
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CRL_BADFILE:
      return UsageError(
          absl::StrCat(what, "; are the certificate files there, in PEM, and of one pair?"));
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return UsageError(absl::StrCat(what, "; an address looks like https://host:port"));
    default:
      break;
  }
  // An alert of the other side's TLS: as a rule it wants a certificate, or another one.
  const absl::string_view text = detail;
  if (code == CURLE_SSL_CONNECT_ERROR ||
      (code == CURLE_RECV_ERROR && text.find("alert") != absl::string_view::npos)) {
    return WithExitCode(
        absl::UnauthenticatedError(absl::StrCat(
            what, "; either it does not speak TLS here, or it refuses our certificate")),
        ExitCode::kEnvironment);
  }
  return WithExitCode(absl::UnavailableError(what), ExitCode::kEnvironment);
}

void InitLibrary() {
  static const bool done = [] {
    CHECK_EQ(curl_global_init(CURL_GLOBAL_DEFAULT), CURLE_OK);
    return true;
  }();
  (void)done;
}

}  // namespace

std::string HttpResponse::Header(const std::string& lower_case_name) const {
  const auto found = headers.find(lower_case_name);
  return found == headers.end() ? "" : found->second;
}

HttpClient::HttpClient(Options options)
    : options_(std::move(options)), handle_((InitLibrary(), curl_easy_init())) {
  CHECK(handle_ != nullptr);
}

HttpClient::~HttpClient() { curl_easy_cleanup(handle_); }

StatusOr<HttpResponse> HttpClient::Do(const HttpRequest& request) {
  CURL* const curl = handle_;
  curl_easy_reset(curl);
  Exchange exchange;
  exchange.request = &request;
  char detail[CURL_ERROR_SIZE] = {};
  const auto text = [&](CURLoption option, const std::string& value) {
    if (!value.empty()) curl_easy_setopt(curl, option, value.c_str());
  };
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
  text(CURLOPT_URL, request.url);
  if (!options_.use_proxy) curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
  text(CURLOPT_CAINFO, options_.ca_file);
  text(CURLOPT_SSLCERT, options_.cert_file);
  text(CURLOPT_SSLKEY, options_.key_file);
  const auto ms = [](double seconds) { return static_cast<long>(seconds * 1000); };
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, ms(options_.connect_seconds));
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, ms(request.seconds));
  if (request.stall_seconds > 0) {
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
                     std::max(1L, static_cast<long>(request.stall_seconds)));
  }
  curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, TakeHeader);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, TakeBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_READFUNCTION, GiveBody);
  curl_easy_setopt(curl, CURLOPT_READDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, Rewind);
  curl_easy_setopt(curl, CURLOPT_SEEKDATA, &exchange);
  if (request.cancelled) {
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, IsCancelled);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &exchange);
  }
  const auto size = static_cast<curl_off_t>(request.body.size());
  if (request.method == "POST") {
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, size);
  } else if (request.method == "PUT") {
    curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, size);
  } else if (request.method == "HEAD") {
    curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  } else if (request.method != "GET") {
    text(CURLOPT_CUSTOMREQUEST, request.method);
  }
  curl_slist* list = nullptr;
  const auto add = [&](const std::string& line) { list = curl_slist_append(list, line.c_str()); };
  for (const std::string& header : request.headers) add(header);
  if (request.signing == nullptr) {
    add("Expect:");  // no pause for "100 Continue"
  } else {
    // libcurl would sign an empty header, and not send it: the pause is made short instead.
    curl_easy_setopt(curl, CURLOPT_EXPECT_100_TIMEOUT_MS, 100L);
    const AwsSigning& signing = *request.signing;
    text(CURLOPT_AWS_SIGV4, absl::StrCat("aws:amz:", signing.region, ":", signing.service));
    text(CURLOPT_USERNAME, signing.access_key);
    text(CURLOPT_PASSWORD, signing.secret_key);
    if (!signing.session_token.empty()) {
      add(absl::StrCat("x-amz-security-token: ", signing.session_token));
    }
  }
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
  const CURLcode code = curl_easy_perform(curl);
  curl_slist_free_all(list);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, nullptr);
  if (exchange.too_long) {
    return absl::ResourceExhaustedError(
        absl::StrCat(request.url, " answers with more than ", request.max_body_bytes, " bytes"));
  }
  if (exchange.refused) return absl::CancelledError("the receiver of the body wants no more");
  if (code == CURLE_ABORTED_BY_CALLBACK) {
    return absl::CancelledError(absl::StrCat("the exchange with ", request.url, " was given up"));
  }
  if (code != CURLE_OK) return TransferError(code, detail, request.url);
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  exchange.response.status = static_cast<int>(status);
  return std::move(exchange.response);
}

std::string UrlEscape(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) || c == '-' || c == '.' || c == '_' || c == '~') {
      escaped += c;
    } else {
      absl::StrAppendFormat(&escaped, "%%%02X", byte);
    }
  }
  return escaped;
}

}  // namespace atl
