import importlib
import inspect

import numpy as np
import pytest

from common.data.datamodule import ImageDataModule
from common.simulate.camera import expose, quantise
from common.simulate.optics import gaussian_blur, vignetting
from running import EXPERIMENTS, ROOT


def test_a_blurred_point_keeps_its_light_and_spreads_by_sigma() -> None:
    image = np.zeros((41, 41))
    image[20, 20] = 1
    blurred = gaussian_blur(image, 2.5)
    offset = np.arange(41) - 20
    assert np.isclose(blurred.sum(), 1)
    assert np.isclose((blurred.sum(0) * offset**2).sum(), 2.5**2, rtol=0.05)
    assert np.isclose((blurred.sum(1) * offset**2).sum(), 2.5**2, rtol=0.05)


def test_channels_are_blurred_one_by_one() -> None:
    stack = np.random.default_rng(0).random((3, 16, 12))
    blurred = gaussian_blur(stack, 1.3)
    for channel, alone in zip(blurred, stack, strict=True):
        np.testing.assert_allclose(channel, gaussian_blur(alone, 1.3))


def test_vignetting_spares_one_side_and_takes_the_edge_from_the_darkest_corner() -> None:
    factors = vignetting((33, 65), 0.2, np.pi / 4)
    assert factors.shape == (33, 65)
    assert np.isclose(factors.min(), 0.8) and np.isclose(factors[-1, -1], 0.8)
    assert 0.9 < factors.max() <= 1
    assert factors[0, 0] > factors[-1, -1]
    np.testing.assert_array_equal(vignetting((8, 8), 0.0), 1)


def test_noise_has_the_variance_of_counted_quanta_and_read_noise() -> None:
    signal = np.full((400, 400), 0.25, np.float32)
    noisy = expose(signal, 200, 5, np.random.default_rng(1))
    assert noisy.dtype == np.float32
    assert np.isclose(noisy.mean(), 0.25, atol=5e-4)
    assert np.isclose(noisy.var(), 0.25 / 200 + (5 / 200) ** 2, rtol=0.02)


def test_quantisation_rounds_and_saturates() -> None:
    levels = quantise(np.array([-1.0, 0, 0.5 / 255 + 1e-6, 1, 2]))
    assert levels.dtype == np.uint8 and levels.tolist() == [0, 0, 1, 255, 255]
    assert quantise(np.array([1.0]), bits=12).tolist() == [4095]
    assert quantise(np.array([1.0]), bits=12).dtype == np.uint16


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_simulator_is_the_one_that_the_readme_of_its_experiment_names(name: str) -> None:
    module = importlib.import_module(f"experiments.{name}.datamodule")
    classes = [
        c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__
    ]
    (data,) = [c for c in classes if issubclass(c, ImageDataModule)]
    readme = (ROOT / "experiments" / name / "README.md").read_text(encoding="utf-8")
    assert f"`{data().simulator_sha256}`" in readme
