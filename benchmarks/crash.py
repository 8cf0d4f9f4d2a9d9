"""The kill test: campaigns whose processes are killed by SIGKILL at every phase and at any moment, and what that cost.

    python benchmarks/crash.py [--kills 200] [--seed 0] [--json FILE]

In turns: a whole life with kills of the controller and of a person's commands in each phase, which must come to the same
journal as its undisturbed twin; campaigns with several workers, of which trainings, scorers, tracker, warm servers and forks
are killed too. Two of three are tracked in MLflow, whose store, and the exported study, must agree with the journal. What is
checked is in `tests/e2e/crash.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
    print("| phase | victim | kills |\n|---|---|---|")
    for (phase, victim), count in sorted(told.kills.items()):
        print(f"| {phase} | {victim} | {count} |")
    seconds = time.monotonic() - began
    total = sum(told.kills.values())
    print(f"\n{total} kills in {campaigns} turns, {seconds:.0f} s: {len(told.violations)} violation(s)")
    print("\n".join(told.violations))
    if arguments.json:
        kills = [{"phase": phase, "victim": victim, "kills": n} for (phase, victim), n in sorted(told.kills.items())]
        found = {"kills": total, "by": kills, "violations": told.violations, "journal_checks": told.checks}
        arguments.json.write_text(
            json.dumps(found | {"turns": campaigns, "seconds": round(seconds, 1)}, indent=1) + "\n"
        )
    return 1 if told.violations else 0


if __name__ == "__main__":
    sys.exit(main())
