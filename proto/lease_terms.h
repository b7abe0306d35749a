// What a lease promises, as numbers: times are seconds since the Unix epoch. The job file
// has them as text (job.proto); a worker's command line comes before it. Pure.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "proto/control.pb.h"
#include "proto/job.pb.h"

namespace atl {

struct Price {
  double an_hour = 0;
  std::string currency;  // empty: a plain number
};

struct LeaseTerms {
  double start = 0;   // 0: it has begun
  double end = 0;     // as the site says it, without the lead; 0: open
  double lead = 0;    // the site ends so much earlier
  double notice = 0;  // 0: not known
  double price = 0;   // an hour; 0: not known
  std::string currency;
};

// "2026-11-30T18:00:00Z", "2026-11-30T18:00:00+08:00".
StatusOr<double> ParseLeaseTime(absl::string_view text);
// "31.2", "31.2 USD": above 0; the currency is 1 to 8 capital letters.
StatusOr<Price> ParsePrice(absl::string_view text);
// Text that is none of these (a job file is checked, job_file.h) counts as not given.
LeaseTerms TermsOf(const pb::Lease& lease);
// Of a region of the job; an empty one where the job has no such region.
const pb::Lease& LeaseOf(const pb::Job& job, const std::string& region);
// When the region that says `hello` must be gone; 0: open.
double LeaseEnd(const LeaseTerms& terms, const pb::Hello& hello);

}  // namespace atl
