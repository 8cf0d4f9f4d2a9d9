"""A disk that is full at any write of the controller: one line, nothing lost, nobody blamed, and the campaign goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .cli import QUADRATIC, ROOT, Evolve

WORDS = ("run", *QUADRATIC, "campaign=first", "proposer=random", "seed=1", "budget.trials=14", "secret_file=secret")
NEVER = 10**9


def run_on_a_disk_full_at(evolve: Evolve, write: int) -> tuple[int, list[str]]:
    """(exit code, lines on standard error) of the campaign of the fixture `finished`, made anew."""
    place = evolve.cwd / ".evolve"
    shim = Path(__file__).parent / "full_disk"
    env = {"FULL_AT": str(write), "FULL_PLACE": str(place), "FULL_COUNT": str(evolve.cwd / "count")}
    done = evolve.raw(*WORDS, env=evolve.env | env | {"PYTHONPATH": f"{shim}{os.pathsep}{ROOT}"})
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.splitlines()


def check_a_disk_full_at(evolve: Evolve, write: int, expected: str) -> None:
    shutil.rmtree(evolve.cwd / ".evolve", ignore_errors=True)
    code, errors = run_on_a_disk_full_at(evolve, write)
    assert code == 1, f"write {write}: {errors}"
    assert len(errors) == 1, f"write {write}: {errors}"
    assert "No space left" in errors[0]
    begun = (evolve.folder("first") / "journal.jsonl").exists()
    if not begun or not (evolve.folder("first") / "journal.jsonl").stat().st_size:
        shutil.rmtree(evolve.cwd / ".evolve", ignore_errors=True)
        evolve(*WORDS)
    else:
        evolve("resume")
    assert evolve.stable() == expected, f"write {write}"


@pytest.fixture
def writes(finished: Evolve) -> int:
    """How many there are in the whole campaign."""
    shutil.rmtree(finished.cwd / ".evolve")
    assert run_on_a_disk_full_at(finished, NEVER)[0] == 0
    return int((finished.cwd / "count").read_text())


def test_a_disk_that_is_full_at_some_write_loses_nothing(finished: Evolve, writes: int) -> None:
    expected = finished.stable()
    for write in (1, 8, writes // 2, writes - 1):
        check_a_disk_full_at(finished, write, expected)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_disk_that_is_full_at_any_write_loses_nothing(finished: Evolve, writes: int) -> None:
    expected = finished.stable()
    for write in range(1, writes + 1):
        check_a_disk_full_at(finished, write, expected)
