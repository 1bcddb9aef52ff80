"""The table of `kernels.bench`: where it was measured, every time, and every bar."""

import json
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch

from kernels import doctor, registry
from kernels.bench_bars import FLOOR, Bar
from kernels.bench_cases import Place

# Why an arm may have no time without a fault of ours.
NO_COMPILER, REFUSED = "none", "refused"

_ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "LD_PRELOAD")


class Result(NamedTuple):
    """One pass of one case."""

    operator: str
    case: str
    step: str
    rounds: int
    ms: dict[str, float | str]  # of each arm, or why it was not timed
    floor: str = ""  # its name
    floor_ms: float | None = None
    floor_rate: float = 0.0  # bytes/s or FLOP/s, measured between the rounds
    bars: tuple[Bar, ...] = ()

    def known(self, names: Sequence[str]) -> list[float]:
        """Milliseconds of those among ``names`` that were timed."""
        found = [self.floor_ms if name in FLOOR else self.ms.get(name) for name in names]
        return [ms for ms in found if isinstance(ms, float)]

    def ratio(self, bar: Bar) -> float | None:
        """How many times as fast as the fastest of the others; None where one was not timed."""
        own, against = self.known([bar.arm]), self.known(bar.against)
        return min(against) / own[0] if own and against else None

    def share(self) -> float | None:
        """Of the floor's rate."""
        return self.ratio(Bar("compiled", FLOOR, 0.0))


def facts(place: Place, rounds: int, only: str = "") -> dict[str, str]:
    """What the times depend on."""
    library = registry.status()["loaded"].get(place.device)
    known = {
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "load": f"{os.getloadavg()[0]:.1f} before it began",
        "torch": torch.__version__,
        "library": library.name if library else "none",
        "rounds": f"{rounds} at most, medians",
        "cases": f"those that begin with `{only}`" if only else "all",
    }
    if place.device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        size = f"{gpu.total_memory / 2**30:.0f} GiB, {gpu.L2_cache_size / 2**20:.0f} MiB of L2"
        known["gpu"] = f"{gpu.name}, {size}, CUDA {torch.version.cuda}"
        known["allocator"] = "torch's for CUDA"
        known["float32"] = "convolutions and matrix products in TF32"
    else:
        told = (text for name, text in doctor.facts() if name == "cpu level")
        known["level"] = next(told, "none")
        known["allocator"] = _allocator()
    if place.toy:
        known["size"] = "toys: no time here means anything"
    return known


def save(folder: Path, device: str, known: dict[str, str], results: Sequence[Result]) -> None:
    """Writes ``kernels-<device>.json`` and ``.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_as_json(result) for result in results]
    told = json.dumps({"facts": known, "results": rows}, indent=1)
    (folder / f"kernels-{device}.json").write_text(told + "\n", encoding="utf-8")
    text = "\n".join(_page(known, results)) + "\n"
    (folder / f"kernels-{device}.md").write_text(text, encoding="utf-8")


def line(result: Result) -> str:
    """One result in one line, for whoever waits."""
    own = result.ms["compiled"]
    cells = [f"{name} {_beside(ms, own)}" for name, ms in result.ms.items() if name != "compiled"]
    return f"{result.case}, {result.step}: compiled {_ms(own)}; {', '.join(cells)}"


def faults(result: Result) -> list[str]:
    """Arms that could not be timed and should have been; torch.compile is torch's own affair."""
    known = ((name, text) for name, text in result.ms.items() if isinstance(text, str))
    where = f"{result.case}, {result.step}"
    return [f"{where}: {name} {text}" for name, text in known if name != "torch.compile"]


def _as_json(result: Result) -> dict[str, object]:
    own = result.ms["compiled"]
    times = {name: ms for name, ms in result.ms.items() if isinstance(ms, float)}
    return {
        "operator": result.operator,
        "case": result.case,
        "pass": result.step,
        "rounds": result.rounds,
        "ms": result.ms,
        "times_compiled": {k: ms / own for k, ms in times.items()} if "compiled" in times else {},
        "floor": {"of": result.floor, "ms": result.floor_ms, "rate": result.floor_rate},
        "share_of_floor": result.share(),
        "bars": [
            {"text": _text(bar), "found": result.ratio(bar), "verdict": _verdict(result, bar)}
            for bar in result.bars
        ],
    }


