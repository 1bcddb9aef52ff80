"""What is asked of the operators, as ratios of times that `kernels.bench` measures together."""

from typing import NamedTuple

import torch

FORWARD, BACKWARD, DOUBLE = "forward", "forward+backward", "double backward"
PASSES = (FORWARD, BACKWARD, DOUBLE)
# Stands among the arms for the time of the floor.
FLOOR = ("floor",)


class Bar(NamedTuple):
    """``arm`` must be ``factor`` times as fast as the fastest of ``against``."""

    arm: str
    against: tuple[str, ...]
    factor: float
    passes: tuple[str, ...] = PASSES


_FILTERS = ("zeros inserted", "depthwise", "folded", "separable", "interpolate")
_ACT_BARS = (
    Bar("compiled", ("eager",), 4.0, (FORWARD,)),
    Bar("compiled", ("eager",), 4.5, (BACKWARD,)),
    Bar("compiled", ("eager",), 2.0, (DOUBLE,)),
    Bar("compiled", FLOOR, 0.8, (FORWARD, BACKWARD)),
)
_FIR_BARS = (Bar("compiled", ("reference",), 3.0), Bar("compiled", _FILTERS, 1.0))
# Each against what is given its input in the same layout.
_CONV_BARS = (
    Bar("compiled", ("grouped", "scaled", "unfolded"), 0.97),
    Bar("compiled channels_last", ("scaled channels_last",), 0.97),
)
_COPY_BARS = (Bar("compiled", FLOOR, 0.85, (FORWARD, BACKWARD)),)
# On a GPU; of plain convolutions of the same shape and layout.
_PLAIN_BARS = (
    Bar("compiled", ("convolution",), 0.9, (FORWARD, BACKWARD)),
    Bar("compiled channels_last", ("convolution channels_last",), 0.9, (FORWARD, BACKWARD)),
)


def bars(operator: str, dtype: torch.dtype, device: str) -> tuple[Bar, ...]:
    """What is asked of an operator; on the CPU with two threads."""
    if device == "cuda":
        memory_bound = ("bias_act", "noise_bias_act", "upfirdn2d")
        if operator == "modulated_conv2d":
            return _PLAIN_BARS
        return _COPY_BARS if operator in memory_bound else ()
    of_float = {"noise_bias_act": _ACT_BARS, "upfirdn2d": _FIR_BARS}
    if operator == "modulated_conv2d":
        return _CONV_BARS
    return of_float.get(operator, ()) if dtype == torch.float32 else ()
