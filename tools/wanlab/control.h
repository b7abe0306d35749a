// What a running lab can be told and asked: lines of words, as on the command line, answered in
// JSON. Pure but for the sea that it changes.
//
//   set johor:oslo rate=100mbit delay=50ms jitter=1ms loss=0.01 queue=50ms   one pair, both ways
//   set johor up=10mbit down=50mbit        caps of a region; rate=X is both; "none" is no cap
//   set johor delay=50ms                   every pair of the region
//   cut johor oslo · cut johor             nothing passes (a region alone: all its pairs)
//   cut johor>oslo                         one way
//   heal johor oslo · heal johor · heal johor>oslo
//   stats
//
// An answer is {} or what was asked for; an error is {"error": "..."} and has changed nothing.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "tools/wanlab/sea.h"

namespace atl {

// The words of a control line; the relay adds facts about itself to the stats.
nlohmann::json AnswerControl(const std::vector<std::string>& words, Sea* sea);

// An answer that is an error, as a Status with exit code 2.
Status StatusOfAnswer(const nlohmann::json& answer);

}  // namespace atl
