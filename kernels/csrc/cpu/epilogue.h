// Epilogue of a layer on the CPU: runs of elements, each read once and written once.
#pragma once

#include <limits>

#include "../core/epilogue.h"
#include "simd.h"

namespace {

// What the derivative is told by: the input, the output, or nothing where the slope is 1.
enum class Kept { x, y, none };

// Sides of one run of consecutive elements: along a plane of one channel the noise differs from
// element to element, along the channels of one pixel scale and bias do. What does not is held as a
// value: behind a pointer, it would be read again after each element that is written.
template <class R>
struct AlongPlane {
  R scale;
  const R* noise;
  R bias;

  R scale_at(int64_t) const { return scale; }
  R noise_at(int64_t i) const { return noise[i]; }
  R bias_at(int64_t) const { return bias; }
};

template <class R>
struct AlongChannels {
  const R* scale;
  R noise;
  const R* bias;

  R scale_at(int64_t i) const { return scale[i]; }
  R noise_at(int64_t) const { return noise; }
  R bias_at(int64_t i) const { return bias[i]; }
};

template <class R>
struct Curve {
  R alpha, gain, clamp;  // clamp: NaN where there is none, so that all comparisons are false
  R strength;
};

// Processors see ahead within a page only. Values that are asked for at once, a page ahead.
constexpr int64_t kFetched = 256;

template <class T>
KERNELS_INLINE void fetch_ahead(const T* x, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(T))
    __builtin_prefetch(x + kPageBytes / sizeof(T) + i);
}

template <class T, Act A, class Sides, class R = acc_t<T>>
KERNELS_LOOP void forward_run(const T* x, T* out, int64_t length, const Sides s, const Curve<R> k) {
  for (int64_t start = 0; start < length; start += kFetched) {
    const int64_t end = length - start < kFetched ? length : start + kFetched;
    fetch_ahead(x + start, end - start);
#pragma omp simd
    for (int64_t i = start; i < end; ++i) {
      const R v = s.scale_at(i) * load(x[i]) + (k.strength * s.noise_at(i) + s.bias_at(i));
      R y = k.gain * activate<A>(v, k.alpha);
      y = y > k.clamp ? k.clamp : y;
      y = y < -k.clamp ? -k.clamp : y;
      out[i] = store<T>(y);
    }
  }
}

// Slope of the output with respect to v.
template <class T, Act A, Kept K, class Sides, class R = acc_t<T>>
KERNELS_INLINE R slope_at(const T* x, int64_t i, const Sides& s, const Curve<R>& k) {
  if constexpr (K == Kept::none) return k.gain;
  R v = load(x[i]), y = v;
  if constexpr (K == Kept::x) {
    v = s.scale_at(i) * v + (k.strength * s.noise_at(i) + s.bias_at(i));
    y = load(store<T>(k.gain * activate<A>(v, k.alpha)));
  }
  const bool beyond = y >= k.clamp || y <= -k.clamp;
  return beyond ? R(0) : k.gain * slope<A>(v, k.alpha);
}

template <class R>
struct Sums {
  R of_scale, of_strength, of_bias;
};

template <class T, Act A, Kept K, class Sides, class R = acc_t<T>>
KERNELS_LOOP Sums<R> backward_run(const T* x, const T* dy, T* dx, int64_t length, const Sides s,
                                  const Curve<R> k, const Sides factors) {
  R of_scale = 0, of_strength = 0, of_bias = 0;
  for (int64_t start = 0; start < length; start += kFetched) {
    const int64_t end = length - start < kFetched ? length : start + kFetched;
    fetch_ahead(dy + start, end - start);
    if constexpr (K != Kept::none) fetch_ahead(x + start, end - start);
#pragma omp simd reduction(+ : of_scale, of_strength, of_bias)
    for (int64_t i = start; i < end; ++i) {
      const R g = load(dy[i]) * slope_at<T, A, K>(x, i, s, k);
      of_bias += g;
      of_strength += g * s.noise_at(i);
      if constexpr (K == Kept::x) of_scale += g * load(x[i]);
      dx[i] = store<T>(g * factors.scale_at(i));
    }
  }
  return {of_scale, of_strength, of_bias};
}

// The same along the channels of one pixel, where each channel has sums of its own.
template <class T, Act A, Kept K, class Sides, class R = acc_t<T>>
KERNELS_LOOP void backward_pixel(const T* x, const T* dy, T* dx, int64_t length, const Sides s,
                    const Curve<R> k, const Sides factors, const Sums<R*> sums) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) {
    const R g = load(dy[i]) * slope_at<T, A, K>(x, i, s, k);
    sums.of_bias[i] += g;
    sums.of_strength[i] += g * s.noise;
    if constexpr (K == Kept::x) sums.of_scale[i] += g * load(x[i]);
    dx[i] = store<T>(g * factors.scale_at(i));
  }
}

