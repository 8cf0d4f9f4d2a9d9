"""Our sampler against Optuna's, local steps and a forest, on five landscapes with the same default first.

    python benchmarks/search.py --quick            # within five minutes: 2 landscapes, 5 seeds, 60 trials
    python benchmarks/search.py [--workers 2]      # all of it, an hour and more; resumable
    python benchmarks/search.py --table            # the table of what is there so far
    python benchmarks/search.py best-known NAME... # the constants in landscapes.py
    python benchmarks/search.py ask                # CPU milliseconds of one ask after 60, 300 and 1,000 trials

Each run is a line of `results/search.jsonl`: the noise-free value of the incumbent (the trial with the best *measured*
value) after each trial, rounded; failures; CPU seconds an ask. The target is fixed in landscapes.py. A crash is told to
Optuna's samplers as FAIL, as `study.optimize` would. `results/search.json` and `results/search.md` are made from the lines.
CMA-ES needs `pip install -e '.[benchmarks]'`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from scipy.stats import wilcoxon

from benchmarks import landscapes as lands
from benchmarks.landscapes import Landscape, Params, perturb, sample, unit
from evolve.search import default_sampler

LINES = lands.RESULTS / "search.jsonl"
LANDSCAPES = ("lm", "arithmetic", "conditional", "noisy", "valleys")
# method -> (seeds, trials)
METHODS = {
    "evolve": (20, 100),
    "local": (20, 100),
    "tpe": (20, 300),
    "forest": (20, 100),
    "random": (20, 300),
    "cmaes": (20, 300),
    "gp": (5, 100),
}
ADVISED = ("none", "uniform", "bounds", "knowing")
ADVICE_LANDSCAPES, ADVICE_SEEDS, ADVICE_TRIALS = ("lm", "noisy"), 100, 100


class LocalSteps:
    """The incumbent plus Gaussian steps of a tenth of the range, see `landscapes.perturb`."""

    def __init__(self, landscape: Landscape, seed: int) -> None:
        self.landscape, self.rng = landscape, random.Random(seed)
        self.trials: list[tuple[Params, float | None]] = []

    @property
    def incumbent(self) -> Params:
        known = [(v, i) for i, (_, v) in enumerate(self.trials) if v is not None]
        return self.trials[min(known)[1]][0]

    def ask(self) -> Params:
        return perturb(self.landscape, self.incumbent, self.rng, 0.1) if self.trials else dict(self.landscape.default)

    def tell(self, params: Params, value: float | None) -> None:
        self.trials.append((params, value))


class Forest(LocalSteps):
    """Extra trees of 100 on all trials, expected improvement over 500 uniform and 500 local candidates.

    A failure counts as the worst value seen plus the range of the values, so that it does not tie with the default.
    """

    def features(self, params: Params) -> list[float]:
        row: list[float] = []
        for name, d in self.landscape.space.items():
            if isinstance(d, CategoricalDistribution):
                row += [float(params.get(name) == choice) for choice in d.choices]
            else:
                row.append(unit(d, params[name]) if name in params else -1.0)
        return row

    def ask(self) -> Params:
        from sklearn.ensemble import ExtraTreesRegressor

        if len(self.trials) < 2:
            return super().ask()
        values = [v for _, v in self.trials if v is not None]
        penalty = max(values) + (max(values) - min(values) or abs(max(values)))
        x = np.array([self.features(p) for p, _ in self.trials])
        y = np.array([penalty if v is None else v for _, v in self.trials])
        trees = ExtraTreesRegressor(100, random_state=self.rng.getrandbits(32), n_jobs=1).fit(x, y)
        candidates = [sample(self.landscape, self.rng) for _ in range(500)]
        candidates += [perturb(self.landscape, self.incumbent, self.rng, 0.1) for _ in range(500)]
        rows = np.array([self.features(p) for p in candidates], dtype=np.float32)
        each = np.array([tree.tree_.predict(rows)[:, 0] for tree in trees.estimators_])
        mean, sd = each.mean(0), each.std(0) + 1e-12
        u = (min(values) - mean) / sd
        density = np.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
        below = 0.5 * (1 + np.vectorize(math.erf)(u / math.sqrt(2)))
        return candidates[int((sd * (u * below + density)).argmax())]


class OptunaSampler:
    def __init__(self, landscape: Landscape, sampler: optuna.samplers.BaseSampler) -> None:
        self.landscape, self.study = landscape, optuna.create_study(sampler=sampler)
        self.study.enqueue_trial(landscape.default)

    def ask(self) -> Params:
        self.trial = self.study.ask()
        return self.landscape.suggest(self.trial)

    def tell(self, params: Params, value: float | None) -> None:
        if value is None:
            self.study.tell(self.trial, state=TrialState.FAIL)
        else:
            self.study.tell(self.trial, value)


def searcher(landscape: Landscape, method: str, seed: int) -> Any:
    kind, _, advisor = method.partition("+")
    match kind:
        case "local":
            return LocalSteps(landscape, seed)
        case "forest":
            return Forest(landscape, seed)
        case "evolve":
            return OptunaSampler(landscape, default_sampler(seed, advice=advise(landscape, advisor, seed)))
        case "tpe":
            return OptunaSampler(landscape, optuna.samplers.TPESampler(seed=seed))
        case "random":
            return OptunaSampler(landscape, optuna.samplers.RandomSampler(seed=seed))
        case "cmaes":
            return OptunaSampler(landscape, optuna.samplers.CmaEsSampler(seed=seed))
        case _:
            return OptunaSampler(landscape, optuna.samplers.GPSampler(seed=seed, deterministic_objective=False))


def advise(landscape: Landscape, kind: str, seed: int) -> Callable[[optuna.Study], list[Params]] | None:
    """Scripted proposers: uniform points, always the bounds, or one that knows roughly where the optimum is.

    The knowing one is a test double: it steps 0.1 of the range from a point that long walks on true values found.
    """
    if kind in ("", "none"):
        return None

    def offered(study: optuna.Study) -> list[Params]:
        rng = random.Random(f"{kind}:{seed}:{len(study.get_trials(deepcopy=False))}")
        if kind == "uniform":
            return [sample(landscape, rng)]
        if kind == "bounds":
            upper = rng.random() < 0.5
            ends = {
                n: rng.choice(d.choices) if isinstance(d, CategoricalDistribution) else (d.high if upper else d.low)
                for n, d in landscape.space.items()
            }
            return [ends]
        return [perturb(landscape, lands.OPTIMUM[landscape.name], rng, 0.1, probability=0.7)]

    return offered


def run(job: tuple[str, str, int, int, bool]) -> dict[str, Any]:
    """One run; `stop` ends it at the target. The incumbent's noise-free values are rounded to six digits."""
    name, method, seed, trials, stop = job
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    landscape = lands.landscapes()[name]()
    search = searcher(landscape, method, seed)
    best, incumbent, failures, seconds = math.inf, math.inf, 0, 0.0
    curve: list[float] = []
    for _ in range(trials):
        started = time.process_time()
        params = search.ask()
        seconds += time.process_time() - started
        value = landscape.measure(params, seed)
        search.tell(params, value)
        failures += value is None
        if value is not None and value < best:
            best, incumbent = value, landscape.true(params)  # type: ignore[assignment]
        curve.append(round(incumbent, 6))
        if stop and incumbent <= landscape.target:
            break
    hit = next((i + 1 for i, v in enumerate(curve) if v <= landscape.target), None)
    line = {"landscape": name, "method": method, "seed": seed, "trials": trials, "hit": hit}
    line |= {"failures": failures, "ask_seconds": round(seconds / len(curve), 5)}
    return line if stop else line | {"curve": curve}


