"""Small real implementations of the ports, for tests of the pure core and of your own proposers: no process, no file.

`InlineExecutor` and `InlineScorer` make a campaign of a plain function; `MemoryTracker` and `MemoryRegistry` keep what
they are told. They pass the same contract suites as the real ones.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from evolve import suite
from evolve.errors import Cancelled, TrialFailed
from evolve.ports import Cancel, Checked, Training
from evolve.state import State
from evolve.types import (
    Candidate,
    EvalProposal,
    EvalReport,
    Evaluation,
    Params,
    Progress,
    Promoted,
    Record,
    Split,
    Trial,
    Usage,
)

Skill = Callable[[Params, random.Random], float]


@dataclass
class InlineExecutor:
    """Trains by calling `skill(params, rng)`, whose value the scorer will measure; an exception is a crash.

    `curve(params, value)` is what it reports on the way; a training that is ended at a report has used its share.
    """

    skill: Skill
    cpu_seconds: float = 1.0
    curve: Callable[[Params, float], Sequence[Progress]] = lambda params, value: (Progress(1, {"skill": value}),)
    trained: dict[str, float] = field(default_factory=dict)

    def check(self, candidate: Candidate, cancel: Cancel) -> Checked:
        """A patch passes unless it says `fail:` and why."""
        _, found, why = (candidate.patch or "").partition("fail:")
        return Checked("smoke", why.split("\n")[0]) if found else Checked()

    def train(
        self, trial: Trial, candidate: Candidate, progress: Callable[[Progress], None], cancel: Cancel
    ) -> Training:
        params = candidate.params
        if cancel.requested:
            raise Cancelled("ended by the controller")
        usage = Usage(self.cpu_seconds, self.cpu_seconds, 1.0)
        try:
            value = self.skill(params, random.Random(trial.seed))
        except (ArithmeticError, ValueError, MemoryError) as error:
            raise TrialFailed(f"train: {error!r}", usage=usage) from error
        points = self.curve(params, value)
        for done, point in enumerate(points, start=1):
            progress(point)
            if cancel.requested:
                used = self.cpu_seconds * done / len(points)
                raise Cancelled("ended by the controller", usage=Usage(used, used, 1.0))
        weights = hashlib.sha256(f"{sorted(params.items())}:{trial.seed}".encode()).hexdigest()
        self.trained[weights] = value
        return Training(weights, usage, tuple(points))


@dataclass
class InlineScorer:
    """Measures an `InlineExecutor`'s weights with the noise of `n` problems, the same for all in one (split, round)."""

    executor: InlineExecutor
    metric: str = "score"
    n: int = 2000
    stderr: float = 0.0

    def score(self, trials: Sequence[Trial], split: Split, round: int, cancel: Cancel) -> list[Evaluation]:
        if cancel.requested:
            raise Cancelled("ended by the controller")
        if missing := [t.number for t in trials if t.weights not in self.executor.trained]:
            raise TrialFailed(f"trial {missing[0]} has no weights to score")
        shift = random.Random(f"{split}:{round}").gauss(0, self.stderr)
        values = [self.executor.trained[str(t.weights)] for t in trials]
        return [Evaluation(self.metric, split, value + shift, self.stderr, self.n) for value in values]


@dataclass
class InlineAssessor:
    """Reports on a proposed evaluation as if its value were the score, on `n` items; its code may say `fail:` and why."""

    n: int = 100

    def assess(
        self, proposal: EvalProposal, trials: Sequence[Trial], champion_id: str, cancel: Cancel
    ) -> tuple[EvalReport | None, str]:
        if cancel.requested:
            raise Cancelled("ended by the controller")
        _, found, why = proposal.code.partition("fail:")
        if found:
            return None, why.split("\n")[0].strip()
        scores = [0.0, *(t.score.mean for t in trials if t.score is not None)]
        values = [tuple(float(i < s * self.n) for i in range(self.n)) for s in scores]
        return suite.report([suite.Measured(s, v, v) for s, v in zip(scores, values, strict=True)]), ""


@dataclass
class MemoryTracker:
    """Keeps the records in a list, each once."""

    records: list[Record] = field(default_factory=list)

    def record(self, record: Record) -> None:
        if not self.records or record.seq > self.records[-1].seq:
            self.records.append(record)

    def flush(self, timeout_seconds: float) -> int:
        return 0

    def close(self) -> None:
        pass


@dataclass
class MemoryRegistry:
    """Versions and aliases in dicts. `versions` maps a candidate's id to its version, from 1."""

    versions: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)

    def sync(self, state: State, *, check: bool = False) -> list[str]:
        lines = []
        for promotion in state.promotions:
            if isinstance(promotion, Promoted):
                for candidate_id in (promotion.previous_id, promotion.candidate_id):
                    if candidate_id not in self.versions:
                        self.versions[candidate_id] = len(self.versions) + 1
                        lines.append(f"version {self.versions[candidate_id]}: {candidate_id}")
        if not state.promotions:
            return lines
        wanted = {"champion": self.versions[state.champion_id]}
        if state.previous:
            wanted["previous"] = self.versions[state.previous[-1][0]]
        lines += [f"alias {a}: version {v}" for a, v in wanted.items() if self.aliases.get(a) != v]
        self.aliases = wanted
        return lines