template <class R>
struct Filled {
  R values[kChunk];
  explicit Filled(R value) {
    for (R& v : values) v = value;
  }
};

// Writes through a buffer in the first-level cache where the result is too large for the caches.
template <class T>
class Writer {
 public:
  explicit Writer(bool streams) : streams_(streams) {}
  ~Writer() {
    if (streams_) stream_end();
  }
  T* place(T* out) { return streams_ ? buffer_ : out; }
  void written(T* out, int64_t length) {
    if (streams_) stream_copy(out, buffer_, length * sizeof(T));
  }

 private:
  alignas(64) T buffer_[kChunk];
  bool streams_;
};

template <class R>
Curve<R> curve_of(const EpilogueArgs& a) {
  const R* strength = static_cast<const R*>(a.strength);
  const R none = std::numeric_limits<R>::quiet_NaN();
  return {R(a.alpha), R(a.gain), a.clamp < 0 ? none : R(a.clamp), strength ? *strength : R(1)};
}

// One plane after the other is read in a single stream, which is faster, unless there is noise that
// is too large for the first-level cache: then short runs of a few planes take turns.
constexpr int64_t kPlanes = 4;
constexpr int64_t kNoiseRun = 512;
constexpr int64_t kSmallNoise = 4096;

bool takes_turns(const EpilogueArgs& a) { return a.noise && a.p > kSmallNoise; }

