"""What every executor and scorer must do; run on the local ones (real processes) and on the inline ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from inline import skill

from evolve import config
from evolve.errors import Cancelled, TrialFailed
from evolve.executors import LocalExecutor, LocalProcesses, LocalScorer
from evolve.ports import Cancel, Executor, Scorer
from evolve.testing import InlineExecutor, InlineScorer
from evolve.types import Candidate, Params, Progress, Subject, Trial
from evolve.weights import WeightStore
from evolve.workspace import Snapshot


@dataclass
class Pair:
    executor: Executor
    scorer: Scorer
    good: Params
    crashing: Params
    close: Callable[[], None] = lambda: None
    metric: str = "score"


def local(folder: Path, subject: Subject | None = None) -> Pair:
    subject = subject or config.load(["subject=quadratic"]).subject
    snapshot = Snapshot.take(config.data_root(), subject.sources, folder)
    processes = LocalProcesses(subject, snapshot, folder / "trials", WeightStore(folder / "weights"))
    good = {"x": 0.01, "y": 0.5, "size": 32, "mode": "curved", "z": 0.25}
    if subject.preload:
        processes.warm_up(pytest.fail)
    return Pair(LocalExecutor(processes), LocalScorer(processes, "ab" * 32), good, good | {"x": 1.0}, processes.close)


def warm(folder: Path) -> Pair:
    """Forked from servers, which the subject's own commands, with options of Python's, would not be."""
    subject = config.load(["subject=quadratic"]).subject
    commands = {
        name: tuple(word for word in getattr(subject, name) if word not in ("-S", "-E"))
        for name in ("train_cmd", "score_cmd")
    }
    return local(folder, replace(subject, preload=("json",), **commands))  # type: ignore[arg-type]


def inline(folder: Path) -> Pair:
    executor = InlineExecutor(skill)
    scorer = InlineScorer(executor, stderr=0.01)
    return Pair(executor, scorer, {"x": 0.8, "mode": "a"}, {"x": 0.99, "mode": "a"})


@pytest.fixture(params=[local, warm, inline])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    make: Callable[[Path], Pair] = request.param
    pair = make(tmp_path)
    yield pair
    pair.close()


def trial(number: int = 0, seed: int = 1, weights: str | None = None) -> Trial:
    return Trial(number, "c", "search", 0, seed, weights=weights)


def train(pair: Pair, params: Params, seed: int = 1, number: int = 0) -> str:
    return pair.executor.train(trial(number, seed), Candidate(params, "v"), lambda point: None, Cancel()).weights


def test_a_training_leaves_weights_that_can_be_scored(pair: Pair) -> None:
    [evaluation] = pair.scorer.score([trial(weights=train(pair, pair.good))], "search", 0, Cancel())
    assert evaluation.metric == pair.metric
    assert evaluation.split == "search"
    assert 0.4 < evaluation.mean <= 1.0
    assert evaluation.stderr > 0
    assert evaluation.n == 2000


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(pair: Pair) -> None:
    assert train(pair, pair.good, 1) == train(pair, pair.good, 1, number=1)
    assert train(pair, pair.good, 1) != train(pair, pair.good, 2)


def test_use_is_counted_and_progress_is_reported_in_order(pair: Pair) -> None:
    points: list[Progress] = []
    training = pair.executor.train(trial(), Candidate(pair.good, "v"), points.append, Cancel())
    assert training.usage.cpu_seconds > 0
    assert training.usage.wall_seconds > 0
    assert tuple(points) == training.curve
    assert len(points) >= 1


def test_a_crash_is_a_failure_with_a_reason_and_no_weights(pair: Pair) -> None:
    with pytest.raises(TrialFailed, match="MemoryError") as caught:
        train(pair, pair.crashing)
    assert caught.value.usage is not None, "a failed training has used something as well"


def test_a_cancelled_training_and_score_say_so(pair: Pair) -> None:
    weights = train(pair, pair.good)
    cancel = Cancel()
    cancel.request()
    with pytest.raises(Cancelled):
        pair.executor.train(trial(), Candidate(pair.good, "v"), lambda point: None, cancel)
    with pytest.raises(Cancelled):
        pair.scorer.score([trial(weights=weights)], "search", 0, cancel)


def test_the_problems_of_a_split_and_round_are_the_same_for_all_and_others_elsewhere(pair: Pair) -> None:
    a, b = (trial(n, weights=train(pair, pair.good, 1, number=n)) for n in (0, 1))
    again = [pair.scorer.score([t], "gate", 1, Cancel())[0].mean for t in (a, b)]
    assert again[0] == again[1]
    others = {
        pair.scorer.score([a], s, r, Cancel())[0].mean
        for s, r in (("search", 0), ("gate", 1), ("gate", 2), ("vault", 1))
    }  # type: ignore[arg-type]
    assert len(others) > 1


def test_what_has_no_weights_has_no_score(pair: Pair) -> None:
    with pytest.raises(TrialFailed):
        pair.scorer.score([trial()], "search", 0, Cancel())
