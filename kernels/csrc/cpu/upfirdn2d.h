// FIR resampling on the CPU: the taps along y sum up rows of the input into a few lines that stay
// in the first-level cache, and the taps along x filter these lines.
#pragma once

#include "../core/upfirdn2d.h"
#include "epilogue.h"
#include "four_taps.h"
#include "four_taps_last.h"
#include "simd.h"
#include "taps.h"

namespace {

// Values of lines that are worked on at once. Fewer lines than that are stored and read back at
// once, which processors do not forward well; with fewer channels memory is read in crumbs.
constexpr int64_t kPlaneValues = 2048;
constexpr int64_t kPixelValues = 16384;
constexpr int64_t kLeastChannels = 32;

template <class T>
class Resampler {
  using R = acc_t<T>;

 public:
  Resampler(const UpfirdnArgs& args, const Filter<R>& filter)
      : a(args),
        separable(filter.separable),
        taps_y(upfirdn2d_taps_y(a)),
        ys(a.up_y, a.down_y, a.pad_y, taps_y, 1),
        xs(a.up_x, a.down_x, a.pad_x, a.f_w, taps_y),
        pixel_step(a.channels_last ? a.c : 1),
        row_step(a.in_w * pixel_step),
        streams(result_leaves_caches(a, sizeof(T))),
        curve(curve_of<R>(a.epilogue)) {
    set_taps(filter);
    find_columns();
    const int64_t wider = last - first > a.out_w ? last - first : a.out_w;
    block = a.channels_last ? channels_at_once(wider) : 1;
    batch = a.channels_last || !separable ? 1 : lines_at_once(wider);
    // The first value that comes from the input is aligned.
    lead = 15 - (inside_first - first + 15) % 16;
    pitch = (lead + (last - first) * block + 15) / 16 * 16;
    pixels.resize(batch * pitch);
    line.resize(batch * a.out_w * block);
    packed.resize(batch * a.out_w * block);
    split.resize(a.channels_last ? 0 : pitch);
    part.resize(a.channels_last ? 0 : a.out_w / a.up_x + 1);
    // No plane writes to what lies beside the others.
    if (!a.channels_last) clear_margins();
  }
  ~Resampler() {
    if (streams) stream_end();
  }

  void band(int64_t item) {
    const int64_t bands = upfirdn2d_bands(a), rows = upfirdn2d_band_rows(a), image = item / bands;
    const int64_t begin = item % bands * rows;
    const int64_t end = begin + rows < a.out_h ? begin + rows : a.out_h;
    n = a.channels_last ? image : image / a.c;
    for (int64_t start = 0; start < pixel_step; start += block) {
      channels = pixel_step - start < block ? pixel_step - start : block;
      channel = a.channels_last ? start : image % a.c;
      in = static_cast<const T*>(a.x) + image * a.in_h * row_step + start;
      out = static_cast<T*>(a.out) + image * a.out_h * a.out_w * pixel_step + start;
      if (a.channels_last) clear_margins();
      for (int64_t y = begin; y < end; y += batch) lines(y, end - y < batch ? end - y : batch);
    }
  }

 private:
  void set_taps(const Filter<R>& filter) {
    for (int64_t y = 0; separable && y < taps_y; ++y) ys.set(0, y, filter.column[y]);
    for (int64_t x = 0; x < a.f_w; ++x) {
      if (separable) xs.set(0, x, filter.row[x]);
      for (int64_t y = 0; !separable && y < taps_y; ++y) xs.set(y, x, filter.tap(y, x));
    }
  }

  int64_t outputs(int64_t p) const { return (a.out_w - p + a.up_x - 1) / a.up_x; }

