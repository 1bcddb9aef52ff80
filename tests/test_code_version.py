"""What was begun with other code is not gone on with."""

from pathlib import Path

import pytest

from common import code_version, generation
from common.errors import Exit, UserError
from running import Cli, at, run_folder

FILES = ("common/a.py", "experiments/x/b.py", "kernels/csrc/c.cu")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """In a folder that passes for the project, without a checkout."""
    monkeypatch.setattr(code_version, "PROJECT", tmp_path / "project")
    paths = [tmp_path / "project" / name for name in FILES]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("a = 1")
    return paths


def test_code_that_was_changed_and_not_committed_has_another_digest(sources: list[Path]) -> None:
    found = [code_version.source_sha256()]
    sources[0].with_name("README.md").write_text("of no code")
    assert code_version.source_sha256() == found[0]
    for path in sources:
        path.write_text("a = 2")
        found.append(code_version.source_sha256())
    sources[0].rename(sources[0].with_name("other.py"))
    found.append(code_version.source_sha256())
    assert len(set(found)) == 5


@pytest.mark.one_experiment
def test_images_that_other_code_has_drawn_are_drawn_again(
    workspace: Path,
    experiment: str,
    sources: list[Path],
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*args: object) -> None:
        raise UserError(Exit.STORAGE, "a.png", "has no room", "make some")

    generate = [experiment, "generate", *at(workspace, "first"), "--n", "2"]
    samples = run_folder(workspace, experiment, "first") / "samples"
    with monkeypatch.context() as patched:
        patched.setattr(generation, "write_samples_manifest", stop)
        assert cli(*generate).code == Exit.STORAGE
    (drawn,) = samples.glob(".drawing/000000.*")
    drawn.write_bytes(b"by other code")
    sources[0].write_text("a = 2")
    assert cli(*generate).code == 0
    assert (samples / drawn.name).read_bytes() != b"by other code"
