"""Ctrl-C once and twice, SIGTERM, a closed terminal, a controller that was stopped for a while, clocks that jump."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time

import pytest

from .cli import Evolve, bench_subject, faults, processes_of, wait_for


def hanging(waiting: Evolve, **options: object) -> subprocess.Popen[str]:
    """A controller whose one training pauses for longer than the test."""
    waiting("try", "pause=550")
    controller = waiting.start("resume", **options)
    wait_for(lambda: processes_of(waiting.folder("c")), "the training hangs")
    return controller


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_once_leaves_a_campaign_that_can_be_resumed(waiting: Evolve, number: signal.Signals) -> None:
    controller = hanging(waiting)
    controller.send_signal(number)
    output, _ = controller.communicate(timeout=30)
    assert controller.returncode == 130
    assert "resume with: evolve resume c" in output
    assert "Traceback" not in output
    assert processes_of(waiting.folder("c")) == []
    status = waiting.status()
    assert (status["state"], status["trials"]["failed"]) == ("stopped", 0)


def test_a_second_one_ends_at_once_and_nothing_is_lost_either(waiting: Evolve) -> None:
    controller = hanging(waiting)
    before = waiting.lines("c")
    controller.send_signal(signal.SIGINT)
    controller.send_signal(signal.SIGTERM)
    started = time.monotonic()
    output, _ = controller.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert controller.returncode == 130
    assert "resume" in output
    assert "Traceback" not in output
    wait_for(lambda: processes_of(waiting.folder("c")) == [], "its training has ended")
    assert waiting.lines("c")[: len(before)] == before
    assert waiting.status()["trials"]["failed"] == 0


def test_a_terminal_that_is_closed_is_a_stop_in_order(waiting: Evolve) -> None:
    master, slave = pty.openpty()
    controller = hanging(waiting, stdout=slave, stderr=slave)
    os.close(slave)
    os.close(master)  # what is printed from now on fails
    controller.send_signal(signal.SIGHUP)
    assert controller.wait(30) == 130
    assert waiting.status()["state"] == "stopped"
    assert processes_of(waiting.folder("c")) == []


def test_what_was_started_with_nohup_outlives_its_terminal(waiting: Evolve) -> None:
    controller = hanging(waiting, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    controller.send_signal(signal.SIGHUP)
    time.sleep(0.5)  # what must not happen has no event to wait for
    assert controller.poll() is None
    controller.send_signal(signal.SIGTERM)
    controller.communicate(timeout=30)


def test_a_score_under_way_has_ten_seconds_and_is_measured_again_by_the_resume(evolve: Evolve) -> None:
    words = (*bench_subject(evolve.cwd / "subject"), *faults(["scorer_hang"]), "campaign=c", "budget.trials=5")
    controller = evolve.start("run", *words, "subject.limits.score_seconds=600")
    folder = evolve.folder("c")
    wait_for(lambda: len(evolve.seen("c", "TrialStarted")) == 5, "the training whose score hangs")
    wait_for(lambda: list(folder.glob("trials/*/score.json")) and processes_of(folder), "the score hangs")
    controller.send_signal(signal.SIGINT)
    output, _ = controller.communicate(timeout=60)
    assert controller.returncode == 130
    assert "resume with: evolve resume c" in output and "Traceback" not in output
    assert processes_of(folder) == []
    assert len(evolve.seen("c", "TrialFinished")) == 4, "nobody is blamed"
    again = evolve.start("resume")
    wait_for(lambda: list(folder.glob("trials/*/score.json")) and processes_of(folder), "it is measured again")
    again.send_signal(signal.SIGINT)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=30)
    assert len(evolve.seen("c", "TrialFinished")) == 4
