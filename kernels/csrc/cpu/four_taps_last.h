// Separable filters of four taps where channels come last: a window of columns, each summed up
// under the taps along y, moves along the row.
#pragma once

#include "../core/upfirdn2d.h"
#include "lanes.h"
#include "straight.h"
#include "taps.h"

namespace {

// kTaps of the four meet a pixel: 2 where zeros are inserted, else 4. There are kLanes channels at
// least, so that the last vector may overlap with the one before.
template <class T, int kTaps, bool kDecorated>
class FourTapsLast {
  static constexpr int kUp = 4 / kTaps;
  static constexpr int64_t kAhead = kPageBytes / sizeof(T);

 public:
  FourTapsLast(const UpfirdnArgs& args, const Filter<float>& filter)
      : a(args), streams(streams_pixels(args)), finish(args.epilogue) {
    for (int k = 0; k < 4; ++k) x_taps[k] = float(filter.row[k]);
    for (int k = 0; k < 4; ++k) y_taps[k] = float(filter.column[k]);
    window.resize(4 * a.c);
    zeros.resize(a.c);
    memset(zeros, 0, a.c * sizeof(T));
    if constexpr (kDecorated) {
      scales.resize(a.c);
      biases.resize(a.c);
    }
  }
  ~FourTapsLast() {
    if (streams) stream_end();
  }

  void item(int64_t item) {
    const int64_t bands = upfirdn2d_bands(a), rows = upfirdn2d_band_rows(a), n = item / bands;
    const int64_t begin = item % bands * rows;
    const int64_t end = begin + rows < a.out_h ? begin + rows : a.out_h;
    in = static_cast<const T*>(a.x) + n * a.in_h * a.in_w * a.c;
    out = static_cast<T*>(a.out) + n * a.out_h * a.out_w * a.c;
    if constexpr (kDecorated) find_sides(n);
    for (int64_t y = begin; y < end; ++y) row(y);
  }

 private:
  static bool streams_pixels(const UpfirdnArgs& a) {
    const bool aligned = reinterpret_cast<uintptr_t>(a.out) % sizeof(Stored<T>) == 0;
    return aligned && a.c % kLanes == 0 && result_leaves_caches(a, sizeof(T));
  }

  void find_sides(int64_t n) {
    const EpilogueArgs& e = a.epilogue;
    for (int64_t c = 0; c < a.c; ++c) {
      scales[c] = side_at(e.scale, n * a.c + c, 1.0f);
      biases[c] = side_at(e.bias, c, 0.0f);
    }
    strength = side_at(e.strength, 0, 1.0f);
    noise = noise_of(a, n);
  }

  void row(int64_t y) {
    const FirstTap top = first_tap(y, kUp, a.down_y, a.pad_y);
    for (int t = 0; t < kTaps; ++t) {
      const int64_t line = top.pixel + t;
      const bool inside = line >= 0 && line < a.in_h;
      rows[t] = inside ? in + line * a.in_w * a.c : zeros;
      steps[t] = inside ? a.c : 0;
      weights[t] = y_taps[top.tap + t * kUp];
    }
    int64_t ready = first_tap(0, kUp, a.down_x, a.pad_x).pixel;
    for (int64_t x = 0; x < a.out_w; ++x) {
      const FirstTap first = first_tap(x, kUp, a.down_x, a.pad_x);
      ready = ready > first.pixel ? ready : first.pixel;
      for (; ready < first.pixel + kTaps; ++ready) sum_column(ready);
      const float seen = kDecorated && noise ? strength * noise[y * a.out_w + x] : 0.0f;
      filter(first, seen, out + (y * a.out_w + x) * a.c);
    }
  }

  float* column(int64_t x) const { return window + (x & 3) * a.c; }

  KERNELS_LOOP void sum_column(int64_t x) {
    float* const to = column(x);
    if (x < 0 || x >= a.in_w) {
      memset(to, 0, a.c * sizeof(float));
      return;
    }
    const T* from[kTaps];
    Lanes w[kTaps];
    for (int t = 0; t < kTaps; ++t) {
      from[t] = rows[t] + x * steps[t];
      w[t] = all_lanes(weights[t]);
    }
    for_channels([&](int64_t c) {
      Lanes sum = w[0] * load_lanes(from[0] + c);
      for (int t = 1; t < kTaps; ++t) sum += w[t] * load_lanes(from[t] + c);
      // Of four rows that are read side by side, processors do not see ahead along each.
      __builtin_prefetch(from[kTaps - 1] + c + kAhead);
      if (a.down_y > 1) __builtin_prefetch(from[kTaps - 2] + c + kAhead);
      store_lanes(to + c, sum);
    });
  }

  KERNELS_LOOP void filter(const FirstTap& first, float seen, T* to) {
    const float* from[kTaps];
    Lanes w[kTaps];
    for (int t = 0; t < kTaps; ++t) {
      from[t] = column(first.pixel + t);
      w[t] = all_lanes(x_taps[first.tap + t * kUp]);
    }
    for_channels([&](int64_t c) {
      Lanes v = w[0] * load_lanes(from[0] + c);
      for (int t = 1; t < kTaps; ++t) v += w[t] * load_lanes(from[t] + c);
      if constexpr (kDecorated) {
        const Lanes offset = load_lanes(biases + c) + seen;
        v = finish(load_lanes(scales + c) * rounded(v, T{}) + offset);
      }
      if (streams)
        stream_lanes(to + c, v);
      else
        store_lanes(to + c, v);
    });
  }

  template <class Body>
  KERNELS_INLINE void for_channels(Body body) const {
    int64_t c = 0;
    for (; c + kLanes <= a.c; c += kLanes) body(c);
    if (c < a.c) body(a.c - kLanes);
  }

  const UpfirdnArgs& a;
  const bool streams;  // past the caches
  const Straight finish;
  float x_taps[4], y_taps[4];
  Buffer<float> window, scales, biases;
  Buffer<T> zeros;
  // Of the present sample and row.
  const T* in = nullptr;
  T* out = nullptr;
  float strength = 1;
  const float* noise = nullptr;
  const T* rows[kTaps];
  int64_t steps[kTaps];
  float weights[kTaps];
};

template <class T, int kTaps, bool kDecorated>
void four_taps_last(const UpfirdnArgs& a, const Filter<float>& filter, int64_t begin, int64_t end) {
  FourTapsLast<T, kTaps, kDecorated> pixels(a, filter);
  for (int64_t item = begin; item < end; ++item) pixels.item(item);
}

// Null where there are too few channels.
template <class T>
Resample find_four_taps_last(const UpfirdnArgs& a) {
  if (a.c < kLanes || a.up_x > 2) return nullptr;
  if (a.fused) return a.up_x == 2 ? four_taps_last<T, 2, true> : four_taps_last<T, 4, true>;
  return a.up_x == 2 ? four_taps_last<T, 2, false> : four_taps_last<T, 4, false>;
}

}  // namespace
