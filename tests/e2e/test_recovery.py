"""Crashes, kills, full disks and damaged journals: what is whole stays whole, and a resume goes on from there."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cli import COMMAND, QUADRATIC, SMALL_GATE, Evolve, processes_of, wait_for

RANDOM = ("proposer=random", "seed=1", "budget.trials=14", "campaign=first")  # as the fixture `finished`


# ---------------------------------------------------------------- the same seed, the same campaign


def test_the_same_seed_and_secret_give_the_same_campaign_in_another_process(finished: Evolve, secret: str) -> None:
    other = Evolve(finished.cwd / "other")
    other.cwd.mkdir()
    other("run", *QUADRATIC, *RANDOM, secret)
    assert other.stable() == finished.stable()
    assert len(other.stable().splitlines()) > 30


@pytest.mark.parametrize("change", ["seed=2", "secret_file=null"])
def test_another_seed_or_secret_gives_another_campaign(finished: Evolve, secret: str, change: str) -> None:
    words = ("proposer=default", "seed=1", "budget.trials=2", "campaign=second")
    finished("run", *QUADRATIC, *words, secret, change)
    scores = [e["score"]["mean"] for e in finished.seen("second", "TrialFinished")]
    before = [e["score"]["mean"] for e in finished.seen("first", "TrialFinished")[:2]]
    assert len(scores) == 2
    assert scores != before


# ---------------------------------------------------------------- kills


def test_a_campaign_that_was_killed_again_and_again_equals_an_uninterrupted_one(finished: Evolve, secret: str) -> None:
    other = Evolve(finished.cwd / "other")
    other.cwd.mkdir()
    words = ["run", *QUADRATIC, *RANDOM, secret]
    for count in (2, 6, 10):  # in the bank, in the search, later in it
        controller = other.start(*words)
        wait_for(lambda count=count: len(other.seen("first", "TrialStarted")) >= count, f"trial {count} starts")
        controller.kill()
        controller.communicate()
        assert controller.returncode == -signal.SIGKILL
        words = ["resume", "first"]
    assert "is finished" not in other("resume", "first")
    assert other.stable() == finished.stable()
    assert other.status()["spend"]["trials"] == 14
    assert processes_of(other.cwd) == []
    numbers = [e["number"] for e in other.seen("first", "TrialFinished")]
    assert numbers == list(range(14)), "nothing is done twice, nothing is left out"


def test_one_interrupt_stops_in_order_and_says_how_to_go_on(finished: Evolve, secret: str) -> None:
    other = Evolve(finished.cwd / "other")
    other.cwd.mkdir()
    controller = other.start("run", *QUADRATIC, *RANDOM, secret)
    wait_for(lambda: len(other.seen("first", "TrialStarted")) >= 5, "the search has begun")
    controller.send_signal(signal.SIGINT)
    output, _ = controller.communicate(timeout=30)
    assert controller.returncode == 130
    assert "resume with: evolve resume first" in output
    assert "Traceback" not in output
    assert processes_of(other.cwd) == []
    assert other.status()["state"] == "stopped"
    other("resume")
    assert other.stable() == finished.stable()


def test_a_hanging_training_does_not_hold_up_an_interrupt(waiting: Evolve) -> None:
    waiting("try", "pause=550")
    controller = waiting.start("resume")
    wait_for(lambda: processes_of(waiting.folder("c")), "the training hangs")
    controller.send_signal(signal.SIGINT)
    controller.communicate(timeout=10)
    assert controller.returncode == 130
    assert processes_of(waiting.folder("c")) == []
    assert waiting.status()["trials"]["failed"] == 0, "an interruption is no failure"


# ---------------------------------------------------------------- the journal


def damaged(evolve: Evolve, change: bytes) -> Path:
    path = evolve.folder("first") / "journal.jsonl"
    path.write_bytes(change)
    return path


@pytest.mark.parametrize("kept", [1, 40, -1], ids=["1 byte", "40 bytes", "all but the newline"])
def test_a_torn_last_line_is_said_and_the_campaign_goes_on(finished: Evolve, kept: int) -> None:
    whole = (finished.folder("first") / "journal.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if b'"TrialFinished"' in line and b'"number":11' in line)
    before, torn = b"".join(lines[:at]), lines[at][:kept]
    path = damaged(finished, before + torn)
    assert finished.status()["trials"]["complete"] + finished.status()["trials"]["failed"] == 11
    output = finished("resume")
    assert "a torn last line was cut off and kept as" in output
    assert path.with_name(f"journal.torn-{at + 1}").read_bytes() == torn
    assert path.read_bytes().startswith(before)
    assert [e["number"] for e in finished.seen("first", "TrialFinished")] == list(range(14))


@pytest.mark.parametrize("how", ["a changed score", "a line left out", "a line twice", "no line at all"])
def test_a_changed_history_is_refused_by_every_command_with_its_line(finished: Evolve, how: str) -> None:
    path = finished.folder("first") / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if b'"TrialFinished"' in line and b'"mean":0.' in line)
    line = lines[at]
    changes = {
        "a changed score": ([line.replace(b'"mean":0.', b'"mean":1.', 1)], at + 2),
        "a line left out": ([], at + 1),
        "a line twice": ([line, line], at + 2),
        "no line at all": ([b"rubbish\n"], at + 1),
    }
    new, number = changes[how]
    damaged(finished, b"".join([*lines[:at], *new, *lines[at + 1 :]]))
    bad = path.read_bytes()
    commands = [["status"], ["log"], ["resume"], ["try", "y=0.5"], ["rollback"], ["gc"], ["sync"], ["review"]]
    for command in commands if how == "a changed score" else commands[:1]:
        message = finished.refuses(*command, code=1)
        assert f"line {number} of" in message, command
        assert "must read back as it was written" in message
        assert "or keep what is before line" in message
        assert "`evolve repair first`" in message
    assert path.read_bytes() == bad, "nothing was touched"


def test_a_changed_secret_is_refused(finished: Evolve) -> None:
    (finished.folder("first") / "secret").write_text("00" * 32)
    assert "secret of first has changed" in finished.refuses("resume", "budget.trials=25", code=1)


def test_a_changed_scorer_is_refused(finished: Evolve) -> None:
    scorer = next((finished.folder("first") / "code").glob("*/evals/quadratic/score.py"))
    scorer.chmod(0o644)
    scorer.write_text(scorer.read_text().replace("mean = ", "mean = 1 or "))
    message = finished.refuses("resume", "budget.trials=25", code=1)
    assert "snapshot of the subject must stay as it was taken" in message
    assert finished.status()["state"] == "finished"


# ---------------------------------------------------------------- a full disk


def with_file_limit(evolve: Evolve, limit: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A command whose files cannot grow past `limit` bytes, as on a disk that is full at that point."""
    return evolve.raw(*words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))


