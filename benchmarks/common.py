"""What the benchmarks have in common: figures with their bounds, tables, one JSON file each, and the same as text.

A report is a plain dictionary, so that a benchmark may as well make it by hand and `report.py` reads any:

    {"title", "command", "date", "machine": {...}, "tables": [{"title", "columns", "rows"}],
     "figures": [{"name", "unit", "median", "low", "high", "n", "at_most" or "at_least", "ok"}], "notes": ["..."]}

`low` and `high` are the quartiles; `ok` is left out where a figure has no bound. A table's cells are text.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("evolve", "torch", "numpy", "optuna", "mlflow", "litellm")


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile); of a single value three times the value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(values: Sequence[float], digits: int = 0) -> str:
    """ "median (quartile to quartile)" as text; of a single value the value."""
    low, middle, high = quartiles(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


@dataclass(frozen=True)
class Figure:
    """One measured quantity. Its median is held against the bound, where there is one (at most one of the two)."""

    name: str
    unit: str
    values: Sequence[float]
    at_most: float | None = None
    at_least: float | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the bound holds; None without one."""
        middle = quartiles(self.values)[1]
        if self.at_most is not None:
            return middle <= self.at_most
        return middle >= self.at_least if self.at_least is not None else None

    def plain(self) -> dict[str, Any]:
        low, middle, high = quartiles(self.values)
        found = {"name": self.name, "unit": self.unit, "median": middle, "low": low, "high": high,
                 "n": len(self.values), "at_most": self.at_most, "at_least": self.at_least, "ok": self.ok}  # fmt: skip
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class Table:
    """`columns` as the header, `rows` of as many cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def plain(self) -> dict[str, Any]:
        rows = [[str(cell) for cell in row] for row in self.rows]
        return {"title": self.title, "columns": list(self.columns), "rows": rows}


@dataclass
class Report:
    """What one run of one benchmark found. `notes` are sentences: what was left out and why."""

    title: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "command": command_line(sys.argv),
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "tables": [table.plain() for table in self.tables],
            "figures": [figure.plain() for figure in self.figures],
            "notes": self.notes,
        }

    def publish(self, path: Path | None) -> bool:
        """Prints the report, and writes it to `path` as JSON where that is given. True unless a bound is broken."""
        found = self.plain()
        print(show(found))
        if path is not None:
            write(path, found)
        return all(figure.get("ok", True) for figure in found["figures"])


def write(path: Path, report: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def command_line(words: Sequence[str]) -> str:
    """The command as a reader types it at the repository's root, without `--json` and what names a place of this machine.

    >>> command_line(["/somewhere/benchmarks/warm.py", "--repeats", "3", "--json", "/tmp/warm.json"])
    'python benchmarks/warm.py --repeats 3'
    """
    kept, skip = [f"benchmarks/{Path(words[0]).name}"], False
    for word in words[1:]:
        if not skip and word != "--json" and not word.startswith("--json="):
            kept.append("DIR" if os.path.isabs(word) else word)
        skip = word == "--json"
    return " ".join(["python", *kept])


def machine() -> dict[str, Any]:
    """What figures depend on, without anything that names the machine."""
    cpu = next((x.partition(":")[2].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "unknown")
    memory = next((int(x.split()[1]) for x in _lines("/proc/meminfo") if x.startswith("MemTotal")), 0)
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e6),
        "gpu": gpu(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def gpu() -> str | None:
    """The name of the first GPU; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip().split("\n")[0] or None if done.returncode == 0 else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


# ---------------------------------------------------------------- as text


def bound(figure: Mapping[str, Any]) -> str:
    """The bound in words, "" without one."""
    if figure.get("at_most") is not None:
        return f"at most {figure['at_most']:g}"
    return f"at least {figure['at_least']:g}" if figure.get("at_least") is not None else ""


def verdict(figure: Mapping[str, Any]) -> str:
    return {True: "holds", False: "DOES NOT HOLD", None: ""}[figure.get("ok")]


def number(value: float | None) -> str:
    """Three significant digits, whole numbers from 1,000.

    >>> number(1234.5), number(0.0123456), number(None)
    ('1,234', '0.0123', '')
    """
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def figure_rows(figures: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of figure, unit, median, quartiles, n, bound and verdict."""
    rows = []
    for f in figures:
        middle = f.get("median", f.get("value"))
        quarters = f"{number(f['low'])} to {number(f['high'])}" if f.get("n", 1) > 1 and "low" in f else ""
        rows.append([f["name"], f.get("unit", ""), number(middle), quarters, str(f.get("n", "")), bound(f), verdict(f)])
    return rows


FIGURE_COLUMNS = ["figure", "unit", "median", "quartiles", "n", "bound", ""]


def show(report: Mapping[str, Any]) -> str:
    """The report as text for a terminal."""
    parts = [report["title"]]
    tables = list(report.get("tables", []))
    if report.get("figures"):
        tables.append({"title": "Figures", "columns": FIGURE_COLUMNS, "rows": figure_rows(report["figures"])})
    for table in tables:
        rows = [table["columns"], *([str(cell) for cell in row] for row in table["rows"])]
        widths = [max(len(row[i]) for row in rows) for i in range(len(table["columns"]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        parts.append("\n".join([table["title"], *lines]))
    return "\n\n".join([*parts, *report.get("notes", [])])
