"""A whole campaign without processes: the real policy, invented scores, for the tests of tracker and registry."""

from __future__ import annotations

import functools
import hashlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evolve import policy
from evolve.journal import GENESIS, encode, line_hash
from evolve.space import SearchSpace
from evolve.state import State, apply
from evolve.tracking import connect
from evolve.types import (
    Budget,
    CampaignStarted,
    CampaignStopped,
    Candidate,
    Command,
    EditChecked,
    EditCheckStarted,
    Environment,
    Estimate,
    Evaluation,
    Event,
    GateRules,
    Limits,
    Objective,
    Parameter,
    Progress,
    Proposal,
    Proposed,
    Record,
    Rules,
    Scored,
    ScoreStarted,
    SessionStarted,
    Spend,
    Subject,
    Trial,
    TrialFinished,
    TrialStarted,
    Usage,
    WeightsSpec,
)

EVIL = (
    "<script>alert(1)</script> | [click](http://evil.example) \x1b[31m\n# Heading `code` ![x](javascript:1) "
    + "x" * 400
)

SPACE = {
    "learning_rate": Parameter("float", 0.0003, role="learning_rate", low=1e-5, high=1e-2, log=True),
    "steps": Parameter("int", 100, low=10, high=1000),
    "method": Parameter("categorical", "sft", choices=("sft", "grpo", "dpo")),
}
SUBJECT = Subject(
    name="toy",
    description="A toy for tests",
    sources=(),
    editable=(),
    train_cmd=("true",),
    score_cmd=("true",),
    assets={},
    weights=WeightsSpec("weights.safetensors", "base"),
    objective=Objective("accuracy", "maximize"),
    limits=Limits(10, 10),
    estimate=Estimate(1, 1),
    space=SPACE,
)
ENVIRONMENT = Environment("2x cpu", "linux", "ab" * 32, "c0ffee", "3.11")
RULES = Rules(budget=Budget(trials=14), gate=GateRules(baseline_seeds=3, max_seeds=4))


def weights_of(number: int) -> bytes:
    return f"weights of trial {number}".encode()


def store(folder: Path, state: State) -> Path:
    """A store of weights: a file for each trial of the campaign, named by its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in state.trials:
        data = weights_of(number)
        (folder / hashlib.sha256(data).hexdigest()).write_bytes(data)
    return folder


@functools.cache
def _empty_database() -> tempfile.TemporaryDirectory[str]:
    """Made once a session, since MLflow's migrations take three seconds."""
    folder = tempfile.TemporaryDirectory(prefix="evolve-tests-")
    connect(f"sqlite:///{folder.name}/mlflow.db").search_experiments()
    return folder


def new_store(folder: Path) -> str:
    """The URI of an empty MLflow store in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(_empty_database().name, "mlflow.db"), folder)
    return f"sqlite:///{folder}/mlflow.db"


def all_runs(uri: str) -> dict[str, dict[str, Any]]:
    """All that a person sees in a store: run name -> status, times, params, tags, metric histories, files."""
    client = connect(uri)
    seen: dict[str, dict[str, Any]] = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            assert run.info.run_name not in seen, f"two runs are called {run.info.run_name}"
            histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
            tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.parentRunId"}
            tags = {key: value.replace(run.info.run_id, "RUN") for key, value in tags.items()}
            seen[run.info.run_name] = {
                "status": run.info.status,
                "times": (run.info.start_time, run.info.end_time),
                "params": run.data.params,
                "tags": tags,
                "metrics": {key: [(p.step, p.timestamp, p.value) for p in points] for key, points in histories.items()},
                "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
            }
    return seen


def write_journal(folder: Path, records: list[Record]) -> None:
    """The journal's file, which a tracker of its own process reads."""
    previous = GENESIS
    with open(folder / "journal.jsonl", "wb") as file:
        for record in records:
            line = encode(record, previous)
            previous = line_hash(line)
            file.write(line)


