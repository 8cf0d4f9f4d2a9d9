"""The gate's numbers where the champion's error, or that over fixed problems, is larger than the noise of a seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evolve import gate, sequential
from evolve.types import GateRules

RULES = GateRules(baseline_seeds=4, max_seeds=8)


def simulated(design: sequential.Design, mu: float, mean: float) -> tuple[float, float]:
    """What `sequential.acceptance` integrates, over 200,000 candidates."""
    rng, count = np.random.default_rng(0), 200_000
    drift = mu + rng.normal(0, design.champion_error, count)
    total, going = np.zeros(count), np.ones(count, bool)
    stronger = accepted = 0
    for k in range(1, design.looks + 1):
        total += drift + rng.normal(0, design.seed_sd, count)
        now = going & (total / k >= design.accept[k - 1])
        accepted += int(now.sum())
        stronger += int((now & (total / k >= mean)).sum())
        going &= ~now & (total / k >= design.futile[k - 1])
    return stronger / count, accepted / count


@pytest.mark.parametrize("seed_sd", [0.02, 0.01, 0.003, 0.001])
@pytest.mark.parametrize("mu", [0.02, 0.05])
def test_acceptances_are_integrated_right_whatever_the_champions_error(seed_sd: float, mu: float) -> None:
    error = 0.01
    accept = [math.inf, *(3.139 * math.sqrt(8 / k) * math.hypot(seed_sd / math.sqrt(k), error) for k in range(2, 9))]
    futile = [*(0.01 * (0.62 - 1 / k) for k in range(1, 8)), -math.inf]
    design = sequential.Design(accept, futile, seed_sd, error)
    integrated = sequential.acceptance(design, mu, 3, accept[2] * 1.02)
    assert integrated == pytest.approx(simulated(design, mu, accept[2] * 1.02), abs=0.012)


def test_where_seeds_change_nothing_a_gain_is_judged_by_the_error_over_fixed_problems() -> None:
    verdict = gate.judge([0.6] * 2, [0.4] * 4, RULES, problems=0.01)
    # by hand: mean 0.2, variance 0.01^2, so that t is 20; the normal distribution's threshold at 2 of 8 seeds is 6.28
    assert (verdict.decision, verdict.numbers["t"]) == ("ACCEPT", pytest.approx(20))
    assert verdict.numbers["threshold"] == pytest.approx(6.28, abs=0.01)
    assert verdict.numbers["low"] < verdict.numbers["estimate"] < verdict.numbers["high"]
    assert gate.judge([0.42] * 2, [0.4] * 4, RULES, problems=0.01).decision == "NEED_MORE"
