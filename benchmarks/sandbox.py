"""What the sandbox costs: trainings of the embedded subjects in a jail against the same ones as plain processes.

    python benchmarks/sandbox.py --repeats 15 --fidelity 0.1     # writes results/sandbox.md

Both ways alternate in one run, with the same seed; each training runs once before, so that the files are in memory. The
weights of both are compared: a sandbox that changed a number would be no baseline for an edit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evolve import processes, sandbox
from evolve.ports import Cancel
from evolve.proof import startup_ms
from evolve.sandbox import Jail

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "sandbox.md"
SUBJECTS = ("quadratic", "arithmetic")


def train(subject: dict[str, Any], folder: Path, jailed: bool, fidelity: float) -> tuple[processes.Result, bytes]:
    """One training with default params; its result and weights."""
    base = Path("/code") if jailed else folder / "code"
    config = {
        "params": {name: p["default"] for name, p in subject["space"].items() if "when" not in p},
        "seed": 1,
        "fidelity": fidelity,
        "device": "cpu",
        "model": subject["model"],
        "assets": {name: str(base / path) for name, path in subject["assets"].items()},
    }
    (folder / "config.json").write_text(json.dumps(config))
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    weights = out / subject["weights"]["file"]
    words = {"{python}": sys.executable, "{config}": "/config.json" if jailed else str(folder / "config.json")}
    words["{out}"] = "/scratch" if jailed else str(out)
    limit = subject["limits"]["memory_mb"]
    jail = Jail(folder / "code", {}, {"/config.json": folder / "config.json"}, weights.name, memory_mb=limit)
    result = processes.run(
        [words.get(word, word) for word in subject["train_cmd"]],
        cwd=folder / "code", log=folder / "log", timeout_seconds=600, memory_mb=limit, log_bytes=100_000,
        on_progress=lambda line: None, cancel=Cancel(), jail=jail if jailed else None, keep=weights if jailed else None,
        keep_bytes=100_000_000,
    )  # fmt: skip
    if result.exit_code != 0:
        sys.exit(f"A training must end well, but: {result.log_tail[-300:]}")
    return result, weights.read_bytes()


def measure(name: str, fidelity: float, repeats: int) -> str:
    """A row of the table."""
    subject = yaml.safe_load((ROOT / "configs" / "subject" / f"{name}.yaml").read_text())
    wall: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    seen = set()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(ROOT / "train", folder / "code" / "train", ignore=shutil.ignore_patterns("__pycache__"))
        for turn in range(repeats + 1):
            for jailed in (False, True) if turn % 2 else (True, False):
                result, weights = train(subject, folder, jailed, fidelity)
                seen.add(weights)
                if turn:
                    wall[jailed].append(1000 * result.usage.wall_seconds)
                    cpu[jailed].append(1000 * result.usage.cpu_seconds)
    figures = [statistics.median(times[jailed]) for times in (wall, cpu) for jailed in (False, True)]
    ratio = figures[1] / figures[0]
    equal = "yes" if len(seen) == 1 else "NO"
    cells = [
        name,
        f"{fidelity:g}",
        *(f"{f:.0f}" for f in figures[:2]),
        f"{figures[1] - figures[0]:.0f}",
        f"{ratio:.3f}",
    ]
    return "| " + " | ".join([*cells, *(f"{f:.0f}" for f in figures[2:]), equal]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--fidelity", type=float, default=0.1, help="of arithmetic; quadratic is always trained in full"
    )
    arguments = parser.parse_args()
    level = sandbox.find()
    if level.name == "none":
        sys.exit(f"There must be a sandbox to measure, but there is none: {level.reason}.")
    load = os.getloadavg()[0]
    plain, jailed = startup_ms(21)
    rows = [measure(name, arguments.fidelity if name == "arithmetic" else 1.0, arguments.repeats) for name in SUBJECTS]
    text = f"""# What the sandbox costs

    python benchmarks/sandbox.py --repeats {arguments.repeats} --fidelity {arguments.fidelity:g}

{level.reason}, {os.cpu_count()} cores (load at the start {load:.1f}), Python {sys.version.split()[0]}. Medians of alternating repeats in one run, in ms a training.
Start and end of an empty Python: {plain:.0f} ms plain, {jailed:.0f} ms in the jail (21 repeats).

| subject | fidelity | wall, plain | wall, jailed | more | ratio | CPU, plain | CPU, jailed | same weights |
|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""
    RESULT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
