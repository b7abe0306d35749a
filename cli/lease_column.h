// A region's lease in `atoll status`: how long it still lasts, and what is planned. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/time/time.h"

namespace atl {

// Of a region's `lease` in summary.json: "open", "in 2h 05m", "5d 02h", "1h 02m, to round 41",
// "over".
std::string LeaseColumn(const nlohmann::json& region, absl::Time now);
// " cost        412.00 USD so far, 9000.00 until the end"; empty where the job file has no prices.
std::string CostLine(const nlohmann::json& summary);

}  // namespace atl
