"""Generated sequences against held-out ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

import common.evaluate_sequences as evaluation
from common import run_images
from common.data.canvas import rectangle_mask
from common.data.datasets import SeedDataset
from common.data.image_io import Image, read_image
from common.data.sequence_datasets import SequenceDataset
from common.errors import UserError
from common.evaluate_sequences import evaluate_sequences, windows_apart
from common.generation import (
    SampleSet,
    drawing_folder,
    read_samples_manifest,
    shown_folder,
    write_samples_manifest,
)
from common.metrics.clip_features import clip_extractor
from common.metrics.features import extractor
from common.metrics.protocol import Record
from common.run_images import generated_images, packed_images
from common.runs.folder import RunFolder
from common.sequence_writer import writer_of
from common.tables import from_csv, named_cells
from experiments.multi_stylegan.datamodule import YeastDataModule
from made_traps import write_traps

SIZE = 24
stored = SequenceDataset.stored


class Measured(YeastDataModule):
    """Measures what is known of any sequence."""

    def measure(self, image: np.ndarray) -> dict[str, float]:
        assert image.shape[:2] == (2, self.frames)
        return {"drift": float(image[1, -1].mean() - image[1, 0].mean())}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared once: four positions in three splits."""
    home = tmp_path_factory.mktemp("traps")
    raw = write_traps(home / "raw", [f"Pos{k}" for k in range(4)], traps=4, times=range(9))
    data = YeastDataModule(
        root=str(raw), workspace=str(home), image_size=SIZE, val_fraction=0.25, frames=3
    )
    data.prepare_data()
    return data.prepared.folder


@pytest.fixture
def data(recordings: Path) -> YeastDataModule:
    data = Measured(root=str(recordings), image_size=SIZE, frames=3)
    data.setup("test")
    return data


def generated(folder: RunFolder, data: YeastDataModule, sequences: np.ndarray) -> None:
    """Writes sequences [N, C, T, S, S] in [-1, 1] as `generate` does."""
    drawing = drawing_folder(folder)
    drawing.mkdir(parents=True)
    writer = writer_of(data.frames, drawing, data.facts, "auto", None, shown_folder(folder))
    count = len(sequences)
    mask = torch.from_numpy(np.stack([rectangle_mask(SIZE, SIZE, SIZE)] * count))
    names = [f"{k:06d}" for k in range(count)]
    outputs = {"name": names, "image": torch.from_numpy(sequences), "mask": mask}
    writer.on_predict_batch_end(None, None, outputs)
    plan = SeedDataset(range(count), [0] * count, [(SIZE, SIZE)] * count, SIZE)
    write_samples_manifest(folder, SampleSet(plan, "data", (), writer.suffix), "0" * 64)


def evaluated(folder: RunFolder, data: YeastDataModule) -> dict[str, Record]:
    networks = extractor("random-conv"), torch.device("cpu"), clip_extractor("random-conv-triplets")
    return {record.metric: record for record in evaluate_sequences(folder, data, *networks)}


def validation(data: YeastDataModule) -> np.ndarray:
    seen = packed_images(data, "val", range(len(data.samples("val"))))
    return np.stack([one.canvas for one in seen]).astype(np.float32) / 127.5 - 1


def test_both_sides_come_to_one_form_by_one_path(data: YeastDataModule, tmp_path: Path) -> None:
    sequences, folder = validation(data)[:4], RunFolder(tmp_path, "multi_stylegan", "a")
    generated(folder, data, sequences)
    seen = list(generated_images(folder, data, read_samples_manifest(folder)))
    for one, sequence in zip(seen, sequences, strict=True):
        assert one.canvas.shape == (2, 3, SIZE, SIZE) and one.image.shape == one.canvas.shape
        assert np.abs(one.canvas - (sequence + 1) * 127.5).max() <= 1.01


def test_single_moments_are_sequences_too(data: YeastDataModule, tmp_path: Path) -> None:
    data.frames, folder = 1, RunFolder(tmp_path, "multi_stylegan", "a")
    generated(folder, data, validation(data)[:2])
    (first, _) = generated_images(folder, data, read_samples_manifest(folder))
    assert first.canvas.shape == (2, 1, SIZE, SIZE)


