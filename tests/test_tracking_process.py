"""The tracker as a process of its own: what its death, its controller's, or a second one of it change."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolve import tracking
from evolve.journal import Follower
from evolve.tracking import Carrier, read_position
from evolve.tracking_process import TrackerProcess
from evolve.types import Record
from tests.e2e.cli import QUADRATIC, wait_for
from tests.test_tracking import Desk, resumed_campaign
from tests.tracking_campaign import all_runs, write_journal


class OwnDesk(Desk):
    """A desk whose trackers are processes; the journal's file is complete from the beginning."""

    def __init__(self, root: Path, records: list[Record]) -> None:
        super().__init__(root)
        write_journal(self.folder, records)
        self.trackers: list[TrackerProcess] = []

    def process(self) -> TrackerProcess:
        tracker = TrackerProcess(self.uri, self.folder, warn=self.warnings.append, artifacts=self.artifacts)
        self.trackers.append(tracker)
        return tracker


@pytest.fixture(scope="session")
def journal() -> list[Record]:
    return resumed_campaign()


@pytest.fixture(scope="session")
def expected(journal: list[Record], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the store shows where nothing was interrupted, by the tracker that is a thread."""
    desk = Desk(tmp_path_factory.mktemp("expected"))
    assert desk.carry(journal) == 0
    return all_runs(desk.uri)


@pytest.fixture
def desk(tmp_path: Path, journal: list[Record]) -> Iterator[OwnDesk]:
    desk = OwnDesk(tmp_path, journal)
    yield desk
    for tracker in desk.trackers:
        tracker.close()


def record(tracker: TrackerProcess, records: list[Record]) -> None:
    for each in records:
        tracker.record(each)


def kill(tracker: TrackerProcess) -> None:
    assert tracker.pid is not None
    os.kill(tracker.pid, signal.SIGKILL)


def test_a_killed_process_is_started_again_and_nothing_is_doubled(
    desk: OwnDesk, journal: list[Record], expected: dict[str, Any]
) -> None:
    tracker = desk.process()
    record(tracker, journal[:20])
    assert tracker.flush(60) == 0
    record(tracker, journal[20:])
    wait_for(lambda: (p := read_position(desk.folder)) and p.seq > 21, "the backlog is being carried over")
    kill(tracker)
    assert tracker.flush(60) == 0
    assert all_runs(desk.uri) == expected
    assert desk.warnings == []


def test_a_process_that_dies_again_and_again_costs_one_warning_and_sync_carries_the_rest_over(
    desk: OwnDesk, journal: list[Record], expected: dict[str, Any]
) -> None:
    tracker = desk.process()
    for each in journal:
        tracker.record(each)
        if (pid := tracker.pid) is not None:
            kill(tracker)
            wait_for(lambda pid=pid: not alive(pid), "it is dead")
    assert tracker.flush(60) == len(journal)
    tracker.close()
    (warning,) = desk.warnings
    assert "has ended 4 times, the last time with exit code -9; the campaign goes on, `evolve sync` carries" in warning
    assert desk.carry(journal) == 0
    assert all_runs(desk.uri) == expected


def test_a_process_that_does_not_listen_delays_nobody(desk: OwnDesk, journal: list[Record]) -> None:
    tracker = desk.process()
    tracker.record(journal[0])
    assert tracker.pid is not None
    os.kill(tracker.pid, signal.SIGSTOP)
    for seq in range(2, 300_000):  # more than fit into the pipe
        tracker.record(Record(seq, 0.0, journal[0].event))
    assert tracker.flush(0) == 299_999
    kill(tracker)


def test_a_process_ends_by_itself_when_its_controller_is_killed(desk: OwnDesk, journal: list[Record]) -> None:
    code = (
        "import sys; from pathlib import Path; from evolve.journal import read\n"
        "from evolve.tracking_process import TrackerProcess\n"
        f"tracker = TrackerProcess({desk.uri!r}, Path({str(desk.folder)!r}), warn=print)\n"
        f"tracker.record(next(read(Path({str(desk.folder / 'journal.jsonl')!r})))[0])\n"
        "print(tracker.pid, flush=True); sys.stdin.read()"
    )
    controller = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert controller.stdout is not None
    pid = int(controller.stdout.readline())
    assert b"evolve.tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    controller.kill()
    controller.communicate()
    wait_for(lambda: not alive(pid), "the tracker ends")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_one_tracker_at_a_time_carries_a_campaign(
    desk: OwnDesk, journal: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_LOCK_SECONDS", 0.1)
    tracker = desk.process()
    record(tracker, journal[:5])
    assert tracker.flush(60) == 0
    assert desk.carry(journal) == len(journal)
    assert "another one is at it" in desk.warnings[0]
    tracker.close()
    assert desk.carry(journal[:7]) == 0


def test_a_store_that_comes_back_is_caught_up_by_the_same_process(
    desk: OwnDesk, journal: list[Record], expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "store").rename(tmp_path / "away")
    tracker = desk.process()
    record(tracker, journal)
    assert tracker.flush(60) == len(journal)
    assert tracker.flush(60) == len(journal)  # tried again, not said again
    (tmp_path / "away").rename(tmp_path / "store")
    assert tracker.flush(60) == 0
    assert len(desk.warnings) == 1
    assert all_runs(desk.uri) == expected


def test_a_database_that_another_has_locked_is_caught_up_when_it_is_free(
    desk: OwnDesk, journal: list[Record], expected: dict[str, Any], tmp_path: Path
) -> None:
    tracker = desk.process()
    record(tracker, journal[:5])
    assert tracker.flush(60) == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        record(tracker, journal[5:])
        assert tracker.flush(2) > 0  # it waits (and gives up after half a minute), this side does not
        other.rollback()
    assert tracker.flush(60) == 0
    assert all_runs(desk.uri) == expected


def test_a_page_that_was_left_for_later_is_written_by_the_next_tracker(
    desk: OwnDesk, journal: list[Record], expected: dict[str, Any]
) -> None:
    carrier = Carrier(desk.uri, desk.folder, warn=pytest.fail, artifacts=desk.artifacts)
    assert all(carrier.carry(each, behind=True) for each in journal)
    carrier.close()
    assert all_runs(desk.uri)["toy-1"]["tags"] != expected["toy-1"]["tags"]
    tracker = desk.process()
    record(tracker, journal)
    assert tracker.flush(60) == 0
    assert all_runs(desk.uri) == expected


def test_a_broken_journal_is_said_and_not_blamed_on_mlflow(desk: OwnDesk, journal: list[Record]) -> None:
    path = desk.folder / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"seq":3,', b'"seq":4,', 1))
    tracker = desk.process()
    record(tracker, journal)
    assert tracker.flush(60) > 0
    (warning,) = desk.warnings
    assert "line 3 of" in warning and "MLflow at" not in warning


def test_a_follower_reads_each_record_once_and_no_further_than_it_may(tmp_path: Path, journal: list[Record]) -> None:
    write_journal(tmp_path, journal)
    follower = Follower(tmp_path / "journal.jsonl")
    assert list(follower.read(4)) == journal[:4]
    assert list(follower.read(4)) == []
    whole = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:4]) + b'{"taken ba')
    (tmp_path / "journal.jsonl").write_bytes(whole)
    assert list(follower.read(len(journal))) == journal[4:]


def test_a_controller_never_imports_mlflow_and_leaves_no_tracker_behind(tmp_path: Path) -> None:
    words = ["run", *QUADRATIC, "tracking=mlflow", "campaign=c", "proposer=random", "budget.trials=6"]
    code = (
        "import sys; from evolve.cli import main\n"
        f"code = main({[w for w in words if w != 'tracking=none']!r})\n"
        "print('CODE', code, 'LOADED', sorted({'mlflow', 'alembic'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, text=True,
        capture_output=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "CODE 0 LOADED []" in done.stdout, done.stdout + done.stderr
    assert "not in MLflow yet" not in done.stdout
    folder = tmp_path / ".evolve" / "campaigns" / "c"
    position = read_position(folder)
    assert position is not None
    assert position.seq == len((folder / "journal.jsonl").read_bytes().splitlines())
    begun = time.monotonic()
    while trackers_of(folder):
        assert time.monotonic() < begun + 60
    assert f"sqlite:///{tmp_path}/.evolve/mlflow.db" == position.uri


def trackers_of(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"evolve.tracker" in command and os.fsencode(folder) in command and alive(int(entry.name)):
            found.append(int(entry.name))
    return found
