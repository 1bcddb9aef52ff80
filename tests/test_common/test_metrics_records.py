import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from common.errors import Exit, UserError
from common.evaluate import update_records
from common.metrics import bootstrap, fidelity
from common.metrics.clip_features import ClipExtractor
from common.metrics.evaluation import (
    EvaluationContext,
    Side,
    evaluate,
    evaluate_clips,
    look,
    look_at_clips,
)
from common.metrics.features import Extractor, extractor
from common.metrics.i3d import FVD_WEIGHTS_SHA256
from common.metrics.manifold import COVERING
from common.metrics.protocol import (
    Record,
    read_records,
    usable_records,
    write_records,
)
from common.runs.folder import RunFolder

HOSTILE = 'line\nbreak \u2028 \x00 \x1b[2J </script> "quoted" \\ ü 𝄞 \udc80'
CONTEXT = EvaluationContext(
    split="test",
    data="0123abcd",
    preprocessing="window 0..4095 to uint8",
    seed=7,
    checkpoint_sha256="c" * 64,
    commit="deadbeef",
    units={"area_um2": "µm²"},
)


def noise_images(count: int, seed: int, channels: int = 1, size: int = 16) -> Tensor:
    shape = (count, channels, size, size)
    return torch.randint(
        0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def by_name(records: list[Record]) -> dict[str, Record]:
    assert len({record.metric for record in records}) == len(records)
    return {record.metric: record for record in records}


# Records ---------------------------------------------------------------------------------------


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    records = [
        Record("KID", 0.1 + 0.2, -1e-300, 5.0, "µm", "inception", "ab", "subsets=100", 10, 12),
        Record(HOSTILE, None, note=HOSTILE, unit=HOSTILE, data=HOSTILE, seed=-(2**70)),
    ]
    path = tmp_path / "records.jsonl"
    write_records(path, records)
    assert read_records(path) == records
    assert path.read_bytes().isascii()
    assert path.read_text().count("\n") == 2
    assert [json.loads(line)["protocol"] for line in path.read_text().splitlines()] == [
        record.protocol for record in records
    ]


def test_numbers_that_are_not_finite_never_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [Record("x", math.nan, -math.inf, math.inf), Record("y", np.float64(2))])
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    found = read_records(path)
    assert [(r.value, r.low, r.high) for r in found] == [(None, None, None), (2.0, None, None)]


def test_writing_replaces_the_old_records_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [Record("old", 1.0), Record("older", 2.0)])
    write_records(path, [Record("new", 3.0)])
    assert read_records(path) == [Record("new", 3.0)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "records.jsonl"
    write_records(path, [Record("old", 1.0)])
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"No space left on device\); the old file is kept") as e:
        write_records(path, [Record("new", 2.0)])
    assert e.value.code is Exit.STORAGE
    assert read_records(path) == [Record("old", 1.0)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent/records\.jsonl") as refusal:
        write_records(tmp_path / "absent" / "records.jsonl", [])
    assert refusal.value.code is Exit.STORAGE


def is_refused(path: Path, line: str, problem: str) -> bool:
    write_records(path, [Record("x", 1.0)])
    path.write_text(path.read_text() + line + "\n", encoding="ascii")
    with pytest.raises(UserError, match=rf"records\.jsonl: line 2 {problem}") as refusal:
        read_records(path)
    return refusal.value.code is Exit.INPUT


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "null", "[" * 100_000, "{}", '{"protocol": ""}'], ids=range(7)
)
def test_a_line_that_is_no_record_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    assert is_refused(tmp_path / "records.jsonl", line, "is not a record")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"value": 1.0', '"value": 1.0, "surprise": 1', "is not a record"),
        ('"value": 1.0', '"value": NaN', "is not a record"),
        ('"value": 1.0', '"value": 1e999', "holds a number that is not finite"),
        ('"low": null', '"low": -1e999', "holds a number that is not finite"),
        ('"value": 1.0', '"value": "1.0"', "holds a field of the wrong type"),
        ('"seed": 0', '"seed": null', "holds a field of the wrong type"),
        ('"split": ""', '"split": "test"', "was changed after it was written"),
    ],
)
def test_a_changed_record_is_named_by_its_line(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [Record("x", 1.0)])
    line = path.read_text().strip()
    assert line.count(old) == 1
    assert is_refused(path, line.replace(old, new), problem)


