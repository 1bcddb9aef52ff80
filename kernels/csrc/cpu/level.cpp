// Compiled once for each instruction set, with KERNELS_LEVEL its name.
#include "level.h"

#include "epilogue.h"
#include "non_local_means.h"
#include "upfirdn2d.h"

#define KERNELS_TEXT(name) #name
#define KERNELS_NAME(name) KERNELS_TEXT(name)

namespace KERNELS_LEVEL {

const Level level = {
    KERNELS_NAME(KERNELS_LEVEL), epilogue, epilogue_backward, upfirdn2d, non_local_means,
};

}  // namespace KERNELS_LEVEL
