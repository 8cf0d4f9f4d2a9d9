"""The landscapes of `benchmarks/search.py`: spaces with a default, a noise-free value, and what a trial measures.

All are minimised. A landscape is written against no sampler, and no shipped proposer knows one. What `random_family`
draws is for development: samplers are tuned on seeds of that family, never on the five landscapes of the benchmark.
"""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Params = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
TARGET_SHARE = 0.25  # the target is this share of the regret between the default and the best known


@dataclass(frozen=True)
class Landscape:
    """What a sampler sees is `space`, in the order of suggestion, with `when` for conditional parameters, and values.

    `true` gives the noise-free value, None for a crash; `noise` is the standard deviation of what a trial adds.
    """

    name: str
    space: Mapping[str, BaseDistribution]
    default: Params
    true: Callable[[Params], float | None]
    best_known: float
    noise: float = 0.0
    when: Mapping[str, tuple[str, tuple[Any, ...]]] = None  # type: ignore[assignment]

    def active(self, name: str, params: Params) -> bool:
        condition = (self.when or {}).get(name)
        return condition is None or params.get(condition[0]) in condition[1]

    def suggest(self, trial: optuna.Trial) -> Params:
        """Define-by-run, parents before children, as a user's objective would."""
        params: Params = {}
        for name, d in self.space.items():
            if not self.active(name, params):
                continue
            if isinstance(d, CategoricalDistribution):
                params[name] = trial.suggest_categorical(name, d.choices)
            elif isinstance(d, IntDistribution):
                params[name] = trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
            else:
                assert isinstance(d, FloatDistribution)
                params[name] = trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
        return params

    def measure(self, params: Params, seed: int) -> float | None:
        """One trial's value: the same params measured again with another seed give another value where there is noise."""
        value = self.true(params)
        if value is None or self.noise == 0:
            return value
        text = json.dumps([self.name, seed, params], sort_keys=True, default=str)
        return value + random.Random(text).gauss(0, self.noise)

    @property
    def target(self) -> float:
        default = self.true(self.default)
        assert default is not None
        return self.best_known + TARGET_SHARE * (default - self.best_known)


def unit(d: BaseDistribution, value: Any) -> float:
    """Where a numeric value lies in its range, in [0, 1], logarithmically where the parameter is."""
    assert isinstance(d, FloatDistribution | IntDistribution)
    low, high = (math.log(d.low), math.log(d.high)) if d.log else (d.low, d.high)
    return ((math.log(value) if d.log else value) - low) / (high - low)


def from_unit(d: BaseDistribution, u: float) -> Any:
    """The inverse of `unit`, clipped and rounded to what the distribution allows."""
    assert isinstance(d, FloatDistribution | IntDistribution)
    u = min(1.0, max(0.0, u))
    low, high = (math.log(d.low), math.log(d.high)) if d.log else (d.low, d.high)
    value = low + u * (high - low)
    value = math.exp(value) if d.log else value
    if d.step is not None:
        value = d.low + round((value - d.low) / d.step) * d.step
    value = min(d.high, max(d.low, value))
    return round(value) if isinstance(d, IntDistribution) else value


def sample(landscape: Landscape, rng: random.Random) -> Params:
    """A uniform point, the inactive parameters left out."""
    params: Params = {}
    for name, d in landscape.space.items():
        if landscape.active(name, params):
            params[name] = (
                rng.choice(d.choices) if isinstance(d, CategoricalDistribution) else from_unit(d, rng.random())
            )
    return params


# ---------------------------------------------------------------- language-model-like, 14 parameters

