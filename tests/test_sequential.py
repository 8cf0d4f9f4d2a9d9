"""The gate's probabilities against published tables, plain simulation and the one-look case."""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from pathlib import Path
from statistics import NormalDist, fmean
from types import ModuleType

import pytest

from evolve import gate
from evolve.sequential import Design, acceptance, constant, interval
from evolve.types import GateRules

ROOT = Path(__file__).parent.parent


def design(looks: int = 8, alpha: float = 0.001, champion_error: float = 0.2) -> Design:
    """Seeds of standard deviation 1, the boundary on the mean at C sqrt(N / k) standard errors."""
    c = constant(alpha, looks)
    error = [math.hypot(1 / math.sqrt(k), champion_error) for k in range(1, looks + 1)]
    accept = [math.inf, *(c * math.sqrt(looks / k) * error[k - 1] for k in range(2, looks + 1))]
    futile = [*(2 * (0.62 - 1 / k) for k in range(1, looks)), -math.inf]
    return Design(accept, futile, 1.0, champion_error)


@pytest.mark.parametrize(("looks", "published"), [(1, 1.960), (2, 1.977), (3, 2.004), (5, 2.040), (10, 2.087)])
def test_the_constant_is_that_of_the_published_tables(looks: int, published: float) -> None:
    """Jennison and Turnbull 2000, table 2.3: C_B(K, 0.05) of the two-sided test; the far side has next to no weight."""
    assert constant(0.025, looks, first=1) == pytest.approx(published, abs=0.002)


def test_a_stricter_level_or_more_looks_ask_for_a_larger_constant() -> None:
    assert constant(0.0005, 8) > constant(0.001, 8) > constant(0.05, 8)
    assert constant(0.001, 12) > constant(0.001, 8)


def simulated(d: Design, mu: float, count: int, seed: int) -> list[tuple[int, float]]:
    """(look, mean) of each acceptance among `count` simulated challenges."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        b, total = rng.gauss(0, d.champion_error), 0.0
        for k in range(1, d.looks + 1):
            total += rng.gauss(mu + b, d.seed_sd)
            if total / k >= d.accept[k - 1]:
                found.append((k, total / k))
                break
            if total / k < d.futile[k - 1]:
                break
    return found


@pytest.mark.parametrize("mu", [1.0, 2.0])
def test_the_chance_of_an_acceptance_is_the_simulated_one(mu: float) -> None:
    count = 4000
    share = len(simulated(design(), mu, count, seed=1)) / count
    assert acceptance(design(), mu)[1] == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / count))


def test_what_counts_as_stronger_evidence_is_a_larger_mean_at_whatever_look() -> None:
    found = simulated(design(), 2.0, 4000, seed=2)
    stronger = fmean(mean >= 2.3 for _, mean in found)
    part, whole = acceptance(design(), 2.0, 5, 2.3)
    assert part / whole == pytest.approx(stronger, abs=0.035)


@pytest.mark.parametrize("mu", [1.0, 2.0, 4.0])
def test_the_interval_holds_the_truth_in_ninety_five_of_a_hundred_acceptances(mu: float) -> None:
    found = simulated(design(), mu, 3000, seed=3)[:80]
    bounds = [interval(design(), look, mean) for look, mean in found]
    held = fmean((-math.inf if low is None else low) <= mu <= high for low, _, high in bounds)
    assert len(found) == 80
    assert 0.87 <= held <= 1.0  # 95 %, three standard errors of 80 cases below


def test_the_estimate_is_too_high_as_often_as_too_low_where_the_plain_mean_flatters() -> None:
    found = simulated(design(), 1.0, 4000, seed=4)[:120]
    estimates = [interval(design(), look, mean)[1] for look, mean in found]
    assert 0.36 <= fmean(e > 1.0 for e in estimates) <= 0.64
    assert fmean(mean > 1.0 for _, mean in found) > 0.95


def test_a_gain_that_would_always_be_accepted_gets_the_plain_interval() -> None:
    always = Design([math.inf, -50.0], [-math.inf, -math.inf], 1.0, 0.0)
    low, estimate, high = interval(always, 2, 3.0)
    half = NormalDist().inv_cdf(0.975) / math.sqrt(2)
    assert (low, estimate, high) == pytest.approx((3.0 - half, 3.0, 3.0 + half), abs=0.01)


def test_what_was_only_just_accepted_at_the_last_look_has_no_lower_bound() -> None:
    d = design()
    assert interval(d, 8, d.accept[7]) == (None, 0.0, d.accept[7]), "no evidence, given an acceptance"
    low, estimate, high = interval(d, 8, d.accept[7] + 0.3)
    assert low is None
    assert 0 < estimate < d.accept[7] < high
    clearly = interval(d, 8, d.accept[7] + 0.8)
    assert clearly[0] is not None and clearly[0] > 0


def test_further_seeds_after_an_acceptance_make_the_interval_narrower() -> None:
    before = interval(design(), 4, 3.2)
    after = interval(design(), 4, 3.2, further=8)
    assert before[0] is not None and after[0] is not None
    assert after[2] - after[0] < before[2] - before[0]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gate_benchmark", ROOT / "benchmarks" / "gate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gate_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_simulates_the_rule_that_is_shipped(benchmark: ModuleType) -> None:
    assert benchmark.disagreements(60) == 0


def test_the_promise_holds_where_recipes_differ_in_their_seed_variance(benchmark: ModuleType) -> None:
    """The full tables are `benchmarks/gate.py`; here 300 campaigns of 50 useless candidates, so that 8 % is beyond chance."""
    for name in ("all challengers 3 times the sd", "one in ten 10 times", "fixed data, sd of a seed"):
        any_of, *_ = benchmark.simulate(benchmark.settings("cheap"), benchmark.MODELS[name], 300)
        assert any_of <= 0.08, name
    told, not_told = benchmark.MODELS["fixed data, sd of a seed"], benchmark.NOT_TOLD
    assert benchmark.simulate(benchmark.settings("cheap"), not_told, 100)[0] > 0.5, "else the test above shows nothing"
    assert told.problems == not_told.problems


def test_the_settings_intervals_are_widened_for_variances_that_were_estimated() -> None:
    rules = GateRules(baseline_seeds=8, max_seeds=8)
    bank = [0.40, 0.41, 0.39, 0.42, 0.38, 0.40, 0.41, 0.39]
    numbers = gate.judge([0.60, 0.61, 0.59], bank, rules, prior=gate.pooled_variance([bank])).numbers
    assert numbers["low"] < numbers["difference"] - 2 * numbers["stderr"]
    assert numbers["low"] < numbers["estimate"] < numbers["high"]
