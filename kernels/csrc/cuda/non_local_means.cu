// Non-local means on the GPU: a block of threads goes through the offsets of the search window
// for a tile of 32 x 32 pixels and sums squared differences over patches in shared memory.
#include "../core/non_local_means.h"
#include "launch.h"

namespace {

constexpr int kTile = 32, kThreadRows = 8, kRows = kTile / kThreadRows;
// Channels summed in registers; more of them are other blocks, which compute the weights again.
constexpr int kChannels = 8;
// More than the shared memory of any GPU holds; up to it, sizes do not leave an int.
constexpr int64_t kLargest = 1 << 13;

// Squares of a tile with the surroundings of a patch, their sums over columns, and where in memory
// the rows and columns of the tile lie with the surroundings of the search window.
struct Shared {
  int side, reach;
  int64_t *rows, *columns;
  float *squares, *sums;

  KERNELS_INLINE Shared(const NonLocalMeansArgs& a, int64_t* memory)
      : side(kTile + int(a.patch_size) - 1), reach(side + 2 * int(a.patch_distance)) {
    rows = memory;
    columns = rows + reach;
    squares = reinterpret_cast<float*>(columns + reach);
    sums = squares + side * side;
  }
  KERNELS_INLINE int64_t bytes() const {
    return 2 * reach * sizeof(int64_t) + (side + kTile) * side * sizeof(float);
  }
};

template <class T>
__device__ void square_differences(const NonLocalMeansArgs& a, const T* x, const Shared& tile,
                                   int dy, int dx) {
  const int distance = int(a.patch_distance);
  for (int i = threadIdx.y; i < tile.side; i += kThreadRows)
    for (int j = threadIdx.x; j < tile.side; j += kTile) {
      const T* p = x + tile.rows[i + distance] + tile.columns[j + distance];
      const T* q = x + tile.rows[i + distance + dy] + tile.columns[j + distance + dx];
      float sum = 0;
      for (int64_t c = 0; c < a.c; ++c) {
        const float difference = load(p[c * a.stride_c]) - load(q[c * a.stride_c]);
        sum += difference * difference;
      }
      tile.squares[i * tile.side + j] = sum;
    }
}

__device__ void sum_columns(const Shared& tile, int patch_size) {
  for (int i = threadIdx.y; i < kTile; i += kThreadRows)
    for (int j = threadIdx.x; j < tile.side; j += kTile) {
      float sum = 0;
      for (int k = 0; k < patch_size; ++k) sum += tile.squares[(i + k) * tile.side + j];
      tile.sums[i * tile.side + j] = sum;
    }
}

__device__ float weight_at(const Shared& tile, int patch_size, int i, float slope, float free) {
  float sum = 0;
  for (int k = 0; k < patch_size; ++k) sum += tile.sums[i * tile.side + threadIdx.x + k];
  const float excess = sum - free;
  return exp2f(excess < 0.0f ? 0.0f : -slope * excess);
}

template <class T>
__global__ void __launch_bounds__(kTile * kThreadRows)
    denoise(const NonLocalMeansArgs a, float slope, float free) {
  DYNAMIC_SHARED(int64_t, memory);
  const Shared tile(a, memory);
  const int64_t tiles_x = (a.w + kTile - 1) / kTile, tiles_y = (a.h + kTile - 1) / kTile;
  const int64_t left = blockIdx.x % tiles_x * kTile, top = blockIdx.x / tiles_x % tiles_y * kTile;
  const int64_t image = blockIdx.x / tiles_x / tiles_y * a.stride_n;
  const int64_t first = int64_t(blockIdx.y) * kChannels;
  const int distance = int(a.patch_distance), halo = distance + int(a.patch_size) / 2;
  const T* x = static_cast<const T*>(a.x) + image;

  for (int i = threadIdx.y * kTile + threadIdx.x; i < tile.reach; i += kTile * kThreadRows) {
    tile.rows[i] = reflected(top + i - halo, a.h) * a.stride_h;
    tile.columns[i] = reflected(left + i - halo, a.w) * a.stride_w;
  }
  __syncthreads();

  float sums[kRows][kChannels] = {}, totals[kRows] = {};
  for (int dy = -distance; dy <= distance; ++dy)
    for (int dx = -distance; dx <= distance; ++dx) {
      square_differences(a, x, tile, dy, dx);
      __syncthreads();
      sum_columns(tile, int(a.patch_size));
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int i = threadIdx.y + r * kThreadRows;
        const float weight = weight_at(tile, int(a.patch_size), i, slope, free);
        const T* q = x + first * a.stride_c + tile.rows[i + halo + dy] +
                     tile.columns[threadIdx.x + halo + dx];
        totals[r] += weight;
#pragma unroll
        for (int c = 0; c < kChannels; ++c, q += a.stride_c)
          if (first + c < a.c) sums[r][c] += weight * load(*q);
      }
    }

  T* out = static_cast<T*>(a.out) + image + first * a.stride_c;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t y = top + threadIdx.y + r * kThreadRows, column = left + threadIdx.x;
    if (y >= a.h || column >= a.w) continue;
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (first + c < a.c)
        out[c * a.stride_c + y * a.stride_h + column * a.stride_w] =
            store<T>(sums[r][c] / totals[r]);
  }
}

template <class T>
int start(const NonLocalMeansArgs& a, void* stream) {
  if (a.patch_size > kLargest || a.patch_distance > kLargest) return cudaErrorInvalidValue;
  const int64_t tiles = (a.h + kTile - 1) / kTile * ((a.w + kTile - 1) / kTile);
  const dim3 grid(unsigned(a.n * tiles), unsigned((a.c + kChannels - 1) / kChannels));
  const dim3 block(kTile, kThreadRows);
  const int64_t bytes = Shared(a, nullptr).bytes();
  cudaFuncSetAttribute(denoise<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  const PatchWeight weight = patch_weight(a);
  LAUNCH(denoise<T>, grid, block, bytes, stream, a, float(weight.slope), float(weight.free));
  return cudaGetLastError();
}

}  // namespace

extern "C" int non_local_means_cuda(const NonLocalMeansArgs* args, void* stream) {
  switch (args->dtype) {
    case Dtype::f32: return start<float>(*args, stream);
    case Dtype::bf16: return start<bfloat16_t>(*args, stream);
    case Dtype::f16: return start<float16_t>(*args, stream);
    default: return cudaErrorInvalidValue;  // float64 is left to the reference
  }
}
