// AdamW (Loshchilov and Hutter 2019, algorithm 2) over plain host memory, and the sum of squares
// that gradient clipping needs. No torch, no allocation.
//
// Per element, in fp32, in this order:
//   1. gradient *= gradient_scale
//   2. exp_avg = beta1 exp_avg + (1 - beta1) gradient
//   3. exp_avg_sq = beta2 exp_avg_sq + (1 - beta2) gradient^2
//   4. parameter *= 1 - learning_rate weight_decay, where decay applies
//   5. parameter -= step_size exp_avg / (sqrt(exp_avg_sq) correction + epsilon)
// The coefficients (bias corrections included) are made in double precision once a step.
//
// Invariant: only +, -, *, / and square root are used, each rounded as IEEE 754 says (the targets
// compile with -ffp-contract=off), so that regions with different CPUs get the same bits from the
// same gradients. One pass over four arrays: bound by memory, 28 bytes an element.
// Thread rule: no state; calls on disjoint slices may run at once.
#pragma once

#include <cmath>
#include <cstdint>

#include "worker/trainer/trainer_abi.h"

namespace atl {

struct AdamWCoefficients {
  float gradient_scale;
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float keep;        // 1 - learning_rate x weight_decay
  float step_size;   // learning_rate / (1 - beta1^step)
  float correction;  // 1 / sqrt(1 - beta2^step)
  float epsilon;
};

// base^exponent by squaring: std::pow may differ in the last bit between C libraries.
inline double IntegerPower(double base, int64_t exponent) {
  double result = 1.0;
  for (; exponent > 0; exponent >>= 1, base *= base) {
    if (exponent & 1) result *= base;
  }
  return result;
}

// `settings.step` counts from 1.
inline AdamWCoefficients CoefficientsOf(const atoll_adamw& settings) {
  const double correction1 = 1.0 - IntegerPower(settings.beta1, settings.step);
  const double correction2 = 1.0 - IntegerPower(settings.beta2, settings.step);
  AdamWCoefficients c;
  c.gradient_scale = static_cast<float>(settings.gradient_scale);
  c.beta1 = static_cast<float>(settings.beta1);
  c.one_minus_beta1 = static_cast<float>(1.0 - settings.beta1);
  c.beta2 = static_cast<float>(settings.beta2);
  c.one_minus_beta2 = static_cast<float>(1.0 - settings.beta2);
  c.keep = static_cast<float>(1.0 - settings.learning_rate * settings.weight_decay);
  c.step_size = static_cast<float>(settings.learning_rate / correction1);
  c.correction = static_cast<float>(1.0 / std::sqrt(correction2));
  c.epsilon = static_cast<float>(settings.epsilon);
  return c;
}

// Updates `count` elements; the arrays do not overlap.
inline void AdamWUpdate(const AdamWCoefficients& c, bool decay, int64_t count,
                        float* __restrict parameters, const float* __restrict gradients,
                        float* __restrict exp_avg, float* __restrict exp_avg_sq) {
  const float keep = decay ? c.keep : 1.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float gradient = gradients[i] * c.gradient_scale;
    const float average = c.beta1 * exp_avg[i] + c.one_minus_beta1 * gradient;
    const float square = c.beta2 * exp_avg_sq[i] + c.one_minus_beta2 * (gradient * gradient);
    exp_avg[i] = average;
    exp_avg_sq[i] = square;
    const float denominator = std::sqrt(square) * c.correction + c.epsilon;
    parameters[i] = parameters[i] * keep - c.step_size * average / denominator;
  }
}

// Sum of squares in double precision. Element i goes to partial sum i mod 8 (so that the loop
// vectorizes), and the eight are added pairwise: the order depends on `count` alone.
inline double SquareSum(const float* values, int64_t count) {
  constexpr int kPartials = 8;
  double partial[kPartials] = {};
  const int64_t whole = count - count % kPartials;
  for (int64_t i = 0; i < whole; i += kPartials) {
    for (int k = 0; k < kPartials; ++k) {
      const double value = values[i + k];
      partial[k] += value * value;
    }
  }
  for (int64_t i = whole; i < count; ++i) {
    const double value = values[i];
    partial[i - whole] += value * value;
  }
  return ((partial[0] + partial[4]) + (partial[2] + partial[6])) +
         ((partial[1] + partial[5]) + (partial[3] + partial[7]));
}

}  // namespace atl