  // The columns [first, last) of the input, or beside it, that the output depends on.
  void find_columns() {
    bool any = false;
    for (int64_t p = 0; p < a.up_x && p < a.out_w; ++p) {
      const Phase& phase = xs.phase(p);
      if (phase.taps == 0) continue;
      const int64_t end = phase.first + (outputs(p) - 1) * a.down_x + phase.taps;
      first = any && first < phase.first ? first : phase.first;
      last = any && last > end ? last : end;
      any = true;
    }
    inside_first = first > 0 ? first : 0;
    inside_last = last < a.in_w ? last : a.in_w;
    if (inside_last < inside_first) inside_first = inside_last = first;
  }

  int64_t lines_at_once(int64_t columns) const {
    const int64_t most = kPlaneValues / (columns > 0 ? columns : 1) + 1;
    const int64_t rows = upfirdn2d_band_rows(a) < a.out_h ? upfirdn2d_band_rows(a) : a.out_h;
    return most < rows ? most : rows;
  }

  int64_t channels_at_once(int64_t columns) const {
    int64_t most = kPixelValues / (columns > 0 ? columns : 1) / 16 * 16;
    most = most > kLeastChannels ? most : kLeastChannels;
    most = most < kChunk ? most : kChunk;
    return most < a.c ? most : a.c;
  }

  // The value at input column x of a line.
  R* pixel(int64_t x) const { return pixels + lead + (x - first) * channels; }

  void clear_margins() {
    for (int64_t i = 0; i < batch; ++i) {
      R* const begin = pixel(first) + i * pitch;
      memset(begin, 0, (inside_first - first) * channels * sizeof(R));
      memset(begin + (inside_last - first) * channels, 0, (last - inside_last) * channels * sizeof(R));
    }
  }

  // Output rows [y, y + count).
  void lines(int64_t y, int64_t count) {
    const bool whole = channels == pixel_step;
    T* const to = out + y * a.out_w * pixel_step;
    R* target = line;
    if constexpr (sizeof(T) == sizeof(R))
      if (whole && !streams && !a.fused) target = to;
    if (separable) {
      for (int64_t past = 0; past < a.up_y && past < count; ++past) sum_rows(y, past, count);
      filter(0, false, count, target);
    } else {
      filter_rows(y, target);
    }
    if (target == line) finish(y, count, whole, to);
  }

  // Rows y + past, y + past + up, ... share a phase; lines of them are summed in one go where no
  // tap falls off the image.
  void sum_rows(int64_t y, int64_t past, int64_t count) {
    const Phase& phase = ys.phase((y + past) % a.up_y);
    const R* weights = ys.weights(0, phase);
    int64_t top = phase.first + (y + past) / a.up_y * a.down_y;
    while (past < count) {
      const int64_t begin = top < 0 ? -top : 0, below = a.in_h - top;
      const int64_t taps = (phase.taps < below ? phase.taps : below) - begin;
      int64_t rows = (count - past + a.up_y - 1) / a.up_y;
      if (taps == phase.taps) {
        const int64_t inside = (below - taps) / a.down_y + 1;
        rows = rows < inside ? rows : inside;
      } else {
        rows = 1;
      }
      sum_row(top + begin, weights + begin, taps > 0 ? taps : 0, rows, past);
      top += rows * a.down_y;
      past += rows * a.up_y;
    }
  }

  void sum_row(int64_t top, const R* weights, int64_t taps, int64_t rows, int64_t past) {
    const int64_t columns = inside_last - inside_first;
    const Runs runs = a.channels_last ? Runs{columns, channels, pixel_step, channels}
                                      : Runs{rows, columns, a.down_y * row_step, a.up_y * pitch};
    sum_taps(in + top * row_step + inside_first * pixel_step, row_step, weights, taps, false, runs,
             pixel(inside_first) + past * pitch);
  }

  // By a filter that is no product: each of its lines is applied to one row of the input.
  void filter_rows(int64_t y, R* to) {
    const R one = 1;
    const Phase& phase = ys.phase(y % a.up_y);
    const int64_t top = phase.first + y / a.up_y * a.down_y;
    memset(to, 0, a.out_w * channels * sizeof(R));
    for (int64_t t = 0; t < phase.taps; ++t) {
      if (top + t < 0 || top + t >= a.in_h) continue;
      sum_row(top + t, &one, 1, 1, 0);
      filter(phase.tap + t * a.up_y, true, 1, to);
    }
  }

