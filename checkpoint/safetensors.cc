#include "checkpoint/safetensors.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/strict_json.h"

namespace atl::checkpoint {
namespace {

constexpr char kMetadata[] = "__metadata__";
constexpr int64_t kLengthBytes = 8;
constexpr std::pair<const char*, int> kDtypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64}};

constexpr char kRulePayload[] = "atoll/safetensors_rule";

Status Broken(absl::string_view rule, absl::string_view message) {
  Status status = UsageError(absl::StrCat("breaks the safetensors rule '", rule, "': ", message));
  status.SetPayload(kRulePayload, absl::Cord(rule));
  return status;
}

// Names come from outside and may be long or odd.
std::string Shown(const std::string& name) {
  constexpr size_t kLongest = 200;
  const StatusOr<std::string> quoted = JsonQuoted(name.substr(0, kLongest), /*ascii=*/true);
  const std::string text = quoted.ok() ? *quoted : std::string("(a long name)");
  return name.size() > kLongest ? absl::StrCat(text, "...") : text;
}

// Bytes of a tensor. The product is made of the dimensions that are not zero, so that an overflow
// is found wherever a zero stands.
StatusOr<int64_t> TensorBytes(const SafetensorsTensor& tensor) {
  uint64_t bits = static_cast<uint64_t>(SafetensorsBits(tensor.dtype));
  bool empty = false;
  for (const int64_t dimension : tensor.shape) {
    if (dimension == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(bits, static_cast<uint64_t>(dimension), &bits)) {
      return Broken("length", absl::StrCat("the shape of ", Shown(tensor.name), " overflows"));
    }
  }
  if (empty) return 0;
  if (bits % 8 != 0) {
    return Broken("length", absl::StrCat("the elements of ", Shown(tensor.name), " take ", bits,
                                         " bits, which is no whole number of bytes"));
  }
  return static_cast<int64_t>(bits / 8);
}

// Builds the header from the events of its JSON. The first rule broken is kept and the rest of the
// events pass by, because a fault in the JSON itself comes before any other.
class HeaderHandler : public JsonHandler {
 public:
  Status status;
  SafetensorsHeader header;

  void StartObject() override {
    if (!status.ok()) return;
    if (places_.empty()) {
      places_.push_back(Place::kTop);
    } else if (places_.back() == Place::kTop) {
      places_.push_back(in_metadata_ ? Place::kMetadata : Place::kEntry);
    } else {
      WrongType("an object");
    }
  }

  void EndObject() override {
    if (!status.ok()) return;
    if (places_.back() == Place::kEntry) FinishEntry();
    places_.pop_back();
  }

  void StartArray() override {
    if (!status.ok()) return;
    if (places_.back() == Place::kEntry && field_ == kShape) {
      places_.push_back(Place::kShapeArray);
    } else if (places_.back() == Place::kEntry && field_ == kOffsets) {
      places_.push_back(Place::kOffsetsArray);
    } else {
      WrongType("an array");
    }
  }

  void EndArray() override {
    if (status.ok()) places_.pop_back();
  }

  void Key(std::string& key, bool duplicate) override {
    if (!status.ok()) return;
    if (places_.back() == Place::kMetadata) {
      if (duplicate) return Fail("duplicate-metadata", absl::StrCat(Shown(key), " comes twice"));
      metadata_key_ = std::move(key);
    } else if (places_.back() == Place::kEntry) {
      if (duplicate) {
        return Fail("duplicate-field",
                    absl::StrCat(Shown(key), " comes twice in ", Shown(entry_.name)));
      }
      field_ = key == "dtype"          ? kDtype
               : key == "shape"        ? kShape
               : key == "data_offsets" ? kOffsets
                                       : kNone;
      if (field_ == kNone) {
        return Fail("entry",
                    absl::StrCat(Shown(entry_.name), " has an unknown field ", Shown(key)));
      }
      fields_seen_ |= field_;
    } else {
      if (duplicate) return Fail("duplicate-name", absl::StrCat(Shown(key), " comes twice"));
      in_metadata_ = key == kMetadata;
      entry_ = SafetensorsTensor();
      entry_.name = std::move(key);
      fields_seen_ = 0;
      offsets_.clear();
    }
  }

  void String(std::string& value) override {
    if (!status.ok()) return;
    if (places_.back() == Place::kMetadata) {
      header.metadata.emplace(std::move(metadata_key_), std::move(value));
    } else if (places_.back() == Place::kEntry && field_ == kDtype) {
      if (SafetensorsBits(value) == 0) {
        return Fail("dtype", absl::StrCat(Shown(entry_.name), " has the dtype ", Shown(value)));
      }
      entry_.dtype = std::move(value);
    } else {
      WrongType("a text");
    }
  }

