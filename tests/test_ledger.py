"""Budgets that hold: every model call is reserved before it is made, settled after, and never more than the limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline import Crash, Inline, Walk

from evolve import journal as journals
from evolve.agent import AgentProposer
from evolve.budget import exhausted, no_more_calls, room
from evolve.config import load
from evolve.errors import BadInput, ModelFailed, ProposerFailed
from evolve.ledger import Ledger, MeteredModel
from evolve.llm import ScriptedModel
from evolve.memory import View
from evolve.ports import Completion
from evolve.proposers import AdvisedProposer
from evolve.state import State, replay
from evolve.types import (
    Budget,
    CampaignStopped,
    Environment,
    ModelCallFinished,
    ModelCallRefused,
    ModelCallStarted,
    Proposal,
    SessionStarted,
    Spend,
    TrialFinished,
    TrialInterrupted,
    TrialStarted,
    Usage,
)

HELLO = [{"role": "user", "content": "hello"}]
MOST = Spend(llm_tokens=10, llm_usd=0.1)


@dataclass
class Paid:
    """A model whose calls cost what is told, at most `MOST`; it knows what it really cost, as a provider does."""

    costs: Callable[[int], Spend | Exception] = lambda call: Spend(llm_tokens=7, llm_usd=0.07)
    name: str = "paid"
    calls_tools: bool = False
    billed: list[Spend] = field(default_factory=list)
    seen: list[list[Mapping[str, Any]]] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    def ceiling(self, messages: Sequence[Mapping[str, Any]]) -> Spend:
        self.seen.append(list(messages))
        return MOST

    def complete(self, messages: Any, schema: Any = None, tools: Any = ()) -> Completion:
        cost = self.costs(len(self.billed))
        self.billed.append(cost if isinstance(cost, Spend) else getattr(cost, "spend", Spend()))
        self.before()
        if isinstance(cost, Exception):
            raise cost
        return Completion("{}", self.name, cost)

    @property
    def bill(self) -> Spend:
        return sum(self.billed, Spend())


@dataclass
class Caller:
    """An advisor that makes `calls` calls a turn, in the loop's thread or in one of its own."""

    model: Any
    instant: bool = False
    calls: int = 2
    name: str = "caller"

    def propose(self, view: View) -> Proposal:
        spend = Spend()
        try:
            for _ in range(self.calls):
                spend += self.model.complete(HELLO).spend
        except ModelFailed as error:
            raise ProposerFailed(str(error), self.name, spend + error.spend) from error
        proposal = Walk(self.name).propose(replace(view, turn=1000 + view.turn + view.turns.get(self.name, 0)))
        return replace(proposal, model="paid", spend=spend)


def with_model(folder: Path, model: Paid, instant: bool = False, **changes: object) -> Inline:
    ledger = Ledger()
    advisor = Caller(MeteredModel(model, ledger, "caller"), instant)
    return Inline(folder, AdvisedProposer(None), advisor=advisor, advice_share=1.0, ledger=ledger, **changes)  # type: ignore[arg-type]


def events(campaign: Inline, kind: type) -> list[Any]:
    return [r.event for r, _ in journals.read(campaign.folder / "journal.jsonl") if isinstance(r.event, kind)]


# ---------------------------------------------------------------- the wrapper


@pytest.mark.parametrize("instant", [True, False], ids=["in the loop's thread", "in its own thread"])
def test_a_call_is_in_the_journal_before_it_is_made_and_its_cost_after(tmp_path: Path, instant: bool) -> None:
    model = Paid()
    campaign = with_model(tmp_path / "c", model, instant, budget=Budget(trials=8))
    during: list[tuple[int, int]] = []
    model.before = lambda: during.append(
        (len(events(campaign, ModelCallStarted)), len(events(campaign, ModelCallFinished)))
    )
    campaign.run()
    assert during == [(n + 1, n) for n in range(len(during))]
    assert during
    started, finished = events(campaign, ModelCallStarted), events(campaign, ModelCallFinished)
    assert [e.call for e in started] == [e.call for e in finished] == list(range(len(model.billed)))
    assert {(e.by, e.model, e.reserved) for e in started} == {("caller", "paid", MOST)}
    assert campaign.state.spend.llm_tokens == model.bill.llm_tokens == 7 * len(model.billed)


