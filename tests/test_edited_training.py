"""Trainings of edited code by the local executor: the early checks, the jail, what is seen of them. Real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve import config, patches, sandbox
from evolve.errors import TrialFailed
from evolve.executors import LocalExecutor, LocalProcesses, LocalScorer
from evolve.ports import Cancel
from evolve.types import Block, Candidate, Trial
from evolve.weights import WeightStore
from evolve.workspace import Snapshot

NAME = "train/quadratic/recipe.py"
GOOD = {"x": 0.01, "y": 0.5, "size": 32, "mode": "curved", "z": 0.25}
RETURN = "    return [w + rng.gauss(0, noise) for w in weights]"

pytestmark = pytest.mark.skipif(sandbox.find().name != "bubblewrap", reason="edited code needs bubblewrap")


class Bench:
    def __init__(self, folder: Path, level: str = "bubblewrap") -> None:
        subject = config.load(["subject=quadratic"]).subject
        (folder / "code").mkdir(parents=True)
        self.snapshot = Snapshot.take(config.data_root(), subject.sources, folder / "code")
        self.files = self.snapshot.texts(subject.editable)
        self.folder = folder
        self.local = LocalProcesses(subject, self.snapshot, folder / "trials", WeightStore(folder / "weights"), level)
        self.executor = LocalExecutor(self.local)

    def candidate(self, replace: str, search: str = RETURN) -> Candidate:
        after = patches.from_blocks(self.files, [Block(NAME, search, replace)])
        return Candidate(GOOD, "v", patches.make(self.files, after))

    def check(self, replace: str, search: str = RETURN) -> tuple[str, str]:
        found = self.executor.check(self.candidate(replace, search), Cancel())
        return found.stage, found.error


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


TRIAL = Trial(0, "c", "search", 0, 7)


def train(bench: Bench, candidate: Candidate, number: int = 0):  # type: ignore[no-untyped-def]
    trial = Trial(number, "c", "search", 0, 7)
    return bench.executor.train(trial, candidate, lambda point: None, Cancel())


HONEST = {
    "a comment": f"    # the noise of a seed\n{RETURN}",
    "a helper of its own": f"    import statistics\n\n    statistics.fmean(weights)\n{RETURN}",
    "a line on the output": f"    print('score: 0.99')\n{RETURN}",
    "a file in its scratch folder": f"    import tempfile\n\n    tempfile.TemporaryFile().write(b'x')\n{RETURN}",
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_edits_pass_the_checks_or_are_told_what_to_change(bench: Bench, name: str) -> None:
    stage, error = bench.check(HONEST[name])
    if name == "a file in its scratch folder":  # `tempfile` reaches files: not harmless by itself, but can be allowed
        assert stage == "imports" and "tempfile" in error
        return
    assert (stage, error) == ("", "")


BAD = {
    "no Python": ("    return [", "parse", "recipe.py:"),
    "a module that reaches out": (f"    import socket\n{RETURN}", "imports", "socket"),
    "an unknown name": ("    return [w + unknown for w in weights]", "ruff", "Undefined name `unknown`"),
    "a crash": ("    return [w / 0 for w in weights]", "smoke", "ZeroDivisionError"),
    "no weights": ("    raise SystemExit(0)", "smoke", "weights"),
    "weights of another shape": ("    return weights + [1.0]", "smoke", "must be F64 [4]"),
    "no number": ("    return [float('nan')] * 4", "smoke", "finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_work_fails_at_the_cheapest_check_that_sees_it(bench: Bench, name: str) -> None:
    replace, stage, words = BAD[name]
    found = bench.check(replace)
    assert found[0] == stage and words in found[1], found
    assert not list((bench.folder / "weights").glob("*")), "what the checks train is thrown away"


def test_the_jail_changes_no_bit_of_the_weights(bench: Bench) -> None:
    plain = train(bench, Candidate(GOOD, "v"))
    edited = train(bench, bench.candidate(HONEST["a comment"]), 1)
    assert edited.weights == plain.weights
    assert plain.integrity is None and edited.integrity is not None
    assert edited.integrity.findings() == () and edited.integrity.canary == "untouched"


def test_an_approved_edit_runs_in_the_jail_as_any(bench: Bench) -> None:
    """There is one way to run a patch: where it is and whether it was approved is not asked."""
    look = (
        f"    import os\n\n    print('pid', os.getpid(), os.getcwd(), os.path.exists({str(bench.folder)!r}))\n{RETURN}"
    )
    assert "pid 2 /code False" in train(bench, bench.candidate(look)).log_tail


def test_what_an_edit_reaches_for_beyond_the_pristine_harness_is_reported(bench: Bench) -> None:
    spy = f"""    try:
        open("/etc/shadow").read()
    except OSError:
        pass
    try:
        open("/vault/vault_answers.json").read()
    except OSError:
        pass
    import zipfile
{RETURN}"""
    report = train(bench, bench.candidate(spy)).integrity
    assert report.canary == "touched"
    assert report.opened == ("/etc/shadow", "/vault/vault_answers.json")
    assert "zipfile" in report.imports and "json" not in report.imports, "what the harness imports itself is no news"


def test_a_failing_training_has_a_report_too(bench: Bench) -> None:
    spy = bench.candidate("    open('/vault/vault_answers.json').read()\n    raise ValueError('caught')")
    with pytest.raises(TrialFailed, match="caught") as failure:
        train(bench, spy)
    assert failure.value.integrity is not None and failure.value.integrity.canary == "touched"


def test_after_a_training_nothing_of_it_is_left_but_its_log(bench: Bench) -> None:
    train(bench, bench.candidate(HONEST["a comment"]))
    assert sorted(p.name for p in (bench.folder / "trials" / "00000").iterdir()) == ["train.json", "train.log"]
    bench.snapshot.verify()


def test_without_a_sandbox_edited_code_does_not_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "unavailable")
    with pytest.raises(TrialFailed, match="needs the sandbox"):
        train(bench, bench.candidate(HONEST["a comment"]))


def test_by_the_users_choice_it_runs_in_a_copy_of_its_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "none")
    training = train(bench, bench.candidate(f"    print('here', __file__)\n{RETURN}"))
    assert f"here {tmp_path}/trials/00000/code/{NAME}" in training.log_tail
    assert training.integrity is None
    assert bench.check(HONEST["a comment"]) == ("", "") and bench.check("    return [")[0] == "parse"
    bench.snapshot.verify()


def test_weights_of_an_edit_are_scored_by_the_pristine_scorer(bench: Bench) -> None:
    perfect = train(bench, bench.candidate("    return [1.0] * 4")).weights
    trial = Trial(0, "c", "search", 0, 7, weights=perfect)
    [score] = LocalScorer(bench.local, "ab" * 32).score([trial], "search", 0, Cancel())
    assert score.mean == 1.0, "the optimum is weights like any"
