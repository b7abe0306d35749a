#include "tools/wanlab/control.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "base/suggest.h"
#include "proto/field_value.h"
#include "proto/lab.pb.h"

namespace atl {
namespace {

using nlohmann::json;

StatusOr<int> RegionNamed(const std::string& name, const Lab& lab) {
  if (const auto found = lab.Find(name)) return *found;
  std::vector<std::string> names;
  for (const LabRegion& region : lab.regions) names.push_back(region.name);
  return UsageError(absl::StrCat("no region is called '", name, "'", DidYouMean(name, names),
                                 "; there are: ", absl::StrJoin(names, ", ")));
}

// The pairs that a command is about, both directions of each: one, or all of a region.
struct Target {
  int region = -1;  // a region alone
  std::vector<std::pair<int, int>> directions;
};

StatusOr<Target> TargetOf(const std::vector<std::string>& names, const Lab& lab) {
  Target target;
  if (names.size() == 2) {
    ASSIGN_OR_RETURN(const int a, RegionNamed(names[0], lab));
    ASSIGN_OR_RETURN(const int b, RegionNamed(names[1], lab));
    if (a == b) return UsageError("a region has no link to itself");
    target.directions = {{a, b}, {b, a}};
    return target;
  }
  if (names.size() != 1) return UsageError("expected one region, or two");
  ASSIGN_OR_RETURN(target.region, RegionNamed(names[0], lab));
  for (int other = 0; other < lab.size(); ++other) {
    if (other == target.region) continue;
    target.directions.push_back({target.region, other});
    target.directions.push_back({other, target.region});
  }
  return target;
}

// "rate=100mbit" and so on, by the rules of the lab file.
StatusOr<std::map<std::string, std::string>> ReadSettings(const std::vector<std::string>& words,
                                                          bool region) {
  std::vector<std::string> keys = {"rate", "delay", "jitter", "loss", "queue"};
  if (region) keys.insert(keys.end(), {"up", "down"});
  std::map<std::string, std::string> settings;
  for (const std::string& word : words) {
    const std::vector<std::string> parts = absl::StrSplit(word, absl::MaxSplits('=', 1));
    if (parts.size() != 2) {
      return UsageError(
          absl::StrCat("expected KEY=VALUE, such as rate=100mbit; found '", word, "'"));
    }
    if (std::find(keys.begin(), keys.end(), parts[0]) == keys.end()) {
      return UsageError(absl::StrCat("unknown setting '", parts[0], "'", DidYouMean(parts[0], keys),
                                     "; there are: ", absl::StrJoin(keys, ", ")));
    }
    if (!settings.emplace(parts[0], parts[1]).second) {
      return UsageError(absl::StrCat("'", parts[0], "' is there twice"));
    }
  }
  if (settings.empty()) return UsageError("nothing to set; such as rate=100mbit or loss=0.01");
  return settings;
}

// The settings that are a pair's, read as its keys of the lab file.
StatusOr<pb::LabPair> ReadPair(std::map<std::string, std::string> settings) {
  pb::LabPair pair;
  for (const auto& [key, value] : settings) {
    const auto* field = pb::LabPair::descriptor()->FindFieldByName(key);
    if (field == nullptr) continue;  // up, down
    if (key == "rate" && value == "none") {
      pair.set_rate(0);
      continue;
    }
    RETURN_IF_ERROR(Annotate(ParseField(*field, {value, false, "/"}, &pair), key));
  }
  if (pair.loss() >= 1) return UsageError("loss: 1 would lose everything; `wanlab cut` does");
  return pair;
}

StatusOr<int64_t> ReadCap(const std::string& key, const std::string& value) {
  if (value == "none") return 0;
  pb::LabRegion region;
  const auto* field = pb::LabRegion::descriptor()->FindFieldByName(key);
  RETURN_IF_ERROR(Annotate(ParseField(*field, {value, false, "/"}, &region), key));
  return key == "up" ? region.up() : region.down();
}

Status SetCaps(int region, const std::map<std::string, std::string>& settings, Sea* sea) {
  int64_t caps[2] = {sea->lab().regions[region].up_bits_per_second,
                     sea->lab().regions[region].down_bits_per_second};
  const char* const keys[2] = {"up", "down"};
  for (int i = 0; i < 2; ++i) {
    for (const char* name : {"rate", keys[i]}) {
      const auto found = settings.find(name);
      if (found == settings.end()) continue;
      ASSIGN_OR_RETURN(caps[i], ReadCap(keys[i], found->second));
    }
  }
  sea->SetCaps(region, caps[0], caps[1]);
  return OkStatus();
}

Status Set(const std::vector<std::string>& words, Sea* sea) {
  if (words.empty()) return UsageError("set what? A pair (johor:oslo) or a region");
  const std::vector<std::string> names = absl::StrSplit(words[0], ':');
  ASSIGN_OR_RETURN(const Target target, TargetOf(names, sea->lab()));
  ASSIGN_OR_RETURN(const auto settings,
                   ReadSettings({words.begin() + 1, words.end()}, target.region >= 0));
  ASSIGN_OR_RETURN(const pb::LabPair pair, ReadPair(settings));
  // Of a region alone the rates are its caps, the rest is its pairs'.
  if (target.region >= 0) RETURN_IF_ERROR(SetCaps(target.region, settings, sea));
  for (const auto& [from, to] : target.directions) {
    LabLink link = sea->lab().link(from, to);
    if (pair.has_rate() && target.region < 0) link.rate_bits_per_second = pair.rate();
    if (pair.has_delay()) link.delay_seconds = pair.delay();
    if (pair.has_jitter()) link.jitter_seconds = pair.jitter();
    if (pair.has_loss()) link.loss = pair.loss();
    if (pair.has_queue()) link.queue_seconds = pair.queue();
    sea->SetLink(from, to, link);
  }
  return OkStatus();
}

Status Cut(std::vector<std::string> names, bool cut, Sea* sea) {
  if (names.size() == 1 && absl::StrContains(names[0], '>')) {
    const std::vector<std::string> way = absl::StrSplit(names[0], '>');
    ASSIGN_OR_RETURN(const Target target, TargetOf(way, sea->lab()));
    if (target.region >= 0) return UsageError("one way: johor>oslo");
    const auto& [from, to] = target.directions.front();
    sea->SetCut(from, to, cut);
    return OkStatus();
  }
  if (names.size() == 1) names = absl::StrSplit(names[0], ':');
  ASSIGN_OR_RETURN(const Target target, TargetOf(names, sea->lab()));
  for (const auto& [from, to] : target.directions) sea->SetCut(from, to, cut);
  return OkStatus();
}

json LinkJson(int from, int to, const Sea& sea) {
  const LabLink& link = sea.lab().link(from, to);
  const LinkCounts& counts = sea.link_counts(from, to);
  return {{"from", sea.lab().regions[from].name},
          {"to", sea.lab().regions[to].name},
          {"rate_bits_per_second", link.rate_bits_per_second},
          {"delay_seconds", link.delay_seconds},
          {"jitter_seconds", link.jitter_seconds},
          {"loss", link.loss},
          {"queue_seconds", link.queue_seconds},
          {"is_cut", sea.is_cut(from, to)},
          {"packets", counts.segments},
          {"bytes", counts.bytes},
          {"lost", counts.lost},
          {"dropped", counts.dropped},
          {"cut", counts.cut}};
}

json StatsOf(const Sea& sea) {
  json stats = {{"links", json::array()}, {"regions", json::array()}};
  for (int i = 0; i < sea.lab().size(); ++i) {
    const LabRegion& region = sea.lab().regions[i];
    const RegionCounts& counts = sea.region_counts(i);
    stats["regions"].push_back({{"name", region.name},
                                {"up_bits_per_second", region.up_bits_per_second},
                                {"down_bits_per_second", region.down_bits_per_second},
                                {"sent_bytes", counts.sent_bytes},
                                {"received_bytes", counts.received_bytes},
                                {"up_dropped", counts.up_dropped},
                                {"down_dropped", counts.down_dropped},
                                {"out_of_memory", counts.out_of_memory}});
    for (int j = 0; j < sea.lab().size(); ++j) {
      if (i != j) stats["links"].push_back(LinkJson(i, j, sea));
    }
  }
  return stats;
}

Status Act(const std::vector<std::string>& words, Sea* sea) {
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  if (words[0] == "set") return Set(rest, sea);
  if (words[0] == "cut") return Cut(rest, true, sea);
  if (words[0] == "heal") return Cut(rest, false, sea);
  return UsageError(absl::StrCat("unknown command '", words[0], "'"));
}

}  // namespace

json AnswerControl(const std::vector<std::string>& words, Sea* sea) {
  if (words.empty()) return {{"error", "an empty command"}};
  if (words.size() == 1 && words[0] == "stats") return StatsOf(*sea);
  const Status status = Act(words, sea);
  if (status.ok()) return json::object();
  return {{"error", std::string(status.message())}};
}

Status StatusOfAnswer(const json& answer) {
  const auto error = answer.find("error");
  if (error == answer.end()) return OkStatus();
  return UsageError(error->is_string() ? error->get<std::string>() : "the lab gave an error");
}

}  // namespace atl
