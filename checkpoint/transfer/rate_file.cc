#include "checkpoint/transfer/rate_file.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/units.h"

namespace atl::checkpoint {
namespace {

constexpr int64_t kMaxBytes = 256;

StatusOr<double> Parse(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (text == "none") return 0;
  ASSIGN_OR_RETURN(const int64_t bits, ParseRateBitsPerSecond(text));
  if (bits == 0) return absl::InvalidArgumentError("nothing would come at a rate of 0");
  return static_cast<double>(bits) / 8;
}

}  // namespace

double RateFile::Look() {
  const StatusOr<std::string> text = ReadFile(path_, kMaxBytes);
  if (absl::IsNotFound(text.status())) {
    rate_ = otherwise_;
    told_.clear();
    return rate_;
  }
  if (text.ok() && text->empty()) return rate_;  // it is being written
  const StatusOr<double> rate = text.ok() ? Parse(*text) : StatusOr<double>(text.status());
  const std::string trouble(rate.status().message());
  if (rate.ok()) {
    rate_ = *rate;
  } else if (trouble != told_) {
    LOG(WARNING) << path_ << " changes nothing: " << trouble
                 << ". It holds a rate like 20mbit, or none";
  }
  told_ = trouble;
  return rate_;
}

}  // namespace atl::checkpoint
