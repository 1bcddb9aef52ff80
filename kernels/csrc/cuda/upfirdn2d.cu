// FIR resampling on the GPU.
//
// Filters of four taps with factors 1 and 2: a thread takes four neighbours of an output row and
// walks down the rows below it. Each row of the input is filtered along x once, from vectors that
// neighbouring threads read too and the first-level cache holds; the last rows stay in registers for
// the taps along y, and the next ones are on their way. Whether the filter is a product of two lines
// is found out here, so that nobody waits for its values; other filters and factors are summed up
// tap by tap.
#include "../core/upfirdn2d.h"
#include "vector.h"

extern "C" int epilogue_cuda(const EpilogueArgs*, void* stream);

namespace {

constexpr int kThreads = 128;
constexpr int V = 4;  // outputs of a thread in each row
// Rows of a walk. More of them read fewer rows twice, fewer of them keep a large GPU busy.
constexpr int64_t kLeastRows = 8, kMostRows = 32, kEnoughThreads = 1 << 18;

// How the output is cut into walks, and the constants of an epilogue made of straight lines.
struct Plan {
  int64_t images, strips, rows;  // planes or samples; strips of rows, their height
  int64_t vectors;               // of one row, or of one row and all channels
  int64_t vectors_of_pixel;      // where channels come last
  bool whole_in, whole_out, aligned_noise;
  bool relu, clamped;
  float gain, gain_below, clamp;
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

struct Taps {
  float x[4], y[4];
};

// Whether the filter is y * x up to rounding, and these factors; all threads of a block take part.
__device__ __forceinline__ bool factorise(const UpfirdnArgs& a, Taps& taps) {
  __shared__ float plane[16];
  const int i = threadIdx.x;
  if (i < 16) plane[i] = tap_at(a, i / 4, i % 4);
  __syncthreads();
  int top = 0;
  for (int k = 1; k < 16; ++k)
    if (fabsf(plane[k]) > fabsf(plane[top])) top = k;
  const float* const row = plane + top / 4 * 4;
  const float* const column = plane + top % 4;
  bool fits = true;
  if (i < 16) {
    // One rounding in each of the four values.
    const double product = double(plane[i]) * plane[top];
    const double error = double(column[i / 4 * 4]) * row[i % 4] - product;
    fits = fabs(error) <= 4.0 / (1 << 24) * fabs(product);
  }
  const float factor = plane[top] != 0.0f ? float(a.gain) / plane[top] : 0.0f;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    taps.x[k] = row[k] * factor;
    taps.y[k] = column[4 * k];
  }
  return __syncthreads_and(fits);
}

// Vectors that lie one after the other, word by word.
template <class T, int N>
struct Raw {
  static constexpr int kPerWord = 4 / int(sizeof(T));
  static constexpr int kWords = N * V / kPerWord;
  uint32_t words[kWords];

  __device__ __forceinline__ void put_vector(int i, const T* from) {
    const auto vector = *reinterpret_cast<const Vector<T, V>*>(from);
#pragma unroll
    for (int k = 0; k < V / kPerWord; ++k) words[i * V / kPerWord + k] = vector.words[k];
  }
  __device__ __forceinline__ void put_element(int i, T value) {
    if constexpr (kPerWord == 1)
      words[i] = bits_as<uint32_t>(value);
    else
      words[i / 2] |= uint32_t(value.bits) << i % 2 * 16;
  }
  __device__ __forceinline__ float at(int i) const {
    if constexpr (kPerWord == 1) return bits_as<float>(words[i]);
    const float2 pair = widened<T>(words[i / 2]);
    return i % 2 ? pair.y : pair.x;
  }
  // Drops the first elements, fewer than a vector has.
  __device__ __forceinline__ void drop(int count) {
#pragma unroll
    for (int step = V / kPerWord / 2; step > 0; step /= 2) {
      // With masks, because a choice between two elements would put them into memory.
      const uint32_t moves = count / kPerWord & step ? ~0u : 0u;
#pragma unroll
      for (int i = 0; i + step < kWords; ++i)
        words[i] = (words[i + step] & moves) | (words[i] & ~moves);
    }
    if constexpr (kPerWord == 2) {
      const int bits = count % 2 * 16;
#pragma unroll
      for (int i = 0; i + 1 < kWords; ++i)
        words[i] = uint32_t((uint64_t(words[i + 1]) << 32 | words[i]) >> bits);
    }
  }
};

// Rows of a plane, filtered along x to V outputs. They are read in aligned vectors, wherever the
// rows begin; what belongs to other rows is cleared.
template <class T, int kUp, int kDown>
class PlaneRows {
 public:
  static constexpr int kColumns = kUp == 2 ? V / 2 + 2 : (V - 1) * kDown + 4;
  static constexpr int kVectors = (V - 1 + kColumns + V - 1) / V;
  using Fetched = Raw<T, kVectors>;

