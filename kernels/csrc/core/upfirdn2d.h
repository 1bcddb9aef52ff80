// Zero insertion, padding or cropping, FIR filter, decimation of images [n, c, h, w], with the
// epilogue of a layer after it where `fused`. Along one axis, output o is the sum over taps k of
//
//   g[k] * u[o * down - pad + k],   u[i * up] = x[i], 0 elsewhere,   g = flip ? f : reversed f.
#pragma once

#include "epilogue.h"

struct UpfirdnArgs {
  Dtype dtype;
  bool channels_last;  // memory order [n, h, w, c]
  bool flip;
  bool fused;
  int64_t n, c, in_h, in_w, out_h, out_w;
  int64_t up_x, up_y, down_x, down_y;
  int64_t pad_x, pad_y;  // at the left and at the top; negative: cropped
  int64_t f_h, f_w;      // f_h = 0: f is one line for both axes
  double gain;           // of the whole, not of one axis
  const void* x;
  const float* f;
  void* out;
  EpilogueArgs epilogue;  // where fused; n, c, p are those of out, but x, dy and out are not read
};

// Items of work: bands of rows, of one channel or, where channels come last, of all.
constexpr int64_t kValuesPerBand = 16384;
constexpr int64_t kLeastRowsPerBand = 8;

static inline int64_t upfirdn2d_band_rows(const UpfirdnArgs& a) {
  const int64_t row = a.out_w * (a.channels_last ? a.c : 1);
  const int64_t rows = kValuesPerBand / (row > 0 ? row : 1);
  return rows > kLeastRowsPerBand ? rows : kLeastRowsPerBand;
}

static inline int64_t upfirdn2d_bands(const UpfirdnArgs& a) {
  return (a.out_h + upfirdn2d_band_rows(a) - 1) / upfirdn2d_band_rows(a);
}

static inline int64_t upfirdn2d_items(const UpfirdnArgs& a) {
  if (a.n * a.c * a.out_w == 0) return 0;
  return a.n * (a.channels_last ? 1 : a.c) * upfirdn2d_bands(a);
}

static KERNELS_INLINE int64_t upfirdn2d_taps_y(const UpfirdnArgs& a) {
  return a.f_h > 0 ? a.f_h : a.f_w;
}

// The first tap of an output that meets a pixel, and that pixel; tap + t * up meets pixel + t.
struct FirstTap {
  int64_t tap, pixel;
};

static KERNELS_INLINE FirstTap first_tap(int64_t o, int64_t up, int64_t down, int64_t pad) {
  const int64_t begin = o * down - pad;
  const int64_t past = (begin % up + up) % up;
  const int64_t tap = past > 0 ? up - past : 0;
  return {tap, (begin + tap) / up};
}
