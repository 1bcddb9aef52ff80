// Tensors to arguments and back, for any device; declared in Python, implemented here.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "core/epilogue.h"
#include "core/non_local_means.h"
#include "core/upfirdn2d.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Side = std::optional<Tensor>;
using Pair = std::vector<int64_t>;

namespace {

inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::Double: return Dtype::f64;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Half: return Dtype::f16;
    default: STD_TORCH_CHECK(false, "compiled operators take floating types only");
  }
}

inline ScalarType accumulation_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Dimensions of length 1 fit every layout.
inline bool lies_as(const Tensor& x, const std::vector<int64_t>& order) {
  int64_t step = 1;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    if (x.size(*d) != 1 && x.stride(*d) != step) return false;
    step *= x.size(*d);
  }
  return true;
}

inline bool is_channels_last(const Tensor& x) {
  const bool last = x.dim() == 4 && !x.is_contiguous() && lies_as(x, {0, 2, 3, 1});
  STD_TORCH_CHECK(last || x.numel() == 0 || x.is_contiguous(),
                  "compiled operators take contiguous or channels_last tensors");
  return last;
}

inline bool beside(const Tensor& a, const Tensor& b) {
  return a.get_device_index() == b.get_device_index() && a.is_cuda() == b.is_cuda();
}

// Null where the side is absent.
inline const void* side_data(const Side& side, const Tensor& x, int64_t count) {
  if (!side) return nullptr;
  STD_TORCH_CHECK(beside(*side, x) && side->is_contiguous() &&
                      side->scalar_type() == accumulation_type(x) && side->numel() == count,
                  "what is combined with activations must be contiguous, of their accumulation "
                  "type, on their device, and have one element for each channel or pixel");
  return side->const_data_ptr();
}

inline EpilogueArgs epilogue_args(const Tensor& x, const Side& scale, const Side& noise,
                                  const Side& strength, const Side& bias, int64_t dim, int64_t act,
                                  double alpha, double gain, double clamp) {
  STD_TORCH_CHECK(act >= 0 && act <= static_cast<int64_t>(Act::swish) && dim >= 0 && dim < x.dim(),
                  "there is no such activation or dimension");
  EpilogueArgs a{};
  a.dtype = dtype_of(x);
  a.act = static_cast<Act>(act);
  a.n = a.p = 1;
  a.c = x.size(dim);
  for (int64_t d = 0; d < x.dim(); ++d)
    if (d != dim) (d < dim ? a.n : a.p) *= x.size(d);
  // One pixel lies either way, and many channels are quicker than many planes of one element.
  a.channels_last = is_channels_last(x) || a.p == 1;
  STD_TORCH_CHECK(dim == 1 || !is_channels_last(x),
                  "what belongs to another dimension than the channels needs a contiguous tensor");
  a.noise_n = noise ? noise->size(0) : 1;
  a.alpha = alpha;
  a.gain = gain;
  a.clamp = clamp;
  a.scale = side_data(scale, x, a.n * a.c);
  a.noise = side_data(noise, x, a.noise_n == 1 ? a.p : a.n * a.p);
  a.strength = side_data(strength, x, 1);
  a.bias = side_data(bias, x, a.c);
  return a;
}

template <class Device>
Tensor epilogue(Tensor x, Side scale, Side noise, Side strength, Side bias, int64_t dim,
                int64_t act, double alpha, double gain, double clamp) {
  Tensor out = torch::stable::empty_like(x);
  EpilogueArgs a = epilogue_args(x, scale, noise, strength, bias, dim, act, alpha, gain, clamp);
  a.x = x.const_data_ptr();
  a.out = out.mutable_data_ptr();
  if (x.numel()) Device::epilogue(a, x);
  return out;
}