def test_frames_clips_and_biology_are_measured_of_each_domain(
    data: YeastDataModule, tmp_path: Path
) -> None:
    real, folder = validation(data), RunFolder(tmp_path, "multi_stylegan", "near")
    generated(folder, data, real)
    near = evaluated(folder, data)
    far_folder = RunFolder(tmp_path, "multi_stylegan", "far")
    # Fluorescence is wrong, brightfield is not.
    wrong = real.copy()
    wrong[:, 1] = np.random.default_rng(0).uniform(-1, 1, wrong[:, 1].shape)
    generated(far_folder, data, wrong)
    far = evaluated(far_folder, data)
    held_out = len(windows_apart(data, "test"))
    for name in ("kernel_distance", "kernel_distance/BF", "kernel_distance/GFP"):
        assert (near[name].n_real, near[name].n_fake) == (3 * held_out, 3 * len(real)), name
        assert "3 moments a sequence" in near[name].preprocessing
        assert near[f"video_{name}"].n_real == held_out and near[f"video_{name}"].value is not None
    for kind in ("kernel_distance", "video_kernel_distance"):
        assert far[f"{kind}/BF"].value == pytest.approx(near[f"{kind}/BF"].value, abs=1e-9)
        assert far[f"{kind}/GFP"].value > 10 * abs(near[f"{kind}/GFP"].value)
    assert near["wasserstein/drift"].n_fake == len(real)
    assert near["wasserstein/drift"].value < far["wasserstein/drift"].value
    assert near["leaked_pairs"].value == 0


def test_both_sides_are_read_once(
    data: YeastDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = RunFolder(tmp_path, "multi_stylegan", "a"), []
    generated(folder, data, validation(data)[:3])

    def noted(path: Path, **how: Path) -> Image:
        read.append(path.name)
        return read_image(path, **how)

    monkeypatch.setattr(run_images, "read_image", noted)
    monkeypatch.setattr(
        SequenceDataset, "stored", lambda self, k: read.append(k) or stored(self, k)
    )
    evaluated(folder, data)
    rows = [*windows_apart(data, "test"), *windows_apart(data, "train")]
    assert sorted(k for k in read if isinstance(k, int)) == sorted(rows)
    assert [k for k in read if isinstance(k, str)] == [f"{k:06d}.ome.tiff" for k in range(3)]


def test_the_order_of_frames_is_asked_for_on_both_sides(
    data: YeastDataModule, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path, "multi_stylegan", "a")
    generated(folder, data, validation(data))
    found = evaluated(folder, data)
    real, fake = found["order_accuracy_real"], found["order_accuracy"]
    held_out = len(windows_apart(data, "test"))
    assert (real.n_real, real.n_fake, fake.n_fake) == (held_out, 0, len(validation(data)))
    # The discs of these recordings grow and drift.
    assert real.value > 0.7 and fake.value > 0.7
    trained_on = len(windows_apart(data, "train"))
    assert real.rule.startswith(f"trained on {trained_on} real windows")


def test_order_in_time_is_seen_by_clips_alone(data: YeastDataModule, tmp_path: Path) -> None:
    real = validation(data)
    found = []
    for name, order in (("right", [0, 1, 2]), ("wrong", [1, 2, 0])):
        folder = RunFolder(tmp_path, "multi_stylegan", name)
        generated(folder, data, np.ascontiguousarray(real[:, :, order]))
        found.append(evaluated(folder, data))
    right, wrong = found
    # Of a set of frames, in whatever order.
    same = right["frechet_distance"].value
    assert wrong["frechet_distance"].value == pytest.approx(same, rel=1e-3)
    assert right["video_kernel_distance"].value < wrong["video_kernel_distance"].value


def test_both_tables_name_every_sequence(data: YeastDataModule, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "multi_stylegan", "a")
    generated(folder, data, validation(data)[:10])
    evaluated(folder, data)
    tables = [
        named_cells(from_csv((folder.evaluation / f"{side}.csv").read_bytes()))
        for side in ("held_out", "generated")
    ]
    first = [data.samples("test")[k].alias for k in windows_apart(data, "test")]
    assert [row["name"] for row in tables[0]] == first
    assert len(tables[1]) == 10 and all(float(row["drift"]) > 0 for row in tables[1])


def test_windows_are_capped_and_counted(
    data: YeastDataModule, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "MAX_WINDOWS", 5)
    chosen = windows_apart(data, "test")
    assert len(chosen) == 5 and chosen == sorted(set(chosen))
    total = len(data.dataset("test"))
    assert f"test: 5 of {total} windows, none with a common moment" in capsys.readouterr().out


def test_without_a_held_out_window_nothing_is_measured(
    data: YeastDataModule, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path, "multi_stylegan", "a")
    generated(folder, data, validation(data)[:2])
    data.frames = 10
    with pytest.raises(UserError, match="the test split has no window of 10 consecutive moments"):
        evaluated(folder, data)
