// An epilogue whose activation is a straight line above zero and one below, on vectors.
#pragma once

#include "../core/upfirdn2d.h"
#include "lanes.h"

namespace {

inline bool is_straight(const EpilogueArgs& e) { return e.act == Act::linear || e.act == Act::lrelu; }

class Straight {
 public:
  explicit Straight(const EpilogueArgs& e)
      : above_(float(e.gain)),
        below_(float(e.act == Act::linear ? e.gain : e.gain * e.alpha)),
        clamp_(float(e.clamp)) {}

  KERNELS_INLINE Lanes operator()(Lanes v) const {
    const Lanes y = v * (v > 0.0f ? all_lanes(above_) : all_lanes(below_));
    if (clamp_ < 0.0f) return y;
    const Lanes low = y > clamp_ ? all_lanes(clamp_) : y;
    return low < -clamp_ ? all_lanes(-clamp_) : low;
  }

 private:
  float above_, below_, clamp_;
};

inline float side_at(const void* side, int64_t i, float absent) {
  return side ? static_cast<const float*>(side)[i] : absent;
}

// Noise of sample n, or null.
inline const float* noise_of(const UpfirdnArgs& a, int64_t n) {
  const float* noise = static_cast<const float*>(a.epilogue.noise);
  return noise && a.epilogue.noise_n > 1 ? noise + n * a.out_h * a.out_w : noise;
}

}  // namespace