def test_whoever_replaces_a_damaged_file_keeps_it_beside_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path, "exp", "first")
    path = folder.records
    path.parent.mkdir(parents=True)
    assert usable_records(path) == [] and not [*path.parent.iterdir()]
    write_records(path, [Record("x", 1.0), Record("judge/recall", 0.5)])
    assert usable_records(path) == read_records(path)
    for name, place in (("records.damaged.jsonl", 2), ("records.damaged-2.jsonl", 1)):
        damaged = path.read_bytes()[:-9]
        path.write_bytes(damaged)
        update_records(folder, [Record("y", 2.0)])
        assert (path.parent / name).read_bytes() == damaged
        assert read_records(path) == [Record("y", 2.0)]
        (line,) = capfd.readouterr().err.splitlines()
        assert f"records.jsonl line {place} is not a record; it is kept as {name}," in line


def test_a_file_of_records_that_is_absent_or_binary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with pytest.raises(UserError, match=r"records\.jsonl.*run `make evaluate`"):
        read_records(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"records\.jsonl"):
        read_records(path)


# Evaluation ------------------------------------------------------------------------------------

Biology = dict[str, np.ndarray]


def side(images: Tensor, features: Extractor, biology: Biology | None = None) -> Side:
    """Scalars need not be as many as images: they may belong to objects."""
    seen = look(((image, {}) for image in images.numpy()), features)
    return replace(seen, biology=biology or {})


def sides(
    real: Tensor,
    fake: Tensor,
    features: Extractor,
    biology_real: Biology | None = None,
    biology_fake: Biology | None = None,
) -> list[Record]:
    seen = side(real, features, biology_real), side(fake, features, biology_fake)
    return evaluate(*seen, features, CONTEXT).records


def test_all_numbers_come_with_their_protocol() -> None:
    draw = np.random.default_rng(0)
    real, fake = noise_images(30, 0, channels=2), noise_images(20, 1, channels=2) // 2
    biology_real = {"area_um2": draw.normal(5, 1, 30)}
    biology_fake = {"area_um2": np.append(draw.normal(6, 1, 25), [np.nan, np.nan])}
    features = extractor("random-conv")
    found = by_name(sides(real, fake, features, biology_real, biology_fake))
    assert list(found) == [
        "kernel_distance",
        "frechet_distance",
        "kernel_distance/0",
        "frechet_distance/0",
        "kernel_distance/1",
        "frechet_distance/1",
        *COVERING,
        "measurable_share",
        "wasserstein/area_um2",
        "kolmogorov_smirnov/area_um2",
    ]
    for record in found.values():
        assert (record.n_real, record.n_fake, record.split) == (30, 20, "test")
        assert (record.data, record.preprocessing) == ("0123abcd", "window 0..4095 to uint8")
        assert (record.seed, record.commit) == (7, "deadbeef")
        assert record.checkpoint_sha256 == "c" * 64
    kernel = found["kernel_distance"]
    value, deviation = fidelity.kernel_distance(features(real), features(fake))
    error = deviation / 100**0.5
    interval = bootstrap.kernel_interval(features(real), features(fake), value, error)
    assert (kernel.value, kernel.low, kernel.high) == (value, *interval)
    assert (kernel.extractor, kernel.extractor_sha256) == ("random-conv", features.sha256)
    assert kernel.rule == "subsets=100 subset_size=20"
    frechet = found["frechet_distance"]
    assert frechet.value == fidelity.frechet_distance(features(real), features(fake))
    assert "rank-deficient: 20 images for 128 features" in frechet.note
    area = found["wasserstein/area_um2"]
    assert area.low < area.value < area.high
    assert area.value == pytest.approx(1, abs=0.5)
    assert (area.unit, area.extractor) == ("µm²", "")
    assert found["measurable_share"].value == pytest.approx(25 / 27)
    assert area.note == "30 real and 25 synthetic values, 0 and 2 more not measurable"
    assert found["kolmogorov_smirnov/area_um2"].unit == ""