def test_schema_and_tools_are_part_of_what_is_reserved(tmp_path: Path) -> None:
    model = Paid()
    campaign = with_model(tmp_path / "c", model, instant=True, budget=Budget(trials=5))
    campaign.advisor.model = Asks(campaign.advisor.model)  # type: ignore[attr-defined]
    campaign.run()
    assert '"the schema"' in model.seen[0][-1]["content"]
    assert '"the tool"' in model.seen[0][-1]["content"]


@dataclass
class Asks:
    model: Any

    def complete(self, messages: Any) -> Completion:
        return self.model.complete(messages, {"title": "the schema"}, [{"name": "the tool"}])  # type: ignore[no-any-return]


def test_a_failed_call_is_settled_at_what_its_attempts_cost(tmp_path: Path) -> None:
    cost = Spend(llm_tokens=3, llm_usd=0.03)
    model = Paid(lambda call: ModelFailed("refused", cost) if call == 0 else Spend(llm_tokens=5))
    campaign = with_model(tmp_path / "c", model, budget=Budget(trials=6))
    campaign.run()
    first = events(campaign, ModelCallFinished)[0]
    assert (first.spend, first.error) == (cost, "refused")
    assert campaign.state.spend.llm_tokens == model.bill.llm_tokens


def test_a_call_whose_cost_nobody_knows_is_settled_at_its_reservation(tmp_path: Path) -> None:
    model = Paid(lambda call: ZeroDivisionError() if call == 0 else Spend(llm_tokens=5))
    campaign = with_model(tmp_path / "c", model, budget=Budget(trials=6))
    campaign.run()
    first = events(campaign, ModelCallFinished)[0]
    assert first.spend == MOST
    assert "not known" in first.error


def test_no_call_is_made_outside_a_session() -> None:
    model = Paid()
    with pytest.raises(ModelFailed, match="none is open"):
        MeteredModel(model, Ledger()).complete(HELLO)
    assert model.billed == []


def test_the_whole_agent_can_be_metered(tmp_path: Path) -> None:
    ledger = Ledger()
    say = '{"changes": {"x": 0.%d}, "rationale": "r"}'
    model = ScriptedModel([say % (60 + i) for i in range(30)], spend=Spend(llm_tokens=4))
    agent = AgentProposer(MeteredModel(model, ledger))
    campaign = Inline(
        tmp_path / "c", AdvisedProposer(None), advisor=agent, advice_share=1.0, ledger=ledger, budget=Budget(trials=8)
    )
    campaign.run()
    assert campaign.state.spend.llm_tokens == 4 * len(model.calls) > 0


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (Budget(trials=30, llm_tokens=40), "budget.llm_tokens: 35 of 40 spent, a call may take 10"),
        (Budget(trials=30, llm_usd=0.4), "budget.llm_usd: 0.3500 of 0.4000 spent, a call may take 0.1000"),
        (
            Budget(trials=30, usd=0.4, price_cpu_hour=0.0),
            "budget.usd: 0.3500 of 0.4000 dollars spent, a call may take 0.1000",
        ),
    ],
)
def test_a_call_that_might_pass_a_limit_is_not_made_and_ends_an_agent_alone(
    tmp_path: Path, budget: Budget, line: str
) -> None:
    model = Paid()
    campaign = with_model(tmp_path / "c", model, budget=budget)
    stopped = campaign.run()
    assert len(model.billed) == 5
    assert [e.reason for e in events(campaign, ModelCallRefused)] == [line]
    assert stopped.reason.startswith(line), "the stop reason is that line"
    campaign.budget = replace(budget, llm_tokens=None, llm_usd=None, usd=None, trials=12)
    campaign.run()
    assert len(model.billed) > 5, "a larger budget goes on"