  void Number(uint64_t value) override {
    if (!status.ok()) return;
    const bool shape = places_.back() == Place::kShapeArray;
    if (!shape && places_.back() != Place::kOffsetsArray) return WrongType("a number");
    if (value > kMaxJsonNumber) {
      return Fail("number", absl::StrCat(value, " in ", Shown(entry_.name), " is above 2^53"));
    }
    if (shape) {
      entry_.shape.push_back(static_cast<int64_t>(value));
    } else if (offsets_.size() == 2) {
      Fail("offsets", absl::StrCat(Shown(entry_.name), " has more than two offsets"));
    } else {
      offsets_.push_back(static_cast<int64_t>(value));
    }
  }

  void OddNumber(const std::string& as_written) override {
    if (!status.ok()) return;
    if (InNumbers()) {
      Fail("number", absl::StrCat(as_written.substr(0, 40), " in ", Shown(entry_.name),
                                  " is not a whole number from 0 to 2^53 in digits"));
    } else {
      WrongType("a number");
    }
  }

  void Literal(const char* as_written) override {
    if (status.ok()) WrongType(as_written);
  }

 private:
  enum class Place { kTop, kMetadata, kEntry, kShapeArray, kOffsetsArray };
  enum Field { kNone = 0, kDtype = 1, kShape = 2, kOffsets = 4 };

  bool InNumbers() const {
    return places_.back() == Place::kShapeArray || places_.back() == Place::kOffsetsArray;
  }

  void Fail(absl::string_view rule, absl::string_view message) { status = Broken(rule, message); }

  void WrongType(absl::string_view what) {
    if (InNumbers()) {
      Fail("number", absl::StrCat(what, " in ", Shown(entry_.name), " where a number is expected"));
    } else if (places_.back() == Place::kMetadata) {
      Fail("metadata", absl::StrCat("the value of ", Shown(metadata_key_), " is ", what,
                                    "; it must be a text"));
    } else if (in_metadata_) {
      Fail("metadata", absl::StrCat("__metadata__ is ", what, "; it must be an object"));
    } else {
      Fail("entry", absl::StrCat("the entry of ", Shown(entry_.name), " is or holds ", what,
                                 " in a wrong place"));
    }
  }

  void FinishEntry() {
    if (fields_seen_ != (kDtype | kShape | kOffsets)) {
      return Fail("entry",
                  absl::StrCat(Shown(entry_.name), " lacks", fields_seen_ & kDtype ? "" : " dtype",
                               fields_seen_ & kShape ? "" : " shape",
                               fields_seen_ & kOffsets ? "" : " data_offsets"));
    }
    if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) {
      return Fail("offsets", absl::StrCat("data_offsets of ", Shown(entry_.name), " are [",
                                          absl::StrJoin(offsets_, ", "), "]"));
    }
    entry_.data = {offsets_[0], offsets_[1]};
    const StatusOr<int64_t> bytes = TensorBytes(entry_);
    if (!bytes.ok()) {
      status = bytes.status();
    } else if (*bytes != entry_.data.size()) {
      Fail("length", absl::StrCat(Shown(entry_.name), " of dtype ", entry_.dtype, " takes ", *bytes,
                                  " bytes, its offsets span ", entry_.data.size()));
    } else {
      header.tensors.push_back(std::move(entry_));
    }
  }

  std::vector<Place> places_;
  bool in_metadata_ = false;
  std::string metadata_key_;
  SafetensorsTensor entry_;
  Field field_ = kNone;
  int fields_seen_ = 0;
  std::vector<int64_t> offsets_;
};

// Sorts by offset and checks that the tensors tile the data exactly.
Status CheckLayout(std::vector<SafetensorsTensor>& tensors, int64_t data_bytes) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.data.begin, a.data.end) < std::pair(b.data.begin, b.data.end);
  });
  int64_t reached = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    if (tensor.data.begin != reached) {
      return Broken("layout",
                    absl::StrCat(Shown(tensor.name), " begins at byte ", tensor.data.begin,
                                 " of the data, but the tensors before it end at ", reached,
                                 tensor.data.begin > reached ? " (a hole)" : " (an overlap)"));
    }
    reached = tensor.data.end;
  }
  if (reached != data_bytes) {
    return Broken("layout", absl::StrCat("the tensors end at byte ", reached,
                                         " of the data, the file at ", data_bytes));
  }
  return OkStatus();
}

}  // namespace

std::string SafetensorsRule(const Status& status) {
  const auto payload = status.GetPayload(kRulePayload);
  return payload ? std::string(*payload) : std::string();
}

