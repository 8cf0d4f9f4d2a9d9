"""Our sampler: an Optuna `BaseSampler` for tens to a few hundred expensive trials around a default that works.

    study = optuna.create_study(sampler=evolve.search.default_sampler(seed=0))

Every ask is a function of the study's trials, the seed and the trial's number: nothing is kept between two asks, so that
a study that was rebuilt or resumed goes on as an uninterrupted one.

One ask: the trials become points of the unit cube (logarithmic where the parameter is); two Gaussian processes model
the values near the incumbent, a logistic regression and its errors nearby the failures. Candidates are sparse steps
around the incumbent, of a size that widens after successes and shrinks after failures; now and then they are drawn over
the whole space instead. The one with the most expected improvement, weighed by its chance to train, is asked for.

Sources: TuRBO (arXiv 1910.01739) for the trust region, arXiv 2402.02229 for the prior over lengthscales that scales with the
dimension, Jones et al. 1998 for expected improvement, Ginsbourger et al. 2010 for pending trials (kriging believer),
SMAC (arXiv 2109.09831) for the mixture of local and global candidates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

from evolve.search import OPEN, SOURCE

Array = NDArray[np.float64]

# Chosen on development seeds, with what was tried beside them: docs/log.md, "The sampler".
CANDIDATES = 600  # an ask, before they are refined
GLOBAL_SHARE = 0.07  # of the asks look at the whole space; the others only around the incumbent
MOVED = 3.0  # coordinates that a local step moves, on average
RADIUS = 0.1  # of the trust region at the start: standard deviation of a step, in ranges
RADIUS_LIMITS = (0.02, 0.4)
WIDEN, NARROW = 1.5, 0.92  # after a success, after a trial that was none
MODEL_POINTS = 120  # nearest and best trials that each kernel sees
FIT_STEPS, FIT_STEPS_FULL = 12, 8  # of L-BFGS; when a kernel has all of its points
# Times the square root of the number of features: the prior of the fitted process, and the fixed one's.
LENGTHSCALE, FIXED_LENGTHSCALE = 0.25, 0.2
FEASIBILITY_POWER = 4.0
FEASIBILITY_LENGTHSCALE, FEASIBILITY_NOISE = 0.1, 0.1  # the former times the square root of the number of features
CLIFF, SAFE = 6.0, 0.65  # weight, more, of what the probability lacks to this
REFINE_ROUNDS, REFINED, REFINEMENTS = 2, 5, 20  # rounds, candidates that each starts from, steps from each
ADVICE_QUOTA = 0.05  # of the trials are the advisor's, whatever the surrogate thinks of them; more only after successes


class Space:
    """Optuna's distributions as columns: numbers in [0, 1], choices as indices; inactive where a trial lacks them."""

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self.names = list(distributions)
        self.distributions = [distributions[n] for n in self.names]
        self.choices = np.array(
            [len(d.choices) if isinstance(d, CategoricalDistribution) else 0 for d in self.distributions]
        )
        self.numeric = self.choices == 0
        self.parents: dict[int, tuple[int, frozenset[int]]] = {}
        self.reference = np.where(self.numeric, 0.5, 0.0)  # of parameters that nobody has seen

    def encode(self, params: Mapping[str, Any]) -> tuple[Array, NDArray[np.bool_]]:
        """(columns,) of values, NaN where inactive, and which are active."""
        row = np.full(len(self.names), np.nan)
        for i, (name, d) in enumerate(zip(self.names, self.distributions, strict=True)):
            if name not in params:
                continue
            if isinstance(d, CategoricalDistribution):
                row[i] = d.to_internal_repr(params[name])
            else:
                row[i] = _to_unit(d, params[name])
        return row, ~np.isnan(row)

    def decode(self, row: Array) -> dict[str, Any]:
        """A full vector as Optuna's values; the trial takes those that it suggests."""
        return {
            name: d.choices[int(value)] if isinstance(d, CategoricalDistribution) else _from_unit(d, float(value))
            for name, d, value in zip(self.names, self.distributions, row, strict=True)
        }

    def snap(self, rows: Array) -> Array:
        """In place: clipped to the range, and to the values that steps and integers leave."""
        np.clip(rows, 0.0, np.where(self.numeric, 1.0, np.maximum(self.choices - 1, 0)), out=rows)
        for i, d in enumerate(self.distributions):
            if isinstance(d, IntDistribution) or (isinstance(d, FloatDistribution) and d.step is not None):
                rows[:, i] = _snap_unit(d, rows[:, i])
        return rows

    def learn_conditions(self, rows: Array, active: NDArray[np.bool_]) -> None:
        """Which categorical decides whether a parameter exists, as far as the trials show it."""
        self.parents = {}
        categorical = np.flatnonzero(~self.numeric)
        for i in np.flatnonzero(~active.all(0)):
            for parent in categorical:
                if parent == i:
                    continue
                present = frozenset(rows[active[:, i] & active[:, parent], parent].astype(int).tolist())
                absent = frozenset(rows[~active[:, i] & active[:, parent], parent].astype(int).tolist())
                if present and not present & absent and active[active[:, i], parent].all():
                    self.parents[int(i)] = (int(parent), absent)
                    break

    def inactive(self, rows: Array) -> NDArray[np.bool_]:
        """Which coordinates of full rows would not be suggested. A value of the parent that nobody has tried may be."""
        mask = np.zeros(rows.shape, dtype=bool)
        for _ in range(2):  # a parent may be conditional itself
            for i, (parent, absent) in self.parents.items():
                mask[:, i] = np.isin(rows[:, parent].astype(int), list(absent)) | mask[:, parent]
        return mask

    def canonical(self, rows: Array) -> Array:
        """Equal for rows that are the same trial: the reference value where inactive."""
        return np.where(self.inactive(rows), self.reference, rows).round(12)

    def features(self, rows: Array) -> Array:
        """(n, features): numbers, the reference value where inactive; a column a choice."""
        rows = self.canonical(rows)
        blocks = [rows[:, self.numeric]]
        for i in np.flatnonzero(~self.numeric):
            blocks.append(np.eye(self.choices[i])[rows[:, i].astype(int)] * math.sqrt(0.5))
        return np.concatenate(blocks, 1)


