"""What the gate promises, simulated: useless promotions, power, seeds, and intervals, against the rules that other tools use.

    python benchmarks/gate.py [--campaigns 10000] [--intervals 400]     # about ten minutes; results/gate.md is its output

Scores are in units of the champion's standard deviation over seeds. A campaign has 50 challengers that share one bank; a
promotion is an ACCEPT that passed the vault, with a reviewer who always says yes. In a useless campaign every true difference is 0,
and the campaign goes on to its 50th challenger (one promotion would replace the champion by its equal). The rule is that of `evolve.gate`, vectorised over campaigns; before
anything else it is compared with `evolve.gate.judge` itself on random cases. Real trainings: `benchmarks/gate_real.py`;
several objectives: `benchmarks/gate_pareto.py`.

Noise models: `heavy tails` Student's t with 3 degrees of freedom; `outliers` one seed in ten with 3 times the spread; `collapses` one
seed in ten is 5 sd lower; `sd log-normal` each challenger has a seed sd of its own; `fresh sets`: what a set of problems does to a challenger
has the sd of a seed, and each seed has a set of its own; `fixed data`: one set for all seeds of all challengers (`fresh_problems: false`),
whose error over problems is known to the gate, as a scorer's `stderr` tells it; `one set, not told` the same where the gate does not know it.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from evolve import gate
from evolve.config import load
from evolve.sequential import constant
from evolve.types import GateRules

Array = Any
CANDIDATES = 50
SETTINGS = ("strict", "standard", "cheap", "exploratory")


@cache
def settings(name: str) -> GateRules:
    """The shipped numbers."""
    return load([f"gate={name}"]).gate


@dataclass(frozen=True)
class Noise:
    """Seeds of champion and challengers. `ratio` of the challengers' sd for a `share` of them; `log_sd` of a log-normal one."""

    draw: Callable[[np.random.Generator, tuple[int, ...]], Array] = lambda rng, shape: rng.normal(size=shape)
    ratio: float = 1.0
    share: float = 1.0
    log_sd: float = 0.0
    problems: float = 0.0  # sd of what a set of problems does to a challenger
    one_set: bool = False
    told: bool = True


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_t(3, size=shape) / np.sqrt(3)


