"""A file of released weights becomes a run that draws and is measured like any other."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from released_weights import REFERENCE, needs_reference, write_released

from common.callbacks import RunConfig, to_grey_levels
from common.cards.origin import Origin
from common.data.image_io import read_image
from common.errors import Exit, UserError
from common.metrics.protocol import read_records
from common.report.runs import read_run
from common.runs.checkpoints import load_checkpoint, sha256_of
from common.runs.claim import refuse_used
from common.runs.folder import RunFolder
from common.sampling import DETAIL_SEED, seeded_noise
from experiments.multi_stylegan.module import MultiStyleGAN
from experiments.multi_stylegan.published import load_published
from running import TOY, Cli, Result, at, call_cli, refuses, run_folder, smoke

EXPERIMENT = "multi_stylegan"
LITTLE = ["--data.simulated_images", "60"]
# In grey levels of 16 bits: a batch of another length may sum in another order.
ROUNDING = 1


@pytest.fixture(autouse=True)
def _quick(one_thread: None) -> None:
    pass


def imports(cli: Callable[..., Any], weights: Path, *where: str | Path) -> Any:
    more = [*smoke(EXPERIMENT), *LITTLE, *where]
    return cli(EXPERIMENT, "import-published", "--weights", weights, *more)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "released.npz"
    write_released(path)
    return path


@pytest.fixture(scope="module")
def imported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace with the run `first`; tests copy it."""
    workspace = tmp_path_factory.mktemp("imported")
    assert imports(call_cli, weights, *at(workspace, "first")) == 0
    return workspace


