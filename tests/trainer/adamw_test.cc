// AdamW against a plain double-precision reference.
#include "worker/trainer/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/random.h"

namespace atl {
namespace {

// Algorithm 2 of Loshchilov and Hutter 2019 as it is printed, in double precision.
struct Reference {
  std::vector<double> parameters, m, v;
  void Step(const atoll_adamw& s, bool decay, const std::vector<float>& gradients) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      const double g = gradients[i] * s.gradient_scale;
      m[i] = s.beta1 * m[i] + (1 - s.beta1) * g;
      v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g;
      const double m_hat = m[i] / (1 - std::pow(s.beta1, s.step));
      const double v_hat = v[i] / (1 - std::pow(s.beta2, s.step));
      const double wd = decay ? s.weight_decay : 0.0;
      parameters[i] -=
          s.learning_rate * (m_hat / (std::sqrt(v_hat) + s.epsilon) + wd * parameters[i]);
    }
  }
};

std::vector<float> Normals(uint64_t seed, int64_t count, double deviation) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(deviation * CounterRandom(seed).Normal(i));
  }
  return values;
}

void CompareWithReference(bool decay) {
  constexpr int64_t kCount = 1003;  // no multiple of any vector width
  std::vector<float> parameters = Normals(1, kCount, 0.02), m(kCount), v(kCount);
  Reference reference{{parameters.begin(), parameters.end()},
                      std::vector<double>(kCount),
                      std::vector<double>(kCount)};
  for (int64_t step = 1; step <= 500; ++step) {
    const atoll_adamw settings = {step, 1e-3 * std::min(1.0, step / 20.0), 0.9, 0.95, 1e-8,
                                  0.1,  step % 3 == 0 ? 0.25 : 1.0};
    const std::vector<float> gradients = Normals(100 + step, kCount, 0.01);
    AdamWUpdate(CoefficientsOf(settings), decay, kCount, parameters.data(), gradients.data(),
                m.data(), v.data());
    reference.Step(settings, decay, gradients);
  }
  for (int64_t i = 0; i < kCount; ++i) {
    ASSERT_NEAR(parameters[i], reference.parameters[i], 2e-6) << i;
    ASSERT_NEAR(m[i], reference.m[i], 1e-7) << i;
    ASSERT_NEAR(v[i], reference.v[i], 1e-9) << i;
  }
}

TEST(AdamW, AgreesWithADoubleReferenceOver500StepsWithDecay) { CompareWithReference(true); }
TEST(AdamW, AgreesWithADoubleReferenceOver500StepsWithoutDecay) { CompareWithReference(false); }

TEST(AdamW, GivesTheSameBitsHoweverTheVectorIsCut) {
  constexpr int64_t kCount = 1024;
  const std::vector<float> gradients = Normals(2, kCount, 0.01);
  const atoll_adamw settings = {3, 1e-3, 0.9, 0.95, 1e-8, 0.1, 0.5};
  std::vector<float> whole = Normals(1, kCount, 0.02), m(kCount, 0.01f), v(kCount, 1e-4f);
  std::vector<float> parts = whole, m_parts = m, v_parts = v;
  AdamWUpdate(CoefficientsOf(settings), true, kCount, whole.data(), gradients.data(), m.data(),
              v.data());
  for (int64_t at = 0; at < kCount; at += 256) {
    AdamWUpdate(CoefficientsOf(settings), true, 256, parts.data() + at, gradients.data() + at,
                m_parts.data() + at, v_parts.data() + at);
  }
  EXPECT_EQ(whole, parts);
  EXPECT_EQ(m, m_parts);
  EXPECT_EQ(v, v_parts);
}

TEST(AdamW, LeavesZerosWithoutGradientAtZero) {
  std::vector<float> p(5), g(5), m(5), v(5);
  for (int64_t step = 1; step <= 10; ++step) {
    AdamWUpdate(CoefficientsOf({step, 1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0}), true, 5, p.data(),
                g.data(), m.data(), v.data());
  }
  EXPECT_EQ(p, std::vector<float>(5));
}

TEST(IntegerPower, AgreesWithTheLibraryForSmallAndHugeExponents) {
  for (const int64_t exponent : {1, 2, 3, 20, 1000, 123456}) {
    EXPECT_NEAR(IntegerPower(0.999, exponent), std::pow(0.999, exponent), 1e-12) << exponent;
  }
  EXPECT_EQ(IntegerPower(0.9, int64_t{1} << 62), 0.0);
  EXPECT_EQ(IntegerPower(0.0, 1), 0.0);
}

TEST(SquareSum, AgreesWithAPlainSumForEveryRemainder) {
  const std::vector<float> values = Normals(7, 40, 1.0);
  for (int64_t count = 0; count <= 40; ++count) {
    double plain = 0;
    for (int64_t i = 0; i < count; ++i) plain += double{values[i]} * values[i];
    EXPECT_NEAR(SquareSum(values.data(), count), plain, 1e-12) << count;
  }
}

TEST(SquareSum, KeepsSmallTermsBesideLargeOnes) {
  std::vector<float> values(100001, 0x1p-10f);  // its square is exact
  values[0] = 1e4f;
  EXPECT_NEAR(SquareSum(values.data(), values.size()), 1e8 + 100000 * 0x1p-20, 1e-6);
}

}  // namespace
}  // namespace atl