  __device__ PlaneRows(const UpfirdnArgs& a, const Plan& plan, const Taps& taps, int64_t image,
                       int64_t vector)
      : width_(int(a.in_w)), whole_(plan.whole_in), even_(a.pad_x % 2 == 0) {
    first_ = int(first_tap(vector * V, kUp, kDown, a.pad_x).pixel);
    plane_ = static_cast<const T*>(a.x) + image * a.in_h * a.in_w;
#pragma unroll
    for (int k = 0; k < 4; ++k) taps_[k] = kUp == 2 && !even_ ? taps.x[k ^ 1] : taps.x[k];
  }

  __device__ __forceinline__ Fetched fetch(int row) const {
    Fetched raw = {};
    const T* const from = plane_ + int64_t(row) * width_ + first_;
    const T* const begin = from - past(from);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int column = first_ - int(from - begin) + i * V;
      const bool touches = column > -V && column < width_;
      // A vector that begins before the first row or ends after the last is still inside of what
      // the allocator gave: it aligns to more than a vector.
      if (touches) raw.put_vector(i, begin + i * V);
    }
    return raw;
  }

  __device__ __forceinline__ void filter(Fetched raw, int row, float (&to)[V]) const {
    raw.drop(past(plane_ + int64_t(row) * width_ + first_));
    float columns[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      columns[i] = raw.at(i);
      if (!whole_ && unsigned(first_ + i) >= unsigned(width_)) columns[i] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if constexpr (kUp == 1) {
        to[i] = taps_[0] * columns[kDown * i] + taps_[1] * columns[kDown * i + 1] +
                taps_[2] * columns[kDown * i + 2] + taps_[3] * columns[kDown * i + 3];
      } else {
        // Outputs at odd places meet the next pixel if the padding is even.
        const int at = i / 2, odd = i % 2;
        const bool next = odd && even_;
        to[i] = taps_[odd] * (next ? columns[at + odd] : columns[at]) +
                taps_[odd + 2] * (next ? columns[at + 1 + odd] : columns[at + 1]);
      }
    }
  }

 private:
  // Elements between the begin of a vector and `place`.
  static __device__ __forceinline__ int past(const T* place) {
    return int(reinterpret_cast<uintptr_t>(place) / sizeof(T) % V);
  }

  const int width_;
  const bool whole_, even_;
  const T* plane_;
  int first_;  // column
  float taps_[4];
};

// The same where channels come last: V channels of one output column.
template <class T, int kUp, int kDown>
class PixelRows {
 public:
  static constexpr int kTaps = 4 / kUp;
  using Fetched = Raw<T, kTaps>;

