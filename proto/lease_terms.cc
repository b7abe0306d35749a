#include "proto/lease_terms.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/time/time.h"

namespace atl {
namespace {

constexpr double kMostAnHour = 1e12;
constexpr size_t kLongestCurrency = 8;

}  // namespace

StatusOr<double> ParseLeaseTime(absl::string_view text) {
  absl::Time time;
  std::string error;
  // The parser knows words for infinity, which no lease lasts.
  const bool digits = !text.empty() && absl::ascii_isdigit(text[0]);
  if (!digits || !absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return absl::InvalidArgumentError("not a time such as 2026-11-30T18:00:00Z");
  }
  const double seconds = absl::ToDoubleSeconds(time - absl::UnixEpoch());
  if (!(seconds > 0)) return absl::InvalidArgumentError("a time before 1970");
  return seconds;
}

StatusOr<Price> ParsePrice(absl::string_view text) {
  const Status wrong = absl::InvalidArgumentError("not a price such as 31.2 or 31.2 USD");
  Price price;
  const absl::string_view number = text.substr(0, text.find(' '));
  const auto read = std::from_chars(number.data(), number.data() + number.size(), price.an_hour,
                                    std::chars_format::fixed);
  if (read.ec != std::errc() || read.ptr != number.data() + number.size()) return wrong;
  if (!(price.an_hour > 0) || price.an_hour > kMostAnHour) return wrong;
  if (number.size() == text.size()) return price;
  price.currency = std::string(text.substr(number.size() + 1));
  const bool letters = std::all_of(price.currency.begin(), price.currency.end(),
                                   [](char c) { return absl::ascii_isupper(c); });
  if (price.currency.empty() || price.currency.size() > kLongestCurrency || !letters) return wrong;
  return price;
}

LeaseTerms TermsOf(const pb::Lease& lease) {
  LeaseTerms terms;
  const auto time = [](const std::string& text) {
    return text.empty() ? 0.0 : ParseLeaseTime(text).value_or(0);
  };
  terms.start = time(lease.start());
  terms.end = time(lease.end());
  terms.lead = lease.lead();
  terms.notice = lease.notice();
  const Price price = lease.price().empty() ? Price() : ParsePrice(lease.price()).value_or(Price());
  terms.price = price.an_hour;
  terms.currency = price.currency;
  return terms;
}

const pb::Lease& LeaseOf(const pb::Job& job, const std::string& region) {
  for (const pb::Region& listed : job.regions()) {
    if (listed.name() == region) return listed.lease();
  }
  return pb::Lease::default_instance();
}

double LeaseEnd(const LeaseTerms& terms, const pb::Hello& hello) {
  const double end = hello.lease_end() > 0 ? hello.lease_end() : terms.end;
  if (!(end > 0)) return 0;
  return end - (hello.has_lease_lead() ? hello.lease_lead() : terms.lead);
}

}  // namespace atl
