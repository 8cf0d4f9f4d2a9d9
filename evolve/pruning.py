"""Optuna's pruners behind `ports.Pruner`: which search trainings are ended early, judged by their self-reported curves.

Nothing but the choice of trainings to end comes out of here. The study is private and in memory, a projection of the
journal; the samplers' (`search.py`) is another, and never sees a curve.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from evolve.errors import BadInput, did_you_mean
from evolve.types import (
    CampaignStarted,
    Candidate,
    Direction,
    Event,
    HumanProposed,
    Progress,
    ProgressSpec,
    Proposed,
    Trial,
    TrialFinished,
    TrialScheduled,
    TrialStarted,
    digest,
)

if TYPE_CHECKING:
    import optuna

PrunerFactory = Callable[[], "optuna.pruners.BasePruner"]

_PREFIX = "optuna.pruners."


def pruner_factory(target: Mapping[str, Any]) -> PrunerFactory:
    """Makes the Optuna pruner named by `_target_`, its other keys as arguments. Raises `BadInput`.

    An argument that has a `_target_` itself is made first: `PatientPruner` wraps another pruner.
    """
    import optuna

    name = str(target.get("_target_"))
    known = [n for n in dir(optuna.pruners) if n.endswith("Pruner") and n != "BasePruner"]
    kind = getattr(optuna.pruners, name.removeprefix(_PREFIX), None) if name.startswith(_PREFIX) else None
    if not (isinstance(kind, type) and name.removeprefix(_PREFIX) in known):
        raise BadInput(
            f"pruner._target_ must be one of Optuna's pruners, but got {name!r}{did_you_mean(name.rsplit('.', 1)[-1], known)}"
        )
    plain = {k: v for k, v in target.items() if k != "_target_" and not _is_target(v)}
    nested = {k: pruner_factory(v) for k, v in target.items() if _is_target(v)}

    def make() -> optuna.pruners.BasePruner:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that Wilcoxon's is experimental
            return kind(**plain, **{k: other() for k, other in nested.items()})  # type: ignore[no-any-return]

    try:
        _rehearse(make())
    except (TypeError, ValueError, ImportError) as error:
        raise BadInput(f"{name} must accept the pruner's settings, but: {error}; correct them.") from error
    return make


def _is_target(value: object) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _rehearse(pruner: optuna.pruners.BasePruner) -> None:
    """Asks once: arguments that only fail then fail here, and what it imports late (scipy) is there when it matters."""
    group = _Group(pruner, "rehearsal", "maximize")
    for number in range(2):
        group.start(number)
        for mark in range(1, 13):
            group.report(number, mark, float(mark * (1 - number)))
        group.finish(number, "COMPLETE", 1.0)


@dataclass
class _Group:
    """The study of all trainings that are compared with each other: those of one harness."""

    pruner: optuna.pruners.BasePruner
    name: str
    direction: Direction
    study: optuna.Study = field(init=False)
    open: dict[int, optuna.Trial] = field(default_factory=dict)  # trial's number -> the study's
    marks: dict[int, dict[int, float]] = field(default_factory=dict)  # trial's number -> its reports so far
    seen: dict[int, list[float]] = field(default_factory=dict)  # mark -> reports of the scored ones

    def __post_init__(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", module=r"optuna\.")  # not per call: that is not safe between threads
        # Hyperband assigns brackets by the study's name and the trial's number: both must be the same in every run.
        sampler = optuna.samplers.RandomSampler(seed=0)  # is never asked for a value
        self.study = optuna.create_study(
            study_name=self.name, direction=self.direction, pruner=self.pruner, sampler=sampler
        )

    def start(self, number: int) -> None:
        if number not in self.open:
            self.open[number], self.marks[number] = self.study.ask(), {}

    def report(self, number: int, mark: int, value: float) -> bool:
        """Whether to prune, after one more mark. An earlier mark than the last one changes nothing."""
        trial, marks = self.open[number], self.marks[number]
        if mark <= max(marks, default=0):
            return False
        marks[mark] = value
        trial.report(value + self._tie_break(number, mark) * max(1.0, abs(value)), mark)
        return trial.should_prune()

    def _tie_break(self, number: int, mark: int) -> float:
        """Below 1e-9, for Wilcoxon's test alone: of up to 13 pairs with ties scipy tries all permutations, 2 s a report."""
        import optuna

        if not isinstance(self.pruner, optuna.pruners.WilcoxonPruner):
            return 0.0
        return 1e-9 * random.Random(f"{number}:{mark}").random()

    def finish(self, number: int, state: str, value: float | None) -> None:
        import optuna

        trial = self.open.pop(number)
        marks = self.marks.pop(number)
        if value is not None:
            for mark, report in marks.items():
                self.seen.setdefault(mark, []).append(report)
            self.study.tell(trial, value)
        else:
            self.study.tell(trial, state=getattr(optuna.trial.TrialState, state))


