// Stores that go around the caches; `KERNELS_LEVEL` decides their width.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__unix__)
#include <unistd.h>
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// A loop that stays a function: inlined into many places it is optimised less, and the library grows.
#define KERNELS_LOOP __attribute__((noinline))

// Double precision is for checking: its code is compiled once, and the binding calls no other.
#if defined(KERNELS_IN_DOUBLE)
#define KERNELS_IN_BASELINE(call) call
#else
#define KERNELS_IN_BASELINE(call) void()
#endif

namespace {

constexpr int64_t kPageBytes = 4096;

// Of the last-level cache, what one process may count on: large ones are shared by many cores.
// KERNELS_STREAM_FROM replaces it, so that tests can do with small results.
inline int64_t cache_bytes() {
  constexpr int64_t kLeast = int64_t(32) << 20, kShare = 8;
  const char* told = std::getenv("KERNELS_STREAM_FROM");
  if (told && *told) return std::atoll(told);
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const int64_t share = sysconf(_SC_LEVEL3_CACHE_SIZE) / kShare;
  return share > kLeast ? share : kLeast;
#else
  return kLeast;
#endif
}

// Whether a result is no longer in the caches when it is read, because it is too large or what it is
// made from has taken its place. Writing it with ordinary stores would read it first: three passes
// over memory instead of two.
inline bool leaves_caches(int64_t bytes_in, int64_t bytes_out) {
  static const int64_t cache = cache_bytes();
  return bytes_out >= cache || bytes_in + bytes_out >= 2 * cache;
}

// Elements of a buffer that stays in the first-level cache.
constexpr int64_t kChunk = 2048;

// memcpy to memory that is not read again soon.
inline void stream_copy(void* to, const void* from, int64_t bytes) {
#if defined(__SSE2__)
#if defined(__AVX512F__)
  using Vector = __m512i;
#elif defined(__AVX2__)
  using Vector = __m256i;
#else
  using Vector = __m128i;
#endif
  constexpr int64_t kWidth = sizeof(Vector);
  char* target = static_cast<char*>(to);
  const char* source = static_cast<const char*>(from);
  int64_t head = (kWidth - int64_t(reinterpret_cast<uintptr_t>(target) % kWidth)) % kWidth;
  head = head < bytes ? head : bytes;
  memcpy(target, source, head);
  int64_t i = head;
  for (; i + kWidth <= bytes; i += kWidth) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<Vector*>(target + i), _mm512_loadu_si512(source + i));
#elif defined(__AVX2__)
    const Vector v = _mm256_loadu_si256(reinterpret_cast<const Vector*>(source + i));
    _mm256_stream_si256(reinterpret_cast<Vector*>(target + i), v);
#else
    const Vector v = _mm_loadu_si128(reinterpret_cast<const Vector*>(source + i));
    _mm_stream_si128(reinterpret_cast<Vector*>(target + i), v);
#endif
  }
  memcpy(target + i, source + i, bytes - i);
#else
  memcpy(to, from, bytes);
#endif
}

// Streaming stores are not ordered: they must be complete before another thread reads.
inline void stream_end() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace
