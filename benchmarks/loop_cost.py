"""What the loop itself costs an iteration, and whether that grows with the history: campaigns of trainings that do nothing.

    python benchmarks/loop_cost.py [--trials 20 200 1000 10000] [--proposer random|sampler|default] [--executor inline|real]
                                   [--tracking on|off] [--workers 1] [--repeats 1] [--json FILE] [--profile FILE]

Each campaign runs in a controller process of its own, made as `evolve run` makes it, and is looked at when so many trainings
have ended. A row is one stretch between two such marks, a trial of it on average:

    controller  CPU of the controller process without its tracker's thread; `besides ask` also without the sampler's ask
    wall        the clock, besides the ask and besides the time that training and scoring processes lived
    ask         CPU of the proposer's answer, in the loop's thread
    record      CPU of handing the events to the tracker, in the loop's thread
    tracker     CPU of the tracker, wherever it runs: a thread of the controller's, or a process beside it
    trainings   CPU of the training and scoring processes that have ended
    memory      growth of the controller's resident memory, kB a trial
    files, kB   left in the campaign's folder a trial, without the weights

`inline` trains and scores by a function call; `real` through the whole chain of processes, with a shell script that makes
weights of its config's checksum in a millisecond. `random` draws from the space, `sampler` is our own sampler alone, `default` what
`evolve run` takes without a model: that sampler with the playbook's advice.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import os
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Figure, Report, Table
from evolve import compose, config, executors, watch
from evolve.search import EvolveProposer
from evolve.testing import InlineExecutor, InlineScorer
from evolve.types import (
    Candidate,
    Estimate,
    Limits,
    Objective,
    Parameter,
    Proposal,
    Subject,
    TrialFinished,
    WeightsSpec,
)

MARKS = [20, 200, 1000, 10_000]
SPACE = {
    "learning_rate": Parameter("float", 3e-4, "learning_rate", 1e-5, 1.0, log=True),
    "batch": Parameter("int", 16, "batch_size", 4, 256, log=True),
    "decay": Parameter("float", 0.1, low=0.0, high=1.0),
    "clip": Parameter("float", 1.0, low=0.1, high=10.0),
    "mode": Parameter("categorical", "a", choices=("a", "b")),
    "depth": Parameter("int", 2, low=1, high=8, when={"mode": ("b",)}),
}
TRAIN = """\
n=$(cksum < "$1"); n=${n%% *}
printf "$(printf '\\\\%03o\\\\%03o\\\\000\\\\077' $((n & 255)) $(((n >> 8) & 127)))" > "$2/tail"
cat subject/head "$2/tail" > "$2/weights.safetensors"
"""
SCORE = """\
weights=$(grep -o '"[^"]*\\.safetensors"' "$1" | grep /weights/ | tr -d '"')
printf '{"evaluations": [' > "$2/evaluation.json"; comma=
for path in $weights; do
  n=$(cksum < "$path"); n=${n%% *}
  printf '%s{"metric": "score", "mean": 0.%03d, "stderr": 0.001, "n": 1000}' "$comma" $((n % 1000)) >> "$2/evaluation.json"
  comma=,
done
printf ']}' >> "$2/evaluation.json"
"""


# ---------------------------------------------------------------- in the controller's process


def make_subject(root: Path) -> Subject:
    """Writes the sources of a subject whose commands do nothing below `root`."""
    (root / "subject").mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header += b" " * (-len(header) % 8)
    head = struct.pack("<Q", len(header)) + header
    (root / "subject" / "head").write_bytes(head)
    (root / "subject" / "base.safetensors").write_bytes(head + struct.pack("<f", 0.5))
    (root / "subject" / "train.sh").write_text(TRAIN)
    (root / "subject" / "score.sh").write_text(SCORE)
    commands = (("/bin/sh", f"subject/{what}.sh", "{config}", "{out}") for what in ("train", "score"))
    return Subject(
        "nothing", "trainings that do nothing", ("subject",), (), *commands, {"base": "subject/base.safetensors"},
        WeightsSpec("weights.safetensors", "base"), Objective("score", "maximize"),
        Limits(60, 60, 1000, compute_slack_seconds=5.0), Estimate(0.01, 0.01), SPACE,
    )  # fmt: skip


class Spent:
    """Wraps a function, and adds up what its calls took of the calling thread's CPU and of the clock, in seconds."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work, self.cpu, self.wall = work, 0.0, 0.0

    def __call__(self, *args: Any, **named: Any) -> Any:
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            return self._work(*args, **named)
        finally:
            self.cpu, self.wall = self.cpu + time.thread_time() - cpu, self.wall + time.perf_counter() - wall


