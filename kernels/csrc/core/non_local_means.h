// Non-local means of images [n, c, h, w] of any strides, Buades, Coll and Morel 2005.
#pragma once

#include "dtype.h"

struct NonLocalMeansArgs {
  Dtype dtype;
  int64_t n, c, h, w;
  int64_t stride_n, stride_c, stride_h, stride_w;  // of x and of out alike, in elements
  int64_t patch_size, patch_distance;              // odd, at least 1; at least 0
  double strength, sigma;                          // the h of the definition, and the noise's
  const void* x;
  void* out;
};

// Items of work on the CPU are tiles of an image; each is computed on its own and worth a thread.
constexpr int64_t kTileHeight = 32;
constexpr int64_t kTileWidth = 256;

static inline int64_t non_local_means_items(const NonLocalMeansArgs& a) {
  const int64_t rows = (a.h + kTileHeight - 1) / kTileHeight;
  const int64_t columns = (a.w + kTileWidth - 1) / kTileWidth;
  return a.n * rows * columns;
}

// The pixel of a line of `size` that lies at `i` when the line is mirrored at its end pixels,
// without repeating them, as often as it takes: c b | a b c | b a.
static KERNELS_INLINE int64_t reflected(int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  const int64_t period = size > 1 ? 2 * (size - 1) : 1;
  const int64_t phase = (i % period + period) % period;
  return phase < size ? phase : period - phase;
}

// Weight of a patch whose squared differences add up to s: 2^-(slope * (s - free)), with s - free
// limited to [0, limit]. What is beyond would have a weight below 2^-126.
struct PatchWeight {
  double slope, free, limit;
};

static inline PatchWeight patch_weight(const NonLocalMeansArgs& a) {
  const double log2_e = 1.4426950408889634074;
  const double terms = double(a.patch_size * a.patch_size * a.c);
  const double slope = log2_e / (a.strength * a.strength * terms);
  return {slope, 2.0 * a.sigma * a.sigma * terms, 126.0 / slope};
}
