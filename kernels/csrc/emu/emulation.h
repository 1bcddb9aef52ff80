// CUDA on the host, for tests: a .cu file compiled as C++ runs its kernels one block at a time.
//
// Threads run one after another up to the next barrier, in an order that a test chooses, so that a
// missing barrier shows. Faults end a launch as on a GPU: cudaGetLastError() tells of them, and
// emulation_message() says where. Indices beyond fixed arrays and misaligned vectors are faults
// where GCC is given -fsanitize=bounds,alignment to compile, but not to link.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "language.h"

namespace emulation {

constexpr size_t kStackBytes = 1 << 16;
constexpr size_t kSharedBytes = 227 << 10;
constexpr size_t kSharedUnasked = 48 << 10;
constexpr size_t kGuardBytes = 1 << 10;
constexpr unsigned char kPoison = 0xff;  // NaN as a float

// A stack on which threads run one after another until one of them waits at a barrier.
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  uint3 thread;
  int line = 0;  // of that barrier; 0 where no thread waits
};

struct State {
  std::function<void()> kernel;
  std::map<const void*, size_t> shared_asked;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<unsigned> order;
  size_t begun = 0;
  Fiber* running = nullptr;
  ucontext_t scheduler;
  sigjmp_buf fault;
  int arriving = 0, arrived = 0;  // threads that brought a true predicate to the barrier
  int seed = 0;                   // 0: ascending order, -1: descending, else random
  std::mt19937 random;
  cudaError_t error = cudaSuccess;
  char message[512] = "";
};
inline State state;
alignas(16) inline unsigned char shared_memory[kSharedBytes + kGuardBytes];