def test_calls_under_way_are_counted() -> None:
    state = replay([])
    state.calls = {0: ModelCallStarted(0, "a", "m", MOST), 1: ModelCallStarted(1, "b", "m", MOST)}
    reserved = sum((c.reserved for c in state.calls.values()), Spend())
    assert room(Budget(llm_tokens=30), reserved, MOST) is None
    assert room(Budget(llm_tokens=29), reserved, MOST) == "budget.llm_tokens: 20 of 29 spent, a call may take 10"
    assert no_more_calls(Budget(llm_tokens=20), reserved) == "budget.llm_tokens: 20 of 20 spent"


COSTS = st.lists(st.tuples(st.integers(0, 10), st.booleans()), max_size=12)


@settings(max_examples=25)
@given(costs=COSTS, crash=st.integers(5, 60), limit=st.integers(0, 80), instant=st.booleans())
def test_no_sequence_of_calls_and_crashes_passes_the_budget_or_falls_short_of_the_bill(
    tmp_path_factory: pytest.TempPathFactory, costs: list[tuple[int, bool]], crash: int, limit: int, instant: bool
) -> None:
    def cost(call: int) -> Spend | Exception:
        tokens, fails = costs[call] if call < len(costs) else (10, False)
        spend = Spend(llm_tokens=tokens, llm_usd=tokens / 100)
        return ModelFailed("no", spend) if fails else spend

    model = Paid(cost)
    folder = tmp_path_factory.mktemp("c") / "x"
    campaign = with_model(folder, model, instant, budget=Budget(trials=8, llm_tokens=max(1, limit)), crash_after=crash)
    try:
        campaign.run()
    except Crash:
        for thread in threading.enumerate():
            if thread.name == "advisor":
                thread.join(10)
        campaign.crash_after = None
        campaign.run()
    assert campaign.state.spend.llm_tokens <= max(1, limit)
    assert campaign.state.spend.llm_tokens >= model.bill.llm_tokens
    started = {e.call: e.reserved for e in events(campaign, ModelCallStarted)}
    assert len(started) >= len(model.billed), "none was made that had not been written"
    assert {e.call for e in events(campaign, ModelCallFinished)} == set(started), "all are settled at the end"
    answered = [e for e in events(campaign, ModelCallFinished) if "not known" not in e.error]
    assert sum(e.spend.llm_tokens for e in answered) <= model.bill.llm_tokens


def test_over_five_hundred_calls_the_journal_says_what_the_provider_billed(tmp_path: Path) -> None:
    model = Paid(lambda call: Spend(llm_tokens=call % 11, llm_usd=call % 11 / 128, llm_tokens_out=call % 3))
    campaign = with_model(tmp_path / "c", model, instant=True, budget=Budget(trials=260), skill=lambda params, rng: 0.5)
    campaign.run()
    assert len(model.billed) > 500
    spend, bill = campaign.state.spend, model.bill
    assert (spend.llm_tokens, spend.llm_tokens_out, spend.llm_usd) == (
        bill.llm_tokens,
        bill.llm_tokens_out,
        bill.llm_usd,
    )


# ---------------------------------------------------------------- crashes


def test_a_call_that_was_open_at_a_kill_is_settled_by_the_next_session_and_said_so(tmp_path: Path) -> None:
    model = Paid()
    campaign = with_model(tmp_path / "c", model, instant=True, budget=Budget(trials=6))

    def die() -> None:
        raise Crash

    model.before = die
    caller = campaign.advisor
    assert isinstance(caller, Caller)
    caller.model = MeteredModel(model, DeadInTheCall(campaign.ledger), "caller")  # type: ignore[arg-type]
    with pytest.raises(Crash):
        campaign.run()
    assert len(events(campaign, ModelCallStarted)) == 1
    assert events(campaign, ModelCallFinished) == []
    model.before = lambda: None
    caller.model = MeteredModel(model, campaign.ledger, "caller")
    campaign.run()
    first = events(campaign, ModelCallFinished)[0]
    assert (first.call, first.spend) == (0, MOST)
    assert "open when its session was killed" in first.error
    settled = campaign.state.spend.llm_tokens
    assert settled == model.bill.llm_tokens + MOST.llm_tokens - 7