def test_an_evaluation_repeats_to_the_last_bit(tmp_path: Path) -> None:
    biology = {"length": np.linspace(0, 1, 20)}
    arguments = (noise_images(20, 0), noise_images(15, 1), extractor("random-conv"))
    for name in ("a", "b"):
        write_records(tmp_path / name, sides(*arguments, biology, biology))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_one_refused_metric_hides_no_other() -> None:
    biology_real = {"count": np.arange(20.0), "length": np.arange(20.0), "only": np.arange(20.0)}
    biology_fake = {"count": np.full(20, np.nan), "length": np.arange(20.0)}
    features = extractor("random-conv")
    images = noise_images(5, 0), noise_images(5, 1)
    found = by_name(sides(*images, features, biology_real, biology_fake))
    assert len(found) == 9 + len(COVERING)
    share = found["measurable_share"]
    # Clopper and Pearson 1934: 0 of 20 reaches up to 1 - 0.025 ** (1 / 20).
    assert (share.value, share.low) == (0, 0)
    assert share.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert share.note == "lowest for count; of the real images 1.000"
    assert found["frechet_distance"].value > 0
    assert found["kernel_distance"].value is None
    assert "At least 10 images" in found["kernel_distance"].note
    assert found["wasserstein/count"].value is None
    assert "20 real and 0 synthetic" in found["wasserstein/count"].note
    length = found["kolmogorov_smirnov/length"]
    assert (length.value, length.low) == (0, 0)
    assert "real images only" in found["wasserstein/only"].note


def test_images_of_unlike_shape_are_refused_and_biology_is_still_measured() -> None:
    biology = {"length": np.arange(20.0)}
    found = by_name(
        sides(
            noise_images(12, 0, size=16),
            noise_images(12, 1, size=24),
            extractor("random-conv"),
            biology,
            biology,
        )
    )
    for name in ("frechet_distance", "kernel_distance", *COVERING):
        assert found[name].value is None
        assert "(1, 16, 16), synthetic ones (1, 24, 24)" in found[name].note
    assert found["wasserstein/length"].value == 0