@pytest.fixture
def workspace(imported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(imported, tmp_path / "workspace", symlinks=True)


def drawn(workspace: Path, run: str) -> dict[int, np.ndarray]:
    """Grey levels [C, T, S, S] by seed."""
    samples = run_folder(workspace, EXPERIMENT, run) / "samples"
    rows = (samples / "manifest.csv").read_text().splitlines()[1:]
    found = {}
    for name, seed, *_ in (row.split(",") for row in rows):
        image = read_image(samples / name)
        assert image.axes == "TCYX"
        found[int(seed)] = image.pixels.swapaxes(0, 1)
    return found


def expected(file: Path, seeds: list[int], facts: dict) -> np.ndarray:
    """Grey levels of what the networks of the file draw, without the module or the command line."""
    generator, _ = load_published(file)
    numbers = torch.tensor(seeds)
    z = seeded_noise(numbers, generator.mapping.layers[0].weight.shape[1])
    noise = seeded_noise(numbers + DETAIL_SEED, generator.noise_values)
    with torch.no_grad():
        # Theirs are in [0, 1] and upside down.
        frames = (2 * generator(z, noise=noise) - 1).flip(-2).clamp(-1, 1).numpy()
    # Else a comparison would be of black and white alone.
    assert (np.abs(frames) < 1).mean() > 0.3
    return np.stack([to_grey_levels(one, facts) for one in frames])


def draws_what_the_file_draws(workspace: Path, run: str, file: Path, cli: Cli) -> None:
    result = cli(EXPERIMENT, "generate", *at(workspace, run), "--n", "6", "--seed", "4")
    assert result.code == 0, result.err
    best = run_folder(workspace, EXPERIMENT, run) / "checkpoints/best.ckpt"
    found = drawn(workspace, run)
    assert list(found) == list(range(4, 10))
    wanted = expected(file, [*found], load_checkpoint(best)["YeastDataModule"]["facts"])
    for image, truth in zip(found.values(), wanted, strict=True):
        assert image.shape == truth.shape and image.dtype == truth.dtype
        assert np.abs(image.astype(int) - truth.astype(int)).max() <= ROUNDING


def test_the_run_draws_what_the_file_draws_and_is_measured(
    workspace: Path, weights: Path, cli: Cli
) -> None:
    draws_what_the_file_draws(workspace, "first", weights, cli)
    quick = ["--extractor", "random-conv", "--clip_extractor", "random-conv-triplets"]
    result = cli(EXPERIMENT, "evaluate", *at(workspace, "first"), *quick)
    assert result.code == 0, result.err
    folder = run_folder(workspace, EXPERIMENT, "first")
    source = f"released.npz, SHA-256 {sha256_of(weights)}"
    records = read_records(folder / "records.jsonl")
    assert {record.imported for record in records} == {source}
    assert {record.split for record in records} == {"test"}
    assert f"The run began with weights of {source}." in read_run(folder).notes
    result = cli(EXPERIMENT, "card", *at(workspace, "first"))
    assert result.code == 0, result.err
    model, data = ((folder / f"card/{kind}_card.md").read_text() for kind in ("model", "data"))
    for card in (model, data):
        assert Origin.IMPORTED.value in card and Origin.SIMULATED.value not in card
        assert f"weights: imported from `{source}`" in card
        assert "Simulated: distances are to simulated images that were held out" in card
    assert "make import-published EXP=multi_stylegan CONFIG=runs/multi_stylegan/first/" in model
    assert "RESUME=1" not in model and "make train" not in model
    assert "weights that were trained elsewhere" in (folder / "card/croissant.json").read_text()


def test_frames_of_released_networks_are_turned_in_exports_too(workspace: Path, cli: Cli) -> None:
    result = cli(EXPERIMENT, "export", *at(workspace, "first"))
    assert result.code == 0, result.err
    # The command compares it with torch.
    assert (run_folder(workspace, EXPERIMENT, "first") / "export/sampler.onnx").is_file()


@needs_reference
def test_the_reference_becomes_a_run_that_draws_what_it_draws(imported: Path, cli: Cli) -> None:
    result = imports(cli, REFERENCE, *at(imported, "reference"))
    assert result.code == 0, result.err
    assert "2 domains, 3 frames of 32 px; channels [16, 16, 12, 8]" in result.out
    assert f"{REFERENCE.name}, SHA-256 {sha256_of(REFERENCE)}" in result.out
    draws_what_the_file_draws(imported, "reference", REFERENCE, cli)


def test_a_checkpoint_rebuilds_both_networks_of_the_file(imported: Path, weights: Path) -> None:
    folder = run_folder(imported, EXPERIMENT, "first")
    for name in ("best", "last"):
        checkpoint = load_checkpoint(folder / f"checkpoints/{name}.ckpt", to_resume=True)
        given = checkpoint["hyper_parameters"]
        model = MultiStyleGAN(**{k: v for k, v in given.items() if not k.startswith("_")})
        model.load_state_dict(checkpoint["state_dict"])
        sequences = torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        generator, discriminator = load_published(weights)
        with torch.no_grad():
            found = model.eval().discriminator(sequences)
            logit, pixels = discriminator((sequences.flip(-2) + 1) / 2)
        assert torch.equal(found[0], logit) and torch.equal(found[1], pixels.flip(-2))
        state = model.generator.state_dict()
        assert all(torch.equal(state[k], v) for k, v in generator.state_dict().items())


def test_a_run_that_goes_on_training_still_says_where_it_began(workspace: Path, cli: Cli) -> None:
    folder = run_folder(workspace, EXPERIMENT, "first")
    before = load_checkpoint(folder / "checkpoints/last.ckpt")
    more = ["--budget.images_seen", "4", "--model.val_samples", "2", "--preview.count", "0"]
    more += ["--allow-change", "model.init_args.val_samples"]
    result = cli(EXPERIMENT, "fit", *at(workspace, "first"), "--resume", "true", *more)
    assert result.code == 0, result.err
    after = load_checkpoint(folder / "checkpoints/last.ckpt")
    assert after["YeastDataModule"]["imported"] == before["YeastDataModule"]["imported"] != ""
    name = "generator.levels.0.paths.0.0.weight"
    moved = (after["state_dict"][name] - before["state_dict"][name]).abs().max()
    assert 0 < moved < 0.1
    assert cli(EXPERIMENT, "card", *at(workspace, "first")).code == 0
    card = (folder / "card/model_card.md").read_text()
    assert Origin.IMPORTED.value in card and "RUN=again RESUME=1" in card


def test_the_configuration_of_the_run_follows_the_file_and_imports_it_again(
    imported: Path, weights: Path, cli: Cli
) -> None:
    first = run_folder(imported, EXPERIMENT, "first")
    others = ["--data.frames", "5", "--model.wiring", "dual", "--model.d_places", "4"]
    others += ["--model.d_blurs", "false", "--model.camera_noise", "true"]
    typed = [*others, "--config", first / "config.yaml"]
    result = imports(cli, weights, *at(imported, "second"), *typed)
    assert result.code == 0, result.err
    second = run_folder(imported, EXPERIMENT, "second")
    assert (second / "config.yaml").read_bytes() == (first / "config.yaml").read_bytes()
    config = yaml.safe_load((second / "config.yaml").read_text())
    assert config["data"]["frames"] == 3 and config["data"]["image_size"] == 32
    assert config["model"]["init_args"]["widths"] == [8, 8, 8, 4]
    assert "weights" not in config
    states = [
        load_checkpoint(folder / "checkpoints/best.ckpt")["state_dict"]
        for folder in (first, second)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other(path: Path) -> None:
    np.savez(path, **{"generator/a": np.ones(3), "discriminator/a": np.ones(3)})


def _of_two_kinds(path: Path) -> None:
    """A discriminator of other sequences than the generator makes."""
    write_released(path)
    arrays = dict(np.load(path))
    write_released(path, frames=2)
    two = {k: v for k, v in np.load(path).items() if k.startswith("discriminator")}
    np.savez(path, **arrays | two)


def _not_finite(path: Path) -> None:
    arrays = dict(np.load(path))
    arrays["generator/constant_input_1.input"][:] = np.nan
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "cannot be read"),
        (Path.unlink, "is not there"),
        (_other, "holds no networks of the released code"),
        (_of_two_kinds, "6 images a sequence are made, 4 are looked at"),
        (_not_finite, "holds NaN or Inf in constant_input_1.input"),
    ],
)
def test_what_holds_no_released_weights_makes_no_run(
    damage: Callable[[Path], object], words: str, weights: Path, tmp_path: Path, cli: Cli
) -> None:
    path = shutil.copy(weights, tmp_path / "file.npz")
    damage(path)
    result = imports(cli, path, *at(tmp_path, "x"))
    refuses(result, 3 if damage is Path.unlink else 4, "file.npz", words)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "data").exists()


