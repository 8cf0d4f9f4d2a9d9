"""What every pruner must do; run on those that ship, told the events of a small campaign."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import yaml
from inline import subject

from evolve.config import data_root
from evolve.ports import NeverPruner, Pruner
from evolve.pruning import OptunaPruner, pruner_factory
from evolve.types import (
    Budget,
    CampaignStarted,
    Candidate,
    Evaluation,
    Event,
    GateRules,
    Progress,
    ProgressSpec,
    Proposal,
    Proposed,
    Purpose,
    Rules,
    Trial,
    TrialFinished,
    TrialScheduled,
    TrialStarted,
)

SHIPPED = {p.stem: yaml.safe_load(p.read_text()) for p in sorted((data_root() / "configs/pruner").glob("*.yaml"))}
FIRM = {  # marks here are ten, and a campaign a handful of trainings
    "median": {"n_startup_trials": 3, "n_warmup_steps": 2},
    "asha": {"min_resource": 2},
    "hyperband": {"min_resource": 1, "reduction_factor": 3},
    "wilcoxon": {"n_startup_steps": 3, "p_threshold": 0.2},
}


def only_of_marks(line: str) -> None:
    assert "has reported no" in line, line


def make(name: str) -> Pruner:
    target = SHIPPED[name] | FIRM.get(name, {})
    return OptunaPruner(pruner_factory(target), warn=only_of_marks) if target["_target_"] else NeverPruner()


@pytest.fixture(params=sorted(SHIPPED))
def new(request: pytest.FixtureRequest) -> Callable[[], Pruner]:
    return lambda: make(request.param)


@pytest.fixture(params=sorted(set(SHIPPED) - {"none"}))
def optuna_new(request: pytest.FixtureRequest) -> Callable[[], Pruner]:
    return lambda: make(request.param)


class Told:
    """A journal being written under a pruner. `train` does what the loop does."""

    def __init__(self, pruner: Pruner, progress: ProgressSpec | None = None) -> None:
        self.pruner, self.events, self.count = pruner, list[Event](), 0
        what = subject(progress=progress) if progress else subject()
        rules = Rules(Budget(), GateRules())
        self.add(CampaignStarted("c", what, "v", "e", "s", 3, rules, Candidate({}, "v"), "", {}))

    def add(self, event: Event) -> None:
        self.events.append(event)
        self.pruner.record(event)

    def train(
        self, curve: list[Progress], score: float, patch: str | None = None, purpose: Purpose = "search"
    ) -> str | None:
        """The reason why it was pruned, or None."""
        number, self.count = self.count, self.count + 1
        candidate = Candidate({"number": number}, "v", patch)
        self.add(Proposed(Proposal(candidate, "test")))
        self.add(TrialScheduled(number, candidate.id, purpose, 0, 0))
        self.add(TrialStarted(number, 1))
        trial = Trial(number, candidate.id, purpose, 0, 0, state="RUNNING", attempt=1)
        for seen, point in enumerate(curve, start=1):
            if (reason := self.pruner.observe(trial, point)) is not None:
                self.add(TrialFinished(number, "PRUNED", error=reason, curve=tuple(curve[:seen])))
                return reason
        self.add(TrialFinished(number, "COMPLETE", Evaluation("score", "search", score, 0.0, 9), curve=tuple(curve)))
        return None


def line(value: float, marks: int = 10) -> list[Progress]:
    return [Progress(k, {"skill": value * k / marks}, 100 * k) for k in range(1, marks + 1)]


def test_a_bad_training_is_pruned_before_its_end_and_the_reason_says_where_and_against_what(
    optuna_new: Callable[[], Pruner],
) -> None:
    told = Told(optuna_new())
    for value in (0.5, 0.6, 0.7, 0.8, 0.9):
        told.train(line(value), value)
    # Hyperband's last bracket prunes nobody: of several bad ones some are in the others.
    reasons = [r for value in (0.01, 0.02, 0.03, 0.04) if (r := told.train(line(value), value))]
    assert reasons
    for reason in reasons:
        assert "of 10 by " in reason
        assert "self-reported skill 0.0" in reason
        assert "\n" not in reason
    assert told.train(line(2.0), 2.0) is None, "the best of all is not"


def test_only_trainings_of_the_search_are_pruned(new: Callable[[], Pruner]) -> None:
    told = Told(new())
    for value in (0.5, 0.6, 0.7, 0.8, 0.9):
        told.train(line(value), value)
    assert [told.train(line(-9.0), 0.0, purpose=purpose) for purpose in ("bank", "gate") for _ in range(4)] == [
        None
    ] * 8


def test_a_pruner_made_anew_from_the_journal_answers_as_the_one_that_saw_it_live(new: Callable[[], Pruner]) -> None:
    rng = random.Random(1)

    def noisy(value: float) -> list[Progress]:
        return [Progress(k, {"skill": value * k / 10 + rng.gauss(0, 0.05)}, 100 * k) for k in range(1, 11)]

    live = Told(new())
    for _ in range(25):
        value = rng.random()
        live.train(noisy(value), value)
    resumed = Told(new())
    for event in live.events[1:]:
        resumed.add(event)
    resumed.count = live.count
    next_ones = [noisy(rng.random()) for _ in range(10)]
    answers = [[told.train(curve, 0.5) for curve in next_ones] for told in (live, resumed)]
    assert answers[0] == answers[1]


NAN, INF = float("nan"), float("inf")
NONSENSE = {
    "without tokens": [Progress(1, {"skill": -1.0})],
    "without the metric": [Progress(1, {"loss": -1.0}, 500)],
    "not a number": [Progress(k, {"skill": NAN}, 100 * k) for k in range(1, 11)],
    "infinite": [Progress(k, {"skill": INF if k % 2 else -INF}, 100 * k) for k in range(1, 11)],
    "absurd": [Progress(k, {"skill": 1e308 * (-1) ** k}, 100 * k) for k in range(1, 11)],
    "repeated": [Progress(1, {"skill": 0.1}, 500)] * 100,
    "backwards": line(0.1)[::-1],
    "beyond the last mark": [Progress(k, {"skill": -1.0}, 10**k) for k in range(4, 19)],
    "far too many": [Progress(k, {"skill": 1e-5 * k}, k) for k in range(5000)],
    "at no mark": [Progress(1, {"skill": -1.0}, 0)],
}


def test_nonsense_in_the_reports_neither_raises_nor_gets_a_better_one_pruned(new: Callable[[], Pruner]) -> None:
    told = Told(new())
    for curve in NONSENSE.values():
        told.train(curve, 0.1)
    for value in (0.5, 0.6, 0.7):
        told.train(line(value), value)
    assert told.train(line(2.0), 2.0) is None


@pytest.mark.parametrize("name", ["without tokens", "without the metric", "not a number", "infinite", "absurd"])
def test_what_is_no_report_at_a_mark_prunes_nobody(optuna_new: Callable[[], Pruner], name: str) -> None:
    told = Told(optuna_new())
    for value in (0.5, 0.6, 0.7, 0.8, 0.9):
        told.train(line(value), value)
    assert [told.train(NONSENSE[name], 0.1) for _ in range(4)] == [None] * 4


def test_who_edits_the_training_code_cannot_get_others_pruned_by_boasting(optuna_new: Callable[[], Pruner]) -> None:
    told, without = Told(optuna_new()), Told(optuna_new())
    values = [0.3, 0.35, 0.4, 0.3, 0.2, 0.5]
    for value in values:
        told.train(line(1e6 + value), 0.1, patch="report a million")
    answers = [[t.train(line(value), value) is None for value in values] for t in (told, without)]
    assert answers[0] == answers[1]
    assert told.train(line(3e6), 3.0, patch="report more") is None


def test_a_metric_to_minimize_prunes_the_larger(optuna_new: Callable[[], Pruner]) -> None:
    spec = ProgressSpec("skill", "minimize", every_tokens=100, marks=10)
    told = Told(optuna_new(), spec)  # of an objective that is maximised
    for value in (5.0, 4.0, 3.0, 2.0, 1.0):
        told.train(line(value), -value)
    assert any(told.train(line(value), -value) for value in (50.0, 51.0, 52.0, 53.0))
    assert told.train(line(0.1), -0.1) is None


def test_a_failing_pruner_prunes_nothing_and_says_so_once() -> None:
    import optuna

    class Broken(optuna.pruners.BasePruner):
        def prune(self, study: object, trial: object) -> bool:
            raise RuntimeError("a bug")

    lines: list[str] = []
    told = Told(OptunaPruner(Broken, lines.append))
    assert [told.train(line(0.5), 0.5) for _ in range(3)] == [None] * 3
    assert lines == ["the pruner failed, and prunes nothing from here on: RuntimeError: a bug"]


def test_trainings_that_report_no_mark_are_said_once() -> None:
    lines: list[str] = []
    told = Told(OptunaPruner(pruner_factory(SHIPPED["median"]), lines.append))
    for _ in range(3):
        told.train(NONSENSE["without tokens"], 0.5)
    assert len(lines) == 1
    assert "trial 0 has reported no 'skill' with `tokens`" in lines[0]