  __device__ PixelRows(const UpfirdnArgs& a, const Plan& plan, const Taps& taps, int64_t image,
                       int64_t vector)
      : width_(int(a.in_w)), whole_(plan.whole_in), step_(a.c) {
    const FirstTap first = first_tap(vector / plan.vectors_of_pixel, kUp, kDown, a.pad_x);
    const int64_t channel = vector % plan.vectors_of_pixel * V;
    left_ = int(min(int64_t(V), a.c - channel));
    first_ = int(first.pixel);
    plane_ = static_cast<const T*>(a.x) + image * a.in_h * a.in_w * a.c + channel;
#pragma unroll
    for (int t = 0; t < kTaps; ++t)
      taps_[t] = kUp == 2 && first.tap ? taps.x[t * kUp + kUp - 1] : taps.x[t * kUp];
  }

  __device__ __forceinline__ Fetched fetch(int row) const {
    Fetched raw = {};
    const T* const from = plane_ + (int64_t(row) * width_ + first_) * step_;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      if (unsigned(first_ + t) >= unsigned(width_)) continue;
      if (whole_) {
        raw.put_vector(t, from + t * step_);
      } else {
#pragma unroll
        for (int i = 0; i < V; ++i)
          if (i < left_) raw.put_element(t * V + i, from[t * step_ + i]);
      }
    }
    return raw;
  }

  __device__ __forceinline__ void filter(const Fetched& raw, int, float (&to)[V]) const {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      to[i] = taps_[0] * raw.at(i);
#pragma unroll
      for (int t = 1; t < kTaps; ++t) to[i] += taps_[t] * raw.at(t * V + i);
    }
  }

 private:
  const int width_;
  const bool whole_;
  const int64_t step_;
  const T* plane_;
  int first_;  // column
  int left_;   // channels
  float taps_[kTaps];
};

// Writes vectors of the output, one below the other.
template <class T, bool kLast, bool kFused>
class Output {
 public:
  static constexpr int kSides = kFused ? kLast ? V : 1 : 0;

  __device__ Output(const UpfirdnArgs& a, const Plan& plan, int64_t image, int64_t vector)
      : a_(a), plan_(plan) {
    channel_ = kLast ? vector % plan.vectors_of_pixel * V : image % a.c;
    x_ = kLast ? vector / plan.vectors_of_pixel : vector * V;
    sample_ = kLast ? image : image / a.c;
    left_ = int(min(int64_t(V), kLast ? a.c - channel_ : a.out_w - x_));
    const int64_t place = image * a.out_h * a.out_w;
    out_ = static_cast<T*>(a.out) + (kLast ? (place + x_) * a.c + channel_ : place + x_);
    if constexpr (kFused) read_sides();
  }

