"""What a number may be called: a well-known name only where its network is the well-known one."""

from typing import NamedTuple

from common.metrics.fidelity import FID_WEIGHTS_SHA256
from common.metrics.i3d import FVD_WEIGHTS_SHA256
from common.metrics.published import INCEPTION_SHA256

# Held-out images that were trained on as they are, and those that merely look the same.
LEAKAGE = ("leaked_pairs", "near_duplicate_pairs")


class Names(NamedTuple):
    """Of the numbers that one network gives.

    Attributes:
        frechet: the Fréchet distance.
        kernel: the kernel distance.
        score: the classifier score.
        splits: parts of the images over which the score is averaged.
    """

    frechet: str
    kernel: str
    score: str = ""
    splits: int = 10


_IMAGES = Names("frechet_distance", "kernel_distance", "classifier_score")
_CLIPS = Names("video_frechet_distance", "video_kernel_distance")
# By extractor: how the SHA-256 of its file must begin, and the names that it then earns. Of the
# kernel distance of videos there is no agreed form.
_KNOWN = {
    "inception": ((FID_WEIGHTS_SHA256,), Names("FID", "KID", "IS")),
    "i3d": ((FVD_WEIGHTS_SHA256,), Names("FVD", "video_kernel_distance")),
    "inception-published": (
        INCEPTION_SHA256,
        Names(*(f"published_{name}" for name in _IMAGES[:3]), splits=1),
    ),
    # Nobody states the digest of this file; it stands in the records.
    "i3d-published": (("",), Names(*(f"published_{name}" for name in _CLIPS[:2]))),
}


def names(extractor: str, sha256: str, channels: int, clips: bool = False) -> Names:
    """Names of the numbers of one extractor.

    Args:
        extractor: its name.
        sha256: of its weights.
        channels: whose features stand side by side; nobody else joins those of several.
        clips: whether it sees clips and not single images.
    """
    beginnings, known = _KNOWN.get(extractor, ((), _IMAGES))
    if channels == 1 and sha256.startswith(tuple(beginnings)):
        return known
    return _CLIPS if clips else _IMAGES
