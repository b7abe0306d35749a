// Fuzz entry: every parser of the WAN wire format. What is accepted must encode to the same bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "collectives/wan/fetch_frame.h"
#include "collectives/wan/frame.h"
#include "collectives/wan/relayed.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace wan = atl::wan;
  const wan::Bytes bytes(data, size);
  (void)wan::ParseVersion(bytes.first(std::min(size, wan::kGreetingHead)));
  if (const auto hello = wan::ParseHello(bytes); hello.ok()) {
    uint8_t again[wan::kHelloSize];
    wan::EncodeHello(*hello, again);
    Require(std::memcmp(again, data, size) == 0);
  }
  if (const auto answer = wan::ParseAnswer(bytes); answer.ok()) {
    uint8_t again[wan::kAnswerSize];
    wan::EncodeAnswer(*answer, again);
    Require(std::memcmp(again, data, size) == 0);
  }
  if (const auto header = wan::ParseHeader(bytes); header.ok()) {
    uint8_t again[wan::kHeaderSize];
    wan::EncodeHeader(*header, again);
    Require(std::memcmp(again, data, size) == 0);
    Require(header->payload <= wan::kMaxPayload);
  }
  if (const auto start = wan::ParseStart(bytes); start.ok()) {
    const std::vector<uint8_t> again = wan::EncodeStart(*start);
    Require(again.size() == size && std::memcmp(again.data(), data, size) == 0);
    (void)wan::StartDifference(*start, wan::Start());
  }
  if (const auto plan = wan::ParsePlan(bytes, 5); plan.ok()) {
    Require(atl::wan::CheckPlan(plan->plan, 5).ok());
    (void)wan::EncodePlan(*plan);
  }
  if (const auto reports = wan::ParseReports(bytes, 5, 2); reports.ok()) {
    Require(reports->size() < 5);
  }
  if (const auto ack = wan::ParseAck(bytes); ack.ok()) {
    const std::vector<uint8_t> again = wan::EncodeAck(*ack);
    Require(again.size() == size && std::memcmp(again.data(), data, size) == 0);
  }
  (void)wan::ParseProbeRequest(bytes);
  if (const auto start = wan::ParseRelayedStart(bytes, 5); start.ok()) {
    const auto again = wan::ParseRelayedStart(wan::EncodeRelayedStart(*start), 5);
    Require(again.ok() && *again == *start);
  }
  if (const auto silence = wan::ParseRelayedSilence(bytes, 5); silence.ok()) {
    Require(wan::ParseRelayedSilence(wan::EncodeRelayedSilence(*silence), 5).ok());
  }
  if (const auto fetch = wan::ParseFetch(bytes); fetch.ok()) {
    const std::vector<uint8_t> again = wan::EncodeFetch(*fetch);
    Require(again.size() == size && std::memcmp(again.data(), data, size) == 0);
    Require(!fetch->range.empty() && fetch->range.size() <= wan::kMaxBlockBytes);
  }
  if (const auto end = wan::ParseFetchEnd(bytes); end.ok()) {
    Require(end->text.size() <= wan::kMaxReason && !wan::StatusOf(*end).ok());
  }
  if (const auto reason = wan::ParseReason(bytes); reason.ok()) {
    Require(reason->text.size() <= wan::kMaxReason);
  }
  return 0;
}