@dataclass
class DeadInTheCall:
    """A ledger whose process dies during the call: the reservation is written, nothing after it is."""

    ledger: Ledger

    @property
    def books(self) -> DeadInTheCall:
        return self

    def reserve(self, by: str, model: str, ahead: Spend) -> int:
        return self.ledger.books.reserve(by, model, ahead)

    def settle(self, call: int, spend: Spend, error: str) -> None:
        pass


def test_a_call_that_outlives_its_session_is_settled_at_its_end(tmp_path: Path) -> None:
    over = threading.Event()
    model = Paid(before=lambda: over.wait(30) and None)
    campaign = with_model(tmp_path / "c", model, budget=Budget(trials=5))
    original = campaign.executor.train

    def train(trial: Any, *rest: Any) -> Any:
        if trial.number == 3:
            campaign.command("stop")
        return original(trial, *rest)

    campaign.executor.train = train  # type: ignore[method-assign]
    campaign.run()
    over.set()
    for thread in threading.enumerate():
        if thread.name == "advisor":
            thread.join(30)
    (last,) = events(campaign, ModelCallFinished)
    assert last.spend == MOST
    assert "left behind" in last.error
    assert campaign.state.calls == {}


# ---------------------------------------------------------------- trainings and the clock


def test_a_training_is_not_begun_that_might_pass_the_limit_of_cpu_seconds(tmp_path: Path) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=30, train_seconds=9.5), workers=4)
    stopped = campaign.run()  # a CPU second each
    assert campaign.state.spend.train_seconds == 9
    assert stopped.reason.startswith("budget.train_seconds: 9 of 10 CPU seconds spent, a training may take 1")


def test_trainings_cost_their_hours_and_dollars_of_all_kinds_share_one_limit(tmp_path: Path) -> None:
    model = Paid()
    prices = {"price_cpu_hour": 360.0}  # 0.10 dollars a CPU second
    campaign = with_model(tmp_path / "c", model, budget=Budget(trials=50, usd=1.0, **prices))
    campaign.run()
    spend = campaign.state.spend
    assert spend.train_usd == pytest.approx(0.1 * len(events(campaign, TrialFinished)))
    assert spend.llm_usd == pytest.approx(model.bill.llm_usd)
    assert 0.7 <= spend.usd <= 1.0


def test_off_the_cpu_an_hour_of_wall_clock_costs_the_gpus_price() -> None:
    from evolve.budget import training_spend

    usage, budget = Usage(cpu_seconds=10, wall_seconds=7200, peak_memory_mb=1), Budget(price_gpu_hour=2.5)
    assert training_spend(budget, usage, "cuda").train_usd == 5.0
    assert training_spend(budget, usage, "cpu").train_usd == 0.0


def test_a_dollar_limit_for_everything_needs_the_price_of_an_hour() -> None:
    words = ["subject=quadratic", "budget.usd=1"]
    with pytest.raises(BadInput, match="budget.price_cpu_hour is null"):
        load(words)
    with pytest.raises(BadInput, match="budget.price_gpu_hour is null"):
        load([*words, "budget.price_cpu_hour=0.1", "subject.device=cuda"])
    with pytest.raises(BadInput, match="budget.price_cpu_hour >= 0"):
        load([*words, "budget.price_cpu_hour=-1"])
    assert load([*words, "budget.price_cpu_hour=0.1"]).budget.usd == 1


def test_wall_seconds_are_those_of_all_sessions_and_not_the_time_between(tmp_path: Path) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=6))
    campaign.run()
    first = campaign.state.wall_seconds
    records = [r for r, _ in journals.read(tmp_path / "c" / "journal.jsonl")]
    (begun,) = [r.time for r in records if isinstance(r.event, SessionStarted)]
    assert first == records[-1].time - begun > 0
    campaign.budget = Budget(trials=8)
    campaign.run()  # its clock begins again at 0: another day's session
    records = [r for r, _ in journals.read(tmp_path / "c" / "journal.jsonl")]
    (_, again) = [r.time for r in records if isinstance(r.event, SessionStarted)]
    assert campaign.state.wall_seconds >= first + records[-1].time - again


