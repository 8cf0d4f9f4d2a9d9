"""The circuit breaker and the fallbacks in front of scripted models, and what a campaign makes of an open breaker."""

from __future__ import annotations

from pathlib import Path

import pytest
from inline import Inline, Walk

from evolve import journal as journals
from evolve.agent import AgentProposer
from evolve.errors import ModelFailed
from evolve.fallbacks import CircuitBreaker, Fallbacks
from evolve.ledger import Ledger, MeteredModel
from evolve.llm import ScriptedModel
from evolve.ports import Completion, ToolCall
from evolve.proposers import AdvisedProposer
from evolve.types import Budget, ProposalFailed, Proposed, Spend, TrialFinished

HELLO = [{"role": "user", "content": "hello"}]
CALL = Spend(llm_tokens=10, llm_calls=1)
DOWN = ModelFailed("The model x must answer, but: 503.", CALL, down=True)
WRONG = ModelFailed("The model x must answer, but: 401.", Spend(llm_calls=1))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def breaker(*answers: str | Exception) -> tuple[CircuitBreaker, ScriptedModel, Clock]:
    model, clock = ScriptedModel(answers), Clock()
    return CircuitBreaker(model, clock=clock), model, clock


def fails(model: object, times: int = 1) -> str:
    for _ in range(times):
        with pytest.raises(ModelFailed) as caught:
            model.complete(HELLO)  # type: ignore[attr-defined]
    return str(caught.value)


# ---------------------------------------------------------------- the breaker


def test_after_three_calls_in_a_row_that_found_nobody_the_model_is_left_alone_at_no_cost():
    guarded, model, clock = breaker(DOWN, DOWN, DOWN, "up")
    fails(guarded, 2)
    assert not guarded.paused
    assert fails(guarded).startswith("3 calls in a row failed, the next is in 60 s.")
    clock.now = 59.0
    with pytest.raises(ModelFailed, match="asked again in 1 s") as caught:
        guarded.complete(HELLO)
    assert (len(model.calls), caught.value.spend, guarded.paused) == (3, Spend(), True)
    clock.now = 60.0
    assert not guarded.paused
    assert guarded.complete(HELLO).text == "up"


def test_each_trial_that_fails_doubles_the_pause_up_to_ten_minutes():
    guarded, model, clock = breaker(*[DOWN] * 10)
    fails(guarded, 3)
    pauses = []
    for _ in range(6):
        began = clock.now
        while guarded.paused:
            clock.now += 1.0
        pauses.append(clock.now - began)
        fails(guarded)
    assert pauses == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    assert len(model.calls) == 9, "one trial after each pause"


def test_an_answer_and_a_refusal_both_show_that_somebody_is_there():
    for between in ("up", WRONG):
        guarded, model, _ = breaker(DOWN, DOWN, between, DOWN, DOWN, "up")
        for _ in range(5):
            try:
                guarded.complete(HELLO)
            except ModelFailed:
                continue
        assert guarded.complete(HELLO).text == "up"
        assert len(model.calls) == 6


def test_the_cost_of_a_failed_call_goes_through():
    guarded, _, _ = breaker(DOWN, DOWN, DOWN)
    for _ in range(3):
        with pytest.raises(ModelFailed) as caught:
            guarded.complete(HELLO)
        assert (caught.value.spend, caught.value.down) == (CALL, True)


# ---------------------------------------------------------------- fallbacks


def test_the_next_model_answers_where_the_first_fails_and_says_so():
    first, second = ScriptedModel([DOWN, "one"], name="first"), ScriptedModel(["two"], name="second", spend=CALL)
    both = Fallbacks([first, second])
    completion = both.complete(HELLO)
    assert (completion.text, completion.model, both.name) == ("two", "second", "first")
    assert completion.spend == CALL + CALL, "what the first one's failure cost is counted"
    assert both.complete(HELLO).model == "first"


def test_where_all_fail_the_reasons_and_the_costs_are_all_there():
    both = Fallbacks([ScriptedModel([WRONG]), ScriptedModel([DOWN])])
    with pytest.raises(ModelFailed, match=r"401\. Then: .* 503") as caught:
        both.complete(HELLO)
    assert caught.value.spend == Spend(llm_calls=1) + CALL
    assert not caught.value.down, "the first one is there"


def test_the_ceiling_of_fallbacks_is_that_of_all():
    assert Fallbacks([ScriptedModel([], spend=CALL)] * 3).ceiling(HELLO) == CALL + CALL + CALL


def test_a_fallback_without_tools_is_passed_over_where_there_are_tools():
    calls = ScriptedModel([DOWN], calls_tools=True)
    without = ScriptedModel(["no"])
    with_tools = ScriptedModel([Completion("", "", tool_calls=(ToolCall("1", "a", "{}"),))], name="b", calls_tools=True)
    completion = Fallbacks([calls, without, with_tools]).complete(HELLO, tools=[{"type": "function"}])
    assert (completion.model, without.calls) == ("b", [])


def test_a_model_that_is_left_alone_costs_no_time_and_the_fallback_answers_meanwhile():
    guarded, model, _ = breaker(DOWN, DOWN, DOWN)
    other, _, _ = breaker(*["two"] * 9)
    both = Fallbacks([guarded, other])
    assert [both.complete(HELLO).text for _ in range(9)] == ["two"] * 9
    assert len(model.calls) == 3
    assert not both.paused, "somebody answers"


# ---------------------------------------------------------------- in a campaign


def campaign(folder: Path, model: CircuitBreaker, share: float = 0.3, trials: int = 60) -> Inline:
    sampler = Walk() if share < 1 else None
    ledger = Ledger()
    advisor = AgentProposer(MeteredModel(model, ledger))
    found = Inline(
        folder, AdvisedProposer(sampler, share), advisor=advisor, advice_share=share, budget=Budget(trials=trials),
        ledger=ledger,
    )  # fmt: skip
    found.advisor_paused = lambda: model.paused
    return found


def events(found: Inline, kind: type) -> list:  # type: ignore[type-arg]
    return [r.event for r, _ in journals.read(found.folder / "journal.jsonl") if isinstance(r.event, kind)]


def test_while_the_model_is_left_alone_the_sampler_goes_on_and_nothing_is_recorded(tmp_path: Path):
    guarded, model, _ = breaker(*[DOWN] * 100)
    found = campaign(tmp_path / "c", guarded)
    assert "60 of 60 spent" in found.run().reason
    assert len(model.calls) <= 3
    assert len(events(found, ProposalFailed)) <= 3, "one line for each call that was made"
    assert {e.proposal.proposer for e in events(found, Proposed)} == {"walk"}
    assert found.state.spend.llm_calls == len(model.calls)


def test_a_model_that_comes_back_is_asked_again_by_itself(tmp_path: Path):
    good = '{"changes": {"x": 0.71}, "rationale": "back"}'
    guarded, _, clock = breaker(DOWN, DOWN, DOWN, good, *['{"changes": {"x": 0.72}, "rationale": "on"}'] * 200)
    found = campaign(tmp_path / "c", guarded, share=1.0, trials=6)
    waited = []

    def paused() -> bool:
        if guarded.paused:
            waited.append(clock.now)
            clock.now += 7.0  # the provider is down for a while
        return guarded.paused

    found.advisor_paused = paused
    found.run()
    assert len(waited) == 9, "60 seconds in steps of 7"
    assert len(events(found, ProposalFailed)) == 3
    assert len(events(found, TrialFinished)) == 6
    assert events(found, Proposed)[0].proposal.candidate.params["x"] == 0.71
