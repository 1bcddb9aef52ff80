import dataclasses
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import pytest

from common.data.image_io import read_image
from common.errors import Exit, UserError
from common.pipeline_figure import draw_pipeline
from common.preprocess.chain import Found
from common.preprocess.pipeline import Pipeline
from common.preprocess.threshold import mask_of
from made_cells import cell, contrast_to_noise, dice, photographed
from made_previews import preview

ALL_ON = Pipeline(drift=True, zoom=0.8, top_hat_px=8.0, threshold="otsu", output="skeleton")
ALL_OFF = Pipeline(panel="none", bleach=False, laplacian=0, denoise=0)
# Quanta of a signal of 1.
LEVELS = (10, 30, 100)


def frame(seed: int = 0, quanta: float = 100) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return photographed(cell(rng, (160, 200)).clean, quanta, rng)


def test_all_stages_come_in_the_order_of_the_figure() -> None:
    image, _ = preview(frame(), np.random.default_rng(1))
    names = [name for name, _ in ALL_ON.stages(image, ALL_ON.begin(image))]
    assert names == [
        *("raw", "panel", "bleach", "drift", "zoom", "laplacian", "non-local means"),
        *("top-hat", "percentiles", "threshold", "skeleton"),
    ]
    off = list(ALL_OFF.stages(image, ALL_OFF.begin(image)))
    assert [name for name, _ in off] == ["raw", "percentiles"]
    assert off[0][1] is image


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("output", "extra"), [("image", None), ("mask", 0), ("skeleton", 0), ("image+mask", 1)]
)
def test_every_type_and_number_of_channels_becomes_float32_from_0_to_1(
    dtype: type, channels: int, output: Any, extra: int | None
) -> None:
    image = np.repeat(frame(), channels, 0)
    image = image.astype(dtype) if dtype is not np.float32 else (image / 1e4).astype(dtype)
    threshold = "none" if output == "image" else "minimum"
    pipeline = Pipeline(zoom=0.7, threshold=threshold, output=output)
    made = pipeline.apply(image, pipeline.begin(image)).image
    count = {None: channels, 0: 1, 1: channels + 1}[extra]
    assert made.dtype == np.float32 and made.shape == (count, 112, 112)
    assert made.min() == 0 and made.max() == 1
    if extra is not None:
        assert set(np.unique(made[-1])) == {0, 1}


def test_the_image_is_what_the_last_stage_shows() -> None:
    image, _ = preview(frame(), np.random.default_rng(1))
    start = ALL_ON.begin(image)
    *_, (_, last) = ALL_ON.stages(image, start)
    np.testing.assert_array_equal(ALL_ON.apply(image, start).image, last)


def test_all_frames_of_a_video_share_the_boxes_of_its_first() -> None:
    rng = np.random.default_rng(2)
    clean = cell(rng, (160, 200)).clean
    first, box = preview(photographed(clean, 100, rng), np.random.default_rng(3))
    moved = photographed(np.roll(0.5 * clean, (6, -4), (1, 2)), 100, rng)
    later = first.copy()
    later[:, box.top : box.bottom, box.left : box.right] = moved
    pipeline = Pipeline(drift=True, zoom=0.6)
    start = pipeline.begin(first)
    assert start.panel == box
    one, other = (pipeline.apply(image, start).found for image in (first, later))
    assert (one.shift_y, one.shift_x, one.bleach_factor) == (0, 0, 1)
    assert (other.shift_y, other.shift_x) == (-6, 4)
    assert other.bleach_factor == pytest.approx(2, rel=0.1)
    assert (one.top, one.left, one.height, one.width) == (
        *(box.top + start.zoom.top, box.left + start.zoom.left),
        *(96, 96),
    )
    assert dataclasses.astuple(one)[:4] == dataclasses.astuple(other)[:4]


def test_drift_and_bleaching_bring_a_frame_back_onto_the_first() -> None:
    rng = np.random.default_rng(4)
    clean = cell(rng, (160, 200)).clean
    first = photographed(clean, 300, rng)
    later = photographed(np.roll(0.6 * clean, (5, 7), (1, 2)), 300, rng)
    start = dataclasses.replace(ALL_OFF, bleach=True, drift=True).begin(first)
    stages = dict(dataclasses.replace(ALL_OFF, bleach=True, drift=True).stages(later, start))
    inner = np.s_[:, 12:-12, 12:-12]
    expected, found = first[inner].astype(np.float32), stages["drift"][inner]
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.97
    assert np.corrcoef(expected.ravel(), later[inner].ravel())[0, 1] < 0.8
    assert np.abs(expected - found).mean() < 0.5 * np.abs(expected - later[inner]).mean()


def test_what_was_decided_are_plain_numbers() -> None:
    found = ALL_ON.apply(frame(), ALL_ON.begin(frame())).found
    assert {type(value) for value in dataclasses.asdict(found).values()} == {int, float}
    assert found.noise_sigma == pytest.approx(4, abs=1.5)
    assert 0 < found.threshold < 1
    nothing = ALL_OFF.apply(frame(), ALL_OFF.begin(frame())).found
    assert np.isnan([nothing.noise_sigma, nothing.threshold]).all()
    assert nothing.bleach_factor == 1 and nothing == dataclasses.replace(
        Found(0, 0, 160, 200), noise_sigma=nothing.noise_sigma, threshold=nothing.threshold
    )


