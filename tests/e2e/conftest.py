"""Finished campaigns that several tests look at, made once a session; a test that changes one works on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cli import QUADRATIC, SECRET, Evolve, bench_subject

PAUSE = "+subject.space.pause={type: float, low: 0.0, high: 60.0, default: 0.0}"
FAULT = "+subject.space.fault={type: categorical, choices: [none, leaves_child], default: none}"
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


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "secret").write_text(SECRET)
    Evolve(folder)(
        "run", *QUADRATIC, "campaign=first", "proposer=random", "seed=1", "budget.trials=20", "secret_file=secret"
    )
    return folder


@pytest.fixture
def finished(_finished: Path, evolve: Evolve) -> Evolve:
    """A finished campaign `first` of 20 random trials, some of them failed."""
    shutil.copytree(_finished, evolve.cwd, dirs_exist_ok=True)
    return evolve


@pytest.fixture(scope="session")
def _waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waiting")
    evolve = Evolve(folder)
    evolve("run", *bench_subject(folder / "subject"), PAUSE, FAULT, "campaign=c", "proposer=default", "budget.trials=40")
    for changes in (GOOD, BETTER):
        evolve("try", *changes)
        evolve("resume")
    assert len(evolve.status()["pending"]) == 2
    return folder


@pytest.fixture
def waiting(_waiting: Path, evolve: Evolve) -> Evolve:
    """A campaign `c` with two candidates that wait: GOOD, then BETTER. Its trainings can be told to pause."""
    shutil.copytree(_waiting, evolve.cwd, dirs_exist_ok=True)
    return evolve
