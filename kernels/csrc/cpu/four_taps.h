// Separable filters of four taps, factors 1 and 2, on planes: both axes in registers, so that each
// value is read from memory and written to memory in the same loop.
#pragma once

#include "../core/upfirdn2d.h"
#include "lanes.h"
#include "straight.h"
#include "taps.h"

namespace {

// Rows of a plane [h, w] under the taps along y.
template <class T, int kTaps>
struct Rows {
  const T* rows[kTaps];
  Lanes weights[kTaps];
  int64_t width;

  // Columns kLanes * j and following.
  KERNELS_INLINE Lanes block(int64_t j) const {
    const int64_t left = width - j * kLanes;
    Lanes sum{};
    if (left >= kLanes)
      for (int t = 0; t < kTaps; ++t) sum += weights[t] * load_lanes(rows[t] + j * kLanes);
    else if (left > 0)
      for (int t = 0; t < kTaps; ++t) sum += weights[t] * load_lanes(rows[t] + j * kLanes, left);
    return sum;
  }
};

template <class T, int kUp, int kDown, int kPad, bool kDecorated>
class FourTaps {
  static constexpr int kTaps = 4 / kUp;
  static constexpr int64_t kAhead = kPageBytes / sizeof(T);
  using Source = Rows<T, kTaps>;

 public:
  FourTaps(const UpfirdnArgs& args, const Filter<float>& filter)
      : a(args), streams(streams_rows(args)), finish(args.epilogue) {
    for (int k = 0; k < 4; ++k) x[k] = all_lanes(float(filter.row[k]));
    for (int k = 0; k < 4; ++k) y_taps[k] = float(filter.column[k]);
    zeros.resize(a.in_w);
    memset(zeros, 0, a.in_w * sizeof(T));
  }
  ~FourTaps() {
    if (streams) stream_end();
  }

  void item(int64_t item) {
    const int64_t bands = upfirdn2d_bands(a), rows = upfirdn2d_band_rows(a), plane = item / bands;
    const int64_t begin = item % bands * rows;
    in = static_cast<const T*>(a.x) + plane * a.in_h * a.in_w;
    out = static_cast<T*>(a.out) + plane * a.out_h * a.out_w;
    if constexpr (kDecorated) find_sides(plane / a.c, plane % a.c);
    band(begin, begin + rows < a.out_h ? begin + rows : a.out_h);
  }

 private:
  static bool streams_rows(const UpfirdnArgs& a) {
    const bool aligned = reinterpret_cast<uintptr_t>(a.out) % sizeof(Stored<T>) == 0;
    return aligned && a.out_w % kLanes == 0 && result_leaves_caches(a, sizeof(T));
  }

  void find_sides(int64_t n, int64_t c) {
    const EpilogueArgs& e = a.epilogue;
    scale = side_at(e.scale, n * a.c + c, 1.0f);
    bias = side_at(e.bias, c, 0.0f);
    strength = side_at(e.strength, 0, 1.0f);
    noise = noise_of(a, n);
  }

  KERNELS_LOOP void band(int64_t begin, int64_t end) {
    Source source;
    source.width = a.in_w;
    for (int64_t y = begin; y < end; ++y) {
      const FirstTap first = first_tap(y, kUp, kDown, a.pad_y);
      for (int t = 0; t < kTaps; ++t) {
        const int64_t row = first.pixel + t;
        source.rows[t] = row < 0 || row >= a.in_h ? zeros : in + row * a.in_w;
        source.weights[t] = all_lanes(y_taps[first.tap + t * kUp]);
      }
      ahead = in + (first.pixel + 2) * a.in_w + kAhead;
      to = out + y * a.out_w;
      at = y * a.out_w;
      if constexpr (kUp == 2)
        double_row(source);
      else if constexpr (kDown == 2)
        halve_row(source);
      else
        filter_row(source);
    }
  }

  // Processors see ahead along a line of memory, not along two rows that are read side by side.
  KERNELS_INLINE void fetch(int64_t values) const {
    for (int64_t i = 0; i < 4 * kLanes; i += 64 / sizeof(T)) __builtin_prefetch(ahead + values + i);
  }

  KERNELS_INLINE Lanes decorated(Lanes v, int64_t place, int64_t count) const {
    v = scale * v + bias;
    if (noise && count >= kLanes) v += strength * load_lanes(noise + place);
    if (noise && count < kLanes) v += strength * load_lanes(noise + place, count);
    return finish(v);
  }

  KERNELS_INLINE void put(int64_t column, Lanes v) {
    const int64_t left = a.out_w - column;
    if (left <= 0) return;
    if constexpr (kDecorated) v = decorated(rounded(v, T{}), at + column, left);
    if (left < kLanes)
      store_lanes(to + column, v, left);
    else if (streams)
      stream_lanes(to + column, v);
    else
      store_lanes(to + column, v);
  }