template <class T, Act A, Kept K, bool kForward>
void planes(const EpilogueArgs& a, int64_t first, int64_t count, Writer<T>& writer) {
  using R = acc_t<T>;
  using Sides = AlongPlane<R>;
  static const Filled<R> zeros(0);
  const int64_t n = first / a.c;
  const R* scale = a.scale ? static_cast<const R*>(a.scale) + first : nullptr;
  const R* bias = a.bias ? static_cast<const R*>(a.bias) + first % a.c : nullptr;
  const R* noise = static_cast<const R*>(a.noise);
  const Curve<R> curve = curve_of<R>(a);
  Sums<double> sums[kPlanes] = {};
  const int64_t run = takes_turns(a) ? kNoiseRun : kChunk;
  for (int64_t p = 0; p < a.p; p += run) {
    const int64_t length = a.p - p < run ? a.p - p : run;
    const R* from = noise ? noise + (a.noise_n == 1 ? 0 : n) * a.p + p : zeros.values;
    for (int64_t i = 0; i < count; ++i) {
      const Sides sides{scale ? scale[i] : R(1), from, bias ? bias[i] : R(0)};
      const int64_t at = (first + i) * a.p + p;
      const T* x = static_cast<const T*>(a.x) + at;
      T* out = static_cast<T*>(a.out) + at;
      T* to = writer.place(out);
      if constexpr (kForward) {
        forward_run<T, A>(x, to, length, sides, curve);
      } else {
        const T* dy = static_cast<const T*>(a.dy) + at;
        const Sides factors{a.scaled ? sides.scale : R(1), nullptr, R(0)};
        const Sums<R> part = backward_run<T, A, K>(x, dy, to, length, sides, curve, factors);
        sums[i].of_scale += part.of_scale;
        sums[i].of_strength += part.of_strength;
        sums[i].of_bias += part.of_bias;
      }
      writer.written(out, length);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    if (a.sum_scale) static_cast<R*>(a.sum_scale)[first + i] = R(sums[i].of_scale);
    if (a.sum_strength) static_cast<R*>(a.sum_strength)[first + i] = R(sums[i].of_strength);
    if (a.sum_bias) static_cast<R*>(a.sum_bias)[first + i] = R(sums[i].of_bias);
  }
}

// One block of at most kChunk channels of a run of pixels.
template <class T, Act A, Kept K, bool kForward>
void pixels(const EpilogueArgs& a, int64_t item, int64_t c0, Writer<T>& writer) {
  using R = acc_t<T>;
  using Sides = AlongChannels<R>;
  static const Filled<R> zeros(0), ones(1);
  const int64_t parts = epilogue_parts(a), n = item / parts, p0 = item % parts * kPixelsPerPart;
  const int64_t p1 = p0 + kPixelsPerPart < a.p ? p0 + kPixelsPerPart : a.p;
  const int64_t length = a.c - c0 < kChunk ? a.c - c0 : kChunk;
  const R *scale = static_cast<const R*>(a.scale), *bias = static_cast<const R*>(a.bias);
  const R* noise = static_cast<const R*>(a.noise);
  Sides sides{scale ? scale + n * a.c + c0 : ones.values, R(0), bias ? bias + c0 : zeros.values};
  const Sides factors{a.scaled ? sides.scale : ones.values, R(0), nullptr};
  const Curve<R> curve = curve_of<R>(a);
  R unwanted[3][kForward ? 1 : kChunk];
  R* wanted[3] = {static_cast<R*>(a.sum_scale), static_cast<R*>(a.sum_strength),
                  static_cast<R*>(a.sum_bias)};
  if constexpr (!kForward)
    for (int i = 0; i < 3; ++i) {
      wanted[i] = wanted[i] ? wanted[i] + item * a.c + c0 : unwanted[i];
      memset(wanted[i], 0, length * sizeof(R));
    }
  // Whole pixels are gathered until the buffer is full.
  const int64_t batch = c0 == 0 && length == a.c ? kChunk / length : 1;
  for (int64_t first = p0; first < p1; first += batch) {
    const int64_t last = first + batch < p1 ? first + batch : p1;
    const int64_t start = (n * a.p + first) * a.c + c0;
    T* out = static_cast<T*>(a.out) + start;
    T* to = writer.place(out);
    for (int64_t p = first; p < last; ++p) {
      const int64_t shift = (p - first) * a.c;
      const T* x = static_cast<const T*>(a.x) + start + shift;
      if (noise) sides.noise = noise[(a.noise_n == 1 ? 0 : n) * a.p + p];
      if constexpr (kForward) {
        forward_run<T, A>(x, to + shift, length, sides, curve);
      } else {
        const T* dy = static_cast<const T*>(a.dy) + start + shift;
        backward_pixel<T, A, K>(x, dy, to + shift, length, sides, curve, factors,
                                Sums<R*>{wanted[0], wanted[1], wanted[2]});
      }
    }
    writer.written(out, (last - first - 1) * a.c + length);
  }
}

template <class T, Act A, Kept K, bool kForward>
void range(const EpilogueArgs& a, int64_t begin, int64_t end) {
  const int64_t plane = a.p * int64_t(sizeof(T)), bytes = a.n * a.c * plane;
  const int64_t bytes_in = kForward || K == Kept::none ? bytes : 2 * bytes;
  // The ends of short planes share lines of the caches, which slows such writing down.
  const bool long_runs = a.channels_last || plane >= kPageBytes;
  Writer<T> writer(long_runs && leaves_caches(bytes_in, bytes));
  for (int64_t item = begin, count; !a.channels_last && item < end; item += count) {
    const int64_t left = a.c - item % a.c < end - item ? a.c - item % a.c : end - item;
    count = !takes_turns(a) ? 1 : left < kPlanes ? left : kPlanes;
    planes<T, A, K, kForward>(a, item, count, writer);
  }
  for (int64_t item = begin; a.channels_last && item < end; ++item)
    for (int64_t c0 = 0; c0 < a.c; c0 += kChunk) pixels<T, A, K, kForward>(a, item, c0, writer);
}

template <class T, Act A, bool kForward>
void by_kept(const EpilogueArgs& a, int64_t begin, int64_t end) {
  if constexpr (!kForward && A == Act::linear)
    if (!a.x) return range<T, A, Kept::none, false>(a, begin, end);
  if constexpr (!kForward && (A == Act::linear || A == Act::relu || A == Act::lrelu))
    if (a.from_output) return range<T, A, Kept::y, false>(a, begin, end);
  range<T, A, Kept::x, kForward>(a, begin, end);
}

template <class T, bool kForward>
void by_act(const EpilogueArgs& a, int64_t begin, int64_t end) {
  switch (a.act) {
    case Act::linear: return by_kept<T, Act::linear, kForward>(a, begin, end);
    case Act::relu: return by_kept<T, Act::relu, kForward>(a, begin, end);
    case Act::lrelu: return by_kept<T, Act::lrelu, kForward>(a, begin, end);
    case Act::tanh: return by_kept<T, Act::tanh, kForward>(a, begin, end);
    case Act::sigmoid: return by_kept<T, Act::sigmoid, kForward>(a, begin, end);
    case Act::elu: return by_kept<T, Act::elu, kForward>(a, begin, end);
    case Act::selu: return by_kept<T, Act::selu, kForward>(a, begin, end);
    case Act::softplus: return by_kept<T, Act::softplus, kForward>(a, begin, end);
    case Act::swish: return by_kept<T, Act::swish, kForward>(a, begin, end);
  }
}

template <bool kForward>
void by_dtype(const EpilogueArgs& a, int64_t begin, int64_t end) {
  switch (a.dtype) {
    case Dtype::f32: return by_act<float, kForward>(a, begin, end);
    case Dtype::f64: return KERNELS_IN_BASELINE((by_act<double, kForward>(a, begin, end)));
    case Dtype::bf16: return by_act<bfloat16_t, kForward>(a, begin, end);
    case Dtype::f16: return by_act<float16_t, kForward>(a, begin, end);
  }
}

}  // namespace

namespace KERNELS_LEVEL {

void epilogue(const EpilogueArgs& a, int64_t begin, int64_t end) { by_dtype<true>(a, begin, end); }

void epilogue_backward(const EpilogueArgs& a, int64_t begin, int64_t end) {
  by_dtype<false>(a, begin, end);
}

}  // namespace KERNELS_LEVEL
