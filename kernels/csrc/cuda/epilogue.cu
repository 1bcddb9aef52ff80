// Epilogue of a layer on the GPU: each element is read once and written once, 16 bytes at a time.
//
// In memory a sample is a matrix: its rows are channels and its columns pixels or, where channels
// come last, the other way round. A block of threads takes some rows and columns of one sample; a
// thread takes a vector of columns from several rows, so that what belongs to columns is read once.
#include "../core/epilogue.h"
#include "vector.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kGridLimit = 65535;  // along y
// As many blocks as a large GPU runs at once; with fewer of them they are made smaller.
constexpr int64_t kBlocksAtOnce = 512;
constexpr int kLeastThreads = 64;
// Where channels come last, sums of as many bytes along a row are formed by one block.
constexpr int kSummedBytes = 128;

// `backward_of_output` is backward with sums where the output was kept and nothing was scaled.
enum class Pass { forward, backward, backward_with_sums, backward_of_output };
template <Pass kPass>
constexpr bool kSumsUp = kPass == Pass::backward_with_sums || kPass == Pass::backward_of_output;

// How a matrix is cut into blocks, and the constants of the curve.
struct Plan {
  int64_t rows, columns, rows_per_block, columns_per_block, parts;
  unsigned column_blocks;
  int first_step;      // of adding up the sums of the threads: a power of 2
  bool aligned_sides;  // what belongs to columns is aligned to 16 bytes
  bool relu, clamped;
  float gain, gain_below, clamp;  // infinite: none
};

// Rows that a thread reads before it uses them. Long code has no room for more than one.
template <Pass kPass, bool kCurved>
constexpr int kRowsAtOnce = kCurved ? 1 : kPass == Pass::forward ? 4 : 2;

__device__ float curved(Act act, float v) {
  switch (act) {
    case Act::tanh: return activate<Act::tanh>(v, 0.0f);
    case Act::sigmoid: return activate<Act::sigmoid>(v, 0.0f);
    case Act::elu: return activate<Act::elu>(v, 0.0f);
    case Act::selu: return activate<Act::selu>(v, 0.0f);
    case Act::softplus: return activate<Act::softplus>(v, 0.0f);
    default: return activate<Act::swish>(v, 0.0f);
  }
}

__device__ float curved_slope(Act act, float v) {
  switch (act) {
    case Act::tanh: return slope<Act::tanh>(v, 0.0f);
    case Act::sigmoid: return slope<Act::sigmoid>(v, 0.0f);
    case Act::elu: return slope<Act::elu>(v, 0.0f);
    case Act::selu: return slope<Act::selu>(v, 0.0f);
    case Act::softplus: return slope<Act::softplus>(v, 0.0f);
    default: return slope<Act::swish>(v, 0.0f);
  }
}

// Of linear, relu and lrelu, what is below 0 is multiplied by another factor.
template <bool kCurved>
__device__ __forceinline__ float activated(const EpilogueArgs& a, const Plan& plan, float v) {
  if constexpr (kCurved) return plan.gain * curved(a.act, v);
  if (plan.relu) v = rectified(v);
  return (v < 0.0f ? plan.gain_below : plan.gain) * v;
}

// Derivative of the output with respect to v, which is the output itself where that was kept.
template <class T, bool kCurved>
__device__ __forceinline__ float slope_at(const EpilogueArgs& a, const Plan& plan, float v) {
  float s = v > 0.0f ? plan.gain : plan.gain_below;
  if constexpr (kCurved) s = plan.gain * curved_slope(a.act, v);
  if (!plan.clamped) return s;
  const float y = a.from_output ? v : rounded_to<T>(activated<kCurved>(a, plan, v));
  return fabsf(y) >= plan.clamp ? 0.0f : s;
}

