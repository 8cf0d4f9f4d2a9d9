"""Probabilities of the gate's sequential test, by recursive integration: its boundary, and the interval after an acceptance. Pure.

The test looks after each challenger seed k = 1..N at the mean of e_1..e_k, e_j = mu + b + noise: the seed's own noise has
variance s_c^2, and b, the error of the champion's mean, is the same for all seeds and has variance s_b^2. It stops with an
acceptance at mean >= accept[k], without one at mean < futile[k]. Given b the sums are a random walk, so that the density
of those that go on can be carried from look to look (Armitage, McPherson and Rowe 1969).

`interval` is about what a reviewer sees: only accepted candidates. Its bounds are the mu under which, *given an acceptance*,
evidence at least as strong as this has probability 2.5 % and 97.5 %: an acceptance with at least this mean, at whatever look
(sample mean ordering, Emerson and Fleming 1990; here conditional on the selection, as in Fan and DeMets 2006). A truncated
normal of the last look alone is the simpler form; it forgets the other looks, is far wider and has lower coverage where most
candidates are accepted; stage-wise ordering cannot tell a late acceptance by much from one by a hair (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

_NODES = 48  # of each integral over the sums that go on
_CHAMPION_NODES = 9  # of the integral over the champion's error, where that is at most half of the seed's own noise
_LEAST_SEED_SD = 0.2  # in champion errors: with less, the integral over them would be that of a step


@dataclass(frozen=True)
class Design:
    """The test as it was applied: bounds on the mean by look, index 0 is look 1; the last look has no `futile`.

    `accept` is inf where a look cannot accept, `futile` -inf where it cannot end the test.
    """

    accept: Sequence[float]
    futile: Sequence[float]
    seed_sd: float  # of one challenger seed
    champion_error: float  # standard deviation of the champion's mean

    @property
    def looks(self) -> int:
        return len(self.accept)


def _quadrature(low: Any, high: Any) -> tuple[Any, Any]:
    """Gauss-Legendre nodes and weights on [low, high], columns of one interval for each error of the champion."""
    x, w = _legendre()
    return low + (x + 1) / 2 * (high - low), w / 2 * (high - low)


@cache
def _legendre() -> tuple[Any, Any]:
    from numpy.polynomial.legendre import leggauss

    return leggauss(_NODES)


@cache
def _normal(fine: bool) -> tuple[Any, Any]:
    """Nodes and weights of the standard normal distribution; fine ones for what changes within a fraction of it."""
    import numpy as np
    from numpy.polynomial.hermite_e import hermegauss

    x, w = hermegauss(_CHAMPION_NODES)
    if fine:
        x, w = _quadrature(-5.0, 5.0)
        w = w * np.exp(-(x**2) / 2)
    return x, w / w.sum()


def acceptance(design: Design, mu: float, look: int = 0, mean: float = 0.0, further: int = 0) -> tuple[float, float]:
    """(P(accepted with a mean of at least `mean`), P(accepted at all)) under `mu`.

    With `further` seeds after an acceptance at `look`: `mean` is that of all look + further seeds, and both probabilities are
    of an acceptance at that look.
    """
    import numpy as np
    from scipy.special import ndtr

    error = design.champion_error
    sd = max(design.seed_sd, _LEAST_SEED_SD * error)
    nodes, weights = _normal(error > sd / 2) if error else (np.zeros(1), np.ones(1))
    drift = (mu + error * nodes)[:, None]
    density: Any = None  # (champion's error, sum) of those that go on, times the quadrature's weights
    stronger = total = 0.0
    reached: Any = np.zeros((1, 1))  # the sums there, of the same shape
    for k in range(1, design.looks + 1):
        bound = k * design.accept[k - 1]

        def tail(least: float, k: int = k, density: Any = density, reached: Any = reached) -> float:
            """P(going on until look k and a sum >= `least` there)."""
            if math.isinf(least):
                return 0.0
            if k == 1:
                return float(weights @ ndtr((drift[:, 0] - least) / sd))
            return float(weights @ (density * ndtr((reached + drift - least) / sd)).sum(1))

        accepted = tail(bound)
        if further and k == look:
            around = 9 * sd * math.sqrt(k)
            least = np.maximum(bound, drift * k - around)
            x, w = _quadrature(least, np.maximum(least, drift * k + around))
            at = _carry(density, reached, x, drift, sd, k) * w
            count = look + further
            left = (count * mean - x - further * drift) / (sd * math.sqrt(further))
            return float(weights @ (at * ndtr(-left)).sum(1)), accepted
        total += accepted
        stronger += tail(max(bound, k * mean))
        if k == design.looks:
            break
        around = (
            9 * sd * math.sqrt(k)
        )  # where the sums are that have this drift: of each its own, or a small sd is lost between
        low = np.maximum(k * design.futile[k - 1], drift * k - around)
        x, w = _quadrature(low, np.maximum(low, np.minimum(bound, drift * k + around)))
        density, reached = _carry(density, reached, x, drift, sd, k) * w, x
    return stronger, total


def _carry(density: Any, reached: Any, x: Any, drift: Any, sd: float, look: int) -> Any:
    """Density of the sum at `x` one look later, of those that go on; at the first look of the first seed itself."""
    import numpy as np

    scale = 1 / (sd * math.sqrt(2 * math.pi))
    if look == 1:
        return scale * np.exp(-(((x - drift) / sd) ** 2) / 2)
    step = (x[:, None, :] - reached[:, :, None] - drift[:, :, None]) / sd
    return np.einsum("bx,bxy->by", density, scale * np.exp(-(step**2) / 2))


@cache
def constant(alpha: float, looks: int, first: int = 2) -> float:
    """C of O'Brien and Fleming: sums of k standard normal seeds, looked at from k = `first` on, pass C sqrt(looks) at any
    look k <= `looks` with probability `alpha`.

    >>> round(constant(0.001, 8), 2), round(constant(0.025, 1, first=1), 2)
    (3.14, 1.96)
    """

    def crossing(c: float) -> float:
        accept = [math.inf if k < first else c * math.sqrt(looks) / k for k in range(1, looks + 1)]
        design = Design(accept, [-math.inf] * looks, 1.0, 0.0)
        return acceptance(design, 0.0)[1]

    return _root(lambda c: crossing(c) - alpha, 0.1, 9.0, 1e-5)


def interval(design: Design, look: int, mean: float, further: int = 0) -> tuple[float | None, float, float]:
    """(lower bound, median-unbiased estimate, upper bound) of mu at 95 %, corrected for the acceptance at `look`.

    `mean` is of all `look + further` seeds. The lower bound is None where none above -mean is found: what was just accepted
    at a late look is hardly evidence, given that only what was accepted is looked at. Where it is none at all, the estimate
    is 0 and the upper bound the mean.
    """
    error = math.hypot(design.seed_sd / math.sqrt(look + further), design.champion_error)

    def at_least(mu: float) -> float:
        part, whole = acceptance(design, mu, look, mean, further)
        return part / whole if whole > 1e-290 else 1.0

    high = _left_root(at_least, 0.975, mean + 6 * error, -mean, error)
    if high is None:
        return None, 0.0, mean
    estimate = _left_root(at_least, 0.5, high, -mean, error)
    if estimate is None:
        return None, min(0.0, high), high
    return _left_root(at_least, 0.025, estimate, -mean, error), estimate, high


def _left_root(p: Callable[[float], float], level: float, start: float, end: float, error: float) -> float | None:
    """Where `p`, looked at from `start` to the left, first falls to `level`; None if it turns before that.

    Far to the left an acceptance is ever less likely, but most of those there are come at the first looks: `p` rises again.
    """
    right, at_right = start, p(start)
    while right > end and at_right > level:
        left = right - error / 2
        at_left = p(left)
        if at_left <= level:
            return _root(lambda mu: p(mu) - level, left, right, error / 200)
        if at_left > at_right + 1e-6 and right < start:
            break
        right, at_right = left, at_left
    return None


def _root(f: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(f, low, high, xtol=tolerance))
