"""Curves are claims: what is kept of them is bounded, and what it looks like is said in words."""

import math

import pytest
from inline import Inline, Scripted

from evolve import memory
from evolve.curves import METRICS, NAME, CurveClaim, claims, diagnose
from evolve.memory import observe
from evolve.types import Budget, Progress


def curve(*values: float, metric: str = "reward") -> list[Progress]:
    return [Progress(i, {metric: v}) for i, v in enumerate(values)]


def test_a_curve_is_kept_as_the_means_of_its_quarters():
    assert claims(curve(0, 1, 1, 2, 2, 3, 3, 4)) == (CurveClaim("reward", (0.5, 1.5, 2.5, 3.5), 8),)


def test_a_short_curve_and_values_that_are_not_finite_say_nothing():
    assert claims(curve(*range(7))) == ()
    bad = curve(*[math.nan] * 5, *[math.inf] * 5, *[1e200] * 5)
    assert claims(bad) == ()
    assert claims([*bad, *curve(*[1.0] * 8)]) == (CurveClaim("reward", (1.0, 1.0, 1.0, 1.0), 8),)


def test_what_is_kept_is_bounded_whatever_a_training_reports():
    flood = [Progress(i, {f"{n}" * 5000: 1e99 for n in range(500)}) for i in range(100)]
    kept = claims(flood)
    assert len(kept) == METRICS
    assert all(len(c.metric) <= NAME for c in kept)
    assert all(len(c.quarters) == 4 for c in kept)


@pytest.mark.parametrize(
    ("metric", "quarters", "expected"),
    [
        ("loss", (2.0, 1.0, 0.8, 0.7), []),
        ("loss", (1.0, 0.9, 2.0, 9.0), ["diverged"]),
        ("loss", (2.0, 0.5, 0.8, 1.0), []),  # above its lowest, below where it began: noise, or a schedule
        ("kl", (0.0, 0.1, 0.2, 0.3), []),
        ("kl", (0.0, 0.4, 1.0, 2.5), ["kl_blow_up"]),
        ("objective/kl", (0.0, 3.0, 4.0, 5.0), []),  # high, and stable
        ("reward", (0.1, 0.5, 0.6, 0.2), ["reward_collapse"]),
        ("reward", (0.5, 0.4, 0.3, 0.2), []),  # never rose: there is nothing to lose
        ("exact_match", (0.335, 0.35, 0.335, 0.333), ["plateau"]),  # noise has no shape
        ("exact_match", (0.1, 0.5, 0.60, 0.61), ["plateau"]),
        ("exact_match", (0.1, 0.2, 0.3, 0.4), ["still_rising"]),
        ("exact_match", (0.1, 0.4, 0.5, 0.58), []),
        ("accuracy", (0.3, 0.3, 0.3, 0.3), ["plateau"]),
        ("tokens", (1.0, 2.0, 3.0, 4.0), []),
    ],
)
def test_a_curve_has_a_name_where_its_shape_has_one(metric, quarters, expected):
    assert diagnose([CurveClaim(metric, quarters, 20)], one_phase=True) == expected


def test_overfitting_needs_a_training_loss_that_still_falls():
    held_out = CurveClaim("eval_loss", (2.0, 1.0, 1.1, 1.4), 20)
    falling, rising = CurveClaim("loss", (2.0, 1.0, 0.8, 0.5), 20), CurveClaim("loss", (1.0, 1.0, 1.0, 1.2), 20)
    assert diagnose([held_out, falling], one_phase=True) == ["overfit"]
    assert diagnose([held_out, rising], one_phase=True) == []


def test_an_observation_carries_the_claims_of_its_first_training_alone(tmp_path):
    campaign = Inline(tmp_path / "c", proposer=Scripted([{"x": 0.7}]), budget=Budget(trials=5))
    campaign.run()
    state = campaign.state
    first = next(iter(state.entries))
    trial = state.trials[state.entries[first].trials[0]]
    assert trial.score is not None
    claim = observe(state, first).curve[0]
    assert (claim.metric, claim.reports) == ("skill", 10)
    assert claim.quarters[3] < trial.score.mean, "what was reported on the way, and not the score"
    view = memory.view(state, 0)
    assert all(len(o.curve) <= METRICS for o in view.history)
