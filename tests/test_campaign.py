"""The life of campaigns, on the real loop, policy and journal with inline trainings."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline import Crash, Inline, Scripted, Walk, skill

from evolve import journal as journals
from evolve import memory
from evolve.errors import Cancelled, Lost, TrialFailed
from evolve.policy import weights_to_keep
from evolve.state import State, apply, replay
from evolve.types import (
    ApprovalRequested,
    Budget,
    CommandRefused,
    Decided,
    GateRules,
    Params,
    Promoted,
    Rules,
    SessionStarted,
    TrialFinished,
    TrialInterrupted,
    TrialStarted,
    Usage,
    VaultAnswered,
    VaultAsked,
    VerdictReached,
)

GOOD, BAD, SAME = {"x": 0.8, "mode": "b", "z": 4}, {"x": 0.1}, {"x": 0.5001}


def events(campaign: Inline) -> list[object]:
    return [r.event for r, _ in journals.read(campaign.folder / "journal.jsonl")]


def of(campaign: Inline, kind: type) -> list[object]:
    return [e for e in events(campaign) if isinstance(e, kind)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "campaign"


def test_the_default_is_trained_on_all_baseline_seeds_first(folder: Path) -> None:
    campaign = Inline(folder, budget=Budget(trials=6))
    campaign.run()
    trials = list(campaign.state.trials.values())
    assert [t.purpose for t in trials[:4]] == ["bank"] * 4
    assert len({t.seed for t in trials[:4]}) == 4
    assert {t.candidate_id for t in trials[:4]} == {campaign.state.champion_id}
    assert trials[4].purpose == "search"


def test_a_better_candidate_ends_pending_and_nothing_is_promoted_without_a_person(folder: Path) -> None:
    campaign = Inline(folder, Scripted([BAD, GOOD]))
    stopped = campaign.run()
    state = campaign.state
    assert stopped.kind == "finished"
    (request,) = state.pending.values()
    assert state.entries[request.candidate_id].proposal.candidate.params == GOOD
    assert state.promotions == []
    assert [e.verdict.decision for e in of(campaign, VerdictReached)][-1] == "ACCEPT"  # type: ignore[attr-defined]


def test_evidence_is_taken_on_fresh_seeds_only(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    campaign.run()
    state = campaign.state
    (request,) = state.pending.values()
    by_purpose = {
        p: [state.trials[n] for n in state.entries[request.candidate_id].trials if state.trials[n].purpose == p]
        for p in ("search", "gate")
    }
    assert by_purpose["search"][0].seed not in {t.seed for t in by_purpose["gate"]}
    # the promoted weights are those of the first gate seed, whatever the others scored
    assert request.weights == by_purpose["gate"][0].weights
    assert by_purpose["gate"][0].seed_index == 1


def test_the_vault_is_asked_only_after_an_accept_and_is_counted_before_it_answers(folder: Path) -> None:
    campaign = Inline(folder, Scripted([BAD, SAME, GOOD]))
    campaign.run()
    kinds = [
        type(e)
        for e in events(campaign)
        if isinstance(e, VerdictReached | VaultAsked | VaultAnswered | ApprovalRequested)
    ]
    assert kinds[-4:] == [VerdictReached, VaultAsked, VaultAnswered, ApprovalRequested]
    assert campaign.state.vault_queries == 1


def test_no_vault_query_left_means_no_challenge_and_a_line_that_says_so(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]), gate=GateRules(vault_queries=0))
    stopped = campaign.run()
    assert "all 0 vault queries are used" in stopped.reason
    assert not campaign.state.pending


def test_a_useless_candidate_never_becomes_pending(folder: Path) -> None:
    campaign = Inline(folder, Walk(), skill=lambda params, rng: rng.gauss(0.5, 0.02), budget=Budget(trials=60))
    campaign.run()
    assert not campaign.state.pending
    assert of(campaign, VerdictReached), "some looked better on the search split, and were challenged"


def test_more_compute_than_allowed_is_no_win(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    original = campaign.executor.train

    def train(trial, candidate, progress, cancel):  # type: ignore[no-untyped-def]
        training = original(trial, candidate, progress, cancel)
        seconds = 1.7 if candidate.params["mode"] == "b" else 1.0  # 1.1 x 1.0 + 0.5 of slack is allowed
        return replace(training, usage=replace(training.usage, cpu_seconds=seconds))

    campaign.executor.train = train  # type: ignore[method-assign]
    campaign.run()
    (verdict,) = [e.verdict for e in of(campaign, VerdictReached) if e.verdict.decision != "NEED_MORE"]  # type: ignore[attr-defined]
    assert verdict.decision == "REJECT"
    assert verdict.reason == "more compute: 1.7 CPU seconds a training, 1.6 allowed (1.1x the champion's)"


def test_a_crash_is_a_failed_trial_without_a_score(folder: Path) -> None:
    campaign = Inline(folder, Scripted([{"x": 0.99}, GOOD]))
    campaign.run()
    failed = [t for t in campaign.state.trials.values() if t.state == "FAIL"]
    assert [(t.score, t.error) for t in failed] == [(None, "train: MemoryError('x <= 0.95')")]
    assert campaign.state.pending


def test_a_default_that_does_not_train_ends_the_campaign_with_the_reason(folder: Path) -> None:
    def broken(params: Params, rng: random.Random) -> float:
        raise ValueError("no data")

    stopped = Inline(folder, skill=broken).run()
    assert stopped.kind == "failed"
    assert (
        "the default config must train on every seed, but trial 0 failed: train: ValueError('no data')"
        in stopped.reason
    )


def test_the_budget_of_trials_is_never_passed(folder: Path) -> None:
    campaign = Inline(folder, budget=Budget(trials=13), workers=3)
    campaign.run()
    assert campaign.state.spend.trials == 13


def test_a_duplicate_is_asked_for_again_and_then_recorded_as_the_proposers_failure(folder: Path) -> None:
    campaign = Inline(folder, Scripted([BAD, BAD, GOOD]))
    campaign.run()
    failures = [e for e in events(campaign) if type(e).__name__ == "ProposalFailed"]
    assert "was proposed before by scripted" in failures[0].reason  # type: ignore[attr-defined]
    assert failures[0].proposer == "scripted"  # type: ignore[attr-defined]
    assert campaign.state.pending


def test_a_metric_to_minimize_promotes_the_smaller(folder: Path) -> None:
    campaign = Inline(folder, Scripted([BAD, GOOD]), skill=lambda p, rng: -skill(p, rng), direction="minimize")
    campaign.run()
    (request,) = campaign.state.pending.values()
    assert campaign.state.entries[request.candidate_id].proposal.candidate.params == GOOD


# ---------------------------------------------------------------- a person


def approve(campaign: Inline, **changes: object) -> None:
    (request,) = campaign.state.pending.values()
    fields = {"candidate_id": request.candidate_id, "content_hash": request.content_hash} | changes
    campaign.command("approve", **fields)


def test_an_approval_promotes_and_a_rollback_brings_back_the_one_before(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    campaign.run()
    default = campaign.state.champion_id
    approve(campaign)
    campaign.run()
    (promoted,) = of(campaign, Promoted)
    assert campaign.state.champion_id == promoted.candidate_id != default  # type: ignore[attr-defined]
    campaign.command("rollback", candidate_id=campaign.state.champion_id, reason="worse in use")
    campaign.run()
    assert campaign.state.champion_id == default
    assert not campaign.state.pending


def test_an_approval_of_other_content_is_refused(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    campaign.run()
    approve(campaign, content_hash="0" * 64)
    campaign.run()
    assert of(campaign, Promoted) == []
    assert "holds only for what was shown" in of(campaign, CommandRefused)[0].reason  # type: ignore[attr-defined]


def test_the_same_command_counts_once(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    campaign.run()
    approve(campaign)
    (file,) = (folder / "inbox").iterdir()
    content = file.read_bytes()
    campaign.run()
    file.write_bytes(content)
    campaign.run()
    assert len(of(campaign, Decided)) == len(of(campaign, Promoted)) == 1


def test_a_promotion_that_a_crash_cut_off_from_its_approval_is_finished(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    campaign.run()
    approve(campaign)
    campaign.crash_after = 2  # the session, the decision; then nothing
    with pytest.raises(Crash):
        campaign.run()
    assert len(of(campaign, Decided)) == 1
    assert of(campaign, Promoted) == []
    campaign.crash_after = None
    campaign.run()
    assert len(of(campaign, Promoted)) == 1


def test_a_promotion_voids_the_evidence_of_everything_else_that_waits(folder: Path) -> None:
    better = {"x": 0.8, "mode": "b", "z": 4}
    campaign = Inline(folder, Scripted([{"x": 0.8}, better]), budget=Budget(trials=20))
    campaign.run()
    first, second = campaign.state.pending.values()
    campaign.command("approve", candidate_id=first.candidate_id, content_hash=first.content_hash)
    campaign.command("approve", candidate_id=second.candidate_id, content_hash=second.content_hash)
    campaign.run()
    assert [e.candidate_id for e in of(campaign, Promoted)] == [first.candidate_id]  # type: ignore[attr-defined]
    assert "Evidence must be against the champion of today" in of(campaign, CommandRefused)[0].reason  # type: ignore[attr-defined]


def test_with_gate_wait_a_campaign_stops_searching_until_a_person_has_decided(folder: Path) -> None:
    script = Scripted([GOOD, BAD, {"x": 0.2}])
    campaign = Inline(folder, script, gate=GateRules(wait=True), budget=Budget(trials=14))
    running = threading.Thread(target=campaign.run, daemon=True)
    running.start()
    deadline = time.monotonic() + 30
    while not campaign.state.pending and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)  # two looks into the inbox: time enough to propose, if it did
    assert campaign.state.turns == {"scripted": 1}
    approve(campaign)
    running.join(30)
    assert not running.is_alive()
    assert len(of(campaign, Promoted)) == 1
    assert campaign.state.turns["scripted"] > 1


def test_a_rejections_reason_is_in_the_memory(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    campaign.run()
    (request,) = campaign.state.pending.values()
    campaign.command(
        "reject", candidate_id=request.candidate_id, content_hash=request.content_hash, reason="too slow in use"
    )
    campaign.run()
    view = memory.view(campaign.state, 0)
    assert [lesson.split(": ")[-1] for lesson in view.lessons] == ["too slow in use"]


def test_a_persons_own_candidate_is_trained_next_in_their_name(folder: Path) -> None:
    campaign = Inline(folder, Scripted([BAD]), budget=Budget(trials=7))
    campaign.command("try", params={"x": 0.9})
    campaign.run()
    by = {e.proposal.proposer: e for e in campaign.state.entries.values()}
    assert by["human"].proposal.candidate.params["x"] == 0.9
    assert campaign.state.trials[by["human"].trials[0]].state == "COMPLETE"


def test_a_persons_bad_candidate_is_refused_with_the_reason(folder: Path) -> None:
    campaign = Inline(folder, Scripted([BAD]))
    campaign.command("try", params={"x": 9})
    campaign.run()
    assert "x must lie in [0, 1], but got 9" in of(campaign, CommandRefused)[0].reason  # type: ignore[attr-defined]


def test_what_is_no_command_is_refused_and_removed(folder: Path) -> None:
    campaign = Inline(folder, Scripted([BAD]))
    (folder / "inbox" / "0-x.json").write_text('{"kind": "approve everything"}')
    campaign.run()
    assert "must be one that evolve wrote" in of(campaign, CommandRefused)[0].reason  # type: ignore[attr-defined]
    assert list((folder / "inbox").glob("*.json")) == []


# ---------------------------------------------------------------- memory, hardware, growth


def test_no_number_of_gate_or_vault_reaches_a_proposer(folder: Path) -> None:
    script = Scripted([GOOD, {"x": 0.81, "mode": "b", "z": 4}, {"x": 0.3}])
    campaign = Inline(folder, script, budget=Budget(trials=30))
    # another level of scores on every split: a leak would show as a number in its range
    original = campaign.scorer.score

    def score(trials, split, round, cancel):  # type: ignore[no-untyped-def]
        shift = {"search": 0, "gate": 100, "vault": 1000}[split]
        return [replace(e, mean=e.mean + shift) for e in original(trials, split, round, cancel)]

    campaign.scorer.score = score  # type: ignore[method-assign]
    campaign.run()
    assert any(v is not None and v.mean > 1000 for v in campaign.state.scores.values()), "the vault was asked"
    last = memory.view(campaign.state, 0)
    for view in [*script.views, last]:
        numbers = (
            [o.score for o in view.history]
            + [o.stderr for o in view.history]
            + [view.noise_floor, view.incumbent_score]
        )
        assert all(n is None or abs(n) < 50 for n in numbers)
        text = " ".join([*view.lessons, *(o.outcome + (o.error or "") for o in view.history)])
        assert "10" not in text


def test_evidence_is_not_paired_across_hardware(folder: Path) -> None:
    campaign = Inline(folder, Scripted([BAD, GOOD]), budget=Budget(trials=5))
    campaign.run()
    campaign.hardware, campaign.budget = "another cpu x8", Budget(trials=20)
    campaign.run()
    here = [t for t in campaign.state.trials.values() if t.purpose == "bank" and t.hardware == "another cpu x8"]
    assert len(here) == 4, "the bank is trained again where the challenger is"


def test_collecting_keeps_champion_pending_and_the_best_few(folder: Path) -> None:
    campaign = Inline(folder, Scripted([{"x": x / 100} for x in range(10, 30)] + [GOOD]), budget=Budget(trials=40))
    campaign.run()
    state = campaign.state
    kept = weights_to_keep(state, Rules(keep_weights=2))
    (request,) = state.pending.values()
    needed = {
        state.trials[n].weights for c in (state.champion_id, request.candidate_id) for n in state.entries[c].trials
    }
    assert needed <= kept
    assert len(kept) <= len(needed) + 2


# ---------------------------------------------------------------- found by a review


def test_orderly_stops_are_no_attempts_of_the_trials_that_they_end(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    original = campaign.executor.train

    def stopped_by_a_person(*arguments):  # type: ignore[no-untyped-def]
        campaign.command("stop")
        raise Cancelled("ended by the controller")

    campaign.executor.train = stopped_by_a_person  # type: ignore[method-assign]
    for _ in range(4):  # more often than max_attempts
        assert campaign.run().reason == "stopped on request"
    assert len(of(campaign, TrialStarted)) == 4
    campaign.executor.train = original  # type: ignore[method-assign]
    campaign.run()
    assert campaign.state.pending


def test_trouble_of_the_machine_ends_the_session_and_is_no_failure_of_a_candidate(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    original = campaign.executor.train

    def full(*arguments):  # type: ignore[no-untyped-def]
        raise OSError(28, "No space left on device")

    campaign.executor.train = full  # type: ignore[method-assign]
    stopped = campaign.run()
    assert stopped.kind == "failed"
    assert "No space left on device; mend it, then `evolve resume`" in stopped.reason
    assert of(campaign, TrialFinished) == []
    campaign.executor.train = original  # type: ignore[method-assign]
    campaign.run()
    assert campaign.state.pending


def test_a_score_that_failed_once_is_made_again(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    original, failures = campaign.scorer.score, [TrialFailed("out of luck"), TrialFailed("again")]

    def score(trials, split, round, cancel):  # type: ignore[no-untyped-def]
        if split == "gate" and failures:
            raise failures.pop()
        return original(trials, split, round, cancel)

    campaign.scorer.score = score  # type: ignore[method-assign]
    campaign.run()
    assert campaign.state.pending


def test_a_champion_that_cannot_be_scored_is_not_the_challengers_fault(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    original = campaign.scorer.score

    def score(trials, split, round, cancel):  # type: ignore[no-untyped-def]
        if split == "gate" and any(trial.number == 0 for trial in trials):
            raise TrialFailed("its weights are gone")
        return original(trials, split, round, cancel)

    campaign.scorer.score = score  # type: ignore[method-assign]
    stopped = campaign.run()
    assert stopped.kind == "failed"
    assert "the champion's trial 0 could not be scored: its weights are gone" in stopped.reason
    assert of(campaign, VerdictReached) == []


def test_a_change_of_hardware_in_the_middle_of_a_challenge_starts_it_again_there(folder: Path) -> None:
    for cut in range(20, 60):
        campaign = Inline(folder / str(cut), Scripted([GOOD]), crash_after=cut)
        try:
            campaign.run()
        except Crash:
            campaign.crash_after, campaign.hardware = None, "another cpu x8"
            campaign.run()
        state = campaign.state
        (request,) = state.pending.values()
        hardware = {state.trials[n].hardware for n in state.entries[request.candidate_id].trials}
        assert request.weights in {t.weights for t in state.trials.values()}
        assert hardware


def test_after_a_rejection_the_next_best_gets_its_turn(folder: Path) -> None:
    second = {"x": 0.8, "mode": "b", "z": 8}
    campaign = Inline(folder, Scripted([GOOD, second]), budget=Budget(trials=20))
    campaign.run()
    (request,) = campaign.state.pending.values()
    campaign.command("reject", candidate_id=request.candidate_id, content_hash=request.content_hash, reason="no")
    campaign.run()
    (request,) = campaign.state.pending.values()
    assert campaign.state.entries[request.candidate_id].proposal.candidate.params == second


def test_proposers_that_failed_twenty_times_are_asked_again_after_a_resume(folder: Path) -> None:
    campaign = Inline(folder, Scripted([]))
    assert "the proposers have run out" in campaign.run().reason
    turns = campaign.state.proposals
    campaign.run()
    assert campaign.state.proposals == turns + 20


def test_weights_of_a_candidate_whose_evidence_was_voided_are_kept_for_its_next_challenge(folder: Path) -> None:
    better = {"x": 0.8, "mode": "b", "z": 4}
    campaign = Inline(folder, Scripted([{"x": 0.8}, better]), budget=Budget(trials=20))
    campaign.run()
    first, second = campaign.state.pending.values()
    campaign.command("approve", candidate_id=second.candidate_id, content_hash=second.content_hash)
    campaign.run()
    state = campaign.state
    needed = {
        state.trials[n].weights for n in state.entries[first.candidate_id].trials if state.trials[n].purpose == "gate"
    }
    assert needed <= weights_to_keep(state, Rules(keep_weights=0))


def test_a_rollback_takes_back_only_the_champion_that_was_seen(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]))
    campaign.run()
    default = campaign.state.champion_id
    approve(campaign)
    campaign.command("rollback", candidate_id=default)  # seen before the approval was carried out
    campaign.run()
    assert campaign.state.champion_id != default
    assert "takes back the champion that was seen" in of(campaign, CommandRefused)[0].reason  # type: ignore[attr-defined]


def test_a_proposer_that_breaks_is_a_recorded_failure(folder: Path) -> None:
    class Broken:
        name = "broken"

        def propose(self, view: memory.View) -> None:
            raise ModuleNotFoundError("No module named 'cmaes'")

    campaign = Inline(folder, Broken())
    stopped = campaign.run()
    failures = [e for e in events(campaign) if type(e).__name__ == "ProposalFailed"]
    assert failures[0].reason == "ModuleNotFoundError: No module named 'cmaes'"  # type: ignore[attr-defined]
    assert "the proposers have run out" in stopped.reason


# ---------------------------------------------------------------- laws


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 3), st.booleans(), st.integers(5, 40))
def test_replaying_any_prefix_of_the_journal_gives_the_live_state(
    tmp_path_factory: pytest.TempPathFactory, seed: int, workers: int, approving: bool, trials: int
) -> None:
    campaign = Inline(tmp_path_factory.mktemp("c") / "x", seed=seed, workers=workers, budget=Budget(trials=trials))
    campaign.run()
    if approving and campaign.state.pending:
        request = next(iter(campaign.state.pending.values()))
        campaign.command("approve", candidate_id=request.candidate_id, content_hash=request.content_hash)
        campaign.budget = Budget(trials=trials + 8)
        campaign.run()
        campaign.command("rollback", candidate_id=campaign.state.champion_id)
        campaign.run()
    assert replay(events(campaign)) == campaign.state  # type: ignore[arg-type]
    # any prefix: the fold of a prefix and then the rest is the fold of the whole
    recorded = events(campaign)
    cut = seed % len(recorded)
    state = replay(recorded[:cut])  # type: ignore[arg-type]
    for event in recorded[cut:]:
        apply(state, event)  # type: ignore[arg-type]
    assert state == campaign.state


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 110))
def test_an_interrupted_serial_campaign_equals_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int
) -> None:
    whole = Inline(tmp_path_factory.mktemp("a") / "x", seed=seed)
    whole.run()
    broken = Inline(tmp_path_factory.mktemp("b") / "x", seed=seed, crash_after=cut)
    try:
        broken.run()
    except Crash:
        broken.crash_after = None
        broken.run()
    stable = [list(journals.stable(r for r, _ in journals.read(c.folder / "journal.jsonl"))) for c in (whole, broken)]
    assert stable[0] == stable[1]


def test_a_stop_while_a_training_is_scored_counts_the_training_and_scores_it_once_in_the_next_session(
    folder: Path,
) -> None:
    campaign = Inline(folder, Scripted([BAD]), budget=Budget(trials=5))
    score, reached = campaign.scorer.score, threading.Event()

    def slow(trials, split, round, cancel):  # type: ignore[no-untyped-def]
        if trials[0].number == 4 and not reached.is_set():
            reached.set()
            while not cancel.requested:
                time.sleep(0.001)
            raise Cancelled("ended by the controller", usage=Usage(0.001, 0.001, 1.0))  # of the scorer
        return score(trials, split, round, cancel)

    campaign.scorer.score = slow  # type: ignore[method-assign]
    campaign.interrupted = reached.is_set
    assert campaign.run().kind == "stopped"
    assert campaign.state.spend.train_seconds == 5.0, "a second each"
    assert [e.usage.cpu_seconds for e in of(campaign, TrialInterrupted)] == [1.0]  # type: ignore[attr-defined]
    campaign.interrupted = lambda: False
    assert campaign.run().kind == "finished"
    assert [e.number for e in of(campaign, TrialFinished)] == [0, 1, 2, 3, 4]  # type: ignore[attr-defined]
    assert campaign.state.trials[4].score is not None
    assert campaign.state.spend.train_seconds == 6.0, "it was trained twice"


def test_a_trial_that_is_interrupted_too_often_fails(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]), crash_after=3)  # session, scheduled, started
    for _ in range(3):
        with pytest.raises(Crash):
            campaign.run()
        campaign.crash_after = 2  # session, started
    campaign.crash_after = None
    stopped = campaign.run()
    first = next(e for e in of(campaign, TrialFinished) if e.number == 0)  # type: ignore[attr-defined]
    assert first.error == "interrupted 3 times; not tried again"  # type: ignore[attr-defined]
    assert stopped.kind == "failed"


def test_the_same_seed_gives_the_same_campaign_and_another_seed_another(tmp_path: Path) -> None:
    def run(name: str, seed: int) -> list[dict[str, object]]:
        campaign = Inline(tmp_path / name, seed=seed)
        campaign.run()
        return list(journals.stable(r for r, _ in journals.read(campaign.folder / "journal.jsonl")))

    assert run("a", 1) == run("b", 1)
    assert run("c", 2) != run("d", 3)


def test_the_tracker_is_told_every_event_in_order(folder: Path) -> None:
    campaign = Inline(folder)
    campaign.run()
    told = [r.event for r in campaign.tracker.records]
    assert told == events(campaign)[1:]  # the first event is the composition root's to tell
    assert isinstance(told[0], SessionStarted)


def test_an_empty_state_is_no_campaign() -> None:
    with pytest.raises(ValueError, match="no campaign"):
        _ = State().campaign


@pytest.mark.parametrize("losses", [1, 5])
def test_a_training_whose_node_is_lost_runs_again_as_another_attempt_and_in_the_end_fails(
    folder: Path, losses: int
) -> None:
    campaign = Inline(folder, Scripted([BAD]), budget=Budget(trials=5))
    train, attempts = campaign.executor.train, list[int]()

    def on_a_node(trial, candidate, progress, cancel):  # type: ignore[no-untyped-def]
        if trial.number == 4:
            attempts.append(trial.attempt)
            if len(attempts) <= losses:
                raise Lost("its worker was lost", usage=Usage(0.5, 0.5, 1.0))
        return train(trial, candidate, progress, cancel)

    campaign.executor.train = on_a_node  # type: ignore[method-assign]
    assert campaign.run().kind == "finished"
    assert attempts == ([1, 2] if losses == 1 else [1, 2, 3])
    lost = of(campaign, TrialInterrupted)
    assert [(e.usage.cpu_seconds, e.reason) for e in lost] == [(0.5, "its worker was lost")] * min(losses, 3)  # type: ignore[attr-defined]
    trial = campaign.state.trials[4]
    assert trial.state == ("COMPLETE" if losses == 1 else "FAIL")
    assert losses == 1 or trial.error == "interrupted 3 times; not tried again"
    assert campaign.state.spend.train_seconds == 5.5, "5 whole ones and a half, or 4 whole ones and three halves"
