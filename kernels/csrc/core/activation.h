// Activations and their slopes, numbered as in kernels/curves.py.
#pragma once

#include <cmath>

#include "dtype.h"

enum class Act : int32_t { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };

// Klambauer et al. 2017, equation 14.
constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSeluAlpha = 1.6732632423543772848170429916717;

#ifdef __CUDACC__
#define KERNELS_EXP exp
#define KERNELS_TANH tanh
#define KERNELS_LOG1P log1p
#else
#include "vector_math.h"
#define KERNELS_EXP vector_exp
#define KERNELS_TANH vector_tanh
#define KERNELS_LOG1P vector_log1p
#endif

// exp(v) - 1, which loses its digits near 0, where the series has them.
template <class R>
static KERNELS_INLINE R exp_less_one(R v) {
  R near = v * (R(1) / R(120)) + R(1) / R(24);
  near = near * v + R(1) / R(6);
  near = near * v + R(0.5);
  near = near * v * v + v;
  const R far = KERNELS_EXP(v) - R(1);
  return v > R(-0.01) ? near : far;
}

template <class R>
static KERNELS_INLINE R logistic(R v) {
  return R(1) / (R(1) + KERNELS_EXP(-v));
}

template <Act A, class R>
static KERNELS_INLINE R activate(R v, R alpha) {
  // Written so that NaN stays NaN.
  if constexpr (A == Act::relu) return v < R(0) ? R(0) : v;
  if constexpr (A == Act::lrelu) return v > R(0) ? v : v * alpha;
  if constexpr (A == Act::tanh) return KERNELS_TANH(v);
  if constexpr (A == Act::sigmoid) return logistic(v);
  if constexpr (A == Act::elu) return v > R(0) ? v : exp_less_one(v);
  if constexpr (A == Act::selu)
    return R(kSeluScale) * (v > R(0) ? v : R(kSeluAlpha) * exp_less_one(v));
  if constexpr (A == Act::softplus)
    return (v < R(0) ? R(0) : v) + KERNELS_LOG1P(KERNELS_EXP(v < R(0) ? v : -v));
  if constexpr (A == Act::swish) return v * logistic(v);
  return v;
}

template <Act A, class R>
static KERNELS_INLINE R slope(R v, R alpha) {
  if constexpr (A == Act::relu) return v > R(0) ? R(1) : R(0);
  if constexpr (A == Act::lrelu) return v > R(0) ? R(1) : alpha;
  if constexpr (A == Act::tanh) return R(1) - KERNELS_TANH(v) * KERNELS_TANH(v);
  if constexpr (A == Act::sigmoid) return logistic(v) * (R(1) - logistic(v));
  if constexpr (A == Act::elu) return v > R(0) ? R(1) : KERNELS_EXP(v);
  if constexpr (A == Act::selu) return R(kSeluScale) * (v > R(0) ? R(1) : R(kSeluAlpha) * KERNELS_EXP(v));
  if constexpr (A == Act::softplus) return logistic(v);
  if constexpr (A == Act::swish) return logistic(v) * (R(1) + v * (R(1) - logistic(v)));
  return R(1);
}
