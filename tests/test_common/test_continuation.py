"""Continued recordings beside what came: numbers, tables and files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy import stats
from torch import Tensor

from common.continuation import Asked, chosen_rows, held_out_windows, measure_continuation
from common.data.image_io import read_image
from common.data.manifest import Sample
from common.errors import UserError
from common.metrics.continuation import (
    Errors,
    Followed,
    error_records,
    followed_records,
    frame_errors,
    mean,
)
from common.metrics.protocol import MetricRefused, Record
from common.runs.folder import RunFolder
from common.tables import from_csv, named_cells
from experiments.multi_stylegan.datamodule import YeastDataModule
from made_traps import write_traps

SIZE = 24
# Seven moments come after two known ones: recordings have nine.
ASKED = Asked(count=3, seed=0, added=9, steps=1, file_format="tiff")
# Of a mean square of 1 / 12 / 255 ** 2.
EQUAL = 58.92


class Levels(YeastDataModule):
    """Follows how bright GFP is, which is known of any frame."""

    followed: ClassVar[dict[str, str]] = {"level": "grey"}

    def measure(self, image: np.ndarray) -> dict[str, float]:
        assert image.shape[:2] == (2, 1)
        return {"level": float(image[1].mean())}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("traps")
    raw = write_traps(home / "raw", [f"Pos{k}" for k in range(4)], traps=3, times=range(9))
    data = YeastDataModule(
        root=str(raw), workspace=str(home), image_size=SIZE, val_fraction=0.25, test_fraction=0.5
    )
    data.prepare_data()
    return data.prepared.folder


@pytest.fixture
def data(recordings: Path) -> Levels:
    data = Levels(root=str(recordings), image_size=SIZE)
    data.setup("test")
    return data


class Still(pl.LightningModule):
    """Says that nothing happens any more."""

    def shrinkage(self, examples: Tensor, steps: int) -> Tensor:
        assert examples.shape[1:3] == (2, 3) and steps == ASKED.steps
        return torch.tensor([0.25, 0.75])

    def following(
        self, known: Tensor, count: int, steps: int, shrinkage: Tensor
    ) -> Iterator[Tensor]:
        assert shrinkage.tolist() == [0.25, 0.75]
        yield from [known[:, :, -1]] * count


class Oracle(Still):
    """Knows the recordings by heart; after them everything is dark."""

    def __init__(self, data: Levels) -> None:
        super().__init__()
        windows = held_out_windows(data, 9, 3)
        batch = windows.__getitems__([(0, row) for row in range(len(windows))])
        self.whole = data.on_after_batch_transfer(batch, 0)["image"]

    def following(
        self, known: Tensor, count: int, steps: int, shrinkage: Tensor
    ) -> Iterator[Tensor]:
        away = (self.whole[:, None, :, :2] - known).abs().flatten(2).sum(2)
        rest = self.whole[away.argmin(0), :, 2:]
        for k in range(count):
            yield rest[:, :, k] if k < rest.shape[2] else torch.full_like(known[:, :, 0], -1)


class Broken(Oracle):
    """Loses one of them."""

    def following(
        self, known: Tensor, count: int, steps: int, shrinkage: Tensor
    ) -> Iterator[Tensor]:
        for frame in super().following(known, count, steps, shrinkage):
            frame = frame.clone()
            frame[1] = torch.nan
            yield frame


def continued(folder: RunFolder, data: Levels, model: pl.LightningModule) -> dict[str, Record]:
    folder.path.mkdir(parents=True, exist_ok=True)
    drawn = {"checkpoint_sha256": "c" * 64, "settings": ""}
    records = measure_continuation(folder, model, data, ASKED, drawn)
    return {record.metric.removeprefix("continuation/"): record for record in records}


def plain(name: str, ours: bool, **measured: Any) -> Record:
    return Record(name, **measured, n_fake=int(ours))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "multi_stylegan", "a")


def table(folder: RunFolder, name: str) -> list[dict[str, str]]:
    return named_cells(from_csv((folder.continuation / f"{name}.csv").read_bytes()))


def test_errors_of_frames_are_those_of_their_formulas() -> None:
    truth = np.full((2, 3, 4, 4), 0.5)
    off = np.array([0.1, 0.01, 0.0])[None, :, None, None] * np.array([1, -1])[:, None, None, None]
    mae, psnr = frame_errors(truth + off, truth)
    assert np.allclose(mae, [[0.1, 0.01, 0]] * 2)
    assert np.allclose(psnr, [[20, 40, EQUAL]] * 2, atol=5e-3)
    # One frame stands for all; an error counts more where it is large.
    truth[0, :, 0, 0] = 0.9
    mae, psnr = frame_errors(truth[:, :1] - truth[:, :1] + 0.5, truth)
    assert np.allclose(mae[0], 0.4 / 16) and np.allclose(psnr[0], -10 * np.log10(0.4**2 / 16))


def test_the_mean_of_sequences_has_students_interval() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0])
    found = mean(values)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((3, low, high))
    assert mean(values[:1]).low is mean(np.ones(3)).low is None
    with pytest.raises(MetricRefused, match="1 of 2 sequences have values that are no numbers"):
        mean(np.array([1, np.nan]))


def test_gains_are_paired_and_of_every_step() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(20, 5, (30, 1, 1))
    noise = rng.normal(0, 0.1, (30, 2, 3))
    made = Errors(0.1 + noise / 10, level + noise + 2)
    still = Errors(np.full((30, 2, 3), 0.3), np.broadcast_to(level, (30, 2, 3)))
    found = {r.metric: r for r in error_records(made, still, ["a", "b/c"], plain)}
    assert len(found) == 6 * 2 * 4
    gain, psnr = found["continuation/psnr_gain/a"], found["continuation/psnr/a"]
    assert gain.low < 2.02 < gain.high + 0.1 and gain.high - gain.low < 0.1
    assert psnr.high - psnr.low > 1
    assert (psnr.n_fake, gain.n_fake) == (1, 1)
    assert found["continuation/repeated_psnr/a"].n_fake == 0
    step = found["continuation/mae_gain/b/c/step_3"]
    assert step.value == pytest.approx((0.3 - made.mae[:, 1, 2]).mean()) and step.unit == ""


def test_a_scalar_is_followed_from_the_known_to_the_last_frame() -> None:
    seen = Followed(
        known=np.array([1.0, 2.0, 9.0]),
        added=np.array([[1, 1, 5.0], [1, 9, 7], [np.nan, 1, np.nan]]),
        true=np.array([[1, 1, 2.0], [1, 1, 3], [1, 1, 4]]),
        training=np.array([0.5, 3.5, np.nan]),
    )
    names = ("first_known", "last_added", "within_training")
    known, added, within = followed_records("area", "px²", seen, "3 frames", plain)
    assert tuple(r.metric.split("/")[2] for r in (known, added, within)) == names
    assert known.value == 2 and known.low is None  # three are too few to draw from again
    assert added.value == 6 and added.note == "of the true frames 3; 1 more not measurable"
    assert within.value == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3)
    # Of two values 2.5 % of their distance are cut at each end.
    assert within.note == "0.575 to 3.425; of the true frames 0.889" and within.low >= 0
    assert within.rule == "range of the central 95 % of 3 frames"
    assert (known.unit, added.unit, within.unit) == ("px²", "px²", "")
    assert (known.n_fake, added.n_fake, within.n_fake) == (0, 1, 1)
    nothing = Followed(*(np.full_like(part, np.nan) for part in seen))
    refused = followed_records("area", "px²", nothing, "3 frames", plain)
    notes = ["Measurable in none of 3 frames."] * 3
    assert [(r.value, r.note) for r in refused] == [(None, note) for note in notes]
    many = seen._replace(known=np.arange(40.0))
    median = followed_records("area", "px²", many, "3 frames", plain)[0]
    assert median.low < median.value == 19.5 < median.high


def test_who_knows_what_comes_gains_all_that_standing_still_loses(
    data: Levels, folder: RunFolder
) -> None:
    still, known = (continued(folder, data, model) for model in (Still(), Oracle(data)))
    for channel in ("BF", "GFP"):
        assert still[f"mae_gain/{channel}"].value == still[f"psnr_gain/{channel}"].value == 0
        assert known[f"mae/{channel}"].value == pytest.approx(0, abs=1e-6)
        assert known[f"psnr/{channel}"].value == pytest.approx(EQUAL, abs=5e-3)
        lost = still[f"mae/{channel}/step_7"]
        assert lost.value == known[f"mae_gain/{channel}/step_7"].value > 0
        # The same frames shown again, whatever the model: these may be compared between runs.
        pair = [of[f"repeated_mae/{channel}"] for of in (still, known)]
        assert pair[0].protocol == pair[1].protocol and pair[0].value == pair[1].value
        assert (pair[0].n_real, pair[0].n_fake) == (3, 0)
    first = [of["level/first_known"] for of in (still, known)]
    assert first[0].protocol == first[1].protocol and first[0].value == first[1].value
    assert (first[0].n_fake, first[0].unit, known["level/last_added"].n_fake) == (0, "grey", 3)
    assert "mae/BF/step_8" not in known
    assert "2 known frames; 7 true ones after them; recordings by seed 0" in lost.rule


def test_files_hold_the_known_frames_and_the_added_ones(data: Levels, folder: RunFolder) -> None:
    found = continued(folder, data, Oracle(data))
    windows = held_out_windows(data, 9, 3)
    rows = chosen_rows(windows.samples, 3, 0)
    for k, row in enumerate(rows):
        written = read_image(folder.continuation / f"{k:06d}.ome.tiff").pixels
        assert written.shape == (11, 2, SIZE, SIZE)
        storage = data.facts["storage"]
        grey = windows.stored(row).swapaxes(0, 1) * storage["scale"] + storage["offset"]
        low, high = np.array(data.facts["window"]).T[:, :, None, None]
        assert np.abs(written[:9] - grey.clip(low, high)).max() <= 1
        assert np.abs(written[9:] - low).max() <= 1
    picture = read_image(folder.continuation / "beside_truth.png").pixels
    assert picture.shape[-2:] == (6 * 2 * SIZE + 5 * 2, 11 * SIZE)
    table_rows = table(folder, "recordings")
    assert [row["recording"] for row in table_rows] == [windows.samples[k].alias for k in rows]
    assert all(float(row["level_last_added"]) == 0 for row in table_rows)
    assert found["level/last_added"].value == 0
    known = np.median([float(row["level_first_known"]) for row in table_rows])
    assert found["level/first_known"].value == pytest.approx(known)
    # Of nine added frames seven are as bright as any, two are dark.
    within = found["level/within_training"]
    true = float(within.note.split("of the true frames ")[1].split(";")[0])
    assert within.value == pytest.approx(true * 7 / 9, abs=1e-3)
    assert re.search(r"search; range of the central 95 % of \d+ training frames$", within.rule)
    assert len(table(folder, "steps")) == 3 * 2 * 7


def test_what_is_no_number_is_counted_and_no_mean_is_given_of_the_rest(
    data: Levels, folder: RunFolder
) -> None:
    found = continued(folder, data, Broken(data))
    assert found["finite_share"].value == pytest.approx(2 / 3)
    assert found["finite_share"].low < 0.5
    assert found["mae/BF"].value is None and "1 of 3 sequences" in found["mae/BF"].note
    assert found["repeated_mae/BF"].value > 0
    assert [row["finite"] for row in table(folder, "recordings")] == ["1", "0", "1"]
    empty = [row["name"] for row in table(folder, "steps") if row["mae"] == ""]
    assert empty == ["000001"] * 2 * 7
    assert not read_image(folder.continuation / "000001.ome.tiff").pixels[2:, 0].std()


def test_every_recording_comes_once_and_the_first_ones_do_not_depend_on_their_number() -> None:
    samples = [
        Sample(f"{k}/{t}", "g", sequence=f"s{k}", moment=t) for k in range(9) for t in (0, 1)
    ]
    chosen = chosen_rows(samples, 20, 4)
    assert sorted(samples[row].sequence for row in chosen) == [f"s{k}" for k in range(9)]
    assert chosen_rows(samples, 3, 4) == chosen[:3] != chosen_rows(samples, 3, 5)
    assert len({row % 2 for row in chosen}) == 2


def test_the_longest_recordings_are_taken_up_to_the_frames_that_are_added(data: Levels) -> None:
    assert held_out_windows(data, 20, 3).windows.shape[1] == 9
    assert held_out_windows(data, 3, 3).windows.shape[1] == 5
    data.frames = 10
    with pytest.raises(UserError, match="test split has no window of 10 consecutive moments"):
        held_out_windows(data, 3, 3)
    data.frames = 1
    with pytest.raises(UserError, match=r"--data\.frames 1: leaves no moment that could be known"):
        held_out_windows(data, 3, 3)


def test_long_recordings_do_not_leave_out_the_others(
    tmp_path: Path, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_traps(tmp_path / "raw", [f"Pos{k}" for k in range(4)], traps=3, times=range(9))
    # Of each position one trap has nine moments, one four, and one has too few.
    for trap, length in ((1, 4), (2, 2)):
        for path in raw.glob(f"*/*_trap_00{trap}.tif"):
            if int(path.name.split("_")[1]) >= length:
                path.unlink()
    shares = {"image_size": SIZE, "val_fraction": 0.25, "test_fraction": 0.5}
    data = Levels(root=str(raw), workspace=str(tmp_path), **shares)
    data.prepare_data()
    data.setup("test")
    lengths = [held_out_windows(data, 9, count).windows.shape[1] for count in (1, 2, 3, 20)]
    assert lengths == [9, 9, 4, 4]
    found = continued(folder, data, Still())
    assert found["finite_share"].n_real == 3
    assert [found[f"shrinkage/{channel}"].value for channel in ("BF", "GFP")] == [0.25, 0.75]
    told = "3 of 6 test recordings, 2 known frames and 9 more, of which 2 are known to compare with"
    assert f"{told}; 2 shorter recordings are left out\n" in capsys.readouterr().out
