"""How fast an experiment trains here, and what each speed setting brings.

Every figure is the training rate that a real `fit` logged, validation left out. Rounds are
interleaved: a machine that gets slower in between does so for all settings alike.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from lightning_fabric.plugins import TorchCheckpointIO

from common import PROJECT
from common.data.prepared import Prepared
from common.data.sampler import EpochSampler
from common.errors import Exit, UserError, exit_on_user_error, quoted_error
from common.runs.checkpoints import DurableCheckpointIO
from common.runs.hardware import has_native_bf16

_ALL_OFF = {
    "hardware.allocator": "false",
    "hardware.fused_optimizer": "false",
    "hardware.channels_last": "false",
    "hardware.precision": "32-true",
}
_GUARDS = "guard.finite"


def arms(native_bf16: bool) -> dict[str, dict[str, str]]:
    """Settings to compare: everything on, each one off, all speed settings off."""
    full = {name: "true" for name in _ALL_OFF} | {_GUARDS: "true"}
    full["hardware.precision"] = "bf16-mixed" if native_bf16 else "32-true"
    found = {"all": full}
    for name, off in {_GUARDS: "false", **_ALL_OFF}.items():
        if full[name] != off:
            found[f"without {name}"] = full | {name: off}
    return found | {"all off": _ALL_OFF}


def training_rate(
    experiment: str, config: str, workspace: Path, settings: dict[str, str], images: int
) -> float:
    """Images/s of the fastest epoch of a real run: the others hold warm-up and disturbances.

    Raises:
        UserError: the run failed.
    """
    run = f"bench-{time.monotonic_ns()}"
    script = PROJECT / "experiments" / experiment / "cli.py"
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    command = [
        *(sys.executable, str(script), "fit", "--config", config, "--run", run),
        *("--workspace", str(workspace), "--tracking.wandb", "disabled", "--preview.count", "0"),
        *("--budget.images_seen", str(images), *options),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:]
        raise quoted_error(done.stderr) or UserError(
            Exit.BUG, f"bench {experiment}", f"its training ended with {why}", "train it first"
        )
    with (workspace / "runs" / experiment / run / "metrics.csv").open(newline="") as stream:
        rates = [
            float(r["value"]) for r in csv.DictReader(stream) if r["name"].endswith("images_per_s")
        ]
    return max(rates)


def loader_rate(prepared: Path, batch_size: int, policy: str, seconds: float = 5.0) -> float:
    """Images/s that the dataset alone delivers, augmented, in one process."""
    dataset = Prepared.open(prepared).dataset("train", policy)
    keys = list(EpochSampler(len(dataset), shuffle=True, multiple_of=batch_size))
    batches = [keys[k : k + batch_size] for k in range(0, len(keys), batch_size)]
    dataset.__getitems__(batches[0])
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        dataset.__getitems__(batches[done % len(batches)])
        done += 1
    return done * batch_size / (time.perf_counter() - start)


def save_seconds(checkpoint: Path, rounds: int = 5) -> dict[str, float]:
    """Median seconds that our checkpoint IO and Lightning's take for the same checkpoint."""
    content = torch.load(checkpoint, weights_only=True)
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, io in {"ours": DurableCheckpointIO(), "Lightning's": TorchCheckpointIO()}.items():
            start = time.perf_counter()
            io.save_checkpoint(content, str(checkpoint.with_name("bench.ckpt")))
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def start_seconds(experiment: str) -> float:
    """Seconds that the command line takes to say its help."""
    script = PROJECT / "experiments" / experiment / "cli.py"
    start = time.perf_counter()
    subprocess.run([sys.executable, str(script), "fit", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment")
    parser.add_argument("--config", default="cpu", help="size to train")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2200, help="of one training run")
    options = parser.parse_args(arguments)
    config = str(PROJECT / f"experiments/{options.experiment}/configs/{options.config}.yaml")
    with exit_on_user_error(), tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        rates: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for name, settings in arms(has_native_bf16(_kind())).items():
                rate = training_rate(
                    options.experiment, config, workspace, settings, options.images
                )
                rates.setdefault(name, []).append(rate)
                print(f"{name:24} {rate:8.1f} images/s", flush=True)
        (prepared,) = workspace.glob("data/processed/*/")
        result = {
            "hardware": f"{os.cpu_count()} CPU cores, {_kind()}, torch {torch.__version__}",
            "config": options.config,
            "training_images_per_s": {n: statistics.median(v) for n, v in rates.items()},
            "save_s": save_seconds(next(workspace.glob("runs/*/*/checkpoints/last.ckpt"))),
            "epoch_images": len(Prepared.open(prepared).samples("train")),
            "loader_images_per_s": loader_rate(prepared, *_loading(workspace)),
            "bf16": "native" if has_native_bf16(_kind()) else "not native here: no such arm",
            "start_s": statistics.median(start_seconds(options.experiment) for _ in range(3)),
        }
    _print(result)


def _loading(workspace: Path) -> tuple[int, str]:
    config = yaml.safe_load(next(workspace.glob("runs/*/*/config.yaml")).read_text())
    return config["data"]["batch_size"], config["data"]["augment"]


def _kind() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _print(result: dict) -> None:
    rates = result["training_images_per_s"]
    where = f"{result['hardware']}; bf16 {result['bf16']}; CONFIG={result['config']}"
    print(f"\n{where}; median of rounds")
    for name, rate in rates.items():
        print(f"{name:24} {rate:8.1f} images/s   all/this {rates['all'] / rate:5.2f}")
    _print_guards(result)
    loader = result["loader_images_per_s"]
    print(f"{'loader alone':24} {loader:8.1f} images/s   {loader / rates['all']:.1f} x training")
    print(f"{'command line start':24} {result['start_s']:8.1f} s")
    print(json.dumps(result))


def _print_guards(result: dict) -> None:
    """Epochs with both checkpoints saved, all guards on, against none and Lightning's saving."""
    rates, saving = result["training_images_per_s"], result["save_s"]
    print(", ".join(f"saving, {name}: {1000 * s:.0f} ms" for name, s in saving.items()))
    on = result["epoch_images"] / rates["all"] + 2 * saving["ours"]
    off = result["epoch_images"] / rates[f"without {_GUARDS}"] + 2 * saving["Lightning's"]
    print(f"throughput with all guards on: {100 * off / on:.1f} % of that with them off")


if __name__ == "__main__":
    main()
