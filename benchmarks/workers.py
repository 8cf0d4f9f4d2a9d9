"""What parallel workers bring: trials an hour of 1 and of 2, and how busy workers are kept.

    python benchmarks/workers.py busy                # sleeping trainings of 0.5 to 5 s, real loop, journal and TPE
    python benchmarks/workers.py rate --trials 12    # real `arithmetic` campaigns through `evolve run`, 1 against 2 workers

`busy`: a training's time is log-uniform over 1:10. The share is the workers' time in trainings and scores over workers times wall time, from
the first start to the start of the last training: the tail, in which no budget is left to give, is no idling. The imports that a session makes
once, while its first trainings run, are made before. An advisor's call takes
`--call` times the median training. `asked by the loop` is how it was before: the same advisor, but the loop waits for its answer.

`rate`: the same number of trainings each, alternating, without a tracker, from the default config; trials an hour over the whole command.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolve.compose import import_search
from evolve.journal import Journal
from evolve.loop import Loop, Ports
from evolve.memory import View
from evolve.ports import Advisor, Proposer
from evolve.proposers import AdvisedProposer
from evolve.search import OptunaProposer, tpe
from evolve.state import State, apply
from evolve.testing import InlineExecutor, InlineScorer, MemoryTracker
from evolve.types import (
    Budget,
    CampaignStarted,
    Candidate,
    Environment,
    Estimate,
    Limits,
    Objective,
    Parameter,
    Proposal,
    Rules,
    Subject,
    WeightsSpec,
)
from evolve.weights import WeightStore

SHORTEST, LONGEST = 0.5, 5.0  # seconds
MEDIAN = math.sqrt(SHORTEST * LONGEST)
SPACE = {name: Parameter("float", 0.5, low=0.0, high=1.0) for name in ("a", "b", "c", "d")}
SUBJECT = Subject(
    "sleeper", "trainings that sleep", (), (), (), (), {}, WeightsSpec("w", "base"), Objective("score", "maximize"),
    Limits(60, 60), Estimate(1, 1), SPACE,
)  # fmt: skip


@dataclass
class Sleeper:
    """An executor whose trainings sleep; the time depends on the trial's number alone. `spans` are (start, end), in seconds."""

    inner: InlineExecutor
    spans: list[tuple[float, float]] = field(default_factory=list)

    def train(self, trial: Any, *rest: Any) -> Any:
        began = time.monotonic()
        try:
            time.sleep(SHORTEST * (LONGEST / SHORTEST) ** random.Random(trial.number).random())
            return self.inner.train(trial, *rest)
        finally:
            self.spans.append((began, time.monotonic()))


@dataclass
class SlowAdvisor:
    """Thinks for `seconds`, then says something random."""

    seconds: float
    name: str = "slow"
    instant: bool = False

    def propose(self, view: View) -> Proposal:
        time.sleep(self.seconds)
        rng = random.Random(f"{view.turn}:{view.retry}:{len(view.suggestions)}")
        return Proposal(Candidate({n: rng.random() for n in SPACE}, view.subject_version), self.name, "a thought")


@dataclass
class AskedByTheLoop:
    """The advisor on 30 % of the turns, the sampler on the others, each asked when its turn has come."""

    advisor: Proposer
    sampler: Proposer
    name: str = "asked"

    def propose(self, view: View) -> Proposal:
        taken = view.turns.get(self.advisor.name, 0)
        return (self.advisor if taken < 0.3 * (view.turn + 1) else self.sampler).propose(view)


