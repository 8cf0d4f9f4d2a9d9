"""Our sampler, alone in Optuna studies."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from evolve.sampler import _from_unit, _to_unit, advice_is_due, penalties
from evolve.search import default_sampler

optuna.logging.set_verbosity(optuna.logging.ERROR)
DEFAULT = {"x": 0.5, "rate": 1e-3, "mode": "a"}


def objective(trial: optuna.Trial) -> float:
    """Best at x = 0.8, rate = 1e-2, mode b with z = 0.3; a crash where x > 0.9."""
    x = trial.suggest_float("x", 0, 1)
    rate = trial.suggest_float("rate", 1e-5, 1, log=True)
    loss = (x - 0.8) ** 2 + 0.05 * (math.log10(rate) + 2) ** 2
    if trial.suggest_categorical("mode", ["a", "b"]) == "b":
        return loss + (trial.suggest_float("z", 0, 1) - 0.3) ** 2
    return loss + 0.1


def study_of(seed: int = 0, direction: str = "minimize", **options: object) -> optuna.Study:
    study = optuna.create_study(sampler=default_sampler(seed, **options), direction=direction)  # type: ignore[arg-type]
    study.enqueue_trial(DEFAULT)
    return study


def crash(trial: optuna.Trial) -> float:
    value = objective(trial)
    if trial.params["x"] > 0.6:
        raise MemoryError
    return value


def test_it_improves_a_default_by_far_and_asks_the_default_first() -> None:
    finals = []
    for seed in range(3):
        study = study_of(seed)
        study.optimize(objective, 40)
        assert study.trials[0].params == DEFAULT
        finals.append(study.best_value / study.trials[0].value)  # type: ignore[operator]
    assert float(np.median(finals)) < 0.2


def test_maximizing_is_minimizing_the_negative() -> None:
    down, up = study_of(), study_of(direction="maximize")
    down.optimize(objective, 15)
    up.optimize(lambda t: -objective(t), 15)
    assert [t.params for t in down.trials] == [t.params for t in up.trials]


def test_a_rebuilt_study_goes_on_as_an_uninterrupted_one() -> None:
    whole, first = study_of(), study_of()
    whole.optimize(objective, 20)
    first.optimize(objective, 11)
    rebuilt = optuna.create_study(sampler=default_sampler(0))
    rebuilt.add_trials(first.trials)
    rebuilt.optimize(objective, 9)
    assert [t.params for t in rebuilt.trials] == [t.params for t in whole.trials]


def tell(how: str, study: optuna.Study, trial: optuna.Trial) -> None:
    value = objective(trial)
    if trial.params["x"] <= 0.6:
        study.tell(trial, value)
    elif how == "fail":
        study.tell(trial, state=TrialState.FAIL)
    elif how == "constraint":
        trial.set_constraint("memory", 1.0)
        study.tell(trial, 0.0)
    else:
        study.tell(trial, 1e6)


@pytest.mark.parametrize("how", ["fail", "constraint", "penalty"])
def test_a_failure_in_any_form_is_avoided(how: str) -> None:
    """The optimum lies in the crash region: a sampler that does not learn it goes there with all of its last trials.

    One that learns still tries the edge, which here is the best place there is (docs/log.md, "The edge").
    """
    shares = []
    for seed in range(3):
        study = study_of(seed)
        for _ in range(40):
            tell(how, study, study.ask())
        shares.append(np.mean([t.params["x"] > 0.6 for t in study.trials[20:]]))
    assert float(np.median(shares)) <= 0.5


def test_penalties_are_told_from_what_is_merely_bad() -> None:
    assert penalties(np.array([1.0, 1.1, 1.2, 1e6])).tolist() == [False, False, False, True]
    assert penalties(np.array([-0.40, -0.41, -0.42, -0.39, 0.0, 0.0])).tolist() == [False] * 4 + [True] * 2
    assert not penalties(np.array([0.40, 0.41, 0.42, 0.8, 0.39, np.nan])).any()


def test_pruned_trials_and_pending_ones_are_no_obstacle() -> None:
    study = study_of()
    study.optimize(objective, 5)
    open_trials = [study.ask() for _ in range(3)]
    params = [
        tuple(sorted((t.suggest_float("x", 0, 1), t.suggest_float("rate", 1e-5, 1, log=True)))) for t in open_trials
    ]
    assert len(set(params)) == 3  # pending points are not asked for twice
    study.tell(open_trials[0], state=TrialState.PRUNED)
    study.optimize(objective, 5)
    assert study.trials[-1].state == TrialState.COMPLETE


def test_a_noisy_incumbent_is_the_mean_over_its_seeds() -> None:
    """One lucky trial of a point whose other seeds were bad does not become where the search goes on from."""
    from evolve.sampler import History, Space, Surrogate

    rows = np.array([[0.2], [0.2], [0.2], [0.9], [0.9], [0.9], [0.25]])
    no = np.zeros(len(rows), dtype=bool)
    values = np.array([1.0, 1.0, 1.05, 0.9, 1.6, 1.6, 1.0])
    ranked = Surrogate(Space({"x": FloatDistribution(0, 1)}), History(rows, values, no, no, no)).ranked
    assert rows[ranked[0], 0] < 0.3


def test_good_advice_is_taken_early_and_useless_advice_seldom() -> None:
    best = {"x": 0.8, "rate": 1e-2, "mode": "b", "z": 0.3}
    study = study_of(advice=lambda study: [best])
    study.optimize(objective, 3)
    assert study.best_value < 0.02 and study.best_trial.system_attrs["evolve:source"] == "advice"
    useless = study_of(advice=lambda study: [{"x": 0.0, "rate": 1.0, "mode": "a"}])
    useless.optimize(objective, 30)
    assert sum(t.system_attrs.get("evolve:source") == "advice" for t in useless.trials) <= 4


def test_values_come_back_to_the_last_digit() -> None:
    """What a step leaves as it was is unchanged, and who gave advice knows it again."""
    odd = {"x": 1 / 3, "rate": math.pi * 1e-4, "mode": "b", "z": 0.1 + 0.2}
    study = study_of(advice=lambda study: [odd])
    study.optimize(objective, 12)
    assert any(t.params == odd and t.system_attrs.get("evolve:source") == "advice" for t in study.trials)
    rates = FloatDistribution(1e-5, 1, log=True)
    for rate in (3e-4, 1e-3, 0.07, 1e-5, 1.0):
        assert _from_unit(rates, _to_unit(rates, rate)) == rate


def test_bad_advice_is_mended_or_ignored() -> None:
    study = study_of(advice=lambda study: [{"x": 7.0, "mode": "nonsense", "unknown": 1, "rate": float("nan")}])
    study.optimize(objective, 10)
    assert all(0 <= t.params["x"] <= 1 for t in study.trials)


def test_several_objectives_are_refused_in_one_line() -> None:
    study = optuna.create_study(sampler=default_sampler(0), directions=["minimize", "maximize"])
    study.add_trial(create_trial(params={"x": 0.1}, distributions={"x": FloatDistribution(0, 1)}, values=[0, 0]))
    with pytest.raises(ValueError, match="one objective"):
        study.ask({"x": FloatDistribution(0, 1)})


def test_an_ask_does_not_grow_much_with_the_trials() -> None:
    """At 1,000 trials at most ten times an ask at 60: the models see a bounded number of points."""
    rng, d = np.random.default_rng(0), {f"x{i}": FloatDistribution(0, 1) for i in range(10)}

    def seconds(n: int) -> float:
        study = optuna.create_study(sampler=default_sampler(0))
        for _ in range(n):
            params = {name: float(rng.random()) for name in d}
            study.add_trial(create_trial(params=params, distributions=d, value=sum(v * v for v in params.values())))
        taken = []
        for _ in range(4):
            started = time.process_time()
            study.tell(study.ask(d), 1.0)
            taken.append(time.process_time() - started)
        return min(taken)

    assert seconds(1000) < 10 * seconds(60)


def test_it_imports_neither_torch_nor_mlflow_nor_litellm() -> None:
    code = (
        "import sys, evolve.search as s, optuna; study = optuna.create_study(sampler=s.default_sampler(seed=0));"
        "study.optimize(lambda t: t.suggest_float('x', 0, 1), 4);"
        "assert not {'torch', 'mlflow', 'litellm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_reserved_trials_follow_successes() -> None:
    from evolve.sampler import History

    def history(values: list[float], advised: list[bool]) -> History:
        n = len(values)
        no = np.zeros(n, dtype=bool)
        return History(np.zeros((n, 1)), np.array(values), no, no, np.array(advised))

    assert advice_is_due(history([1.0], [False]))
    assert advice_is_due(history([1.0, 0.5], [False, True]))
    assert not advice_is_due(history([1.0, 1.5], [False, True]))
