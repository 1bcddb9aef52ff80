// Taps on lines of values, and the taps of one axis; the pieces of csrc/cpu/upfirdn2d.h.
#pragma once

#include <new>

#include "../core/upfirdn2d.h"
#include "simd.h"

namespace {

// Scratch memory; its content is what the last user left.
template <class V>
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { release(); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  V* resize(int64_t count) {
    release();
    return data_ = new (std::align_val_t{64}) V[count];
  }
  operator V*() const { return data_; }

 private:
  void release() { operator delete[](data_, std::align_val_t{64}); }

  V* data_ = nullptr;
};

inline bool result_leaves_caches(const UpfirdnArgs& a, int64_t bytes_per_value) {
  const int64_t planes = a.n * a.c * bytes_per_value;
  return leaves_caches(planes * a.in_h * a.in_w, planes * a.out_h * a.out_w);
}

// Runs of values that lie `from_step` and `to_step` apart.
struct Runs {
  int64_t count, length, from_step, to_step;

  Runs joined() const {
    const bool dense = from_step == length && to_step == length;
    return dense ? Runs{1, count * length, 0, 0} : *this;
  }
};

// to[i] = or += sum over t of weights[t] * from[i + t * tap_step].
template <int kTaps, bool kAdd, class S, class R>
void add_taps(const S* from, int64_t tap_step, const R* weights, const Runs runs, R* to) {
  R w[kTaps > 0 ? kTaps : 1];
  for (int t = 0; t < kTaps; ++t) w[t] = weights[t];
  for (int64_t run = 0; run < runs.count; ++run) {
    const S* source = from + run * runs.from_step;
    R* target = to + run * runs.to_step;
#pragma omp simd
    for (int64_t i = 0; i < runs.length; ++i) {
      R sum = kAdd ? target[i] : R(0);
      for (int t = 0; t < kTaps; ++t) sum += w[t] * load(source[i + t * tap_step]);
      target[i] = sum;
    }
  }
}

template <bool kAdd, class S, class R>
void add_some_taps(const S* from, int64_t step, const R* w, int64_t taps, const Runs runs, R* to) {
  switch (taps) {
    case 0: return kAdd ? void() : add_taps<0, false>(from, step, w, runs, to);
    case 1: return add_taps<1, kAdd>(from, step, w, runs, to);
    case 2: return add_taps<2, kAdd>(from, step, w, runs, to);
    case 3: return add_taps<3, kAdd>(from, step, w, runs, to);
    default: return add_taps<4, kAdd>(from, step, w, runs, to);
  }
}

template <class S, class R>
void sum_taps(const S* from, int64_t step, const R* w, int64_t taps, bool add, const Runs runs,
              R* to) {
  const Runs joined = runs.joined();
  for (int64_t t = 0; t == 0 || t < taps; t += 4) {
    if (add || t > 0)
      add_some_taps<true>(from + t * step, step, w + t, taps - t, joined, to);
    else
      add_some_taps<false>(from, step, w, taps, joined, to);
  }
}

// Two phases of two taps each, interleaved; a run is a line of `length` outputs.
template <class R>
void double_lines(const R* even, const R* odd, const R* we, const R* wo, const Runs runs, R* to) {
  const R e0 = we[0], e1 = we[1], o0 = wo[0], o1 = wo[1];
  const int64_t pairs = runs.length / 2, step = runs.from_step;
  for (int64_t run = 0; run < runs.count; ++run, even += step, odd += step, to += runs.to_step) {
#pragma omp simd
    for (int64_t i = 0; i < pairs; ++i) {
      to[2 * i] = e0 * even[i] + e1 * even[i + 1];
      to[2 * i + 1] = o0 * odd[i] + o1 * odd[i + 1];
    }
    if (runs.length % 2) to[2 * pairs] = e0 * even[pairs] + e1 * even[pairs + 1];
  }
}

// Four taps at every second place.
template <class R>
void halve_lines(const R* from, const R* weights, const Runs runs, R* to) {
  const R w0 = weights[0], w1 = weights[1], w2 = weights[2], w3 = weights[3];
  for (int64_t run = 0; run < runs.count; ++run, from += runs.from_step, to += runs.to_step) {
#pragma omp simd
    for (int64_t i = 0; i < runs.length; ++i)
      to[i] = w0 * from[2 * i] + w1 * from[2 * i + 1] + w2 * from[2 * i + 2] + w3 * from[2 * i + 3];
  }
}

// One axis: output up * i + p is the sum over t of weight(t) * pixel[i * down + first + t], with the
// taps k = tap + t * up of phase p.
struct Phase {
  int64_t taps, first, tap;
};

template <class R>
class Axis {
 public:
  // `lines` filters of `taps` taps each.
  Axis(int64_t up, int64_t down, int64_t pad, int64_t taps, int64_t lines)
      : up(up), down(down), per_phase_((taps + up - 1) / up) {
    weights_.resize(lines * up * per_phase_);
    phases_.resize(up);
    for (int64_t p = 0; p < up; ++p) {
      const FirstTap begin = first_tap(p, up, down, pad);
      const int64_t count = begin.tap < taps ? (taps - begin.tap + up - 1) / up : 0;
      phases_[p] = {count, begin.pixel, begin.tap};
    }
  }

