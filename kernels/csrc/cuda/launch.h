// Starts kernels: on a GPU, or with -DKERNELS_EMULATED on the host by csrc/emu/emulation.h.
#pragma once

#ifdef KERNELS_EMULATED

#include "../emu/emulation.h"

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  emulation::launch(kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
// A pointer to the `shared_bytes` of a launch, aligned to 16 bytes.
#define DYNAMIC_SHARED(type, name) type* const name = (type*)emulation::dynamic_shared()

#else

#include <cuda_runtime.h>

// A template with a comma in it goes in parentheses: LAUNCH((kernel<float, 4>), ...).
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (kernel)<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define DYNAMIC_SHARED(type, name)                               \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* const name = reinterpret_cast<type*>(name##_bytes)

#endif