def _bounds(d: FloatDistribution | IntDistribution) -> tuple[float, float]:
    return (math.log(d.low), math.log(d.high)) if d.log else (float(d.low), float(d.high))


def _to_unit(d: BaseDistribution, value: float) -> float:
    assert isinstance(d, FloatDistribution | IntDistribution)
    low, high = _bounds(d)
    if high == low:
        return 0.5
    return ((math.log(value) if d.log else value) - low) / (high - low)


def _from_unit(d: BaseDistribution, u: float) -> float | int:
    assert isinstance(d, FloatDistribution | IntDistribution)
    low, high = _bounds(d)
    value = low + u * (high - low)
    value = math.exp(value) if d.log else value
    if d.step is not None:
        value = d.low + round((value - d.low) / d.step) * d.step
    if isinstance(d, IntDistribution):
        return round(min(max(value, d.low), d.high))
    return min(max(float(f"{value:.12g}"), d.low), d.high)  # there and back, 3e-4 must be 3e-4 again


def _snap_unit(d: BaseDistribution, u: Array) -> Array:
    assert isinstance(d, FloatDistribution | IntDistribution)
    low, high = _bounds(d)
    if high == low:
        return np.full_like(u, 0.5)
    value = low + u * (high - low)
    value = np.exp(value) if d.log else value
    step = d.step or 1
    value = np.clip(d.low + np.round((value - d.low) / step) * step, d.low, d.high)
    return ((np.log(value) if d.log else value) - low) / (high - low)


def matern(a: Array, b: Array, lengthscales: Array) -> Array:
    """(len(a), len(b)) Matern 5/2 correlations."""
    a, b = a / lengthscales, b / lengthscales
    r = np.sqrt(5 * np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T, 0))
    return (1 + r + r * r / 3) * np.exp(-r)  # type: ignore[no-any-return]


