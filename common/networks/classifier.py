"""A residual classifier small enough to be trained dozens of times."""

from itertools import pairwise

from torch import Tensor, nn

_STAGES = 4


class Classifier(nn.Module):
    """Four stages of one residual block each, every one at half the resolution of the one before.

    Args:
        num_classes: of the result.
        num_channels: of the image.
        width: channels of the first stage, doubled at each further one.
    """

    def __init__(self, num_classes: int, num_channels: int, width: int) -> None:
        super().__init__()
        widths = [width << stage for stage in range(_STAGES)]
        self.stem = _convolution(num_channels, width, stride=2)
        self.stages = nn.Sequential(
            _Stage(width, width, 1), *(_Stage(*pair, 2) for pair in pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, num_classes] of image [B, C, H, W] in [-1, 1]."""
        return self.head(self.stages(self.stem(image)).mean((2, 3)))


class _Stage(nn.Module):
    """Basic block of He et al. 2016, Fig. 2, with a projection where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, after, stride)
        self.second = nn.Sequential(
            nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)
        )
        same = before == after and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.second(self.first(x)) + self.skip(x))


def _convolution(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )
