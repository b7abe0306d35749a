// etcd's v3 API through its JSON gateway: transactions, ranges, leases. Several endpoints of one
// cluster; a call goes to the one that answered last, then to the others.
//
// Errors:
//   kUnavailable        no endpoint answers, or the cluster has no leader: try again. The call may
//                       have been carried out all the same.
//   kResourceExhausted  etcd's quota is full (alarm NOSPACE): its operator has to act
//   kNotFound           no such lease
//   kUnauthenticated    a certificate is refused, on either side
//   others              a request that etcd does not take
// Bounds: an answer has at most 96 MiB. Thread rule: one thread a client.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/http.h"
#include "base/status.h"

namespace atl {

struct EtcdPlace {
  std::vector<std::string> endpoints;  // "http://host:2379"
  std::string prefix;                  // "/atoll/job"; no slash at the end
  std::string ca_file, cert_file, key_file;

  // "http://a:2379,http://b:2379[/prefix]". Without a scheme: https if a CA is given.
  static StatusOr<EtcdPlace> Parse(const std::string& text, const std::string& ca_file,
                                   const std::string& cert_file, const std::string& key_file);
  std::string ToString() const;
};

struct EtcdKeyValue {
  std::string key;
  std::string value;
  int64_t create_revision = 0;
  int64_t lease = 0;
};

// If the key was made, or last changed, at `revision` (0: it is not there).
struct EtcdCompare {
  enum class What { kCreated, kChanged } what = What::kCreated;
  std::string key;
  int64_t revision = 0;

  static EtcdCompare Created(std::string key, int64_t revision) {
    return {What::kCreated, std::move(key), revision};
  }
  static EtcdCompare Changed(std::string key, int64_t revision) {
    return {What::kChanged, std::move(key), revision};
  }
  static EtcdCompare Absent(std::string key) { return Created(std::move(key), 0); }
};

struct EtcdOperation {
  enum class Kind { kPut, kGet, kDelete } kind = Kind::kGet;
  std::string key;
  std::string end;  // kDelete: all keys in [key, end); empty: the key
  std::string value;
  int64_t lease = 0;

  static EtcdOperation Put(std::string key, std::string value, int64_t lease = 0) {
    return {Kind::kPut, std::move(key), "", std::move(value), lease};
  }
  static EtcdOperation Get(std::string key) { return {Kind::kGet, std::move(key), "", "", 0}; }
  static EtcdOperation Delete(std::string key, std::string end) {
    return {Kind::kDelete, std::move(key), std::move(end), "", 0};
  }
};

class EtcdClient {
 public:
  struct TxnResult {
    bool succeeded = false;             // all comparisons held
    int64_t revision = 0;               // of the store after it
    std::vector<EtcdKeyValue> fetched;  // by the kGets of the branch that was taken
  };

  explicit EtcdClient(const EtcdPlace& place, double seconds = 3);

  StatusOr<TxnResult> Txn(const std::vector<EtcdCompare>& compares,
                          const std::vector<EtcdOperation>& then,
                          const std::vector<EtcdOperation>& otherwise);
  // Keys in [key, end), at most `limit`. `local`: as the endpoint that answers knows them, which
  // costs the cluster nothing and may be a moment old.
  StatusOr<std::vector<EtcdKeyValue>> Range(const std::string& key, const std::string& end,
                                            int limit, bool local = false);
  StatusOr<std::string> Get(const std::string& key);  // kNotFound: no such key
  StatusOr<int64_t> Grant(int64_t ttl_seconds);
  // Seconds that it now has; 0: it is gone.
  StatusOr<int64_t> KeepAlive(int64_t lease);
  Status Revoke(int64_t lease);

 private:
  // `body` and the answer are JSON.
  StatusOr<std::string> Call(const std::string& path, const std::string& body);
  StatusOr<std::string> CallEndpoint(const std::string& endpoint, const std::string& path,
                                     const std::string& body);

  const EtcdPlace place_;
  const double seconds_;
  HttpClient http_;
  size_t current_ = 0;  // endpoint
};

}  // namespace atl
