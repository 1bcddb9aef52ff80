"""``python -m kernels.bench``: every operator timed beside its reference and the best of torch.

All arms run in this process on the same tensors, in turn. It exits with 1 if one of them fails or
gives other values than the reference, and with 2 if it cannot start.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from kernels import bench_report, registry
from kernels.bench_cases import Case, Place, cases
from kernels.bench_report import Result
from kernels.bench_timing import measure


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    given = _parser().parse_args(arguments)
    place = Place(given.device, given.quick)
    if given.device == "cuda" and not torch.cuda.is_available():
        return _refuse("--device cuda: torch finds no GPU; run it where there is one", 1)
    if given.device not in registry.status()["loaded"]:
        missing = registry.status()["missing"].get(given.device)
        why = f"{missing}; run `make kernels`" if missing else "KERNELS=ref is set; unset it"
        return _refuse(f"--device {given.device}: {why}")
    try:
        chosen = [case for case in cases(place) if re.match(given.only, case.name)]
    except re.error as error:
        return _refuse(f"--only {given.only}: is no regular expression ({error}); mend it")
    if not chosen:
        names = ", ".join(dict.fromkeys(case.operator for case in cases(place)))
        return _refuse(f"--only {given.only}: no case begins so; the operators are {names}")
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.device == "cuda":
        _prefer_speed()
    known = bench_report.facts(place, given.rounds, given.only)
    try:
        bench_report.save(given.out, place.device, known, [])
    except OSError as error:
        return _refuse(f"--out {given.out}: cannot be written ({error.strerror}); name another")
    results = _measured(chosen, place, given, known)
    print(f"\n{(given.out / f'kernels-{place.device}.md').read_text(encoding='utf-8')}")
    faults = [fault for result in results for fault in bench_report.faults(result)]
    for fault in faults:
        print(f"error[1]: {fault}; mend it", file=sys.stderr)
    return int(bool(faults))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kernels.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=_positive, help="of torch; its own choice unless told")
    parser.add_argument("--rounds", type=_positive, default=20, help="the most for each case")
    begins = "regular expression for the beginning of a case, such as 'upfirdn2d up2.*float32'"
    parser.add_argument("--only", metavar="PATTERN", default="", help=begins)
    parser.add_argument("--quick", action="store_true", help="tiny tensors, to see that it works")
    where = "folder of kernels-<device>.md and .json"
    parser.add_argument("--out", type=Path, default=Path("reports"), help=where)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def _measured(
    chosen: Sequence[Case], place: Place, given: argparse.Namespace, known: dict[str, str]
) -> list[Result]:
    """Saved after each pass: it may be cut short."""
    results = []
    for case in chosen:
        for result in measure(case, place, given.rounds):
            results.append(result)
            print(bench_report.line(result), flush=True)
            bench_report.save(given.out, place.device, known, results)
    return results


def _prefer_speed() -> None:
    """For all arms alike, as training does."""
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True


def _refuse(problem: str, code: int = 2) -> int:
    print(f"error[{code}]: {problem}", file=sys.stderr)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