[[noreturn]] inline void fail(const char* what, const char* where = "kernel", int line = 0) {
  std::snprintf(state.message, sizeof state.message,
                "%s at %s:%d by thread (%u, %u, %u) of block (%u, %u, %u)", what, where, line,
                threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
  siglongjmp(state.fault, 1);
}

inline void* dynamic_shared() { return shared_memory; }

inline void run_threads() {
  Fiber& self = *state.running;
  for (;;) {
    while (state.begun < state.order.size()) {
      const unsigned i = state.order[state.begun++];
      const unsigned row = i / blockDim.x;
      threadIdx = self.thread = {i % blockDim.x, row % blockDim.y, row / blockDim.y};
      state.kernel();
    }
    self.line = 0;
    swapcontext(&self.context, &state.scheduler);
  }
}

inline int barrier(int line, bool predicate) {
  Fiber& self = *state.running;
  self.line = line;
  state.arriving += predicate;
  swapcontext(&self.context, &state.scheduler);
  threadIdx = self.thread;
  return state.arrived;
}

inline Fiber& fiber(size_t i) {
  if (i == state.fibers.size()) {
    Fiber& made = *state.fibers.emplace_back(new Fiber);
    getcontext(&made.context);
    made.context.uc_stack.ss_sp = made.stack.get();
    made.context.uc_stack.ss_size = kStackBytes;
    makecontext(&made.context, run_threads, 0);
  }
  return *state.fibers[i];
}

// Whether a thread waits on the fiber when it stops.
inline bool resume(Fiber& fiber) {
  state.running = &fiber;
  swapcontext(&state.scheduler, &fiber.context);
  return fiber.line;
}

inline std::vector<unsigned> ordered(unsigned count) {
  std::vector<unsigned> order(count);
  for (unsigned i = 0; i < count; ++i) order[i] = state.seed < 0 ? count - 1 - i : i;
  if (state.seed > 0) std::shuffle(order.begin(), order.end(), state.random);
  return order;
}

inline void check_barrier(size_t waiting, size_t threads) {
  const int line = state.fibers[0]->line;
  for (size_t i = 0; i < waiting; ++i)
    if (state.fibers[i]->line != line) fail("threads wait at different barriers", "line", line);
  if (waiting && waiting < threads) fail("threads ended before a barrier", "line", line);
}

inline void run_block(unsigned threads, size_t shared_bytes) {
  std::memset(shared_memory, kPoison, shared_bytes + kGuardBytes);
  state.order = ordered(threads);
  state.begun = 0;
  size_t waiting = 0;
  while (state.begun < threads) waiting += resume(fiber(waiting));
  while (waiting) {
    check_barrier(waiting, threads);
    state.arrived = std::exchange(state.arriving, 0);
    waiting = 0;
    for (unsigned i : ordered(threads)) waiting += resume(*state.fibers[i]);
    if (waiting && waiting < threads) fail("threads ended before a barrier");
  }
  for (size_t i = 0; i < kGuardBytes; ++i)
    if (shared_memory[shared_bytes + i] != kPoison) fail("write beyond the shared memory");
}

inline void run_grid(size_t shared_bytes) {
  const auto [x, y, z] = gridDim;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  for (unsigned k = 0; k < z; ++k)
    for (unsigned j = 0; j < y; ++j)
      for (unsigned i = 0; i < x; ++i) {
        blockIdx = {i, j, k};
        run_block(threads, shared_bytes);
      }
}

inline bool valid(dim3 grid, dim3 block, size_t shared_bytes, size_t shared_limit) {
  const bool none = !grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z;
  const bool fits = block.x <= 1024 && block.y <= 1024 && block.z <= 64 &&
                    uint64_t(block.x) * block.y * block.z <= 1024;
  return !none && fits && grid.x < 1u << 31 && grid.y <= 65535 && grid.z <= 65535 &&
         shared_bytes <= shared_limit;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t, Arguments... arguments) {
  const auto asked = state.shared_asked.find((const void*)kernel);
  const size_t limit = asked == state.shared_asked.end() ? kSharedUnasked : asked->second;
  if (!valid(grid, block, shared_bytes, limit)) {
    state.error = cudaErrorInvalidConfiguration;
    return;
  }
  gridDim = grid;
  blockDim = block;
  state.kernel = [&] { kernel(arguments...); };
  state.random.seed(state.seed);
  struct sigaction before, caught = {};
  caught.sa_handler = [](int) { fail("memory outside of every allocation"); };
  sigaction(SIGSEGV, &caught, &before);
  if (sigsetjmp(state.fault, 1)) {
    state.fibers.clear();
    state.arriving = 0;
    state.error = cudaErrorLaunchFailure;
  } else {
    run_grid(shared_bytes);
  }
  sigaction(SIGSEGV, &before, nullptr);
}

struct SourceLocation {
  const char* file;
  uint32_t line, column;
};

}  // namespace emulation

inline void __syncthreads(int line = __builtin_LINE()) { emulation::barrier(line, false); }
inline int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
  return emulation::barrier(line, predicate);
}
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
  return emulation::barrier(line, predicate) > 0;
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
  return emulation::barrier(line, predicate) == int(blockDim.x * blockDim.y * blockDim.z);
}

inline cudaError_t cudaGetLastError() {
  return std::exchange(emulation::state.error, cudaSuccess);
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  if (size_t(bytes) > emulation::kSharedBytes) return cudaErrorInvalidConfiguration;
  emulation::state.shared_asked[(const void*)kernel] = bytes;
  return cudaSuccess;
}

// Called by tests, and by what GCC's sanitizers put into the code.
#define EXPORTED extern "C" __attribute__((weak, used, visibility("default")))
EXPORTED const char* emulation_message() { return emulation::state.message; }
EXPORTED void emulation_order(int seed) { emulation::state.seed = seed; }
EXPORTED void __ubsan_handle_out_of_bounds(emulation::SourceLocation* at, uintptr_t) {
  emulation::fail("index beyond an array", at->file, int(at->line));
}
EXPORTED void __ubsan_handle_type_mismatch_v1(emulation::SourceLocation* at, uintptr_t) {
  emulation::fail("misaligned access", at->file, int(at->line));
}
