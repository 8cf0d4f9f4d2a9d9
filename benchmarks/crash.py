"""The kill test: campaigns whose processes are killed by SIGKILL at every phase and at any moment, and what that cost.

    python benchmarks/crash.py [--kills 200] [--seed 0] [--json FILE]

In turns: a whole life with kills of the controller and of a person's commands in each phase, which must come to the same
journal as its undisturbed twin; campaigns with several workers, of which trainings, scorers, tracker, warm servers and forks
are killed too. Two of three are tracked in MLflow, whose store, and the exported study, must agree with the journal. What is
checked is in `tests/e2e/crash.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Figure, Report, Table
from tests.e2e import crash

IN_TURNS = (*crash.SEARCHING, "validate", "intensify", "vault", "await approval", "inbox", "inbox", "promote", "rollback",
            "resume", "any", "train", "score")  # fmt: skip
ROUGH_KILLS = 14


def one(folder: Path, number: int, seed: int) -> crash.Told:
    """The campaigns of turn `number`."""
    tracking = "tracking=none" if number % 3 == 2 else "tracking=mlflow"
    match number % 4:
        case 0 | 2:
            return crash.serial(folder, seed, list(IN_TURNS), tracking)
        case 1:
            return crash.rough(folder, seed, ROUGH_KILLS, tracking, warm=True)
        case _:
            return crash.rough(folder, seed, ROUGH_KILLS, tracking)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="at least so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    told, began, campaigns = crash.Told(), time.monotonic(), 0
    while sum(told.kills.values()) < arguments.kills:
        with tempfile.TemporaryDirectory() as name:
            told.add(one(Path(name), campaigns, 1000 * arguments.seed + campaigns))
        campaigns += 1
        print(f"{sum(told.kills.values())} kills, {len(told.violations)} violations", file=sys.stderr, flush=True)
    seconds, total = time.monotonic() - began, sum(told.kills.values())
    rows = [[phase, victim, count] for (phase, victim), count in sorted(told.kills.items())]
    Report(
        "The kill test",
        [Table("Where whom", ["phase", "victim", "kills"], rows)],
        [
            Figure("kills", "SIGKILLs", [total], at_least=200),
            Figure(
                "violations: lost, doubled, under-counted, left running, changed", "", [len(told.violations)], at_most=0
            ),
        ],
        [f"{campaigns} turns in {seconds:.0f} s, {told.checks} journals compared.", *told.violations],
    ).publish(arguments.json)
    return 1 if told.violations else 0


if __name__ == "__main__":
    sys.exit(main())