  __device__ __forceinline__ void put(int y, float (&v)[V]) const {
    if constexpr (kFused) {
      widen(narrow<T>(v), v);
      decorate(y, v);
    }
    T* const to = out_ + y * a_.out_w * (kLast ? a_.c : 1);
    if (plan_.whole_out) {
      *reinterpret_cast<Vector<T, V>*>(to) = narrow<T>(v);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i)
        if (i < left_) to[i] = store<T>(v[i]);
    }
  }

  // Of any filter.
  __device__ void put_sums(int y) const {
    const int64_t step = kLast ? a_.c : 1;
    const T* const from = static_cast<const T*>(a_.x) +
                          (kLast ? sample_ : sample_ * a_.c + channel_) * a_.in_h * a_.in_w * step +
                          (kLast ? channel_ : 0);
    float v[V];
#pragma unroll
    for (int i = 0; i < V; ++i)
      v[i] = i < left_ ? sum_at(a_, from + (kLast ? i : 0), step, y, x_ + (kLast ? 0 : i)) : 0.0f;
    put(y, v);
  }

 private:
  __device__ void read_sides() {
    const EpilogueArgs& e = a_.epilogue;
    const float *scale = static_cast<const float*>(e.scale) + sample_ * a_.c + channel_;
    const float* bias = static_cast<const float*>(e.bias) + channel_;
#pragma unroll
    for (int i = 0; i < kSides; ++i) {
      const bool inside = !kLast || i < left_;
      scale_[i] = e.scale && inside ? __ldg(scale + i) : 1.0f;
      bias_[i] = e.bias && inside ? __ldg(bias + i) : 0.0f;
    }
    strength_ = e.strength ? __ldg(static_cast<const float*>(e.strength)) : 1.0f;
  }

  __device__ __forceinline__ void decorate(int y, float (&v)[V]) const {
    float noise[V] = {};
    read_noise(y, noise);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int side = kLast ? i : 0;
      const float z = scale_[side] * v[i] + (strength_ * noise[kLast ? 0 : i] + bias_[side]);
      v[i] = activated(z);
    }
  }

  __device__ __forceinline__ void read_noise(int y, float (&noise)[V]) const {
    if (!a_.epilogue.noise) return;
    const int64_t row = (a_.epilogue.noise_n == 1 ? 0 : sample_) * a_.out_h + y;
    const float* const from = static_cast<const float*>(a_.epilogue.noise) + row * a_.out_w + x_;
    if (kLast) {
      noise[0] = __ldg(from);
    } else if (plan_.aligned_noise) {
#pragma unroll
      for (int i = 0; i < V; i += 4) {
        const float4 four = __ldg(reinterpret_cast<const float4*>(from + i));
        noise[i] = four.x, noise[i + 1] = four.y, noise[i + 2] = four.z, noise[i + 3] = four.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i)
        if (i < left_) noise[i] = __ldg(from + i);
    }
  }

  __device__ __forceinline__ float activated(float z) const {
    float y = (z < 0.0f ? plan_.gain_below : plan_.gain) * z;
    if (plan_.relu && z < 0.0f) y = 0.0f;
    if (!plan_.clamped) return y;
    y = y > plan_.clamp ? plan_.clamp : y;
    return y < -plan_.clamp ? -plan_.clamp : y;
  }

  const UpfirdnArgs& a_;
  const Plan& plan_;
  T* out_;
  int64_t sample_, channel_, x_;
  int left_;  // columns or channels
  float scale_[kSides > 0 ? kSides : 1], bias_[kSides > 0 ? kSides : 1], strength_;
};

// Filtered rows, some of them fetched before they are asked for; zeros outside of [0, end).
template <class Rows>
class Queue {
 public:
  __device__ Queue(const Rows& rows, int row, int end) : rows_(rows), row_(row), end_(end) {
#pragma unroll
    for (int i = 0; i < kRowsAhead; ++i) ahead_[i] = fetch(row + i);
  }

  __device__ __forceinline__ void next(float (&to)[V]) {
    const typename Rows::Fetched raw = ahead_[0];
#pragma unroll
    for (int i = 0; i + 1 < kRowsAhead; ++i) ahead_[i] = ahead_[i + 1];
    ahead_[kRowsAhead - 1] = fetch(row_ + kRowsAhead);
    rows_.filter(raw, row_++, to);
  }

 private:
  __device__ __forceinline__ typename Rows::Fetched fetch(int row) const {
    return row >= 0 && row < end_ ? rows_.fetch(row) : typename Rows::Fetched{};
  }

  static constexpr int kRowsAhead = sizeof(typename Rows::Fetched) > 48 ? 1 : 2;

  const Rows& rows_;
  int row_, end_;
  typename Rows::Fetched ahead_[kRowsAhead];
};

template <int kRows>
__device__ __forceinline__ void move_up(float (&window)[kRows][V], int by) {
#pragma unroll
  for (int k = 0; k + by < kRows; ++k)
#pragma unroll
    for (int i = 0; i < V; ++i) window[k][i] = window[k + by][i];
}

