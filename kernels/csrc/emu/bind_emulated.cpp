// The GPU's code as operators on CPU tensors, for tests: torch.ops.kernels_emulated.
#include "bind.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>

extern "C" {
int epilogue_cuda(const EpilogueArgs*, void* stream);
int epilogue_backward_cuda(const EpilogueArgs*, void* stream);
int upfirdn2d_cuda(const UpfirdnArgs*, void* stream);
int non_local_means_cuda(const NonLocalMeansArgs*, void* stream);
const char* emulation_message();
}

namespace {

constexpr size_t kPage = 4096;
constexpr char kUntouched = 0x5a;

// A copy, aligned alike, that ends where memory ends, so that to read or write beyond it is a
// fault. What was written before it shows afterwards.
class Guarded {
 public:
  Guarded(void* original, size_t bytes) : original_(original), bytes_(bytes) {
    const size_t slack = 15 - (size_t(original) + bytes - 1) % 16;
    usable_ = (bytes + slack + kPage) / kPage * kPage;
    const int how = MAP_PRIVATE | MAP_ANONYMOUS;
    void* memory = mmap(nullptr, usable_ + kPage, PROT_READ | PROT_WRITE, how, -1, 0);
    STD_TORCH_CHECK(memory != MAP_FAILED, "there is no memory for a guarded copy");
    begin_ = static_cast<char*>(memory);
    mprotect(begin_ + usable_, kPage, PROT_NONE);
    place_ = begin_ + usable_ - slack - bytes;
    std::memset(begin_, kUntouched, usable_);
    std::memcpy(place_, original, bytes);
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() { munmap(begin_, usable_ + kPage); }

  void* place() const { return place_; }
  void write_back() const { std::memcpy(original_, place_, bytes_); }
  bool untouched_around() const {
    const auto untouched = [](char byte) { return byte == kUntouched; };
    return std::all_of(begin_, place_, untouched) &&
           std::all_of(place_ + bytes_, begin_ + usable_, untouched);
  }

 private:
  void* original_;
  size_t bytes_, usable_;
  char *begin_, *place_;
};

// Puts guarded copies in the place of what a kernel reads and writes.
class Guards {
 public:
  template <class T>
  void read(const T*& pointer, int64_t bytes) {
    if (pointer)
      pointer = static_cast<const T*>(guarded(const_cast<T*>(pointer), bytes, inputs_));
  }
  void write(void*& pointer, int64_t bytes) {
    if (pointer) pointer = guarded(pointer, bytes, outputs_);
  }
  void finish(int error) const {
    STD_TORCH_CHECK(error == 0, "error ", error, ": ", emulation_message());
    for (const auto& output : outputs_) {
      STD_TORCH_CHECK(output->untouched_around(), "a kernel wrote outside of its results");
      output->write_back();
    }
  }

 private:
  using Copies = std::vector<std::unique_ptr<Guarded>>;
  static void* guarded(void* pointer, int64_t bytes, Copies& copies) {
    return copies.emplace_back(new Guarded(pointer, size_t(bytes)))->place();
  }
  Copies inputs_, outputs_;
};

void guard_sides(Guards& guards, EpilogueArgs& a) {
  guards.read(a.scale, a.n * a.c * sizeof(float));
  guards.read(a.noise, a.noise_n * a.p * sizeof(float));
  guards.read(a.strength, sizeof(float));
  guards.read(a.bias, a.c * sizeof(float));
}

void run_epilogue(int (*start)(const EpilogueArgs*, void*), EpilogueArgs a, const Tensor& x) {
  Guards guards;
  const int64_t bytes = x.numel() * x.element_size();
  guards.read(a.x, bytes);
  guards.read(a.dy, bytes);
  guards.write(a.out, bytes);
  guard_sides(guards, a);
  for (void** sum : {&a.sum_scale, &a.sum_strength, &a.sum_bias})
    guards.write(*sum, a.n * epilogue_parts_on_gpu(a) * a.c * sizeof(float));
  guards.finish(start(&a, nullptr));
}

struct Emulated {
  static int64_t parts(const EpilogueArgs& a) { return epilogue_parts_on_gpu(a); }
  static void epilogue(const EpilogueArgs& a, const Tensor& x) {
    run_epilogue(epilogue_cuda, a, x);
  }
  static void epilogue_backward(const EpilogueArgs& a, const Tensor& x) {
    run_epilogue(epilogue_backward_cuda, a, x);
  }
  static void upfirdn2d(UpfirdnArgs a, const Tensor& out) {
    Guards guards;
    guards.read(a.x, a.n * a.c * a.in_h * a.in_w * out.element_size());
    guards.read(a.f, (a.f_h ? a.f_h : 1) * a.f_w * sizeof(float));
    guards.write(a.out, out.numel() * out.element_size());
    if (a.fused) guard_sides(guards, a.epilogue);
    guards.finish(upfirdn2d_cuda(&a, nullptr));
  }
  static void non_local_means(NonLocalMeansArgs a, const Tensor& x) {
    Guards guards;
    guards.read(a.x, x.numel() * x.element_size());
    guards.write(a.out, x.numel() * x.element_size());
    guards.finish(non_local_means_cuda(&a, nullptr));
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kernels_emulated, CPU, m) { implement<Emulated>(m); }