def jobs() -> Iterator[tuple[str, str, int, int, bool]]:
    for method, (seeds, trials) in METHODS.items():
        if method == "gp":
            for name in ADVICE_LANDSCAPES:
                for seed in range(ADVICE_SEEDS):
                    yield from ((name, f"evolve+{a}", 3000 + seed, ADVICE_TRIALS, True) for a in ADVISED)
        yield from ((name, method, seed, trials, False) for name in LANDSCAPES for seed in range(seeds))


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


# ---------------------------------------------------------------- the table


def quartiles(values: list[float]) -> list[float]:
    return [round(float(q), 6) for q in np.quantile(values, [0.25, 0.5, 0.75])]


def summarize(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Per landscape and method. A run that never reached the target counts as its number of trials plus one."""
    result: dict[str, Any] = {}
    for name in LANDSCAPES:
        mine = [r for r in lines if r["landscape"] == name and "+" not in r["method"]]
        if not mine:
            continue
        landscape = lands.landscapes()[name]()
        default = landscape.true(landscape.default)
        assert default is not None
        regret = default - landscape.best_known
        result[name] = {"default": default, "best_known": landscape.best_known, "target": landscape.target}
        for method in METHODS:
            runs = sorted((r for r in mine if r["method"] == method), key=lambda r: r["seed"])
            if not runs:
                continue
            shares = np.array([[(v - landscape.best_known) / regret for v in r["curve"][:100]] for r in runs])
            result[name][method] = {
                "runs": len(runs),
                "trials_to_target": quartiles([r["hit"] or r["trials"] + 1 for r in runs]),
                "reached": sum(r["hit"] is not None for r in runs),
                "at_100": quartiles([r["curve"][99] for r in runs]),
                "regret_share_at_100": quartiles(list(shares[:, -1])),
                "regret_area_100": quartiles(list(shares.mean(1))),
                "failure_rate": round(statistics.mean(r["failures"] / r["trials"] for r in runs), 4),
                "ask_ms": round(1000 * statistics.median(r["ask_seconds"] for r in runs), 1),
            }
            if runs[0]["trials"] >= 300:
                result[name][method]["at_300"] = quartiles([r["curve"][299] for r in runs])
        ours = {r["seed"]: r["curve"][99] for r in mine if r["method"] == "evolve"}
        for rival in ("local", "forest", "tpe"):
            theirs = {r["seed"]: r["curve"][99] for r in mine if r["method"] == rival}
            pairs = [(ours[s], theirs[s]) for s in sorted(ours.keys() & theirs.keys())]
            result[name][f"wins_over_{rival}"] = [sum(a < b for a, b in pairs), len(pairs)]
            if pairs:
                result[name][f"p_against_{rival}"] = round(float(wilcoxon(*zip(*pairs, strict=True)).pvalue), 5)
    result["advice"] = advice_table(lines)
    return result


def advice_table(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Loss in mean trials-to-target through an advisor, relative to none, with a paired bootstrap over seeds."""
    hits = {
        (r["landscape"], r["seed"], r["method"].partition("+")[2]): r["hit"] or r["trials"] + 1
        for r in lines
        if "+" in r["method"]
    }
    rng, table = np.random.default_rng(0), {}
    for arm in ADVISED[1:]:
        keys = [(n, s) for n, s, a in hits if a == "none" and (n, s, arm) in hits]
        if not keys:
            continue
        pairs = np.array([(hits[*k, "none"], hits[*k, arm]) for k in keys], dtype=float)
        drawn = pairs[rng.integers(0, len(pairs), (4000, len(pairs)))].mean(1)
        ratios = drawn[:, 1] / drawn[:, 0] - 1
        table[arm] = {
            "pairs": len(pairs),
            "loss": round(float(pairs[:, 1].mean() / pairs[:, 0].mean() - 1), 4),
            "upper_95": round(float(np.quantile(ratios, 0.95)), 4),
        }
    return table


def markdown(summary: dict[str, Any]) -> str:
    text = []
    for name in LANDSCAPES:
        if name not in summary:
            continue
        s = summary[name]
        text += [
            f"### {name}: default {s['default']:.4f}, best known {s['best_known']:.4f}, target {s['target']:.4f}",
            "",
        ]
        text.append(
            "| method | runs | trials to target (quartiles) | reached | regret share at 100 | area | failures | ms an ask |"
        )
        text.append("|---|---|---|---|---|---|---|---|")
        for method in METHODS:
            if m := s.get(method):
                low, middle, high = m["trials_to_target"]
                a, b, c = m["regret_share_at_100"]
                text.append(
                    f"| {method} | {m['runs']} | {middle:g} ({low:g} to {high:g}) | {m['reached']} | {b:.3f} ({a:.3f} to {c:.3f}) "
                    f"| {m['regret_area_100'][1]:.3f} | {m['failure_rate']:.1%} | {m['ask_ms']} |"
                )
        wins = ", ".join(
            f"{r} {s[f'wins_over_{r}'][0]} of {s[f'wins_over_{r}'][1]} (p = {s[f'p_against_{r}']:.2g})"
            for r in ("local", "forest", "tpe")
            if f"p_against_{r}" in s
        )
        text += ["", f"Paired seeds at 100 trials in which ours is better than (two-sided Wilcoxon test): {wins}.", ""]
    text += ["### advice: change of the mean trials to target (negative is fewer)", ""]
    for arm, row in summary["advice"].items():
        text.append(
            f"- {arm}: {row['loss']:+.1%}, upper 95 % bound {row['upper_95']:+.1%}, {row['pairs']} paired seeds"
        )
    return "\n".join(text) + "\n"


def best_known(names: list[str]) -> None:
    for name in names:
        lands.BEST_KNOWN.setdefault(name, 0.0)
        landscape = lands.landscapes()[name]()
        walks, steps = (4, 1200) if name == "arithmetic" else (16, 6000)
        rng, found, where = random.Random(0), math.inf, {}
        for walk in range(walks):
            at = dict(landscape.default) if walk % 2 == 0 else sample(landscape, rng)
            value = landscape.true(at) or math.inf
            for step in range(steps):
                moved = perturb(landscape, at, rng, 0.25 * (6 / steps) ** (step / steps) + 0.003)
                new = landscape.true(moved)
                if new is not None and new <= value:
                    at, value = moved, new
            if value < found:
                found, where = value, at
        print(name, found, where, flush=True)


def ask_times() -> None:
    """Of our sampler on `lm` (14 parameters, half of the uniform trials crash), the median of ten."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    landscape, rng = lands.landscapes()["lm"](), random.Random(0)
    for trials in (60, 300, 1000):
        search = OptunaSampler(landscape, default_sampler(0))
        at = dict(landscape.default)
        for _ in range(trials):
            params = sample(landscape, rng) if rng.random() < 0.3 else perturb(landscape, at, rng, 0.1)
            value = landscape.true(params)
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
            frozen = optuna.trial.create_trial(
                params=params, distributions=dict(landscape.space), value=value, state=state
            )
            search.study.add_trial(frozen)
        search.study.ask()  # the enqueued default
        seconds = []
        for _ in range(11):
            started = time.process_time()
            search.ask()
            seconds.append(time.process_time() - started)
        print(
            f"{trials} trials: {1000 * statistics.median(seconds[1:]):.0f} ms an ask, the first {1000 * seconds[0]:.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="*", help="best-known NAME..., or ask; nothing: the benchmark")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.command == ["ask"]:
        ask_times()
        return
    if args.command:
        best_known(args.command[1:])
        return
    if args.quick:
        wanted = [
            (n, m, s, 60, True) for n in ("lm", "noisy") for m in ("evolve", "local", "tpe", "random") for s in range(5)
        ]
        with Pool(args.workers) as pool:
            runs = pool.map(run, wanted, chunksize=1)
        for name in ("lm", "noisy"):
            for method in ("evolve", "local", "tpe", "random"):
                hits = [r["hit"] or 61 for r in runs if (r["landscape"], r["method"]) == (name, method)]
                print(
                    f"{name:8s} {method:8s} trials to target, median {statistics.median(hits):g} of {sorted(hits)} (61: not in 60)"
                )
        return
    if not args.table:
        done = {(r["landscape"], r["method"], r["seed"]) for r in read()}
        todo = [job for job in jobs() if job[:3] not in done]
        with Pool(args.workers) as pool, LINES.open("a") as out:
            for line in pool.imap_unordered(run, todo, chunksize=1):
                out.write(json.dumps(line) + "\n")
                out.flush()
    summary = summarize(read())
    summary["table"] = lands.table_model()[2]
    (lands.RESULTS / "search.json").write_text(json.dumps(summary, indent=1) + "\n")
    (lands.RESULTS / "search.md").write_text(markdown(summary))
    print(markdown(summary))


if __name__ == "__main__":
    main()
