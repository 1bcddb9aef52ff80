"""What `evaluate` leaves beside the records, for every experiment."""

import hashlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from common.data.canvas import crop_to_mask, extent, rectangle_mask
from common.data.image_io import read_image, write_ome_tiff, write_png
from common.data.manifest import SPLITS, Sample, of_split
from common.data.prepared import Prepared
from common.errors import Exit, UserError
from common.evaluate import leakage
from common.image_tables import NAMING
from common.metrics import memorization
from common.metrics.evaluation import EvaluationContext
from common.metrics.features import extractor
from common.metrics.protocol import read_records
from common.own_encoder import own_encoder
from common.tables import from_csv, named_cells
from running import Cli, at, refuses, run_folder

QUICK = ("--extractor", "random-conv")
# Verbs that replace numbers, and what does the work of each.
MEASURING = (
    ("evaluate", "common.evaluate.evaluate_run"),
    ("judge", "common.utility.judgement.measure_judgement"),
    ("utility", "common.utility.measurement.measure_utility"),
)


def table(run: Path, name: str) -> list[dict[str, str]]:
    return named_cells(from_csv((run / f"evaluation/{name}.csv").read_bytes()))


def prepared(workspace: Path) -> Prepared:
    (facts,) = (workspace / "data/processed").glob("*/dataset.json")
    return Prepared.open(facts.parent)


def pairs(run: Path) -> dict[str, float]:
    return {r.metric: r.value for r in read_records(run / "records.jsonl") if "_pairs" in r.metric}


def plant(data: Prepared, row: int, path: Path) -> None:
    """Puts a training image in the place of a generated one."""
    dataset, storage = data.dataset("train"), data.facts["storage"]
    sample, pixels = dataset.samples[row], dataset.pixels[row]
    mask = rectangle_mask(*extent(sample.height, sample.width, pixels.shape[-1]), pixels.shape[-1])
    grey = crop_to_mask(pixels, mask).astype(np.float64) * storage["scale"] + storage["offset"]
    image = np.rint(grey).astype(storage["source"])
    if path.suffix == ".png":
        write_png(path, image)
    else:
        write_ome_tiff(path, image, "CYX", None, tuple(data.facts["channels"]))


@pytest.mark.one_experiment
def test_every_image_of_both_sides_has_its_row(workspace: Path, experiment: str, cli: Cli) -> None:
    run, on = run_folder(workspace, experiment, "first"), at(workspace, "first")
    assert cli(experiment, "generate", *on, "--n", "9").code == 0
    assert cli(experiment, "evaluate", *on, *QUICK).code == 0
    held_out, generated = table(run, "held_out"), table(run, "generated")
    digits = [sample.alias for sample in prepared(workspace).samples("test")]
    assert [row["name"] for row in held_out] == digits
    assert [int(row["seed"]) for row in generated] == list(range(9))
    scalars = set(generated[0]) - set(NAMING)
    assert scalars and scalars == set(held_out[0]) - set(NAMING)
    wasserstein = [r for r in read_records(run / "records.jsonl") if "wasserstein/" in r.metric]
    assert {record.metric.partition("/")[2] for record in wasserstein} == scalars
    # A picture of neighbours needs more held-out images than there are here.
    assert not (run / "evaluation/nearest.png").exists()
    assert cli(experiment, "generate", *on, "--n", "9").code == 0
    assert not (run / "evaluation").exists()


