"""Copies of sources, edited files, and the interpreter: what runs is what was taken, and what changed is seen."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from evolve import patches
from evolve.errors import EvolveError, InvalidCandidate
from evolve.types import Block
from evolve.workspace import Edits, Interpreter, Snapshot


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    root = tmp_path / "user"
    (root / "train").mkdir(parents=True)
    (root / "train" / "recipe.py").write_text("A = 1\n")
    (root / "train" / "run.py").write_text("import recipe\n")
    (tmp_path / "code").mkdir()
    return Snapshot.take(root, ["train"], tmp_path / "code")


@pytest.fixture
def patch(snapshot: Snapshot) -> str:
    files = snapshot.texts(["train/recipe.py"])
    return patches.make(files, patches.from_blocks(files, [Block("train/recipe.py", "A = 1", "A = 2")]))


def test_an_edited_file_is_a_copy_by_its_content_and_nothing_else_is_touched(
    snapshot: Snapshot, patch: str, tmp_path: Path
) -> None:
    edits = Edits(snapshot, ["train/recipe.py"], tmp_path / "edits")
    files = edits.files(patch)
    assert {name: path.read_text() for name, path in files.items()} == {"train/recipe.py": "A = 2\n"}
    assert edits.files(patch) == files
    snapshot.verify()
    assert (tmp_path / "user" / "train" / "recipe.py").read_text() == "A = 1\n"


def test_a_copy_that_somebody_changed_is_made_again(snapshot: Snapshot, patch: str, tmp_path: Path) -> None:
    edits = Edits(snapshot, ["train/recipe.py"], tmp_path / "edits")
    path = edits.files(patch)["train/recipe.py"]
    path.chmod(0o644)
    path.write_text("A = 'stolen'\n")
    assert edits.files(patch)["train/recipe.py"].read_text() == "A = 2\n"
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert not edits.files(patch)["train/recipe.py"].is_symlink()


def test_a_whole_copy_shares_no_file_with_the_snapshot(snapshot: Snapshot, patch: str, tmp_path: Path) -> None:
    tree = Edits(snapshot, ["train/recipe.py"], tmp_path / "edits").tree(patch, tmp_path / "tree")
    assert (tree / "train" / "recipe.py").read_text() == "A = 2\n"
    assert (tree / "train" / "run.py").stat().st_ino != (snapshot.folder / "train" / "run.py").stat().st_ino


def test_a_patch_of_other_sources_does_not_become_a_file(snapshot: Snapshot, tmp_path: Path) -> None:
    foreign = patches.make({"train/recipe.py": "B = 1\n"}, {"train/recipe.py": "B = 2\n"})
    with pytest.raises(InvalidCandidate, match="must fit"):
        Edits(snapshot, ["train/recipe.py"], tmp_path / "edits").files(foreign)
    protected = patches.make({"train/run.py": "import recipe\n"}, {"train/run.py": "import os\n"})
    with pytest.raises(InvalidCandidate, match="alone"):
        Edits(snapshot, ["train/recipe.py"], tmp_path / "edits").files(protected)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "site").mkdir()
    (tmp_path / "venv" / "bin" / "python").write_bytes(b"an interpreter")
    (tmp_path / "site" / "a.pth").write_text("import a\n")
    return tmp_path / "venv" / "bin" / "python"


def test_an_interpreter_that_is_left_alone_stays_good(python: Path, tmp_path: Path) -> None:
    interpreter = Interpreter(python, [tmp_path / "site"])
    interpreter.verify()
    os.utime(python)
    interpreter.verify()


def _set_back(path: Path, content: bytes) -> None:
    """Other content of the same length, with the old times."""
    before = path.stat()
    time.sleep(0.02)  # the kernel's clock of files is coarse
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "the executable, its times set back": lambda root: _set_back(root / "venv/bin/python", b"an impostor..."),
    "a file that Python obeys at its start": lambda root: (root / "site/a.pth").write_text("import evil\n"),
    "a new one": lambda root: (root / "site/sitecustomize.py").write_text("evil = 1\n"),
    "a new path file": lambda root: (root / "site/b.pth").write_text("import evil\n"),
    "one less": lambda root: (root / "site/a.pth").unlink(),
    "the settings of the environment": lambda root: (root / "venv/pyvenv.cfg").write_text("home = /evil\n"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_interpreter_scores_nothing(name: str, python: Path, tmp_path: Path) -> None:
    interpreter = Interpreter(python, [tmp_path / "site"])
    CHANGES[name](tmp_path)
    with pytest.raises(EvolveError, match="must stay as it was"):
        interpreter.verify()