def outliers(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.normal(size=shape) * np.where(rng.random(shape) < 0.1, 3, 1) / np.sqrt(1.8)


def collapses(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.normal(size=shape) - 5 * (rng.random(shape) < 0.1) + 0.5


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.exponential(size=shape) - 1


MODELS: Mapping[str, Noise] = {
    "normal": Noise(),
    "heavy tails": Noise(heavy),
    "outliers": Noise(outliers),
    "collapses": Noise(collapses),
    "skewed upwards": Noise(skewed),
    "uniform": Noise(lambda rng, shape: rng.uniform(-(3**0.5), 3**0.5, size=shape)),
    "all challengers 3 times the sd": Noise(ratio=3.0),
    "half of them 3 times": Noise(ratio=3.0, share=0.5),
    "one in ten 10 times": Noise(ratio=10.0, share=0.1),
    "all a third of the sd": Noise(ratio=1 / 3),
    "sd log-normal (0.5)": Noise(log_sd=0.5),
    "sd log-normal (1)": Noise(log_sd=1.0),
    "fresh sets, sd of a seed": Noise(problems=1.0),
    "fixed data, sd of a seed": Noise(problems=1.0, one_set=True),
}
NOT_TOLD = Noise(problems=1.0, one_set=True, told=False)


class Rule:
    """`gate.judge` over many campaigns at once; of each: e (campaign, seed), the differences to the bank's mean."""

    def __init__(self, rules: GateRules) -> None:
        self.rules, self.m, self.n_max = rules, rules.baseline_seeds, rules.max_seeds
        self.c = constant(rules.alpha / rules.candidates, self.n_max)

    def judge(
        self, e: Array, s_bank: Array, s0: Array, df0: Array, problems: float
    ) -> tuple[Array, Array, Array, Array]:
        """(accepted, seeds used, sd of one new seed against all, mean) of one challenger in each campaign."""
        count, rules = len(e), self.rules
        live, accepted = np.ones(count, bool), np.zeros(count, bool)
        used, single, final = np.zeros(count, int), np.zeros(count), np.zeros(count)
        nu0 = np.minimum(gate.PRIOR_DF_LIMIT, df0)
        s_i = (nu0 * s0 + (self.m - 1) * s_bank) / (nu0 + self.m - 1)
        for n in range(1, self.n_max + 1):
            mean = e[:, :n].mean(1)
            own = ((e[:, :n] - mean[:, None]) ** 2).sum(1)
            s_c = (nu0 * s0 + own) / (nu0 + n - 1)
            if n > 1:
                s_c = np.maximum(s_c, own / (n - 1))
            v = s_c / n + s_i / self.m + problems**2
            df = v**2 / ((s_c / n) ** 2 / (nu0 + n - 1) + (s_i / self.m) ** 2 / (nu0 + self.m - 1))
            used = np.where(live, n, used)
            final = np.where(live, mean, final)
            single = np.where(live, np.sqrt(v / (1 / n + 1 / self.m) * (1 + 1 / n + 2 / self.m)), single)
            if n >= 2:
                threshold = -stdtrit(df, ndtr(-self.c * np.sqrt(self.n_max / n)))
                yes = live & (mean / np.sqrt(v) >= threshold)
                accepted |= yes
                live &= ~yes
            if n < self.n_max:
                live &= mean >= rules.delta * np.sqrt(s_i) * (0.62 - 1 / n)
        return accepted, used, single, final


def simulate(
    rules: GateRules, noise: Noise, count: int, *, candidates: int = CANDIDATES, effect: float = 0.0, seed: int = 0
) -> tuple[float, float, float, float]:
    """(campaigns that promote any, candidates accepted, candidates promoted, challenger seeds a candidate), as shares and a mean."""
    rng, rule, m = np.random.default_rng(seed), Rule(rules), rules.baseline_seeds
    bank = noise.draw(rng, (count, m))
    s_bank = bank.var(1, ddof=1)
    ss0, df0 = s_bank * (m - 1), np.full(count, m - 1.0)
    hit, accepted_all, promoted_all, seeds = np.zeros(count, bool), 0.0, 0.0, 0.0
    told = noise.problems if noise.one_set and noise.told else 0.0
    asked, yeses = np.zeros(count, int), np.zeros(count, int)
    for _ in range(candidates):
        scale = np.where(rng.random(count) < noise.share, noise.ratio, 1.0) * np.exp(
            noise.log_sd * rng.normal(size=count)
        )
        sets = rng.normal(size=(count, 1 if noise.one_set else rule.n_max)) * noise.problems
        e = noise.draw(rng, (count, rule.n_max)) * scale[:, None] + sets + effect - bank.mean(1)[:, None]
        accepted, used, single, mean = rule.judge(e, s_bank, ss0 / df0, df0, told)
        again = noise.draw(rng, (count,)) * scale + effect + rng.normal(size=count) * noise.problems
        champion = (bank.sum(1) + noise.draw(rng, (count,))) / (m + 1)
        asked += accepted
        level = rules.alpha / (
            rules.vault_queries * 2.0 ** (yeses + 1)
        )  # while no yes came before; later ones are below it
        least = ndtri(1 - level) * noise.problems if noise.one_set and noise.told else 0.0
        gain = again - champion
        floor = mean - 3 * np.hypot(single, noise.problems)
        yes = accepted & (asked <= rules.vault_queries) & (gain > least) & (gain >= floor)
        yeses += yes
        hit |= yes
        accepted_all, promoted_all, seeds = (
            accepted_all + accepted.mean(),
            promoted_all + yes.mean(),
            seeds + used.mean(),
        )
        for n in range(2, rule.n_max + 1):  # those with two seeds and more join the pooled variance
            mine = used == n
            own = ((e[:, :n] - e[:, :n].mean(1, keepdims=True)) ** 2).sum(1)
            ss0, df0 = np.where(mine, ss0 + own, ss0), np.where(mine, df0 + n - 1, df0)
    return float(hit.mean()), accepted_all / candidates, promoted_all / candidates, seeds / candidates


# ---------------------------------------------------------------- what other tools do


def keep_if_better(rng: np.random.Generator, noise: Noise, count: int) -> Array:
    """One training of each; the first of 50 that is above the champion is kept."""
    scores = _rivals(rng, noise, count, 1)
    return (scores[:, 1:, 0] > scores[:, :1, 0]).any(1)


def bootstrap(rng: np.random.Generator, noise: Noise, count: int) -> Array:
    """Three paired seeds; kept where the mean of their differences is above 0 in 95 % of all resamples."""
    scores = _rivals(rng, noise, count, 3)
    d = scores[:, 1:] - scores[:, :1]
    resamples = [d[..., list(i)].mean(-1) > 0 for i in itertools.product(range(3), repeat=3)]
    return (np.mean(resamples, axis=0) >= 0.95).any(1)


def paired_t(rng: np.random.Generator, noise: Noise, count: int) -> Array:
    """Five paired seeds, one-sided t-test at 5 %."""
    scores = _rivals(rng, noise, count, 5)
    d = scores[:, 1:] - scores[:, :1]
    t = d.mean(-1) / (d.std(-1, ddof=1) / np.sqrt(5))
    return (t >= -stdtrit(4, 0.05)).any(1)


def _rivals(rng: np.random.Generator, noise: Noise, count: int, n: int) -> Array:
    """(campaign, champion and then 50 challengers, seed), all on one set of problems."""
    shape = (count, CANDIDATES + 1)
    scale = np.where(rng.random(shape) < noise.share, noise.ratio, 1.0) * np.exp(noise.log_sd * rng.normal(size=shape))
    scale[:, 0] = 1.0
    effects = rng.normal(size=shape) * noise.problems
    effects[:, 0] = 0.0
    return noise.draw(rng, (*shape, n)) * scale[..., None] + effects[..., None]


RIVALS = {"keep if better": keep_if_better, "bootstrap, 3 seeds": bootstrap, "paired t-test, 5 seeds": paired_t}


# ---------------------------------------------------------------- the same rule?


def disagreements(cases: int, seed: int = 0) -> int:
    """How many of so many random challenges `gate.judge`, called seed by seed, ends otherwise than the vectorised rule."""
    rng, wrong = np.random.default_rng(seed), 0
    for case in range(cases):
        rules = settings(SETTINGS[case % len(SETTINGS)])
        bank = rng.normal(size=rules.baseline_seeds)
        mine = rng.normal(size=rules.max_seeds) * rng.uniform(0.5, 3) + rng.uniform(0, 4)
        groups = [list(bank), list(rng.normal(size=3))]
        problems = float(rng.choice([0.0, 0.5]))
        prior = gate.pooled_variance(groups)
        n = 1
        while True:
            verdict = gate.judge(list(mine[:n]), list(bank), rules, prior=prior, problems=problems, corrected=False)
            if verdict.decision != "NEED_MORE":
                break
            n += 1
        e = (mine - bank.mean())[None, :]
        accepted, used, *_ = Rule(rules).judge(
            e, bank.var(ddof=1)[None], np.array([prior[0]]), np.array([float(prior[1])]), problems
        )
        wrong += (bool(accepted[0]), int(used[0])) != (verdict.decision == "ACCEPT", n)
    return wrong


# ---------------------------------------------------------------- intervals


def intervals(rules: GateRules, effect: float, wanted: int, seed: int = 0, most: int = 60_000) -> dict[str, float]:
    """Coverage of the corrected and of the naive interval over `wanted` accepted challengers of one true effect.

    By `gate.judge` itself; the pooled variance has ten earlier candidates with three seeds each.
    """
    rng = random.Random(seed)

    def seeds(n: int, shift: float = 0.0) -> list[float]:
        return [rng.gauss(shift, 1) for _ in range(n)]

    tried, rows = 0, list[tuple[float, float, float, float, float]]()
    while len(rows) < wanted and tried < most:
        tried += 1
        bank = seeds(rules.baseline_seeds)
        prior = gate.pooled_variance([bank, *(seeds(3) for _ in range(10))])
        mine = list[float]()
        while True:
            mine.append(rng.gauss(effect, 1))
            verdict = gate.judge(mine, bank, rules, prior=prior, corrected=False)
            if verdict.decision != "NEED_MORE":
                break
        if verdict.decision == "ACCEPT":
            n = gate.judge(mine, bank, rules, prior=prior).numbers
            rows.append((n.get("low", -np.inf), n["estimate"], n["high"], n["difference"], n["stderr"]))
    low, estimate, high, naive, error = map(np.array, zip(*rows, strict=True))
    return {
        "accepted": len(rows) / tried,
        "corrected": float(np.mean((low <= effect) & (effect <= high))),
        "naive": float(np.mean(np.abs(naive - effect) <= 1.96 * error)),
        "above 0": float(np.mean(low > 0)),
        "estimate": float(np.median(estimate)),
        "naive estimate": float(np.median(naive)),
    }


# ---------------------------------------------------------------- tables


def tables(count: int, wanted: int) -> Iterator[str]:
    wrong = disagreements(400)
    yield f"The vectorised rule ends {wrong} of 400 random challenges otherwise than `evolve.gate.judge`.\n"
    rules = {name: settings(name) for name in SETTINGS}
    yield f"## {count} campaigns of {CANDIDATES} useless candidates: share that promotes any; challenger seeds a candidate\n"
    heads = [f"{n} (m={r.baseline_seeds}, N={r.max_seeds})" for n, r in rules.items()]
    yield "| noise | " + " | ".join([*heads, *RIVALS]) + " |\n|" + "---|" * (1 + len(heads) + len(RIVALS))
    for name, noise in [*MODELS.items(), ("one set, not told", NOT_TOLD)]:
        cells = []
        for r in rules.values():
            any_of, _, _, seeds = simulate(r, noise, count)
            cells.append(f"{any_of:.1%}; {seeds:.2f}")
        for rival in RIVALS.values():
            cells.append(f"{rival(np.random.default_rng(1), noise, min(count, 4000)).mean():.0%}")
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield f"\n## {count} challenges of a real gain: accepted; promoted (vault too); challenger seeds\n"
    yield "| true gain, seed sd | " + " | ".join(heads) + " |\n|" + "---|" * (1 + len(heads))
    for effect in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0):
        cells = []
        for r in rules.values():
            _, accepted, promoted, seeds = simulate(r, Noise(), count, candidates=1, effect=effect)
            cells.append(f"{accepted:.0%}; {promoted:.0%}; {seeds:.1f}")
        yield f"| {effect:g} | " + " | ".join(cells) + " |"
    yield "\n## The interval after an acceptance: how often it holds the truth (95 % asked)\n"
    yield "| setting | true gain, sd | accepted | corrected | naive | lower bound > 0 | estimate, median | naive, median |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in ("strict", "standard", "cheap"):
        for effect in (0.5, 1.0, 1.5, 2.0, 3.0, 5.0):
            f = intervals(rules[name], effect, wanted)
            yield (
                f"| {name} | {effect:g} | {f['accepted']:.1%} | {f['corrected']:.1%} | {f['naive']:.1%} | {f['above 0']:.0%} |"
                f" {f['estimate']:.2f} | {f['naive estimate']:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=10_000)
    parser.add_argument(
        "--intervals", type=int, default=400, help="accepted challengers for each row of the last table"
    )
    arguments = parser.parse_args()
    for line in tables(arguments.campaigns, arguments.intervals):
        print(line, flush=True)


if __name__ == "__main__":
    main()
