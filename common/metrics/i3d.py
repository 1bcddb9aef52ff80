"""I3D (Carreira and Zisserman 2017), the video network of the Fréchet video distance.

Two files of weights are in use and give numbers on unlike scales:

* ``i3d_torchscript.pt``, the port of the network that FVD was defined with (Unterthiner et al.
  2019). It is a program, not a table of tensors, so it is opened only if it is the published file.
* ``rgb_imagenet.pt``, a state dict, which `I3D` takes.
"""

import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import Exit, UserError, relative
from common.metrics.weights import Known, fill

I3D_DIM = 1024
FVD_DIM = 400
# Its last pooling covers two steps of eight frames; those who mirror it ask for ten.
FVD_FRAMES = 10
# As stated beside the file by those who mirror it; a TorchScript with any other could do anything.
FVD_WEIGHTS_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
FVD_WEIGHTS = Known("i3d", "i3d_torchscript.pt", "the StyleGAN-V project")
KINETICS_WEIGHTS = Known("i3d-published", "rgb_imagenet.pt", "the pytorch-i3d project")

# Channels of the four branches: 1x1x1 | 1x1x1, 3x3x3 | 1x1x1, 3x3x3 | pool, 1x1x1.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def fvd_network(content: bytes, sha256: str, path: Path) -> nn.Module:
    """The network of FVD: uint8 [B, 3, T, H, W] -> float32 [B, 400].

    Args:
        content: of the TorchScript file.
        sha256: of the content.
        path: where it came from, for the message.

    Raises:
        UserError: it is not the published file; its code has then not been run.
    """
    if sha256 != FVD_WEIGHTS_SHA256:
        problem = f"is not the published {FVD_WEIGHTS.name} and could run any code"
        remedy = f"give the file with the SHA-256 {FVD_WEIGHTS_SHA256}"
        raise UserError(Exit.INPUT, relative(path), problem, remedy)
    return _Scripted(torch.jit.load(io.BytesIO(content), map_location="cpu"))


class _Scripted(nn.Module):
    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, clips: Tensor) -> Tensor:
        # It scales 0..255 to -1..1 and resizes to 224 x 224 itself.
        return self.script(clips.float(), rescale=True, resize=True, return_features=True)


class I3D(nn.Module):
    """I3D without its classifier, averaged over place and time; names as in ``rgb_imagenet.pt``."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Convolution(3, 64, 7, stride=2)
        self.MaxPool3d_2a_3x3 = _Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = _Convolution(64, 64, 1)
        self.Conv3d_2c_3x3 = _Convolution(64, 192, 3)
        self.MaxPool3d_3a_3x3 = _Pool((1, 3, 3), (1, 2, 2))
        pools = {"Mixed_4b": ("MaxPool3d_4a_3x3", 3), "Mixed_5b": ("MaxPool3d_5a_2x2", 2)}
        width = 192
        for name, channels in _MIXED.items():
            if name in pools:
                pool, size = pools[name]
                self.add_module(pool, _Pool((size,) * 3, (2, 2, 2)))
            self.add_module(name, _Mixed(width, channels))
            width = channels[0] + channels[2] + channels[4] + channels[5]

    def forward(self, clips: Tensor) -> Tensor:
        """Features [B, 1024] of clips float32 [B, 3, T, H, W] in [-1, 1], any T."""
        x = clips
        for stage in self.children():
            x = stage(x)
        return x.mean((2, 3, 4))


def kinetics_i3d(content: bytes, path: Path) -> I3D:
    """I3D with the weights of ``rgb_imagenet.pt``, whose classifier is left out.

    Args:
        content: of the state dict file.
        path: where it came from, for the message.

    Raises:
        UserError: the content is no such state dict.
    """
    network = I3D()
    try:
        fill(network, content, leave_out="logits.")
    except Exception as error:
        raise KINETICS_WEIGHTS.unfit(path, "a state dict of pytorch-i3d's I3D") from error
    return network


class _Mixed(nn.Module):
    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Convolution(inputs, channels[0], 1)
        self.b1a = _Convolution(inputs, channels[1], 1)
        self.b1b = _Convolution(channels[1], channels[2], 3)
        self.b2a = _Convolution(inputs, channels[3], 1)
        self.b2b = _Convolution(channels[3], channels[4], 3)
        self.b3a = _Pool((3, 3, 3), (1, 1, 1))
        self.b3b = _Convolution(inputs, channels[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, 1)


class _Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, size, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = _same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(x)))


class _Pool(nn.Module):
    def __init__(self, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        # After a ReLU the padded zeros are never above what they stand beside.
        return F.max_pool3d(_same(x, self.size, self.stride), self.size, self.stride)


def _same(x: Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros around, so that ceil(n / stride) values come out; of an odd number one more behind."""
    around = []
    for length, k, s in reversed(list(zip(x.shape[2:], size, stride, strict=True))):
        missing = max((-(-length // s) - 1) * s + k - length, 0)
        around += [missing // 2, missing - missing // 2]
    return F.pad(x, around)