def _page(known: dict[str, str], results: Sequence[Result]) -> Iterator[str]:
    yield "# Compiled operators, timed\n"
    yield from (f"- {name}: {text}" for name, text in known.items())
    yield "\nMilliseconds; in brackets how many times as long as `compiled`. The floor is a copy of"
    yield "the bytes, or a matrix product of the FLOP, that a pass cannot do without."
    for operator, group in groupby(sorted(results, key=_operator), _operator):
        yield f"\n## {operator}\n"
        yield from _table(list(group))
    bars = [(result, bar) for result in results for bar in result.bars]
    if bars:
        verdicts = [_verdict(*pair) for pair in bars]
        counts = ", ".join(f"{v} {verdicts.count(v)}" for v in sorted(set(verdicts)))
        yield f"\n## Bars: {counts}\n"
        yield from _rows(["case", "pass", "bar", "found", "verdict"], map(_bar_row, bars))


def _operator(result: Result) -> str:
    return result.operator


def _table(results: Sequence[Result]) -> Iterator[str]:
    names = list(dict.fromkeys(name for result in results for name in result.ms))
    head = ["case", "pass", "rounds", names[0], "of the floor", *names[1:]]
    rows = []
    for result in results:
        own = result.ms["compiled"]
        cells = [_beside(result.ms.get(name, ""), own) for name in names[1:]]
        share = result.share()
        floor = "" if share is None else f"{100 * share:.0f} % {_rate(result)}"
        rows.append([result.case, result.step, str(result.rounds), _ms(own), floor, *cells])
    yield from _rows(head, rows)


def _bar_row(pair: tuple[Result, Bar]) -> list[str]:
    result, bar = pair
    ratio = result.ratio(bar)
    found = "" if ratio is None else f"{ratio:.2f}"
    return [result.case, result.step, _text(bar), found, _verdict(result, bar)]


def _rows(head: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _text(bar: Bar) -> str:
    if bar.against == FLOOR:
        return f"{bar.arm} at {100 * bar.factor:.0f} % of the floor"
    fastest = "the fastest of " if len(bar.against) > 1 else ""
    return f"{bar.arm} {bar.factor:g} times as fast as {fastest}{', '.join(bar.against)}"


def _verdict(result: Result, bar: Bar) -> str:
    ratio = result.ratio(bar)
    if ratio is None:
        return "not timed"
    return "holds" if ratio >= bar.factor else "missed"


def _ms(ms: float | str) -> str:
    return f"{_short(ms)} ms" if isinstance(ms, float) else ms


def _beside(ms: float | str, own: float | str) -> str:
    if isinstance(ms, str) or isinstance(own, str):
        return _ms(ms)
    return f"{_short(ms)} ({ms / own:.2f}x)"


def _short(ms: float) -> str:
    """Three digits that count, and never an exponent."""
    return f"{ms:.{max(0, 2 - math.floor(math.log10(max(ms, 1e-6))))}f}"


def _rate(result: Result) -> str:
    unit = "GB/s" if result.floor == "copy" else "GFLOP/s"
    return f"of {result.floor_rate / 1e9:.0f} {unit}"


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    text = told.read_text(encoding="utf-8", errors="replace") if told.is_file() else ""
    names = (line.split(":")[1].strip() for line in text.splitlines() if "model name" in line)
    return next(names, platform.machine())


def _allocator() -> str:
    known = {name: os.environ[name] for name in _ALLOCATOR if os.environ.get(name)}
    settings = ", ".join(f"{name}={value}" for name, value in known.items())
    return (
        f"{platform.libc_ver()[0] or 'C library'}, {settings or 'default'}; the same for every arm"
    )