  // `pixels` to outputs, by one line of the filter.
  void filter(int64_t number, bool add, int64_t count, R* to) {
    if (!a.channels_last) return filter_planes(number, add, count, to);
    for (int64_t p = 0; p < a.up_x && p < a.out_w; ++p) {
      const Phase& phase = xs.phase(p);
      const Runs runs{outputs(p), channels, a.down_x * channels, a.up_x * channels};
      sum_taps(pixel(phase.first), channels, xs.weights(number, phase), phase.taps, add, runs,
               to + p * channels);
    }
  }

  void filter_planes(int64_t number, bool add, int64_t count, R* to) {
    const Phase &even = xs.phase(0), &odd = xs.phase(a.up_x > 1 ? 1 : 0);
    const R *weights = xs.weights(number, even), *others = xs.weights(number, odd);
    const Runs runs{count, a.out_w, pitch, a.out_w};
    const bool twos = even.taps == 2 && odd.taps == 2 && !add;
    if (a.up_x == 1 && a.down_x == 1)
      return sum_taps<R>(pixel(even.first), 1, weights, even.taps, add, runs, to);
    if (a.up_x == 2 && a.down_x == 1 && twos)
      return double_lines<R>(pixel(even.first), pixel(odd.first), weights, others, runs, to);
    if (a.up_x == 1 && a.down_x == 2 && even.taps == 4 && !add)
      return halve_lines<R>(pixel(even.first), weights, runs, to);
    for (int64_t i = 0; i < count; ++i) filter_phases(number, add, i * pitch, to + i * a.out_w);
  }

  // Any factors: each phase is filtered on its own, from the pixels that lie `down` apart.
  void filter_phases(int64_t number, bool add, int64_t shift, R* to) {
    const int64_t width = last - first, apart = a.down_x;
    R *const source = pixel(first) + shift, *const sums = part;
    int64_t at = 0;
    for (int64_t r = 0; r < apart; ++r)
      for (int64_t i = r; i < width; i += apart) split[at++] = source[i];
    for (int64_t p = 0; p < a.up_x && p < a.out_w; ++p) {
      const Phase& phase = xs.phase(p);
      const R* weights = xs.weights(number, phase);
      const Runs runs{1, outputs(p), 0, 0};
      for (int64_t t = 0; t == 0 || t < phase.taps; ++t) {
        const int64_t x = phase.first - first + t, r = x % apart;
        const int64_t longer = width % apart < r ? width % apart : r;
        const R* from = split + r * (width / apart) + longer + x / apart;
        sum_taps(from, 0, weights + t, phase.taps > 0, t > 0, runs, sums);
      }
      for (int64_t i = 0; i < runs.length; ++i)
        to[i * a.up_x + p] = sums[i] + (add ? to[i * a.up_x + p] : R(0));
    }
  }

  // `line` to the output.
  void finish(int64_t y, int64_t lines, bool whole, T* to) {
    const int64_t count = lines * a.out_w * channels;
    T* values;
    if constexpr (sizeof(T) == sizeof(R)) {
      values = line;
    } else {
      values = packed;
      for (int64_t i = 0; i < count; ++i) values[i] = store<T>(line[i]);
    }
    if (a.fused) decorate(y, lines, values);
    const int64_t runs = whole ? 1 : a.out_w, length = count / runs;
    for (int64_t i = 0; i < runs; ++i)
      if (streams)
        stream_copy(to + i * pixel_step, values + i * length, length * sizeof(T));
      else
        memcpy(to + i * pixel_step, values + i * length, length * sizeof(T));
  }

