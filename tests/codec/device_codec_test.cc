// The codecs on a CUDA device against those of the processor, byte by byte. Skipped where there is
// no device, and says what is missing.
#include "collectives/codec/cuda/device_codec.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/log.h"
#include "tests/codec/numbers.h"

namespace atl {
namespace {

template <class T>
DeviceMemory OnDevice(const std::vector<T>& values) {
  auto memory = AllocateOnDevice(values.size() * sizeof(T) + 16);
  CHECK(memory.ok()) << memory.status();
  const Status status =
      DeviceCopy(memory->get(), values.data(), values.size() * sizeof(T), nullptr);
  CHECK(status.ok()) << status;
  return *std::move(memory);
}

template <class T>
std::vector<T> FromDevice(const DeviceMemory& memory, size_t count) {
  std::vector<T> values(count);
  Status status = DeviceCopy(values.data(), memory.get(), count * sizeof(T), nullptr);
  CHECK(status.ok()) << status;
  status = DeviceWait(nullptr);
  CHECK(status.ok()) << status;
  return values;
}

uint8_t* BytesOf(const DeviceMemory& memory) { return static_cast<uint8_t*>(memory.get()); }
float* FloatsOf(const DeviceMemory& memory) { return static_cast<float*>(memory.get()); }

class DeviceCodec : public testing::TestWithParam<Codec> {
 protected:
  void SetUp() override {
    std::string why;
    if (!DeviceCodecUsable(&why)) GTEST_SKIP() << why;
  }

  void ExpectSameDecoding(const std::vector<uint8_t>& bytes, const std::vector<float>& sums) {
    const DeviceMemory encoded = OnDevice(bytes);
    const DeviceMemory out = OnDevice(sums);
    ASSERT_EQ(DeviceDecodeAdd(GetParam(), BytesOf(encoded), sums.size(), FloatsOf(out), nullptr),
              OkStatus());
    std::vector<float> expected = sums;
    DecodeAdd(GetParam(), bytes.data(), expected);
    ASSERT_TRUE(SameBits(FromDevice<float>(out, sums.size()), expected));
    ASSERT_EQ(DeviceDecode(GetParam(), BytesOf(encoded), sums.size(), FloatsOf(out), nullptr),
              OkStatus());
    ASSERT_TRUE(
        SameBits(FromDevice<float>(out, sums.size()), Decoded(GetParam(), bytes, sums.size())));
  }
};

std::string NameOf(const testing::TestParamInfo<Codec>& info) { return CodecName(info.param); }

INSTANTIATE_TEST_SUITE_P(Codecs, DeviceCodec, testing::ValuesIn(kAllCodecs), NameOf);

TEST_P(DeviceCodec, EncodesDecodesAndAddsToTheSameBits) {
  for (const Spread spread : kAllSpreads) {
    for (const size_t count : {1, 2, 63, 64, 65, 127, 128, 129, 256, 1000, 100003}) {
      std::vector<float> values = Numbers(spread, count, count);
      if (count > 200) values[count / 2] = SpecialNumbers()[count % SpecialNumbers().size()];
      const DeviceMemory in = OnDevice(values);
      const std::vector<uint8_t> expected = Encoded(GetParam(), values);
      const DeviceMemory out = OnDevice(std::vector<uint8_t>(expected.size(), 0xEE));
      ASSERT_EQ(DeviceEncode(GetParam(), FloatsOf(in), count, BytesOf(out), nullptr), OkStatus());
      ASSERT_EQ(FromDevice<uint8_t>(out, expected.size()), expected)
          << "spread " << static_cast<int>(spread) << " count " << count;
      ExpectSameDecoding(expected, Numbers(Spread::kAnyBits, count, 8));
    }
  }
}

TEST_P(DeviceCodec, DecodesAnyBytesToTheSameBits) {
  const CounterRandom random(3);
  constexpr size_t kCount = 70001;
  std::vector<uint8_t> bytes(EncodedSize(GetParam(), kCount));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(random.Bits(i));
  ExpectSameDecoding(bytes, Numbers(Spread::kNormal, kCount, 9));
}

TEST_P(DeviceCodec, RefusesBytesThatDoNotLieAsTheKernelsNeedThem) {
  const DeviceMemory memory = OnDevice(std::vector<float>(64));
  const Status status =
      DeviceEncode(GetParam(), FloatsOf(memory), 1, BytesOf(memory) + 17, nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(DeviceCodecModule, SaysWhatIsMissingWhereItCannotWork) {
  std::string why;
  if (DeviceCodecUsable(&why)) GTEST_SKIP() << "nothing is missing here";
  EXPECT_FALSE(why.empty());
  EXPECT_FALSE(DeviceAdd(nullptr, 0, nullptr, nullptr).ok());
}

}  // namespace
}  // namespace atl
