// exp, tanh and log1p without branches or calls, so that the compiler can vectorise loops of them.
#pragma once

#include <cmath>

#include "dtype.h"

static KERNELS_INLINE float power_of_two(int32_t n) {
  return bits_as<float>(uint32_t(n + 127) << 23);
}

// Relative error below 2e-7 on [-87.3, 88.7]; stays at the bound below and is infinite above.
static KERNELS_INLINE float vector_exp(float v) {
  const float above = v > 88.72f ? bits_as<float>(0x7f800000u) : 0.0f;
  v = v > 88.72f ? 88.72f : v;
  v = v < -87.33f ? -87.33f : v;
  const float turns = v * 1.44269504089f;
  // rintf would be a call where there is no SSE4.1.
  const int32_t whole = int32_t(turns + (turns < 0.0f ? -0.5f : 0.5f)), half = whole / 2;
  const float n = float(whole);
  // ln 2 in two parts, the first one exact in products with n (Cody and Waite 1980).
  const float r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  // In two factors: 2^128 itself is no float.
  return p * power_of_two(half) * power_of_two(whole - half) + above;
}
static KERNELS_INLINE double vector_exp(double v) { return exp(v); }

static KERNELS_INLINE float vector_tanh(float v) {
  const float square = v * v;
  float near = 62.0f / 2835.0f;
  near = near * square - 17.0f / 315.0f;
  near = near * square + 2.0f / 15.0f;
  near = near * square - 1.0f / 3.0f;
  near = v + v * square * near;
  // Near 0 this loses all digits, and the series above has them.
  const float far = 1.0f - 2.0f / (vector_exp(2.0f * v) + 1.0f);
  return square < 0.09f ? near : far;
}
static KERNELS_INLINE double vector_tanh(double v) { return tanh(v); }

// For 0 <= v <= 1, as 2 atanh(v / (2 + v)).
static KERNELS_INLINE float vector_log1p(float v) {
  const float s = v / (2.0f + v), square = s * s;
  float p = 1.0f / 15.0f;
  p = p * square + 1.0f / 13.0f;
  p = p * square + 1.0f / 11.0f;
  p = p * square + 1.0f / 9.0f;
  p = p * square + 1.0f / 7.0f;
  p = p * square + 1.0f / 5.0f;
  p = p * square + 1.0f / 3.0f;
  return 2.0f * s + 2.0f * s * square * p;
}
static KERNELS_INLINE double vector_log1p(double v) { return log1p(v); }
