// The CPU's implementations of the declared operators.
#include "bind.h"

#include <cstdlib>
#include <cstring>

#include "cpu/level.h"

namespace {

bool runs_here(const Level& level) {
#if defined(__x86_64__)
  if (&level == &avx2::level)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (&level == &avx512::level)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return &level == &baseline::level;
}

// The widest that runs here and is not wider than the one that KERNELS_CPU names; null for no name.
const Level* chosen_level() {
  const char* wish = std::getenv("KERNELS_CPU");
  bool allowed = !wish || !*wish;
#if defined(__x86_64__)
  for (const Level* level : {&avx512::level, &avx2::level}) {
    allowed = allowed || !std::strcmp(wish, level->name);
    if (allowed && runs_here(*level)) return level;
  }
#endif
  return allowed || !std::strcmp(wish, baseline::level.name) ? &baseline::level : nullptr;
}

const Level& level(Dtype dtype) {
  static const Level* const chosen = chosen_level();
  STD_TORCH_CHECK(chosen, "KERNELS_CPU=", std::getenv("KERNELS_CPU"),
                  ": is not known; give baseline, avx2 or avx512");
  return dtype == Dtype::f64 ? baseline::level : *chosen;
}

// Elements that are worth a thread.
constexpr int64_t kGrain = 1 << 15;

template <class Args>
void parallel(void (*kernel)(const Args&, int64_t, int64_t), const Args& a, int64_t items,
              int64_t elements) {
  const int64_t grain = items * kGrain / (elements > 0 ? elements : 1) + 1;
  torch::stable::parallel_for(0, items, grain,
                              [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
}

struct Cpu {
  static int64_t parts(const EpilogueArgs& a) { return epilogue_parts(a); }
  static void epilogue(const EpilogueArgs& a, const Tensor& x) {
    parallel(level(a.dtype).epilogue, a, epilogue_items(a), x.numel());
  }
  static void epilogue_backward(const EpilogueArgs& a, const Tensor& x) {
    parallel(level(a.dtype).epilogue_backward, a, epilogue_items(a), x.numel());
  }
  static void upfirdn2d(const UpfirdnArgs& a, const Tensor& out) {
    parallel(level(a.dtype).upfirdn2d, a, upfirdn2d_items(a), out.numel());
  }
  static void non_local_means(const NonLocalMeansArgs& a, const Tensor&) {
    const int64_t items = non_local_means_items(a);
    parallel(level(a.dtype).non_local_means, a, items, items * kGrain);
  }
};

}  // namespace

// Name of the instruction set in use, for `python -m kernels.doctor`; null where none is chosen.
extern "C" __attribute__((visibility("default"))) const char* kernels_cpu_level() {
  const Level* const chosen = chosen_level();
  return chosen ? chosen->name : nullptr;
}

STABLE_TORCH_LIBRARY_IMPL(kernels, CPU, m) { implement<Cpu>(m); }
