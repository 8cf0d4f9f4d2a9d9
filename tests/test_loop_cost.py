"""What an iteration costs does not grow with the history: in calls of functions, in memory, in files. No clock is read."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from evolve import memory, policy
from evolve.memory import View, view
from evolve.state import State
from evolve.types import Budget, GateRules, Proposal, Rules
from tests.inline import Crash, Inline, Walk

FEW_CHALLENGES = GateRules(baseline_seeds=2, max_seeds=2, candidates=2)  # they are over before the first mark


class Watched(Walk):
    """Calls `look` with the number of the turn before each proposal."""

    def __init__(self, look: Callable[[int], None]) -> None:
        super().__init__()
        self._look = look

    def propose(self, view: View) -> Proposal:
        try:
            self._look(view.turn)
        except AssertionError as error:  # the loop would take it for a proposer's failure, and go on
            raise Crash(str(error)) from error
        return super().propose(view)


def campaign(folder: Path, trials: int, look: Callable[[int], None]) -> Inline:
    made = Inline(folder, proposer=Watched(look), budget=Budget(trials=trials), gate=FEW_CHALLENGES)
    made.run()
    return made


def test_an_iteration_calls_no_more_functions_after_a_thousand_candidates_than_after_a_hundred(tmp_path: Path) -> None:
    calls, marks = 0, dict[int, int]()

    def count(frame: FrameType, what: str, argument: object) -> None:
        nonlocal calls
        calls += what in ("call", "c_call")

    def look(turn: int) -> None:
        marks[turn] = calls

    sys.setprofile(count)  # the loop's thread alone
    try:
        campaign(tmp_path / "c", 1060, look)
    finally:
        sys.setprofile(None)
    early, late = marks[150] - marks[100], marks[1050 - 20] - marks[1000 - 20]
    assert late <= 1.2 * early


def test_the_controllers_memory_of_a_trial_is_bounded(tmp_path: Path) -> None:
    seen = dict[int, int]()

    def look(turn: int) -> None:
        if turn in (100, 400):
            seen[turn] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        made = Inline(tmp_path / "c", proposer=Watched(look), budget=Budget(trials=450), gate=FEW_CHALLENGES)
        made.tracker.record = lambda record: None  # type: ignore[method-assign]  # it would keep every record
        made.run()
    finally:
        tracemalloc.stop()
    assert (seen[400] - seen[100]) / 300 <= 15_000


def test_a_proposer_sees_each_candidate_as_it_is_now(tmp_path: Path) -> None:
    made: list[Inline] = []
    outcomes = set[str]()

    def look(turn: int) -> None:
        state = made[0].state
        fresh = tuple(memory._observe(state, c, entry) for c, entry in state.entries.items())
        assert view(state, 0).history == fresh
        outcomes.update(o.outcome for o in fresh)

    made.append(Inline(tmp_path / "c", proposer=Watched(look), budget=Budget(trials=120)))
    made[0].run()
    for decision in ("approve", "reject"):  # a promotion makes what waits stale
        for candidate_id, request in list(made[0].state.pending.items())[:1]:
            made[0].command(decision, candidate_id=candidate_id, content_hash=request.content_hash, reason="so")
        made[0].budget = Budget(trials=made[0].state.spend.trials + 60)
        made[0].run()
    assert {"", "accepted", "champion", "declined"} <= outcomes


def slow_best(state: State) -> str:
    scores = {c: score.mean for c in state.entries if (score := state.search_score(c)) is not None}
    return max(scores, key=lambda c: state.sign * scores[c])


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_candidate_and_the_weights_to_keep_are_those_of_all_trials(tmp_path: Path, direction: str) -> None:
    made: list[Inline] = []

    def look(turn: int) -> None:
        state = made[0].state
        assert state.best() == slow_best(state)
        done = [t for t in state.trials.values() if t.weights and t.score]
        order = sorted(done, key=lambda t: state.sign * t.score.mean if t.score else 0.0, reverse=True)
        kept = policy.weights_to_keep(state, Rules(keep_weights=5))
        assert {t.weights for t in order[:5]} <= kept
        assert len(kept) < 5 + len([t for t in done if len(state.entries[t.candidate_id].trials) > 1]) + 1

    made.append(Inline(tmp_path / "c", proposer=Watched(look), budget=Budget(trials=100), direction=direction))
    made[0].run()
