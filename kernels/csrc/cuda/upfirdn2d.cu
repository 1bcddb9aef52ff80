// FIR resampling on the GPU.
//
// Filters of four taps with factors 1 and 2: a thread takes 16 bytes of an output row and walks down
// the rows below it. Each row of the input is filtered along x once, from vectors that neighbouring
// threads read too and the first-level cache holds; the last rows stay in registers for the taps
// along y, and the next ones are on their way. Where rows, or the channels that come last, are no
// whole vectors, a thread takes one element. Whether the filter is a product of two lines is found
// out here, so that nobody waits for its values; other filters and factors are summed up tap by tap.
#include "fir_output.h"
#include "fir_rows.h"

extern "C" int epilogue_cuda(const EpilogueArgs*, void* stream);

namespace {

constexpr int kThreads = 128;
// Rows of a walk. More of them read fewer rows twice, fewer of them keep a large GPU busy.
constexpr int64_t kLeastRows = 8, kMostRows = 16, kEnoughThreads = 1 << 18;
// What is counted in 32 bits: threads, elements of an image, and its lengths and paddings.
constexpr int64_t kMostThreads = 1ll << 31, kMostElements = 1ll << 32, kLongest = 1ll << 29;

// Whether the filter is y * x up to rounding, and these factors; all threads of a block take part.
__device__ __forceinline__ bool factorise(const UpfirdnArgs& a, Taps& taps) {
  __shared__ float plane[16];
  const int i = threadIdx.x;
  if (i < 16) plane[i] = tap_at(a, i / 4, i % 4);
  __syncthreads();
  int top = 0;
  float most = fabsf(plane[0]);
#pragma unroll
  for (int k = 1; k < 16; ++k) {
    const float size = fabsf(plane[k]);
    top = size > most ? k : top;
    most = size > most ? size : most;
  }
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

template <int kRows, int V>
__device__ __forceinline__ void move_up(float (&window)[kRows][V], int by) {
#pragma unroll
  for (int k = 0; k + by < kRows; ++k)
#pragma unroll
    for (int i = 0; i < V; ++i) window[k][i] = window[k + by][i];
}

template <int kDown, int V, class Rows, class To>
__device__ __forceinline__ void walk(const Taps& taps, Queue<Rows, V>& queue, const To& to, int y,
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

// Two output rows at a time, which meet in the middle one of three input rows; the first may lie
// before `begin`.
template <int V, class Rows, class To>
__device__ __forceinline__ void walk_up(const Taps& taps, Queue<Rows, V>& queue, const To& to,
                                        int y, int begin, int end) {
  float window[3][V];
  queue.next(window[1]);
  queue.next(window[2]);
#pragma unroll 3
  for (; y < end; y += 2) {
    move_up(window, 1);
    queue.next(window[2]);
    float v[V];
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = taps.y[0] * window[0][i] + taps.y[2] * window[1][i];
    if (y >= begin) to.put(y, v);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = taps.y[1] * window[1][i] + taps.y[3] * window[2][i];
    if (y + 1 < end) to.put(y + 1, v);
  }
}

template <class T, int V, int kUp, int kDown, bool kLast, bool kFused>
__global__ void __launch_bounds__(kThreads, V == 1 ? 5 : 4)
    four_taps(const __grid_constant__ UpfirdnArgs a, const __grid_constant__ Plan plan) {
  using Rows = std::conditional_t<kLast || V == 1, PixelRows<T, V, kUp, kDown>,
                                  PlaneRows<T, V, kUp, kDown>>;
  const unsigned index = blockIdx.x * kThreads + threadIdx.x;
  const unsigned vector = index % plan.vectors, walk_index = index / plan.vectors;
  const int64_t image = walk_index / plan.strips;
  const int begin = int(walk_index % plan.strips * plan.rows);
  const int past_end = int(min(int64_t(begin + plan.rows), a.out_h));
  // Threads without work stay for the barriers.
  const int end = walk_index < plan.walks ? past_end : begin;
  const int y = kUp == 2 && a.pad_y % 2 ? begin - 1 : begin;
  const int64_t past = first_tap(end - 1, kUp, kDown, a.pad_y).pixel + 4 / kUp;
  Rows rows(a, plan, image, vector);
  // The first rows are on their way while the taps are found out.
  Queue<Rows, V> queue(rows, int(first_tap(y, kUp, kDown, a.pad_y).pixel),
                       begin < end ? int(min(past, a.in_h)) : 0);
  Taps taps;
  const bool separable = factorise(a, taps);
  if (begin >= end) return;
  rows.set(taps.x);
  const Output<T, V, kLast, kFused> to(a, plan, image, vector);
  if (!separable) {
    for (int i = begin; i < end; ++i) to.put_sums(i);
    return;
  }
  if constexpr (kUp == 2)
    walk_up(taps, queue, to, y, begin, end);
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

// How threads that take V elements of each row share the work; `walks` is 0 where it is too much.
template <int V>
Plan plan_of(const UpfirdnArgs& a) {
  const EpilogueArgs& e = a.epilogue;
  Plan plan{};
  const int64_t images = a.channels_last ? a.n : a.n * a.c;
  const int64_t of_pixel = a.channels_last ? a.c / V : 1;
  const int64_t vectors = a.channels_last ? a.out_w * of_pixel : a.out_w / V;
  const int64_t rows = images * vectors * a.out_h / kEnoughThreads / 2 * 2;
  plan.rows = unsigned(min(max(rows, kLeastRows), kMostRows));
  const int64_t strips = quotient_up(a.out_h, plan.rows), walks = images * strips;
  const int64_t step = a.channels_last ? a.c : 1;
  const int64_t longest = max(max(a.in_h, a.in_w), max(a.out_h, a.out_w));
  const int64_t padded = max(max(a.pad_x, -a.pad_x), max(a.pad_y, -a.pad_y));
  const bool fits = walks < kMostThreads && vectors < kMostThreads / walks &&
                    max(longest, padded) < kLongest &&
                    max(a.in_h * a.in_w, a.out_h * a.out_w) < kMostElements / step;
  plan.walks = fits ? unsigned(walks) : 0;
  plan.strips = unsigned(strips);
  plan.vectors = unsigned(vectors);
  plan.vectors_of_pixel = unsigned(of_pixel);
  plan.aligned_noise = a.out_w % V == 0 && aligned(e.noise, 16);
  plan.relu = e.act == Act::relu;
  plan.gain = float(e.gain);
  plan.gain_below = float(e.act == Act::linear ? e.gain : e.gain * e.alpha);
  plan.clamp = e.clamp >= 0 ? float(e.clamp) : INFINITY;
  return plan;
}

template <class T, int V, int kUp, int kDown>
bool start(const UpfirdnArgs& a, void* stream) {
  const Plan plan = plan_of<V>(a);
  if (plan.walks == 0) return false;
  const dim3 grid(unsigned(quotient_up(int64_t(plan.walks) * plan.vectors, kThreads)));
  if (a.channels_last && a.fused)
    LAUNCH((four_taps<T, V, kUp, kDown, true, true>), grid, kThreads, 0, stream, a, plan);
  else if (a.channels_last)
    LAUNCH((four_taps<T, V, kUp, kDown, true, false>), grid, kThreads, 0, stream, a, plan);
  else if (a.fused)
    LAUNCH((four_taps<T, V, kUp, kDown, false, true>), grid, kThreads, 0, stream, a, plan);
  else
    LAUNCH((four_taps<T, V, kUp, kDown, false, false>), grid, kThreads, 0, stream, a, plan);
  return true;
}

template <class T, int kUp, int kDown>
bool start_in_vectors(const UpfirdnArgs& a, void* stream) {
  constexpr int V = kVectorLength<T>;
  const bool whole = a.channels_last ? a.c % V == 0 : a.in_w % V == 0 && a.out_w % V == 0;
  if (whole && aligned(a.x, 16) && aligned(a.out, 16)) return start<T, V, kUp, kDown>(a, stream);
  return start<T, 1, kUp, kDown>(a, stream);
}

// Returns whether there is a kernel for these factors.
template <class T>
bool start_four_taps(const UpfirdnArgs& a, void* stream) {
  const bool alike = a.up_x == a.up_y && a.down_x == a.down_y;
  if (!alike || a.f_w != 4 || upfirdn2d_taps_y(a) != 4) return false;
  if (a.up_x == 1 && a.down_x == 1) return start_in_vectors<T, 1, 1>(a, stream);
  if (a.up_x == 1 && a.down_x == 2) return start_in_vectors<T, 1, 2>(a, stream);
  if (a.up_x == 2 && a.down_x == 1) return start_in_vectors<T, 2, 1>(a, stream);
  return false;
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
