"""What the tool itself costs for each iteration, beside comparable tools: a target that does nothing, a model that answers at once.

    python benchmarks/overhead.py [--n 20 200 1000] [--tools evolve openevolve autoresearch-rl] [--repeats 3]
        [--limit autoresearch-rl=200] [--environments DIR] [--json FILE]

Each tool runs N iterations through its own command line, from configuration files written here: a model proposes (one
request an iteration, to a server on loopback that speaks the OpenAI protocol and answers at once), the target is run, the
result is kept. evolve runs with `tracking=none` and with `tracking=mlflow`; its target is the subject `quadratic`, two
starts of Python (`-S -E`) for a training and its score. openevolve's evaluator is a function in its worker process,
autoresearch-rl's target one start of Python. Every proposal is worse than the start, so that evolve's gate has nothing
to compare; its first trainings measure the noise floor and ask no model. The others come from PyPI, each into a virtual
environment of its own under `--environments`, made at the first use; where one does not install, the table says so.

Wall time from the command's start to its end. CPU time of all its processes, from the kernel; the controller is the
command's first process, the tracker what runs under it with `tracker` in its command line. Memory: the peak of the
proportional set sizes of all its processes, looked at twice a second. Files and bytes: what it leaves behind. Prompt
bytes: of the requests' messages as JSON. The slope between two N is what an iteration costs without the start.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, Figure, Report, Table, quartiles, spread
from evolve.ports import Completion
from tests.openai_server import serving

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 3600.0  # seconds; a run that takes longer is ended, and the benchmark fails
_SUBREAPER = 36  # prctl: orphans below this process become its children, so that their CPU time is counted

Answer = Callable[[int], str]


@dataclass(frozen=True)
class Way:
    """One way to run one tool.

    `command(folder, url, n)` writes the configuration into `folder` and returns the command, which leaves what it keeps
    there; `answer(number)` is what the model says to request `number`; `evaluated(folder)` says how often the target ran.
    """

    name: str
    command: Callable[[Path, str, int], list[str]]
    answer: Answer
    evaluated: Callable[[Path], int]


# ---------------------------------------------------------------- the tools


def fraction(number: int) -> float:
    """Spreads over (0, 1) without repeating."""
    return (number * 0.6180339887498949) % 1


def evolve(tracking: str) -> Way:
    def command(folder: Path, url: str, n: int) -> list[str]:
        words = ["subject=quadratic", "proposer=agent", "agent.model=openai/mock", f"agent.api_base={url}"]
        words += ["agent.price_in=0", "agent.price_out=0", "agent.style=single", "start=default", "campaign=c"]
        words += [f"tracking={tracking}", f"budget.trials={n}", f"state_dir={folder / 'state'}"]
        return [sys.executable, "-m", "evolve.cli", "run", *words]

    def answer(number: int) -> str:
        x, y = (
            1e-4 + 2e-4 * fraction(number),
            1.4 + 0.6 * fraction(7 * number),
        )  # farther from the optimum than the default
        return json.dumps({"changes": {"x": round(x, 9), "y": round(y, 6)}, "rationale": "a scripted answer"})

    def evaluated(folder: Path) -> int:
        return (folder / "state/campaigns/c/journal.jsonl").read_bytes().count(b'"type":"TrialFinished"')

    return Way(f"evolve, tracking {tracking}", command, answer, evaluated)


def marks(folder: Path) -> int:
    """One byte for each time that the target of another tool has run."""
    return (folder / "marks").stat().st_size


def openevolve(environment: Path) -> Way:
    def program(x: float) -> str:
        return f"# EVOLVE-BLOCK-START\nX = {x:.6f}\n# EVOLVE-BLOCK-END\n"

    def command(folder: Path, url: str, n: int) -> list[str]:
        (folder / "program.py").write_text(program(0.5))
        (folder / "evaluator.py").write_text(
            "import re\n\n\ndef evaluate(path):\n    with open(path) as file:\n"
            "        x = float(re.search(r'X = (\\S+)', file.read())[1])\n"
            f"    with open({str(folder / 'marks')!r}, 'a') as marks:\n        marks.write('.')\n"
            "    return {'combined_score': 1 - (x - 0.5) ** 2}\n"
        )
        config = {
            "max_iterations": n,
            "diff_based_evolution": False,
            "llm": {"primary_model": "mock", "api_base": url, "api_key": "none"},
            "evaluator": {"parallel_evaluations": 1, "cascade_evaluation": False},
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        return [
            str(environment / "bin/openevolve-run"), str(folder / "program.py"), str(folder / "evaluator.py"),
            "--config", str(folder / "config.yaml"), "--output", str(folder / "out"), "--iterations", str(n),
        ]  # fmt: skip

    return Way("openevolve", command, lambda number: f"```python\n{program(fraction(number + 1))}```\n", marks)


def autoresearch(environment: Path) -> Way:
    choices = list(range(250))  # the run ends where all have been tried

    def command(folder: Path, url: str, n: int) -> list[str]:
        (folder / "target.py").write_text(
            # Worse each time: this tool ends its run where it forecasts more than the best, by a power law through the scores.
            f"import os\nopen({str(folder / 'marks')!r}, 'a').write('.')\n"
            f"print('score=%f' % (1 / os.path.getsize({str(folder / 'marks')!r})))\n"
        )
        config = {
            "objective": {"metric": "score", "direction": "max"},
            "target": {
                "type": "command", "workdir": str(folder),
                "train_cmd": [str(environment / "bin/python"), "-S", "-E", "target.py"],
            },
            "policy": {"type": "llm", "params": {"x": choices}, "llm_api_url": url, "llm_model": "mock"},
            "controller": {"max_iterations": n},
        }  # fmt: skip
        (folder / "config.yaml").write_text(json.dumps(config))
        return [str(environment / "bin/autoresearch-rl"), "run", str(folder / "config.yaml")]

    return Way(
        "autoresearch-rl", command, lambda number: json.dumps({"x": choices[(77 * number) % len(choices)]}), marks
    )


OTHERS = {"openevolve": openevolve, "autoresearch-rl": autoresearch}


def installed(name: str, environments: Path) -> tuple[Path, str] | None:
    """The tool's virtual environment and its version; made where it is not there. None where it does not install."""
    folder = environments / name
    python = folder / "bin" / "python"
    ask = [str(python), "-c", f"import importlib.metadata as m; print(m.version({name!r}))"]
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    for attempt in range(2):
        done = subprocess.run(ask, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return folder, done.stdout.strip()
        if attempt == 0:
            subprocess.run([str(python), "-m", "pip", "install", "-q", name], check=False, stderr=subprocess.DEVNULL)
    return None


# ---------------------------------------------------------------- one run


@dataclass
class Cost:
    """Of a whole run: seconds, megabytes, counts."""

    wall: float
    cpu: float
    controller: float
    tracker: float
    memory_mb: float
    controller_mb: float
    files: int
    bytes: int
    calls: int
    prompt_bytes: int
    evaluated: int

    @property
    def rest(self) -> float:
        return max(0.0, self.cpu - self.controller - self.tracker)


@dataclass
class Watch:
    """Looks at a process and all below it, until it is told to stop."""

    pid: int
    memory_mb: float = 0.0
    controller_mb: float = 0.0
    trackers: dict[int, float] = field(default_factory=dict)  # pid -> CPU seconds, its ended children's too
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        rounds = 0
        while not self.over.wait(0.1):
            tree = below(self.pid)
            for pid in tree[1:]:
                if pid in self.trackers or "tracker" in words_of(pid):
                    self.trackers[pid] = max(self.trackers.get(pid, 0.0), cpu_of(pid, ended=True))
            if rounds % 5 == 0:
                sizes = [proportional_mb(pid) for pid in tree]
                self.memory_mb = max(self.memory_mb, sum(sizes))
                self.controller_mb = max(self.controller_mb, sizes[0])
            rounds += 1


def below(pid: int) -> list[int]:
    """`pid` and its living descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def cpu_of(pid: int, ended: bool = False) -> float:
    """CPU seconds of a process alone, with `ended` also of its children that have ended; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11 : 15 if ended else 13])) / TICKS


