"""What a discriminator looks at: maps of single images, and a surrogate made of named features.

Maps say where in an image the logit comes from; whether they can be believed is measured, too: how
the logit falls when the pixels they name are taken away, and whether they change at all when the
network's weights are replaced by random ones (Adebayo et al. 2018). The surrogate predicts the
logit from what `biology.py` measures, and says which of those numbers it cannot do without.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradientXActivation, Occlusion
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

Network = Callable[[Tensor], Tensor]
METHODS = ("integrated gradients", "occlusion", "layer-CAM")
# Steps along the path of integrated gradients, and images attributed at once.
_PATH_STEPS, AT_ONCE = 32, 16
# Occlusion: side of the window and its step as shares of the image's side.
_WINDOW, _STRIDE = 1 / 8, 1 / 16
# Layer-CAM looks at the deepest maps of at least this side in pixels.
_CAM_SIDE = 8
# Standard deviation of the blur that takes an image's detail away, as a share of its side.
_BLUR = 1 / 16
_CURVE_POINTS = 17
_TREES, _FOLDS, _PERMUTATIONS = 60, 5, 5


class InCompany(nn.Module):
    """A discriminator that judges each image beside the same three others.

    The standard deviation of a batch would otherwise make an image's logit depend on whatever it
    is judged with.

    Args:
        network: maps images [B, C, S, S] to logits [B].
        companions: images [3, C, S, S].
    """

    def __init__(self, network: nn.Module, companions: Tensor) -> None:
        super().__init__()
        self.network = network
        self.companions = companions

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B]; image k, B + k, 2 B + k and 3 B + k are one group of the network."""
        beside = self.companions.repeat_interleave(len(images), 0)
        return self.network(torch.cat([images, beside]))[: len(images)]


def attribution(network: InCompany, images: Tensor, method: str) -> Tensor:
    """Maps [B, S, S] of what raises the logit (positive) and what lowers it.

    Args:
        network: the discriminator, in evaluation mode.
        images: [B, C, S, S] in [-1, 1].
        method: "integrated gradients" from the blurred image (Sundararajan et al. 2017),
            "occlusion" by it, or "layer-CAM" (Jiang et al. 2021), which is positive only.
    """
    parts = [_attributed(network, part, method) for part in images.split(AT_ONCE)]
    return torch.cat(parts).detach()


def without_detail(images: Tensor) -> Tensor:
    """Images [B, C, S, S] blurred until no tubule is left, at the brightness they had."""
    sigma = images.shape[-1] * _BLUR
    kernel = 2 * int(2 * sigma) + 1
    return gaussian_blur(images, [kernel, kernel], [sigma, sigma])


@dataclass(frozen=True)
class Curves:
    """How the logit changes while pixels are exchanged, those of largest attribution first.

    Attributes:
        deletion: area under the curve of logits, the image's own being 1 and that of the image
            without detail 0, while its pixels lose their detail; the smaller, the better.
        insertion: the same while a blurred image gets its pixels back; the larger, the better.
    """

    deletion: float
    insertion: float


@torch.no_grad()
def curves(network: Network, images: Tensor, maps: Tensor) -> Curves:
    """Mean areas over images (Petsiuk et al. 2018, with the logit in place of a probability).

    Args:
        network: gives logits [B].
        images: [B, C, S, S] in [-1, 1].
        maps: attributions [B, S, S]; pixels are exchanged in the order of their size.
    """
    blurred = without_detail(images)
    ends = network(images), network(blurred)
    # Where detail makes an image less real, pixels that lower the logit are what is looked for.
    signed = maps * (ends[0] - ends[1]).sign()[:, None, None]
    ranks = signed.flatten(1).argsort(1, descending=True).argsort(1).view_as(maps)
    shares = torch.linspace(0, 1, _CURVE_POINTS, device=images.device)
    deleted, inserted = [], []
    for share in shares * ranks[0].numel():
        chosen = (ranks < share)[:, None]
        deleted.append(network(torch.where(chosen, blurred, images)))
        inserted.append(network(torch.where(chosen, images, blurred)))
    return Curves(*(_area(torch.stack(found), *ends) for found in (deleted, inserted)))


def randomised(network: InCompany) -> Iterator[tuple[str, InCompany]]:
    """Copies whose weights are random from the last layer down to some layer, one layer more each.

    Yields:
        Name of the layer that became random last, and the network.
    """
    changed = copy.deepcopy(network)
    layers = [(n, m) for n, m in changed.network.named_modules() if hasattr(m, "weight")]
    generator = torch.Generator().manual_seed(0)
    for name, layer in reversed(layers):
        for parameter in layer.parameters(recurse=False):
            deviation = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.data.copy_(drawn * deviation)
        yield name, copy.deepcopy(changed)