  void decorate(int64_t y, int64_t lines, T* values) {
    switch (a.epilogue.act) {
      case Act::linear: return decorate<Act::linear>(y, lines, values);
      case Act::relu: return decorate<Act::relu>(y, lines, values);
      case Act::lrelu: return decorate<Act::lrelu>(y, lines, values);
      case Act::tanh: return decorate<Act::tanh>(y, lines, values);
      case Act::sigmoid: return decorate<Act::sigmoid>(y, lines, values);
      case Act::elu: return decorate<Act::elu>(y, lines, values);
      case Act::selu: return decorate<Act::selu>(y, lines, values);
      case Act::softplus: return decorate<Act::softplus>(y, lines, values);
      case Act::swish: return decorate<Act::swish>(y, lines, values);
    }
  }

  template <Act A>
  void decorate(int64_t y, int64_t lines, T* values) {
    static const Filled<R> zeros(0), ones(1);
    const EpilogueArgs& e = a.epilogue;
    const R *scale = static_cast<const R*>(e.scale), *bias = static_cast<const R*>(e.bias);
    scale = scale ? scale + n * a.c + channel : ones.values;
    bias = bias ? bias + channel : zeros.values;
    const R* noise = static_cast<const R*>(e.noise);
    if (noise) noise += ((e.noise_n == 1 ? 0 : n) * a.out_h + y) * a.out_w;
    const int64_t count = lines * a.out_w, step = a.channels_last ? 1 : kChunk;
    for (int64_t p = 0; p < count; p += step) {
      T* const at = values + p * channels;
      if (a.channels_last) {
        const AlongChannels<R> sides{scale, noise ? noise[p] : R(0), bias};
        forward_run<T, A>(at, at, channels, sides, curve);
      } else {
        const AlongPlane<R> sides{*scale, noise ? noise + p : zeros.values, *bias};
        forward_run<T, A>(at, at, count - p < step ? count - p : step, sides, curve);
      }
    }
  }

  const UpfirdnArgs& a;
  const bool separable;
  const int64_t taps_y;
  Axis<R> ys, xs;
  const int64_t pixel_step, row_step;
  const bool streams;
  const Curve<R> curve;
  int64_t first = 0, last = 0, inside_first = 0, inside_last = 0;
  // Lines and channels at a time; the length of a line in `pixels`, and where it begins.
  int64_t batch = 1, block = 1, pitch = 0, lead = 0;
  // Lines of the input under the taps along y, the every down-th pixels of one, one phase of its
  // output, lines of the output, and these as they are stored.
  Buffer<R> pixels, split, part, line;
  Buffer<T> packed;
  // Of the present item.
  int64_t n = 0, channel = 0, channels = 1;
  const T* in = nullptr;
  T* out = nullptr;
};

// Loops for what networks use; null for all else.
template <class T>
Resample find_quick(const UpfirdnArgs& a, const Filter<float>& filter) {
  const bool fours = a.f_w == 4 && upfirdn2d_taps_y(a) == 4 && filter.separable;
  const bool alike = a.up_x == a.up_y && a.down_x == a.down_y;
  if (!fours || !alike || (a.fused && !is_straight(a.epilogue))) return nullptr;
  return a.channels_last ? find_four_taps_last<T>(a) : find_four_taps<T>(a);
}

template <class T>
void resample(const UpfirdnArgs& a, int64_t begin, int64_t end) {
  const Filter<acc_t<T>> filter(a);
  if constexpr (sizeof(T) <= sizeof(float))
    if (const Resample quick = find_quick<T>(a, filter)) return quick(a, filter, begin, end);
  Resampler<T> resampler(a, filter);
  for (int64_t item = begin; item < end; ++item) resampler.band(item);
}

}  // namespace

namespace KERNELS_LEVEL {

void upfirdn2d(const UpfirdnArgs& a, int64_t begin, int64_t end) {
  switch (a.dtype) {
    case Dtype::f32: return resample<float>(a, begin, end);
    case Dtype::f64: return KERNELS_IN_BASELINE((resample<double>(a, begin, end)));
    case Dtype::bf16: return resample<bfloat16_t>(a, begin, end);
    case Dtype::f16: return resample<float16_t>(a, begin, end);
  }
}

}  // namespace KERNELS_LEVEL
