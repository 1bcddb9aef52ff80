"""Activations with their slopes, and the constants of one call."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Curve(NamedTuple):
    """An activation, its slope, and the defaults that keep the variance of unit Gaussian input."""

    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]
    alpha: float = 0.0
    gain: float = 1.0
    straight: bool = False  # made of straight lines: the slope has no derivative


def _tanh_slope(v: Tensor, _: float) -> Tensor:
    return 1 - v.tanh() ** 2


def _sigmoid_slope(v: Tensor, _: float) -> Tensor:
    return v.sigmoid() * (1 - v.sigmoid())


def _elu_slope(v: Tensor, _: float) -> Tensor:
    # Without the bound exp overflows where it is not taken, and its derivative is then NaN.
    return torch.where(v > 0, 1.0, v.clamp(max=0).exp())


def _selu_slope(v: Tensor, _: float) -> Tensor:
    # Klambauer et al. 2017, equation 14.
    scale, alpha = 1.0507009873554804934, 1.6732632423543772848
    return scale * torch.where(v > 0, 1.0, alpha * v.clamp(max=0).exp())


def _swish_slope(v: Tensor, _: float) -> Tensor:
    return v.sigmoid() * (1 + v * (1 - v.sigmoid()))


def _lrelu(v: Tensor, alpha: float) -> Tensor:
    return torch.where(v > 0, v, alpha * v)


def _lrelu_slope(v: Tensor, alpha: float) -> Tensor:
    return torch.ones_like(v).where(v > 0, alpha)


# Their order is that of `enum class Act` in csrc/core/activation.h.
CURVES = {
    "linear": Curve(lambda v, _: v, lambda v, _: torch.ones_like(v), straight=True),
    "relu": Curve(lambda v, _: v.relu(), lambda v, _: (v > 0).to(v), 0.0, 2**0.5, True),
    "lrelu": Curve(_lrelu, _lrelu_slope, 0.2, 2**0.5, True),
    "tanh": Curve(lambda v, _: v.tanh(), _tanh_slope),
    "sigmoid": Curve(lambda v, _: v.sigmoid(), _sigmoid_slope),
    "elu": Curve(lambda v, _: F.elu(v), _elu_slope),
    "selu": Curve(lambda v, _: F.selu(v), _selu_slope),
    # Torch's own threshold of 20 is too low for float64: softplus(20) - 20 = 2e-9.
    "softplus": Curve(lambda v, _: F.softplus(v, threshold=40), lambda v, _: v.sigmoid()),
    "swish": Curve(lambda v, _: v * v.sigmoid(), _swish_slope, 0.0, 2**0.5),
}
LINEAR = 0
_BY_NUMBER = list(CURVES.values())


class Options(NamedTuple):
    """The constants of one call, in the order of the operators' schemas."""

    dim: int
    act: int
    alpha: float
    gain: float
    clamp: float  # negative: none

    @classmethod
    def checked(
        cls, act: str, alpha: float | None, gain: float | None, clamp: float | None, dim: int = 1
    ) -> "Options":
        """Fills in the activation's defaults.

        Raises:
            ValueError: the activation is unknown or ``clamp`` is negative.
        """
        if act not in CURVES:
            raise ValueError(f"act={act!r}: is not known; give one of {', '.join(CURVES)}")
        if clamp is not None and not clamp >= 0:
            raise ValueError(f"clamp={clamp}: is negative; give a bound of at least 0, or None")
        number, default = list(CURVES).index(act), CURVES[act]
        alpha = default.alpha if alpha is None else alpha
        gain = default.gain if gain is None else gain
        return cls(dim, number, float(alpha), float(gain), -1.0 if clamp is None else float(clamp))

    @property
    def curve(self) -> Curve:
        """The activation that ``act`` numbers."""
        return _BY_NUMBER[self.act]

    @property
    def sign_tells(self) -> bool:
        """Whether the sign of the output determines the slope."""
        return self.curve.straight and self.alpha >= 0 and self.gain > 0

    @property
    def identity(self) -> bool:
        """Whether nothing is left but the gain."""
        return self.act == LINEAR and self.clamp < 0

    @property
    def plain(self) -> bool:
        """Whether nothing is left."""
        return self.identity and self.gain == 1
