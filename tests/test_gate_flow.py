"""The way of a candidate through gate, vault and a person's decision, on the real loop, policy and journal.

Trainings are inline. The seeds' noise is a table of a few values, so that what the gate finds can be written by hand.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline import Crash, Inline, Scripted

from evolve import config, gate
from evolve import journal as journals
from evolve.policy import VAULT_SEEDS, settle, weights_to_keep
from evolve.state import State, apply, replay
from evolve.types import (
    ApprovalRequest,
    ApprovalRequested,
    Budget,
    ChallengeOpened,
    CommandRefused,
    Decided,
    EvidenceRequested,
    GateRules,
    Objective,
    Params,
    Promoted,
    Rules,
    TrialFinished,
    TrialScheduled,
    VaultAnswered,
    VaultAsked,
    VerdictReached,
    digest,
)

GOOD, BETTER, BAD = {"x": 0.8}, {"x": 0.8, "mode": "b", "z": 4}, {"x": 0.1}
RULES = GateRules(baseline_seeds=4, max_seeds=8)


def events(campaign: Inline) -> list[Any]:
    return [r.event for r, _ in journals.read(campaign.folder / "journal.jsonl")]


def of(campaign: Inline, kind: type) -> list[Any]:
    return [e for e in events(campaign) if isinstance(e, kind)]


def verdicts(campaign: Inline) -> list[tuple[str, float]]:
    """(decision, seeds) of each look, in order."""
    return [(e.verdict.decision, e.verdict.numbers.get("n", 0)) for e in of(campaign, VerdictReached)]


def trained(campaign: Inline, candidate_id: str, purpose: str) -> list[int]:
    state = campaign.state
    trials = (state.trials[n] for n in state.entries[candidate_id].trials)
    return [t.seed_index for t in trials if t.purpose == purpose]


def waiting(folder: Path, script: Sequence[dict[str, object]] = (GOOD,), **options: Any) -> Inline:
    """A campaign whose scripted candidates have all been judged."""
    options = {"budget": Budget(trials=60), "gate": RULES} | options
    campaign = Inline(folder, Scripted(list(script)), **options)
    campaign.run()
    return campaign


def tell(campaign: Inline, kind: str, by: str = "ada", **fields: object) -> None:
    """A command about the candidate that waits, as it was shown."""
    waits = {**campaign.state.stale, **campaign.state.pending}
    request = waits[str(fields.pop("candidate_id", next(reversed(waits))))]
    campaign.command(kind, by, **{"candidate_id": request.candidate_id, "content_hash": request.content_hash} | fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "campaign"


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable is tested elsewhere; here thousands of events would wait for it."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


# ---------------------------------------------------------------- looks


def test_a_hopeless_challenger_is_rejected_after_one_seed(folder: Path) -> None:
    # better on the search split by luck alone: from the first seed of its own on it is far below
    def skill(params: Params, rng: random.Random) -> float:
        return 0.4 + rng.gauss(0, 0.01) + (0.0 if params["x"] == 0.5 else -0.2)

    campaign = Inline(folder, Scripted([BAD]), skill=skill, gate=RULES)
    original = campaign.executor.train

    def lucky(trial: Any, *rest: Any) -> Any:
        training = original(trial, *rest)
        if trial.purpose == "search":
            campaign.executor.trained[training.weights] = 0.9
        return training

    campaign.executor.train = lucky  # type: ignore[method-assign]
    campaign.run()
    assert verdicts(campaign) == [("REJECT", 1.0)]
    assert of(campaign, VaultAsked) == []


def test_one_seed_never_accepts_however_large_the_gain(folder: Path) -> None:
    campaign = waiting(folder, skill=lambda p, rng: (0.4 if p["x"] == 0.5 else 1000.0) + rng.gauss(0, 0.01))
    assert verdicts(campaign) == [("NEED_MORE", 1.0), ("ACCEPT", 2.0)]


def test_each_look_takes_one_more_seed_with_problems_of_its_own(folder: Path) -> None:
    campaign = waiting(folder)
    (candidate,) = campaign.state.pending
    looks = len(verdicts(campaign))
    assert trained(campaign, candidate, "gate") == list(range(1, looks + 1))
    bank = {t.number for t in campaign.state.bank(campaign.state.champion_id) if t.purpose == "bank"}
    for seed in range(looks):
        scored = {n for (n, split, round) in campaign.state.scores if split == "gate" and round == 100 + seed}
        assert len(scored - bank) == 1, "the challenger's one training of this seed"
        assert scored >= bank


def test_single_seed_keeps_what_is_better_on_one_seed_and_shows_no_interval(folder: Path) -> None:
    rules = GateRules("single_seed", baseline_seeds=1, max_seeds=1, candidates=1)
    campaign = waiting(folder, [BAD, GOOD], gate=rules)
    (request,) = campaign.state.pending.values()
    assert trained(campaign, campaign.state.champion_id, "bank") == [1]
    assert verdicts(campaign) == [("ACCEPT", 1.0)], "what is worse on the search split is not challenged"
    numbers = campaign.state.entries[request.candidate_id].verdict.numbers  # type: ignore[union-attr]
    assert not {"t", "estimate", "low", "high"} & set(numbers)
    assert gate.promise(rules).startswith("none: keep if better")


def test_single_seed_rejects_what_is_worse_on_its_one_seed(folder: Path) -> None:
    rules = GateRules("single_seed", baseline_seeds=1, max_seeds=1, candidates=1)
    assert gate.judge([0.5], [0.4], rules).decision == "ACCEPT"
    assert gate.judge([0.4], [0.5], rules).decision == "REJECT"
    assert gate.judge([0.5], [0.5], rules).decision == "REJECT"
    assert gate.judge([0.4], [0.5], rules, sign=-1).decision == "ACCEPT"


def test_exploratory_tests_each_candidate_at_alpha_and_strict_all_of_them_together() -> None:
    each, all_of_50 = GateRules(max_seeds=4, candidates=1), GateRules(max_seeds=4, candidates=50)
    bank, mine = [0.50, 0.51, 0.49, 0.50], [0.52, 0.53, 0.52]
    prior = (0.0001, 6)
    assert gate.judge(mine, bank, each, prior=prior).decision == "ACCEPT"
    assert gate.judge(mine, bank, all_of_50, prior=prior).decision == "NEED_MORE"


# ---------------------------------------------------------------- the vault


def test_the_vault_compares_a_new_training_of_both_on_one_seed_of_their_own(folder: Path) -> None:
    campaign = waiting(folder)
    (candidate,) = campaign.state.pending
    champion = campaign.state.champion_id
    assert trained(campaign, candidate, "vault") == trained(campaign, champion, "vault") == [VAULT_SEEDS + 1]
    kinds = [type(e) for e in events(campaign)]
    last_training = max(
        n for n, e in enumerate(events(campaign)) if isinstance(e, TrialScheduled) and e.purpose == "vault"
    )
    asked, answered = kinds.index(VaultAsked), kinds.index(VaultAnswered)
    assert last_training < asked < answered < kinds.index(ApprovalRequested)
    first_read = next(n for n, e in enumerate(events(campaign)) if getattr(e, "split", "") == "vault")
    assert asked < first_read, "the question is counted before the vault is read"
    assert kinds.count(VaultAsked) == 1


def test_the_vault_says_no_where_a_new_training_does_not_show_the_gain(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]), budget=Budget(trials=40), gate=RULES)
    original = campaign.executor.train

    def luck_of_the_gate(trial: Any, *rest: Any) -> Any:
        training = original(trial, *rest)
        if trial.purpose == "vault" and trial.candidate_id != campaign.state.champion_id:
            campaign.executor.trained[training.weights] = 0.2
        return training

    campaign.executor.train = luck_of_the_gate  # type: ignore[method-assign]
    campaign.run()
    (answer,) = of(campaign, VaultAnswered)
    assert not answer.passed
    assert answer.verdict.reason.startswith("the gain is not there again on the vault: -0.2")
    entry = campaign.state.entries[answer.candidate_id]
    assert (entry.stage, entry.reason) == ("rejected", "the vault said no")
    assert not campaign.state.pending


def test_once_the_vaults_questions_are_used_no_challenge_is_opened(folder: Path) -> None:
    script = [{"x": 0.6}, {"x": 0.7}, GOOD]
    campaign = waiting(folder, script, gate=replace(RULES, vault_queries=1))
    assert len(of(campaign, VaultAsked)) == 1
    assert len(of(campaign, ChallengeOpened)) == 1
    stopped = campaign.state.stopped
    assert stopped is not None
    assert "all 1 vault queries are used" in stopped.reason


def failing(campaign: Inline, purpose: str, whose: str, times: int) -> None:
    """The next `times` trainings of that purpose crash, of the champion or the challenger."""
    original, left = campaign.executor.train, [times]

    def train(trial: Any, candidate: Any, progress: Any, cancel: Any) -> Any:
        mine = (trial.candidate_id == campaign.state.champion_id) == (whose == "champion")
        if trial.purpose == purpose and mine and left[0]:
            left[0] -= 1
            candidate = replace(candidate, params={**candidate.params, "x": 0.99})  # `inline.skill` raises there
        return original(trial, candidate, progress, cancel)

    campaign.executor.train = train  # type: ignore[method-assign]


def test_a_challenger_that_fails_to_train_for_the_vault_is_rejected_without_a_question(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]), budget=Budget(trials=40), gate=RULES)
    failing(campaign, "vault", "challenger", 1)
    campaign.run()
    assert of(campaign, VaultAsked) == []
    (entry,) = [e for e in campaign.state.entries.values() if e.proposal.proposer == "scripted"]
    assert entry.stage == "rejected"
    assert entry.reason.startswith("the training for the vault failed: train: MemoryError")


@pytest.mark.parametrize("purpose", ["bank", "vault"])
def test_a_champion_that_has_trained_before_is_tried_again_when_it_fails(folder: Path, purpose: str) -> None:
    campaign = Inline(folder, Scripted([GOOD]), budget=Budget(trials=40), gate=RULES)
    if purpose == "bank":
        campaign.interrupted = lambda: len(of(campaign, TrialFinished)) >= 2
        campaign.run()
        campaign.interrupted = lambda: False
    failing(campaign, purpose, "champion", 2)
    assert campaign.run().kind == "finished"
    failed = [t for t in campaign.state.trials.values() if t.state == "FAIL"]
    assert [t.purpose for t in failed] == [purpose] * 2
    assert len({t.seed for t in failed}) == 1, "the same seed again: none is picked for going well"
    assert len(of(campaign, VaultAsked)) == 1


def test_a_champion_that_goes_on_failing_for_the_vault_ends_the_session_and_is_tried_again(folder: Path) -> None:
    campaign = Inline(folder, Scripted([GOOD]), budget=Budget(trials=40), gate=RULES)
    failing(campaign, "vault", "champion", 3)
    stopped = campaign.run()
    assert stopped.kind == "failed"
    assert "the default config must train on every seed" in stopped.reason
    assert of(campaign, VaultAsked) == []
    assert campaign.run().kind == "finished"
    assert trained(campaign, campaign.state.champion_id, "vault") == [VAULT_SEEDS + 1] * 4
    assert len(campaign.state.pending) == len(of(campaign, VaultAsked)) == 1


def test_a_challenge_that_other_hardware_began_again_asks_no_question_beyond_the_limit(folder: Path) -> None:
    rules = replace(RULES, vault_queries=1)
    whole = waiting(folder / "whole", gate=rules)
    cut = [type(e) for e in events(whole)].index(VaultAsked)
    campaign = Inline(folder / "cut", Scripted([GOOD]), budget=Budget(trials=60), gate=rules, crash_after=cut)
    with pytest.raises(Crash):
        campaign.run()
    assert campaign.state.vault_queries == 1
    campaign.crash_after, campaign.hardware = None, "another cpu x8"
    campaign.run()
    assert len(of(campaign, VaultAsked)) == 1
    assert of(campaign, VerdictReached)[-1].verdict.reason == "all 1 vault queries are used"
    assert not campaign.state.pending


# ---------------------------------------------------------------- a kill at every event


def stable(campaign: Inline) -> list[dict[str, Any]]:
    return list(journals.stable(r for r, _ in journals.read(campaign.folder / "journal.jsonl")))


def play(folder: Path, crash_after: int | None = None) -> Inline:
    """A vault that says no, one that says yes, further evidence, a promotion: killed once, after so many events in all."""
    campaign = Inline(folder, Scripted([{"x": 0.7}, GOOD]), budget=Budget(trials=80), gate=RULES)
    original = campaign.executor.train

    def train(trial: Any, candidate: Any, *rest: Any) -> Any:
        training = original(trial, candidate, *rest)
        if trial.purpose == "vault" and candidate.params["x"] == 0.7:
            campaign.executor.trained[training.weights] = 0.2
        return training

    campaign.executor.train = train  # type: ignore[method-assign]
    campaign.crash_after = crash_after

    def session() -> None:
        before = len(events(campaign)) if campaign.commands else 1
        try:
            campaign.run()
        except Crash:
            campaign.crash_after = None
            campaign.run()
        if campaign.crash_after is not None:
            campaign.crash_after -= len(events(campaign)) - before

    session()
    tell(campaign, "evidence", seeds=1)
    session()
    tell(campaign, "approve")
    session()
    return campaign


OF_THE_GATE = (VerdictReached, VaultAsked, VaultAnswered, ApprovalRequested, EvidenceRequested, ChallengeOpened, Decided,
               Promoted)  # fmt: skip


def check_kills(folder: Path, every: bool) -> None:
    whole = play(folder / "whole")
    kinds = {line["type"] for line in stable(whole)}
    assert kinds >= {kind.__name__ for kind in OF_THE_GATE}
    assert [e.more_seeds for e in of(whole, ChallengeOpened)] == [0, 0, 1]
    assert [e.passed for e in of(whole, VaultAnswered)] == [False, True]
    new = [isinstance(e, OF_THE_GATE) or getattr(e, "purpose", "") == "vault" for e in events(whole)]
    # before and after each event of the gate; an event's place in the journal is one more than the kill's
    cuts = [n for n in range(1, len(new)) if every or new[n] or new[n - 1]]
    assert len(cuts) > 30
    for cut in cuts:
        campaign = play(folder / str(cut), crash_after=cut - 1)
        assert campaign.crash_after is None, "it was killed"
        assert stable(campaign) == stable(whole), f"killed after {cut} events"
        assert replay(events(campaign)) == campaign.state


def test_a_kill_at_an_event_of_the_gate_leads_to_the_same_journal(folder: Path) -> None:
    check_kills(folder, every=False)


@pytest.mark.slow
def test_a_kill_at_any_event_leads_to_the_same_journal(folder: Path) -> None:
    check_kills(folder, every=True)


# ---------------------------------------------------------------- further evidence


def test_further_evidence_is_trained_and_the_verdict_made_anew_once(folder: Path) -> None:
    campaign = waiting(folder)
    (before,) = campaign.state.pending.values()
    seeds = len(trained(campaign, before.candidate_id, "gate"))
    looks = len(verdicts(campaign))
    tell(campaign, "evidence", seeds=3)
    campaign.run()
    (after,) = campaign.state.pending.values()
    assert after.candidate_id == before.candidate_id
    assert after.content_hash != before.content_hash
    assert after.weights == before.weights, "still those of the first seed"
    assert trained(campaign, after.candidate_id, "gate") == list(range(1, seeds + 4))
    assert verdicts(campaign)[looks:] == [("ACCEPT", seeds + 3.0)], "one look, at all of them"
    assert len(of(campaign, VaultAsked)) == 1, "the vault is not asked again"
    (first, more) = of(campaign, ChallengeOpened)
    assert (more.round, more.more_seeds) == (first.round, 3)


def test_a_candidate_cannot_be_approved_while_its_further_evidence_is_taken(folder: Path) -> None:
    campaign = waiting(folder)
    (request,) = campaign.state.pending.values()
    original, left = campaign.executor.train, [1]

    def train(*arguments: Any) -> Any:
        if left:  # the first of the further seeds is being trained
            left.pop()
            tell(campaign, "approve", candidate_id=request.candidate_id)
        return original(*arguments)

    def tell(campaign: Inline, kind: str, **fields: object) -> None:
        campaign.command(kind, **{"content_hash": request.content_hash, **fields})

    campaign.executor.train = train  # type: ignore[method-assign]
    campaign.command("evidence", candidate_id=request.candidate_id, content_hash=request.content_hash, seeds=3)
    campaign.run()
    assert of(campaign, Promoted) == []
    assert "Only a pending candidate can be decided on" in of(campaign, CommandRefused)[0].reason
    # and when it waits again, an approval of what was shown before does not hold
    tell(campaign, "approve", candidate_id=request.candidate_id)
    campaign.run()
    assert of(campaign, Promoted) == []
    assert "has changed since; review it again" in of(campaign, CommandRefused)[1].reason


def test_a_candidate_whose_further_evidence_falls_below_the_boundary_is_rejected(folder: Path) -> None:
    campaign = waiting(folder)
    (candidate,) = campaign.state.pending
    campaign.skill = None  # type: ignore[assignment]
    campaign.executor.skill = lambda params, rng: 0.41 + rng.gauss(0, 0.01)
    tell(campaign, "evidence", seeds=4)
    campaign.run()
    assert not campaign.state.pending
    entry = campaign.state.entries[candidate]
    assert entry.stage == "rejected"
    assert verdicts(campaign)[-1][0] == "REJECT"
    assert "t " in entry.reason and " after all " in entry.reason
    assert len(of(campaign, VaultAsked)) == 1


def test_a_further_seed_that_fails_to_train_rejects(folder: Path) -> None:
    campaign = waiting(folder)
    (candidate,) = campaign.state.pending
    failing(campaign, "gate", "challenger", 1)
    tell(campaign, "evidence", seeds=2)
    campaign.run()
    assert campaign.state.entries[candidate].stage == "rejected"
    assert "failed: train: MemoryError" in campaign.state.entries[candidate].reason


@pytest.mark.parametrize(("seeds", "refused"), [(0, True), (1, False), (20, False), (21, True), (-3, True)])
def test_a_challenge_has_at_most_24_seeds_in_all(folder: Path, seeds: int, refused: bool) -> None:
    campaign = waiting(folder)
    (candidate,) = campaign.state.pending
    assert len(trained(campaign, candidate, "gate")) == 4
    tell(campaign, "evidence", seeds=seeds)
    campaign.budget = Budget(trials=len(campaign.state.trials))
    campaign.run()
    found = [e.reason for e in of(campaign, CommandRefused)]
    assert found == (
        [f"1 to 20 further seeds can be asked for, but got {seeds}; choose in between."] if refused else []
    )


def test_the_limit_of_seeds_counts_what_was_asked_for_before(folder: Path) -> None:
    campaign = waiting(folder)
    tell(campaign, "evidence", seeds=19)
    tell(campaign, "evidence", seeds=2)
    tell(campaign, "evidence", seeds=1)
    tell(campaign, "evidence", seeds=1)
    campaign.budget = Budget(trials=len(campaign.state.trials))
    campaign.run()
    assert [e.seeds for e in of(campaign, EvidenceRequested)] == [19, 1]
    assert "1 to 1 further" in of(campaign, CommandRefused)[0].reason
    assert "has at most 24 seeds" in of(campaign, CommandRefused)[1].reason


def test_without_budget_a_candidate_waits_as_it_was_until_there_is_more(folder: Path) -> None:
    campaign = waiting(folder)
    (before,) = campaign.state.pending.values()
    tell(campaign, "evidence", seeds=3)
    campaign.budget = Budget(trials=len(campaign.state.trials))
    stopped = campaign.run()
    assert f"more evidence for {before.candidate_id[:8]} is still asked for" in stopped.reason
    assert list(campaign.state.pending.values()) == [before]
    campaign.budget = Budget(trials=60)
    campaign.run()
    (after,) = campaign.state.pending.values()
    assert after.content_hash != before.content_hash
    assert trained(campaign, before.candidate_id, "gate") == [1, 2, 3, 4, 5, 6, 7]


def test_a_budget_that_ends_in_the_middle_decides_with_the_seeds_that_are_there(folder: Path) -> None:
    campaign = waiting(folder)
    (before,) = campaign.state.pending.values()
    tell(campaign, "evidence", seeds=3)
    campaign.budget = Budget(trials=len(campaign.state.trials) + 1)
    campaign.run()
    (after,) = campaign.state.pending.values()
    assert after.content_hash != before.content_hash
    assert verdicts(campaign)[-1] == ("ACCEPT", 5.0)
    assert trained(campaign, before.candidate_id, "gate") == [1, 2, 3, 4, 5]
    campaign.budget = Budget(trials=60)
    campaign.run()
    assert list(campaign.state.pending.values()) == [after], "what was asked for is done with"


def test_evidence_can_only_be_asked_for_what_was_shown(folder: Path) -> None:
    campaign = waiting(folder)
    tell(campaign, "evidence", seeds=1, content_hash="0" * 64)
    campaign.command("evidence", candidate_id=campaign.state.champion_id, seeds=1)
    campaign.run()
    first, second = of(campaign, CommandRefused)
    assert "must be as it was shown" in first.reason
    assert "Only for a candidate that waits" in second.reason


def test_further_evidence_over_several_objectives_comes_to_an_end(folder: Path) -> None:
    """Accepted, then not shown to be within the tolerance of the other objective any more: rejected, not looked at for ever."""
    evidence = [
        gate.Evidence(
            Objective("a", "maximize", 0.01), [0.9, 0.91, 0.9], [0.5, 0.51, 0.49, 0.5], (1e-4, 6), accepted_at=2
        ),
        gate.Evidence(
            Objective("b", "maximize", 0.012), [0.5, 0.5, 0.502], [0.5, 0.51, 0.49, 0.5], (1e-4, 6), accepted_at=2
        ),
    ]
    assert gate.judge_several(evidence, RULES).decision == "REJECT"
    assert gate.judge_several([replace(e, accepted_at=0) for e in evidence], RULES).decision == "NEED_MORE"


def test_the_noise_of_a_challenge_is_counted_once_after_further_evidence(folder: Path) -> None:
    campaign = waiting(folder)
    tell(campaign, "evidence", seeds=2)
    campaign.run()
    (differences,) = campaign.state.noise_groups.values()
    assert len(differences) == 4 + 2


# ---------------------------------------------------------------- stale


def two_waiting(folder: Path, **options: Any) -> tuple[Inline, str, str]:
    """GOOD waits, then BETTER, which was judged against the same champion."""
    campaign = waiting(folder, [GOOD, BETTER], **options)
    first, second = campaign.state.pending
    return campaign, first, second


def test_what_waited_is_challenged_with_new_seeds_against_the_new_champion(folder: Path) -> None:
    campaign, good, better = two_waiting(folder)
    old_seeds = trained(campaign, better, "gate")
    tell(campaign, "approve", candidate_id=good)
    tell(campaign, "approve", candidate_id=better)
    campaign.run()
    assert "Evidence must be against the champion of today" in of(campaign, CommandRefused)[-1].reason
    assert [e.candidate_id for e in of(campaign, Promoted)] == [good]
    new_seeds = trained(campaign, better, "gate")[len(old_seeds) :]
    assert min(new_seeds) > max(old_seeds)
    (request,) = campaign.state.pending.values()
    assert (request.candidate_id, request.champion_id) == (better, good)
    assert campaign.state.trials[request.trial_number].seed_index == min(new_seeds)
    rounds = [e.round for e in of(campaign, ChallengeOpened)]
    assert rounds == [1, 2, 3], "problems of its own as well"
    assert len(of(campaign, VaultAsked)) == 3, "and a question of its own"
    tell(campaign, "approve")
    campaign.run()
    assert campaign.state.champion_id == better


def test_a_stale_candidate_that_looks_worse_meets_the_new_champion_on_request_alone(folder: Path) -> None:
    campaign, good, better = two_waiting(folder)
    tell(campaign, "approve", candidate_id=better)
    campaign.run()
    assert campaign.state.entries[good].stage == "stale"
    assert list(campaign.state.stale) == [good]
    old_seeds = trained(campaign, good, "gate")
    tell(campaign, "evidence", candidate_id=good, seeds=1)
    campaign.run()
    new_seeds = trained(campaign, good, "gate")[len(old_seeds) :]
    assert new_seeds
    assert min(new_seeds) > max(old_seeds)
    last = of(campaign, ChallengeOpened)[-1]
    assert (last.candidate_id, last.champion_id, last.more_seeds) == (good, better, 0)
    assert campaign.state.entries[good].stage == "rejected", "0.5 is no gain on 0.6"


def test_a_stale_candidate_that_a_person_rejected_is_not_challenged_again(folder: Path) -> None:
    campaign, good, better = two_waiting(folder)
    tell(campaign, "approve", candidate_id=good)
    tell(campaign, "reject", candidate_id=better, reason="not this one")  # stale by then
    campaign.run()
    assert campaign.state.entries[better].stage == "declined"
    assert len(of(campaign, ChallengeOpened)) == 2
    assert not campaign.state.pending
    assert not campaign.state.stale


def test_a_rollback_makes_what_waits_stale_too(folder: Path) -> None:
    campaign, good, better = two_waiting(folder)
    tell(campaign, "approve", candidate_id=good)
    campaign.run()
    assert list(campaign.state.pending) == [better], "it has met the new champion"
    seeds = trained(campaign, better, "gate")
    campaign.command("rollback", candidate_id=good)
    tell(campaign, "approve", candidate_id=better)
    campaign.budget = Budget(trials=90)
    campaign.run()
    assert len(of(campaign, Promoted)) == 1
    assert "Evidence must be against the champion of today" in of(campaign, CommandRefused)[-1].reason
    assert campaign.state.entries[good].stage == "declined"
    (request,) = campaign.state.pending.values()
    assert request.champion_id == campaign.state.campaign.start.id
    assert min(trained(campaign, better, "gate")[len(seeds) :]) > max(seeds)


def test_evidence_that_the_limits_do_not_allow_is_said_at_the_end(folder: Path) -> None:
    campaign, good, better = two_waiting(folder, gate=replace(RULES, vault_queries=2))
    tell(campaign, "approve", candidate_id=good)
    campaign.run()
    tell(campaign, "evidence", candidate_id=better, seeds=1)
    stopped = campaign.run()
    assert f"more evidence for {better[:8]} is still asked for" in stopped.reason
    assert "all 2 vault queries are used" in stopped.reason


# ---------------------------------------------------------------- two approvals


TWO = replace(RULES, approvals=2)


def test_two_different_persons_promote_and_the_same_one_twice_does_not(folder: Path) -> None:
    campaign = waiting(folder, gate=TWO)
    tell(campaign, "approve", by="ada")
    tell(campaign, "approve", by="ada")
    campaign.run()
    assert of(campaign, Promoted) == []
    assert "2 different persons must approve, but 'ada' already has" in of(campaign, CommandRefused)[0].reason
    tell(campaign, "approve", by="bob")
    campaign.run()
    assert [e.approval.by for e in of(campaign, Decided)] == ["ada", "bob"]
    assert len(of(campaign, Promoted)) == 1
    assert not campaign.state.yeses


def test_a_rejection_ends_what_one_person_had_approved(folder: Path) -> None:
    campaign = waiting(folder, gate=TWO)
    (candidate,) = campaign.state.pending
    tell(campaign, "approve", by="ada")
    tell(campaign, "reject", by="bob", reason="no")
    tell(campaign, "approve", by="eve")
    campaign.run()
    assert of(campaign, Promoted) == []
    assert campaign.state.entries[candidate].stage == "declined"
    assert not campaign.state.yeses


def test_further_evidence_voids_the_first_of_two_approvals(folder: Path) -> None:
    campaign = waiting(folder, gate=TWO)
    tell(campaign, "approve", by="ada")
    tell(campaign, "evidence", by="bob", seeds=1)
    campaign.run()
    tell(campaign, "approve", by="bob")
    campaign.run()
    assert of(campaign, Promoted) == []
    tell(campaign, "approve", by="ada")
    campaign.run()
    assert len(of(campaign, Promoted)) == 1


def test_weights_of_an_approved_candidate_are_kept_until_it_is_promoted(folder: Path) -> None:
    campaign = waiting(folder)
    (request,) = campaign.state.pending.values()
    tell(campaign, "approve")
    campaign.crash_after = 2  # session, Decided
    with pytest.raises(Crash):
        campaign.run()
    assert campaign.state.approved == request
    assert request.weights in weights_to_keep(campaign.state, Rules(keep_weights=0))


# ---------------------------------------------------------------- the promise's challenges


def test_no_more_challenges_are_opened_than_the_promise_covers(folder: Path) -> None:
    campaign = waiting(folder, [{"x": 0.55}, {"x": 0.6}, {"x": 0.7}, GOOD], gate=replace(RULES, candidates=2))
    assert len(of(campaign, ChallengeOpened)) == 2
    assert campaign.state.stopped is not None
    assert "all 2 challenges that the promise covers are used (gate.candidates)" in campaign.state.stopped.reason


def test_a_promise_for_each_candidate_alone_limits_no_challenges(folder: Path) -> None:
    campaign = waiting(folder, [{"x": 0.55}, {"x": 0.6}, {"x": 0.7}, GOOD], gate=replace(RULES, candidates=1))
    assert len(of(campaign, ChallengeOpened)) >= 3
    assert campaign.state.stopped is not None
    assert "gate.candidates" not in campaign.state.stopped.reason


# ---------------------------------------------------------------- guards


def scored(campaign: Inline, **of_good: Any) -> None:
    """The scorer tells groups and metrics too: 0.5 each, of the candidate GOOD what is given."""
    original = campaign.scorer.score

    def score(trials: Any, split: Any, round: int, cancel: Any) -> Any:
        found = []
        for trial, evaluation in zip(trials, original(trials, split, round, cancel), strict=True):
            good = campaign.state.entries[trial.candidate_id].proposal.candidate.params["x"] == 0.8
            values = {"sums": 0.5, "sorts": 0.5, "length": 10.0} | (of_good if good else {})
            groups = {"sums": values["sums"], "sorts": values["sorts"]}
            found.append(replace(evaluation, groups=groups, metrics={"length": values["length"]}))
        return found

    campaign.scorer.score = score  # type: ignore[method-assign]


GROUPS = Objective("groups", "maximize", tolerance=0.05)
LENGTH = Objective("length", "minimize", relative_tolerance=0.1)
MEMORY = Objective("peak_memory_mb", "minimize", relative_tolerance=0.1)


@pytest.mark.parametrize(
    ("guard", "found", "reason"),
    [
        (
            GROUPS,
            {"sorts": 0.44},
            "guard groups/sorts: 0.44 against the champion's 0.5, worse by more than the 0.05 allowed",
        ),
        (GROUPS, {"sorts": 0.46}, None),
        (LENGTH, {"length": 11.5}, "guard length: 11.5 against the champion's 10, worse by more than the 1 allowed"),
        (LENGTH, {"length": 10.9}, None),
        (LENGTH, {"length": 2.0}, None),
    ],
)
def test_a_scorers_guard_vetoes_what_is_worse_than_its_tolerance(
    folder: Path, guard: Objective, found: dict[str, float], reason: str | None
) -> None:
    campaign = Inline(folder, Scripted([GOOD]), budget=Budget(trials=40), gate=RULES)
    campaign.changes = {"guards": (guard,), "metrics": ("length",)}
    scored(campaign, **found)
    campaign.run()
    verdict = of(campaign, VerdictReached)[-1].verdict
    assert (verdict.decision, verdict.reason if reason else None) == ("REJECT" if reason else "ACCEPT", reason)
    assert bool(campaign.state.pending) is (reason is None)
    names = {g.name for g in verdict.guards}
    assert names == {"train_seconds", *(("groups/sums", "groups/sorts") if guard is GROUPS else ("length",))}
    assert (of(campaign, VaultAsked) == []) is (reason is not None), "no question for what a guard vetoes"


@pytest.mark.parametrize(("megabytes", "passes"), [(109.0, True), (111.0, False)])
def test_measured_memory_is_a_guard(folder: Path, megabytes: float, passes: bool) -> None:
    campaign = Inline(folder, Scripted([GOOD]), budget=Budget(trials=40), gate=RULES)
    campaign.changes = {"guards": (MEMORY,)}
    original = campaign.executor.train

    def train(trial: Any, candidate: Any, *rest: Any) -> Any:
        training = original(trial, candidate, *rest)
        peak = megabytes if candidate.params["x"] == 0.8 else 100.0
        return replace(training, usage=replace(training.usage, peak_memory_mb=peak))

    campaign.executor.train = train  # type: ignore[method-assign]
    campaign.run()
    assert bool(campaign.state.pending) is passes
    if not passes:
        reason = of(campaign, VerdictReached)[-1].verdict.reason
        assert reason == "guard peak_memory_mb: 111 against the champion's 100, worse by more than the 10 allowed"


# ---------------------------------------------------------------- fixed data


def fixed(folder: Path, **options: Any) -> Inline:
    campaign = Inline(folder, Scripted([GOOD, BETTER]), budget=Budget(trials=60), gate=RULES, **options)
    campaign.changes = {"fresh_problems": False}
    return campaign


def test_with_fixed_data_each_training_is_scored_once_for_gate_and_vault(folder: Path) -> None:
    campaign = fixed(folder)
    campaign.scorer.stderr = 0.001
    campaign.run()
    assert len(of(campaign, ChallengeOpened)) == 2
    read = [(e.split, e.number) for e in events(campaign) if type(e).__name__ == "Scored"]
    assert len(read) == len(set(read))
    assert {e.round for e in events(campaign) if type(e).__name__ == "Scored"} == {0}


def test_with_fixed_data_the_error_over_problems_is_part_of_the_variance(folder: Path) -> None:
    campaign = fixed(folder, skill=lambda p, rng: 0.4 if p["x"] == 0.5 else 0.9)
    campaign.scorer.stderr = 0.02
    campaign.run()
    verdict = of(campaign, VerdictReached)[-1].verdict
    # seeds vary in nothing here: what is left are both sides' errors over the same problems, as if these were different
    assert verdict.numbers["stderr"] == pytest.approx(math.sqrt(2) * 0.02)


def test_the_level_of_a_vault_of_fixed_data_halves_with_each_yes() -> None:
    rules = GateRules(alpha=0.05, vault_queries=10)
    assert gate.vault_level(rules, 1, 0) == pytest.approx(0.05 / 10 / 2)
    assert gate.vault_level(rules, 2, 0) == pytest.approx(0.05 / 10 / 2)
    assert gate.vault_level(rules, 2, 1) == pytest.approx(0.05 / 10 / 4)
    assert gate.vault_level(rules, 4, 2) == pytest.approx(0.05 / 10 / 8 / 3), "C(3, 2) = 3 orders of two yeses"
    # all questions of all that anyone can have learned before, together: no more than alpha
    total = sum(math.comb(k - 1, j) * gate.vault_level(rules, k, j) for k in range(1, 11) for j in range(k))
    assert total <= 0.05


def test_a_vault_of_fixed_data_wants_more_than_a_positive_difference(folder: Path) -> None:
    campaign = fixed(folder)
    campaign.scorer.stderr = 0.001
    campaign.run()
    first, second = of(campaign, VaultAnswered)
    error = math.hypot(0.001, 0.001)
    # quantiles of the normal distribution at 1 - 0.0025 and, after one yes, 1 - 0.00125
    assert first.verdict.numbers["least"] == pytest.approx(2.807 * error, rel=1e-3)
    assert second.verdict.numbers["least"] == pytest.approx(3.023 * error, rel=1e-3)
    assert first.passed


def test_a_fresh_vault_wants_a_positive_difference_alone(folder: Path) -> None:
    campaign = waiting(folder)
    (answer,) = of(campaign, VaultAnswered)
    assert answer.verdict.numbers["least"] == 0


# ---------------------------------------------------------------- gate=auto


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (["budget.trials=72"], "strict"),
        (["budget.trials=71"], "standard"),
        (["budget.trials=48"], "standard"),
        (["budget.trials=47"], "cheap"),
        (["budget.trials=24"], "cheap"),
        (["budget.trials=23"], "exploratory"),
        (["gate=strict", "budget.trials=10"], "strict"),
        (["gate=auto", "budget.trials=72"], "strict"),
        (["budget.trials=72", "gate.max_seeds=6"], "custom"),
        (["budget.trials=72", "gate.max_seeds=8"], "strict"),
        (["budget.trials=72", "gate.wait=true", "gate.approvals=2"], "strict"),
        (["gate=cheap", "gate.alpha=0.2"], "custom"),
        # the quadratic subject's trainings take 0.05 s by its own estimate, and as much to score
        (["budget.trials=null", "budget.train_seconds=3.6"], "strict"),
        (["budget.trials=null", "budget.train_seconds=1.3"], "cheap"),
        (["budget.trials=null", "budget.wall_seconds=7.2"], "strict"),
        (["budget.trials=null", "budget.wall_seconds=7.0"], "standard"),
        (["budget.trials=null", "budget.wall_seconds=3.7", "executor.workers=2"], "strict"),
        (["budget.trials=100", "budget.train_seconds=1.3"], "cheap"),
    ],
)
def test_gate_auto_takes_the_strictest_setting_that_the_budget_carries(words: list[str], setting: str) -> None:
    assert config.load(["subject=quadratic", *words]).gate.setting == setting


def test_an_override_of_gate_auto_keeps_the_other_numbers_of_what_was_taken() -> None:
    rules = config.load(["subject=quadratic", "budget.trials=48", "gate.max_seeds=6"]).gate
    assert (rules.baseline_seeds, rules.max_seeds) == (16, 6)


# ---------------------------------------------------------------- the law


COMMANDS = st.tuples(
    st.sampled_from(["approve", "approve", "reject", "evidence", "rollback", "run"]),
    st.sampled_from(["ada", "bob"]),
    st.integers(0, 3),  # which candidate
    st.sampled_from(["shown", "old", "wrong"]),
    st.integers(0, 3),  # seeds
)


@settings(max_examples=20, deadline=None)
@given(st.lists(COMMANDS, min_size=1, max_size=10), st.integers(1, 2), st.integers(0, 3))
def test_nothing_is_promoted_without_approvals_of_its_content_against_the_champion_of_that_moment(
    tmp_path_factory: pytest.TempPathFactory, commands: list[Any], approvals: int, seed: int
) -> None:
    rules = replace(RULES, approvals=approvals)
    campaign = Inline(
        tmp_path_factory.mktemp("law") / "c", Scripted([GOOD, BETTER]), seed=seed, budget=Budget(trials=45), gate=rules
    )
    campaign.run()
    shown: dict[str, list[str]] = {}
    for kind, by, which, content, seeds in commands:
        for c, request in {**campaign.state.stale, **campaign.state.pending}.items():
            if request.content_hash not in shown.setdefault(c, []):
                shown[c].append(request.content_hash)
        if kind == "run":
            campaign.run()
            continue
        known = list(campaign.state.entries)
        candidate = known[which % len(known)]
        hashes = shown.get(candidate, [digest("none")])
        chosen = {"shown": hashes[-1], "old": hashes[0], "wrong": digest("wrong")}[content]
        campaign.command(kind, by, candidate_id=candidate, content_hash=chosen, seeds=seeds, reason="why")
    campaign.run()
    state = State()
    asked: dict[str, ApprovalRequest] = {}  # the latest of each candidate
    for event in events(campaign):
        if isinstance(event, ApprovalRequested):
            asked[event.request.candidate_id] = event.request
        elif isinstance(event, Promoted):
            assert event == settle(state)
            request = asked[event.candidate_id]
            assert request.content_hash == event.content_hash
            assert request.champion_id == event.previous_id == state.champion_id
            yes = [a for a in state.approvals if a.content_hash == event.content_hash and a.decision == "approve"]
            assert len({a.by for a in yes}) >= approvals
        apply(state, event)
    assert len(of(campaign, Promoted)) <= len(of(campaign, Decided))
