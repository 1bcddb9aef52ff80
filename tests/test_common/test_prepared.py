import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common.data.canvas import extent, rectangle_mask
from common.data.datamodule import ImageDataModule
from common.data.datasets import PackedDataset, as_batch
from common.data.image_io import find_images, write_png
from common.data.manifest import Sample
from common.data.prepared import Prepared
from common.data.sampler import EpochSampler
from common.errors import Exit, UserError

CARD = """---
{name: blobs, title: t, url: u, licence: l, channels: [grey], pixel_size_um: null, window: dtype,
classes: [a, b], group: null, group_kind: image, derivative_suffixes: [], collapse_grey: true}
---
"""
SIZE = 16


class BlobsDataModule(ImageDataModule):
    default_card = ""

    def scan(self, root: Path) -> list[Sample]:
        names = [path.relative_to(root).as_posix() for path in find_images(root)]
        return [Sample(name, name, name.split("/")[0]) for name in names]

    def simulate(self, root: Path) -> None:
        raise AssertionError("these tests bring their own images")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of two classes, a card and their prepared folder."""
    root = tmp_path_factory.mktemp("blobs")
    for k in range(20):
        path = root / f"raw/{'ab'[k % 2]}/{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (12 + k, 20) if k % 3 else (20, 9 + k)
        write_png(path, np.random.default_rng(k).integers(0, 256, shape, np.uint8))
    (root / "blobs.md").write_text(CARD)
    module(root).prepare_data()
    return root


@pytest.fixture
def folder(blobs: Path, tmp_path: Path) -> Path:
    """A copy of the prepared folder, to be damaged."""
    (made,) = blobs.glob("data/processed/*/")
    return shutil.copytree(made, tmp_path / "prepared")


def module(home: Path, **arguments: Any) -> BlobsDataModule:
    settings = {"root": str(home / "raw"), "card": str(home / "blobs.md"), "workspace": str(home)}
    return BlobsDataModule(**settings | {"image_size": SIZE, "batch_size": 4} | arguments)


def cut(folder: Path) -> str:
    path = folder / "train.npy"
    path.write_bytes(path.read_bytes()[:-100])
    return "train.npy"


def lengthened(folder: Path) -> str:
    with (folder / "train.npy").open("ab") as stream:
        stream.write(b"more")
    return "train.npy"


def emptied(folder: Path) -> str:
    (folder / "train.npy").write_bytes(b"")
    return "train.npy"


def removed(folder: Path) -> str:
    (folder / "train.npy").unlink()
    return "train.npy"


def one_row_less(folder: Path) -> str:
    np.save(folder / "train.npy", np.load(folder / "train.npy")[1:])
    return "train.npy"


def another_type(folder: Path) -> str:
    np.save(folder / "train.npy", np.load(folder / "train.npy").astype(np.uint16))
    return "train.npy"


def exchanged(folder: Path) -> str:
    shutil.copy(folder / "test.npy", folder / "train.npy")
    return "train.npy"


def row_deleted(folder: Path) -> str:
    path = folder / "manifest.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3] + lines[4:]))
    return "manifest.csv"


def no_manifest(folder: Path) -> str:
    (folder / "manifest.csv").unlink()
    return "manifest.csv"


def not_json(folder: Path) -> str:
    (folder / "dataset.json").write_text("{")
    return "prepared"


def another_json(folder: Path) -> str:
    (folder / "dataset.json").write_text('{"name": "somebody else\'s"}')
    return "manifest_sha256"


@pytest.mark.parametrize(
    "damage",
    [cut, lengthened, emptied, removed, one_row_less, another_type, exchanged, row_deleted,
     no_manifest, not_json, another_json],
)  # fmt: skip
def test_a_damaged_prepared_folder_is_named_before_any_batch(
    damage: Callable[[Path], str], folder: Path
) -> None:
    word = damage(folder)
    with pytest.raises(UserError) as caught:
        Prepared.open(folder).dataset("train")
    assert caught.value.code == Exit.INPUT and word in str(caught.value)
    assert "delete" in caught.value.remedy


def test_no_other_split_is_opened(folder: Path) -> None:
    (folder / "test.npy").unlink()
    data = Prepared.open(folder)
    for split in ("train", "val"):
        dataset = data.dataset(split)
        assert len(dataset[0, 0]["image"]) == 1
    with pytest.raises(UserError, match=r"test\.npy"):
        data.dataset("test")


def test_a_prepared_folder_serves_where_the_raw_one_is_not(folder: Path, blobs: Path) -> None:
    data = module(blobs, root=str(folder))
    data.prepare_data()
    data.setup("fit")
    assert data.prepared.folder == folder and len(data.prepared.manifest) == 20


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("classes: [a, b]", "classes: [b, a]", ("classes ['a', 'b'], not ['b', 'a']",)),
        ("channels: [grey]", "channels: [tem, sem]", ("channels ['grey']",)),
        ("", "", ("image_size 16, not 32",)),
    ],
)
def test_a_folder_prepared_for_another_configuration_is_refused(
    before: str, after: str, words: tuple[str], folder: Path, blobs: Path, tmp_path: Path
) -> None:
    (tmp_path / "blobs.md").write_text(CARD.replace(before, after) if before else CARD)
    size = SIZE if before else 32
    data = module(blobs, root=str(folder), card=str(tmp_path / "blobs.md"), image_size=size)
    data.prepare_data()
    with pytest.raises(UserError) as caught:
        data.setup("fit")
    assert caught.value.code == Exit.INPUT
    assert all(word in str(caught.value) for word in words)


def test_a_batch_is_a_dict_of_packed_pixels(folder: Path) -> None:
    data = Prepared.open(folder)
    dataset = data.dataset("train")
    batch = dataset.__getitems__([(0, 2), (0, 0), (0, 5)])
    assert set(batch) == {"image", "mask", "label", "name"}
    for name, dtype in (("image", torch.uint8), ("mask", torch.uint8)):
        assert batch[name].shape == (3, 1, SIZE, SIZE) and batch[name].dtype == dtype
    rows = data.samples("train")
    assert batch["name"] == [rows[k].name for k in (2, 0, 5)]
    assert batch["label"].tolist() == ["ab".index(rows[k].label) for k in (2, 0, 5)]
    assert batch["label"].dtype == torch.int64
    packed = np.load(folder / "train.npy")
    for position, k in enumerate((2, 0, 5)):
        np.testing.assert_array_equal(batch["image"][position], packed[k])
        mask = rectangle_mask(*extent(rows[k].height, rows[k].width, SIZE), SIZE)
        np.testing.assert_array_equal(batch["mask"][position], mask)


def test_sixteen_bits_reach_the_device_without_a_loss(tmp_path: Path) -> None:
    pixels = np.arange(2 * 64, dtype=np.uint16).reshape(2, 1, 8, 8) * 511
    np.save(tmp_path / "train.npy", pixels)
    rows = [Sample(f"{k}", f"{k}", index=k, height=8, width=8) for k in range(2)]
    batch = PackedDataset(tmp_path, "train", rows).__getitems__([(0, 0), (0, 1)])
    assert batch["image"].dtype == torch.uint16
    np.testing.assert_array_equal(batch["image"].float().numpy(), pixels.astype(np.float32))
    assert batch["label"].tolist() == [0, 0]


def test_a_squashed_canvas_is_image_all_over(folder: Path) -> None:
    facts = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(facts | {"fit": "squash"}))
    batch = Prepared.open(folder).dataset("train").__getitems__([(0, 0), (0, 1)])
    assert batch["mask"].all()


def test_the_mask_moves_with_its_image(tmp_path: Path) -> None:
    rows = [Sample(f"{k}", f"{k}", index=k, height=8, width=2 + k) for k in range(6)]
    masks = np.stack([rectangle_mask(*extent(s.height, s.width, 8), 8) for s in rows])
    # One corner of each rectangle is marked, so that all eight orientations look different.
    pixels = masks * np.uint8(100)
    for one, mask in zip(pixels, masks, strict=True):
        one[(0, *np.argwhere(mask[0])[0])] = 255
    np.save(tmp_path / "train.npy", pixels)
    dataset = PackedDataset(tmp_path, "train", rows, policy="d4", seed=1)
    seen = set()
    for epoch in range(30):
        batch = dataset.__getitems__([(epoch, k) for k in range(6)])
        np.testing.assert_array_equal(batch["mask"].bool(), batch["image"] > 0)
        seen.add(batch["image"][0].numpy().tobytes())
    assert len(seen) == 8


@pytest.mark.parametrize("policy", ["d4", "d4+affine+photometric"])
def test_seed_epoch_and_index_fix_a_picture_in_any_process_and_batch(
    policy: str, folder: Path
) -> None:
    dataset = Prepared.open(folder).dataset("train", policy, seed=5)
    sampler = EpochSampler(len(dataset), seed=5, shuffle=True)

    def views(batch_size: int, workers: int) -> dict[tuple[int, str], bytes]:
        loader = DataLoader(
            dataset, batch_size, sampler=sampler, num_workers=workers, collate_fn=as_batch
        )
        seen = {}
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            for batch in loader:
                for name, image, mask in zip(
                    batch["name"], batch["image"], batch["mask"], strict=True
                ):
                    seen[epoch, name] = image.numpy().tobytes() + mask.numpy().tobytes()
        return seen

    alone = views(4, 0)
    assert views(4, 2) == alone and views(1, 0) == alone
    first, second = ([alone[e, s.name] for s in dataset.samples] for e in (0, 1))
    assert first != second
    other = Prepared.open(folder).dataset("train", policy, seed=6)
    assert [other[0, k]["image"].numpy().tobytes() for k in range(len(other))] != first


def test_the_ends_of_the_window_become_minus_one_and_one(folder: Path, blobs: Path) -> None:
    data = module(blobs, root=str(folder))
    data.prepare_data()
    stored = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    batch = {"image": stored, "mask": torch.ones_like(stored)}
    values = data.on_after_batch_transfer(batch, 0)["image"].flatten()
    torch.testing.assert_close(values, torch.tensor([-1.0, -0.6, 1.0]))
    data.facts.update(window=[10.0, 30.0], storage={"scale": 0.1, "offset": 5.0})
    stored = torch.tensor([0, 50, 150, 250, 60000], dtype=torch.uint16).reshape(1, 1, 1, 5)
    batch = {"image": stored, "mask": torch.ones(1, 1, 1, 5)}
    values = data.on_after_batch_transfer(batch, 0)["image"].flatten()
    torch.testing.assert_close(values, torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    "setting", ["image_size", "batch_size", "simulated_images", "simulated_size"]
)
def test_a_number_that_is_too_low_is_named(setting: str, blobs: Path) -> None:
    with pytest.raises(UserError, match=f"--data.{setting} -1") as caught:
        module(blobs, **{setting: -1})
    assert caught.value.code == Exit.USAGE


def test_facts_of_the_data_are_plain_json(folder: Path, blobs: Path) -> None:
    data = module(blobs, root=str(folder))
    data.prepare_data()
    restored = module(blobs)
    restored.load_state_dict(json.loads(json.dumps(data.state_dict())))
    assert restored.facts == data.facts


def test_rows_are_spread_over_a_split(blobs: Path) -> None:
    data = module(blobs)
    data.setup("fit")
    total = len(data.samples("train"))
    every = data.spread("train", total)
    assert torch.equal(data.spread("train", 10 * total)["image"], every["image"])
    for count in (3, total // 2 + 1, total - 1):
        rows = [k * total // count for k in range(count)]
        assert torch.equal(data.spread("train", count)["image"], every["image"][rows])
    few = data.spread("train", 3)
    assert few["image"].min() >= -1 and few["mask"].shape == (3, 1, *few["image"].shape[-2:])


def test_an_example_batch_is_what_generate_feeds_with_the_classes_in_turn(blobs: Path) -> None:
    data = module(blobs)
    data.setup("fit")
    batch = data.example_batch(4, seed=3)
    assert batch["seed"].tolist() == [3, 4, 5, 6] and batch["label"].tolist() == [1, 0, 1, 0]
    plan = data.plan_generation(4, 3, "balanced").__getitems__(range(4))
    assert torch.equal(batch["mask"], plan["mask"].float()) and batch["name"] == plan["name"]
