// Non-local means in passes over the offsets of the search window (Froment 2014, after Darbon et
// al. 2008): the squared differences of the image and its shifted self are summed over patches
// by box sums. d(p, p + t) = d(p + t, p), so one pass serves the offsets t and -t.
#pragma once

#include <cmath>
#include <new>

#include "../core/non_local_means.h"
#include "simd.h"

namespace KERNELS_LEVEL {
namespace {

// 2^-v for 0 <= v <= 126 with a relative error below 2e-7, and NaN for NaN.
KERNELS_INLINE float inverse_exp2(float v) {
  const int32_t whole = int32_t(v + 0.5f);
  const float rest = float(whole) - v;
  float power = 1.3264727313e-3f;
  power = power * rest + 9.6715129912e-3f;
  power = power * rest + 5.5507337433e-2f;
  power = power * rest + 2.4022242085e-1f;
  power = power * rest + 6.9314697760e-1f;
  power = power * rest + 1.0f;
  return power * bits_as<float>((127u - uint32_t(whole)) << 23);
}
KERNELS_INLINE double inverse_exp2(double v) { return std::exp2(-v); }

// sums[x] = or += v[x] + v[x + step] + ... of `Taps` terms.
template <int Taps, bool Add, class R>
void add_taps(const R* __restrict v, int64_t step, int64_t count, R* __restrict sums) {
  for (int64_t x = 0; x < count; ++x) {
    R sum = Add ? sums[x] : R(0);
    for (int i = 0; i < Taps; ++i) sum += v[x + i * step];
    sums[x] = sum;
  }
}

// Directly summed: running sums would carry the rounding errors of bright edges along the row.
template <class R>
void box_sums(const R* v, int64_t step, int64_t taps, int64_t count, R* sums) {
  switch (taps % 8) {
    case 1: add_taps<1, false>(v, step, count, sums); break;
    case 3: add_taps<3, false>(v, step, count, sums); break;
    case 5: add_taps<5, false>(v, step, count, sums); break;
    default: add_taps<7, false>(v, step, count, sums);
  }
  for (int64_t i = taps % 8; i < taps; i += 8) add_taps<8, true>(v + i * step, step, count, sums);
}

template <bool Add, class R>
void add_squares(const R* __restrict a, const R* __restrict b, int64_t count, R* __restrict sums) {
  for (int64_t x = 0; x < count; ++x) {
    const R square = (a[x] - b[x]) * (a[x] - b[x]);
    sums[x] = Add ? sums[x] + square : square;
  }
}

template <class R>
void weigh(const PatchWeight& of, int64_t count, R* sums) {
  const R slope(of.slope), free(of.free), limit(of.limit);
  for (int64_t x = 0; x < count; ++x) {
    R excess = sums[x] - free;
    excess = excess < R(0) ? R(0) : excess;
    excess = excess > limit ? limit : excess;
    sums[x] = inverse_exp2(slope * excess);
  }
}

template <class R>
void add_product(const R* __restrict a, const R* __restrict b, int64_t count, R* __restrict sums) {
  for (int64_t x = 0; x < count; ++x) sums[x] += a[x] * b[x];
}

template <class R>
void add(const R* __restrict a, int64_t count, R* __restrict sums) {
  for (int64_t x = 0; x < count; ++x) sums[x] += a[x];
}

// A tile of one image with its surroundings, and the sums over the offsets passed so far.
template <class R>
class Tile {
 public:
  explicit Tile(const NonLocalMeansArgs& args)
      : a(args),
        radius(args.patch_size / 2),
        halo(args.patch_distance + radius),
        pitch(lanes((args.w < kTileWidth ? args.w : kTileWidth) + 2 * halo) + 2 * kLanes),
        plane((kTileHeight + 2 * halo) * pitch),
        weight_of(patch_weight(args)) {
    const int64_t in_sums = (a.c + 1) * kTileHeight * kTileWidth;
    const int64_t in_rows = (a.patch_size + 2) * pitch;
    pixels = new (std::align_val_t{64}) R[a.c * plane + in_sums + in_rows]();
    sums = pixels + a.c * plane;
    squares = sums + in_sums;
    columns = squares + a.patch_size * pitch;
    weights = columns + pitch;
  }
  ~Tile() { operator delete[](pixels, std::align_val_t{64}); }
  Tile(const Tile&) = delete;
  Tile& operator=(const Tile&) = delete;

  template <class T>
  void denoise(int64_t item) {
    locate(item);
    read<T>();
    start();
    for (int64_t y = 0; y <= a.patch_distance; ++y)
      for (int64_t x = y == 0 ? 1 : -a.patch_distance; x <= a.patch_distance; ++x) pass(y, x);
    write<T>();
  }