template <int V>
__device__ __forceinline__ void read_side(const void* place, int64_t i, float absent,
                                          bool aligned, float (&to)[V]) {
  const float* from = static_cast<const float*>(place) + i;
  if (!place) {
#pragma unroll
    for (int k = 0; k < V; ++k) to[k] = absent;
  } else if (V % 4 == 0 && aligned) {
#pragma unroll
    for (int k = 0; k + 3 < V; k += 4) {
      const float4 four = __ldg(reinterpret_cast<const float4*>(from + k));
      to[k] = four.x, to[k + 1] = four.y, to[k + 2] = four.z, to[k + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) to[k] = __ldg(from + k);
  }
}

// What belongs to channels, or to pixels; of one row, or of as many columns as a vector has.
template <int V>
struct OfChannels {
  float scale[V], bias[V];

  __device__ __forceinline__ void read(const EpilogueArgs& a, int64_t n, int64_t c, bool aligned) {
    read_side(a.scale, n * a.c + c, 1.0f, aligned, scale);
    read_side(a.bias, c, 0.0f, aligned, bias);
  }
};

template <int V>
struct OfPixels {
  float noise[V];

  __device__ __forceinline__ void read(const EpilogueArgs& a, int64_t n, int64_t p, bool aligned) {
    read_side(a.noise, (a.noise_n == 1 ? 0 : n) * a.p + p, 0.0f, aligned, noise);
  }
};

template <int V, bool kLast>
using OfColumns = std::conditional_t<kLast, OfChannels<V>, OfPixels<V>>;
template <bool kLast>
using OfRow = std::conditional_t<kLast, OfPixels<1>, OfChannels<1>>;

// Sums of one thread, K of each kind: one for every row, or for every column, that it takes.
template <int K, bool kOfScale>
struct Sums {
  static constexpr int kKinds = kOfScale ? 3 : 2;
  float of[kKinds][K];  // for bias, strength and scale

  __device__ __forceinline__ void add(int k, float gradient, float x, float noise) {
    of[0][k] += gradient;
    of[1][k] += gradient * noise;
    if constexpr (kOfScale) of[2][k] += gradient * x;
  }
  // The sums of `members` threads, which are `stride` threads apart, go to the first of them.
  __device__ void collect(int first_step, int member, int members, int stride) {
    __shared__ float shared[kKinds * K][kThreads];
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kKinds * K; ++k) shared[k][thread] = of[k / K][k % K];
    for (int step = first_step; step > 0; step /= 2) {
      __syncthreads();
      if (member >= step || member + step >= members) continue;
#pragma unroll
      for (int k = 0; k < kKinds * K; ++k)
        shared[k][thread] = of[k / K][k % K] += shared[k][thread + step * stride];
    }
  }
  __device__ void write(const EpilogueArgs& a, int k, int64_t i) const {
    if (a.sum_bias) static_cast<float*>(a.sum_bias)[i] = of[0][k];
    if (a.sum_strength) static_cast<float*>(a.sum_strength)[i] = of[1][k];
    if constexpr (kOfScale)
      if (a.sum_scale) static_cast<float*>(a.sum_scale)[i] = of[2][k];
  }
};

template <bool kLast, int V, Pass kPass, bool kCurved>
using SumsOf =
    Sums<kLast ? V : kRowsAtOnce<kPass, kCurved>, kPass != Pass::backward_of_output>;

// What all elements of a tile share.
struct Common {
  const EpilogueArgs& a;
  const Plan& plan;
  float strength;
};

template <class T, int V, bool kLast, Pass kPass, bool kCurved>
__device__ __forceinline__ Vector<T, V> result(
    const Common& all, const OfChannels<kLast ? V : 1>& channels,
    const OfPixels<kLast ? 1 : V>& pixels, const Vector<T, V>& kept, const Vector<T, V>& dy, int r,
    SumsOf<kLast, V, kPass, kCurved>& sums) {
  float x[V], gradient[V], out[V];
  widen(kept, x);
  if constexpr (kPass != Pass::forward) widen(dy, gradient);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float scale = channels.scale[kLast ? i : 0], bias = channels.bias[kLast ? i : 0];
    const float noise = pixels.noise[kLast ? 0 : i];
    constexpr bool kOfOutput = kPass == Pass::backward_of_output;
    const float v = kOfOutput ? x[i] : scale * x[i] + (all.strength * noise + bias);
    if constexpr (kPass == Pass::forward) {
      out[i] = limited(activated<kCurved>(all.a, all.plan, v), all.plan.clamp);
    } else {
      const float dv = gradient[i] * slope_at<T, kCurved>(all.a, all.plan, v);
      if constexpr (kSumsUp<kPass>) sums.add(kLast ? i : r, dv, x[i], noise);
      out[i] = all.a.scaled && !kOfOutput ? dv * scale : dv;
    }
  }
  return narrow<T>(out);
}

