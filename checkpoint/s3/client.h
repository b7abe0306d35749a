// Objects of an S3 bucket: put, get, list, multipart uploads, delete.
//
// Settings come from where other S3 tools take them:
//   keys      AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; else the profile
//             ($AWS_PROFILE, else "default") of $AWS_SHARED_CREDENTIALS_FILE, else
//             ~/.aws/credentials
//   region    AWS_REGION, AWS_DEFAULT_REGION, else us-east-1
//   endpoint  given, else AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else Amazon's. Of a given one
//             the bucket is the first part of the path; of Amazon's, of the host.
// Requests are signed by libcurl (Signature Version 4), which takes path and query as they are:
// this client writes them in canonical form itself (escaped once, keys sorted, "=" after each).
//
// What is unavailable (connection broken, 5xx, 429, SlowDown) is tried again, five times in all.
// Errors: kNotFound: no such object; kUnavailable: still not there (exit code 4); kPermissionDenied
// (4); others say what the server said. Bounds: an answer that is no object has at most 8 MiB, a
// listing 100,000 entries, a request with all its tries twice 60 s and twice the time that its
// bytes take at 64 KiB/s.
// Thread rule: one thread at a time a client.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/http.h"
#include "base/range.h"
#include "base/status.h"

namespace atl::checkpoint {

// "s3://bucket/some/prefix"; no slash at the prefix's ends, it may be empty.
struct S3Place {
  std::string bucket;
  std::string prefix;

  static bool Is(absl::string_view text);
  static StatusOr<S3Place> Parse(absl::string_view text);  // exit code 2
  S3Place In(absl::string_view name) const;                // PREFIX/name
  std::string ToString() const;
};

struct S3Settings {
  std::string endpoint;  // "https://host:port"; empty: Amazon's
  AwsSigning signing;
  std::function<bool()> cancelled;  // true: what is under way ends, with kCancelled; any thread

  // `endpoint` may be empty. Exit code 2: no keys anywhere.
  static StatusOr<S3Settings> FromEnvironment(const std::string& endpoint);
};

// The keys of a profile in a shared credentials file's text; nothing: no such profile. Pure.
std::optional<AwsSigning> ParseCredentials(absl::string_view text, absl::string_view profile);
// The texts between <tag> and </tag>, in order; entities are resolved, except where `raw`. Pure.
std::vector<std::string> XmlTexts(absl::string_view xml, const std::string& tag, bool raw = false);

class S3Client {
 public:
  struct Object {
    int64_t bytes = 0;
    std::string root;  // of the metadata that this program writes; empty: none
  };
  struct Listing {
    std::vector<std::string> keys;
    std::vector<std::string> folders;  // without the slash at their end
  };
  struct Part {
    int64_t bytes = 0;
    std::string etag;  // in hexadecimal without quotes
  };

  S3Client(const S3Settings& settings, std::string bucket);

  Status Put(const std::string& key, absl::string_view body, const std::string& root);
  StatusOr<Object> Head(const std::string& key);
  // Exactly these bytes, or all, at most `most`.
  StatusOr<std::string> Get(const std::string& key, std::optional<Range> range, int64_t most);
  // What begins with "PREFIX/"; one level where `folders`.
  StatusOr<Listing> List(const std::string& prefix, bool folders);
  Status Delete(const std::string& key);

  StatusOr<std::string> CreateUpload(const std::string& key, const std::string& root);
  // The newest unfinished upload of the key; empty: none, or the server does not tell.
  StatusOr<std::string> FindUpload(const std::string& key);
  StatusOr<std::map<int, Part>> ListParts(const std::string& key, const std::string& upload);
  // Its ETag.
  StatusOr<std::string> UploadPart(const std::string& key, const std::string& upload, int number,
                                   absl::string_view body);
  Status CompleteUpload(const std::string& key, const std::string& upload,
                        const std::map<int, Part>& parts);

 private:
  using Query = std::map<std::string, std::string>;
  StatusOr<HttpResponse> Send(const std::string& method, const std::string& key, const Query& query,
                              std::vector<std::string> headers, absl::string_view body,
                              int64_t most = 8 << 20);
  std::string Url(const std::string& key, const Query& query) const;

  const S3Settings settings_;
  const std::string bucket_;
  HttpClient http_;
};

}  // namespace atl::checkpoint
