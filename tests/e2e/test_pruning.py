"""Pruning with real processes and the real command."""

from __future__ import annotations

import time

from .cli import QUADRATIC, SECRET, Evolve, bench_subject, processes_of

WORDS = (*QUADRATIC, "proposer=random", "seed=3", "pruner=median", "pruner.n_startup_trials=2", "budget.trials=20")


def test_a_campaign_with_a_pruner_says_what_was_pruned_and_is_the_same_again(evolve: Evolve, secret: str) -> None:
    output = evolve("run", *WORDS, secret, "campaign=a")
    pruned = [e for e in evolve.events("TrialFinished", "--campaign", "a") if e["state"] == "PRUNED"]
    assert pruned
    assert evolve.status("--campaign", "a")["trials"]["pruned"] == len(pruned)
    assert f"{len(pruned)} pruned" in output
    for e in pruned:
        assert (e["score"], e["weights"]) == (None, None)
        assert e["usage"]["cpu_seconds"] > 0
        assert f"PRUNED pruned at mark {len(e['curve'])} of 20" in evolve("log", "--campaign", "a")
    assert processes_of(evolve.folder("a")) == []
    evolve("run", *WORDS, secret, "campaign=b")
    assert evolve.stable("--campaign", "a") == evolve.stable("--campaign", "b")

    candidates = {e["number"]: e["candidate_id"] for e in evolve.events("TrialScheduled", "--campaign", "a")}
    line = evolve.refuses("reproduce", candidates[pruned[0]["number"]], "--campaign", "a")
    assert "must have a scored trial" in line


def test_a_training_that_will_not_die_is_ended_when_it_is_pruned(evolve: Evolve) -> None:
    """`stubborn` ignores signals, leaves a child and sleeps for ever: here after a report that is far too bad."""
    words = bench_subject(evolve.cwd / "subject")
    bench = evolve.cwd / "subject/train/quadratic/bench.py"
    report = 'os.write(int(os.environ["EVOLVE_PROGRESS_FD"]), b\'{"step": 1, "tokens": 70, "metrics": {"distance": 99.0}}\\n\')'
    text = bench.read_text()
    stubborn = "        fork_a_child_that_stays()\n        sleep_for_ever()\n"
    assert text.count(stubborn) == 1
    bench.write_text(
        text.replace(stubborn, f"        fork_a_child_that_stays()\n        {report}\n        sleep_for_ever()\n")
    )
    evolve(
        "run", *words, "+subject.space.fault={type: categorical, choices: [none, stubborn], default: none}",
        "campaign=c", "proposer=default", "pruner=wilcoxon", "pruner._target_=optuna.pruners.ThresholdPruner",
        "~pruner.p_threshold", "~pruner.n_startup_steps", "+pruner.upper=50", "budget.trials=5",
        "subject.limits.train_seconds=100",
    )  # fmt: skip
    evolve("try", "fault=stubborn")
    started = time.monotonic()
    evolve("resume", "budget.trials=6")
    assert time.monotonic() - started < 60, "it was not waited for until its limit"
    assert [e["state"] for e in evolve.events("TrialFinished")][-1] == "PRUNED"
    assert processes_of(evolve.folder("c")) == []
    assert SECRET not in evolve("log")