class Campaign:
    """Plays the loop's part: `play` runs until the policy stops, `command` is a person's. `records` is the journal."""

    def __init__(self, name: str = "toy-1", rules: Rules = RULES, seed: int = 0, rationale: str = "raise it") -> None:
        self.rules, self.rationale = rules, rationale
        self.state, self.records = State(), list[Record]()
        self.random = random.Random(seed)
        start = Candidate(SearchSpace(SPACE).default(), "v1")
        self.add(
            CampaignStarted(
                name, SUBJECT, "v1", "e1", hashlib.sha256(name.encode()).hexdigest(), seed, rules, start, "default", {}
            )
        )
        self.session()

    def add(self, event: Event) -> None:
        self.records.append(Record(len(self.records) + 1, 1_700_000_000 + 10.0 * len(self.records), event))
        apply(self.state, event)

    def session(self) -> None:
        self.add(SessionStarted(ENVIRONMENT, 1, "bubblewrap", self.rules.budget, 1))

    def play(self, until: Callable[[Event], bool] = lambda event: False) -> Campaign:
        """Until the campaign stops, or the controller is killed right after the first event that `until` holds for."""
        while True:
            action = policy.decide(self.state, self.rules)
            for event in self._perform(action):
                self.add(event)
                if until(event):
                    return self
            if isinstance(action, policy.Stop | policy.Wait):
                return self

    def _perform(self, action: policy.Action) -> Iterator[Event]:
        match action:
            case policy.Emit(event):
                yield event
            case policy.Propose():
                yield Proposed(self._proposal())
            case policy.CheckEdit(candidate_id):
                yield EditCheckStarted(candidate_id)
                yield EditChecked(candidate_id)
            case policy.Run(trial):
                yield TrialStarted(trial.number, trial.attempt + 1)
                yield self._finished(trial)
            case policy.Rescore(trials, split, round):
                for trial in trials:
                    yield ScoreStarted(trial.number, split, round, 1)
                    yield Scored(trial.number, split, round, self._evaluation(trial, split))
            case policy.Stop(kind, reason):
                yield CampaignStopped(kind, reason)  # type: ignore[arg-type]

    def command(self, kind: str, reason: str = "") -> Campaign:
        candidate_id = self.state.champion_id if kind == "rollback" else next(iter(self.state.pending), "")
        content = self.state.pending[candidate_id].content_hash if candidate_id in self.state.pending else ""
        command = Command(f"c{len(self.records)}", kind, "ada", candidate_id, content, reason)  # type: ignore[arg-type]
        for event in policy.answer(self.state, command):
            self.add(event)
        if promoted := policy.settle(self.state):
            self.add(promoted)
        return self

    def _proposal(self) -> Proposal:
        params = {
            "learning_rate": 10 ** self.random.uniform(-5, -2),
            "steps": self.random.randrange(10, 1000),
            "method": self.random.choice(["sft", "grpo", "dpo"]),
        }
        candidate = Candidate(SearchSpace(SPACE).parse(params), "v1")
        if self.state.proposals % 3 == 2:
            spend = Spend(llm_usd=0.01, llm_tokens=1200)
            return Proposal(candidate, "agent", self.rationale, (self.state.champion_id,), "ff" * 32, "local/m", spend)
        return Proposal(candidate, "tpe")

    def _evaluation(self, trial: Trial, split: str) -> Evaluation:
        candidate = self.state.entries[trial.candidate_id].proposal.candidate
        base = 0.42 if candidate == self.state.campaign.start else 0.2 + int(candidate.id[:4], 16) / 65536 * 0.6
        noise = int(hashlib.sha256(f"{trial.number}{split}".encode()).hexdigest()[:4], 16) / 65536 - 0.5
        mean = base + 0.01 * noise
        return Evaluation("accuracy", split, mean, 0.011, 2000, {"addition": mean - 0.1, "sorting": mean + 0.1})  # type: ignore[arg-type]

    def _finished(self, trial: Trial) -> TrialFinished:
        usage = Usage(5.0 + 0.01 * trial.number, 5.2, 310.0)
        if trial.purpose == "search" and trial.number % 5 == 2:
            error = f"exit code 1: {self.rationale}"
            return TrialFinished(
                trial.number, "FAIL", error=error, usage=usage, environment=ENVIRONMENT, log_tail="Traceback\n"
            )
        curve = tuple(Progress(step, {"loss": 3.0 / (1 + step), "reward": 0.01 * step}) for step in range(0, 50, 5))
        weights = hashlib.sha256(weights_of(trial.number)).hexdigest()
        score = self._evaluation(trial, "search")
        return TrialFinished(trial.number, "COMPLETE", score, None, weights, curve, usage, ENVIRONMENT, "step 49\n")
