"""What the tracker costs a trial: CPU and wall milliseconds of its process, and its memory, on an SQLite store.

    python benchmarks/tracker.py              # a campaign of 300 trials that cost nothing
    python benchmarks/tracker.py --trials 2000

The journal is that of the tests' campaign (`tests/tracking_campaign.py`: real policy, invented scores); all its events are
there from the beginning (`backlog`), or come one by one when the one before is carried over (`live`).
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evolve.tracking_process import TrackerProcess
from evolve.types import Budget, GateRules, Record, Rules, TrialFinished
from tests.tracking_campaign import Campaign, new_store, write_journal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument(
        "--wal", action="store_true", help="write-ahead logging in the database, which evolve leaves off"
    )
    arguments = parser.parse_args()
    rules = Rules(budget=Budget(trials=arguments.trials), gate=GateRules(baseline_seeds=3, max_seeds=4))
    records = Campaign(rules=rules).play().records
    for live in (False, True):
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name), records, live, arguments.wal)


def measure(folder: Path, records: list[Record], live: bool, wal: bool) -> None:
    uri = new_store(folder / "store")
    if wal:
        sqlite3.connect(folder / "store" / "mlflow.db").execute("PRAGMA journal_mode=WAL").close()
    write_journal(folder, records)
    tracker = TrackerProcess(uri, folder, warn=print, artifacts=folder / "artifacts")
    first = next(i for i, r in enumerate(records) if isinstance(r.event, TrialFinished)) + 1
    for record in records[:first]:  # with the imports
        tracker.record(record)
    assert tracker.flush(60) == 0
    pid, rest, marks = tracker.pid, records[first:], list[float]()
    assert pid is not None
    trials = sum(isinstance(r.event, TrialFinished) for r in rest)
    begun, before, ours, wall, spent = cpu(pid), rss(pid), time.process_time(), time.perf_counter(), 0.0
    for record in rest:
        at = time.perf_counter()
        tracker.record(record)
        spent += time.perf_counter() - at
        if live:
            assert tracker.flush(60) == 0
            if isinstance(record.event, TrialFinished):
                marks.append(cpu(pid))
    assert tracker.flush(1e6) == 0
    line = {
        "live": live,
        "trials": trials,
        "cpu_ms": round(1e3 * (cpu(pid) - begun) / trials, 1),
        "wall_ms": round(1e3 * (time.perf_counter() - wall) / trials, 1),
        "rss_mb": round(rss(pid)),
        "grown_mb": round(rss(pid) - before),
        "controller_cpu_ms": round(1e3 * (time.process_time() - ours) / trials, 3),
        "record_us": round(1e6 * spent / len(rest), 1),
    }
    if marks:
        third = len(marks) // 3
        line["first_third_ms"] = round(1e3 * (marks[third] - marks[0]) / third, 1)
        line["last_third_ms"] = round(1e3 * (marks[-1] - marks[-1 - third]) / third, 1)
    print(json.dumps(line), flush=True)
    tracker.close()


def cpu(pid: int) -> float:
    """Seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss(pid: int) -> float:
    """MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


if __name__ == "__main__":
    main()