_LM: dict[str, BaseDistribution] = {
    "embedding_lr": FloatDistribution(1e-3, 1.0, log=True),
    "matrix_lr": FloatDistribution(1e-3, 0.3, log=True),
    "unembedding_lr": FloatDistribution(1e-4, 0.1, log=True),
    "scalar_lr": FloatDistribution(1e-2, 2.0, log=True),
    "log2_batch": IntDistribution(13, 19),  # tokens a step
    "log2_device_batch": IntDistribution(3, 8),  # sequences on the device at a time
    "depth": IntDistribution(2, 16),
    "log2_width": IntDistribution(7, 11),
    "weight_decay": FloatDistribution(0.0, 0.5),
    "adam_beta1": FloatDistribution(0.6, 0.98),
    "adam_beta2": FloatDistribution(0.85, 0.999),
    "warmup_ratio": FloatDistribution(0.0, 0.5),
    "warmdown_ratio": FloatDistribution(0.0, 1.0),
    "window": CategoricalDistribution(("L", "SL", "SSL", "SSSL")),
}
_LM_DEFAULT: Params = {
    "embedding_lr": 0.3, "matrix_lr": 0.03, "unembedding_lr": 0.004, "scalar_lr": 0.5, "log2_batch": 17,
    "log2_device_batch": 5, "depth": 8, "log2_width": 9, "weight_decay": 0.2, "adam_beta1": 0.8,
    "adam_beta2": 0.95, "warmup_ratio": 0.0, "warmdown_ratio": 0.5, "window": "L",
}  # fmt: skip


def _lm_true(params: Params) -> float | None:
    """Bits per byte after a fixed time. Memory is depth x width x device batch; beyond the card's the run ends.

    A fixed time favours neither the largest model nor the smallest; learning rates interact with each other and with
    the batch (square-root rule); too high a rate costs more than one too low by the same factor.
    """
    memory = math.log2(params["depth"]) + params["log2_width"] + params["log2_device_batch"]
    if memory > 17.2:
        return None
    ln = {k: math.log(params[k]) for k in ("embedding_lr", "matrix_lr", "unembedding_lr", "scalar_lr")}
    batch = params["log2_batch"] - 16
    matrix = ln["matrix_lr"] - math.log(0.04) - 0.35 * batch + 0.12 * (params["log2_width"] - 9)
    embedding = ln["embedding_lr"] - math.log(0.45)
    unembedding = ln["unembedding_lr"] - math.log(0.006) + 0.1 * (params["log2_width"] - 9)
    scalar = ln["scalar_lr"] - math.log(0.45)

    def bowl(x: float, width: float) -> float:
        x /= width
        return x * x / (1 + 0.15 * abs(x)) * (1.6 if x > 0 else 1.0)

    size = math.log2(params["depth"]) * 2 + params["log2_width"] * 1.0
    loss = 0.9800
    loss += 0.0085 * bowl(matrix, 0.9) + 0.0045 * bowl(embedding, 1.1) + 0.0040 * bowl(unembedding, 1.1)
    loss += 0.0012 * bowl(scalar, 1.2)
    loss += 0.0035 * bowl(matrix + 0.7 * embedding + 0.4 * unembedding, 1.0)
    loss += 0.0060 * abs(batch - 0.4) ** 1.5
    loss += 0.0100 * abs(size - 15.6) ** 1.3
    loss += 0.0012 * (math.log2(params["depth"]) - (params["log2_width"] - 5.7)) ** 2  # aspect ratio
    loss += 0.0020 * max(0, 5 - params["log2_device_batch"]) ** 1.2 + 0.0008 * max(0, params["log2_device_batch"] - 5)
    loss += 0.05 * (params["weight_decay"] - 0.09) ** 2
    loss += 0.10 * (params["adam_beta1"] - 0.84) ** 2 + 1.2 * (params["adam_beta2"] - 0.962) ** 2
    loss += 0.06 * (params["warmup_ratio"] - 0.04) ** 2 + 0.018 * (params["warmdown_ratio"] - 0.72) ** 2
    loss += {"L": 0.0030, "SL": 0.0012, "SSL": 0.0, "SSSL": 0.0006}[params["window"]]
    return loss


# ---------------------------------------------------------------- conditional, 17 parameters in three branches