class Walk:
    """Draws from the space, seeded by the view: the cheapest proposer that never repeats itself."""

    name = "random"

    def propose(self, view: Any) -> Any:
        rng = random.Random(f"{view.seed}:{view.turn}:{view.retry}")
        params: dict[str, Any] = {}
        for name, p in view.space.parameters.items():
            if view.space.is_active(name, params):
                value = rng.choice(p.choices) if p.choices else rng.uniform(p.low, p.high)
                params[name] = round(value) if p.type == "int" else value
        return Proposal(Candidate(params, view.subject_version), self.name, "a step")


def thread_cpu(name: str) -> float:
    """CPU seconds of the living threads of that name, in this process."""
    ids = [t.native_id for t in threading.enumerate() if t.name == name]
    return sum(int(Path(f"/proc/self/task/{i}/schedstat").read_text().split()[0]) for i in ids) / 1e9


def descendants_cpu(pid: int) -> float:
    """CPU seconds of the living processes below this one, what they have waited for included."""
    total, ticks = 0.0, os.sysconf("SC_CLK_TCK")
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / ticks + descendants_cpu(int(child))
    return total


def on_disk(folder: Path) -> tuple[int, int]:
    """(files, bytes) below the campaign's folder, without the weights that are kept."""
    sizes = [
        (Path(where) / name).lstat().st_size
        for where, _, names in os.walk(folder)
        for name in names
        if not where.startswith(str(folder / "weights"))
    ]
    return len(sizes), sum(sizes)


def campaign(spec: dict[str, Any], place: Path) -> list[dict[str, float]]:
    """Runs one campaign; returns what had been used when each mark was reached."""
    settings = config.load(
        ["subject=quadratic", f"state_dir={place / 'state'}", "campaign=c", "start=default",
         f"budget.trials={max(spec['trials'])}", f"executor.workers={spec['workers']}",
         f"tracking={'mlflow' if spec['tracking'] == 'on' else 'none'}"]
    )  # fmt: skip
    settings = replace(settings, subject=make_subject(place), root=str(place))
    compose.import_search()
    folder, journal, state = compose.create(settings)
    track = compose.tracker(settings, folder, print)
    record, flush = Spent(track.record), track.flush
    track.record = record  # type: ignore[method-assign]
    for each in journal.records:
        track.record(each)
    journal.records.clear()
    marks: list[dict[str, float]] = []
    ask = Spent(lambda view: None)
    processes = Spent(executors.processes.run)
    lived = [0.0]  # seconds, of the processes of trainings and scores

    def run(*args: Any, **named: Any) -> Any:
        result = processes(*args, **named)
        lived[0] += result.usage.wall_seconds
        return result

    executors.processes.run = run  # type: ignore[assignment]
    done, paused = 0, 0.0

    def look() -> None:
        nonlocal paused
        began, cpu = time.perf_counter(), time.process_time()
        used, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        files, size = on_disk(folder.path)
        marks.append(
            {
                "trials": done,
                "self": used.ru_utime + used.ru_stime - look.cpu,  # type: ignore[attr-defined]
                "children": children.ru_utime + children.ru_stime,
                "wall": began - paused,
                "lived": lived[0],
                "ask": ask.cpu,
                "ask_wall": ask.wall,
                "record": record.cpu,
                "tracker": thread_cpu("evolve-tracker") + descendants_cpu(os.getpid()),
                "tracker_inside": thread_cpu("evolve-tracker"),
                "rss": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
                "files": files,
                "bytes": size,
            }
        )
        look.cpu += time.process_time() - cpu  # type: ignore[attr-defined]
        paused += time.perf_counter() - began

    look.cpu = 0.0  # type: ignore[attr-defined]

    class Marks(watch.Lines):
        def say(self, line: str) -> None:
            pass

        def event(self, record: Any, state: Any) -> None:
            nonlocal done
            super().event(record, state)
            if isinstance(record.event, TrialFinished):
                done += 1
                if done in spec["trials"]:
                    look()

    loop = compose.make_loop(
        folder, journal, state, budget=state.budget, workers=spec["workers"], track=track, watcher=Marks(),
        prune=compose.pruner(settings, print), interrupted=lambda: False, warn=print,
    )  # fmt: skip
    chosen = {"random": Walk, "sampler": EvolveProposer, "default": lambda: loop.ports.proposer}[spec["proposer"]]()
    ask._work, chosen.propose = chosen.propose, ask
    loop.ports.proposer = chosen
    if spec["proposer"] != "default":
        loop.ports.advisor, loop.rules = None, replace(loop.rules, advice_share=0.0)
    if spec["executor"] == "inline":
        inline = InlineExecutor(lambda params, rng: rng.gauss(0.5, 0.01) + 0.1 * float(params["decay"]))
        loop.ports.executor, loop.ports.scorer = inline, InlineScorer(inline)
    profile = cProfile.Profile() if spec["profile"] else None
    if profile is None:
        loop.run()
    else:
        profile.runcall(loop.run)
        profile.dump_stats(spec["profile"])
    flush(600)
    track.close()
    journal.close()
    return marks


