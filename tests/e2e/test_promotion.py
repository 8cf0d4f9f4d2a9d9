"""Promotion and rollback are one event each, whatever is killed, away or changed by hand; then all projections follow it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .cli import COMMAND, PATIENCE, SMALL_GATE, Evolve, Terminal, digits
from .conftest import GOOD, made_once

TRACKED = ("subject=quadratic", "tracking=mlflow", *SMALL_GATE, "proposer=default", "campaign=c", "budget.trials=60")
FIRST = "approve / reject / later (type the word) > "
SECOND = "type the first 6 digits of its content > "


def make_tracked(evolve: Evolve) -> None:
    evolve("run", *TRACKED)
    evolve("try", *GOOD)
    evolve("resume")
    assert len(evolve.status()["pending"]) == 1


@pytest.fixture(scope="session")
def _tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "tracked", make_tracked)


@pytest.fixture
def tracked(_tracked: Path, tmp_path: Path) -> Evolve:
    """A campaign `c` in MLflow with one candidate that waits. Its store names absolute paths, so that the place is kept."""
    place, put_aside = _tracked / ".evolve", _tracked.with_suffix(".aside")
    if not put_aside.exists():
        shutil.copytree(place, put_aside)
    shutil.rmtree(place)
    shutil.copytree(put_aside, place)
    return Evolve(_tracked)


def approve(evolve: Evolve) -> str:
    person = Terminal(evolve, [*COMMAND, "review"])
    person.answer(FIRST, "approve")
    person.answer(SECOND, digits(person.screen))
    return person.close()


def killed(evolve: Evolve, *words: str) -> list[dict[str, Any]]:
    script = Path(__file__).parent / "killed.py"
    done = subprocess.run(
        [sys.executable, str(script), str(evolve.cwd / ".evolve"), *words], cwd=evolve.cwd,
        env=evolve.env, capture_output=True, text=True, check=False, timeout=40 * PATIENCE,
    )  # fmt: skip
    shutil.rmtree(evolve.cwd / ".backup", ignore_errors=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def check(told: list[dict[str, Any]], least: int) -> None:
    """Wherever it was killed: nothing at all, before the command was given, and else what an undisturbed one leads to."""
    *kills, undisturbed = told
    assert len(kills) >= least
    expected = undisturbed["found"]
    for kill in kills:
        where = f"killed at step {kill['at']}: {kill}"
        assert kill["signal"] == 9, where
        if kill["given"]:
            assert kill["found"] == expected, where
        else:
            assert kill["at"] <= 2, where
            assert kill["found"] != expected, where
        assert kill["again"][0] == 0, where
        assert kill["again"][1].strip() == "all projections are up to date", where


@pytest.mark.parametrize("finish", ["sync", "review"])
def test_an_approval_that_is_killed_at_any_step_is_finished_by_the_next_command(tracked: Evolve, finish: str) -> None:
    told = killed(tracked, "approve", finish, "coarse")
    check(told, least=12)
    found = told[-1]["found"]
    assert found["journal"] == ["Decided", "Promoted"]
    assert [aliases for _, aliases in found["models"]] == [{"champion": "2", "previous": "1"}]
    assert len(found["versions"]) == 2


@pytest.mark.parametrize("finish", ["sync", "review"])
def test_a_rollback_that_is_killed_at_any_step_is_finished_by_the_next_command(tracked: Evolve, finish: str) -> None:
    approve(tracked)
    told = killed(tracked, "rollback", finish, "coarse")
    check(told, least=8)
    found = told[-1]["found"]
    assert found["journal"] == ["Decided", "Promoted", "RolledBack"]
    assert [aliases for _, aliases in found["models"]] == [{"champion": "1"}]
    assert len(found["versions"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", ["approve", "rollback"])
def test_a_kill_at_any_commit_of_the_store_is_finished_too(tracked: Evolve, what: str) -> None:
    if what == "rollback":
        approve(tracked)
    check(killed(tracked, what, "sync", "fine"), least=20)
