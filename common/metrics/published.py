"""How the authors of Multi-StyleGAN (2021) looked at their images, to stand beside their numbers.

One channel at a time, grey repeated to three channels, every image or clip stretched to [-1, 1] by
its own minimum and maximum, with values of [0, 1] below 0.001 raised to it. That hides every error
of brightness and contrast, so these are no measures of ours; the names of the numbers begin with
``published_``, and none is called FID, IS or FVD. What differs from theirs all the same:

* Theirs took floats, ours take uint8; a constant image gave them NaN, here it is -0.998 throughout.
* They resized with kornia, whose pinned release has no such option; here it is as in kornia 0.5.8.
* Their reference was the training set with random flips, their samples unseeded, one random frame
  of three; which images are compared is up to the caller and stands in the records.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.metrics.i3d import I3D
from common.metrics.weights import Known, fill

INCEPTION_DIM = 2048
INCEPTION_WEIGHTS = Known(
    "inception-published", "inception_v3_google-0cc3c7bd.pth", "download.pytorch.org/models"
)
# torchvision names its files by the first digits of their SHA-256; the first is that of 2021.
INCEPTION_SHA256 = ("1a9a5a14", "0cc3c7bd")
_FLOOR = 1e-3
_INCEPTION_SIDE = 299
_I3D_SIDE = 224
_NOT_FEATURES = ("AuxLogits", "dropout", "fc")


def inception(content: bytes, path: Path) -> nn.Module:
    """Inception-v3 of torchvision: uint8 [B, 3, H, W] -> [B, 2048 features + 1000 logits].

    Features are taken as for the published FID: stretched, then resized to 299. Logits as for the
    published Inception Score: resized, then stretched, and on top of it torchvision's change of
    its input, which is meant for images normalised as in ImageNet.

    Args:
        content: of torchvision's state dict file, trained on ImageNet.
        path: where it came from, for the message.

    Raises:
        UserError: the content is no such state dict.
    """
    import torchvision

    network = torchvision.models.inception_v3(
        weights=None, transform_input=True, aux_logits=True, init_weights=False
    )
    try:
        fill(network, content)
    except Exception as error:
        raise INCEPTION_WEIGHTS.unfit(path, "a state dict of torchvision's Inception-v3") from error
    return _Inception(network)


class _Inception(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        stages = [m for name, m in network.named_children() if name not in _NOT_FEATURES]
        self.pooled = nn.Sequential(*stages, nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        images = images.float()
        features = self.pooled(resized(stretched(images), _INCEPTION_SIDE))
        logits = self.network(stretched(resized(images, _INCEPTION_SIDE)))
        return torch.cat([features, logits], 1)


class PublishedClips(nn.Module):
    """I3D as in the published FVD: uint8 [B, 3, T, H, W] -> float32 [B, 1024].

    Each clip is stretched as a whole and resized to 224 frame by frame; the average over what the
    last convolutions give is taken, three frames being too few for the classifier.
    """

    def __init__(self, network: I3D) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        """See the class."""
        frames = resized(stretched(clips.float()).flatten(1, 2), _I3D_SIDE)
        return self.network(frames.unflatten(1, clips.shape[1:3]))


def stretched(images: Tensor) -> Tensor:
    """Each of float images [B, …] from its minimum..maximum to -0.998..1."""
    inner = tuple(range(1, images.ndim))
    low, high = images.amin(inner, keepdim=True), images.amax(inner, keepdim=True)
    span = torch.where(high > low, high - low, 1)
    return 2 * ((images - low) / span).clamp(min=_FLOOR) - 1


def resized(images: Tensor, side: int) -> Tensor:
    """Bilinear to [B, C, side, side]; before shrinking blurred with a Gaussian of sd H / side."""
    height, width = images.shape[-2:]
    if (height, width) == (side, side):
        return images
    if max(height, width) > side:
        images = _blurred(images, max(height / side, 1), -2)
        images = _blurred(images, max(width / side, 1), -1)
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)


def _blurred(images: Tensor, deviation: float, axis: int) -> Tensor:
    reach = int(4 * deviation) // 2
    distance = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-0.5 * (distance / deviation) ** 2)
    weights /= weights.sum()
    padding = (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0)
    windows = F.pad(images, padding, mode="reflect").unfold(axis, 2 * reach + 1, 1)
    return windows @ weights
