// One set of CPU kernels for each instruction set; the binding picks one when it is loaded.
#pragma once

#include "../core/epilogue.h"
#include "../core/non_local_means.h"
#include "../core/upfirdn2d.h"

struct Level {
  const char* name;
  void (*epilogue)(const EpilogueArgs&, int64_t begin, int64_t end);
  void (*epilogue_backward)(const EpilogueArgs&, int64_t begin, int64_t end);
  void (*upfirdn2d)(const UpfirdnArgs&, int64_t begin, int64_t end);
  void (*non_local_means)(const NonLocalMeansArgs&, int64_t begin, int64_t end);
};

namespace baseline {
extern const Level level;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Level level;
}
namespace avx512 {
extern const Level level;
}
#endif
