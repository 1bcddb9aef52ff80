// The output of the FIR resampling on the GPU, with the epilogue of a layer if that is wanted.
#pragma once

#include "fir_plan.h"

namespace {

// Writes vectors of the output, one below the other.
template <class T, int V, bool kLast, bool kFused>
class Output {
 public:
  static constexpr int kSides = kFused ? kLast ? V : 1 : 0;

  __device__ Output(const UpfirdnArgs& a, const Plan& plan, int64_t image, unsigned vector)
      : a_(a), plan_(plan) {
    channel_ = kLast ? vector % plan.vectors_of_pixel * V : image % a.c;
    x_ = kLast ? vector / plan.vectors_of_pixel : vector * V;
    sample_ = kLast ? image : image / a.c;
    const int64_t place = image * a.out_h * a.out_w;
    out_ = static_cast<T*>(a.out) + (kLast ? (place + x_) * a.c + channel_ : place + x_);
    width_ = unsigned(a.out_w);
    row_ = width_ * unsigned(kLast ? a.c : 1);
    if constexpr (kFused) read_sides();
  }

  __device__ __forceinline__ void put(int y, float (&v)[V]) const {
    if constexpr (kFused) {
      widen(narrow<T>(v), v);
      decorate(y, v);
    }
    write(out_ + unsigned(y) * row_, narrow<T>(v));
  }

  // Of any filter.
  __device__ void put_sums(int y) const {
    const int64_t step = kLast ? a_.c : 1;
    const T* const from = static_cast<const T*>(a_.x) +
                          (kLast ? sample_ : sample_ * a_.c + channel_) * a_.in_h * a_.in_w * step +
                          (kLast ? channel_ : 0);
    float v[V];
#pragma unroll
    for (int i = 0; i < V; ++i)
      v[i] = sum_at(a_, from + (kLast ? i : 0), step, y, x_ + (kLast ? 0 : i));
    put(y, v);
  }

 private:
  __device__ void read_sides() {
    const EpilogueArgs& e = a_.epilogue;
    const float *scale = static_cast<const float*>(e.scale) + sample_ * a_.c + channel_;
    const float* bias = static_cast<const float*>(e.bias) + channel_;
#pragma unroll
    for (int i = 0; i < kSides; ++i) {
      scale_[i] = e.scale ? __ldg(scale + i) : 1.0f;
      bias_[i] = e.bias ? __ldg(bias + i) : 0.0f;
    }
    noise_ = static_cast<const float*>(e.noise);
    if (noise_) noise_ += (e.noise_n == 1 ? 0 : sample_) * a_.out_h * a_.out_w + x_;
    strength_ = e.strength ? __ldg(static_cast<const float*>(e.strength)) : 1.0f;
  }

  __device__ __forceinline__ void decorate(int y, float (&v)[V]) const {
    float noise[V] = {};
    read_noise(y, noise);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int side = kLast ? i : 0;
      const float z = scale_[side] * v[i] + (strength_ * noise[kLast ? 0 : i] + bias_[side]);
      v[i] = activated(z);
    }
  }

  __device__ __forceinline__ void read_noise(int y, float (&noise)[V]) const {
    if (!noise_) return;
    const float* const from = noise_ + unsigned(y) * width_;
    if (kLast || V == 1) {
      noise[0] = __ldg(from);
    } else if (plan_.aligned_noise) {
#pragma unroll
      for (int i = 0; i + 3 < V; i += 4) {
        const float4 four = __ldg(reinterpret_cast<const float4*>(from + i));
        noise[i] = four.x, noise[i + 1] = four.y, noise[i + 2] = four.z, noise[i + 3] = four.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) noise[i] = __ldg(from + i);
    }
  }

  __device__ __forceinline__ float activated(float z) const {
    if (plan_.relu) z = rectified(z);
    return limited((z < 0.0f ? plan_.gain_below : plan_.gain) * z, plan_.clamp);
  }

  const UpfirdnArgs& a_;
  const Plan& plan_;
  T* out_;
  const float* noise_;
  unsigned width_, row_;  // elements of a row of the noise, and of one of the output
  int64_t sample_, channel_, x_;
  float scale_[kSides > 0 ? kSides : 1], bias_[kSides > 0 ? kSides : 1], strength_;
};

}  // namespace
