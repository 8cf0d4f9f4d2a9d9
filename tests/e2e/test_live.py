"""Commands of a second process while a controller with two workers runs, and what every command does from elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .cli import COMMAND, QUADRATIC, Evolve, Terminal, digits, processes_of, wait_for
from .conftest import PAUSE


@pytest.fixture
def running(waiting: Evolve) -> tuple[Evolve, subprocess.Popen[str]]:
    """`waiting`, resumed with two workers, both of them busy with trainings that pause for longer than the test."""
    for seconds in (500, 550):
        waiting("try", f"pause={seconds}")
    controller = waiting.start("resume", "executor.workers=2")
    wait_for(lambda: len(processes_of(waiting.folder("c"))) == 2, "two trainings run")
    return waiting, controller


def test_approve_reject_try_and_stop_from_other_processes_are_carried_out_by_the_running_controller(
    running: tuple[Evolve, subprocess.Popen[str]],
) -> None:
    evolve, controller = running
    status = evolve.status()
    assert status["state"] == "running"
    assert status["trials"]["running"] == 2
    good, better = status["pending"]

    assert f"rejected: {good[:8]}" in evolve("reject", good, "--reason", "not this one")
    assert "not this one" in evolve("log")

    person = Terminal(evolve, [*COMMAND, "approve", better[:8]])
    person.answer("[q]uit > ", "approve")
    person.answer("of its content > ", digits(person.screen))
    assert f"approved and promoted: {better[:8]}" in person.close()

    assert "queued" in evolve("try", "y=0.7", "--why", "a hunch")
    assert "y must lie in" in evolve.refuses("try", "y=7")
    assert evolve.status()["champion"] == better
    assert evolve.status()["pending"] == []
    assert controller.poll() is None, "all this while it runs"

    assert "stopping" in evolve("stop")
    output, _ = controller.communicate(timeout=30)
    assert controller.returncode == 0
    assert "resume with: evolve resume c" in output
    assert processes_of(evolve.folder("c")) == []
    assert evolve.status()["state"] == "stopped"
    assert "is not running" in evolve("stop")
    (human,) = [e["proposal"] for e in evolve.seen("c", "HumanProposed") if e["proposal"]["rationale"] == "a hunch"]
    assert human["proposer"] == "human"
    assert [e["command_id"] for e in evolve.seen("c", "StopRequested")]
    assert (evolve.cwd / ".evolve/champions/quadratic.yaml").exists()


def test_a_try_during_a_run_is_trained_in_the_persons_name(waiting: Evolve) -> None:
    waiting("try", "pause=500")
    controller = waiting.start("resume", "executor.workers=2")
    wait_for(lambda: processes_of(waiting.folder("c")), "a training runs")
    before = waiting.seen("c", "TrialScheduled")[-1]["number"]
    waiting("try", "y=0.9")  # the second worker is free for it
    known = {e["proposal"]["candidate"]["params"]["y"]: e["proposal"] for e in waiting.seen("c", "HumanProposed")}
    assert known[0.9]["proposer"] == "human"
    finished = wait_for(
        lambda: [e for e in waiting.seen("c", "TrialFinished") if e["number"] == before + 1], "it is trained"
    )
    assert finished[0]["state"] == "COMPLETE"
    controller.terminate()
    controller.communicate(timeout=30)


def test_a_second_controller_is_refused_while_the_first_runs(
    running: tuple[Evolve, subprocess.Popen[str]],
) -> None:
    evolve, controller = running
    before = len(evolve.lines("c"))
    line = evolve.refuses("resume", code=1)
    assert "one controller at a time" in line
    assert "evolve stop" in line
    evolve.refuses("gc", code=1)
    assert len(evolve.lines("c")) == before
    assert controller.poll() is None


def test_a_campaign_with_two_workers_ends_as_one_with_one_does(evolve: Evolve, secret: str) -> None:
    evolve(
        "run", *QUADRATIC, PAUSE.replace("default: 0.0", "default: 0.1"), secret, "campaign=c",
        "proposer=random", "budget.trials=12", "executor.workers=2",
    )  # fmt: skip
    status = evolve.status()
    assert status["state"] == "finished"
    assert status["spend"]["trials"] == 12
    assert sum(status["trials"].values()) == 12


def test_every_command_works_from_any_folder(waiting: Evolve, tmp_path: Path) -> None:
    state = f"state_dir={tmp_path / '.evolve'}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    evolve = Evolve(elsewhere)
    good, better = json.loads(evolve("status", "--json", state))["pending"]
    assert "needs a person" in evolve.refuses("review", state)
    assert good[:8] in evolve("log", state)
    assert "0.01" in evolve("compare", good[:6], better[:6], state)
    assert "MB freed" in evolve("gc", state)
    assert "up to date" in evolve("sync", state)
    assert "not running" in evolve("stop", state)
    assert "the same, bit for bit" in evolve("reproduce", better[:8], state)
    assert "rejected" in evolve("reject", good[:8], "--reason", "no", state)
    assert "queued" in evolve("try", "y=0.55", state)
    assert "finished" in evolve("resume", state)
    assert "A rollback needs" in evolve.refuses("rollback", state)
    assert f"ok    state folder {tmp_path}" in evolve("doctor", state)
    evolve("run", *QUADRATIC, "proposer=default", "budget.trials=1", "campaign=other", state)
    assert list(elsewhere.iterdir()) == []
    assert evolve.refuses("status").startswith("evolve: A campaign must have been started")


HEAVY = ("torch", "mlflow", "litellm", "optuna", "hydra", "numpy", "rich")


@pytest.mark.parametrize("command", ["--help", "status", "log"])
def test_what_only_looks_imports_nothing_heavy(finished: Evolve, command: str) -> None:
    code = (
        "import sys\nfrom evolve.cli import main\ntry:\n    code = main(sys.argv[1:])\nexcept SystemExit as end:\n"
        f"    code = end.code\nprint('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)))\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command], cwd=finished.cwd, env=finished.env, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_help_names_the_groups_and_their_options(evolve: Evolve) -> None:
    text = evolve("--help")
    assert "subject=arithmetic|arithmetic_pareto|quadratic" in text
    assert "proposer=agent|auto|" in text
    assert "subject=arithmetic|arithmetic_pareto|quadratic" in evolve("run", "--help")
