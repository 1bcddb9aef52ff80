// Element types and their arithmetic, for host and device, without a torch header.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define KERNELS_INLINE __host__ __device__ __forceinline__
#else
#define KERNELS_INLINE inline __attribute__((always_inline))
#endif

enum class Dtype : int32_t { f32, f64, bf16, f16 };

struct bfloat16_t {
  uint16_t bits;
};
struct float16_t {
  uint16_t bits;
};

// Sums and products are formed in this type.
template <class T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class T>
using acc_t = typename Accumulate<T>::type;

template <class To, class From>
static KERNELS_INLINE To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "a copy of bits needs equal sizes");
  To result;
  memcpy(&result, &value, sizeof result);
  return result;
}

static KERNELS_INLINE float load(float value) { return value; }
static KERNELS_INLINE double load(double value) { return value; }
static KERNELS_INLINE float load(bfloat16_t value) {
  return bits_as<float>(uint32_t(value.bits) << 16);
}
static KERNELS_INLINE float load(float16_t value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const uint32_t rest = uint32_t(value.bits & 0x7fffu) << 13;
  // 2^112 moves the exponent's bias from 15 to 127, subnormals included; infinity and NaN stay.
  const float scaled = bits_as<float>(rest) * 5.192296858534828e33f;
  const uint32_t special = rest >= 0x0f800000u ? 0x7f800000u : 0u;
  return bits_as<float>(bits_as<uint32_t>(scaled) | special | sign);
}

template <class T>
static KERNELS_INLINE T store(acc_t<T> value);

template <>
KERNELS_INLINE float store<float>(float value) {
  return value;
}
template <>
KERNELS_INLINE double store<double>(double value) {
  return value;
}
template <>
KERNELS_INLINE bfloat16_t store<bfloat16_t>(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {uint16_t(nan ? 0x7fc0u : rounded)};
}
template <>
KERNELS_INLINE float16_t store<float16_t>(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14 adding 0.5 leaves the subnormal number in the lowest bits, rounded by the adder.
  const uint32_t small = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? small : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return {uint16_t(sign | half)};
}

// The number nearest to `value` that the type can hold.
static inline double rounded(double value, Dtype dtype) {
  switch (dtype) {
    case Dtype::f32: return double(float(value));
    case Dtype::f64: return value;
    case Dtype::bf16: return double(load(store<bfloat16_t>(float(value))));
    case Dtype::f16: return double(load(store<float16_t>(float(value))));
  }
  return value;
}