class GaussianProcess:
    """Matern 5/2 on standardized values.

    Args:
        x: (n, features) in about [0, 1].
        y: (n,).
        fit: a lengthscale a feature, signal and noise by maximum a posteriori; False: one fixed lengthscale.
    """

    def __init__(self, x: Array, y: Array, fit: bool = True) -> None:
        self.x, self.mean, self.scale = x, float(y.mean()), max(float(y.std()), 1e-12)
        self._z = (y - self.mean) / self.scale
        root = math.sqrt(x.shape[1])
        if fit:
            self._fit(LENGTHSCALE * root)
        else:
            self.lengthscales, self.signal, self.noise = np.full(x.shape[1], FIXED_LENGTHSCALE * root), 1.0, 0.02
        self._factorize()

    def _fit(self, lengthscale: float) -> None:
        (n, d), z = self.x.shape, self._z
        squares = ((self.x[:, None, :] - self.x[None, :, :]) ** 2).reshape(n * n, d)
        eye = np.eye(n)
        centre = np.concatenate([np.full(d, math.log(lengthscale)), [0.0, -4.0]])  # log: lengthscales, signal, noise
        width = np.concatenate([np.full(d, 1.0), [1.0, 1.5]])

        def loss(theta: Array) -> tuple[float, Array]:
            weights = np.exp(-2 * theta[:d])
            signal, noise = math.exp(theta[d]), math.exp(theta[d + 1])
            r = np.sqrt(5 * (squares @ weights).reshape(n, n) + 1e-12)
            decay = np.exp(-r)
            shape = (1 + r + r * r / 3) * decay
            try:
                factor = cho_factor(signal * shape + (noise + 1e-5) * eye, lower=True, check_finite=False)
            except np.linalg.LinAlgError:
                return 1e10, np.zeros(d + 2)
            inverse = cho_solve(factor, eye, check_finite=False)
            alpha = inverse @ z
            outer = np.outer(alpha, alpha) - inverse
            slope = outer * (signal * (1 + r) * decay * (5 / 6))
            gradient = np.empty(d + 2)
            gradient[:d] = -(slope.reshape(-1) @ squares) * weights
            gradient[d] = -0.5 * float((outer * shape).sum()) * signal
            gradient[d + 1] = -0.5 * float(np.trace(outer)) * noise
            away = (theta - centre) / width
            value = 0.5 * float(z @ alpha) + float(np.log(np.diag(factor[0])).sum()) + 0.5 * float(away @ away)
            return value, gradient + away / width

        bounds = [(c - 6, c + 6) for c in centre]
        steps = FIT_STEPS if n < MODEL_POINTS else FIT_STEPS_FULL
        theta = minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}).x
        self.lengthscales, self.signal = np.exp(theta[:d]), math.exp(theta[d])
        self.noise = math.exp(theta[d + 1]) + 1e-5

    def _factorize(self) -> None:
        covariance = self._kernel(self.x, self.x) + self.noise * np.eye(len(self.x))
        self._factor = cho_factor(covariance, lower=True, check_finite=False)
        self._alpha = cho_solve(self._factor, self._z, check_finite=False)

    def condition(self, x: Array, y: Array) -> None:
        """Adds points without fitting anew: what pending trials are believed to give."""
        self.x, self._z = np.concatenate([self.x, x]), np.concatenate([self._z, (y - self.mean) / self.scale])
        self._factorize()

    def _kernel(self, a: Array, b: Array) -> Array:
        return self.signal * matern(a, b, self.lengthscales)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the noise-free value at each row."""
        k = self._kernel(x, self.x)
        v = solve_triangular(self._factor[0], k.T, lower=True, check_finite=False)
        variance = np.maximum(self.signal - (v * v).sum(0), 1e-10)
        mean: Array = k @ self._alpha * self.scale + self.mean
        return mean, np.sqrt(variance) * self.scale


class Feasibility:
    """log P(training succeeds): logistic regression, and what a kernel regression on its errors says near the trials.

    A crash by memory is nearly linear in the logarithms of what multiplies (batch, width, depth): few failures tell where it is.
    The kernel remembers what no line can: that all the neighbours of a point crashed.
    """

    def __init__(self, x: Array, failed: NDArray[np.bool_], incumbent: Array) -> None:
        from sklearn.linear_model import LogisticRegression

        order = np.argsort(((x - incumbent) ** 2).sum(1), kind="stable")
        wide, near = np.sort(order[: 3 * MODEL_POINTS]), np.sort(order[:MODEL_POINTS])
        if failed[wide].all() == failed[wide].any():  # all of one kind: a line needs both
            wide = np.arange(len(x))
        self._line = LogisticRegression(C=100.0, max_iter=300).fit(x[wide], ~failed[wide])
        self._x, self._lengthscales = x[near], np.full(x.shape[1], FEASIBILITY_LENGTHSCALE * math.sqrt(x.shape[1]))
        errors = ~failed[near] - self._line.predict_proba(self._x)[:, 1]
        kernel = matern(self._x, self._x, self._lengthscales) + FEASIBILITY_NOISE * np.eye(len(near))
        self._weights = cho_solve(cho_factor(kernel, lower=True), errors)

    def __call__(self, x: Array) -> Array:
        """(n,)"""
        near = matern(x, self._x, self._lengthscales) @ self._weights
        return np.log(np.clip(self._line.predict_proba(x)[:, 1] + near, 1e-6, 1.0))  # type: ignore[no-any-return]


def log_expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    """log E[max(best - f, 0)] for f ~ N(mean, sd^2), also where it underflows (arXiv 2310.20708)."""
    u = (best - mean) / sd
    density = np.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
    plain = u * ndtr(u) + density
    tail = -0.5 * u * u - 0.5 * math.log(2 * math.pi) - 2 * np.log(np.maximum(np.abs(u), 1.0))
    return np.where(plain > 1e-10, np.log(np.maximum(plain, 1e-10)), tail) + np.log(sd)  # type: ignore[no-any-return]


@dataclass
class History:
    """The study's trials as arrays, in the order of their numbers. Values are minimised."""

    rows: Array  # (n, columns), full: inactive coordinates filled
    values: Array  # (n,), NaN without one
    failed: NDArray[np.bool_]
    pending: NDArray[np.bool_]
    advised: NDArray[np.bool_]

    @property
    def good(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.values)