_CONDITIONAL: dict[str, BaseDistribution] = {
    "optimizer": CategoricalDistribution(("adamw", "sgd", "muon")),
    "adamw_lr": FloatDistribution(1e-5, 1e-2, log=True),
    "adamw_beta2": FloatDistribution(0.9, 0.9999),
    "sgd_lr": FloatDistribution(1e-3, 3.0, log=True),
    "sgd_momentum": FloatDistribution(0.0, 0.99),
    "muon_lr": FloatDistribution(1e-3, 0.3, log=True),
    "muon_steps": IntDistribution(1, 10),
    "method": CategoricalDistribution(("full", "lora")),
    "rank": IntDistribution(2, 256, log=True),
    "alpha": FloatDistribution(1.0, 512.0, log=True),
    "lora_dropout": FloatDistribution(0.0, 0.5),
    "loss": CategoricalDistribution(("dpo", "ipo", "kto")),
    "beta": FloatDistribution(0.01, 2.0, log=True),
    "tau": FloatDistribution(0.01, 1.0, log=True),
    "undesirable_weight": FloatDistribution(0.1, 4.0, log=True),
    "epochs": IntDistribution(1, 6),
    "batch_size": IntDistribution(8, 512, log=True),
}
_CONDITIONAL_WHEN: dict[str, tuple[str, tuple[Any, ...]]] = {
    "adamw_lr": ("optimizer", ("adamw",)),
    "adamw_beta2": ("optimizer", ("adamw",)),
    "sgd_lr": ("optimizer", ("sgd",)),
    "sgd_momentum": ("optimizer", ("sgd",)),
    "muon_lr": ("optimizer", ("muon",)),
    "muon_steps": ("optimizer", ("muon",)),
    "rank": ("method", ("lora",)),
    "alpha": ("method", ("lora",)),
    "lora_dropout": ("method", ("lora",)),
    "beta": ("loss", ("dpo", "ipo")),
    "tau": ("loss", ("ipo",)),
    "undesirable_weight": ("loss", ("kto",)),
}
_CONDITIONAL_DEFAULT: Params = {
    "optimizer": "adamw", "adamw_lr": 5e-5, "adamw_beta2": 0.999, "method": "full", "loss": "dpo", "beta": 0.1,
    "epochs": 1, "batch_size": 32,
}  # fmt: skip


def _conditional_true(params: Params) -> float | None:
    """Error rate of preference tuning. Muon, LoRA and IPO are each a little better once tuned, worse at first sight.

    SGD at a high rate and momentum diverges, and so does full tuning with a large AdamW rate for many epochs.
    """
    scale = 0.5 * math.log(params["batch_size"] / 64)
    loss = 0.30
    match params["optimizer"]:
        case "adamw":
            rate = math.log(params["adamw_lr"] / (2.5e-4 if params["method"] == "full" else 1e-3)) - scale
            if params["method"] == "full" and params["adamw_lr"] > 3e-3 and params["epochs"] > 2:
                return None
            loss += (
                0.012 + 0.012 * rate**2 / (1 + 0.2 * abs(rate)) + 0.015 * abs(math.log10(1 - params["adamw_beta2"]) + 2)
            )
        case "sgd":
            if params["sgd_lr"] / (1 - params["sgd_momentum"]) > 8:
                return None
            rate = math.log(params["sgd_lr"] / 0.3) - scale + 1.5 * (params["sgd_momentum"] - 0.9)
            loss += 0.040 + 0.012 * rate**2 / (1 + 0.2 * abs(rate))
        case _:
            rate = math.log(params["muon_lr"] / 0.02) - scale
            loss += 0.010 * rate**2 / (1 + 0.2 * abs(rate)) + 0.003 * abs(params["muon_steps"] - 5)
    if params["method"] == "lora":
        ratio = math.log(params["alpha"] / (2 * params["rank"]))
        loss += 0.006 * ratio**2 / (1 + 0.2 * abs(ratio)) + 0.004 * abs(math.log2(params["rank"] / 64))
        loss += 0.05 * (params["lora_dropout"] - 0.05) ** 2
    else:
        loss += 0.016
    match params["loss"]:
        case "dpo":
            loss += 0.010 + 0.008 * math.log(params["beta"] / 0.05) ** 2
        case "ipo":
            loss += 0.007 * math.log(params["beta"] / 0.3) ** 2 + 0.006 * math.log(params["tau"] / 0.1) ** 2
        case _:
            loss += 0.022 + 0.008 * math.log(params["undesirable_weight"]) ** 2
    loss += 0.006 * (params["epochs"] - 3) ** 2 * (1.5 if params["epochs"] > 3 else 1.0)
    return loss + 0.003 * math.log2(params["batch_size"] / 64) ** 2