  void set(int64_t line, int64_t k, double value) {
    weights_[(line * up + k % up) * per_phase_ + k / up] = R(value);
  }
  const Phase& phase(int64_t p) const { return phases_[p]; }
  const R* weights(int64_t line, const Phase& phase) const {
    return weights_ + (line * up + phase.tap) * per_phase_;
  }

  const int64_t up, down;

 private:
  const int64_t per_phase_;
  Buffer<R> weights_;
  Buffer<Phase> phases_;
};

// The taps g of both axes, in the order in which they meet the pixels, or of the plane.
template <class R>
class Filter {
 public:
  explicit Filter(const UpfirdnArgs& a) : h_(upfirdn2d_taps_y(a)), w_(a.f_w) {
    column.resize(h_);
    row.resize(w_);
    plane_.resize(h_ * w_);
    for (int64_t i = 0; i < h_ * w_; ++i) {
      const int64_t at = a.flip ? i : h_ * w_ - 1 - i;
      plane_[i] = a.f_h > 0 ? a.f[at] : double(a.f[at / w_]) * a.f[at % w_];
    }
    separable = a.f_h == 0 || factorise();
    for (int64_t i = 0; i < w_; ++i) {
      if (a.f_h == 0) column[i] = row[i] = a.f[a.flip ? i : w_ - 1 - i];
      row[i] *= a.gain;
    }
    for (int64_t i = 0; i < h_ * w_; ++i) plane_[i] *= a.gain;
  }

  double tap(int64_t y, int64_t x) const { return plane_[y * w_ + x]; }

  bool separable;
  Buffer<double> column, row;

 private:
  // Whether the plane is column * row up to the rounding of R, and these factors.
  bool factorise() {
    int64_t top = 0;
    for (int64_t i = 0; i < h_ * w_; ++i)
      if (fabs(plane_[i]) > fabs(plane_[top])) top = i;
    const double pivot = plane_[top] != 0.0 ? plane_[top] : 1.0;
    // A filter that was multiplied out in float is off by one rounding in each of four places.
    const double tolerance = sizeof(R) == sizeof(float) ? 4.0 / (1 << 24) : 0.0;
    for (int64_t y = 0; y < h_; ++y) column[y] = plane_[y * w_ + top % w_];
    for (int64_t x = 0; x < w_; ++x) row[x] = plane_[top / w_ * w_ + x] / pivot;
    for (int64_t i = 0; i < h_ * w_; ++i) {
      const double error = column[i / w_] * row[i % w_] - plane_[i];
      if (!(fabs(error) <= tolerance * fabs(plane_[i]))) return false;
    }
    return true;
  }

  const int64_t h_, w_;
  Buffer<double> plane_;
};

// Items [begin, end) of the work.
using Resample = void (*)(const UpfirdnArgs&, const Filter<float>&, int64_t begin, int64_t end);

}  // namespace