class OptunaPruner:
    """Any Optuna pruner behind `ports.Pruner`; its steps are the marks of `Subject.progress`.

    Curves are compared within one harness only, each patch in a study of its own: who edits the training code could
    else report what gets honest rivals pruned. The value of a finished training there is the score that the
    controller measured, its curve what it reported. A report at the last mark prunes nobody: all compute is spent.

    Args:
        warn: told in one line, at most once each, why nothing can be pruned: the pruner failed, or finished trainings
            have reported no mark.
    """

    def __init__(self, factory: PrunerFactory, warn: Callable[[str], None] = lambda line: None) -> None:
        self._factory, self._warn = factory, warn
        self._spec: ProgressSpec | None = None
        self._seed, self._sign = 0, 1
        self._patches: dict[str, str] = {}  # candidate -> sha256 of its patch, where it has one
        self._candidates: dict[int, str] = {}  # search trial that has not ended -> candidate
        self._groups: dict[str, _Group] = {}  # "" is that of the untouched harness
        self._curves: dict[int, list[Progress]] = {}  # of running trainings: the marks so far
        self._broken = self._warned = False
        self._lock = threading.Lock()

    def record(self, event: Event) -> None:
        with self._lock:
            self._guarded(lambda: self._record(event))

    def observe(self, trial: Trial, point: Progress) -> str | None:
        with self._lock:
            return self._guarded(lambda: self._observe(trial, point))

    def _guarded(self, work: Callable[[], str | None]) -> str | None:
        """Whatever a pruner does wrong, a training is not to suffer for it: nothing more is pruned then."""
        if self._broken:
            return None
        try:
            return work()
        except Exception as error:  # noqa: BLE001  any pruner of any library runs here
            self._broken = True
            self._warn(f"the pruner failed, and prunes nothing from here on: {type(error).__name__}: {error}")
            return None

    def _record(self, event: Event) -> None:
        match event:
            case CampaignStarted():
                self._spec, self._seed = event.subject.progress, event.seed
                if self._spec is not None:
                    self._sign = 1 if self._spec.direction == event.subject.objective.direction else -1
                self._note(event.start)
            case Proposed(proposal) | HumanProposed(proposal):
                self._note(proposal.candidate)
            case TrialScheduled() if event.purpose == "search":
                self._candidates[event.number] = event.candidate_id
            case TrialStarted(number) if number in self._candidates and self._spec is not None:
                self._group(number).start(number)
            case TrialFinished(number) if number in self._candidates and self._spec is not None:
                self._finish(event, self._spec)

    def _note(self, candidate: Candidate) -> None:
        if candidate.patch is not None:
            self._patches[candidate.id] = digest(candidate.patch)

    def _group(self, number: int) -> _Group:
        assert self._spec is not None
        patch = self._patches.get(self._candidates[number], "")
        if patch not in self._groups:
            self._groups[patch] = _Group(self._factory(), f"{self._seed}:{patch}", self._spec.direction)
        return self._groups[patch]

    def _observe(self, trial: Trial, point: Progress) -> str | None:
        spec = self._spec
        if spec is None or trial.purpose != "search" or trial.number not in self._candidates:
            return None
        marked = spec.marked([*self._curves.get(trial.number, ()), point])
        self._curves[trial.number] = [p for _, p in marked]
        if not marked or marked[-1][1] is not point:
            return None
        mark, value = marked[-1][0], point.metrics[spec.metric]
        group = self._group(trial.number)
        if not group.report(trial.number, mark, value) or mark == spec.marks:
            return None
        others = group.seen.get(mark, [])
        against = f", the median of {len(others)} scored ones is {median(others):.4g}" if others else ""
        rule = type(group.pruner).__name__
        return f"pruned at mark {mark} of {spec.marks} by {rule}: self-reported {spec.metric} {value:.4g}{against}"

    def _finish(self, event: TrialFinished, spec: ProgressSpec) -> None:
        """Folds a training's end in, and its curve where nobody has observed it: that of a former session."""
        group, number = self._group(event.number), event.number
        group.start(number)  # also for one that never ran, so that the study's numbers are the same after a resume
        marked = spec.marked(event.curve)
        for mark, point in marked:
            group.report(number, mark, point.metrics[spec.metric])
        group.finish(number, event.state, self._sign * event.score.mean if event.score else None)
        del self._candidates[number]
        self._curves.pop(number, None)
        if event.state == "COMPLETE" and not marked and not self._warned:
            self._warned = True
            self._warn(
                f"trial {number} has reported no {spec.metric!r} with `tokens`, without which nothing is pruned;"
                " see subject.progress"
            )
