"""What a training's self-reported curve looks like, in a few numbers and a few words. Pure.

Everything here is a claim of the training: it may serve as a hint for what to try next, and never as a score. It is
bounded whatever a training reports: `METRICS` metrics, `NAME` characters of a name, four numbers each.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from evolve.types import Progress

METRICS, NAME = 6, 40
_LARGEST = 1e100
_SHORTEST = 8  # reports: two a quarter, or a curve says nothing
GRAVE = ("diverged", "kl_blow_up", "reward_collapse", "overfit")  # a fault; the others are room for more
_HELD_OUT = {"eval", "val", "valid", "validation", "test", "dev"}
_REWARD = {"reward", "rewards", "accuracy", "acc", "match", "score"}


@dataclass(frozen=True)
class CurveClaim:
    """Means of one self-reported metric over the four quarters of its reports, and how many reports there were."""

    metric: str
    quarters: tuple[float, float, float, float]
    reports: int


def claims(curve: Iterable[Progress]) -> tuple[CurveClaim, ...]:
    """In the order in which the metrics first appear. What is not finite, or reported less than eight times, is left out."""
    values: dict[str, list[float]] = {}
    for point in curve:
        for name, value in point.metrics.items():
            if (name in values or len(values) < METRICS) and abs(value) < _LARGEST:
                values.setdefault(name, []).append(float(value))
    return tuple(CurveClaim(n[:NAME], _quarters(v), len(v)) for n, v in values.items() if len(v) >= _SHORTEST)


def _quarters(values: Sequence[float]) -> tuple[float, float, float, float]:
    cuts = [round(i * len(values) / 4) for i in range(5)]
    first, second, third, last = (fmean(values[a:b]) for a, b in itertools.pairwise(cuts))
    return first, second, third, last


def diagnose(curve: Sequence[CurveClaim], one_phase: bool) -> list[str]:
    """Names of what the curve shows, the gravest first; none where it shows nothing out of the ordinary.

    Metrics are known by the words of their names: a loss, a held-out loss (`eval_loss`), a `kl`, or a reward, of which more
    is better (`reward`, `accuracy`, `exact_match`, `score`).

        diverged         the loss ends above its first quarter, and half as high again as its lowest
        kl_blow_up       the KL ends above 1, and at five times its second quarter or more
        reward_collapse  the reward loses more than 3/10 of what it had gained, where that was 1/10 of it or more
        overfit          the held-out loss rises again by 1/10 of its fall while the training loss falls
        plateau          the reward's last quarter is within 1/20 of its gain, or 1/50 of itself, of the third
        still_rising     the last quarter brings a quarter of the whole gain or more

    Args:
        one_phase: whether one loss was minimised throughout; the losses of two phases cannot be compared.
    """
    found = []
    losses = [c.quarters for c in curve if _is_loss(c) and not _words(c) & _HELD_OUT]
    held_out = [c.quarters for c in curve if _is_loss(c) and _words(c) & _HELD_OUT]
    rewards = [c.quarters for c in curve if _words(c) & _REWARD and not _is_loss(c)]
    if one_phase and any(q[3] > q[0] and q[3] > 1.5 * min(q) > 0 for q in losses):
        found.append("diverged")
    if any(c.quarters[3] > 1 and c.quarters[3] >= 5 * c.quarters[1] for c in curve if "kl" in _words(c)):
        found.append("kl_blow_up")
    if any(_gain(q) > 0.1 * max(map(abs, q)) and max(q) - q[3] > 0.3 * _gain(q) for q in rewards):
        found.append("reward_collapse")
    falls = any(q[3] < q[2] for q in losses)
    if one_phase and falls and any(q[0] > min(q) and q[3] - min(q) > 0.1 * (q[0] - min(q)) for q in held_out):
        found.append("overfit")
    if found or not rewards:
        return found
    reward = rewards[0]
    if abs(reward[3] - reward[2]) <= max(0.05 * _gain(reward), 0.02 * max(map(abs, reward))):
        return ["plateau"]
    return ["still_rising"] if reward[3] - reward[2] >= 0.25 * _gain(reward) > 0 else []


def _gain(quarters: Sequence[float]) -> float:
    return max(quarters) - quarters[0]


def _words(claim: CurveClaim) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", claim.metric.lower()))


def _is_loss(claim: CurveClaim) -> bool:
    return "loss" in _words(claim)
