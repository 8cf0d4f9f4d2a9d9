"""`evolve doctor`: what this machine and installation can do, each found out by trying. Part of the CLI."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from evolve import sandbox
from evolve.ports import Cancel
from evolve.processes import run
from evolve.proof import prove, startup_ms

__all__ = ["prove", "report"]

_MINIMUM_FREE_GB = 1.0
_PACKAGES = ("optuna", "mlflow", "hydra-core", "litellm", "safetensors", "torch")

Check = tuple[str, bool, str]  # what, whether it holds, what was found


def report(state_dir: Path) -> int:
    """Prints one line a check; returns 0 where a campaign can run here, 1 where something essential is missing."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("FAIL", _python),
        ("FAIL", _packages),
        ("FAIL", lambda: _writable(state_dir)),
        ("FAIL", lambda: _space(state_dir)),
        ("FAIL", _process),
        ("note", _parent_death),
        ("note", _terminal),
        ("note", _sandbox),
    ]
    good = True

    def say(label: str, check: Check) -> None:
        nonlocal good
        what, holds, found = check
        good = good and (holds or label == "note")
        print(f"{'ok  ' if holds else label}  {what:<12} {found}", flush=True)

    for label, check in checks:
        say(label, check())
    if sandbox.find().name != "none":
        for finding in prove():  # essential: a sandbox that leaks would be trusted all the same
            say("FAIL", (f"  {finding.name}", finding.blocked, finding.found))
    print("a campaign can run here" if good else "a campaign cannot run here yet: mend the lines marked FAIL")
    return 0 if good else 1


def _python() -> Check:
    return "python", sys.version_info >= (3, 11), f"{platform.python_version()}, 3.11 or newer is needed"


def _packages() -> Check:
    missing, found = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return "packages", not missing, f"missing: {', '.join(missing)}" if missing else ", ".join(found)


def _nearest(folder: Path) -> Path:
    """The folder itself or the first parent that is there."""
    return next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())


def _writable(state_dir: Path) -> Check:
    place = _nearest(state_dir)
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            return "state folder", True, f"{state_dir} can be written"
    except OSError as error:
        return "state folder", False, f"{place}: {error.strerror}; set state_dir="


def _space(state_dir: Path) -> Check:
    free = shutil.disk_usage(_nearest(state_dir)).free / 1e9
    return "disk", free >= _MINIMUM_FREE_GB, f"{free:.1f} GB free, at least {_MINIMUM_FREE_GB:g} wanted"


def _process() -> Check:
    """A real training's process: started, accounted by the kernel, and ended at its limit together with its children."""
    with tempfile.TemporaryDirectory() as folder:
        code = (
            "import subprocess,sys; subprocess.Popen([sys.executable,'-S','-c','import time; time.sleep(60)']).wait()"
        )
        result = run(
            [sys.executable, "-S", "-c", code], cwd=Path(folder), log=Path(folder) / "log", timeout_seconds=0.5,
            memory_mb=1000, log_bytes=1000, on_progress=None, cancel=Cancel(),
        )  # fmt: skip
    return "processes", result.timed_out, "a hanging training and its child are ended at the limit"


def _sandbox() -> Check:
    level = sandbox.find()
    if level.name == "none":
        return "sandbox", False, f"edits of the code are refused: {level.reason}"
    plain, jailed = startup_ms()
    return "sandbox", True, f"{level.reason}; a process starts in {jailed:.0f} ms, without it in {plain:.0f}"


def _parent_death() -> Check:
    found = shutil.which("setpriv") is not None
    return (
        "orphans",
        found,
        "trainings die with the controller" if found else "no setpriv: a resume ends what a kill left",
    )


def _terminal() -> Check:
    here = sys.stdin.isatty() and sys.stdout.isatty()
    return "terminal", here, f"{os.cpu_count()} cores" + ("" if here else "; approvals need a terminal, this is none")
