"""Run folders as the commands leave them, plausible and hostile, and a page that was read."""

import csv
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from common.metrics.protocol import Record, write_records
from common.tables import to_csv

HOSTILE = """<script>alert(1)</script>"'"><img src=x onerror=alert(2)>"""
# A folder name cannot hold a slash.
HOSTILE_NAME = HOSTILE.replace("/", "")


class Page(HTMLParser):
    """Tags, attributes, visible text and table cells of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self._text: list[str] = []
        self._open = ""
        self.feed(html)

    @property
    def tags(self) -> set[str]:
        return set(self.opened)

    def count(self, tag: str) -> int:
        return self.opened.count(tag)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._open = tag
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self._open not in ("style", "script"):
            self._text.append(data)
            if self.cells and self._open == "td":
                self.cells[-1] += data.strip()


def plausible_run(folder: Path, seed: int, width: int, kid_value: float) -> None:
    folder.mkdir(parents=True)
    config = {
        "data": {"root": None, "card": "trapped_yeast", "batch_size": 16, "num_workers": 2},
        "model": {"width": width, "latent_dim": 128, "mapping_layers": 4, "g_lr": 0.002 / width},
        "trainer": {"precision": "32-true", "callbacks": [{"class_path": "ImagesSeen"}]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_metrics(folder / "metrics.csv", plausible_metrics(seed, width))
    (folder / "previews").mkdir()
    for images in (0, 6400, 12800, 25600, 51200):
        grid(folder / f"previews/{images:010d}.png", seed, images / 51200)
    write_samples(folder / "samples", ["trap", "cell", "pair"] * 6, size=64, seed=seed)
    records = [
        kid(kid_value, "near"),
        kid(kid_value * 1.3, "far" if seed else "near", metric="precision"),
        kid(None, "near", metric="fid", note="Weights of the named extractor are not here."),
    ]
    write_records(folder / "records.jsonl", records)
    write_evaluation(folder / "evaluation", seed)


def plausible_metrics(seed: int, width: int) -> list[tuple[int, str, float]]:
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, 401):
        images = step * 128
        decay = 80 * np.exp(-step / (300 / np.log2(width))) + 0.3 + 0.1 * seed
        rows.append((images, "train/loss", decay * rng.lognormal(0, 0.25)))
        rows.append((images, "train/images_per_s", 9000 / width + rng.normal(0, 4)))
        if step % 40 == 0:
            rows.append((images, "val/loss", decay * rng.lognormal(0.1, 0.05)))
            rows.append((images, "val/kid", 0.03 + 0.2 / np.sqrt(step) + rng.normal(0, 0.002)))
    return rows


def hostile_run(workspace: Path) -> None:
    """Every text that the page shows tries to leave its place."""
    folder = workspace / "runs" / HOSTILE_NAME / (HOSTILE_NAME + "\u202e")
    for name in ("one", "two"):
        run = folder.with_name(folder.name + name)
        write_samples(run / "samples", [HOSTILE] * 2, size=8, note=HOSTILE)
        (run / "previews").mkdir()
        grid(run / "previews" / "0000000001.png", 0, 1.0)
        tree = {HOSTILE: HOSTILE, "x" + HOSTILE: HOSTILE + name, "data": {"card": HOSTILE}}
        (run / "config.yaml").write_text(yaml.safe_dump(tree))
        write_metrics(run / "metrics.csv", [(1, "val/" + HOSTILE, 1.0), (2, HOSTILE, 2.0)])
        texts = dict.fromkeys(("extractor", "split", "unit", "note", "metric"), HOSTILE)
        records = [replace(kid(1.0, "near"), **texts), replace(kid(None, "far"), **texts)]
        write_records(run / "records.jsonl", records)
        write_evaluation(run / "evaluation", 0, HOSTILE)


def write_evaluation(folder: Path, seed: int, text: str = "cell") -> None:
    """Tables of 60 held-out and 40 generated images, and a picture of the nearest ones."""
    folder.mkdir()
    draw = np.random.default_rng(7)
    real = [(f"{k}.tif", text, draw.normal(5, 1), int(draw.integers(7, 11))) for k in range(60)]
    draw = np.random.default_rng(seed)
    fake = [
        (f"{k:06d}.png", k, text, draw.normal(5 + seed, 1), 9, f"{text}{k}.tif", 0.5)
        for k in range(40)
    ]
    near = ("nearest_training", "distance_to_training")
    scalars = (f"area of {text}", "count")
    held_out, generated = (folder / f"{name}.csv" for name in ("held_out", "generated"))
    held_out.write_bytes(to_csv([("name", "label", *scalars), *real]))
    generated.write_bytes(to_csv([("name", "seed", "label", *scalars, *near), *fake]))
    grid(folder / "nearest.png", seed, 1.0)


def write_metrics(path: Path, rows: list[tuple[int, str, object]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["images_seen", "epoch", "step", "name", "value"])
        writer.writerows([images, 0, images, name, value] for images, name, value in rows)


def kid(value: float | None, data: str, metric: str = "kid", note: str = "") -> Record:
    return Record(
        metric,
        value,
        low=None if value is None else round(value - 0.005, 4),
        high=None if value is None else round(value + 0.005, 4),
        extractor="random-cnn",
        extractor_sha256="5e" * 32,
        n_real=512,
        n_fake=1024,
        split="test",
        data=data,
        checkpoint_sha256="c0" * 32,
        note=note,
    )


def write_samples(
    folder: Path, labels: list[str], size: int, seed: int = 0, note: str = "ab" * 32
) -> None:
    folder.mkdir(parents=True)
    rows = []
    for index, label in enumerate(labels):
        picture(folder / f"{index:06d}.png", seed * 100 + index, size)
        rows.append((f"{index:06d}.png", index, label, note))
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([("name", "seed", "label", "checkpoint_sha256"), *rows])


def picture(path: Path, seed: int, size: int) -> None:
    Image.fromarray(cells(seed, size, 1.0)).save(path)


def grid(path: Path, seed: int, progress: float) -> None:
    """Three by four pictures whose cells come out of the noise as training goes on."""
    rows = [
        np.hstack([cells(10 * seed + r * 4 + c, 64, progress) for c in range(4)]) for r in range(3)
    ]
    Image.fromarray(np.vstack(rows)).save(path)


def cells(seed: int, size: int, contrast: float) -> np.ndarray:
    """Soft round cells with a bright rim under photon noise; uint8 [size, size]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    light = np.full((size, size), 12.0)
    for _ in range(3):
        cy, cx, radius = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.09, 0.17)
        distance = np.hypot(y - cy, x - cx)
        light += contrast * 60 / (1 + np.exp((distance - radius) * 60))
        light += contrast * 70 * np.exp(-(((distance - radius) / 0.03) ** 2))
    return np.clip(rng.poisson(light * 4) / 4 * 1.4, 0, 255).astype(np.uint8)
