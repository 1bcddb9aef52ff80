"""Distances between two sets of features, by torch-fidelity: the only file that imports it.

What the numbers may be called, depends on the network (`names`).
"""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.metrics.protocol import MetricRefused
from common.metrics.weights import Known

# weights-inception-2015-12-05-6726825d.pth of torch-fidelity and pytorch-fid, the network of
# Heusel et al. 2017: with any other weights the same formula gives another number.
FID_WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_DIM = 2048
INCEPTION_CLASSES = 1008
INCEPTION_WEIGHTS = Known(
    "inception", "weights-inception-2015-12-05-6726825d.pth", "torch-fidelity's releases"
)
# An error estimated from n values is itself uncertain by 1 / sqrt(2 (n - 1)): 24 % at ten.
MIN_KERNEL_IMAGES = 10
# Of a part; p(class) of fewer says little more than its own images do.
MIN_SCORE_IMAGES = 10
MAX_SUBSET_SIZE = 1000
# Rows of features that are float64 at a time.
_ROWS = 1024
SUBSETS = 100
# Below so many images the bias of the Fréchet distance outweighs what models differ by: the kernel
# distance, which has none, comes first.
KERNEL_FIRST_BELOW = 5000


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of the normal distributions fitted to two sets of features (Heusel 2017).

    Its bias depends on the number of images: compare at equal numbers only.

    Args:
        real: [N, D].
        fake: [M, D].

    Raises:
        MetricRefused: fewer than two images or features, or features that are not finite.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    real, fake = _finite(real, fake, 2)
    if real.shape[1] < 2:
        raise MetricRefused("The Fréchet distance needs at least two features.")
    if len(real) + len(fake) < real.shape[1]:
        real, fake = _in_their_span(real.double(), fake.double())
    statistics = [_statistics(features) for features in (real, fake)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def frechet_note(n_real: int, n_fake: int, dim: int) -> str:
    """Why the kernel distance is to be preferred with so few images; else ""."""
    fewest = min(n_real, n_fake)
    if fewest <= dim:
        return f"rank-deficient: {fewest} images for {dim} features; prefer the kernel distance"
    if fewest < KERNEL_FIRST_BELOW:
        return f"biased: fewer than {KERNEL_FIRST_BELOW:,} images; prefer the kernel distance"
    return ""


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    subsets: int = SUBSETS,
    subset_size: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Unbiased squared MMD with the kernel (x·y / D + 1)³ over random subsets (Bińkowski 2018).

    The standard deviation tells how far one subset lies from the next. It shrinks with the subset
    and is no confidence interval: `bootstrap.kernel_interval` gives one.

    Args:
        real: [N, D].
        fake: [M, D].
        subsets: how many are drawn; one where each would be the whole set.
        subset_size: images of either side in a subset; None for `kernel_subset_size`.
        seed: of the draw.

    Returns:
        Mean and standard deviation over the subsets. The mean may be slightly below zero.

    Raises:
        MetricRefused: fewer than ten images on a side, or features that are not finite.
    """
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    real, fake = _usable(real, fake, MIN_KERNEL_IMAGES)
    size = subset_size or kernel_subset_size(len(real), len(fake))
    subsets = 1 if size == len(real) == len(fake) else subsets
    found = kid_features_to_metric(
        real, fake, kid_subsets=subsets, kid_subset_size=size, rng_seed=seed, verbose=False
    )
    return found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]


def kernel_subset_size(n_real: int, n_fake: int) -> int:
    """Images of either side in a subset: as many as there are, at most 1,000."""
    return min(MAX_SUBSET_SIZE, n_real, n_fake)


def classifier_score(logits: Tensor, splits: int) -> tuple[float, float]:
    """How sure a classifier is of each image and how many classes it sees (Salimans et al. 2016).

    The exponential of the mean divergence between p(class | image) and p(class), from 1 to the
    number of classes; only that of the published network is the Inception Score. It does not look
    at real images, and p(class) of few images is too like each of them: compare at equal numbers
    only.

    Args:
        logits: [N, classes].
        splits: parts of the shuffled images, each with its own p(class).

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        MetricRefused: fewer than ten images a part, or logits that are not finite.
    """
    from torch_fidelity.metric_isc import (
        KEY_METRIC_ISC_MEAN,
        KEY_METRIC_ISC_STD,
        isc_features_to_metric,
    )

    fewest = MIN_SCORE_IMAGES * splits
    if len(logits) < fewest:
        raise MetricRefused(f"At least {fewest} images are needed; there are {len(logits)}.")
    if not logits.isfinite().all():
        raise MetricRefused("Logits are not finite.")
    found = isc_features_to_metric(logits.detach().cpu().double(), splits)
    return found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD]


def inception(weights: bytes, path: Path) -> nn.Module:
    """The FID network: uint8 [B, 3, H, W] -> float32 [B, 2048 features + 1008 logits].

    The logits are those of the Inception Score, without the bias of the last layer.

    Args:
        weights: content of a state dict file in torch-fidelity's format.
        path: where it came from, for the message.

    Raises:
        UserError: the content is no such state dict.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles whatever it is given; it gets what the safe loader let through.
    safe = io.BytesIO()
    try:
        torch.save(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True), safe)
        safe.seek(0)
        network = FeatureExtractorInceptionV3(
            "inception",
            [str(INCEPTION_DIM), "logits_unbiased"],
            feature_extractor_weights_path=safe,
        )
    except Exception as error:
        raise INCEPTION_WEIGHTS.unfit(
            path, "a state dict of torch-fidelity's InceptionV3"
        ) from error
    return _Concatenated(network)


class _Concatenated(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.network(images), 1)


def _usable(real: Tensor, fake: Tensor, fewest: int) -> tuple[Tensor, Tensor]:
    real, fake = _finite(real, fake, fewest)
    return real.double(), fake.double()


def _finite(real: Tensor, fake: Tensor, fewest: int) -> tuple[Tensor, Tensor]:
    if min(len(real), len(fake)) < fewest:
        found = f"there are {len(real)} real and {len(fake)} synthetic ones"
        raise MetricRefused(f"At least {fewest} images are needed on each side; {found}.")
    real, fake = real.detach().cpu(), fake.detach().cpu()
    for side, features in (("real", real), ("synthetic", fake)):
        if not features.isfinite().all():
            raise MetricRefused(f"Features of the {side} images are not finite.")
    return real, fake


def _statistics(features: Tensor) -> dict[str, np.ndarray]:
    """Mean and covariance as torch-fidelity wants them, in float64 without a copy of all rows."""
    count, parts = len(features), features.split(_ROWS)
    mean = sum(rows.double().sum(0) for rows in parts) / count
    spread = sum(rows.T @ rows for rows in (part.double() - mean for part in parts))
    return {"mu": mean.numpy(), "sigma": (spread / (count - 1)).numpy()}


def _in_their_span(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in the span of all features: the same distance from far smaller matrices."""
    pooled = torch.cat([real, fake])
    pooled = torch.linalg.qr((pooled - pooled.mean(0)).T, mode="r").R.T
    return pooled[: len(real)], pooled[len(real) :]