// One vector of each of several rows, all of them read before the first is used.
template <class T, int V, bool kLast, Pass kPass, bool kCurved>
__device__ __forceinline__ void take_rows(const Common& all, int64_t n, int64_t row, int rows_left,
                                          int64_t column, const OfColumns<V, kLast>& of_columns,
                                          SumsOf<kLast, V, kPass, kCurved>& sums) {
  constexpr int kRows = kRowsAtOnce<kPass, kCurved>;
  using Elements = Vector<T, V>;
  const EpilogueArgs& a = all.a;
  const int64_t start = (n * all.plan.rows + row) * all.plan.columns + column;
  const int64_t stride = blockDim.y * all.plan.columns;
  Elements x[kRows] = {}, dy[kRows];
  OfRow<kLast> of_row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    if (r * int(blockDim.y) < rows_left) {
      const int64_t i = start + r * stride;
      if (a.x) x[r] = *reinterpret_cast<const Elements*>(static_cast<const T*>(a.x) + i);
      if constexpr (kPass != Pass::forward)
        dy[r] = *reinterpret_cast<const Elements*>(static_cast<const T*>(a.dy) + i);
      of_row[r].read(a, n, row + r * int(blockDim.y), false);
    }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    if (r * int(blockDim.y) < rows_left) {
      Elements* out = reinterpret_cast<Elements*>(static_cast<T*>(a.out) + start + r * stride);
      constexpr auto kResult = result<T, V, kLast, kPass, kCurved>;
      if constexpr (kLast)
        *out = kResult(all, of_columns, of_row[r], x[r], dy[r], r, sums);
      else
        *out = kResult(all, of_row[r], of_columns, x[r], dy[r], r, sums);
    }
}

// The sums of a block: of its rows, or of its columns where channels come last.
template <int V, bool kLast, int K, bool kOfScale>
__device__ __forceinline__ void finish(Sums<K, kOfScale>& sums, const Common& all, int64_t first,
                                       int64_t row, int64_t column) {
  const Plan& plan = all.plan;
  if constexpr (kLast) {
    sums.collect(plan.first_step, threadIdx.y, blockDim.y, blockDim.x);
    if (threadIdx.y == 0 && column < plan.columns)
      for (int i = 0; i < V; ++i) sums.write(all.a, i, first + column + i);
  } else {
    sums.collect(plan.first_step, threadIdx.x, blockDim.x, 1);
    for (int r = 0; r < K; ++r)
      if (threadIdx.x == 0 && row + r * int(blockDim.y) < plan.rows)
        sums.write(all.a, r, first + row + r * int(blockDim.y));
  }
}

template <class T, int V, bool kLast, Pass kPass, bool kCurved>
__global__ void __launch_bounds__(kThreads, 2) epilogue(const EpilogueArgs a, const Plan plan) {
  constexpr int kRows = kRowsAtOnce<kPass, kCurved>;
  const unsigned row_block = blockIdx.x / plan.column_blocks;
  const unsigned column_block = blockIdx.x % plan.column_blocks;
  const int64_t row0 = row_block * plan.rows_per_block + threadIdx.y;
  const int64_t column0 = column_block * plan.columns_per_block + threadIdx.x * V;
  const int64_t last_row = min((row_block + 1) * plan.rows_per_block, plan.rows);
  const int64_t last_column = min((column_block + 1) * plan.columns_per_block, plan.columns);
  const float strength = a.strength ? *static_cast<const float*>(a.strength) : 1.0f;
  // An output that was kept is what tells the slope: nothing is added to it.
  const Common all{a, plan, a.from_output ? 0.0f : strength};
  for (int64_t n = blockIdx.y; n < a.n; n += gridDim.y) {
    SumsOf<kLast, V, kPass, kCurved> sums = {};
    OfColumns<V, kLast> of_columns;
#pragma unroll 1
    for (int64_t column = column0; column < last_column; column += blockDim.x * V) {
      of_columns.read(a, n, column, plan.aligned_sides);
#pragma unroll 1
      for (int64_t row = row0; row < last_row; row += blockDim.y * kRows)
        take_rows<T, V, kLast, kPass, kCurved>(all, n, row, int(last_row - row), column,
                                               of_columns, sums);
    }
    if constexpr (kSumsUp<kPass>) {
      const int64_t part = n * plan.parts + (kLast ? row_block : column_block);
      finish<V, kLast>(sums, all, part * a.c, row0, column0);
    }
  }
}

int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The largest power of 2 below `members`, or 0.
int first_step(int64_t members) {
  int step = 1;
  while (step * 2 < members) step *= 2;
  return members > 1 ? step : 0;
}

