"""The rules of the house, so that they stay rules."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from running import EXPERIMENTS, ROOT

ROOMS = ("experiments", "common", "kernels")
SOURCES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
ENTRIES = {
    "README.md", "__init__.py", "cli.py", "configs", "datamodule.py", "simulator.py",
    "networks.py", "module.py", "biology.py",
}  # fmt: skip
IMAGE_FILES = {f"common/data/image_{part}.py" for part in ("io", "layout", "raster", "tiff")}
WANDB = ("account", "run", "evaluation", "dashboard", "sweep", "agent")
# A third party enters by one door, so replacing it changes one file.
DOORS = {
    "albumentations": {"common/data/augment.py"},
    "torch_fidelity": {"common/metrics/fidelity.py"},
    "jinja2": {"common/web_page.py"},
    "safetensors": {"common/tensors_file.py"},
    "onnx": {"common/onnx_graph.py"},
    "onnxruntime": {"common/onnx_graph.py"},
    "onnx_ir": {"common/onnx_graph.py"},
    "wandb": {f"common/tracking/{part}.py" for part in WANDB},
    "wandb_workspaces": {"common/tracking/dashboard.py"},
    "tifffile": IMAGE_FILES,
    "PIL": IMAGE_FILES,
}
MAX_FILE, MAX_LINE, MAX_BODY, MAX_NESTING, MAX_YAML = 400, 100, 60, 4, 40


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef) -> int:
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def nesting(node: ast.AST) -> int:
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try)
    children = [nesting(child) for child in ast.iter_child_nodes(node)]
    return max(children, default=0) + isinstance(node, blocks)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_run_from_experiments_through_common_to_kernels() -> None:
    for path in SOURCES:
        room, *rest = path.relative_to(ROOT).parts
        allowed = set(ROOMS[ROOMS.index(room) :])
        for module in imports(path):
            first, *more = module.split(".")
            assert first not in ROOMS or first in allowed, f"{name(path)} imports {module}"
            if first == room == "experiments" and more and len(rest) > 1:
                assert more[0] == rest[0], f"{name(path)} imports another experiment"


def test_common_names_no_experiment() -> None:
    for path in sorted((ROOT / "common").rglob("*.*")):
        if path.suffix in (".py", ".yaml", ".j2"):
            text = path.read_text()
            assert not [word for word in EXPERIMENTS if word in text], name(path)


@pytest.mark.parametrize("experiment_name", EXPERIMENTS)
def test_every_experiment_has_the_nine_entries(experiment_name: str) -> None:
    folder = ROOT / "experiments" / experiment_name
    assert {p.name for p in folder.iterdir()} >= ENTRIES
    assert {"smoke.yaml", "cpu.yaml", "default.yaml"} <= {
        p.name for p in (folder / "configs").iterdir()
    }
    assert len((folder / "cli.py").read_text().splitlines()) <= 20


def test_third_parties_enter_by_one_door() -> None:
    for path in SOURCES:
        for module in imports(path):
            doors = DOORS.get(module.split(".")[0])
            assert doors is None or name(path) in doors, f"{name(path)} imports {module}"


def test_files_functions_lines_and_configs_keep_the_budget() -> None:
    lengths = [len(path.read_text().splitlines()) for path in SOURCES]
    assert max(lengths) <= MAX_FILE
    assert statistics.median(lengths) <= 150
    bodies = {f"{name(p)}:{f.name}": body_lines(f) for p in SOURCES for f in functions(p)}
    assert max(bodies.values()) <= MAX_BODY, max(bodies, key=bodies.get)
    assert statistics.median(bodies.values()) <= 10
    assert statistics.quantiles(bodies.values(), n=20)[-1] <= 40
    for path in SOURCES:
        assert max(map(len, path.read_text().splitlines()), default=0) <= MAX_LINE, name(path)
        for function in functions(path):
            assert nesting(function) <= MAX_NESTING, f"{name(path)}:{function.name}"
    for path in [*ROOT.glob("experiments/*/configs/*.yaml"), *ROOT.glob("common/configs/*.yaml")]:
        assert len(path.read_text().splitlines()) <= MAX_YAML, name(path)


def test_every_public_signature_is_typed() -> None:
    for path in SOURCES:
        for function in functions(path):
            if function.name.startswith("_") and function.name != "__init__":
                continue
            arguments = [*function.args.args, *function.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in _IMPLICIT]
            assert not bare, f"{name(path)}:{function.name} {bare}"
            assert function.returns is not None, f"{name(path)}:{function.name}"


def test_no_code_asks_for_the_version_of_a_library() -> None:
    for path in SOURCES:
        compared = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Compare)]
        asked = re.compile(r"__version__|metadata\.version|\bversion\(")
        assert not [c for c in map(ast.unparse, compared) if asked.search(c)], name(path)


def test_no_file_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "misc", "base", "engine", "core"}
    assert not [name(path) for path in SOURCES if path.stem in empty]


_IMPLICIT = {"self", "cls"}
