"""Clocks that jump: trials are ended by time, not by what a clock says, and budgets count time."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from inline import HERE, Inline, apply_first

from evolve import journal as journals
from evolve import processes
from evolve.ports import Cancel
from evolve.state import State, apply
from evolve.types import Budget, ClockJumped, SessionStarted, StopRequested


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State()
    apply_first(made, Inline(tmp_path / "c"))
    return made


def session(state: State, at: float) -> None:
    apply(state, SessionStarted(HERE, 1, "none", Budget(), 1), at)


def test_the_hours_of_a_sleep_are_not_taken_from_the_budget(state: State) -> None:
    session(state, 100.0)
    apply(state, StopRequested("a", "ada"), 110.0)
    apply(state, ClockJumped(8 * 3600.0), 8 * 3600.0 + 120.0)
    assert state.wall_seconds == pytest.approx(20.0)


def test_a_clock_that_is_set_back_breaks_nothing_and_gives_nothing_back(state: State) -> None:
    session(state, 1000.0)
    apply(state, StopRequested("a", "ada"), 1010.0)
    apply(state, ClockJumped(-900.0), 110.0)
    apply(state, StopRequested("b", "ada"), 115.0)
    assert state.wall_seconds == pytest.approx(15.0)


def test_a_jump_of_the_wall_clock_is_seen_and_recorded_once(tmp_path: Path) -> None:
    looks = itertools.count()
    steady = lambda: 0.0 if next(looks) < 5 else -3600.0  # noqa: E731 - the wall clock is the one that goes on
    campaign = Inline(tmp_path / "c", budget=Budget(trials=6), steady=steady)
    campaign.run()
    found = [r.event for r, _ in journals.read(campaign.folder / "journal.jsonl") if isinstance(r.event, ClockJumped)]
    assert [event.seconds for event in found if event.seconds > 1000] == [pytest.approx(3600, abs=60)]
    assert campaign.state.wall_seconds < 1000


def test_the_time_after_a_kill_is_not_the_sessions(state: State) -> None:
    session(state, 0.0)
    apply(state, StopRequested("a", "ada"), 10.0)
    session(state, 50_000.0)  # nothing said that the one before had ended
    apply(state, StopRequested("b", "ada"), 50_010.0)
    assert state.wall_seconds == pytest.approx(20.0)


RUN = """
import sys
from pathlib import Path
from evolve import journal as journals
from evolve import processes
from evolve.ports import Cancel
folder = Path(sys.argv[1])
result = processes.run([sys.executable, "-S", "-c", sys.argv[2]], cwd=folder, log=folder / "log",
                       timeout_seconds=float(sys.argv[3]), memory_mb=None, log_bytes=1000, on_progress=None, cancel=Cancel())
print(result.exit_code, result.timed_out)
"""


def stopped_for(folder: Path, code: str, limit: float, seconds: float) -> str:
    """What becomes of a training whose controller is stopped for so long while it runs; all of it in real time."""
    controller = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), code, str(limit)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    controller.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    controller.send_signal(signal.SIGCONT)
    output, _ = controller.communicate(timeout=60)
    return output.strip()


BEGIN = "open('begun', 'w').close(); import time; "


def test_a_training_that_ended_while_its_controller_was_stopped_past_the_deadline_has_ended_well(
    tmp_path: Path,
) -> None:
    assert stopped_for(tmp_path, BEGIN + "time.sleep(0.5)", 2.0, 4.0) == "0 False"


def test_the_time_that_its_controller_was_stopped_is_not_all_held_against_a_training(tmp_path: Path) -> None:
    assert stopped_for(tmp_path, BEGIN + "time.sleep(6)", 6.0, 5.0) == "0 False"


def test_a_training_that_hangs_is_ended_all_the_same_when_its_controller_is_back(tmp_path: Path) -> None:
    assert stopped_for(tmp_path, BEGIN + "time.sleep(600)", 2.0, 4.0) == "-9 True"


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_wall_clock_that_jumps_ends_no_training(tmp_path: Path, jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    threading.Timer(0.2, lambda: monkeypatch.setattr(time, "time", lambda: real() + jump)).start()
    result = processes.run(
        [sys.executable, "-S", "-c", "import time; time.sleep(1)"], cwd=tmp_path, log=tmp_path / "log",
        timeout_seconds=30, memory_mb=None, log_bytes=1000, on_progress=None, cancel=Cancel(),
    )  # fmt: skip
    assert (result.exit_code, result.timed_out) == (0, False)
    assert 0.5 < result.usage.wall_seconds < 30