  KERNELS_INLINE void filter_row(const Source& source) {
    Lanes before{}, now = source.block(0);
    for (int64_t j = 0; j * kLanes < a.out_w; ++j) {
      const Lanes after = source.block(j + 1);
      const Lanes v = x[0] * moved<-kPad>(before, now, after) +
                      x[1] * moved<1 - kPad>(before, now, after) +
                      x[2] * moved<2 - kPad>(before, now, after) +
                      x[3] * moved<3 - kPad>(before, now, after);
      put(j * kLanes, v);
      before = now;
      now = after;
    }
  }

  // Pixels i - kPad / 2 and following meet the even taps at an output 2 i, if kPad is even.
  KERNELS_INLINE void double_row(const Source& source) {
    constexpr int kEven = kPad % 2, kFirst = -(kPad / 2), kSecond = kFirst + 1 - kEven;
    Lanes before{}, now = source.block(0);
    for (int64_t j = 0; 2 * j * kLanes < a.out_w; ++j) {
      const Lanes after = source.block(j + 1);
      const Lanes even = x[kEven] * moved<kFirst>(before, now, after) +
                         x[kEven + 2] * moved<kFirst + 1>(before, now, after);
      const Lanes odd = x[1 - kEven] * moved<kSecond>(before, now, after) +
                        x[3 - kEven] * moved<kSecond + 1>(before, now, after);
      put(2 * j * kLanes, interleaved<0>(even, odd));
      put((2 * j + 1) * kLanes, interleaved<kLanes / 2>(even, odd));
      before = now;
      now = after;
    }
  }

  struct Pair {
    Lanes even, odd;
  };
  static KERNELS_INLINE Pair split(const Source& source, int64_t j) {
    const Lanes a = source.block(2 * j), b = source.block(2 * j + 1);
    return {picked<0, 2>(a, b), picked<1, 2>(a, b)};
  }

  // The pixel 2 i + kBy.
  template <int kBy>
  static KERNELS_INLINE Lanes pixel(const Pair& before, const Pair& now, const Pair& after) {
    if constexpr (kBy % 2 == 0) return moved<kBy / 2>(before.even, now.even, after.even);
    return moved<(kBy - 1) / 2>(before.odd, now.odd, after.odd);
  }

  KERNELS_INLINE void halve_row(const Source& source) {
    Pair before{}, now = split(source, 0);
    for (int64_t j = 0; j * kLanes < a.out_w; ++j) {
      fetch(4 * j * kLanes);
      const Pair after = split(source, j + 1);
      const Lanes v = x[0] * pixel<-kPad>(before, now, after) +
                      x[1] * pixel<1 - kPad>(before, now, after) +
                      x[2] * pixel<2 - kPad>(before, now, after) +
                      x[3] * pixel<3 - kPad>(before, now, after);
      put(j * kLanes, v);
      before = now;
      now = after;
    }
  }

  const UpfirdnArgs& a;
  const bool streams;  // past the caches
  const Straight finish;
  float y_taps[4];
  Lanes x[4];
  Buffer<T> zeros;  // a row of them
  // Of the present plane and row.
  float scale = 1, bias = 0, strength = 1;
  const float* noise = nullptr;
  const T *in = nullptr, *ahead = nullptr;
  T *out = nullptr, *to = nullptr;
  int64_t at = 0;
};

template <class T, int kUp, int kDown, int kPad, bool kDecorated>
void four_taps(const UpfirdnArgs& a, const Filter<float>& filter, int64_t begin, int64_t end) {
  FourTaps<T, kUp, kDown, kPad, kDecorated> planes(a, filter);
  for (int64_t item = begin; item < end; ++item) planes.item(item);
}

template <class T, int kUp, int kDown, int kPad>
Resample four_taps(const UpfirdnArgs& a) {
  return a.fused ? four_taps<T, kUp, kDown, kPad, true> : four_taps<T, kUp, kDown, kPad, false>;
}

// Null for all but the factors and paddings that networks use.
template <class T>
Resample find_four_taps(const UpfirdnArgs& a) {
  if (a.pad_x < 0 || a.pad_x > 3 || a.up_x > 2 || a.down_x > 2) return nullptr;
  switch (100 * a.up_x + 10 * a.down_x + a.pad_x) {
    case 110: return four_taps<T, 1, 1, 0>(a);
    case 111: return four_taps<T, 1, 1, 1>(a);
    case 112: return four_taps<T, 1, 1, 2>(a);
    case 113: return four_taps<T, 1, 1, 3>(a);
    case 121: return four_taps<T, 1, 2, 1>(a);
    case 122: return four_taps<T, 1, 2, 2>(a);
    case 211: return four_taps<T, 2, 1, 1>(a);
    case 212: return four_taps<T, 2, 1, 2>(a);
    default: return nullptr;
  }
}

}  // namespace