# ---------------------------------------------------------------- the table


def slopes(marks: list[dict[str, float]]) -> list[dict[str, float]]:
    """A trial of each stretch: milliseconds, kB and files."""
    rows = []
    for a, b in itertools.pairwise(marks):
        n = b["trials"] - a["trials"]
        d = {name: (b[name] - a[name]) / n for name in a}
        controller = d["self"] - d["tracker_inside"]
        rows.append(
            {
                "from": a["trials"],
                "to": b["trials"],
                "controller_ms": 1e3 * controller,
                "controller_besides_ask_ms": 1e3 * (controller - d["ask"]),
                "wall_ms": 1e3 * (d["wall"] - d["ask_wall"] - d["lived"]),
                "ask_ms": 1e3 * d["ask"],
                "record_ms": 1e3 * d["record"],
                "tracker_ms": 1e3 * d["tracker"],
                "trainings_ms": 1e3 * d["children"],
                "memory_kb": d["rss"] / 1e3,
                "files": d["files"],
                "kb": d["bytes"] / 1e3,
            }
        )
    return rows


def measure(spec: dict[str, Any]) -> list[dict[str, float]]:
    """The marks of one campaign in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        words = [sys.executable, __file__, "--child", json.dumps(spec | {"place": name})]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stdout)
        return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def middle(runs: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """The median of the repeats, in each stretch and column."""
    return [
        {name: statistics.median(row[name] for row in rows) for name in rows[0]} for rows in zip(*runs, strict=True)
    ]


def report(spec: dict[str, Any], runs: list[list[dict[str, float]]], grown_mb: list[float]) -> Report:
    rows = middle(runs)
    names = [n for n in rows[0] if n not in ("from", "to")]
    cells = [[f"{r['from']:.0f} to {r['to']:.0f}", *(f"{r[n]:.2f}" for n in names)] for r in rows]
    how = ", ".join(f"{name} {spec[name]}" for name in ("executor", "tracking", "proposer", "workers"))
    figures = []
    for i, row in enumerate(rows):
        where = f"trials {row['from']:.0f} to {row['to']:.0f}"
        cpu = [run[i]["controller_besides_ask_ms"] for run in runs]
        figures.append(Figure(f"controller besides the ask, {where}", "ms CPU a trial", cpu, at_most=25))
        wall = [run[i]["wall_ms"] for run in runs]
        figures.append(Figure(f"wall besides ask and trainings, {where}", "ms a trial", wall, at_most=40))
    if len(rows) > 1:
        ratio = [run[-1]["controller_besides_ask_ms"] / run[0]["controller_besides_ask_ms"] for run in runs]
        figures.append(Figure("controller, last stretch of the first", "x", ratio, at_most=1.2))
    figures += [
        Figure("memory of the controller, growth", "MB", grown_mb, at_most=150),
        Figure("files, apart from weights", "a trial", [run[-1]["files"] for run in runs], at_most=5),
        Figure("bytes, apart from weights", "kB a trial", [run[-1]["kb"] for run in runs], at_most=100),
    ]
    columns = ["trials", *(n.replace("_", " ") for n in names)]
    return Report(f"The loop's own cost: {how}", [Table("A trial of each stretch", columns, cells)], figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=MARKS, help="marks; a campaign ends at the last one")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--proposer", choices=["random", "sampler", "default"], default="random")
    parser.add_argument("--executor", choices=["inline", "real"], default="inline")
    parser.add_argument("--tracking", choices=["on", "off"], default="off")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", help="of the loop's thread, for pstats; slows it down")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(campaign(arguments.child, Path(arguments.child["place"]))))
        return
    spec = {n: getattr(arguments, n) for n in ("trials", "workers", "proposer", "executor", "tracking", "profile")}
    spec["trials"] = sorted(arguments.trials)
    marks = [measure(spec) for _ in range(arguments.repeats)]
    grown = [(each[-1]["rss"] - each[0]["rss"]) / 1e6 for each in marks]
    report(spec, [slopes(each) for each in marks], grown).publish(arguments.json)


if __name__ == "__main__":
    main()