@pytest.mark.one_experiment
def test_damaged_records_are_set_aside_before_anything_is_measured(
    workspace: Path, experiment: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, on = run_folder(workspace, experiment, "first"), at(workspace, "first")
    records = run / "records.jsonl"
    assert cli(experiment, "generate", *on, "--n", "9").code == 0
    assert cli(experiment, "evaluate", *on, *QUICK).code == 0
    damaged = records.read_bytes()[:-9]
    remedy = "run `make evaluate` and whatever else measured"
    for verb, place in MEASURING:
        records.write_bytes(damaged)
        refuses(cli(experiment, "card", *on), 3, "records.jsonl", "is not a record", remedy)

        def measure(*args: object, verb: str = verb) -> None:
            assert not records.exists() and (run / "evaluation/held_out.csv").is_file()
            raise UserError(Exit.BUG, verb, "was about to measure", "go on")

        with monkeypatch.context() as patched:
            patched.setattr(place, measure)
            done = cli(experiment, verb, *on)
        refuses(done, 1, f"{verb}: was about to measure")
        assert "is kept as records.damaged" in done.err
    assert [path.read_bytes() for path in run.glob("records.damaged*")] == [damaged] * 3
    records.write_bytes(damaged)
    assert cli(experiment, "evaluate", *on, *QUICK).code == 0
    assert len(read_records(records)) > 3
    assert (run / "evaluation/held_out.csv").is_file()


@pytest.mark.one_experiment
def test_a_copy_of_a_training_image_is_the_first_suspect(
    workspace: Path, experiment: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorization, "FEWEST", 2)
    run, on = run_folder(workspace, experiment, "first"), at(workspace, "first")
    assert cli(experiment, "generate", *on, "--n", "12").code == 0
    data = prepared(workspace)
    (copied,) = (path for path in (run / "samples").iterdir() if path.name.startswith("000007"))
    before = hashlib.sha256(copied.read_bytes()).hexdigest()
    plant(data, 5, copied)
    done = cli(experiment, "evaluate", *on, *QUICK)
    refuses(done, 3, copied.name, "is not the image that was generated", "make generate")
    manifest = run / "samples/manifest.csv"
    after = hashlib.sha256(copied.read_bytes()).hexdigest()
    manifest.write_text(manifest.read_text().replace(before, after))
    assert cli(experiment, "evaluate", *on, *QUICK).code == 0
    rows = table(run, "generated")
    assert rows[7]["nearest_training"] == data.samples("train")[5].alias
    assert float(rows[7]["distance_to_training"]) < 1e-4
    assert [row["copied"] for row in rows].count("1") >= 1 and rows[7]["copied"] == "1"
    picture = read_image(run / "evaluation/nearest.png").pixels
    picture = picture.reshape(picture.shape[-2:])
    size = data.facts["image_size"]
    first = [picture[top : top + size, :size] for top in (0, size + 2)]
    assert np.abs(first[0].astype(int) - first[1]).max() <= 1
    channels = len(data.facts["channels"])
    assert picture.shape == (3 * size + 4, 10 * (channels * size + 2) - 2)


def test_pairs_of_held_out_and_training_images_are_counted_and_no_others() -> None:
    manifest = [
        *(
            Sample(name, name, split=split, pixels_sha256=name)
            for split in SPLITS
            for name in (f"{split}{k}" for k in range(3))
        ),
        Sample("a", "same", split="train"),
        Sample("b", "same", split="test"),
        Sample("c", "between", split="val"),
        Sample("d", "between", split="test"),
        Sample("e", "twice", split="test"),
        Sample("f", "twice", split="test"),
    ]
    data = SimpleNamespace(
        card=SimpleNamespace(derivative_suffixes=()),
        prepared=SimpleNamespace(manifest=manifest),
        samples=partial(of_split, manifest),
    )
    faces = list(np.random.default_rng(0).normal(size=(4, 255)))
    faces = [face / np.linalg.norm(face) for face in (*faces[:2], faces[0], faces[3])]
    context = EvaluationContext("test", "data", "as it is")
    same, alike = leakage(data, [0, 1], [0, 1], np.float32(faces), context)
    assert (same.metric, same.value, same.n_real) == ("leaked_pairs", 1, 7)
    assert (alike.metric, alike.value, alike.n_real) == ("near_duplicate_pairs", 1, 2)


@pytest.mark.one_experiment
def test_a_brighter_training_image_among_the_held_out_ones_is_counted(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    run, on = run_folder(workspace, experiment, "first"), at(workspace, "first")
    assert cli(experiment, "generate", *on, "--n", "9").code == 0
    assert cli(experiment, "evaluate", *on, *QUICK).code == 0
    assert pairs(run) == {"leaked_pairs": 0, "near_duplicate_pairs": 0}
    # As if the split had been drawn by hand: a test image becomes a brighter training image.
    data = prepared(workspace)
    size = data.facts["image_size"]
    places = {
        name: [extent(s.height, s.width, size) for s in data.samples(name)]
        for name in ("test", "train")
    }
    row, known = next(
        (places["test"].index(place), places["train"].index(place))
        for place in places["train"]
        if place in places["test"]
    )
    pixels = np.load(data.folder / "test.npy", mmap_mode="r+")
    pixels[row] = data.dataset("train").pixels[known] // 2 + 20
    pixels.flush()
    assert cli(experiment, "evaluate", *on, *QUICK).code == 0
    assert pairs(run)["near_duplicate_pairs"] >= 1


def test_a_run_can_be_seen_through_its_own_encoder(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    run, on = run_folder(workspace, experiment, "first"), at(workspace, "first")
    # That of the checkpoint that drew the images: another one may have seen other data.
    assert cli(experiment, "generate", *on, "--n", "12", "--weights", "previous").code == 0
    done = cli(experiment, "evaluate", *on, "--extractor", "own")
    if "has no encoder of its own" in done.err:
        refuses(done, 2, "--extractor own", "choose another extractor")
        return
    assert done.code == 0, done.err
    seen = [r for r in read_records(run / "records.jsonl") if r.extractor]
    assert {(r.extractor, r.extractor_sha256) for r in seen} == {("own", seen[0].checkpoint_sha256)}
    assert any(r.metric == "kernel_distance" and r.value is not None for r in seen)


def test_the_encoder_sees_images_as_training_does() -> None:
    from experiments.cilia_cvae.module import CiliaCVAE

    model = CiliaCVAE(["a", "b"], image_size=32, latent_dim=4, width=8, condition_dim=8).eval()
    network = own_encoder(model, "ab", {"channels": ["tem"], "image_size": 32})
    grey = torch.arange(0, 256, dtype=torch.uint8).repeat(4).reshape(1, 1, 32, 32)
    with torch.no_grad():
        expected = model.embed(grey / 255 * 2 - 1)
    torch.testing.assert_close(network(grey), expected, rtol=0, atol=1e-5)
    assert network.dim == 4


def test_a_model_without_an_encoder_and_an_encoder_without_a_run_are_refused() -> None:
    facts = {"channels": ["tem"], "image_size": 32}
    with pytest.raises(UserError, match="LightningModule has no encoder of its own"):
        own_encoder(pl.LightningModule(), "ab", facts)
    with pytest.raises(UserError, match="own: is the encoder of a run"):
        extractor("own")


def test_an_embedding_does_not_depend_on_the_rest_of_its_batch() -> None:
    from experiments.cilia_cvae.module import CiliaCVAE

    torch.manual_seed(0)
    model = CiliaCVAE(["a", "b"], image_size=32, latent_dim=4, width=8, condition_dim=8).eval()
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        together, alone = model.embed(images), model.embed(images[1:2])
    assert together.shape == (3, 4)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-3
