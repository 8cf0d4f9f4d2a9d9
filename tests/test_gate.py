from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve import gate
from evolve.types import Evaluation, GateRules, Verdict

RULES = GateRules(max_seeds=8)
BANK = [0.50, 0.51, 0.49, 0.50]
scores = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8)


def test_a_gain_far_beyond_the_noise_is_accepted() -> None:
    verdict = gate.judge([0.80, 0.81, 0.79], BANK, RULES, prior=(0.0001, 3))
    assert verdict.decision == "ACCEPT"
    # by hand: mean 0.8 - 0.5; s_c^2 = (3*1e-4 + 2e-4)/5, s_i^2 = (3*1e-4 + 2e-4)/6, V = s_c^2/3 + s_i^2/4
    assert verdict.numbers["difference"] == pytest.approx(0.3)
    assert verdict.numbers["stderr"] == pytest.approx(math.sqrt(1e-4 / 3 + 5e-4 / 6 / 4))


def test_each_seed_is_compared_with_the_bank_on_its_own_problems() -> None:
    # harder problems for the second seed: the raw scores differ by 0.2, the differences by nothing
    verdict = gate.judge([0.80, 0.60], BANK, RULES, references=[0.50, 0.30], prior=(0.0001, 3))
    assert verdict.differences == pytest.approx((0.3, 0.3))
    assert verdict.numbers["champion_mean"] == pytest.approx(0.4)


def test_problems_that_suit_the_challenger_by_chance_are_noise_of_one_seed() -> None:
    """Useless candidates whose problem sets differ by as much as seeds do: the promise must hold all the same."""
    assert share_that_accepts_a_useless_one(200, seed=1, problems_sd=0.015) <= 0.08


def test_one_seed_is_never_enough() -> None:
    assert gate.judge([0.99], BANK, RULES, prior=(0.0001, 3)).decision == "NEED_MORE"


def test_gate_asks_for_more_seeds_when_intervals_overlap() -> None:
    assert gate.judge([0.52, 0.525], BANK, RULES, prior=(0.0001, 3)).decision == "NEED_MORE"


def test_a_useless_challenger_is_rejected_early() -> None:
    verdict = gate.judge([0.49, 0.50], BANK, RULES, prior=(0.0001, 3))
    assert (verdict.decision, verdict.numbers["n"]) == ("REJECT", 2)


def test_what_is_undecided_after_all_seeds_is_rejected() -> None:
    eight = [0.515, 0.525, 0.51, 0.53, 0.52, 0.515, 0.51, 0.525]
    assert gate.judge(eight, BANK, RULES, prior=(0.0004, 6)).decision == "REJECT"


def test_a_true_no_op_is_rejected() -> None:
    verdict = gate.judge([0.5, 0.5], [0.5, 0.5], RULES)
    assert (verdict.decision, verdict.reason) == ("REJECT", "no difference at all")


def test_a_gain_without_any_noise_to_measure_it_by_is_rejected() -> None:
    verdict = gate.judge([0.6, 0.6], [0.5, 0.5], RULES)
    assert verdict.decision == "REJECT"
    assert "no variance" in verdict.reason


@given(scores)
def test_the_gate_never_accepts_when_challenger_equals_champion(values: list[float]) -> None:
    assert gate.judge(values, values, RULES, prior=gate.pooled_variance([values])).decision != "ACCEPT"


@given(scores, scores)
def test_flipping_a_metric_together_with_its_direction_changes_no_verdict(a: list[float], b: list[float]) -> None:
    up = gate.judge(a, b, RULES, sign=1, prior=gate.pooled_variance([b]))
    down = gate.judge([-x for x in a], [-x for x in b], RULES, sign=-1, prior=gate.pooled_variance([b]))
    assert up.decision == down.decision


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_never_reaches_a_verdict(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        gate.judge([0.9, bad], BANK, RULES)
    with pytest.raises(ValueError, match="finite"):
        gate.judge([0.9, 0.9], [0.5, bad], RULES)


def test_a_stricter_promise_needs_a_larger_boundary() -> None:
    assert gate.boundary(GateRules(candidates=500), 2) > gate.boundary(GateRules(candidates=50), 2)
    assert gate.boundary(RULES, 8) == pytest.approx(3.139, abs=0.001)
    assert gate.boundary(RULES, 2) == pytest.approx(2 * 3.139, abs=0.001)


def share_that_accepts_a_useless_one(campaigns: int, seed: int, problems_sd: float = 0.0) -> float:
    """Share of simulated campaigns of 50 useless candidates that accept any; seed sd 0.015, all on one bank of four."""
    rng = random.Random(seed)
    rules = GateRules(baseline_seeds=4, max_seeds=4)
    accepted = 0
    for _ in range(campaigns):
        bank = [rng.gauss(0.4, 0.015) for _ in range(4)]
        groups = [bank]
        for _ in range(50):
            mine: list[float] = []
            decision = "NEED_MORE"
            while decision == "NEED_MORE":
                mine.append(rng.gauss(0.4, 0.015) + (rng.gauss(0, problems_sd) if problems_sd else 0.0))
                decision = gate.judge(mine, bank, rules, prior=gate.pooled_variance(groups), corrected=False).decision
            if decision == "ACCEPT":
                accepted += 1
                break
            if len(mine) > 1:
                groups.append(mine)
    return accepted / campaigns


def test_a_campaign_of_fifty_useless_candidates_rarely_accepts_one() -> None:
    """The promise itself, on simulated seeds: 5 % at most; here 300 campaigns, so that 8 % would be beyond chance."""
    assert share_that_accepts_a_useless_one(300, seed=0) <= 0.08


def evaluation(mean: float) -> Evaluation:
    return Evaluation("score", "vault", mean, 0.01, 2000)


def test_the_vault_says_no_where_the_gain_is_gone() -> None:
    accepted = Verdict("ACCEPT", "", {"difference": 0.3, "stderr": 0.01, "n": 2.0, "m": 4.0})
    assert gate.judge_vault(evaluation(0.80), [evaluation(0.50)], accepted, 1).decision == "ACCEPT"
    assert gate.judge_vault(evaluation(0.50), [evaluation(0.50)], accepted, 1).decision == "REJECT"
    # positive, but far below what the gate saw: the gain was made for the gate's problems
    assert gate.judge_vault(evaluation(0.55), [evaluation(0.50)], accepted, 1).decision == "REJECT"
    assert gate.judge_vault(evaluation(0.20), [evaluation(0.50)], accepted, -1).decision == "ACCEPT"
