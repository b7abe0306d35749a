#include "orchestrator/store/details.h"

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace atl {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  // Bytes that are no UTF-8 (a library's message) are replaced, not thrown about.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string DetailsToJson(const std::vector<std::pair<std::string, Detail>>& details) {
  Json object = Json::object();
  for (const auto& [key, value] : details) {
    std::visit([&, &name = key](const auto& v) { object[name] = v; }, value);
  }
  return Dump(object);
}

std::vector<std::pair<std::string, Detail>> DetailsFromJson(const std::string& json) {
  std::vector<std::pair<std::string, Detail>> details;
  const Json object = Json::parse(json, nullptr, false);
  if (!object.is_object()) return details;
  for (const auto& [key, value] : object.items()) {
    if (value.is_number_integer()) {
      details.emplace_back(key, value.get<int64_t>());
    } else if (value.is_number()) {
      details.emplace_back(key, value.get<double>());
    } else if (value.is_string()) {
      details.emplace_back(key, value.get<std::string>());
    } else if (value.is_null()) {
      details.emplace_back(key, std::numeric_limits<double>::quiet_NaN());
    }
  }
  return details;
}

std::string RangesToText(const std::vector<Range>& ranges) {
  std::string text;
  for (const Range& range : ranges) {
    absl::StrAppend(&text, text.empty() ? "" : " ", range.begin, "-", range.end);
  }
  return text;
}

std::vector<Range> RangesFromText(const std::string& text) {
  std::vector<Range> ranges;
  for (const absl::string_view part : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const std::vector<absl::string_view> ends = absl::StrSplit(part, '-');
    Range range;
    if (ends.size() != 2 || !absl::SimpleAtoi(ends[0], &range.begin) ||
        !absl::SimpleAtoi(ends[1], &range.end)) {
      return {};
    }
    ranges.push_back(range);
  }
  return ranges;
}

std::string PathsToJson(const std::map<std::string, std::string>& paths) {
  Json object = Json::object();
  for (const auto& [key, value] : paths) object[key] = value;
  return Dump(object);
}

std::map<std::string, std::string> PathsFromJson(const std::string& json) {
  std::map<std::string, std::string> paths;
  const Json object = Json::parse(json, nullptr, false);
  if (!object.is_object()) return paths;
  for (const auto& [key, value] : object.items()) {
    if (value.is_string()) paths[key] = value.get<std::string>();
  }
  return paths;
}

}  // namespace atl