class Broken(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[:, :2, 0, 0] / torch.zeros(())


def test_an_extractor_that_gives_nan_is_refused_in_words() -> None:
    features = Extractor("broken", 2, "", Broken())
    for record in sides(noise_images(12, 0), noise_images(12, 1), features):
        assert record.value is None
        assert "not finite" in record.note


class Corners(nn.Module):
    """Four numbers of an image."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, :2, :2].flatten(1).float()


@pytest.mark.parametrize(
    ("name", "sha256", "channels", "published"),
    [
        ("inception", fidelity.FID_WEIGHTS_SHA256, 1, True),
        ("inception", fidelity.FID_WEIGHTS_SHA256, 2, False),
        ("inception", "0" * 64, 1, False),
        ("random-conv", fidelity.FID_WEIGHTS_SHA256, 1, False),
        ("inception-published", "0cc3c7bd" + "0" * 56, 1, False),
    ],
)
def test_only_the_published_network_on_one_grey_channel_gives_fid_kid_and_is(
    name: str, sha256: str, channels: int, published: bool
) -> None:
    features = Extractor(name, 2, sha256, Corners(), classes=2)
    real, fake = (noise_images(12, seed, channels) for seed in (0, 1))
    found = {record.metric for record in sides(real, fake, features)}
    assert ({"FID", "KID", "IS"} <= found) == published
    assert published or not {"FID", "KID", "IS"} & found


def test_each_channel_alone_may_bear_the_names_of_the_published_network() -> None:
    features = Extractor("inception", 2, fidelity.FID_WEIGHTS_SHA256, Corners(), classes=2)
    real, fake = (noise_images(30, seed, 2) for seed in (0, 1))
    context = replace(CONTEXT, channels=("BF", "GFP"))
    found = by_name(evaluate(side(real, features), side(fake, features), features, context).records)
    assert list(found)[:8] == [
        *("kernel_distance", "frechet_distance", "KID/BF", "FID/BF", "KID/GFP", "FID/GFP"),
        *("IS/BF", "IS/GFP"),
    ]
    alone = features(real[:, 1:]), features(fake[:, 1:])
    assert found["FID/GFP"].value == fidelity.frechet_distance(*alone)
    assert found["kernel_distance"].value != found["KID/GFP"].value


@pytest.mark.parametrize(
    ("name", "sha256", "names"),
    [
        ("inception-published", "1a9a5a14" + "0" * 56, {"published_kernel_distance"}),
        ("inception-published", "0" * 64, {"kernel_distance"}),
        ("efficientnet-lite0", "0" * 64, {"kernel_distance", "classifier_score"}),
    ],
)
def test_numbers_of_other_networks_bear_other_names(
    name: str, sha256: str, names: set[str]
) -> None:
    features = Extractor(name, 2, sha256, Corners(), classes=2)
    found = sides(noise_images(12, 0), noise_images(12, 1), features)
    assert names <= {record.metric for record in found}


@pytest.mark.parametrize(
    ("name", "sha256", "first", "second"),
    [
        ("i3d", FVD_WEIGHTS_SHA256, "video_kernel_distance", "FVD"),
        ("i3d", "0" * 64, "video_kernel_distance", "video_frechet_distance"),
        ("transnetv2", "0" * 64, "video_kernel_distance", "video_frechet_distance"),
        (
            *("i3d-published", "0" * 64),
            *("published_video_kernel_distance", "published_video_frechet_distance"),
        ),
    ],
)
def test_only_the_network_of_fvd_gives_fvd(name: str, sha256: str, first: str, second: str) -> None:
    features = ClipExtractor(name, 4, sha256, CornersOfClips())
    clips = [noise_images(12 * 3, seed).reshape(12, 3, 1, 16, 16).numpy() for seed in (0, 1)]
    seen = [look_at_clips(each, features) for each in clips]
    found = by_name(evaluate_clips(*seen, features, CONTEXT))
    assert list(found) == [first, second]
    assert found[first].n_fake == 12 and found[first].extractor == name
    assert found[second].value == fidelity.frechet_distance(
        *(features(torch.from_numpy(each)) for each in clips)
    )


def test_clips_that_are_too_short_are_refused_in_one_sentence() -> None:
    features = ClipExtractor("i3d", 4, "", CornersOfClips(), min_frames=10)
    clips = noise_images(12 * 3, 0).reshape(12, 3, 1, 16, 16).numpy()
    seen = look_at_clips(clips, features)
    for record in evaluate_clips(seen, seen, features, CONTEXT):
        assert record.value is None
        assert record.note == "i3d needs at least 10 frames; these have 3."


class CornersOfClips(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        return clips[:, 0, :, 0, :2].flatten(1).float()[:, :4]


def test_the_kernel_distance_comes_first_until_there_are_enough_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fidelity.KERNEL_FIRST_BELOW == 5000
    features = Extractor("corners", 4, "", Corners())
    images = noise_images(20, 0), noise_images(20, 1)
    kernel, frechet = sides(*images, features)[:2]
    assert (kernel.metric, frechet.metric) == ("kernel_distance", "frechet_distance")
    assert kernel.note == "the one to go by below 5,000 images"
    assert frechet.note.endswith("prefer the kernel distance")
    monkeypatch.setattr(fidelity, "KERNEL_FIRST_BELOW", 20)
    frechet, kernel = sides(*images, features)[:2]
    assert (kernel.metric, frechet.metric) == ("kernel_distance", "frechet_distance")
    assert kernel.note == frechet.note == ""


def test_the_classifier_score_stands_beside_that_of_real_images() -> None:
    features = Extractor("corners", 2, "", Corners(), classes=2)
    real, fake = noise_images(240, 0) // 40, noise_images(120, 1) // 80
    score = by_name(sides(real, fake, features))["classifier_score"]
    logits = [features.see(images).logits for images in (real[::2], fake)]
    beside, value = (fidelity.classifier_score(each, 10)[0] for each in logits)
    assert score.value == value and score.low < value < score.high
    told = f"of {len(fake)} images {value:.4g}, of as many real ones {beside:.4g}"
    assert (score.rule, score.note) == ("splits=10", told)


def test_numbers_of_frames_say_of_how_many_sequences_they_are() -> None:
    features = Extractor("corners", 2, "", Corners(), classes=2)
    real, fake = side(noise_images(240, 0), features), side(noise_images(120, 1), features)
    of_sequences = [replace(each, frames=3) for each in (real, fake)]
    train = replace(side(noise_images(150, 2), features), frames=3)
    found = by_name(evaluate(*of_sequences, features, CONTEXT, train).records)
    told = "frames of 80 real and 40 generated sequences"
    for name, record in found.items():
        assert told in record.note and (record.n_real, record.n_fake) == (240, 120), name
        by_sequence = record.low is not None and name != "classifier_score"
        assert record.note.endswith("; interval over sequences") == by_sequence, name
    score = found["classifier_score"]
    assert "no independent draws; interval over frames" in score.note and score.low is not None
    kernel = found["kernel_distance"]
    error = bootstrap.kernel_error(real.features, fake.features, frames=3)
    assert kernel.high - kernel.low >= 2 * stats.t.ppf(0.975, 39) * error
    alone = by_name(evaluate(real, fake, features, CONTEXT, train).records)
    assert not any("sequences" in record.note for record in alone.values())


def test_one_sequence_has_a_distance_without_interval() -> None:
    features = Extractor("corners", 4, "", Corners())
    one = [replace(side(noise_images(12, seed), features), frames=12) for seed in (0, 1)]
    found = by_name(evaluate(*one, features, CONTEXT).records)["kernel_distance"]
    assert found.value is not None and found.low is None and found.high is None
    assert found.note.endswith("frames of 1 real and 1 generated sequences")


def test_labels_are_asked_about_only_where_they_differ() -> None:
    features = Extractor("corners", 4, "", Corners())
    images = [noise_images(24, seed) for seed in (0, 1)]
    labels = ["a"] * 12 + ["b"] * 12

    def metrics(real: list[str], fake: list[str]) -> dict[str, Record]:
        pairs = zip(images, (real, fake), strict=True)
        seen = [look(((i, {}) for i in each.numpy()), features, names) for each, names in pairs]
        return by_name(evaluate(*seen, features, CONTEXT).records)

    record = metrics(labels, labels)["class_kernel_distance"]
    assert record.low < record.value < record.high
    assert record.rule.startswith("classes=2:")
    for unlabelled in ([], [""] * 24, ["a"] * 24):
        assert "class_kernel_distance" not in metrics(unlabelled, unlabelled)
    refused = metrics(labels, ["a"] * 24)["class_kernel_distance"]
    assert refused.value is None and "there are 1" in refused.note
    alone = metrics(labels, labels[:13] + ["b"] * 2 + ["c"] * 9)
    assert [name for name in alone if name.startswith("class_kernel_distance/")] == [
        f"class_kernel_distance/{name}" for name in "abc"
    ]
    of_a, of_c = (alone[f"class_kernel_distance/{name}"] for name in "ac")
    assert (of_a.n_real, of_a.n_fake) == (12, 12) and of_a.low < of_a.value < of_a.high
    assert of_c.value is None and "there are 0" in of_c.note
    with pytest.raises(ValueError, match="23 labels of 24 images"):
        metrics(labels[:-1], labels)