template <class T, int V, bool kLast, Pass kPass, bool kCurved>
void start(const EpilogueArgs& a, Plan plan, void* stream) {
  constexpr bool kSums = kSumsUp<kPass>;
  constexpr bool kOverRows = kSums && kLast, kOverColumns = kSums && !kLast;
  constexpr int64_t kRows = kRowsAtOnce<kPass, kCurved>;
  constexpr int64_t kMost = kOverRows ? kSummedBytes / int64_t(sizeof(T) * V) : kThreads;
  // What sums go over is one part of the pixels for each block.
  const int64_t rows = kOverRows ? quotient_up(plan.rows, plan.parts) : plan.rows;
  const int64_t columns =
      kOverColumns ? quotient_up(plan.columns, plan.parts * V) * V : plan.columns;
  const int64_t vectors = quotient_up(columns, V), steps = quotient_up(vectors, kMost);
  const int64_t column_blocks = kOverColumns ? plan.parts : steps;
  const int64_t x = quotient_up(vectors, steps);
  int64_t y = min(kThreads / x, quotient_up(rows, kRows));
  while (!kOverRows && x * y > kLeastThreads && y > 1 &&
         a.n * column_blocks * quotient_up(rows, y * kRows) < kBlocksAtOnce)
    y = quotient_up(y, 2);
  plan.rows_per_block = kOverRows ? rows : y * kRows;
  plan.columns_per_block = kOverColumns ? columns : x * V;
  plan.column_blocks = unsigned(column_blocks);
  plan.first_step = first_step(kLast ? y : x);
  const dim3 grid(unsigned(quotient_up(plan.rows, plan.rows_per_block) * column_blocks),
                  unsigned(min(a.n, kGridLimit)));
  LAUNCH((epilogue<T, V, kLast, kPass, kCurved>), grid, dim3(unsigned(x), unsigned(y)), 0, stream,
         a, plan);
}

template <class T, int V, bool kLast, bool kCurved>
void by_pass(const EpilogueArgs& a, const Plan& plan, void* stream) {
  if (!a.dy) return start<T, V, kLast, Pass::forward, kCurved>(a, plan, stream);
  const bool sums = a.sum_scale || a.sum_strength || a.sum_bias;
  if constexpr (!kCurved)
    if (sums && a.from_output)
      return start<T, V, kLast, Pass::backward_of_output, false>(a, plan, stream);
  if (sums) return start<T, V, kLast, Pass::backward_with_sums, kCurved>(a, plan, stream);
  start<T, V, kLast, Pass::backward, kCurved>(a, plan, stream);
}

template <class T, int V>
void by_layout_and_curve(const EpilogueArgs& a, const Plan& plan, void* stream) {
  const bool is_curved = a.act > Act::lrelu;
  if (a.channels_last)
    return is_curved ? by_pass<T, V, true, true>(a, plan, stream)
                     : by_pass<T, V, true, false>(a, plan, stream);
  is_curved ? by_pass<T, V, false, true>(a, plan, stream)
            : by_pass<T, V, false, false>(a, plan, stream);
}

Plan plan_of(const EpilogueArgs& a) {
  Plan plan{};
  plan.rows = a.channels_last ? a.p : a.c;
  plan.columns = a.channels_last ? a.c : a.p;
  plan.parts = epilogue_parts_on_gpu(a);
  plan.aligned_sides = a.channels_last ? aligned(a.scale, 16) && aligned(a.bias, 16)
                                       : aligned(a.noise, 16);
  plan.relu = a.act == Act::relu;
  plan.clamped = a.clamp >= 0;
  plan.gain = float(a.gain);
  plan.gain_below =
      float(a.act == Act::linear ? a.gain : a.act == Act::relu ? 0.0 : a.gain * a.alpha);
  plan.clamp = plan.clamped ? float(a.clamp) : INFINITY;
  return plan;
}

template <class T>
int by_alignment(const EpilogueArgs& a, void* stream) {
  const Plan plan = plan_of(a);
  constexpr int V = kVectorLength<T>;
  if (plan.columns % V == 0 && aligned(a.x, 16) && aligned(a.dy, 16) && aligned(a.out, 16))
    by_layout_and_curve<T, V>(a, plan, stream);
  else
    by_layout_and_curve<T, 1>(a, plan, stream);
  return cudaGetLastError();
}

int by_dtype(EpilogueArgs a, void* stream) {
  if (a.n * a.c * a.p == 0) return cudaSuccess;
  // One pixel lies in memory in both ways; this is the faster one.
  if (a.p == 1) a.channels_last = true;
  switch (a.dtype) {
    case Dtype::f32: return by_alignment<float>(a, stream);
    case Dtype::bf16: return by_alignment<bfloat16_t>(a, stream);
    case Dtype::f16: return by_alignment<float16_t>(a, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

extern "C" int epilogue_cuda(const EpilogueArgs* args, void* stream) {
  EpilogueArgs a = *args;
  a.dy = nullptr;
  return by_dtype(a, stream);
}

extern "C" int epilogue_backward_cuda(const EpilogueArgs* args, void* stream) {
  EpilogueArgs a = *args;
  const bool from_input = a.x && !a.from_output;
  if (!from_input) a.bias = nullptr;
  if (!from_input && !a.sum_strength) a.noise = nullptr;
  return by_dtype(a, stream);
}
