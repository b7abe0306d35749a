// The strict rules of safetensors, one crafted file each, and the writer.
#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/random.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

using testing::HasSubstr;

std::string LengthBytes(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(length >> (8 * i)));
  return bytes;
}

std::string File(const std::string& header, int64_t data_bytes) {
  return LengthBytes(header.size()) + header + std::string(data_bytes, 'd');
}

StatusOr<SafetensorsHeader> Parse(const std::string& file) {
  return ParseSafetensors(file, static_cast<int64_t>(file.size()));
}

std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
         "],\"data_offsets\":[" + offsets + "]}";
}

struct Case {
  const char* what;
  std::string file;
};

const std::string kA = Entry("a", "F32", "2", "0,8");

TEST(Safetensors, AcceptsWhatTheRulesAllow) {
  std::string many_dtypes;
  const std::pair<const char*, int> dtypes[] = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  int at = 0;
  for (const auto& [dtype, bits] : dtypes) {
    many_dtypes +=
        (at == 0 ? "" : ",") +
        Entry(dtype, dtype, "4", std::to_string(at) + "," + std::to_string(at + bits / 2));
    at += bits / 2;
  }
  const Case cases[] = {
      {"nothing", File("{}", 0)},
      {"metadata alone", File("{\"__metadata__\":{\"k\":\"v\",\"\":\"\"}}", 0)},
      {"empty metadata", File("{\"__metadata__\":{}}", 0)},
      {"one tensor", File("{" + kA + "}", 8)},
      {"spaces at the end", File("{" + kA + "}      ", 8)},
      {"white space within", File("{ \n\t\r" + kA + " }", 8)},
      {"any order of tensors", File("{" + Entry("z", "F32", "1", "8,12") + "," + kA + "}", 12)},
      {"any order of fields",
       File("{\"a\":{\"data_offsets\":[0,8],\"shape\":[2],\"dtype\":\"F32\"}}", 8)},
      {"unaligned offsets",
       File("{" + Entry("b", "U8", "3", "0,3") + "," + Entry("a", "F32", "1", "3,7") + "}", 7)},
      {"an empty tensor", File("{" + kA + "," + Entry("e", "F32", "0,5", "8,8") + "}", 8)},
      {"an empty tensor between", File("{" + kA + "," + Entry("e", "F32", "0", "8,8") + "," +
                                           Entry("b", "U8", "1", "8,9") + "}",
                                       9)},
      {"an empty name", File("{" + Entry("", "F32", "2", "0,8") + "}", 8)},
      {"a name that looks like a path",
       File("{" + Entry("../../etc/passwd", "U8", "1", "0,1") + "}", 1)},
      {"a scalar", File("{" + Entry("s", "F64", "", "0,8") + "}", 8)},
      {"every dtype", File("{" + many_dtypes + "}", at)},
      {"half bytes that make whole ones", File("{" + Entry("f", "F4", "2,3", "0,3") + "}", 3)},
      {"escapes and a surrogate pair",
       File("{" + Entry("\\u00e9\\ud83c\\udf0a\\n", "U8", "1", "0,1") + "}", 1)},
      {"names that differ in case",
       File("{" + Entry("a", "U8", "1", "0,1") + "," + Entry("A", "U8", "1", "1,2") + "}", 2)},
      {"2^53 in the shape of an empty tensor",
       File("{" + Entry("e", "F32", "9007199254740992,0", "0,0") + "}", 0)},
  };
  for (const Case& each : cases) {
    const auto header = Parse(each.file);
    EXPECT_TRUE(header.ok()) << each.what << ": " << header.status();
  }
}

struct BadCase {
  const char* rule;
  const char* what;
  std::string file;
};