template <int kDown, class Rows, class To>
__device__ __forceinline__ void walk(const Taps& taps, Queue<Rows>& queue, const To& to, int y,
                                     int end) {
  float window[4][V];
#pragma unroll
  for (int k = kDown; k < 4; ++k) queue.next(window[k]);
#pragma unroll(4 / kDown)
  for (; y < end; ++y) {
    move_up(window, kDown);
#pragma unroll
    for (int k = 4 - kDown; k < 4; ++k) queue.next(window[k]);
    float v[V];
#pragma unroll
    for (int i = 0; i < V; ++i)
      v[i] = taps.y[0] * window[0][i] + taps.y[1] * window[1][i] + taps.y[2] * window[2][i] +
             taps.y[3] * window[3][i];
    to.put(y, v);
  }
}

// Two output rows at a time, from an even one on.
template <class Rows, class To>
__device__ __forceinline__ void walk_up(const Taps& taps, bool even, Queue<Rows>& queue,
                                        const To& to, int y, int end) {
  const float even0 = even ? taps.y[0] : taps.y[1], even1 = even ? taps.y[2] : taps.y[3];
  const float odd0 = even ? taps.y[1] : taps.y[0], odd1 = even ? taps.y[3] : taps.y[2];
  float window[3][V];
  queue.next(window[1]);
  queue.next(window[2]);
#pragma unroll 3
  for (; y < end; y += 2) {
    move_up(window, 1);
    queue.next(window[2]);
    float v[V];
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = even0 * window[0][i] + even1 * window[1][i];
    to.put(y, v);
    if (y + 1 == end) break;
#pragma unroll
    for (int i = 0; i < V; ++i)
      v[i] = odd0 * (even ? window[1][i] : window[0][i]) +
             odd1 * (even ? window[2][i] : window[1][i]);
    to.put(y + 1, v);
  }
}

template <class T, int kUp, int kDown, bool kLast, bool kFused>
__global__ void __launch_bounds__(kThreads) four_taps(const __grid_constant__ UpfirdnArgs a, const __grid_constant__ Plan plan) {
  using Rows = std::conditional_t<kLast, PixelRows<T, kUp, kDown>, PlaneRows<T, kUp, kDown>>;
  Taps taps;
  const bool separable = factorise(a, taps);
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t vector = index % plan.vectors, walk_index = index / plan.vectors;
  const int64_t image = walk_index / plan.strips;
  if (image >= plan.images) return;
  const int y = int(walk_index % plan.strips * plan.rows), end = int(min(y + plan.rows, a.out_h));
  const Output<T, kLast, kFused> to(a, plan, image, vector);
  if (!separable) {
    for (int i = y; i < end; ++i) to.put_sums(i);
    return;
  }
  const Rows rows(a, plan, taps, image, vector);
  const int64_t past = first_tap(end - 1, kUp, kDown, a.pad_y).pixel + 4 / kUp;
  Queue<Rows> queue(rows, int(first_tap(y, kUp, kDown, a.pad_y).pixel), int(min(past, a.in_h)));
  if constexpr (kUp == 2)
    walk_up(taps, a.pad_y % 2 == 0, queue, to, y, end);
  else
    walk<kDown>(taps, queue, to, y, end);
}

template <class T>
__global__ void __launch_bounds__(kThreads) any_taps(const __grid_constant__ UpfirdnArgs a) {
  const int64_t count = a.n * a.c * a.out_h * a.out_w, step = a.channels_last ? a.c : 1;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kThreads) {
    const int64_t channel = i % step, pixel = i / step;
    const int64_t x = pixel % a.out_w, y = pixel / a.out_w % a.out_h;
    const int64_t image = pixel / a.out_w / a.out_h;
    const T* const from = static_cast<const T*>(a.x) + image * a.in_h * a.in_w * step + channel;
    static_cast<T*>(a.out)[i] = store<T>(sum_at(a, from, step, y, x));
  }
}