// Sums over parts of the pixels, to be added up once the kernel has run.
class PartialSums {
 public:
  PartialSums(bool wanted, const Tensor& x, const EpilogueArgs& a, int64_t parts) {
    const std::vector<int64_t> shape =
        wanted ? std::vector<int64_t>{a.n, parts, a.c} : std::vector<int64_t>{0};
    sums_ = torch::stable::new_zeros(x, shape, accumulation_type(x));
    wanted_ = wanted;
  }
  void* place() { return wanted_ ? sums_.mutable_data_ptr() : nullptr; }
  Tensor over(std::vector<int64_t> dims) const {
    return wanted_ ? torch::stable::sum(sums_, dims) : sums_;
  }
  // In two steps: torch would cut a sum over everything by the number of threads.
  Tensor over_all() const {
    return wanted_ ? torch::stable::sum(over({0, 1}), std::vector<int64_t>{0}) : sums_;
  }

 private:
  Tensor sums_;
  bool wanted_;
};

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> epilogue_backward(
    Tensor dy, Side kept, Side scale, Side noise, Side strength, Side bias, int64_t dim,
    int64_t act, double alpha, double gain, double clamp, bool from_output, bool scaled,
    std::vector<bool> wanted) {
  Tensor dx = torch::stable::empty_like(dy);
  EpilogueArgs a = epilogue_args(dy, scale, noise, strength, bias, dim, act, alpha, gain, clamp);
  STD_TORCH_CHECK(!kept || (is_channels_last(*kept) == is_channels_last(dy) &&
                            kept->numel() == dy.numel() &&
                            kept->scalar_type() == dy.scalar_type() && beside(*kept, dy)),
                  "the gradient must lie in memory as the activations do, and be of their type");
  STD_TORCH_CHECK(wanted.size() == 3, "three sums may be asked for");
  STD_TORCH_CHECK(kept || (a.act == Act::linear && clamp < 0 && !wanted.at(0)),
                  "the gradient needs the activations");
  STD_TORCH_CHECK(!from_output || (a.act <= Act::lrelu && !scale && !wanted.at(0)),
                  "the output tells the slope of straight lines that nothing has scaled");
  a.from_output = from_output;
  if (clamp >= 0) a.clamp = rounded(clamp, a.dtype);
  a.scaled = scaled && scale;
  a.x = kept ? kept->const_data_ptr() : nullptr;
  a.dy = dy.const_data_ptr();
  a.out = dx.mutable_data_ptr();
  const int64_t parts = Device::parts(a);
  PartialSums of_scale(wanted[0], dy, a, parts), of_strength(wanted[1], dy, a, parts),
      of_bias(wanted[2], dy, a, parts);
  a.sum_scale = of_scale.place();
  a.sum_strength = of_strength.place();
  a.sum_bias = of_bias.place();
  if (dy.numel()) Device::epilogue_backward(a, dy);
  return {dx, of_scale.over({1}), of_strength.over_all(), of_bias.over({0, 1})};
}

inline int64_t resampled(int64_t size, int64_t up, int64_t down, int64_t pad, int64_t taps) {
  return (size * up + pad - taps + down) / down;
}

// Arguments as in the schema; padding is left, right, top, bottom.
inline UpfirdnArgs upfirdn2d_args(const Tensor& x, const Tensor& f, const Pair& up,
                                  const Pair& down, const Pair& padding, bool flip, double gain) {
  STD_TORCH_CHECK(f.scalar_type() == ScalarType::Float && f.is_contiguous() && beside(f, x) &&
                      f.numel() > 0 && f.dim() <= 2,
                  "the filter must be contiguous, of type float32, and where the image is");
  STD_TORCH_CHECK(x.dim() == 4 && up.size() == 2 && down.size() == 2 && padding.size() == 4 &&
                      up[0] > 0 && up[1] > 0 && down[0] > 0 && down[1] > 0,
                  "resampling takes two factors of at least 1 each, and four paddings");
  UpfirdnArgs a{};
  a.dtype = dtype_of(x);
  a.channels_last = is_channels_last(x);
  a.flip = flip;
  a.n = x.size(0);
  a.c = x.size(1);
  a.in_h = x.size(2);
  a.in_w = x.size(3);
  a.up_x = up[0];
  a.up_y = up[1];
  a.down_x = down[0];
  a.down_y = down[1];
  a.pad_x = padding[0];
  a.pad_y = padding[2];
  a.f_h = f.dim() == 2 ? f.size(0) : 0;
  a.f_w = f.size(f.dim() - 1);
  a.out_w = resampled(a.in_w, a.up_x, a.down_x, padding[0] + padding[1], a.f_w);
  a.out_h = resampled(a.in_h, a.up_y, a.down_y, padding[2] + padding[3], upfirdn2d_taps_y(a));
  a.gain = gain;
  a.x = x.const_data_ptr();
  a.f = static_cast<const float*>(f.const_data_ptr());
  return a;
}

