// Vectors of up to 16 bytes, read and written at once, and their conversion to and from float.
#pragma once

#include <type_traits>

#include "../core/dtype.h"
#include "launch.h"

// V elements of type T. Reading one needs memory that is aligned to its size.
template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  using Word = std::conditional_t<sizeof(T) * V == 2, uint16_t, uint32_t>;
  Word words[sizeof(T) * V / sizeof(Word)];
};

// Elements in 16 bytes.
template <class T>
constexpr int kVectorLength = 16 / int(sizeof(T));

template <class T>
static __device__ __forceinline__ float2 widened(uint32_t pair) {
  if constexpr (std::is_same_v<T, bfloat16_t>)
    return {bits_as<float>(pair << 16), bits_as<float>(pair & 0xffff0000u)};
#ifdef __CUDA_ARCH__
  float2 wide;
  asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}"
      : "=f"(wide.x), "=f"(wide.y)
      : "r"(pair));
  return wide;
#else
  return {load(float16_t{uint16_t(pair)}), load(float16_t{uint16_t(pair >> 16)})};
#endif
}

template <class T>
static __device__ __forceinline__ uint32_t narrowed(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t pair;
  if constexpr (std::is_same_v<T, bfloat16_t>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return uint32_t(store<T>(high).bits) << 16 | store<T>(low).bits;
#endif
}

template <class T, int V>
static __device__ __forceinline__ void widen(const Vector<T, V>& from, float (&to)[V]) {
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < V; ++i) to[i] = bits_as<float>(from.words[i]);
  } else if constexpr (V == 1) {
    to[0] = widened<T>(from.words[0]).x;
  } else {
#pragma unroll
    for (int i = 0; i < V; i += 2) {
      const float2 pair = widened<T>(from.words[i / 2]);
      to[i] = pair.x;
      to[i + 1] = pair.y;
    }
  }
}

template <class T, int V>
static __device__ __forceinline__ Vector<T, V> narrow(const float (&from)[V]) {
  Vector<T, V> to;
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < V; ++i) to.words[i] = bits_as<uint32_t>(from[i]);
  } else if constexpr (V == 1) {
    to.words[0] = uint16_t(narrowed<T>(from[0], 0.0f));
  } else {
#pragma unroll
    for (int i = 0; i < V; i += 2) to.words[i / 2] = narrowed<T>(from[i], from[i + 1]);
  }
  return to;
}

// In one instruction: the stores of single words that compilers may make of it take the
// second-level cache four times as long. Nothing reads the memory again, but for a curved activation
// in a pass of its own, so that the caches are told to keep other lines.
template <class T, int V>
static __device__ __forceinline__ void write(T* to, const Vector<T, V>& from) {
  if constexpr (sizeof(from) == 16)
    __stcs(reinterpret_cast<uint4*>(to),
           make_uint4(from.words[0], from.words[1], from.words[2], from.words[3]));
  else
    *reinterpret_cast<Vector<T, V>*>(to) = from;
}

// As the element type holds it.
template <class T>
static __device__ __forceinline__ float rounded_to(float value) {
  float wide[1] = {value};
  widen(narrow<T, 1>(wide), wide);
  return wide[0];
}

// Within [-bound, bound]; what is no number stays none.
static __device__ __forceinline__ float limited(float v, float bound) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(v) : "f"(bound));
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(v) : "f"(-bound));
  return v;
#else
  v = v > bound ? bound : v;
  return v < -bound ? -bound : v;
#endif
}

// 0 below 0; what is no number stays none.
static __device__ __forceinline__ float rectified(float v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %0, 0f00000000;" : "+f"(v));
  return v;
#else
  return v < 0.0f ? 0.0f : v;
#endif
}

static inline bool aligned(const void* place, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(place) % uintptr_t(bytes) == 0;
}