# ---------------------------------------------------------------- noisy, 9 parameters

_NOISY: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-6, 1e-3, log=True),
    "kl_weight": FloatDistribution(1e-4, 1.0, log=True),
    "clip": FloatDistribution(0.05, 0.5),
    "temperature": FloatDistribution(0.3, 1.5),
    "group_size": IntDistribution(2, 64, log=True),
    "prompts": IntDistribution(8, 512, log=True),
    "entropy": FloatDistribution(0.0, 0.05),
    "advantage": CategoricalDistribution(("group", "batch", "none")),
    "warmup": FloatDistribution(0.0, 0.3),
}
_NOISY_DEFAULT: Params = {
    "learning_rate": 1e-5, "kl_weight": 0.04, "clip": 0.2, "temperature": 1.0, "group_size": 8, "prompts": 32,
    "entropy": 0.0, "advantage": "group", "warmup": 0.0,
}  # fmt: skip


def _noisy_true(params: Params) -> float:
    """One minus the reward of an RL run; seeds differ by 0.02, a fifth of what tuning can win."""
    samples = math.log(params["group_size"] * params["prompts"] / 2048)
    rate = math.log(params["learning_rate"] / 4e-5) - 0.4 * samples
    loss = 0.40 + 0.016 * rate**2 / (1 + 0.15 * abs(rate)) * (2.0 if rate > 0 else 1.0)
    loss += 0.006 * math.log(params["kl_weight"] / 0.004) ** 2 + 0.35 * (params["clip"] - 0.26) ** 2
    loss += 0.09 * (params["temperature"] - 0.85) ** 2 + 0.008 * samples**2 + 10 * (params["entropy"] - 0.006) ** 2
    loss += 0.006 * math.log2(params["group_size"] / 16) ** 2 + 0.15 * (params["warmup"] - 0.06) ** 2
    return loss + {"group": 0.004, "batch": 0.0, "none": 0.03}[params["advantage"]]


# ---------------------------------------------------------------- with other valleys, 8 parameters

_VALLEYS: dict[str, BaseDistribution] = {f"x{i}": FloatDistribution(0.0, 1.0) for i in range(5)} | {
    "log2_batch": IntDistribution(4, 12),
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "schedule": CategoricalDistribution(("constant", "linear", "cosine", "wsd")),
}
_VALLEYS_DEFAULT: Params = {f"x{i}": 0.3 for i in range(5)} | {"log2_batch": 6, "rate": 1e-3, "schedule": "constant"}


def _valleys_true(params: Params) -> float | None:
    """Ripples on three valleys: the default lies in the broad one, and the deepest is a third of the range away."""
    x = np.array([params[f"x{i}"] for i in range(5)])
    u = np.array([unit(_VALLEYS["log2_batch"], params["log2_batch"]), unit(_VALLEYS["rate"], params["rate"])])
    if x[0] + u[0] + u[1] > 2.2:
        return None
    full = np.concatenate([x, u])
    valleys = [  # centre, depth, width
        (np.array([0.42, 0.25, 0.38, 0.2, 0.3, 0.35, 0.5]), 0.74, 0.55),
        (np.array([0.62, 0.55, 0.4, 0.5, 0.3, 0.5, 0.62]), 1.0, 0.42),
        (np.array([0.2, 0.8, 0.9, 0.1, 0.7, 0.2, 0.4]), 0.7, 0.3),
    ]
    depth = max(d * math.exp(-float(((full - c) ** 2).sum()) / (2 * w * w)) for c, d, w in valleys)
    ripple = 0.012 * float(np.cos(9 * math.pi * x[:3]).sum())
    schedule = {"constant": 0.06, "linear": 0.02, "cosine": 0.0, "wsd": 0.01}[params["schedule"]]
    return 2.0 - depth + ripple + schedule


# ---------------------------------------------------------------- the table of real trainings