inline Tensor empty_image(const Tensor& like, const UpfirdnArgs& a) {
  if (!a.channels_last)
    return torch::stable::new_empty(like, std::vector<int64_t>{a.n, a.c, a.out_h, a.out_w});
  const std::vector<int64_t> stored{a.n, a.out_h, a.out_w, a.c};
  Tensor image = torch::stable::new_empty(like, stored);
  return torch::stable::transpose(torch::stable::transpose(image, 1, 3), 2, 3);
}

template <class Device>
Tensor upfirdn2d(Tensor x, Tensor f, Pair up, Pair down, Pair padding, bool flip, double gain) {
  UpfirdnArgs a = upfirdn2d_args(x, f, up, down, padding, flip, gain);
  Tensor out = empty_image(x, a);
  a.out = out.mutable_data_ptr();
  if (out.numel()) Device::upfirdn2d(a, out);
  return out;
}

template <class Device>
Tensor upfirdn2d_epilogue(Tensor x, Tensor f, Pair up, Pair down, Pair padding, bool flip,
                          double fir_gain, Side scale, Side noise, Side strength, Side bias,
                          int64_t dim, int64_t act, double alpha, double gain, double clamp) {
  STD_TORCH_CHECK(dim == 1, "sides of a resampled image belong to its channels");
  UpfirdnArgs a = upfirdn2d_args(x, f, up, down, padding, flip, fir_gain);
  Tensor out = empty_image(x, a);
  a.out = out.mutable_data_ptr();
  a.fused = true;
  a.epilogue = epilogue_args(out, scale, noise, strength, bias, dim, act, alpha, gain, clamp);
  if (out.numel()) Device::upfirdn2d(a, out);
  return out;
}

template <class Device>
Tensor non_local_means(Tensor x, int64_t patch_size, int64_t patch_distance, double h,
                       double sigma) {
  STD_TORCH_CHECK(x.dim() == 4 && patch_size % 2 == 1 && patch_distance >= 0,
                  "non-local means take images of four dimensions and a patch of odd size");
  Tensor out = torch::stable::empty_like(x);
  NonLocalMeansArgs a{};
  a.dtype = dtype_of(x);
  is_channels_last(x);
  a.n = x.size(0);
  a.c = x.size(1);
  a.h = x.size(2);
  a.w = x.size(3);
  a.stride_n = x.stride(0);
  a.stride_c = x.stride(1);
  a.stride_h = x.stride(2);
  a.stride_w = x.stride(3);
  a.patch_size = patch_size;
  a.patch_distance = patch_distance;
  a.strength = h;
  a.sigma = sigma;
  a.x = x.const_data_ptr();
  a.out = out.mutable_data_ptr();
  if (x.numel()) Device::non_local_means(a, x);
  return out;
}

// Called by each binding for its device.
template <class Device>
void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("epilogue", TORCH_BOX(&epilogue<Device>));
  m.impl("epilogue_backward", TORCH_BOX(&epilogue_backward<Device>));
  m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d<Device>));
  m.impl("upfirdn2d_epilogue", TORCH_BOX(&upfirdn2d_epilogue<Device>));
  m.impl("non_local_means", TORCH_BOX(&non_local_means<Device>));
}

}  // namespace