std::vector<BadCase> BadFiles() {
  std::string deep = "0";
  for (int i = 0; i < 16; ++i) deep = "[" + deep + "]";
  const std::string b = Entry("b", "F32", "1", "8,12");
  std::string bom = "\xEF\xBB\xBF{" + kA + "}";
  std::vector<BadCase> cases = {
      {"file-length", "an empty file", ""},
      {"file-length", "seven bytes", "\x02\0\0\0\0\0\0"},
      {"file-length", "shorter than its header", LengthBytes(3) + "{}"},
      {"file-length", "shorter than a large header", LengthBytes(99'999'999) + "{}"},
      {"header-limit", "100,000,001 bytes of header", LengthBytes(100'000'001) + "{}"},
      {"header-limit", "2^64 - 1 bytes of header", LengthBytes(~uint64_t{0}) + "{}"},
      {"header-start", "no header", File("", 0)},
      {"header-start", "a space first", File(" {}", 0)},
      {"header-start", "an array", File("[]", 0)},
      {"header-start", "a byte order mark", File(bom, 8)},
      {"header-end", "a line feed last", File("{}\n", 0)},
      {"header-end", "a tab last", File("{}\t", 0)},
      {"header-end", "NUL last", File(std::string("{}\0", 3), 0)},
      {"header-end", "NUL and more", File(std::string("{}\0 x", 5), 0)},
      {"header-end", "two objects", File("{}{}", 0)},
      {"header-end", "letters last", File("{} x", 0)},
      {"json", "cut short", File("{\"a\":", 0)},
      {"json", "a comma too many", File("{" + kA + ",}", 8)},
      {"json", "a comment", File("{/* */}", 0)},
      {"json", "single quotes", File("{'a':1}", 0)},
      {"json", "a raw line feed in a name", File("{" + Entry("a\n", "U8", "1", "0,1") + "}", 1)},
      {"json", "a raw control character", File("{" + Entry("a\x01", "U8", "1", "0,1") + "}", 1)},
      {"json", "a raw NUL in a name",
       File("{" + Entry(std::string("a\0", 2), "U8", "1", "0,1") + "}", 1)},
      {"json", "NUL between", File(std::string("{\0}", 3), 0)},
      {"json", "a lone high surrogate", File("{" + Entry("\\ud83c", "U8", "1", "0,1") + "}", 1)},
      {"json", "a lone low surrogate", File("{" + Entry("\\udf0a", "U8", "1", "0,1") + "}", 1)},
      {"json", "bad UTF-8", File("{" + Entry("\xFF", "U8", "1", "0,1") + "}", 1)},
      {"json", "overlong UTF-8", File("{" + Entry("\xC0\xAF", "U8", "1", "0,1") + "}", 1)},
      {"json", "a surrogate in UTF-8",
       File("{" + Entry("\xED\xA0\x80", "U8", "1", "0,1") + "}", 1)},
      {"json", "NaN", File("{" + Entry("a", "U8", "NaN", "0,1") + "}", 1)},
      {"depth", "17 deep, in a shape",
       File("{\"a\":{\"dtype\":\"U8\",\"shape\":" + deep + ",\"data_offsets\":[0,1]}}", 1)},
      {"depth", "17 deep, in metadata", File("{\"__metadata__\":" + deep + "}", 0)},
      {"duplicate-name", "a tensor twice", File("{" + kA + "," + kA + "}", 8)},
      {"duplicate-name", "a tensor twice, once escaped",
       File("{" + kA + "," + Entry("\\u0061", "F32", "2", "0,8") + "}", 8)},
      {"duplicate-name", "metadata twice", File("{\"__metadata__\":{},\"__metadata__\":{}}", 0)},
      {"duplicate-field", "dtype twice",
       File("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1)},
      {"duplicate-field", "shape twice",
       File("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1)},
      {"duplicate-metadata", "a metadata key twice",
       File("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0)},
      {"metadata", "null", File("{\"__metadata__\":null}", 0)},
      {"metadata", "an array", File("{\"__metadata__\":[]}", 0)},
      {"metadata", "a number in it", File("{\"__metadata__\":{\"k\":1}}", 0)},
      {"metadata", "null in it", File("{\"__metadata__\":{\"k\":null}}", 0)},
      {"metadata", "an object in it", File("{\"__metadata__\":{\"k\":{}}}", 0)},
      {"entry", "an entry as an array", File("{\"a\":[\"F32\",[2],[0,8]]}", 8)},
      {"entry", "an entry as a text", File("{\"a\":\"F32\"}", 0)},
      {"entry", "null", File("{\"a\":null}", 0)},
      {"entry", "no dtype", File("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1)},
      {"entry", "no shape", File("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1)},
      {"entry", "no offsets", File("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1)},
      {"entry", "an unknown field",
       File("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"stride\":[1]}}", 1)},
      {"entry", "a shape that is no array",
       File("{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1)},
      {"dtype", "unknown", File("{" + Entry("a", "F128", "1", "0,16") + "}", 16)},
      {"dtype", "in small letters", File("{" + Entry("a", "f32", "2", "0,8") + "}", 8)},
      {"dtype", "empty", File("{" + Entry("a", "", "2", "0,8") + "}", 8)},
      {"offsets", "one", File("{" + Entry("a", "U8", "1", "0") + "}", 1)},
      {"offsets", "three", File("{" + Entry("a", "U8", "1", "0,1,2") + "}", 1)},
      {"offsets", "end before begin", File("{" + Entry("a", "U8", "1", "1,0") + "}", 1)},
      {"length", "too long for its shape", File("{" + Entry("a", "F32", "2", "0,12") + "}", 12)},
      {"length", "half a byte", File("{" + Entry("a", "F4", "3", "0,2") + "}", 2)},
      {"length", "a product that wraps to 8",
       File("{" + Entry("a", "U8", "4294967297,4294967296,8", "0,8") + "}", 8)},
      {"length", "an overflow before a zero",
       File("{" + Entry("a", "U8", "9007199254740992,9007199254740992,0", "0,0") + "}", 0)},
      {"length", "an overflow behind a zero",
       File("{" + Entry("a", "U8", "0,9007199254740992,9007199254740992", "0,0") + "}", 0)},
      {"length", "an overflow around a zero",
       File("{" + Entry("a", "U8", "9007199254740992,0,9007199254740992", "0,0") + "}", 0)},
      {"layout", "a hole at the start", File("{" + Entry("a", "F32", "1", "4,8") + "}", 8)},
      {"layout", "a hole between",
       File("{" + kA + "," + Entry("b", "F32", "1", "12,16") + "}", 16)},
      {"layout", "an overlap", File("{" + kA + "," + Entry("b", "F32", "1", "4,8") + "}", 8)},
      {"layout", "a shared range", File("{" + kA + "," + Entry("b", "F32", "2", "0,8") + "}", 8)},
      {"layout", "an empty tensor inside another",
       File("{" + kA + "," + Entry("e", "F32", "0", "4,4") + "}", 8)},
      {"layout", "missing bytes at the end", File("{" + kA + "," + b + "}", 11)},
      {"layout", "extra bytes at the end", File("{" + kA + "," + b + "}", 13)},
      {"layout", "data without tensors", File("{}", 1)},
  };
  for (const char* number :
       {"-1", "-0", "1.0", "1e0", "1E0", "\"1\"", "01", "00", "null", "true", "9007199254740993",
        "18446744073709551616", "1e999", "1.", "[1]", "{}"}) {
    cases.push_back({"number", "in a shape", File("{" + Entry("a", "U8", number, "0,1") + "}", 1)});
    cases.push_back({"number", "in the offsets",
                     File("{" + Entry("a", "U8", "1", std::string("0,") + number) + "}", 1)});
  }
  return cases;
}

TEST(Safetensors, RefusesWhatBreaksARuleAndNamesIt) {
  for (const BadCase& each : BadFiles()) {
    const auto header = Parse(each.file);
    ASSERT_FALSE(header.ok()) << each.rule << ": " << each.what << ": " << each.file;
    EXPECT_EQ(ExitCodeOf(header.status()), ExitCode::kUsage);
    EXPECT_THAT(std::string(header.status().message()),
                HasSubstr("'" + std::string(each.rule) + "'"))
        << each.what << ": " << each.file;
  }
}

TEST(Safetensors, RefusesTheSameFilesFromDiskAndNamesTheFile) {
  TemporaryDirectory directory;
  const std::string path = directory.path() + "/x.safetensors";
  for (const BadCase& each : BadFiles()) {
    ASSERT_TRUE(WriteFileAtomically(path, each.file).ok());
    const Status status = ReadSafetensorsHeader(path).status();
    EXPECT_THAT(status.ToString(), HasSubstr("'" + std::string(each.rule) + "'")) << each.what;
    EXPECT_THAT(status.ToString(), HasSubstr("x.safetensors"));
  }
}

TEST(Safetensors, AllocatesNothingForALengthThatTheFileDoesNotHave) {
  EXPECT_FALSE(SafetensorsHeadBytes(LengthBytes(99'999'999), 1000).ok());
  EXPECT_EQ(SafetensorsHeadBytes(LengthBytes(100'000'000), 100'000'008).value_or(0), 100'000'008);
}

TEST(Safetensors, GivesTensorsByOffset) {
  const auto header = Parse(File(
      "{" + Entry("z", "F32", "3,1", "8,20") + ",\"__metadata__\":{\"k\":\"v\"}," + kA + "}", 20));
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->tensors.size(), 2u);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[1].name, "z");
  EXPECT_EQ(header->tensors[1].shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(header->tensors[1].data, (Range{8, 20}));
  EXPECT_EQ(header->metadata.at("k"), "v");
}

TEST(SafetensorsHead, IsAlignedDeterministicAndReadBack) {
  std::vector<SafetensorsTensor> tensors;
  for (const TensorSpec& tensor : SmallModel())
    tensors.push_back({tensor.name, "F32", tensor.shape, {}});
  const auto head = SafetensorsHead(tensors);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(head->size() % 4096, 0u);
  EXPECT_EQ(*head, *SafetensorsHead(tensors));
  int64_t data = 0;
  for (const TensorSpec& tensor : SmallModel()) data += tensor.elements.size() * 4;
  const auto header = ParseSafetensors(*head, static_cast<int64_t>(head->size()) + data);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->data_begin, static_cast<int64_t>(head->size()));
  ASSERT_EQ(header->tensors.size(), tensors.size());
}

TEST(SafetensorsHead, HasTheseBytes) {
  const auto head = SafetensorsHead({{"w", "F32", {2, 3}, {}}, {"b", "F32", {}, {}}});
  ASSERT_TRUE(head.ok()) << head.status();
  const std::string json =
      "{\"__metadata__\":{\"format\":\"pt\"},"
      "\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
      "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[24,28]}}";
  EXPECT_EQ(*head, LengthBytes(4088) + json + std::string(4088 - json.size(), ' '));
}

TEST(SafetensorsHead, RefusesANameThatIsNotUtf8) {
  EXPECT_FALSE(SafetensorsHead({{"\xFF", "F32", {2}, {}}}).ok());
}

TEST(Safetensors, OutlivesMutatedHeaders) {
  const std::string valid = File("{\"__metadata__\":{\"k\":\"v\\u00e9\"}," + kA + "," +
                                     Entry("b", "BF16", "2,2", "8,16") + "}  ",
                                 16);
  ASSERT_TRUE(Parse(valid).ok());
  const CounterRandom random(20240607);
  uint64_t at = 0;
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string file = valid;
    const int changes = 1 + static_cast<int>(random.Bits(at++) % 3);
    for (int change = 0; change < changes; ++change) {
      const size_t place = random.Bits(at++) % file.size();
      switch (random.Bits(at++) % 4) {
        case 0:
          file[place] = static_cast<char>(random.Bits(at++));
          break;
        case 1:
          file.erase(place, 1 + random.Bits(at++) % 8);
          break;
        case 2:
          file.insert(place, 1, "{}[]\",:0123456789eE.-\\u \n"[random.Bits(at++) % 25]);
          break;
        default:
          file.insert(place, file.substr(random.Bits(at++) % file.size(), 20));
      }
      if (file.empty()) file = "x";
    }
    const auto header = Parse(file);
    if (!header.ok()) continue;
    ++accepted;  // then what it says must fit the file
    int64_t reached = header->data_begin;
    for (const SafetensorsTensor& tensor : header->tensors) {
      ASSERT_EQ(header->data_begin + tensor.data.begin, reached);
      reached = header->data_begin + tensor.data.end;
    }
    ASSERT_EQ(reached, static_cast<int64_t>(file.size()));
  }
  EXPECT_GT(accepted, 10);
}

}  // namespace
}  // namespace atl::checkpoint
