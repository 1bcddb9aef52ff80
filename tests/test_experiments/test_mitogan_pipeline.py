"""The pipeline on frames of the simulator, whose truth is known."""

import numpy as np
import pytest

from common.preprocess.panels import xy_panel
from common.preprocess.pipeline import Pipeline
from common.preprocess.threshold import mask_of
from experiments.mitogan.simulator import NOISES, draw_video
from made_cells import contrast_to_noise, dice
from made_previews import preview


@pytest.mark.parametrize("noise", NOISES)
def test_contrast_to_noise_rises_and_masks_agree_with_truth(noise: str) -> None:
    measured = []
    for k in range(4):
        video = draw_video(np.random.default_rng([77, k]), 1, 192, noise)
        image, mask = video.frames[:1], video.mask[0]
        pipeline = Pipeline()
        stages = [stage[0] for _, stage in pipeline.stages(image, pipeline.begin(image))]
        found, _ = mask_of(stages[-1], "otsu", pipeline.min_size_px)
        contrasts = [contrast_to_noise(stage, mask) for stage in (stages[0], stages[-1])]
        measured.append((*contrasts, dice(found, mask)))
    before, after, overlap = np.mean(measured, 0)
    assert after > before
    assert overlap > (0.75 if noise == "high" else 0.8)


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_panels_and_cells_of_simulated_videos_are_found(count: int) -> None:
    exact, held = [], []
    for k in range(count):
        rng = np.random.default_rng([78, k])
        noise = tuple(NOISES)[k % len(NOISES)]
        video = draw_video(rng, 1, int(rng.integers(128, 257)), noise)
        frame = video.frames[:1]
        picture, box = preview(frame, rng)
        found = xy_panel(picture)
        exact.append(found is not None and np.abs(np.subtract(found, box)).max() <= 2)
        assert xy_panel(frame) is None
        zoom, (x, y) = Pipeline(zoom=0.6).begin(frame).zoom, video.centres[0]
        assert zoom.left >= 0 and zoom.left + zoom.width <= frame.shape[2]
        assert zoom.top >= 0 and zoom.top + zoom.height <= frame.shape[1]
        inside = 0 <= x - zoom.left < zoom.width and 0 <= y - zoom.top < zoom.height
        held.append(inside)
    assert np.mean(exact) >= 0.98 and np.mean(held) >= 0.99
