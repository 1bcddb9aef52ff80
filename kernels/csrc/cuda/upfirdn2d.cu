// FIR resampling on the GPU.
//
// Filters of four taps with factors 1 and 2: a thread takes four neighbours of an output row and
// walks down the rows below it. Each row of the input is filtered along x once, from vectors that
// neighbouring threads read too and the first-level cache holds; the last rows stay in registers for
// the taps along y, and the next ones are on their way. Whether the filter is a product of two lines
// is found out here, so that nobody waits for its values; other filters and factors are summed up
// tap by tap.
#include "fir_output.h"
#include "fir_rows.h"

extern "C" int epilogue_cuda(const EpilogueArgs*, void* stream);

namespace {

constexpr int kThreads = 128;
// Rows of a walk. More of them read fewer rows twice, fewer of them keep a large GPU busy.
constexpr int64_t kLeastRows = 8, kMostRows = 32, kEnoughThreads = 1 << 18;

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
__global__ void __launch_bounds__(kThreads, 4)
    four_taps(const __grid_constant__ UpfirdnArgs a, const __grid_constant__ Plan plan) {
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
