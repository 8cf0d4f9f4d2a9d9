"""Advice: an advisor's suggestions, asked ahead in a thread of its own, and what becomes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline import Crash, Inline, Scripted, Walk

from evolve import journal as journals
from evolve.errors import ModelFailed, ProposerFailed
from evolve.ledger import Ledger
from evolve.log_text import log_lines
from evolve.memory import View
from evolve.playbook import PlaybookProposer
from evolve.proposers import AdvisedProposer
from evolve.state import MOST_SUGGESTIONS, State, apply, replay
from evolve.tracking_values import trial_tags
from evolve.types import (
    AdviceStarted,
    Budget,
    Candidate,
    Event,
    HumanProposed,
    ModelCallRefused,
    ProposalFailed,
    Proposed,
    Spend,
    Suggested,
    TrialFinished,
    TrialScheduled,
    short,
)

CALL = Spend(llm_tokens=10)


@dataclass
class Slow:
    """An advisor in a thread. `answer` is called with the view and the number of the call, from 0; each costs 10 tokens."""

    answer: Callable[[View, int], dict[str, object]] = lambda view, call: {"x": 0.3 + call / 1000}
    name: str = "slow"
    instant: bool = False
    views: list[View] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    ledger: Ledger | None = None  # of the campaign

    def propose(self, view: View) -> object:
        self.threads.add(threading.current_thread().name)
        books = self.ledger.books if self.ledger else None
        try:
            call = books.reserve(self.name, "m", CALL) if books else 0
        except ModelFailed as error:
            raise ProposerFailed(str(error), self.name) from error
        self.views.append(view)
        try:
            params = view.space.overlay(view.default, self.answer(view, len(self.views) - 1))
        finally:
            if books:
                books.settle(call, CALL, "")
        return replace(Walk().propose(view), candidate=Candidate(params, "v"), proposer=self.name, spend=CALL)


def waits_for(event: threading.Event) -> Callable[[View, int], dict[str, object]]:
    def answer(view: View, call: int) -> dict[str, object]:
        event.wait(30)
        return {"x": 0.3 + call / 1000}

    return answer


def fails(view: View, call: int) -> dict[str, object]:
    raise ProposerFailed("no idea", "slow", CALL)


def advised(folder: Path, advisor: object, share: float = 0.3, **settings: object) -> Inline:
    """A campaign in which `advisor` advises a walk."""
    campaign = Inline(folder, AdvisedProposer(Walk(), share), advisor=advisor, advice_share=share, **settings)  # type: ignore[arg-type]
    return metered(campaign, advisor)


def metered(campaign: Inline, advisor: object) -> Inline:
    if isinstance(advisor, Slow):
        advisor.ledger = campaign.ledger
    return campaign


def alone(folder: Path, advisor: object, **settings: object) -> Inline:
    return metered(Inline(folder, AdvisedProposer(None), advisor=advisor, advice_share=1.0, **settings), advisor)  # type: ignore[arg-type]


def events(campaign: Inline) -> list[Event]:
    return [r.event for r, _ in journals.read(campaign.folder / "journal.jsonl")]


def of(campaign: Inline, kind: type) -> list:  # type: ignore[type-arg]
    return [e for e in events(campaign) if isinstance(e, kind)]


def slowly(campaign: Inline, seconds: float = 0.005) -> Inline:
    """Trainings that leave an advisor time to answer."""
    original = campaign.executor.train

    def train(*arguments):  # type: ignore[no-untyped-def]
        time.sleep(seconds)
        return original(*arguments)

    campaign.executor.train = train  # type: ignore[method-assign]
    return campaign


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "campaign"


# ---------------------------------------------------------------- nobody waits


@pytest.mark.parametrize("workers", [1, 3])
def test_an_advisor_that_never_answers_keeps_no_worker_waiting(folder: Path, workers: int) -> None:
    over = threading.Event()
    campaign = advised(folder, Slow(waits_for(over)), workers=workers)
    stopped = campaign.run()  # ends though the advisor does not
    over.set()
    assert "budget.trials: 20 of 20 spent" in stopped.reason
    assert len(of(campaign, TrialFinished)) == 20
    assert len(of(campaign, AdviceStarted)) == 1, "one call at a time"
    assert {e.proposal.proposer for e in of(campaign, Proposed)} == {"walk"}


def test_the_first_advice_is_asked_for_while_the_noise_floor_is_made(folder: Path) -> None:
    campaign = slowly(advised(folder, Slow()))
    campaign.run()
    kinds = [type(e) for e in events(campaign)]
    assert kinds.index(AdviceStarted) < kinds.index(TrialFinished)
    first = of(campaign, Proposed)[0].proposal
    assert (first.proposer, first.decided) == (
        "slow", "suggestion of slow: 0 of 0 candidates before, reserved quota 30%"
    )  # fmt: skip


def test_an_advisor_has_its_share_and_one_thread_at_a_time_which_is_not_the_loops(folder: Path) -> None:
    advisor = Slow()
    campaign = slowly(advised(folder, advisor, workers=2, budget=Budget(trials=40)))
    campaign.run()
    by = [e.proposal.proposer for e in of(campaign, Proposed)]
    assert 0.2 <= by.count("slow") / len(by) <= 0.4
    assert advisor.threads == {"advisor"}
    state = campaign.state
    assert state.spend.llm_tokens == 10 * len(advisor.views) == 10 * state.turns["slow"]
    tried = [e for e in state.entries.values() if e.proposal.proposer == "slow"]
    assert {e.proposal.spend.llm_tokens for e in tried} == {10}, "what it cost stays with the candidate"


def test_free_workers_search_beside_the_noise_floor(folder: Path) -> None:
    campaign, together = Inline(folder, workers=8), threading.Barrier(8)
    original = campaign.executor.train

    def train(trial, *rest):  # type: ignore[no-untyped-def]
        if trial.number < 8:
            together.wait(30)
        return original(trial, *rest)

    campaign.executor.train = train  # type: ignore[method-assign]
    campaign.run()
    assert [e.purpose for e in of(campaign, TrialScheduled)][:8] == ["bank"] * 4 + ["search"] * 4


def test_what_was_searched_beside_the_noise_floor_is_compared_with_it_when_it_is_there(folder: Path) -> None:
    good = {"x": 0.8, "mode": "b", "z": 4}
    campaign, searched = Inline(folder, Scripted([good]), workers=5), threading.Event()
    original, emit = campaign.executor.train, campaign.tracker.record

    def train(trial, *rest):  # type: ignore[no-untyped-def]
        if trial.purpose == "bank":
            searched.wait(30)
        return original(trial, *rest)

    def record(record):  # type: ignore[no-untyped-def]
        emit(record)
        if isinstance(record.event, TrialFinished):
            searched.set()

    campaign.executor.train, campaign.tracker.record = train, record  # type: ignore[method-assign]
    campaign.run()
    assert of(campaign, TrialFinished)[0].number == 4, "the candidate was scored before any of the champion's"
    (request,) = campaign.state.pending.values()
    assert campaign.state.entries[request.candidate_id].proposal.candidate.params == good


# ---------------------------------------------------------------- one mechanism for the agent alone


@pytest.mark.parametrize("workers", [1, 3])
def test_an_advisor_alone_proposes_everything_ahead_of_need(folder: Path, workers: int) -> None:
    campaign = slowly(alone(folder, Slow(), workers=workers))
    stopped = campaign.run()
    assert "20 of 20 spent" in stopped.reason
    assert {e.proposal.proposer for e in of(campaign, Proposed)} == {"slow"}
    assert all("nobody else proposes" in e.proposal.decided for e in of(campaign, Proposed))
    assert len(campaign.state.suggestions) == 0, "nothing is asked for that could not be trained"


def test_a_worker_waits_only_for_an_advisor_that_is_alone(folder: Path) -> None:
    over = threading.Event()
    campaign = alone(folder, Slow(waits_for(over)), budget=Budget(trials=6))
    running = threading.Thread(target=campaign.run, daemon=True)
    running.start()
    deadline = time.monotonic() + 30
    while len(campaign.state.bank(campaign.state.champion_id) if campaign.state.started else ()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    assert campaign.state.proposals == 0
    over.set()
    running.join(30)
    assert len(of(campaign, TrialFinished)) == 6


def test_an_advisor_alone_that_fails_ends_the_campaign_after_as_many_turns_as_any_other(folder: Path) -> None:
    campaign = alone(folder, Slow(fails))
    stopped = campaign.run()
    assert stopped.reason == "no new candidate in 20 turns: the proposers have run out"
    assert campaign.state.spend.llm_tokens == 200


# ---------------------------------------------------------------- failures, late answers, duplicates


def test_a_failing_advisor_neither_ends_the_campaign_nor_is_asked_without_end(folder: Path) -> None:
    campaign = slowly(advised(folder, Slow(fails), budget=Budget(trials=40)))
    stopped = campaign.run()
    assert "40 of 40 spent" in stopped.reason
    failed, proposed = of(campaign, ProposalFailed), of(campaign, Proposed)
    assert 2 <= len(failed) <= 0.3 * (len(proposed) + 1) + 1
    assert all(e.advice and e.reason == "no idea" for e in failed)
    between = [isinstance(e, Proposed) for e in events(campaign) if isinstance(e, Proposed | ProposalFailed)]
    assert "FalseFalse" not in "".join(map(str, between)), "another candidate first"
    assert campaign.state.spend.llm_tokens == 10 * len(failed)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_advisor_whose_thread_dies_is_a_recorded_failure(folder: Path) -> None:
    def dies(view: View, call: int) -> dict[str, object]:
        raise SystemExit

    campaign = alone(folder, Slow(dies), budget=Budget(trials=6))
    assert "the proposers have run out" in campaign.run().reason
    assert of(campaign, ProposalFailed)[0].reason == "its thread ended without an answer"


def test_an_advisor_that_was_slow_at_first_does_not_flood_the_pool(folder: Path) -> None:
    late = threading.Event()

    def answer(view: View, call: int) -> dict[str, object]:
        late.wait(30)
        return {"x": 0.3 + call / 1000}

    campaign = slowly(advised(folder, Slow(answer), budget=Budget(trials=60)))
    original = campaign.executor.train

    def train(trial, *rest):  # type: ignore[no-untyped-def]
        if trial.number == 30:
            late.set()
        return original(trial, *rest)

    campaign.executor.train = train  # type: ignore[method-assign]
    campaign.run()
    made = {e.proposal.candidate.id for e in of(campaign, Suggested)}
    assert len(made) >= 3
    assert made <= {*campaign.state.entries, *campaign.state.suggestions}, "none fell out of the pool untried"


def test_a_session_does_not_wait_for_a_slow_call_and_its_late_answer_is_dropped(folder: Path) -> None:
    over = threading.Event()
    campaign = alone(folder, Slow(waits_for(over)), budget=Budget(trials=6))
    original = campaign.executor.train

    def train(trial, *rest):  # type: ignore[no-untyped-def]
        if trial.number == 3:
            campaign.command("stop")
        return original(trial, *rest)

    campaign.executor.train = train  # type: ignore[method-assign]
    assert campaign.run().reason == "stopped on request"
    assert of(campaign, AdviceStarted)
    before, (thread,) = events(campaign), [t for t in threading.enumerate() if t.name == "advisor"]
    over.set()
    thread.join(30)
    assert events(campaign) == before
    campaign.run()
    assert len(of(campaign, TrialFinished)) == 6


def test_an_answer_that_comes_before_the_session_is_closed_is_recorded_with_its_cost(folder: Path) -> None:
    over = threading.Event()
    campaign = slowly(advised(folder, Slow(waits_for(over)), budget=Budget(trials=6)))
    original = campaign.executor.train

    def last(trial, *rest):  # type: ignore[no-untyped-def]
        if trial.number == 5:
            threading.Timer(0.2, over.set).start()  # after the last training
        return original(trial, *rest)

    campaign.executor.train = last  # type: ignore[method-assign]
    campaign.run()
    assert len(of(campaign, Suggested)) == 1
    assert campaign.state.spend.llm_tokens == 10
    assert len(campaign.state.suggestions) == 1, "tried when the campaign goes on"


def test_a_suggestion_that_somebody_else_proposed_meanwhile_is_a_failure_with_its_cost(folder: Path) -> None:
    over = threading.Event()

    def same(view: View, call: int) -> dict[str, object]:
        over.wait(30)
        return {"x": 0.42 if call == 0 else 0.3 + call / 1000}

    campaign = slowly(advised(folder, Slow(same)))
    original = campaign.executor.train

    def train(trial, candidate, *rest):  # type: ignore[no-untyped-def]
        if trial.number == 1:
            while not campaign.state.calls:  # the advisor is at work
                time.sleep(0.01)
            campaign.command("try", params={"x": 0.42})
        if candidate.params["x"] == 0.42:
            over.set()
            for _ in range(200):  # the campaign must not be over before the answer has arrived
                if b"ProposalFailed" in (folder / "journal.jsonl").read_bytes():
                    break
                time.sleep(0.05)
        return original(trial, candidate, *rest)

    campaign.executor.train = train  # type: ignore[method-assign]
    campaign.run()
    assert len(of(campaign, HumanProposed)) == 1
    failed = of(campaign, ProposalFailed)
    assert "was proposed before by human" in failed[0].reason
    assert failed[0].advice and failed[0].spend == CALL


def test_a_repeated_suggestion_is_asked_for_again(folder: Path) -> None:
    def repeats(view: View, call: int) -> dict[str, object]:
        return {"x": 0.3 + view.retry / 100}

    campaign = slowly(alone(folder, Slow(repeats), budget=Budget(trials=8), workers=2))
    campaign.run()
    xs = [e.proposal.candidate.params["x"] for e in of(campaign, Suggested)]
    assert xs[:3] == [0.3, 0.31, 0.32]


def test_no_call_is_made_that_the_budget_does_not_allow(folder: Path) -> None:
    campaign = slowly(advised(folder, Slow(), budget=Budget(trials=40, llm_tokens=25)))
    campaign.run()
    assert campaign.state.spend.llm_tokens == 20, "a third call might have passed the limit"
    assert [e.reason for e in of(campaign, ModelCallRefused)] == [
        "budget.llm_tokens: 20 of 25 spent, a call may take 10"
    ], "it is not asked again and again"
    assert len(of(campaign, TrialFinished)) == 40
    stopped = slowly(alone(folder.with_name("b"), Slow(), budget=Budget(trials=40, llm_tokens=25))).run()
    assert stopped.reason == "budget.llm_tokens: 20 of 25 spent, a call may take 10"


# ---------------------------------------------------------------- laws


def playbook(folder: Path, **settings: object) -> Inline:
    return advised(folder, PlaybookProposer(), budget=Budget(trials=24), **settings)


def stable(campaign: Inline) -> list[dict[str, object]]:
    return list(journals.stable(r for r, _ in journals.read(campaign.folder / "journal.jsonl")))


def test_with_the_playbook_the_same_seed_gives_the_same_campaign_and_says_why(tmp_path: Path) -> None:
    first, second = playbook(tmp_path / "a", seed=3), playbook(tmp_path / "b", seed=3)
    first.run()
    second.run()
    assert stable(first) == stable(second)
    proposed = [e.proposal for e in of(first, Proposed)]
    assert {p.proposer for p in proposed} == {"playbook", "walk"}
    assert all(p.decided for p in proposed)
    trial = next(t.number for t in first.state.trials.values() if t.candidate_id == proposed[0].candidate.id)
    assert trial_tags(first.state, trial, "run")["evolve.decided"] == proposed[0].decided
    told = "\n".join(log_lines(r for r, _ in journals.read(first.folder / "journal.jsonl")))
    assert f"suggested  {short(proposed[0].candidate.id)} by playbook" in told
    assert f"by playbook ({proposed[0].decided})" in told
    assert of(first, AdviceStarted) == [], "who answers at once is not asked ahead"


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(1, 110))
def test_an_interrupted_campaign_with_the_playbook_equals_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int
) -> None:
    whole = playbook(tmp_path_factory.mktemp("a") / "x", seed=seed)
    whole.run()
    broken = playbook(tmp_path_factory.mktemp("b") / "x", seed=seed, crash_after=cut)
    try:
        broken.run()
    except Crash:
        broken.crash_after = None
        broken.run()
    assert stable(whole) == stable(broken)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([0.3, 1.0]), st.integers(1, 120))
def test_replaying_a_journal_with_advice_gives_the_live_state_also_after_a_crash(
    tmp_path_factory: pytest.TempPathFactory, seed: int, workers: int, share: float, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("c") / "x"
    make = alone if share == 1 else advised
    campaign = make(folder, Slow(), seed=seed, workers=workers, crash_after=cut)
    try:
        campaign.run()
    except Crash:  # also between the question and its answer
        campaign.crash_after = None
        campaign.run()
    recorded = events(campaign)
    assert replay(recorded) == campaign.state
    assert campaign.state.spend.trials == 20
    live = State()
    for event in recorded:
        apply(live, event)
        assert len(live.suggestions) <= MOST_SUGGESTIONS
        assert not set(live.suggestions) & set(live.entries)


def test_a_crash_between_question_and_answer_asks_again(folder: Path) -> None:
    over = threading.Event()
    campaign = alone(folder, Slow(waits_for(over)), crash_after=4, budget=Budget(trials=6))  # a training's end is next
    slowly(campaign, 0.05)
    with pytest.raises(Crash):
        campaign.run()
    over.set()
    assert replay(events(campaign)).advising == "slow"
    campaign.crash_after = None
    campaign.run()
    assert campaign.state.advising is None
    assert len(of(campaign, TrialFinished)) == 6


def test_only_the_latest_suggestions_wait(folder: Path) -> None:
    campaign = Inline(folder, budget=Budget(trials=4))
    campaign.run()
    state = replay(events(campaign))
    for i in range(6):
        proposal = replace(Walk().propose(_view(state)), candidate=Candidate({"x": i / 10, "mode": "a"}, "v"))
        apply(state, Suggested(proposal))
    assert [s.candidate.params["x"] for s in state.suggestions.values()] == [0.2, 0.3, 0.4, 0.5]


def _view(state: State) -> View:
    from evolve import memory

    return memory.view(state, 0)
