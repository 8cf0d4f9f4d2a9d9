"""How often a campaign of useless candidates gets one past the gate, simulated; without the vault and the reviewer.

    python benchmarks/gate.py [--campaigns 2000]

The rule of `evolve.gate.judge`, vectorised over campaigns (scores in units of the champion's seed sd; 50 challengers of effect 0 share
one bank). `shared` is the sd of what one set of problems does to a challenger: drawn anew for each of its seeds, as the gate does
(`fresh`), or once for all of them, as it did before (`one set`).
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import ndtr, stdtrit

C = {4: 3.147, 8: 3.147}  # as in evolve/gate.py


def campaigns(
    count: int,
    m: int,
    n_max: int,
    *,
    ratio: float = 1.0,
    share: float = 1.0,
    shared: float = 0.0,
    one_set: bool = False,
) -> tuple[float, float]:
    """(share of campaigns that accept any of 50, challenger seeds spent on a candidate). `share` of them have seed sd `ratio`."""
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(count, m))
    s_bank = bank.var(1, ddof=1)
    ss0, df0 = s_bank * (m - 1), np.full(count, m - 1.0)
    hit, seeds = np.zeros(count, bool), 0.0
    for _ in range(50):
        scale = ratio if rng.random() < share else 1.0
        problems = rng.normal(size=(count, 1 if one_set else n_max)) * shared
        e = rng.normal(size=(count, n_max)) * scale + problems - bank.mean(1)[:, None]
        live, used = np.ones(count, bool), np.zeros(count, int)
        for n in range(2, n_max + 1):
            nu0, s0, mean = np.minimum(6, df0), ss0 / df0, e[:, :n].mean(1)
            own = ((e[:, :n] - mean[:, None]) ** 2).sum(1)
            s_c, s_i = (nu0 * s0 + own) / (nu0 + n - 1), (nu0 * s0 + (m - 1) * s_bank) / (nu0 + m - 1)
            v = s_c / n + s_i / m
            df = v**2 / ((s_c / n) ** 2 / (nu0 + n - 1) + (s_i / m) ** 2 / (nu0 + m - 1))
            used = np.where(live, n, used)
            accepted = live & (mean / np.sqrt(v) >= -stdtrit(df, ndtr(-C[n_max] * np.sqrt(n_max / n))))
            hit |= accepted
            live &= ~accepted
            if n < n_max:
                live &= mean >= 2.0 * np.sqrt(s_i) * (0.62 - 1 / n)
        seeds += used.mean()
        for n in range(2, n_max + 1):
            mine = used == n
            own = ((e[:, :n] - e[:, :n].mean(1, keepdims=True)) ** 2).sum(1)
            ss0, df0 = np.where(mine, ss0 + own, ss0), np.where(mine, df0 + n - 1, df0)
    return float(hit.mean()), seeds / 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=2000)
    count = parser.parse_args().campaigns
    print(
        "| useless candidates | m=4 N=4 (shipped): any accepted | seeds | m=24 N=8: any accepted | seeds |\n|---|---|---|---|---|"
    )
    rows: list[tuple[str, dict[str, float | bool]]] = [
        ("seed sd as the champion's", {}),
        ("all with 3 times the seed sd", {"ratio": 3.0}),
        ("one in ten with 10 times the seed sd", {"ratio": 10.0, "share": 0.1}),
        ("problem sets matter as much as seeds, fresh ones", {"shared": 1.0}),
        ("problem sets matter as much as seeds, one set", {"shared": 1.0, "one_set": True}),
    ]
    for name, settings in rows:
        small, large = (campaigns(count, m, n, **settings) for m, n in ((4, 4), (24, 8)))  # type: ignore[arg-type]
        print(f"| {name} | {small[0]:.1%} | {small[1]:.2f} | {large[0]:.1%} | {large[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