def penalties(values: Array) -> NDArray[np.bool_]:
    """Which values stand for a failure (an objective that returns 1e9, say, where it crashed). Values are minimised.

    Two signs: more than ten times the best value's magnitude above it; or the very worst value, measured more than
    once to the last digit and further from the better half than five times that half's spread. What is merely bad stays.
    """
    out = np.zeros(len(values), dtype=bool)
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < 2:
        return out
    order = np.sort(values[known])
    out[known] = values[known] > order[0] + 10 * max(abs(order[0]), 1e-12)
    half = order[: (len(order) + 1) // 2]
    if order[-1] == order[-2] and order[-1] > half[-1] + 5 * (half[-1] - half[0]) and len(half) > 1:
        out |= values == order[-1]
    return out


def warp(values: Array) -> Array:
    """Values relative to the best in units of the better half's spread, logarithmic beyond: bad trials stay merely bad."""
    best = values.min()
    scale = max(float(np.median(values) - best), 1e-12)
    return np.log1p((values - best) / scale)  # type: ignore[no-any-return]


def trust_radius(history: History) -> float:
    """Standard deviation of a step: widened by each success, narrowed by each other trial, back to the start at the end."""
    radius, best = RADIUS, math.inf
    for value, failed in zip(history.values, history.failed, strict=True):
        if math.isnan(value) and not failed:
            continue
        if value < best:
            radius = radius if math.isinf(best) else min(RADIUS_LIMITS[1], radius * WIDEN)
            best = value
        elif not failed:
            radius *= NARROW
            if radius < RADIUS_LIMITS[0]:
                radius = RADIUS
    return radius


def local_steps(space: Space, base: Array, radius: float, count: int, rng: np.random.Generator) -> Array:
    """Sparse Gaussian steps: about `MOVED` active coordinates each, at least one; a choice moved is drawn anew."""
    rows = np.repeat(base[None], count, 0)
    live = ~space.inactive(base[None])[0] & ((space.choices != 1) | space.numeric)
    k = max(1, int(live.sum()))
    moved = (rng.random(rows.shape) < min(1.0, MOVED / k)) & live
    lazy = np.flatnonzero(~moved.any(1))
    moved[lazy, rng.choice(np.flatnonzero(live), len(lazy))] = True
    scales = radius * np.exp(rng.normal(0, 0.5, (count, 1)))
    steps = rows + rng.normal(0, 1, rows.shape) * scales
    for i in np.flatnonzero(~space.numeric):
        steps[:, i] = rng.integers(0, space.choices[i], count)
        moved[:, i] &= rng.random(count) < 0.5
    return np.where(moved, steps, rows)


def uniform(space: Space, count: int, rng: np.random.Generator) -> Array:
    rows = rng.random((count, len(space.names)))
    for i in np.flatnonzero(~space.numeric):
        rows[:, i] = rng.integers(0, space.choices[i], count)
    return rows


class Surrogate:
    """What the trials so far say of any row: expected improvement, weighed by the chance that it trains.

    Two Gaussian processes, one with lengthscales fitted and one with a fixed one: what only one of them believes in is
    often an error of its own. Their log expected improvements are averaged. Each point's value is the mean of its trials
    (seeds); the incumbent is the point with the best posterior mean, so that a lucky trial alone does not make one.
    """

    def __init__(self, space: Space, history: History) -> None:
        self._space = space
        x = space.features(history.rows)
        good = np.flatnonzero(history.good)
        numbers: dict[bytes, int] = {}
        group = np.array([numbers.setdefault(history.rows[i].tobytes(), len(numbers)) for i in good])
        points = good[np.unique(group, return_index=True)[1]]
        raw = np.bincount(group, history.values[good]) / np.bincount(group)
        if len(points) > MODEL_POINTS:
            points, raw = _nearest_and_best(x, points, raw)
        y = warp(raw)
        self._models = [GaussianProcess(x[points], y), GaussianProcess(x[points], y, fit=False)]
        smooth = self._models[0].predict(x[points])[0]
        self.best = float(smooth.min())
        self.ranked = points[np.argsort(smooth, kind="stable")]  # numbers of rows, the incumbent first
        self._feasible: Feasibility | None = None
        if history.failed.any():
            known = np.flatnonzero(history.failed | history.good)
            self._feasible = Feasibility(x[known], history.failed[known], x[self.ranked[0]])
        pending = np.flatnonzero(history.pending)
        if len(pending):
            for model in self._models:  # no better than the incumbent: nobody needs to ask beside them at once
                model.condition(x[pending], np.maximum(model.predict(x[pending])[0], self.best))

    def __call__(self, rows: Array) -> Array:
        """(n,) the logarithm of what a trial of each row promises."""
        x = self._space.features(rows)
        promise = np.zeros(len(rows))
        for model in self._models:
            promise += log_expected_improvement(*model.predict(x), self.best) / len(self._models)
        if self._feasible is not None:
            chance = self._feasible(x)
            promise += FEASIBILITY_POWER * chance + CLIFF * np.minimum(0.0, chance - math.log(SAFE))
        return promise

    def mean(self, rows: Array) -> Array:
        """(n,) posterior mean, in the units of `best`."""
        return self._models[0].predict(self._space.features(rows))[0]


def _nearest_and_best(x: Array, points: NDArray[np.int_], raw: Array) -> tuple[NDArray[np.int_], Array]:
    """At most `MODEL_POINTS`: two thirds nearest to the best one, the others the best of the rest."""
    distance = ((x[points] - x[points[raw.argmin()]]) ** 2).sum(1)
    near = np.argsort(distance, kind="stable")[: MODEL_POINTS * 2 // 3]
    order = np.argsort(raw, kind="stable")
    rest = order[~np.isin(order, near)][: MODEL_POINTS - len(near)]
    kept = np.sort(np.concatenate([near, rest]))
    return points[kept], raw[kept]


def choose(space: Space, history: History, rng: np.random.Generator, advice: Array) -> tuple[Array, str]:
    """The row to ask for, and where it came from: `local`, `global` or `advice`.

    Args:
        advice: (n, columns), points of an advisor.
    """
    reserved = len(advice) > 0 and advice_is_due(history)
    if history.good.sum() < 2:  # nothing to model: a small step from the only point known, or a reserved advice
        if reserved:
            return advice[0], "advice"
        base = history.rows[np.flatnonzero(history.good)[0] if history.good.any() else 0]
        rows = space.snap(local_steps(space, base, RADIUS, 50, rng))
        return rows[untried(space, history, rows).argmax()], "local"
    promise = Surrogate(space, history)
    if reserved:
        return advice[int(promise(advice).argmax())], "advice"
    radius = trust_radius(history)
    source = "global" if rng.random() < GLOBAL_SHARE else "local"
    if source == "global":
        rows = uniform(space, CANDIDATES, rng)
    else:
        bases = [(promise.ranked[0], CANDIDATES - 45), *((i, 15) for i in promise.ranked[1:4])]
        rows = np.concatenate([local_steps(space, history.rows[i], radius, n, rng) for i, n in bases])
    rows = space.snap(rows)
    value = promise(rows)
    for round_number in range(REFINE_ROUNDS):
        smaller = radius / 3 / (1 + round_number / 2)
        top = rows[np.argsort(-value, kind="stable")[:REFINED]]
        more = space.snap(np.concatenate([local_steps(space, row, smaller, REFINEMENTS, rng) for row in top]))
        rows, value = np.concatenate([rows, more]), np.concatenate([value, promise(more)])
    best = np.argsort(-value, kind="stable")
    if len(advice):  # advice that the surrogate itself believes to be better than the incumbent competes with its own
        believed = advice[promise.mean(advice) < promise.best]
        if len(believed) and (ranks := promise(believed)).max() > value[best[0]]:
            return believed[int(ranks.argmax())], "advice"
    return rows[best][untried(space, history, rows[best]).argmax()], source  # the first of all where each is one


def untried(space: Space, history: History, rows: Array) -> NDArray[np.bool_]:
    """(n,) which snapped rows are not a trial already."""
    taken = {row.tobytes() for row in space.canonical(history.rows)}
    return np.array([row.tobytes() not in taken for row in space.canonical(rows)], dtype=bool)


def advice_is_due(history: History) -> bool:
    """Whether the next trial is reserved for the advisor.

    One early, then `ADVICE_QUOTA` of the trials; and the next one after each advice that was better than all before it.
    A useless advisor costs that quota, a good one goes on for as long as it wins.
    """
    given = np.flatnonzero(history.advised)
    if len(given) < 1 + math.floor(ADVICE_QUOTA * len(history.rows)):
        return True
    last = int(given[-1])
    if history.pending[last] or math.isnan(history.values[last]):
        return False
    before = history.values[:last][~np.isnan(history.values[:last])]
    return bool(len(before)) and history.values[last] < before.min()


class _Read(NamedTuple):
    """One trial: its row, which columns are active, its value (minimised, NaN without one) and what became of it."""

    row: Array
    active: NDArray[np.bool_]
    value: float
    failed: bool
    pruned: bool
    pending: bool
    advised: bool


def _read(space: Space, t: FrozenTrial, sign: float) -> _Read:
    row, active = space.encode(t.params)
    complete = t.state == TrialState.COMPLETE
    value = sign * t.value if complete and t.value is not None and math.isfinite(t.value) else math.nan
    pending = not t.state.is_finished()
    failed = t.state == TrialState.FAIL or (complete and math.isnan(value))
    failed = failed or (not pending and any(v > 0 for v in t.constraints.values()))
    advised = t.system_attrs.get(SOURCE) == "advice"
    return _Read(row, active, math.nan if failed else value, failed, t.state == TrialState.PRUNED, pending, advised)


class EvolveSampler(BaseSampler):
    """Local search with a surrogate, for tens to a few hundred expensive trials. Single-objective; see the module.

    Args:
        seed: with the number of a trial it decides what is asked; None draws one.
        advice: called with the study at each ask, offers points of its own (params, all or only those to be changed from
            the best trial): a person's ideas, rules, a language model. They take part as `advice_is_due` says.
        defaults: values of parameters that no trial has had yet, conditional ones for instance; else the middle.

    A failure is a trial with state FAIL, one with a violated constraint (`trial.set_constraint`), an infinite value, or
    one with a penalty for a value (`penalties`). A pruned trial counts as worse than the median. The origin of each trial is
    its system attribute `evolve:source`: local, global or advice.
    """

    def __init__(
        self,
        seed: int | None = None,
        advice: Callable[[Study], Sequence[Mapping[str, Any]]] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.reseed_rng(seed)
        self._advice, self._defaults = advice, dict(defaults or {})
        self._read: dict[int, _Read] = {}  # of finished trials; only spares work
        self._known: tuple[str, ...] = ()
        self._given: tuple[int, Mapping[str, Any]] = (-1, {})  # a trial that is being asked for, and its advice

    def reseed_rng(self, seed: int | None = None) -> None:
        """From the next ask on `seed`, or a fresh one, decides; what is known of the study's trials stays."""
        self._seed = _fresh_seed() if seed is None else seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter that any trial had: conditional ones too, of which the objective takes what it suggests."""
        space: dict[str, BaseDistribution] = {}
        for t in study.get_trials(deepcopy=False):
            if t.distributions.keys() - space.keys():
                space |= {n: d for n, d in t.distributions.items() if n not in space and not d.single()}
        return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Raises `ValueError` for a study of several objectives: Optuna's TPESampler and NSGAIISampler take those."""
        if len(study.directions) > 1:
            raise ValueError("EvolveSampler takes one objective; use optuna.samplers.TPESampler for several.")
        trials = [t for t in study.get_trials(deepcopy=False) if t.params and t.number != trial.number]
        trials = [t for t in trials if t.state != TrialState.FAIL or OPEN not in t.system_attrs]
        if not search_space or not trials:
            return {}
        space = Space(search_space)
        history = self._history(study, space, trials)
        offered = [] if self._advice is None else list(self._advice(study))
        rows = [self._row(space, history, params) for params in offered]
        advice = space.snap(np.array(rows)) if rows else np.zeros((0, len(space.names)))
        row, source = choose(space, history, np.random.default_rng([self._seed, trial.number]), advice)
        study._storage.set_trial_system_attr(trial._trial_id, SOURCE, source)
        params = space.decode(row)
        if source == "advice":  # to the last digit, so that who gave it knows it again
            given = offered[int((advice == row).all(1).argmax())]
            params |= {n: v for n, v in given.items() if n in search_space and _contains(search_space[n], v)}
            self._given = (trial.number, given)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that no trial has had yet: as advised, its default, a value near the middle, or a random choice."""
        number, given = self._given
        if number == trial.number and param_name in given and _contains(param_distribution, given[param_name]):
            return given[param_name]
        if param_name in self._defaults and _contains(param_distribution, self._defaults[param_name]):
            return self._defaults[param_name]
        key = hashlib.sha256(f"{self._seed}:{trial.number}:{param_name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(key[:8]))
        if isinstance(param_distribution, CategoricalDistribution):
            return param_distribution.choices[int(rng.integers(len(param_distribution.choices)))]
        first = not any(t.params for t in study.get_trials(deepcopy=False) if t.number != trial.number)
        u = rng.random() if first else float(np.clip(rng.normal(0.5, 0.2), 0, 1))
        return _from_unit(param_distribution, u)

    def _row(self, space: Space, history: History, params: Mapping[str, Any]) -> Array:
        """Advice as a full row: what it does not name is as in the best trial. Out-of-range values go to the bounds."""
        known = {n: v for n, v in params.items() if n in space.names and _allowed(space, n, v)}
        row, active = space.encode(known)
        best = np.flatnonzero(history.good)
        base = history.rows[best[history.values[best].argmin()] if len(best) else 0]
        return np.where(active, row, base)

    def _history(self, study: Study, space: Space, trials: list[FrozenTrial]) -> History:
        if (names := tuple(space.names)) != self._known:
            self._read, self._known = {}, names
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        read = []
        for t in trials:
            if (known := self._read.get(t.number)) is None:
                known = _read(space, t, sign)
                if t.state.is_finished():
                    self._read[t.number] = known
            read.append(known)
        rows, active = np.array([r.row for r in read]), np.array([r.active for r in read])
        values, failed = np.array([r.value for r in read]), np.array([r.failed for r in read])
        far = penalties(values)
        values[far] = np.nan
        space.learn_conditions(rows, active)
        pruned = np.array([r.pruned for r in read]) & ~failed
        if not np.isnan(values).all():
            values[pruned] = np.nanquantile(values, 0.75)
        for i, name in enumerate(space.names):  # what a trial lacks is as in the first one that has it
            seen = np.flatnonzero(active[:, i])
            if name in self._defaults and _allowed(space, name, self._defaults[name]):
                space.reference[i] = space.encode({name: self._defaults[name]})[0][i]
            elif len(seen):
                space.reference[i] = rows[seen[0], i]
            rows[~active[:, i], i] = space.reference[i]
        return History(
            rows,
            values,
            failed | far,
            pending=np.array([r.pending for r in read]),
            advised=np.array([r.advised for r in read]),
        )


def _fresh_seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])


def _contains(d: BaseDistribution, value: Any) -> bool:
    try:
        return bool(d._contains(d.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False


def _allowed(space: Space, name: str, value: Any) -> bool:
    """Whether a value is of the parameter's kind; a number outside of the range is, and goes to the bound."""
    d = space.distributions[space.names.index(name)]
    if isinstance(d, CategoricalDistribution):
        return value in d.choices
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return value > 0 or not d.log  # type: ignore[attr-defined]
