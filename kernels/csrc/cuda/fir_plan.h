// What the parts of the FIR resampling on the GPU share: how work is cut, and the filter's taps.
#pragma once

#include "../core/upfirdn2d.h"
#include "vector.h"

namespace {

// How the output is cut into walks, and the constants of an epilogue made of straight lines.
struct Plan {
  unsigned walks, strips, rows;  // of all images together, of one image; rows of a strip
  unsigned vectors;              // of one row, or of one row and all channels
  unsigned vectors_of_pixel;     // where channels come last
  bool aligned_noise;
  bool relu;
  float gain, gain_below, clamp;  // infinite: none
};

struct Taps {
  float x[4], y[4];
};

__device__ __forceinline__ float tap_at(const UpfirdnArgs& a, int64_t y, int64_t x) {
  const int64_t h = upfirdn2d_taps_y(a);
  if (!a.flip) y = h - 1 - y, x = a.f_w - 1 - x;
  return a.f_h > 0 ? __ldg(a.f + y * a.f_w + x) : __ldg(a.f + y) * __ldg(a.f + x);
}

// One output, whatever the filter; `from` is a plane, or one channel of a sample.
template <class T>
__device__ __noinline__ float sum_at(const UpfirdnArgs& a, const T* from, int64_t step, int64_t y,
                                     int64_t x) {
  const FirstTap top = first_tap(y, a.up_y, a.down_y, a.pad_y);
  const FirstTap left = first_tap(x, a.up_x, a.down_x, a.pad_x);
  float sum = 0.0f;
  for (int64_t i = top.tap, row = top.pixel; i < upfirdn2d_taps_y(a); i += a.up_y, ++row)
    for (int64_t j = left.tap, column = left.pixel; j < a.f_w; j += a.up_x, ++column)
      if (row >= 0 && row < a.in_h && column >= 0 && column < a.in_w)
        sum += tap_at(a, i, j) * load(from[(row * a.in_w + column) * step]);
  return sum * float(a.gain);
}

}  // namespace
