"""Finished campaigns that several tests look at, made once a session; a test that changes one works on a copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

from .cli import QUADRATIC, SECRET, Evolve, bench_subject

PAUSE = "+subject.space.pause={type: float, low: 0.0, high: 600.0, default: 0.0}"
GOOD = ("y=0.6", "size=32", "mode=curved")  # far above the default
BETTER = ("x=0.01", "y=0.5", "z=0.25")  # on top of it, the optimum


@pytest.fixture
def evolve(tmp_path: Path) -> Iterator[Evolve]:
    command = Evolve(tmp_path)
    yield command
    command.end()


@pytest.fixture
def secret(tmp_path: Path) -> str:
    """The override that names a known secret."""
    (tmp_path / "secret").write_text(SECRET)
    return f"secret_file={tmp_path / 'secret'}"


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Evolve], None]) -> Path:
    """A folder that the first of pytest-xdist's workers makes for all of them."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / f"made-{name}"
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            try:
                make(Evolve(folder))
            except BaseException:
                shutil.rmtree(folder)
                raise
    return folder


def make_finished(evolve: Evolve) -> None:
    (evolve.cwd / "secret").write_text(SECRET)
    words = ("campaign=first", "proposer=random", "seed=1", "budget.trials=14", "secret_file=secret")
    evolve("run", *QUADRATIC, *words)


def make_waiting(evolve: Evolve) -> None:
    words = (
        *bench_subject(evolve.cwd / "subject"),
        PAUSE,
        "subject.limits.train_seconds=600",
        "campaign=c",
        "proposer=default",
        "budget.trials=40",
    )
    evolve("run", *words)
    for changes in (GOOD, BETTER):
        evolve("try", *changes, "--why", "a word from a person")
        evolve("resume")
    assert len(evolve.status()["pending"]) == 2


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "finished", make_finished)


@pytest.fixture(scope="session")
def _waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "waiting", make_waiting)


@pytest.fixture
def finished(_finished: Path, evolve: Evolve) -> Evolve:
    """A finished campaign `first` of 14 random trials, some of them failed."""
    shutil.copytree(_finished, evolve.cwd, dirs_exist_ok=True)
    return evolve


@pytest.fixture
def waiting(_waiting: Path, evolve: Evolve) -> Evolve:
    """A campaign `c` with two candidates that wait: GOOD, then BETTER. Its trainings can be told to pause."""
    shutil.copytree(_waiting, evolve.cwd, dirs_exist_ok=True)
    return evolve
