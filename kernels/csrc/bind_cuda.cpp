// The GPU's implementations of the declared operators.
#include "bind.h"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

extern "C" {
int epilogue_cuda(const EpilogueArgs*, void* stream);
int epilogue_backward_cuda(const EpilogueArgs*, void* stream);
int upfirdn2d_cuda(const UpfirdnArgs*, void* stream);
int non_local_means_cuda(const NonLocalMeansArgs*, void* stream);
}

namespace {

template <class Args>
void run(int (*start)(const Args*, void*), const Args& a, const Tensor& x) {
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
                  "torch does not tell its current stream");
  const auto error = static_cast<cudaError_t>(start(&a, stream));
  STD_TORCH_CHECK(error != cudaErrorNoKernelImageForDevice,
                  "the compiled operators have no code for this GPU; name it in "
                  "TORCH_CUDA_ARCH_LIST for `make kernels`, or set KERNELS=ref");
  STD_TORCH_CHECK(error == cudaSuccess, cudaGetErrorString(error));
}

struct Cuda {
  static int64_t parts(const EpilogueArgs& a) { return epilogue_parts_on_gpu(a); }
  static void epilogue(const EpilogueArgs& a, const Tensor& x) { run(epilogue_cuda, a, x); }
  static void epilogue_backward(const EpilogueArgs& a, const Tensor& x) {
    run(epilogue_backward_cuda, a, x);
  }
  static void upfirdn2d(const UpfirdnArgs& a, const Tensor& out) { run(upfirdn2d_cuda, a, out); }
  static void non_local_means(const NonLocalMeansArgs& a, const Tensor& x) {
    run(non_local_means_cuda, a, x);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kernels, CUDA, m) { implement<Cuda>(m); }