int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
Plan plan_of(const UpfirdnArgs& a) {
  const EpilogueArgs& e = a.epilogue;
  Plan plan{};
  plan.images = a.channels_last ? a.n : a.n * a.c;
  plan.vectors_of_pixel = quotient_up(a.c, V);
  plan.vectors = a.channels_last ? a.out_w * plan.vectors_of_pixel : quotient_up(a.out_w, V);
  const int64_t rows = plan.images * plan.vectors * a.out_h / kEnoughThreads / 2 * 2;
  plan.rows = min(max(rows, kLeastRows), kMostRows);
  plan.strips = quotient_up(a.out_h, plan.rows);
  plan.whole_in = (a.channels_last ? a.c : a.in_w) % V == 0 && aligned(a.x, V * sizeof(T));
  plan.whole_out = (a.channels_last ? a.c : a.out_w) % V == 0 && aligned(a.out, V * sizeof(T));
  plan.aligned_noise = a.out_w % V == 0 && aligned(e.noise, 16);
  plan.relu = e.act == Act::relu;
  plan.clamped = e.clamp >= 0;
  plan.gain = float(e.gain);
  plan.gain_below = float(e.act == Act::linear ? e.gain : e.gain * e.alpha);
  plan.clamp = float(e.clamp);
  return plan;
}

template <class T, int kUp, int kDown>
void start(const UpfirdnArgs& a, void* stream) {
  const Plan plan = plan_of<T>(a);
  const int64_t blocks = quotient_up(plan.images * plan.strips * plan.vectors, kThreads);
  const dim3 grid(static_cast<unsigned>(blocks));
  if (a.channels_last && a.fused)
    LAUNCH((four_taps<T, kUp, kDown, true, true>), grid, kThreads, 0, stream, a, plan);
  else if (a.channels_last)
    LAUNCH((four_taps<T, kUp, kDown, true, false>), grid, kThreads, 0, stream, a, plan);
  else if (a.fused)
    LAUNCH((four_taps<T, kUp, kDown, false, true>), grid, kThreads, 0, stream, a, plan);
  else
    LAUNCH((four_taps<T, kUp, kDown, false, false>), grid, kThreads, 0, stream, a, plan);
}

// Returns whether there is a kernel for these factors.
template <class T>
bool start_four_taps(const UpfirdnArgs& a, void* stream) {
  const bool alike = a.up_x == a.up_y && a.down_x == a.down_y;
  if (!alike || a.f_w != 4 || upfirdn2d_taps_y(a) != 4) return false;
  if (a.up_x == 1 && a.down_x == 1)
    start<T, 1, 1>(a, stream);
  else if (a.up_x == 1 && a.down_x == 2)
    start<T, 1, 2>(a, stream);
  else if (a.up_x == 2 && a.down_x == 1)
    start<T, 2, 1>(a, stream);
  else
    return false;
  return true;
}

template <class T>
int run(UpfirdnArgs a, void* stream) {
  const bool fused = a.fused;
  a.fused = fused && a.epilogue.act <= Act::lrelu;
  if (!start_four_taps<T>(a, stream)) {
    a.fused = false;
    const int64_t blocks = quotient_up(a.n * a.c * a.out_h * a.out_w, kThreads);
    LAUNCH(any_taps<T>, dim3(unsigned(min(blocks, int64_t(1) << 20))), kThreads, 0, stream, a);
  }
  const int error = cudaGetLastError();
  if (error || a.fused == fused) return error;
  // What is left of the epilogue, in place.
  a.epilogue.x = a.epilogue.out = a.out;
  return epilogue_cuda(&a.epilogue, stream);
}

}  // namespace

extern "C" int upfirdn2d_cuda(const UpfirdnArgs* a, void* stream) {
  if (a->n * a->c * a->out_h * a->out_w == 0) return cudaSuccess;
  switch (a->dtype) {
    case Dtype::f32: return run<float>(*a, stream);
    case Dtype::bf16: return run<bfloat16_t>(*a, stream);
    case Dtype::f16: return run<float16_t>(*a, stream);
    default: return cudaErrorInvalidValue;
  }
}