@pytest.mark.parametrize("more", [10, 2500])
def test_a_journal_that_cannot_grow_ends_the_session_in_order(finished: Evolve, more: int) -> None:
    path = finished.folder("first") / "journal.jsonl"
    size = path.stat().st_size
    done = with_file_limit(finished, size + more, "resume", "budget.trials=17")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "The journal must be written" in done.stderr
    assert "make room, then `evolve resume`" in done.stderr
    assert path.stat().st_size <= size + more
    assert path.read_bytes().endswith(b"\n"), "no half a line is left"
    finished("resume", "budget.trials=17")
    assert [e["number"] for e in finished.seen("first", "TrialFinished")] == list(range(17))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "evolve-test", str(place)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_fails_no_trial_and_a_resume_goes_on(small_disk: Path) -> None:
    evolve = Evolve(small_disk)
    evolve("run", *QUADRATIC, "campaign=c", "proposer=random", "budget.trials=6")
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, ballast.stat().st_size - 4096)  # a page for the journal, none for the trial's files
    done = evolve.raw("resume", "budget.trials=10")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    ballast.unlink()
    before = [e["error"] for e in evolve.events("TrialFinished") if e["state"] == "FAIL"]
    assert not [error for error in before if "No space" in error]
    evolve("resume", "budget.trials=10")
    assert len(evolve.events("TrialFinished")) == 10


# ---------------------------------------------------------------- the tracking server


def test_a_tracking_server_that_is_down_costs_one_warning_and_changes_no_decision(
    finished: Evolve, secret: str
) -> None:
    other = Evolve(finished.cwd / "other")
    other.cwd.mkdir()
    done = other.raw("run", "subject=quadratic", *SMALL_GATE, "tracking.uri=http://127.0.0.1:9", *RANDOM, secret)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("MLflow at http://127.0.0.1:9") == 1
    assert "warning: MLflow at http://127.0.0.1:9 must take every event" in done.stdout + done.stderr
    assert "not in MLflow yet: `evolve sync`" in done.stdout
    assert other.stable() == finished.stable()
    sync = other.raw("sync")
    assert sync.returncode == 1
    events = len(json.loads(f"[{','.join(other('log', '--json').splitlines())}]"))
    assert f"{events} event(s) not in MLflow yet" in sync.stdout
    assert "Traceback" not in sync.stderr


def test_output_that_nobody_reads_any_more_is_no_error(finished: Evolve) -> None:
    process = subprocess.Popen(
        [*COMMAND, "log", "--json"], cwd=finished.cwd, env=finished.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()