def proportional_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def one_run(way: Way, n: int) -> Cost:
    """Runs `n` iterations once.

    Raises `SystemExit` where the command fails, or where the model was asked, or the target ran, in less than half of the
    iterations.
    """
    number = iter(range(10**9))
    with tempfile.TemporaryDirectory() as name, serving() as server:
        folder = Path(name)
        server.model = lambda messages: Completion(way.answer(next(number)), "mock")
        command = way.command(folder, server.url, n)
        written = set(folder.rglob("*"))
        environment = os.environ | {"OPENAI_API_KEY": "none", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        before, began = children_seconds(), time.monotonic()
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
            watch = Watch(process.pid)
            watcher = threading.Thread(target=watch.run)
            watcher.start()
            too_long = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
            too_long.start()
            os.waitid(
                os.P_PID, process.pid, os.WEXITED | os.WNOWAIT
            )  # not reaped: its own CPU time is still to be read
            wall, controller = time.monotonic() - began, cpu_of(process.pid)
            too_long.cancel()
            watch.over.set()
            watcher.join()
            process.wait()
            reap_orphans()
            evaluated = way.evaluated(folder) if process.returncode == 0 else 0
            if min(evaluated, len(server.requests)) < n / 2:
                log.seek(0)
                raise SystemExit(
                    f"{way.name}, {n} iterations: exit code {process.returncode}, {len(server.requests)} requests,"
                    f" {evaluated} evaluations\n" + log.read()[-2000:]
                )
        left = [p for p in folder.rglob("*") if p.is_file() and p not in written]
        prompts = sum(len(json.dumps(r["messages"]).encode()) for r in server.requests)
        return Cost(
            wall, children_seconds() - before, controller, sum(watch.trackers.values()), watch.memory_mb,
            watch.controller_mb, len(left), sum(p.stat().st_size for p in left), len(server.requests), prompts,
            evaluated,
        )  # fmt: skip


def reap_orphans() -> None:
    """Waits for what the command has left behind; ends it after a while."""
    deadline = time.monotonic() + 10
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > deadline:
                for orphan in below(os.getpid())[1:]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(orphan, signal.SIGKILL)
            time.sleep(0.05)


# ---------------------------------------------------------------- all runs


def per(costs: Sequence[Cost], n: int, what: Callable[[Cost], float]) -> str:
    """Milliseconds an iteration of `what` (seconds a run), median and quartiles."""
    return spread([1000 * what(c) / n for c in costs], 1)


def middle(costs: Sequence[Cost], what: Callable[[Cost], float]) -> float:
    return quartiles([what(c) for c in costs])[1]


def tables(found: dict[str, dict[int, list[Cost]]], missing: dict[str, str]) -> list[Table]:
    columns = ["tool", "wall, ms", "CPU, ms", "controller", "tracker", "other processes", "memory, MB",
               "of the controller", "files", "MB", "evaluations", "requests", "prompt, kB each"]  # fmt: skip
    made = []
    for n in sorted({n for by_n in found.values() for n in by_n}):
        rows: list[Sequence[object]] = []
        for name, by_n in found.items():
            if costs := by_n.get(n):
                calls = middle(costs, lambda c: c.calls)
                rows.append([
                    name, per(costs, n, lambda c: c.wall), per(costs, n, lambda c: c.cpu),
                    *(f"{1000 * middle(costs, what) / n:.1f}" for what in (
                        lambda c: c.controller, lambda c: c.tracker, lambda c: c.rest)),
                    f"{middle(costs, lambda c: c.memory_mb):.0f}", f"{middle(costs, lambda c: c.controller_mb):.0f}",
                    f"{middle(costs, lambda c: c.files):.0f}", f"{middle(costs, lambda c: c.bytes) / 1e6:.1f}",
                    f"{middle(costs, lambda c: c.evaluated):.0f}", f"{calls:.0f}", f"{middle(costs, lambda c: c.prompt_bytes) / calls / 1000:.1f}",
                ])  # fmt: skip
        rows += [[name, why, *[""] * (len(columns) - 2)] for name, why in missing.items()]
        made.append(Table(f"{n} iterations, start and end included; times for each iteration", columns, rows))
    slopes: list[Sequence[object]] = []
    for name, by_n in found.items():
        for (n0, first), (n1, second) in pairwise(sorted(by_n.items())):
            cells = [
                f"{1000 * (middle(second, what) - middle(first, what)) / (n1 - n0):.1f}"
                for what in (lambda c: c.wall, lambda c: c.cpu, lambda c: c.controller, lambda c: c.tracker)
            ]
            slopes.append([name, f"{n0} to {n1}", *cells])
    if slopes:
        between = ["tool", "iterations", "wall, ms", "CPU, ms", "controller", "tracker"]
        made.append(Table("One more iteration (slope of the medians)", between, slopes))
    return made


def figures(found: dict[str, dict[int, list[Cost]]]) -> list[Figure]:
    made = []
    for name, by_n in found.items():
        n = max(by_n)
        made.append(Figure(f"{name}: wall time of an iteration at {n}", "ms", [1000 * c.wall / n for c in by_n[n]]))
        made.append(Figure(f"{name}: CPU time of an iteration at {n}", "ms", [1000 * c.cpu / n for c in by_n[n]]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[20, 200, 1000], help="iterations")
    parser.add_argument("--tools", nargs="+", default=["evolve", *OTHERS], choices=["evolve", *OTHERS])
    parser.add_argument("--tracking", nargs="+", default=["none", "mlflow"], choices=["none", "mlflow"])
    parser.add_argument("--repeats", type=int, default=3, help="of each run, in turns")
    parser.add_argument("--limit", nargs="*", default=["autoresearch-rl=200"], metavar="TOOL=N",
                        help="no more iterations of this one (it sleeps a second in each)")  # fmt: skip
    parser.add_argument("--environments", type=Path, default=ROOT / ".evolve" / "environments",
                        help="where the other tools are installed")  # fmt: skip
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    limits = {name: int(n) for name, _, n in (word.partition("=") for word in arguments.limit)}
    ways: list[tuple[str, Way]] = []
    missing: dict[str, str] = {}
    notes = []
    for tool in arguments.tools:
        if tool == "evolve":
            ways += [(tool, evolve(tracking)) for tracking in arguments.tracking]
        elif (place := installed(tool, arguments.environments.resolve())) is None:
            missing[tool] = "does not install here"
        else:
            ways.append((tool, OTHERS[tool](place[0])))
            notes.append(f"{tool} {place[1]}, from PyPI.")
    found: dict[str, dict[int, list[Cost]]] = {way.name: {} for _, way in ways}
    for _ in range(arguments.repeats):
        for n in arguments.n:
            for tool, way in ways:
                if n <= limits.get(tool, n):
                    cost = one_run(way, n)
                    found[way.name].setdefault(n, []).append(cost)
                    print(f"{way.name:24} {n:5}: {1000 * cost.wall / n:8.1f} ms wall, {1000 * cost.cpu / n:8.1f} ms CPU",
                          file=sys.stderr, flush=True)  # fmt: skip
    for tool, most in limits.items():
        if tool in arguments.tools and most < max(arguments.n):
            notes.append(f"{tool} was left out above {most} iterations.")
    Report("What an iteration costs", tables(found, missing), figures(found), notes).publish(arguments.json)


if __name__ == "__main__":
    main()
