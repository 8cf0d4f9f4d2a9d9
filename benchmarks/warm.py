"""What a warm start saves: from the order to start until a subject's own first line runs, and until its imports are done.

    python benchmarks/warm.py [--repeats 15] [--json FILE]

Both through `processes.run`, as trainings are started, one after the other in turns: a fresh Python (cold), a fork of a warm
server that has imported what `arithmetic` names in `preload`, and the same in a controller of 500 MB. `first line`: of a
module run by `-m`; `imports`: `import train.run`, with which every training of `arithmetic` begins. Times by one clock of
the system (CLOCK_MONOTONIC), in milliseconds. Then whole trainings of a twentieth of the budget, cold and warm: wall time,
CPU time, and whether the weights are the same bit for bit.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Figure, Report, Table, spread
from evolve import config, processes
from evolve.executors import LocalExecutor, LocalProcesses
from evolve.ports import Cancel
from evolve.sandbox import PROGRESS_FD
from evolve.types import Candidate, Trial, Usage
from evolve.warm import WarmServer
from evolve.weights import WeightStore
from evolve.workspace import Snapshot

PROBE = "import time\nfirst = time.monotonic()\nimport train.run\nprint(first, time.monotonic())\n"


def starts(folder: Path, servers: dict[str, WarmServer | None], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """For each way of starting (ms until the first line, ms until the imports are done)."""
    (folder / "probe.py").write_text(PROBE)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    for _ in range(repeats):
        for name, server in servers.items():
            began = time.monotonic()
            result = processes.run(
                [sys.executable, "-m", "probe"], cwd=folder, log=folder / "log", timeout_seconds=60, memory_mb=4000,
                log_bytes=1000, on_progress=None, cancel=Cancel(), warm=server,
            )  # fmt: skip
            assert result.exit_code == 0, result.log_tail
            first, done = (float(word) for word in result.log_tail.split())
            found[name].append(((first - began) * 1000, (done - began) * 1000))
    return found


def trainings(folder: Path, repeats: int) -> dict[str, list[tuple[float, Usage, str]]]:
    """Whole trainings: (wall seconds, usage, sha256 of the weights), of the default config, a seed a repeat."""
    subject = config.load(["subject=arithmetic"]).subject
    snapshot = Snapshot.take(config.data_root(), subject.sources, folder / "code")
    params = {name: p.default for name, p in subject.space.items() if not p.when}
    found: dict[str, list[tuple[float, Usage, str]]] = {"cold": [], "warm": []}
    sides: dict[str, LocalProcesses] = {}
    for name in found:
        sides[name] = LocalProcesses(
            subject, snapshot, folder / name / "trials", WeightStore(folder / name / "weights")
        )
    sides["warm"].warm_up(sys.exit)
    sides["warm"]._warm["train"].ready()
    for seed in range(repeats):
        for name, side in sides.items():
            began = time.monotonic()
            trial = Trial(seed, "c", "search", 0, seed, fidelity=0.05)
            training = LocalExecutor(side).train(trial, Candidate(params, "v"), lambda point: None, Cancel())
            found[name].append((time.monotonic() - began, training.usage, training.weights))
    sides["warm"].close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    subject = config.load(["subject=arithmetic"]).subject
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snapshot = Snapshot.take(config.data_root(), subject.sources, folder / "probe").folder
        writable = folder / "run"
        shutil.copytree(snapshot, writable, copy_function=shutil.copyfile)
        server = WarmServer(
            subject.preload,
            writable,
            processes.environment() | {PROGRESS_FD: "-1"},
            processes.die_with_parent(),
            sys.exit,
        )
        server.ready()
        measured = starts(writable, {"cold": None, "warm": server}, arguments.repeats)
        ballast = bytearray(b"x" * 500_000_000)
        measured["warm, controller of 500 MB"] = starts(writable, {"": server}, arguments.repeats)[""]
        del ballast
        server.close()
        done = trainings(folder, max(3, arguments.repeats // 5))
    same = all(c[2] == w[2] for c, w in zip(done["cold"], done["warm"], strict=True))
    begun = [[start, spread([t[0] for t in times]), spread([t[1] for t in times])] for start, times in measured.items()]
    whole = [
        [start, spread([d[0] for d in t], 2), spread([d[1].cpu_seconds for d in t], 2)] for start, t in done.items()
    ]
    saved = [c[1] - w[1] for c, w in zip(measured["cold"], measured["warm"], strict=True)]
    fair = [w[1].cold_seconds / c[1].cpu_seconds for c, w in zip(done["cold"], done["warm"], strict=True)]
    report = Report(
        "Warm starts of trainings",
        [
            Table(
                "From the order to start (median and quartiles)", ["start", "first line, ms", "imports done, ms"], begun
            ),
            Table("A training of a twentieth of the budget", ["start", "wall, s", "CPU, s"], whole),
        ],
        [
            Figure("a warm start until its imports are done", "ms", [t[1] for t in measured["warm"]], at_most=100),
            Figure("what a warm start saves against a cold one", "ms", saved),
            Figure("CPU of a warm training as it is compared with edited code's, against a cold one's", "x", fair),
        ],
        [f"The weights of warm and cold trainings are {'the same, bit for bit' if same else 'DIFFERENT'}."],
    )
    report.publish(arguments.json)


if __name__ == "__main__":
    main()