def test_at_the_end_of_the_wall_clock_what_runs_is_ended_and_run_again_later(tmp_path: Path) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=30, wall_seconds=40))  # a clock of one second a line
    stopped = campaign.run()
    assert stopped.kind == "finished"
    assert stopped.reason.startswith("budget.wall_seconds: 4")
    assert len(events(campaign, TrialFinished)) < 30
    campaign.budget = Budget(trials=8)
    campaign.run()
    assert len(events(campaign, TrialFinished)) >= 8


def test_what_a_killed_training_used_is_counted_as_much_as_was_reserved_for_it(tmp_path: Path) -> None:
    state = replayed_with_a_running_training(tmp_path)
    before = state.spend.train_seconds
    from evolve.state import apply

    apply(
        state,
        next(
            r.event for r, _ in journals.read(tmp_path / "c" / "journal.jsonl") if isinstance(r.event, SessionStarted)
        ),
    )
    assert state.spend.train_seconds == before + 1.0, "the largest training so far"


def test_what_was_seen_of_a_killed_training_is_counted_and_not_the_largest(tmp_path: Path) -> None:
    state = replayed_with_a_running_training(tmp_path)
    before = state.spend.train_seconds
    here = Environment("cpu x2", "linux", "0" * 64, None, "3.11")
    killed = (Usage(0.25, 0.5, 0.0), Usage(7.0, 8.0, 0.0))
    from evolve.state import apply

    apply(state, SessionStarted(here, 1, "none", Budget(trials=6), 1, killed))
    assert state.spend.train_seconds == before + 7.25


def test_what_a_training_used_before_an_orderly_stop_is_counted_exactly(tmp_path: Path) -> None:
    state = replayed_with_a_running_training(tmp_path)
    from evolve.state import apply

    (number,) = state.running
    before, attempt = state.spend.train_seconds, state.trials[number].attempt
    apply(state, TrialInterrupted(number, Usage(0.25, 0.3, 1.0)))
    apply(state, CampaignStopped("stopped", "interrupted"))
    assert state.spend.train_seconds == before + 0.25
    assert (state.trials[number].attempt, list(state.waiting), state.running) == (attempt - 1, [number], {})


def replayed_with_a_running_training(tmp_path: Path) -> State:
    """A campaign as it stood right after its fourth training began."""
    campaign = Inline(tmp_path / "c", budget=Budget(trials=6))
    campaign.run()
    found, begun = [], 0
    for record, _ in journals.read(tmp_path / "c" / "journal.jsonl"):
        found.append(record.event)
        begun += isinstance(record.event, TrialStarted)
        if begun == 4:
            break
    return replay(found)


def test_the_line_of_each_limit_names_it_with_what_is_spent() -> None:
    spend = Spend(trials=3, train_seconds=50.0, train_usd=0.5, llm_usd=0.25, wall_seconds=100.0)
    ahead = Spend(train_seconds=20.0, train_usd=0.3, wall_seconds=15.0)
    assert exhausted(Budget(), spend, ahead) is None
    assert exhausted(Budget(trials=3), spend, ahead) == "budget.trials: 3 of 3 spent"
    assert exhausted(Budget(train_seconds=70), spend, ahead) is None
    assert exhausted(Budget(train_seconds=69), spend, ahead) == (
        "budget.train_seconds: 50 of 69 CPU seconds spent, a training may take 20"
    )
    assert exhausted(Budget(wall_seconds=110), spend, ahead) == (
        "budget.wall_seconds: 100 of 110 seconds spent, a training may take 15"
    )
    assert exhausted(Budget(usd=0.75), spend, ahead) == "budget.usd: 0.7500 of 0.7500 dollars spent"
    assert exhausted(Budget(usd=1.0), spend, ahead) == (
        "budget.usd: 0.7500 of 1.0000 dollars spent, a training may take 0.3000"
    )
