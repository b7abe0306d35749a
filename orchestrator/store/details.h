// An event's details and small maps as JSON text, for the database and for events.jsonl.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "orchestrator/core/records.h"

namespace atl {

// One object, keys in the order given. Numbers that JSON lacks (not a number, infinite) become
// null.
std::string DetailsToJson(const std::vector<std::pair<std::string, Detail>>& details);
// What DetailsToJson wrote; anything else gives none.
std::vector<std::pair<std::string, Detail>> DetailsFromJson(const std::string& json);

// Ranges as text, "5-8 12-13", and back; text that is none gives none.
std::string RangesToText(const std::vector<Range>& ranges);
std::vector<Range> RangesFromText(const std::string& text);

std::string PathsToJson(const std::map<std::string, std::string>& paths);
std::map<std::string, std::string> PathsFromJson(const std::string& json);

}  // namespace atl
