"""Compiled operators with a torch reference each; knows nothing of microscopy."""

from kernels.activation import bias_act, noise_bias_act
from kernels.denoising import non_local_means
from kernels.filters import setup_filter
from kernels.fused_resampling import upfirdn2d_bias_act
from kernels.modulation import demodulation, modulated_conv2d, modulated_layer
from kernels.registry import using
from kernels.resampling import downsample2d, filter2d, upfirdn2d, upsample2d

__all__ = [
    "bias_act",
    "demodulation",
    "downsample2d",
    "filter2d",
    "modulated_conv2d",
    "modulated_layer",
    "noise_bias_act",
    "non_local_means",
    "setup_filter",
    "upfirdn2d",
    "upfirdn2d_bias_act",
    "upsample2d",
    "using",
]