def busy_share(
    proposer: Proposer, advisor: Advisor | None, share: float, workers: int, trials: int
) -> tuple[float, float]:
    """(busy share of the workers, longest time in seconds that one waited in between)."""
    inner = InlineExecutor(
        lambda params, rng: 1 - sum((float(v) - 0.7) ** 2 for v in params.values()) + rng.gauss(0, 0.01)
    )
    executor = Sleeper(inner)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inbox").mkdir()
        rules = Rules(budget=Budget(trials=trials), workers=workers, advice_share=share)
        state, start = State(), Candidate(dict.fromkeys(SPACE, 0.5), "v")
        with Journal.open(folder, time.time) as journal:
            first = CampaignStarted("sleeper", SUBJECT, "v", "e", "s", 0, rules, start, "default", {})
            journal.append(first)
            apply(state, first)
            ports = Ports(
                proposer, executor, InlineScorer(inner), MemoryTracker(), WeightStore(folder / "weights"),  # type: ignore[arg-type]
                Environment("here", "here", "0" * 64, None, "3"), advisor=advisor,
            )  # fmt: skip
            Loop(journal, state, rules, ports, folder / "inbox", lambda: False).run()
    spans = sorted(executor.spans)
    first_start, last_start = spans[0][0], spans[-1][0]
    used = sum(min(end, last_start) - start for start, end in spans if start < last_start)
    ends = sorted(end for _, end in spans)
    # Every start but the first ones follows an end: how long the worker that had ended waited for it.
    waits = [start - end for (start, _), end in zip(spans[workers:], ends, strict=False)]
    return used / (workers * (last_start - first_start)), max(waits)


def busy(trials: int, call: float) -> None:
    slow = call * MEDIAN
    rows: list[tuple[str, Callable[[], tuple[Proposer, Advisor | None, float]]]] = [
        ("TPE", lambda: (sampler(), None, 0.0)),
        (f"TPE and an advisor, a call {slow:.1f} s", lambda: (AdvisedProposer(sampler()), SlowAdvisor(slow), 0.3)),
        (f"the same, asked by the loop, a call {slow:.1f} s", lambda: (AskedByTheLoop(SlowAdvisor(slow), sampler()), None, 0.0)),
        (f"an advisor alone, a call {MEDIAN / 8:.2f} s", lambda: (AdvisedProposer(None), SlowAdvisor(MEDIAN / 8), 1.0)),
    ]  # fmt: skip
    began = time.monotonic()
    import_search()
    print(
        f"imports {time.monotonic() - began:.1f} s; {trials} trainings of {SHORTEST} to {LONGEST} s, median {MEDIAN:.2f} s\n"
    )
    print("| proposes | workers | busy | longest wait of a worker, s |\n|---|---|---|---|")
    for name, make in rows:
        for workers in (2, 4):
            part, longest = busy_share(*make(), workers, trials)
            print(f"| {name} | {workers} | {part:.1%} | {longest:.3f} |", flush=True)


def sampler() -> Proposer:
    return OptunaProposer(tpe, "tpe")


# ---------------------------------------------------------------- real trainings


def one_campaign(workers: int, trials: int, overrides: list[str]) -> float:
    """Trials an hour of one campaign, the start of the command included."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"state_dir={folder}", "campaign=c", "tracking=none", "start=default", f"budget.trials={trials}"]
        began = time.monotonic()
        command = [sys.executable, "-m", "evolve.cli", "run", *words, f"executor.workers={workers}", *overrides]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        lines = (Path(folder) / "campaigns" / "c" / "journal.jsonl").read_text().splitlines()
    finished = sum(json.loads(line)["type"] == "TrialFinished" for line in lines)
    return finished / seconds * 3600


def rate(trials: int, rounds: int, overrides: list[str]) -> None:
    print("| workers | trials an hour, each round | median |\n|---|---|---|")
    found: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            found[workers].append(one_campaign(workers, trials, overrides))
    for workers, rates in found.items():
        print(f"| {workers} | {', '.join(f'{r:.0f}' for r in rates)} | {statistics.median(rates):.0f} |", flush=True)
    print(
        f"\n2 workers finish {statistics.median(found[2]) / statistics.median(found[1]):.2f}x the trials an hour of 1"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["busy", "rate"])
    parser.add_argument("--trials", type=int, default=40, help="of one campaign")
    parser.add_argument("--call", type=float, default=3.0, help="busy: of the advisor, in medians of a training")
    parser.add_argument("--rounds", type=int, default=2, help="rate: campaigns with each number of workers")
    parser.add_argument("overrides", nargs="*", help="rate: for `evolve run`, such as subject=arithmetic proposer=tpe")
    arguments = parser.parse_args()
    if arguments.what == "busy":
        busy(arguments.trials, arguments.call)
    else:
        rate(arguments.trials, arguments.rounds, arguments.overrides)


if __name__ == "__main__":
    main()
