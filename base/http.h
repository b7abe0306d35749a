// HTTP requests, one at a time, over connections that stay open: the one place that knows libcurl.
//
// Limits: a response's body has a bound that the caller sets, its header lines 64 KiB together.
// Certificates are always checked. Secrets come in by value or as names of files, and no message
// holds them.
//
// Errors of Do (a response with a bad status is no error):
//   kUnavailable        nobody answers, or not in time; the connection broke: worth another try
//   kUnauthenticated    TLS: the other side's certificate or ours is refused; exit code 4
//   kInvalidArgument    no such URL, a certificate file that cannot be used; exit code 2
//   kResourceExhausted  the answer is longer than the caller takes
//   kCancelled          the caller wants it no more (`sink`, `cancelled`)
//
// Thread rule: one thread at a time a client.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace atl {

// Signs a request as AWS wants it (Signature Version 4).
struct AwsSigning {
  std::string region;   // "us-east-1"
  std::string service;  // "s3"
  std::string access_key;
  std::string secret_key;
  std::string session_token;  // empty: none
};

struct HttpRequest {
  std::string method = "GET";
  std::string url;
  std::vector<std::string> headers;  // "Name: value"
  absl::string_view body;            // outlives the call
  int64_t max_body_bytes = 1 << 20;  // of the response
  double seconds = 30;               // for the whole exchange; 0: none, but see stall_seconds
  double stall_seconds = 0;          // gives up when nothing has moved for so long; 0: never
  const AwsSigning* signing = nullptr;
  // Takes the body instead of HttpResponse::body, piece by piece; false ends the exchange.
  std::function<bool(absl::string_view)> sink;
  // Asked about once a second, and when something has moved; true ends the exchange.
  std::function<bool()> cancelled;
};

struct HttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  // The header, or nothing.
  std::string Header(const std::string& lower_case_name) const;
};

class HttpClient {
 public:
  struct Options {
    std::string ca_file;    // PEM; empty: the system's authorities
    std::string cert_file;  // PEM, this side's certificate; empty: none
    std::string key_file;   // PEM, its key
    double connect_seconds = 5;
    bool use_proxy = false;  // as the environment says
  };

  explicit HttpClient(Options options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  StatusOr<HttpResponse> Do(const HttpRequest& request);

 private:
  const Options options_;
  void* const handle_;  // CURL
};

// Text with all but letters, digits and -._~ as %XX.
std::string UrlEscape(absl::string_view text);

}  // namespace atl
