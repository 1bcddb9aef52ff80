"""What the command line sets up for speed; every item can be switched off."""

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Literal

import torch
from jsonargparse.typing import NonNegativeInt

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_GIB = 1 << 30
# glibc before 2.35 refuses a larger threshold for mmap.
_OLD_LIMIT = 32 << 20


@dataclass(frozen=True)
class Hardware:
    """Speed settings.

    Attributes:
        allocator: keep freed memory in the process instead of returning it after every operation;
            two thirds of a large element-wise operation on a CPU are page faults otherwise.
        fused_optimizer: one kernel for all parameters.
        channels_last: NHWC layout of images and convolution weights.
        cuda_graphs: on one GPU, passes of adversarial models are captured and replayed as graphs;
            off until somebody has seen a whole training with it.
        precision: "auto" is bfloat16 where the hardware multiplies it natively, else float32.
        threads: CPU threads of a process; 0 leaves torch's choice.
    """

    allocator: bool = True
    fused_optimizer: bool = True
    channels_last: bool = True
    cuda_graphs: bool = False
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    threads: NonNegativeInt = 0

    def apply(self) -> None:
        """Sets what belongs to the process."""
        if self.allocator:
            keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)

    def resolved_precision(self, accelerator: str) -> str:
        """Lightning's name of the precision on what it calls "auto", "gpu", "cpu", "tpu", ..."""
        if self.precision != "auto":
            return self.precision
        if accelerator in ("auto", "gpu", "cuda"):
            accelerator = "cuda" if torch.cuda.is_available() else "cpu"
        return "bf16-mixed" if has_native_bf16(accelerator) else "32-true"


def keep_freed_memory() -> None:
    """Raises glibc's thresholds; does nothing elsewhere, or where the user has set them."""
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        if not mallopt(_M_MMAP_THRESHOLD, _GIB):
            mallopt(_M_MMAP_THRESHOLD, _OLD_LIMIT)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, _GIB // 4)


def has_native_bf16(accelerator: str) -> bool:
    """Whether matrix products in bfloat16 run on units made for them."""
    if accelerator == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if accelerator == "cpu":
        # AVX512-BF16 alone trains a small classifier 1.6 times as fast as float32.
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return accelerator == "tpu"