def test_a_run_that_is_there_is_not_imported_over(imported: Path, weights: Path, cli: Cli) -> None:
    best = run_folder(imported, EXPERIMENT, "first") / "checkpoints/best.ckpt"
    before = best.read_bytes()
    refuses(imports(cli, weights, *at(imported, "first")), 5, "first", "holds a run already")
    assert best.read_bytes() == before


def test_an_import_that_is_stopped_does_not_keep_its_name(
    imported: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(config: RunConfig) -> str:
        assert config.folder.checkpoint("best").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(RunConfig, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        imports(call_cli, weights, *at(imported, "stopped"))
    refuse_used(RunFolder(imported, EXPERIMENT, "stopped"), resume=False)


def test_domains_are_the_channels_of_the_data_card(
    imported: Path, tmp_path: Path, cli: Cli
) -> None:
    write_released(tmp_path / "one.npz", domains=1)
    result = imports(cli, tmp_path / "one.npz", *at(tmp_path, "x"))
    refuses(result, 2, "one.npz", "makes 1 domains, and the data have 2 channels", "--data.card")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "data").exists()


def test_without_a_file_or_an_experiment_that_reads_it_nothing_is_imported(
    tmp_path: Path, cli: Cli
) -> None:
    def asked(experiment: str, *more: str, verb: str = "import-published") -> Result:
        return cli(experiment, verb, *at(tmp_path, "x"), *more)

    for verb in ("import-published", "import_published"):
        refuses(asked(EXPERIMENT, verb=verb), 2, "import-published", "WEIGHTS=")
    refuses(asked(TOY, "--weights", "a.npz"), 2, "import-published", "reads no released weights")
    assert "--weights" in asked(EXPERIMENT, "--help").out


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"widths": [8, 8]}, "--model.widths 8,8: does not fit frames of 16 px; give 3 numbers"),
        ({"widths": [8, 0, 8]}, "--model.widths 8,0,8"),
        ({"d_widths": [8, 8]}, "--model.d_widths 8,8: does not fit frames of 16 px; give 3 to 4"),
        ({"d_widths": [8] * 5}, "--model.d_widths 8,8,8,8,8"),
        ({"d_rising": [8]}, "--model.d_rising 8: does not fit 3 blocks of the encoder; give 2"),
    ],
)
def test_channels_that_fit_no_frame_are_refused(typed: dict[str, list[int]], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        MultiStyleGAN(image_size=16, d_levels=3, latent_dim=8, style_dim=8, **typed)
    assert refused.value.code == Exit.USAGE


def test_channels_that_were_typed_are_those_of_the_networks() -> None:
    model = MultiStyleGAN(
        image_size=16, latent_dim=8, style_dim=8, mapping_layers=1,
        widths=[8, 4, 12], d_widths=[8, 16, 8, 24],
    )  # fmt: skip
    assert [level.paths[0][-1].weight.shape[0] for level in model.generator.levels] == [8, 4, 12]
    found = [block.beside.weight.shape[0] for block in model.discriminator.encoder]
    assert found == [8, 16, 8, 24]
    logit, pixel_logit = model.discriminator(torch.zeros(2, 2, 3, 16, 16))
    assert logit.shape == (2, 1) and pixel_logit.shape == (2, 1, 1, 16, 16)
