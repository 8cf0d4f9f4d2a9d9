"""What a training has used is known also where it dies with its controller, and nothing of it goes on running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evolve import accounts, config, processes
from evolve.executors import LocalProcesses
from evolve.ports import Cancel
from evolve.sandbox import PROGRESS_FD
from evolve.state import State
from evolve.types import EditChecked, TrialFinished, Usage
from evolve.weights import WeightStore
from evolve.workspace import Snapshot

CORES = os.cpu_count() or 1
BURN = "import time\nwhile time.process_time() < {}: pass\n"


@pytest.fixture
def local(tmp_path: Path) -> LocalProcesses:
    subject = config.load(["subject=quadratic"]).subject
    snapshot = Snapshot.take(config.data_root(), subject.sources, tmp_path / "code")
    (tmp_path / "trials").mkdir()
    return LocalProcesses(subject, snapshot, tmp_path / "trials", WeightStore(tmp_path / "weights"))


def run(folder: Path, code: str, seconds: float = 60.0) -> Usage:
    return processes.run(
        [sys.executable, "-S", "-c", code], cwd=folder, log=folder / "log", timeout_seconds=seconds, memory_mb=None,
        log_bytes=1000, on_progress=None, cancel=Cancel(), account=folder / "account",
    ).usage  # fmt: skip


def test_an_ended_training_is_counted_exactly(tmp_path: Path) -> None:
    usage = run(tmp_path, BURN.format(0.2))
    left = accounts.left(tmp_path / "account", {})
    assert left == Usage(usage.cpu_seconds, usage.wall_seconds, 0.0)


def test_one_that_never_began_is_not_counted(tmp_path: Path) -> None:
    assert accounts.left(tmp_path / "account", {}) is None
    (tmp_path / "account").touch()
    assert accounts.left(tmp_path / "account", {}) is None


@pytest.mark.parametrize("code", [BURN.format(600), "import os\nos.fork()\n" + BURN.format(600)])
def test_a_look_at_a_running_one_is_at_most_a_second_on_all_processors_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(accounts.Account, "over", lambda account, usage: None)  # killed before that
    usage = run(tmp_path, code, seconds=1.6)
    left = accounts.left(tmp_path / "account", {})
    assert left is not None
    assert usage.cpu_seconds <= left.cpu_seconds <= usage.cpu_seconds * (2 if "fork" in code else 1) + CORES
    assert left.cpu_seconds > CORES + 0.3, "something was seen"
    assert left.wall_seconds <= 1.6 + 1.0 + 0.5


def test_what_children_used_since_the_last_look_is_counted_too(tmp_path: Path) -> None:
    (tmp_path / "account").write_text('{"cpu": 3.0, "wall": 4.0, "over": false, "seen": {"7": 1.0, "8": 2.0}}')
    assert accounts.left(tmp_path / "account", {8: 5.0, 9: 0.5}) == Usage(3.0 + 3.0 + 0.5 + CORES, 5.0, 0.0)


def orphan(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", BURN.format(600)], start_new_session=True, env={PROGRESS_FD: "-1"}
    )
    (folder / "pid").write_text(f"{process.pid} {processes.start_time(process.pid)}")
    return process


def test_whatever_a_killed_session_left_running_is_ended_by_the_next(local: LocalProcesses) -> None:
    trials = local.trials
    left = [
        orphan(p) for p in (trials / "00003", trials / "gate-2-00001", local.checks / "abc", trials.parent / "canary")
    ]
    for name in ("00003", "gate-2-00001"):
        (trials / name / "out").mkdir()
        (trials / name / "score.json").write_text("a key")
    (trials / "00003" / "train.json").touch()
    (trials / "00004").mkdir()
    (trials / "00004" / "score.json").write_text("a key, and its process had not begun")
    assert local.left_behind(State()) == ()
    assert [process.wait(10) for process in left] == [-9] * 4
    assert sorted(str(p.relative_to(trials)) for p in trials.rglob("*")) == ["00003", "00003/train.json", "00004"]
    assert not list(local.checks.iterdir())


def test_the_trainings_and_checks_without_an_end_are_counted_with_what_still_runs(local: LocalProcesses) -> None:
    process = orphan(local.trials / "00003")
    books = local.trials.parent / "used"
    accounts.Account(books / "00003").close()
    accounts.Account(books / ("c" * 16)).close()
    accounts.Account(books / "00001").close()  # its end is in the journal
    time.sleep(0.3)
    state = State(running={3: None}, checking={"c" * 64: None})
    training, check = local.left_behind(state)
    process.wait(10)
    assert CORES < training.cpu_seconds < CORES + 5
    assert check.cpu_seconds == CORES
    local.journalled(TrialFinished(3, "FAIL"))
    local.journalled(EditChecked("c" * 64))
    assert [p.name for p in books.iterdir()] == ["00001"]
