from types import SimpleNamespace

import numpy as np
import torch

from common.evaluate_sequences import _Eyes
from common.metrics.clip_features import clip_extractor
from common.metrics.features import extractor
from common.run_images import Seen


def test_frames_are_known_to_be_those_of_sequences_and_clips_stand_for_themselves() -> None:
    canvases = np.random.default_rng(0).integers(0, 256, (4, 1, 3, 16, 16), dtype=np.uint8)
    side = [Seen(str(k), "", one, one / np.float32(255)) for k, one in enumerate(canvases)]
    data = SimpleNamespace(
        frames=3, glance=lambda canvas: canvas.mean((2, 3)), measure=lambda image: {}
    )
    networks = extractor("random-conv"), clip_extractor("random-conv-triplets")
    looked = _Eyes(data, *networks, torch.device("cpu")).look("held-out", iter(side), len(side))
    assert (looked.frames.count, looked.frames.sequences, looked.frames.frames) == (12, 4, 3)
    assert (looked.clips.count, looked.clips.sequences) == (4, 4)
