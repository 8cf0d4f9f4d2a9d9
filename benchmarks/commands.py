"""How long the commands take that a person types beside a campaign: `--help`, `status`, `review` with nothing waiting.

    python benchmarks/commands.py [--trials 30 1000 10000] [--repeats 9] [--json FILE]

Each in a process of its own, from its start to its end, in turns. The campaigns are of the subject `quadratic`, made by
the real loop, policy and journal with trainings that are a function in this process (`evolve.testing`) and a proposer
that draws at random; every proposal is worse than the start, so that nothing waits for approval. The bounds hold for a
campaign of ordinary length, the shortest.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, Figure, Report, Table, spread
from evolve import compose, config
from evolve.loop import Loop, Ports
from evolve.memory import View
from evolve.testing import InlineExecutor, InlineScorer
from evolve.types import Budget, Candidate, Params, Proposal
from evolve.weights import WeightStore

BOUNDS = {"--help": 0.3, "status": 0.5, "review": 1.0}  # seconds


class Worse:
    """Draws points that are worse than the start."""

    name, instant = "random", True

    def propose(self, view: View) -> Proposal:
        rng = random.Random(f"{view.turn}:{view.retry}")
        changes = {"x": 1e-4 + 2e-4 * rng.random(), "y": 1.4 + 0.6 * rng.random()}
        return Proposal(Candidate(view.space.overlay(view.champion, changes), view.subject_version), self.name, "drawn")


def skill(params: Params, rng: random.Random) -> float:
    return 1 - abs(float(params["y"]) - 0.8) + rng.gauss(0, 0.01)


def campaign(state_dir: Path, trials: int) -> int:
    """Makes a finished campaign of `trials` trainings; returns the bytes of its journal."""
    settings = config.load([
        "subject=quadratic", "tracking=none", "proposer=random", "start=default", "campaign=c",
        f"state_dir={state_dir}", f"budget.trials={trials}",
    ])  # fmt: skip
    folder, journal, state = compose.create(settings)
    executor = InlineExecutor(skill)
    with journal:
        ports = Ports(
            Worse(), executor, InlineScorer(executor), compose.NoTracker(), WeightStore(folder.weights),
            compose.this_environment(None),
        )  # fmt: skip
        rules = replace(settings.rules, budget=Budget(trials=trials))
        Loop(journal, state, rules, ports, folder.inbox, lambda: False).run()
    return folder.journal.stat().st_size


def seconds(state_dir: Path, command: str) -> tuple[float, float]:
    """(wall, CPU) seconds of one run of one command. Raises `SystemExit` where it fails."""
    words = [sys.executable, "-m", "evolve.cli", command, *([] if command == "--help" else [f"state_dir={state_dir}"])]
    before, began = cpu(), time.perf_counter()
    done = subprocess.run(
        words, cwd=state_dir.parent, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"`evolve {command}` failed: {done.stderr[-500:]}")
    return took, cpu() - before


def cpu() -> float:
    """CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[30, 1000, 10_000])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows, figures, making = [], [], []
    for trials in sorted(arguments.trials):
        with tempfile.TemporaryDirectory() as name:
            state_dir = Path(name) / "state"
            began = time.perf_counter()
            size = campaign(state_dir, trials)
            making.append(f"{trials:,} trials in {time.perf_counter() - began:.0f} s")
            found: dict[str, list[tuple[float, float]]] = {command: [] for command in BOUNDS}
            for _ in range(arguments.repeats):
                for command in BOUNDS:
                    found[command].append(seconds(state_dir, command))
        cells = [spread([t[i] for t in times], 2) for times in found.values() for i in (0, 1)]
        rows.append([f"{trials:,}", f"{size / 1e6:.1f}", *cells])
        ordinary = trials == min(arguments.trials)
        for command, times in found.items():
            if command != "--help" or ordinary:
                at = "" if command == "--help" else f" at {trials:,} trials"
                bound = BOUNDS[command] if ordinary else None
                figures.append(Figure(f"evolve {command}{at}", "s", [wall for wall, _ in times], at_most=bound))
    columns = ["trials", "journal, MB", *(f"evolve {command}, {what}" for command in BOUNDS for what in ("s", "CPU s"))]
    notes = [f"The campaigns were made by the real loop: {', '.join(making)}."]
    Report("How quickly commands answer", [Table("Median and quartiles", columns, rows)], figures, notes).publish(
        arguments.json
    )


if __name__ == "__main__":
    main()
