#include "proto/lab_file.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/suggest.h"
#include "proto/lab.pb.h"
#include "proto/yaml_to_message.h"
#include "proto/yaml_tree.h"

namespace atl {
namespace {

constexpr size_t kLongestName = 63;
constexpr int kMostSysctl = 64;

bool AllOf(const std::string& text, absl::string_view also) {
  return std::all_of(text.begin(), text.end(), [also](char c) {
    return absl::ascii_isalnum(c) || absl::StrContains(also, std::string(1, c));
  });
}

void CheckRegions(const pb::Lab& lab, MessageReader* reader) {
  if (lab.regions_size() == 0) {
    reader->AddError("regions", "missing; a lab has 1 to 64 regions, such as [{name: johor}]");
  }
  if (lab.regions_size() > kMostLabRegions) {
    reader->AddError("regions",
                     absl::StrCat(lab.regions_size(), " are too many; 64 regions at most"));
  }
  std::set<std::string> names;
  for (int i = 0; i < lab.regions_size(); ++i) {
    const std::string& name = lab.regions(i).name();
    const std::string path = absl::StrCat("regions[", i, "].name");
    if (name.empty() || name.size() > kLongestName || !AllOf(name, "-_")) {
      reader->AddError(path, absl::StrCat(name.empty() ? "missing" : "not well-formed",
                                          "; a region's name is 1 to 63 letters, digits, '-' and "
                                          "'_'"));
    } else if (!names.insert(name).second) {
      reader->AddError(path,
                       absl::StrCat("'", name, "' is there twice; a name stands for one region"));
    }
  }
}

void CheckLoss(double loss, const std::string& path, MessageReader* reader) {
  if (loss >= 1) reader->AddError(path, "1 would lose everything; the loss is below 1");
}

int IndexOf(const pb::Lab& lab, const std::string& name) {
  for (int i = 0; i < lab.regions_size(); ++i) {
    if (lab.regions(i).name() == name) return i;
  }
  return -1;
}

// The pair as (smaller, larger) index; nothing if it is not two regions.
std::optional<std::pair<int, int>> EndsOf(const pb::Lab& lab, int number, MessageReader* reader) {
  const pb::LabPair& pair = lab.links().pairs(number);
  const std::string path = absl::StrCat("links.pairs[", number, "].between");
  if (pair.between_size() != 2) {
    reader->AddError(pair.between_size() == 0 ? absl::StrCat("links.pairs[", number, "]") : path,
                     absl::StrCat("a pair is between two regions, such as between: [johor, oslo]; "
                                  "found ",
                                  pair.between_size()));
    return std::nullopt;
  }
  std::vector<std::string> names;
  for (const pb::LabRegion& region : lab.regions()) names.push_back(region.name());
  int ends[2];
  for (int k = 0; k < 2; ++k) {
    const std::string& name = pair.between(k).name();
    ends[k] = IndexOf(lab, name);
    if (ends[k] < 0) {
      reader->AddError(absl::StrCat(path, "[", k, "].name"),
                       absl::StrCat("no region is called '", name, "'", DidYouMean(name, names)));
    }
  }
  if (ends[0] < 0 || ends[1] < 0) return std::nullopt;
  if (ends[0] == ends[1]) {
    reader->AddError(absl::StrCat(path, "[1].name"), "a region has no link to itself");
    return std::nullopt;
  }
  return std::minmax(ends[0], ends[1]);
}

void CheckPairs(const pb::Lab& lab, MessageReader* reader) {
  CheckLoss(lab.links().default_().loss(), "links.default.loss", reader);
  std::set<std::pair<int, int>> seen;
  for (int i = 0; i < lab.links().pairs_size(); ++i) {
    const std::string path = absl::StrCat("links.pairs[", i, "]");
    CheckLoss(lab.links().pairs(i).loss(), path + ".loss", reader);
    const auto ends = EndsOf(lab, i, reader);
    if (ends && !seen.insert(*ends).second) {
      reader->AddError(path + ".between", "this pair is there twice");
    }
  }
}

void CheckSysctl(const pb::Lab& lab, MessageReader* reader) {
  if (lab.sysctl_size() > kMostSysctl) {
    reader->AddError("sysctl", absl::StrCat(lab.sysctl_size(), " are too many; 64 at most"));
  }
  for (int i = 0; i < lab.sysctl_size(); ++i) {
    const std::string path = absl::StrCat("sysctl[", i, "]");
    const std::string& key = lab.sysctl(i).key();
    // A key becomes a path below /proc/sys: it must stay there.
    if (!absl::StartsWith(key, "net.") || !AllOf(key, "._-") || absl::StrContains(key, "..") ||
        key.back() == '.' || key.size() > 200) {
      reader->AddError(
          path + ".key",
          "expected a setting of the network, such as net.ipv4.tcp_congestion_control");
    }
    if (lab.sysctl(i).value().empty()) reader->AddError(path + ".value", "missing");
  }
}

LabLink DefaultLink(const pb::LabLink& link) {
  return {link.rate(), link.delay(), link.jitter(), link.loss(), link.queue()};
}

LabLink PairLink(const pb::LabPair& pair, LabLink link) {
  if (pair.has_rate()) link.rate_bits_per_second = pair.rate();
  if (pair.has_delay()) link.delay_seconds = pair.delay();
  if (pair.has_jitter()) link.jitter_seconds = pair.jitter();
  if (pair.has_loss()) link.loss = pair.loss();
  if (pair.has_queue()) link.queue_seconds = pair.queue();
  return link;
}

Lab SpreadOut(const pb::Lab& message) {
  Lab lab;
  lab.seed = message.seed();
  for (const pb::LabRegion& region : message.regions()) {
    lab.regions.push_back({region.name(), region.up(), region.down()});
  }
  const LabLink standard = DefaultLink(message.links().default_());
  lab.region_queue_seconds = standard.queue_seconds;
  lab.links.assign(lab.regions.size() * lab.regions.size(), standard);
  for (const pb::LabPair& pair : message.links().pairs()) {
    const int a = IndexOf(message, pair.between(0).name());
    const int b = IndexOf(message, pair.between(1).name());
    lab.link(a, b) = lab.link(b, a) = PairLink(pair, standard);
  }
  for (const pb::LabSysctl& setting : message.sysctl()) {
    lab.sysctl.push_back({setting.key(), setting.value()});
  }
  return lab;
}

}  // namespace

std::optional<int> Lab::Find(const std::string& name) const {
  for (int i = 0; i < size(); ++i) {
    if (regions[i].name == name) return i;
  }
  return std::nullopt;
}

StatusOr<Lab> ParseLab(const std::string& text, const std::string& name) {
  ASSIGN_OR_RETURN(const YamlNode root, ParseYaml(text, name));
  pb::Lab lab;
  MessageReader reader(name, "/", &lab);
  reader.ReadTree(root);
  RETURN_IF_ERROR(reader.status());
  reader.ApplyDefaults();
  CheckRegions(lab, &reader);
  // Of a list that is far too long the rest would only be more of the same.
  if (lab.regions_size() <= kMostLabRegions) CheckPairs(lab, &reader);
  CheckSysctl(lab, &reader);
  RETURN_IF_ERROR(reader.status());
  return SpreadOut(lab);
}

StatusOr<Lab> LoadLabFile(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return UsageError(absl::StrCat(path, ": is a directory; expected a lab file (YAML)"));
  }
  const auto text = ReadFile(path, kMaxYamlBytes);
  if (!text.ok()) {
    return UsageError(absl::StrCat("lab file: ", std::string(text.status().message())));
  }
  return ParseLab(*text, path);
}

}  // namespace atl
