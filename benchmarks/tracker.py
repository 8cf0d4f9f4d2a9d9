"""What the tracker costs a trial: CPU and wall milliseconds of its process, and its memory, on an SQLite store.

    python benchmarks/tracker.py              # a campaign of 300 trials that cost nothing
    python benchmarks/tracker.py --trials 2000 --profile

The journal is that of the tests' campaign (`tests/tracking_campaign.py`: real policy, invented scores); all its events are
there from the beginning (`backlog`), or come one by one when the one before is carried over (`live`).
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evolve.tracking import MlflowTracker
from evolve.types import Budget, GateRules, Record, Rules, TrialFinished
from tests.tracking_campaign import Campaign, new_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    rules = Rules(budget=Budget(trials=arguments.trials), gate=GateRules(baseline_seeds=3, max_seeds=4))
    records = Campaign(rules=rules).play().records
    for live in (False, True):
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name), records, live, arguments.profile)


def measure(folder: Path, records: list[Record], live: bool, profile: bool) -> None:
    uri = new_store(folder / "store")
    tracker = MlflowTracker(uri, folder, warn=print, artifacts=folder / "artifacts")
    first = next(i for i, r in enumerate(records) if isinstance(r.event, TrialFinished)) + 1
    for record in records[:first]:  # with the imports
        tracker.record(record)
    assert tracker.flush(60) == 0
    rest = records[first:]
    trials = sum(isinstance(r.event, TrialFinished) for r in rest)
    profiler = cProfile.Profile()
    marks: list[float] = []
    cpu, wall, memory = time.process_time(), time.perf_counter(), rss()
    if profile:
        work = tracker._carrier.carry

        def carry(*args, **kwargs):  # type: ignore[no-untyped-def]
            profiler.enable()
            try:
                return work(*args, **kwargs)
            finally:
                profiler.disable()

        tracker._carrier.carry = carry  # type: ignore[method-assign]
    for record in rest:
        tracker.record(record)
        if live:
            assert tracker.flush(60) == 0
            if isinstance(record.event, TrialFinished):
                marks.append(time.process_time())
    assert tracker.flush(1e6) == 0
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    tracker.close()
    line = {
        "live": live, "trials": trials, "cpu_ms": round(1e3 * cpu / trials, 1), "wall_ms": round(1e3 * wall / trials, 1),
        "rss_mb": round(rss()), "grown_mb": round(rss() - memory), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }  # fmt: skip
    if marks:
        tenth = max(1, len(marks) // 10)
        line["first_tenth_ms"] = round(1e3 * (marks[tenth] - marks[0]) / tenth, 1)
        line["last_tenth_ms"] = round(1e3 * (marks[-1] - marks[-1 - tenth]) / tenth, 1)
    print(json.dumps(line), flush=True)
    if profile:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(60)


def rss() -> float:
    """MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


if __name__ == "__main__":
    main()
