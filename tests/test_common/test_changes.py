from typing import Any

import pytest

from common.errors import Exit, UserError
from common.runs.changes import differences, refuse_changes

BEFORE: dict[str, Any] = {
    "seed_everything": 0,
    "model": {"class_path": "a.B", "init_args": {"lr": 1e-3, "widths": [8, 16]}},
    "data": {"root": None, "batch_size": 8, "num_workers": 0, "split_seed": 0},
    "trainer": {"max_epochs": 3, "devices": 1},
    "budget": {"images_seen": 96},
    "tracking": {"wandb": "offline", "wandb_key": "***"},
    "last": {"every_n_batches": 0},
}


def changed(**keys: Any) -> dict[str, Any]:
    """`BEFORE` with other values; ``__`` stands for the dots of a key."""

    def put(settings: dict[str, Any], names: list[str], value: Any) -> dict[str, Any]:
        name, *rest = names
        inner = settings.get(name)
        return settings | {name: put(inner or {}, rest, value) if rest else value}

    settings = BEFORE
    for key, value in keys.items():
        settings = put(settings, key.split("__"), value)
    return settings


def refuse(now: dict[str, Any], *allowed: str) -> None:
    refuse_changes(BEFORE, now, allowed, "runs/exp/first/config.yaml")


def test_differences_are_named_by_their_dotted_key() -> None:
    now = changed(model__init_args__lr=2e-3, seed_everything=1, ema__ramp=0.1)
    assert list(differences(BEFORE, now)) == [
        ("ema", None, {"ramp": 0.1}),
        ("model.init_args.lr", 1e-3, 2e-3),
        ("seed_everything", 0, 1),
    ]
    assert list(differences(now, now)) == list(differences({}, {})) == []
    assert list(differences({"a": {"b": 1}}, {"a": 1})) == [("a", {"b": 1}, 1)]
    assert list(differences({"a": None}, {})) == []


def test_the_same_configuration_goes_on() -> None:
    refuse(changed())


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ({"model__init_args__lr": 0.1}, "model.init_args.lr (0.001 → 0.1)"),
        ({"model__init_args__widths": [8, 8]}, "model.init_args.widths ([8, 16] → [8, 8])"),
        ({"model__class_path": "a.C"}, "model.class_path (a.B → a.C)"),
        ({"data__batch_size": 16}, "data.batch_size (8 → 16)"),
        ({"data__split_seed": 1}, "data.split_seed (0 → 1)"),
        ({"seed_everything": 1}, "seed_everything (0 → 1)"),
        ({"trainer__devices": 2}, "trainer.devices (1 → 2)"),
        ({"trainer__precision": "16-mixed"}, "trainer.precision (None → 16-mixed)"),
    ],
)
def test_what_decides_the_result_may_not_change(keys: dict[str, Any], shown: str) -> None:
    key = shown.split(" ")[0]
    with pytest.raises(UserError) as caught:
        refuse(changed(**keys))
    assert caught.value.code == Exit.USAGE
    assert caught.value.subject == "runs/exp/first/config.yaml"
    assert shown in str(caught.value) and f"--allow-change {key}" in str(caught.value)
    assert "nothing was changed" in str(caught.value)
    refuse(changed(**keys), key)
    refuse(changed(**keys), "nothing.else", key.split(".")[0])
    with pytest.raises(UserError):
        refuse(changed(**keys), f"{key}.more", key[:-1])


@pytest.mark.parametrize(
    "keys",
    [
        {"data__num_workers": 4},
        {"data__root": "/elsewhere/data"},
        {"trainer__max_epochs": 9},
        {"trainer__log_every_n_steps": 1},
        {"budget__images_seen": 200},
        {"tracking__wandb": "disabled"},
        {"last__every_n_batches": 5},
        {"guard": {"finite": False}},
    ],
)
def test_where_how_long_and_how_closely_watched_may_change(keys: dict[str, Any]) -> None:
    refuse(changed(**keys))


def test_all_changes_are_listed_at_once_with_one_remedy() -> None:
    now = changed(seed_everything=7, model__init_args__lr=0.1, budget__images_seen=1)
    with pytest.raises(UserError) as caught:
        refuse(now)
    text = str(caught.value)
    assert "--allow-change model.init_args.lr,seed_everything" in text
    assert "budget" not in text
    refuse(now, "model.init_args.lr", "seed_everything")
    with pytest.raises(UserError) as caught:
        refuse(now, "model")
    assert "model" not in str(caught.value) and "seed_everything" in str(caught.value)


def test_a_masked_secret_is_no_change() -> None:
    before = BEFORE | {"extractor": {"token": "***"}}
    now = BEFORE | {"extractor": {"token": "typed again"}}
    refuse_changes(before, now, (), "config.yaml")
    with pytest.raises(UserError, match=r"extractor\.name"):
        refuse_changes(before, now | {"extractor": {"token": "typed", "name": 1}}, (), "config")
