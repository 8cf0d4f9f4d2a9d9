"""All benchmarks of reliability and speed with one command, and the page that tells what they found.

    python benchmarks/report.py                       # runs each, stores what it found, writes docs/benchmarks.md
    python benchmarks/report.py --only commands warm  # these alone; the page keeps what is stored of the others
    python benchmarks/report.py --quick               # short runs, to see that they work: nothing is stored
    python benchmarks/report.py --render              # the page alone, from what is stored

Each benchmark is a command of its own with `--json FILE`, in the form that `common.py` describes; they run one after the
other, so that none disturbs another. What they found is `benchmarks/results/NAME.json`. Exit code 1 where a benchmark
failed; a bound that does not hold is no failure of the benchmark, and is marked on the page.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import FIGURE_COLUMNS, ROOT, bound, figure_rows, number

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Part:
    """One run of a benchmark: `python benchmarks/<script>.py` with `words`, or with `quick` for a short run."""

    script: str
    quick: str
    words: str = ""


# The order is that of the page.
PARTS = {
    "crash": Part("crash", "--kills 10"),
    "soak": Part("soak", "--trials 150 --controller-kills 1"),
    "loop_cost": Part("loop_cost", "--trials 20 60"),
    "loop_cost_real": Part(
        "loop_cost",
        "--executor real --tracking on --trials 10 30",
        "--executor real --tracking on --trials 20 200 1000 10000",
    ),
    "overhead": Part("overhead", "--n 20 --repeats 1 --tools evolve"),
    "commands": Part("commands", "--trials 30 --repeats 3"),
    "warm": Part("warm", "--repeats 3"),
    "training": Part("training", "--repeats 2"),
}


def run(names: Sequence[str], results: Path, quick: bool) -> list[str]:
    """Runs the benchmarks one after the other; returns the names of those that failed or left nothing."""
    failed = []
    for name in names:
        target = results / f"{name}.json"
        before = target.stat().st_mtime_ns if target.exists() else None
        part = PARTS[name]
        script = str(ROOT / "benchmarks" / f"{part.script}.py")
        words = [sys.executable, script, *(part.quick if quick else part.words).split()]
        print(f"\n=== {name}", flush=True)
        done = subprocess.run([*words, "--json", str(target)], cwd=ROOT, check=False)
        if done.returncode != 0 or not target.exists() or target.stat().st_mtime_ns == before:
            failed.append(name)
    return failed


# ---------------------------------------------------------------- the page


def stored(results: Path) -> dict[str, dict[str, Any]]:
    """name -> what was found, of those that are there, in the page's order."""
    paths = {name: results / f"{name}.json" for name in PARTS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def render(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page for what is stored."""
    parts = [
        "# Benchmarks: nothing lost, nothing slow",
        "`make benchmarks` runs all of these and writes this page; `python benchmarks/report.py --render` writes it from"
        " `benchmarks/results/` alone.\nNobody edits a figure here: a test compares the page with what is stored.",
        "## Bounds",
        _bounds(found),
    ]
    if missing := [name for name in PARTS if name not in found]:
        parts.append(f"Not measured: {', '.join(missing)}.")
    for name, report in found.items():
        parts += _section(name, report)
    return "\n\n".join(parts) + "\n"


def _bounds(found: Mapping[str, Mapping[str, Any]]) -> str:
    """All figures with a bound; those whose bound is broken first."""
    held = [f for report in found.values() for f in report.get("figures", []) if bound(f)]
    rows = [
        [f["name"], f"{number(f.get('median', f.get('value')))} {f.get('unit', '')}", f"{bound(f)} {f.get('unit', '')}", _mark(f)]
        for f in sorted(held, key=lambda f: f.get("ok") is not False)
    ]  # fmt: skip
    return _table(["figure", "measured (median)", "bound", ""], rows) if rows else "No figure with a bound is stored."


def _mark(figure: Mapping[str, Any]) -> str:
    return {True: "holds", False: "**does not hold**", None: ""}[figure.get("ok")]


def _section(name: str, report: Mapping[str, Any]) -> list[str]:
    parts = [f"## {report['title']}"]
    if about := _about(ROOT / "benchmarks" / f"{name}.py"):
        parts.append(about)
    parts.append(f"`{report['command']}`" + (f", {report['date']}" if report.get("date") else "") + "  \n"
                 + _machine(report.get("machine", {})))  # fmt: skip
    for table in report.get("tables", []):
        parts += [f"**{_cell(table['title'])}**", _table(table["columns"], table["rows"])]
    if figures := report.get("figures"):
        rows = [[*row[:-1], _mark(f)] for row, f in zip(figure_rows(figures), figures, strict=True)]
        parts.append(_table(FIGURE_COLUMNS, rows))
    return parts + list(report.get("notes", []))


def _about(script: Path) -> str:
    """The first line of a benchmark's docstring: what is measured."""
    if not script.exists():
        return ""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    known = [
        machine.get("cpu", ""),
        f"{machine['cores']} cores" if "cores" in machine else "",
        f"{machine['memory_gb']} GB" if "memory_gb" in machine else "",
        machine.get("kernel", ""),
        f"Python {machine['python']}" if "python" in machine else "",
        versions,
        f"GPU: {machine.get('gpu') or 'not measured, there is none'}",
    ]
    return "; ".join(word for word in known if word) + "."


def _table(columns: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="NAME",
                        help=", ".join(PARTS))  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="short runs; nothing is stored")
    parser.add_argument("--render", action="store_true", help="write the page from what is stored, run nothing")
    arguments = parser.parse_args()
    failed: list[str] = []
    if arguments.quick:
        with tempfile.TemporaryDirectory() as name:
            failed = run(arguments.only, Path(name), quick=True)
    else:
        if not arguments.render:
            failed = run(arguments.only, RESULTS, quick=False)
        PAGE.write_text(render(stored(RESULTS)), encoding="utf-8")
        print(f"written: {PAGE.relative_to(ROOT)}")
    for name in failed:
        print(f"{name}: failed, see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