def rank_correlation(maps: Tensor, others: Tensor) -> float:
    """Spearman's correlation of two sets of maps [B, S, S], mean over the images."""
    first, second = (m.flatten(1).argsort(1).argsort(1).double() for m in (maps, others))
    first, second = (m - m.mean(1, keepdim=True) for m in (first, second))
    return float(F.cosine_similarity(first, second).mean())


@dataclass(frozen=True)
class Surrogate:
    """How well named features predict a logit.

    Attributes:
        r2: share of the logit's variance that is predicted for images that were left out.
        importance: by feature, how much of it is lost when that feature is exchanged between
            images, the most important first; mean over permutations.
        deviation: standard deviation of each importance over the permutations.
        correlation: of each feature and the logit (Spearman): its sign.
    """

    r2: float
    importance: dict[str, float]
    deviation: dict[str, float]
    correlation: dict[str, float]


def surrogate(
    features: np.ndarray, names: Sequence[str], logits: np.ndarray, groups: Sequence[str]
) -> Surrogate:
    """Boosted trees from features to logits (Friedman 2001), cross-validated by group.

    Args:
        features: [N, F]; NaN, where something could not be measured, becomes the median, and 0
            where it could not be measured in any image.
        names: of the features.
        logits: [N].
        groups: of the images; none of them is on both sides of a fold.

    Returns:
        What was found; importances are of images that the trees were not grown on.
    """
    from scipy.stats import spearmanr
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import r2_score
    from sklearn.model_selection import GroupKFold

    measured = [column[np.isfinite(column)] for column in features.T]
    medians = [np.median(column) if len(column) else 0.0 for column in measured]
    filled = np.where(np.isfinite(features), features, medians)
    predicted, found = np.empty(len(logits)), []
    folds = GroupKFold(min(_FOLDS, len(set(groups))))
    for fold, (known, left) in enumerate(folds.split(filled, logits, groups)):
        trees = HistGradientBoostingRegressor(max_iter=_TREES, random_state=fold)
        trees.fit(filled[known], logits[known])
        predicted[left] = trees.predict(filled[left])
        settings = {"n_repeats": _PERMUTATIONS, "random_state": fold}
        found.append(
            permutation_importance(trees, filled[left], logits[left], **settings).importances
        )
    importances = np.concatenate(found, 1)  # [F, folds * permutations]
    order = np.argsort(-importances.mean(1))
    return Surrogate(
        r2=float(r2_score(logits, predicted)),
        importance={names[k]: float(importances[k].mean()) for k in order},
        deviation={names[k]: float(importances[k].std()) for k in order},
        correlation={names[k]: float(spearmanr(filled[:, k], logits)[0]) for k in order},
    )


def _attributed(network: InCompany, images: Tensor, method: str) -> Tensor:
    images = images.detach().clone().requires_grad_()
    blurred = without_detail(images.detach())
    side = images.shape[-1]
    if method == "integrated gradients":
        path = IntegratedGradients(network)
        # Else all steps of all images are one batch, of which everything is kept.
        settings = {"n_steps": _PATH_STEPS, "internal_batch_size": AT_ONCE}
        return path.attribute(images, blurred, **settings).sum(1)
    if method == "occlusion":
        window, stride = (max(1, round(side * share)) for share in (_WINDOW, _STRIDE))
        shape = (images.shape[1], window, window)
        strides = (images.shape[1], stride, stride)
        found = Occlusion(network).attribute(images, shape, strides, baselines=blurred)
        return found.sum(1)
    if method != "layer-CAM":
        raise ValueError(f"{method!r} is none of {', '.join(METHODS)}")
    layer = LayerGradientXActivation(network, _cam_layer(network, images.detach()))
    # The layer sees the companions, too.
    maps = layer.attribute(images)[: len(images)].relu().sum(1, keepdim=True)
    return F.interpolate(maps, (side, side), mode="bilinear")[:, 0]


def _cam_layer(network: InCompany, images: Tensor) -> nn.Module:
    """The last layer whose output is a map of `_CAM_SIDE` pixels or more."""
    found: list[nn.Module] = []

    def note(layer: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] >= _CAM_SIDE:
            found.append(layer)

    hooks = [layer.register_forward_hook(note) for layer in network.network.modules()]
    with torch.no_grad():
        network(images[:1])
    for hook in hooks:
        hook.remove()
    return found[-1]


def _area(logits: Tensor, whole: Tensor, blurred: Tensor) -> float:
    """Of curves [points, B] scaled so that they run between 1 and 0, mean over the images.

    Images whose two ends do not differ by a tenth of the typical difference say nothing.
    """
    range_ = whole - blurred
    telling = range_.abs() > 0.1 * range_.abs().median()
    scaled = ((logits - blurred) / torch.where(telling, range_, 1))[:, telling]
    return float(torch.trapezoid(scaled, dx=1 / (len(logits) - 1), dim=0).mean())