int SafetensorsBits(absl::string_view dtype) {
  for (const auto& [name, bits] : kDtypes) {
    if (dtype == name) return bits;
  }
  return 0;
}

StatusOr<int64_t> SafetensorsHeadBytes(absl::string_view first_bytes, int64_t file_bytes) {
  if (file_bytes < kLengthBytes || first_bytes.size() < kLengthBytes) {
    return Broken("file-length",
                  absl::StrCat("the file has ", file_bytes, " bytes, not even a header's length"));
  }
  uint64_t header_bytes = 0;
  for (int i = kLengthBytes - 1; i >= 0; --i) {
    header_bytes = header_bytes << 8 | static_cast<unsigned char>(first_bytes[i]);
  }
  if (header_bytes > kMaxSafetensorsHeader) {
    return Broken("header-limit", absl::StrCat("a header of ", header_bytes, " bytes; at most ",
                                               kMaxSafetensorsHeader, " are accepted"));
  }
  const int64_t head_bytes = kLengthBytes + static_cast<int64_t>(header_bytes);
  if (file_bytes < head_bytes) {
    return Broken("file-length", absl::StrCat("the file has ", file_bytes,
                                              " bytes, its header alone ends at ", head_bytes));
  }
  return head_bytes;
}

StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view head, int64_t file_bytes) {
  ASSIGN_OR_RETURN(const int64_t head_bytes, SafetensorsHeadBytes(head, file_bytes));
  if (static_cast<int64_t>(head.size()) < head_bytes) {
    return Broken("file-length", absl::StrCat("only ", head.size(), " of the header's ", head_bytes,
                                              " bytes are there"));
  }
  HeaderHandler handler;
  const JsonFault fault =
      ParseStrictJson(head.substr(kLengthBytes, head_bytes - kLengthBytes), handler);
  if (!fault.ok()) return Broken(fault.rule, fault.message);
  RETURN_IF_ERROR(handler.status);
  handler.header.data_begin = head_bytes;
  RETURN_IF_ERROR(CheckLayout(handler.header.tensors, file_bytes - head_bytes));
  return std::move(handler.header);
}

StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const std::string& path,
                                                  const HeaderDecrypt& decrypt) {
  ASSIGN_OR_RETURN(const int64_t file_bytes, FileSize(path));
  ASSIGN_OR_RETURN(Fd file, OpenFile(path, O_RDONLY));
  std::string head(static_cast<size_t>(std::min(file_bytes, kLengthBytes)), '\0');
  RETURN_IF_ERROR(ReadAt(file, path, head.data(), static_cast<int64_t>(head.size()), 0));
  if (decrypt) decrypt(0, &head);
  const StatusOr<int64_t> head_bytes = SafetensorsHeadBytes(head, file_bytes);
  if (!head_bytes.ok()) return Annotate(head_bytes.status(), path);
  head.resize(static_cast<size_t>(*head_bytes));
  RETURN_IF_ERROR(ReadAt(file, path, head.data(), *head_bytes, 0));
  if (decrypt) decrypt(0, &head);
  StatusOr<SafetensorsHeader> header = ParseSafetensors(head, file_bytes);
  if (!header.ok()) return Annotate(header.status(), path);
  return header;
}

StatusOr<std::string> SafetensorsHead(const std::vector<SafetensorsTensor>& tensors) {
  // The key that Hugging Face's loaders look for before they open a file.
  std::string json = "{\"__metadata__\":{\"format\":\"pt\"}";
  int64_t offset = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    ASSIGN_OR_RETURN(const std::string name, JsonQuoted(tensor.name));
    ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(tensor));
    absl::StrAppend(&json, ",", name, ":{\"dtype\":\"", tensor.dtype, "\",\"shape\":[",
                    absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", offset, ",",
                    offset + bytes, "]}");
    offset += bytes;
  }
  json += "}";
  const int64_t unpadded = kLengthBytes + static_cast<int64_t>(json.size());
  const int64_t padded =
      (unpadded + kSafetensorsAlignment - 1) / kSafetensorsAlignment * kSafetensorsAlignment;
  json.append(static_cast<size_t>(padded - unpadded), ' ');
  if (json.size() > kMaxSafetensorsHeader) {
    return UsageError(absl::StrCat("the names of ", tensors.size(),
                                   " tensors do not fit into one safetensors header"));
  }
  std::string head;
  for (int i = 0; i < kLengthBytes; ++i) head.push_back(static_cast<char>(json.size() >> (8 * i)));
  return head + json;
}

}  // namespace atl::checkpoint
