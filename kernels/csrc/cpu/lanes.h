// A vector of floats as wide as the instruction set allows, in the notation that GCC and Clang share.
#pragma once

#include <utility>

#include "../core/dtype.h"
#include "simd.h"

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef uint32_t WideBits __attribute__((vector_size(4 * kLanes)));
typedef uint16_t HalfBits __attribute__((vector_size(2 * kLanes)));

template <class V>
KERNELS_INLINE V read_vector(const void* from) {
  V v;
  memcpy(&v, from, sizeof v);
  return v;
}

KERNELS_INLINE Lanes all_lanes(float value) { return value - Lanes{}; }

KERNELS_INLINE Lanes widened(Lanes v, float) { return v; }
KERNELS_INLINE Lanes widened(HalfBits v, bfloat16_t) {
  return bits_as<Lanes>(__builtin_convertvector(v, WideBits) << 16);
}
KERNELS_INLINE Lanes widened(HalfBits v, float16_t) {
#if defined(__AVX512F__)
  // The mask of all lanes spares a warning about the header of the plain intrinsic.
  return _mm512_maskz_cvtph_ps(0xffff, bits_as<__m256i>(v));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(bits_as<__m128i>(v));
#else
  Lanes wide;
  for (int i = 0; i < kLanes; ++i) wide[i] = load(float16_t{v[i]});
  return wide;
#endif
}

// The upper halves hold v rounded to bfloat16.
KERNELS_INLINE WideBits rounded_bits(Lanes v) {
  const WideBits bits = bits_as<WideBits>(v);
  return v == v ? bits + 0x7fffu + ((bits >> 16) & 1u) : WideBits{} + 0x7fc00000u;
}

KERNELS_INLINE Lanes narrowed(Lanes v, float) { return v; }
KERNELS_INLINE HalfBits narrowed(Lanes v, bfloat16_t) {
  return __builtin_convertvector(rounded_bits(v) >> 16, HalfBits);
}
KERNELS_INLINE HalfBits narrowed(Lanes v, float16_t) {
#if defined(__AVX512F__)
  return bits_as<HalfBits>(_mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return bits_as<HalfBits>(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  HalfBits half;
  for (int i = 0; i < kLanes; ++i) half[i] = store<float16_t>(v[i]).bits;
  return half;
#endif
}

// As the element type holds it.
KERNELS_INLINE Lanes rounded(Lanes v, float) { return v; }
KERNELS_INLINE Lanes rounded(Lanes v, bfloat16_t) {
  return bits_as<Lanes>(rounded_bits(v) & 0xffff0000u);
}
KERNELS_INLINE Lanes rounded(Lanes v, float16_t half) { return widened(narrowed(v, half), half); }

template <class T>
using Stored = decltype(narrowed(Lanes{}, T{}));

template <class T>
KERNELS_INLINE Lanes load_lanes(const T* from) {
  return widened(read_vector<Stored<T>>(from), T{});
}

// The first `count` values and zeros.
template <class T>
KERNELS_INLINE Lanes load_lanes(const T* from, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float))
    return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
#endif
  Stored<T> v{};
  memcpy(&v, from, count * sizeof(T));
  return widened(v, T{});
}

template <class T>
KERNELS_INLINE void store_lanes(T* to, Lanes values) {
  const Stored<T> v = narrowed(values, T{});
  memcpy(to, &v, sizeof v);
}

template <class T>
KERNELS_INLINE void store_lanes(T* to, Lanes values, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float))
    return _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), values);
#endif
  const Stored<T> v = narrowed(values, T{});
  memcpy(to, &v, count * sizeof(T));
}

// To an address that is a multiple of the vector's size.
template <class T>
KERNELS_INLINE void stream_lanes(T* to, Lanes values) {
  const Stored<T> v = narrowed(values, T{});
#if defined(__AVX512F__)
  if constexpr (sizeof v == 64) return _mm512_stream_si512((__m512i*)to, bits_as<__m512i>(v));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof v == 32) return _mm256_stream_si256((__m256i*)to, bits_as<__m256i>(v));
#endif
#if defined(__SSE2__)
  if constexpr (sizeof v == 16) return _mm_stream_si128((__m128i*)to, bits_as<__m128i>(v));
#endif
  memcpy(to, &v, sizeof v);
}

// Of a and b, one after the other, the values at these places.
template <int... kFrom>
KERNELS_INLINE Lanes shuffled(Lanes a, Lanes b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kFrom...);
#else
  // GCC has Clang's name for it since version 12 only.
  return __builtin_shuffle(a, b, WideBits{kFrom...});
#endif
}

template <int kFirst, int kStep, int... kLane>
KERNELS_INLINE Lanes picked(Lanes a, Lanes b, std::integer_sequence<int, kLane...>) {
  return shuffled<(kFirst + kStep * kLane)...>(a, b);
}

// Lane i is the value kFirst + kStep * i of a and b, one after the other.
template <int kFirst, int kStep = 1>
KERNELS_INLINE Lanes picked(Lanes a, Lanes b) {
  return picked<kFirst, kStep>(a, b, std::make_integer_sequence<int, kLanes>{});
}

// a[k], b[k], a[k + 1], b[k + 1], ...
template <int kFirst, int... kLane>
KERNELS_INLINE Lanes interleaved(Lanes a, Lanes b, std::integer_sequence<int, kLane...>) {
  return shuffled<(kFirst + kLane / 2 + kLane % 2 * kLanes)...>(a, b);
}
template <int kFirst>
KERNELS_INLINE Lanes interleaved(Lanes a, Lanes b) {
  return interleaved<kFirst>(a, b, std::make_integer_sequence<int, kLanes>{});
}

// Lane i is the value i + kBy of the line of which `at` is a part, with its neighbours.
template <int kBy>
KERNELS_INLINE Lanes moved(Lanes before, Lanes at, Lanes after) {
  static_assert(-kLanes <= kBy && kBy <= kLanes, "only neighbours are known");
  if constexpr (kBy < 0) return picked<kLanes + kBy>(before, at);
  return picked<kBy < 0 ? 0 : kBy>(at, after);
}

}  // namespace
