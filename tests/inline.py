"""Campaigns without a process: the real policy, loop and journal over the inline ports. For tests of the pure core."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evolve.errors import ProposerFailed
from evolve.journal import Journal
from evolve.ledger import Ledger
from evolve.loop import Check, Loop, Ports, leave_command
from evolve.memory import View
from evolve.ports import NeverPruner, Pruner
from evolve.state import State, apply
from evolve.testing import InlineAssessor, InlineExecutor, InlineScorer, MemoryTracker
from evolve.types import (
    Budget,
    CampaignStarted,
    CampaignStopped,
    Candidate,
    Command,
    Environment,
    Estimate,
    EvalProposal,
    GateRules,
    Limits,
    Objective,
    Parameter,
    Params,
    Progress,
    ProgressSpec,
    Proposal,
    Rules,
    Subject,
    WeightsSpec,
)
from evolve.weights import WeightStore

HERE = Environment("cpu x2", "linux", "0" * 64, None, "3.11")
PROGRESS = ProgressSpec("skill", "maximize", every_tokens=100, marks=10)
SPACE = {
    "x": Parameter("float", 0.5, low=0.0, high=1.0),
    "mode": Parameter("categorical", "a", choices=("a", "b")),
    "z": Parameter("int", 2, low=1, high=8, when={"mode": ("b",)}),
}


def subject(**changes: object) -> Subject:
    settings: dict[str, object] = {
        "name": "inline",
        "description": "a function",
        "sources": (),
        "editable": (),
        "train_cmd": (),
        "score_cmd": (),
        "assets": {},
        "weights": WeightsSpec("w", "base"),
        "objective": Objective("score", "maximize"),
        "limits": Limits(1, 1),
        "estimate": Estimate(1, 1),
        "space": SPACE,
        "progress": PROGRESS,
    }
    return Subject(**(settings | changes))  # type: ignore[arg-type]


def skill(params: Params, rng: random.Random) -> float:
    """Best at x = 0.8 with mode b; seed noise of 0.01; x above 0.95 crashes."""
    x = float(params["x"])
    if x > 0.95:
        raise MemoryError("x <= 0.95")
    bonus = 0.1 - 0.01 * abs(int(params["z"]) - 4) if params["mode"] == "b" else 0.0
    return 0.5 - (x - 0.8) ** 2 + bonus + rng.gauss(0, 0.01)


def ramp(params: Params, value: float) -> list[Progress]:
    """Ten reports, one at each mark of `PROGRESS`, straight up to the value that the scorer will measure."""
    return [Progress(k, {"skill": value * k / 10}, tokens=100 * k) for k in range(1, 11)]


@dataclass
class Walk:
    """A proposer that samples the space uniformly, seeded by the view alone."""

    name: str = "walk"

    def propose(self, view: View) -> Proposal:
        rng = random.Random(f"{view.seed}:{view.turn}:{view.retry}")
        mode = rng.choice("ab")
        changes = {"x": rng.random(), "mode": mode} | ({"z": rng.randint(1, 8)} if mode == "b" else {})
        return Proposal(
            Candidate(view.space.overlay(view.incumbent, changes), view.subject_version), self.name, "a step"
        )


@dataclass
class Scripted:
    """Proposes the given changes to the default, one a turn; then nothing more. `evaluations`: with the first turn's."""

    changes: Sequence[dict[str, object]]
    name: str = "scripted"
    evaluations: tuple[EvalProposal, ...] = ()
    views: list[View] = field(default_factory=list)

    def propose(self, view: View) -> Proposal:
        self.views.append(view)
        if view.turn >= len(self.changes):
            raise ProposerFailed("the script is over", self.name)
        params = view.space.overlay(view.default, self.changes[view.turn])
        extra = self.evaluations if view.turn == 0 else ()
        return Proposal(Candidate(params, view.subject_version), self.name, "scripted", evaluations=extra)