 private:
  // Loops run over whole vectors: what they compute beyond a row is never written to the image.
  static constexpr int64_t kLanes = 16;
  static int64_t lanes(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

  // Rows of the tile, seen from its first pixel; negative indices lie in the surroundings.
  R* pixel_row(int64_t c, int64_t y) { return pixels + c * plane + (y + halo) * pitch + halo; }
  R* sum_row(int64_t c, int64_t y) { return sums + (c * kTileHeight + y) * kTileWidth; }

  void locate(int64_t item) {
    const int64_t tiles_x = (a.w + kTileWidth - 1) / kTileWidth;
    const int64_t tiles_y = (a.h + kTileHeight - 1) / kTileHeight;
    left = item % tiles_x * kTileWidth;
    top = item / tiles_x % tiles_y * kTileHeight;
    image = item / tiles_x / tiles_y * a.stride_n;
    width = a.w - left < kTileWidth ? a.w - left : kTileWidth;
    height = a.h - top < kTileHeight ? a.h - top : kTileHeight;
  }

  template <class T>
  void read() {
    for (int64_t c = 0; c < a.c; ++c)
      for (int64_t y = -halo; y < height + halo; ++y) {
        const T* row = static_cast<const T*>(a.x) + image + c * a.stride_c +
                       reflected(top + y, a.h) * a.stride_h;
        R* to = pixel_row(c, y);
        for (int64_t x = -halo; x < pitch - halo; ++x)
          to[x] = load(row[reflected(left + x, a.w) * a.stride_w]);
      }
  }

  template <class T>
  void write() {
    for (int64_t c = 0; c < a.c; ++c)
      for (int64_t y = 0; y < height; ++y) {
        T* row = static_cast<T*>(a.out) + image + c * a.stride_c + (top + y) * a.stride_h;
        const R *sum = sum_row(c, y), *total = sum_row(a.c, y);
        for (int64_t x = 0; x < width; ++x)
          row[(left + x) * a.stride_w] = store<T>(sum[x] / total[x]);
      }
  }

  // The offset 0, whose weight is 1. The sum of weights follows the sums of the channels.
  void start() {
    for (int64_t y = 0; y < height; ++y)
      for (int64_t c = 0; c <= a.c; ++c) {
        const R* from = pixel_row(c < a.c ? c : 0, y);
        R* sum = sum_row(c, y);
        for (int64_t x = 0; x < width; ++x) sum[x] = c < a.c ? from[x] : R(1);
      }
  }

  // Weights of the patches at p and p + t for all p of the tile and of the tile moved by -t.
  void pass(int64_t dy, int64_t dx) {
    const int64_t begin = dx > 0 ? -dx : 0;
    const int64_t count = lanes(width + (dx > 0 ? dx : -dx));
    const int64_t wide = lanes(count + 2 * radius);
    for (int64_t y = -dy - radius; y < height + radius; ++y) {
      const int64_t row = y + dy + radius;
      R* squared = squares + row % a.patch_size * pitch;
      square_row(y, begin - radius, dy, dx, wide, squared);
      if (row + 1 < a.patch_size) continue;
      box_sums(squares, pitch, a.patch_size, wide, columns);
      box_sums(columns, 1, a.patch_size, count, weights);
      weigh(weight_of, count, weights);
      const int64_t centre = y - radius;
      if (centre >= 0) accumulate(weights - begin, centre, centre + dy, dx);
      if (centre + dy < height) accumulate(weights - begin - dx, centre + dy, centre, -dx);
    }
  }

  void square_row(int64_t y, int64_t x, int64_t dy, int64_t dx, int64_t count, R* squared) {
    add_squares<false>(pixel_row(0, y) + x, pixel_row(0, y + dy) + x + dx, count, squared);
    for (int64_t c = 1; c < a.c; ++c)
      add_squares<true>(pixel_row(c, y) + x, pixel_row(c, y + dy) + x + dx, count, squared);
  }

  void accumulate(const R* weight, int64_t y, int64_t from_y, int64_t dx) {
    for (int64_t c = 0; c < a.c; ++c)
      add_product(weight, pixel_row(c, from_y) + dx, lanes(width), sum_row(c, y));
    add(weight, lanes(width), sum_row(a.c, y));
  }

  const NonLocalMeansArgs& a;
  const int64_t radius, halo, pitch, plane;
  const PatchWeight weight_of;
  R *pixels, *sums, *squares, *columns, *weights;
  int64_t image, top, left, height, width;
};

template <class T>
void denoise_items(const NonLocalMeansArgs& a, int64_t begin, int64_t end) {
  Tile<acc_t<T>> tile(a);
  for (int64_t item = begin; item < end; ++item) tile.template denoise<T>(item);
}

}  // namespace

void non_local_means(const NonLocalMeansArgs& a, int64_t begin, int64_t end) {
  switch (a.dtype) {
    case Dtype::f32: return denoise_items<float>(a, begin, end);
    case Dtype::f64: return KERNELS_IN_BASELINE((denoise_items<double>(a, begin, end)));
    case Dtype::bf16: return denoise_items<bfloat16_t>(a, begin, end);
    case Dtype::f16: return denoise_items<float16_t>(a, begin, end);
  }
}

}  // namespace KERNELS_LEVEL