def test_a_frame_of_another_size_than_the_first_is_refused() -> None:
    start = ALL_OFF.begin(frame())
    with pytest.raises(UserError, match=r"is of shape \(1, 100, 200\), the first one") as error:
        ALL_OFF.apply(frame()[:, :100], start)
    assert error.value.code == Exit.INPUT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("panel", "yes"), ("zoom", -0.1), ("zoom", 1.5), ("laplacian", -1.0)],
        *[("laplacian", float("nan")), ("denoise", -1.0), ("denoise", float("inf"))],
        *[("top_hat_px", 0.5), ("top_hat_px", -3.0), ("percentiles", (50.0, 50.0))],
        *[("percentiles", (-1.0, 99.0)), ("percentiles", (1.0, 101.0)), ("min_size_px", 0)],
        *[("output", "video"), ("output", "mask"), ("threshold", "otsu"), ("threshold", "yen")],
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=r"pipeline\.") as error:
        Pipeline(**{name: value})
    assert error.value.code == Exit.USAGE
    # A mask without a rule, and a rule without a mask, are one mistake.
    assert error.value.subject == f"pipeline.{'threshold' if value == 'mask' else name}"


def test_the_digest_tells_every_setting_and_nothing_else() -> None:
    changed = [
        *[{"panel": "none"}, {"bleach": False}, {"drift": True}, {"zoom": 0.5}, {"laplacian": 0.5}],
        *[{"denoise": 0.5}, {"top_hat_px": 5.0}, {"percentiles": (2.0, 99.8)}, {"min_size_px": 4}],
        *[{"output": o, "threshold": "otsu"} for o in ("mask", "skeleton", "image+mask")],
        {"output": "mask", "threshold": "triangle"},
    ]
    digests = {Pipeline(**change).digest for change in changed} | {Pipeline().digest}
    assert len(digests) == len(changed) + 1
    assert {name for change in changed for name in change} == set(dataclasses.asdict(Pipeline()))
    assert Pipeline(laplacian=1, percentiles=[1, 99.8]).digest == Pipeline().digest
    assert len(Pipeline().digest) == 64


def test_the_digest_tells_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Pipeline().digest
    monkeypatch.setattr("common.preprocess.pipeline.VERSION", -1)
    assert Pipeline().digest != before


def test_settings_are_read_from_yaml() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--pipeline", type=Pipeline)
    text = "{zoom: 0.5, percentiles: [2, 99], threshold: otsu, output: mask}"
    made = parser.instantiate(parser.parse_args([f"--pipeline={text}"])).pipeline
    assert made == Pipeline(zoom=0.5, percentiles=(2, 99), threshold="otsu", output="mask")


def test_contrast_rises_through_the_pipeline_at_three_levels_of_noise() -> None:
    pipeline = Pipeline(top_hat_px=8.0)
    for quanta in LEVELS:
        ratio, overlap = [], []
        for seed in range(4):
            rng = np.random.default_rng([9, seed])
            made = cell(rng, (200, 200))
            image = photographed(made.clean, quanta, rng)
            stages = dict(pipeline.stages(image, pipeline.begin(image)))
            ratio.append(
                [contrast_to_noise(s[0].astype(float), made.mask) for s in stages.values()]
            )
            mask, _ = mask_of(stages["percentiles"].mean(0), "otsu", 16)
            overlap.append(dice(mask, made.mask))
        raw, *_, normalised = np.mean(ratio, 0)
        assert normalised > 3 * raw
        assert np.mean(overlap) > {10: 0.75, 30: 0.85, 100: 0.9}[quanta]


def test_the_same_frame_gives_the_same_bytes() -> None:
    image, _ = preview(frame(), np.random.default_rng(1))
    one, other = (ALL_ON.apply(image.copy(), ALL_ON.begin(image)).image for _ in range(2))
    assert one.tobytes() == other.tobytes()


def test_the_figure_shows_every_stage_above_its_histogram(tmp_path: Path) -> None:
    image, _ = preview(np.repeat(frame(), 2, 0), np.random.default_rng(1))
    start = ALL_ON.begin(image)
    sizes = []
    for name in ("one", "other"):
        draw_pipeline(ALL_ON.stages(image, start), tmp_path / "figures" / f"{name}.png")
        sizes.append((tmp_path / "figures" / f"{name}.png").read_bytes())
    assert sizes[0] == sizes[1]
    pixels = read_image(tmp_path / "figures" / "one.png").pixels.reshape(-1, 432, 2904)
    # A picture below the title and a histogram below that, for each of the eleven stages.
    for part in np.array_split(pixels[0], 11, axis=1):
        assert part[80:230].std() > 10 and part[290:].std() > 10


def test_a_figure_of_one_blank_stage_is_drawn(tmp_path: Path) -> None:
    draw_pipeline([("raw", np.zeros((1, 8, 8), np.uint8))], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
