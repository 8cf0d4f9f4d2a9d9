"""Several objectives: which points are on the front, and which is better than which by the user's tolerances. Pure.

A point is one value for each objective, in the order of the subject's `objectives`, in the metrics' own units. What decides
a promotion is the gate (`gate.judge_several`); here estimates are compared as they are, for search and display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.types import Objective

Point = Sequence[float]


def front(points: Mapping[str, Point], objectives: Sequence[Objective]) -> list[str]:
    """Names of the points that no other dominates (as good on every objective, better on one), best primary value first.

    Equal points are on the front together. Cost: n log n, and n times the length of the front.

    >>> two = Objective("score", "maximize"), Objective("train_seconds", "minimize")
    >>> front({"a": (0.5, 8), "b": (0.7, 9), "c": (0.4, 9)}, two)
    ['b', 'a']
    """
    good = {name: tuple(o.sign * x for o, x in zip(objectives, p, strict=True)) for name, p in points.items()}
    kept: list[str] = []
    # In lexicographic order nothing is dominated by a later one.
    for name in sorted(good, key=lambda name: good[name], reverse=True):
        if not any(_dominates(good[other], good[name]) for other in kept):
            kept.append(name)
    return kept


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))


def gains(point: Point, reference: Point, objectives: Sequence[Objective]) -> list[float]:
    """How much better than `reference` on each objective, in units of its margin: 1 is as much as may be lost on it."""
    return [o.sign * (x - r) / max(o.margin(r), 1e-12) for o, x, r in zip(objectives, point, reference, strict=True)]


def improves(point: Point, reference: Point, objectives: Sequence[Objective], noise: Sequence[float]) -> bool:
    """Better on one objective (a measured one: by more than its margin), not beyond the margin and the noise on all others.

    The gate's rule (`gate.judge_several`) on estimates, without a test. `noise` is one standard deviation over seeds of each
    objective: a single unlucky training must not keep from the gate what the gate would find within the margin.
    """
    found = gains(point, reference, objectives)
    enough = [
        o.sign * (x - r) >= -(o.margin(r) + sd) for o, x, r, sd in zip(objectives, point, reference, noise, strict=True)
    ]
    return all(enough) and any(g > (1 if o.measured else 0) for g, o in zip(found, objectives, strict=True))


def merit(point: Point, reference: Point, objectives: Sequence[Objective]) -> float:
    """The order of points that improve on `reference`: the sum of their gains, each in margins. 0 for the reference itself.

    The margins are the user's own rate of exchange: what may be lost on one objective for a gain on another.
    """
    return sum(gains(point, reference, objectives))