class Crash(BaseException):
    """What a SIGKILL is to the loop: nothing more is written."""


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@dataclass
class Inline:
    """One campaign in a folder; `run` is a session, to be called again for a resume."""

    folder: Path
    proposer: object = field(default_factory=Walk)
    advisor: object = None
    advice_share: float = 0.3
    advisor_paused: Callable[[], bool] = lambda: False
    seed: int = 0
    budget: Budget = field(default_factory=lambda: Budget(trials=20))
    gate: GateRules = field(default_factory=GateRules)
    workers: int = 1
    skill: Callable[[Params, random.Random], float] = skill
    direction: str = "maximize"
    objectives: tuple[Objective, ...] = ()  # instead of the direction
    changes: Mapping[str, object] = field(default_factory=dict)  # of the subject
    cpu_seconds: Callable[[Params], float] | None = None
    hardware: str = HERE.hardware
    pruner: Callable[[], Pruner] = NeverPruner  # a new one for each session
    state: State = field(default_factory=State)
    tracker: MemoryTracker = field(default_factory=MemoryTracker)
    crash_after: int | None = None
    interrupted: Callable[[], bool] = lambda: False
    ledger: Ledger = field(default_factory=Ledger)
    commands: int = 0
    check: Check | None = None
    live: list[State] = field(default_factory=list)
    assessor: object = field(default_factory=InlineAssessor)
    steady: Callable[[], float] | None = None
    sandbox: str = "bubblewrap"  # of edited code, of which the inline executor runs none

    def __post_init__(self) -> None:
        (self.folder / "inbox").mkdir(parents=True)
        self.executor = InlineExecutor(self.skill, curve=ramp)
        self.scorer = InlineScorer(self.executor)

    def run(self) -> CampaignStopped:
        with Journal.open(self.folder, Clock()) as journal:
            self.state = State()
            for record in journal.records:
                apply(self.state, record.event, record.time)
            if self.state.started is None:
                journal.records.append(journal.append(apply_first(self.state, self)))
            pruner = self.pruner()
            for record in journal.records:
                pruner.record(record.event)
            if self.crash_after is not None:
                self._arm(journal)
            ports = Ports(
                self.proposer,  # type: ignore[arg-type]
                self.executor,
                self.scorer,
                self.tracker,
                WeightStore(self.folder / "weights"),
                Environment(self.hardware, "linux", "0" * 64, None, "3.11"),
                pruner=pruner,
                ledger=self.ledger,
                advisor=self.advisor,  # type: ignore[arg-type]
                advisor_paused=self.advisor_paused,
                check=self.check,
                sandbox=self.sandbox,
                assessor=self.assessor,  # type: ignore[arg-type]
                steady=self.steady,
            )
            share = self.advice_share
            rules = Rules(budget=self.budget, gate=self.gate, workers=self.workers, advice_share=share)
            return Loop(journal, self.state, rules, ports, self.folder / "inbox", self.interrupted).run()

    def _arm(self, journal: Journal) -> None:
        original, left = journal.append, self.crash_after or 0

        def append(event):  # type: ignore[no-untyped-def]
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            return original(event)

        journal.append = append  # type: ignore[method-assign]

    def command(self, kind: str, by: str = "ada", **fields: object) -> None:
        self.commands += 1
        number = self.commands
        leave_command(self.folder / "inbox", Command(f"c{number}-{kind}", kind, by, **fields), number)  # type: ignore[arg-type]


def apply_first(state: State, campaign: Inline) -> CampaignStarted:
    first, *more = campaign.objectives or (Objective("score", campaign.direction),)  # type: ignore[arg-type]
    what = subject(objective=first, secondary=tuple(more), **campaign.changes)
    event = CampaignStarted(
        campaign="inline",
        subject=what,
        subject_version="v",
        evaluation_version="e",
        secret_sha256="s",
        seed=campaign.seed,
        rules=Rules(budget=campaign.budget, gate=campaign.gate),
        start=Candidate({"x": 0.5, "mode": "a"}, "v"),
        start_origin="the default",
        config={},
    )
    apply(state, event)
    return event


def is_close(a: float, b: float) -> bool:
    return math.isclose(a, b, abs_tol=1e-9)