@functools.cache
def table_model() -> tuple[Any, list[str], dict[str, Any]]:
    """The surrogate over the table, the names of its columns and its validation on held-out points.

    Five folds by config: each point is predicted by models that never saw its config.
    """
    from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor, VotingRegressor
    from sklearn.model_selection import GroupKFold, cross_val_predict

    lines = (RESULTS / "arithmetic_table.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["score"] is not None]
    landscape_space = _arithmetic_space()[0]
    x = np.array([_arithmetic_features(landscape_space, row["params"]) for row in rows])
    y = np.array([row["score"] for row in rows])
    groups = np.array([row["config"] for row in rows])
    model = VotingRegressor(
        [
            ("trees", ExtraTreesRegressor(100, min_samples_leaf=2, max_features=0.7, random_state=0, n_jobs=1)),
            ("boosting", GradientBoostingRegressor(
                n_estimators=400, max_depth=4, learning_rate=0.05, subsample=0.7, min_samples_leaf=5, random_state=0)),
        ]
    )  # fmt: skip
    predicted = cross_val_predict(model, x, y, cv=GroupKFold(5), groups=groups)
    repeated = [
        [r["score"] for r in rows if r["config"] == c] for c in sorted({r["config"] for r in rows if r["seed"] == 2})
    ]
    spread = [float(np.var(scores, ddof=1)) for scores in repeated if len(scores) > 1]
    ranks = lambda values: np.argsort(np.argsort(values))  # noqa: E731
    top = y >= np.quantile(y, 0.75)
    validation = {
        "trainings": len(rows),
        "failed": len(lines) - len(rows),
        "configs": len(set(groups.tolist())),
        "seed_sd_pooled": float(np.mean(spread)) ** 0.5 if spread else None,
        "held_out_r2": float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
        "held_out_rmse": float(((y - predicted) ** 2).mean() ** 0.5),
        "held_out_spearman": float(np.corrcoef(ranks(y), ranks(predicted))[0, 1]),
        "held_out_rmse_best_quarter": float(((y - predicted)[top] ** 2).mean() ** 0.5),
        "held_out_spearman_best_quarter": float(np.corrcoef(ranks(y[top]), ranks(predicted[top]))[0, 1]),
        "default": float(np.mean([r["score"] for r in rows if r["config"] == 0])),
        "best": float(y.max()),
    }
    model.fit(x, y)
    return model, list(landscape_space), validation


@functools.cache
def _arithmetic_space() -> tuple[dict[str, BaseDistribution], Params, dict[str, tuple[str, tuple[Any, ...]]]]:
    import yaml

    raw = yaml.safe_load((Path(__file__).parents[1] / "configs/subject/arithmetic.yaml").read_text())["space"]
    space: dict[str, BaseDistribution] = {}
    when: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for name, p in raw.items():
        if p["type"] == "categorical":
            space[name] = CategoricalDistribution(tuple(p["choices"]))
        elif p["type"] == "int":
            space[name] = IntDistribution(p["low"], p["high"], log=p.get("log", False))
        else:
            space[name] = FloatDistribution(p["low"], p["high"], log=p.get("log", False), step=p.get("step"))
        if "when" in p:
            parent, values = next(iter(p["when"].items()))
            when[name] = (parent, tuple(values))
    default = {n: p["default"] for n, p in raw.items() if n not in when or raw[when[n][0]]["default"] in when[n][1]}
    return space, default, when


def _arithmetic_features(space: Mapping[str, BaseDistribution], params: Params) -> list[float]:
    """Unit coordinates, -1 for what is inactive, one column a choice; GRPO's share of the budget as such."""
    row: list[float] = []
    for name, d in space.items():
        if isinstance(d, CategoricalDistribution):
            row += [float(params.get(name) == choice) for choice in d.choices]
        else:
            row.append(unit(d, params[name]) if name in params else -1.0)
    phases = str(params["phases"])
    grpo = float(params.get("grpo_share", 0.0)) if "grpo" in phases else 0.0
    dpo = (1 - grpo) * float(params.get("dpo_share", 0.0)) if "dpo" in phases else 0.0
    return [*row, grpo, dpo, 1 - grpo - dpo, float("grpo" in phases), float("dpo" in phases)]


def arithmetic_model_landscape() -> Landscape:
    space, default, when = _arithmetic_space()
    model, _, validation = table_model()

    # 400 trees and more take milliseconds a point: the benchmark asks for the same points again and again
    @functools.lru_cache(maxsize=200_000)
    def predict(row: tuple[float, ...]) -> float:
        return float(1 - model.predict(np.array([row]))[0])

    def true(params: Params) -> float:
        return predict(tuple(_arithmetic_features(space, params)))

    return Landscape(
        "arithmetic", space, default, true, BEST_KNOWN["arithmetic"], noise=validation["seed_sd_pooled"], when=when
    )


# ---------------------------------------------------------------- all of them

# The least noise-free value found by `python benchmarks/search.py best-known` (16 long walks of 6,000 steps from the
# default and from uniform points, on true values), fixed before any sampler of ours was tuned; that of the arithmetic
# table as soon as the table was whole.
BEST_KNOWN: dict[str, float] = {
    "lm": 0.98327,
    "conditional": 0.3,
    "noisy": 0.4,
    "valleys": 0.97908,
    "arithmetic": 0.22552,
}


def landscapes() -> dict[str, Callable[[], Landscape]]:
    return {
        "lm": lambda: Landscape("lm", _LM, _LM_DEFAULT, _lm_true, BEST_KNOWN["lm"]),
        "arithmetic": arithmetic_model_landscape,
        "conditional": lambda: Landscape(
            "conditional", _CONDITIONAL, _CONDITIONAL_DEFAULT, _conditional_true, BEST_KNOWN["conditional"],
            when=_CONDITIONAL_WHEN,
        ),
        "noisy": lambda: Landscape("noisy", _NOISY, _NOISY_DEFAULT, _noisy_true, BEST_KNOWN["noisy"], noise=0.02),
        "valleys": lambda: Landscape("valleys", _VALLEYS, _VALLEYS_DEFAULT, _valleys_true, BEST_KNOWN["valleys"]),
    }  # fmt: skip


def random_family(seed: int) -> Landscape:
    """A landscape of the development family: random dimension, scales, interactions, crash region, noise, categoricals.

    A rotated, skewed bowl in unit coordinates whose optimum lies at a sparse random offset from the default, saturating
    far away; a categorical may own conditional parameters.
    """
    rng = random.Random(f"family:{seed}")
    numeric = rng.randint(4, 16)
    space: dict[str, BaseDistribution] = {}
    when: dict[str, tuple[str, tuple[Any, ...]]] = {}
    categoricals = rng.randint(0, 3)
    for i in range(categoricals):
        space[f"c{i}"] = CategoricalDistribution(tuple("abcde"[: rng.randint(2, 5)]))
    for i in range(numeric):
        kind = rng.random()
        if kind < 0.5:
            space[f"x{i}"] = FloatDistribution(10.0 ** -rng.randint(3, 6), 10.0 ** -rng.randint(0, 2), log=True)
        elif kind < 0.75:
            space[f"x{i}"] = FloatDistribution(0.0, rng.choice([0.3, 1.0]))
        else:
            space[f"x{i}"] = IntDistribution(0, rng.choice([3, 6, 15]))
    names = [n for n in space if n.startswith("x")]
    conditional = rng.random() < 0.4 and categoricals > 0
    if conditional:
        parent = space["c0"]
        assert isinstance(parent, CategoricalDistribution)
        for name in rng.sample(names, max(1, numeric // 3)):
            when[name] = ("c0", tuple(rng.sample(parent.choices, 1)))
    centre = {n: rng.uniform(0.25, 0.75) for n in names}
    optimum = {n: min(0.97, max(0.03, centre[n] + rng.gauss(0, 0.22))) for n in names}
    weight = {n: math.exp(rng.gauss(0, 1.1)) for n in names}
    skew = {n: rng.uniform(1, 2.5) for n in names}
    pairs = [
        (rng.choice(names), rng.choice(names), rng.choice([-1, 1]) * rng.uniform(0.5, 1.0)) for _ in range(numeric // 2)
    ]
    level = {
        (c, choice): rng.expovariate(1 / 0.05)
        for c in space
        if c.startswith("c")
        for choice in space[c].choices  # type: ignore[attr-defined]
    }
    noise_share = rng.choice([0.0, 0.0, 0.0, 0.1, 0.25])
    crash_names = rng.sample(names, min(3, numeric))
    crash_at = rng.choice([9.9, 0.5, 0.45, 0.6])
    wave = rng.choice([0.0, 0.0, 0.01, 0.02])
    order = [*(n for n in space if n.startswith("c")), *names]
    space = {n: space[n] for n in order}

    def raw(params: Params) -> float:
        delta = {}
        for n in names:
            if n in params:
                d = unit(space[n], params[n]) - optimum[n]
                delta[n] = d * (skew[n] if d > 0 else 1.0)
        q = sum(weight[n] * d * d for n, d in delta.items())
        q += sum(1.5 * (delta[a] + s * delta[b]) ** 2 for a, b, s in pairs if a in delta and b in delta and a != b)
        q += sum(level[c, params[c]] for c in space if c.startswith("c"))
        q += wave * sum(1 - math.cos(25 * d) for d in delta.values())
        return q / (1 + 0.3 * q)

    default: Params = {}
    landscape = Landscape(f"family-{seed}", space, default, raw, 0.0, when=when)
    for n, d in space.items():
        if landscape.active(n, default):
            default[n] = d.choices[0] if isinstance(d, CategoricalDistribution) else from_unit(d, centre[n])

    def load(params: Params) -> float:
        inside = [unit(space[n], params[n]) for n in crash_names if n in params]
        return float(np.mean(inside)) if inside else 0.0

    limit = max(crash_at, load(default) + 0.02)

    def true(params: Params) -> float | None:
        return None if load(params) > limit else raw(params)

    best = raw(default)
    search = random.Random(f"best:{seed}")
    at = dict(default)
    for step in range(4000):  # good enough to set a target: the optimum may lie in the crash region
        trial = perturb(landscape, at if step % 10 else sample(landscape, search), search, 0.25 * 0.999**step + 0.01)
        value = true(trial)
        if value is not None and value < best:
            at, best = trial, value
    return Landscape(f"family-{seed}", space, default, true, best, noise=noise_share * (raw(default) - best), when=when)


def perturb(
    landscape: Landscape,
    params: Params,
    rng: random.Random,
    scale: float,
    probability: float = 0.3,
    redraw: float = 0.1,
) -> Params:
    """A Gaussian step of `scale` of the range on each active numeric coordinate with `probability`, at least one.

    A categorical is drawn anew with probability `redraw`; parameters that become active are drawn uniformly.
    """
    names = [n for n in params if not isinstance(landscape.space[n], CategoricalDistribution)]
    moved = {n for n in names if rng.random() < probability} or ({rng.choice(names)} if names else set())
    result: Params = {}
    for name, d in landscape.space.items():
        if not landscape.active(name, result):
            continue
        if isinstance(d, CategoricalDistribution):
            result[name] = params[name] if name in params and rng.random() >= redraw else rng.choice(d.choices)
        elif name not in params:
            result[name] = from_unit(d, rng.random())
        elif name in moved:
            u = unit(d, params[name]) + rng.gauss(0, scale)
            result[name] = from_unit(d, u)
        else:
            result[name] = params[name]
    return result


# Roughly where the optimum is, for the benchmark's test double of a knowing advisor alone.
OPTIMUM: dict[str, Params] = {
    "lm": {
        "embedding_lr": 0.45, "matrix_lr": 0.038, "unembedding_lr": 0.006, "scalar_lr": 0.45, "log2_batch": 16,
        "log2_device_batch": 5, "depth": 9, "log2_width": 9, "weight_decay": 0.09, "adam_beta1": 0.84,
        "adam_beta2": 0.962, "warmup_ratio": 0.04, "warmdown_ratio": 0.72, "window": "SSL",
    },
    "noisy": {
        "learning_rate": 4e-5, "kl_weight": 0.004, "clip": 0.26, "temperature": 0.85, "group_size": 16, "prompts": 128,
        "entropy": 0.006, "advantage": "batch", "warmup": 0.06,
    },
}  # fmt: skip
