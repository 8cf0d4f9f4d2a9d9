"""How often a campaign of useless candidates gets one past the gate of two objectives, simulated; without vault and reviewer.

    python benchmarks/gate_pareto.py [--campaigns 2000]

The rule of `evolve.gate.judge_several`, vectorised over campaigns: a score and training seconds, in units of their seed sd.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import ndtr, stdtrit

from evolve.sequential import constant


def two_objectives(
    count: int,
    effects: tuple[float, float],
    margin: float,
    *,
    m: int = 4,
    n_max: int = 4,
    ratio: float = 1.0,
    seconds_margin: float = 10.0,
    candidates: int = 50,
    promised: int = 50,
) -> tuple[float, float]:
    """(share of campaigns that accept any of `candidates`, share of all challenges that are accepted); no campaign ends early.

    A score of the scorer's and seconds measured by the controller, both so that larger is better, in units of their seed sd.
    `effects` are the challengers' true differences, `margin` and `seconds_margin` what may be lost.
    """
    rng = np.random.default_rng(0)
    margins, gains = np.array([margin, seconds_margin]), np.array([0.0, seconds_margin])
    bank = rng.normal(size=(count, 2, m))  # (campaign, objective, seed)
    s_bank = bank.var(2, ddof=1)
    ss0, df0 = s_bank * (m - 1), np.full(count, m - 1.0)
    strict, loose = constant(0.05 / promised / 2, n_max), constant(0.05, n_max)
    hit, accepted_all = np.zeros(count, bool), 0.0
    for _ in range(candidates):
        e = rng.normal(size=(count, 2, n_max)) * ratio + np.array(effects)[:, None] - bank.mean(2)[:, :, None]
        live, accepted, used = np.ones(count, bool), np.zeros(count, bool), np.zeros(count, int)
        for n in range(2, n_max + 1):
            nu0, s0, mean = np.minimum(6, df0)[:, None], ss0 / df0[:, None], e[:, :, :n].mean(2)
            own = ((e[:, :, :n] - mean[:, :, None]) ** 2).sum(2)
            s_c, s_i = (nu0 * s0 + own) / (nu0 + n - 1), (nu0 * s0 + (m - 1) * s_bank) / (nu0 + m - 1)
            s_c = np.maximum(s_c, own / (n - 1))
            v = s_c / n + s_i / m
            df = v**2 / ((s_c / n) ** 2 / (nu0 + n - 1) + (s_i / m) ** 2 / (nu0 + m - 1))
            used = np.where(live, n, used)
            threshold = [-stdtrit(df, ndtr(-c * np.sqrt(n_max / n))) for c in (strict, loose)]
            better = (mean - gains) / np.sqrt(v) >= threshold[0]
            no_gain = ~better & ((n == n_max) | (mean - gains < 2.0 * np.sqrt(s_i) * (0.62 - 1 / n)))
            level = (mean + margins) / np.sqrt(v) >= threshold[1]
            worse = ~level & ((n == n_max) | (mean + margins < 0))
            yes = live & (better & level[:, ::-1]).any(1)
            accepted |= yes
            live &= ~yes & ~(no_gain | worse[:, ::-1]).all(1)
        hit |= accepted
        accepted_all += accepted.mean()
        for n in range(2, n_max + 1):
            mine = used == n
            own = ((e[:, :, :n] - e[:, :, :n].mean(2, keepdims=True)) ** 2).sum(2)
            ss0, df0 = np.where(mine[:, None], ss0 + own, ss0), np.where(mine, df0 + n - 1, df0)
    return float(hit.mean()), accepted_all / candidates


def print_two_objectives(count: int) -> None:
    print("\n| useless challengers: true difference in score, seconds | margin of score | any of 50 accepted | each |")
    print("|---|---|---|---|")
    for name, effects, settings in (
        ("0, 0", (0.0, 0.0), {}),
        ("0, 0; 3 times the seed sd", (0.0, 0.0), {"ratio": 3.0}),
        ("0, a drift of half the margin", (0.0, 5.0), {}),
        ("0, a drift of the whole margin", (0.0, 10.0), {}),
        ("one margin worse, 40 better", (-1.0, 40.0), {}),
        ("two margins worse, 40 better", (-2.0, 40.0), {}),
    ):
        for margin in (1.0, 2.0):
            true = (effects[0] * margin, effects[1])
            any_of, each = two_objectives(count, true, margin, **settings)  # type: ignore[arg-type]
            print(f"| {name} | {margin:g} sd | {any_of:.1%} | {each:.2%} |", flush=True)
    print("\n| real gains: true difference in score, seconds | m=4 N=4, margin of score 1 sd | 1.5 sd | 2 sd | 3 sd |")
    print("|---|---|---|---|---|")
    for name, effects in (
        ("0, 15 (half the margin beyond it)", (0.0, 15.0)),
        ("0, 40", (0.0, 40.0)),
        ("-1, 40", (-1.0, 40.0)),
        ("+1, 40", (1.0, 40.0)),
        ("+4, 0", (4.0, 0.0)),
        ("+6, 0", (6.0, 0.0)),
    ):
        shares = [two_objectives(5 * count, effects, margin, candidates=1)[1] for margin in (1.0, 1.5, 2.0, 3.0)]
        print(f"| {name} | " + " | ".join(f"{share:.0%}" for share in shares) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=2000)
    print_two_objectives(parser.parse_args().campaigns)


if __name__ == "__main__":
    main()
