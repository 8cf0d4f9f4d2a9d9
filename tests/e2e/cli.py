"""evolve as a person uses it: the real command in a process of its own, in a folder of its own, also at a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "evolve.cli"]
SMALL_GATE = ("gate=cheap", "gate.baseline_seeds=4", "gate.max_seeds=4")  # so that a campaign of tests takes seconds
QUADRATIC = ("subject=quadratic", "tracking=none", *SMALL_GATE)
SECRET = "5e" * 32
PATIENCE = 60.0  # seconds; only a failing test waits so long

TRAIN = '["{python}","-S","-E","-B","train/quadratic/bench.py","--config","{config}","--out","{out}"]'
SCORE = '["{python}","-S","-E","-B","evals/quadratic/bench.py","--config","{config}","--out","{out}"]'


def wait_for(what: Callable[[], Any], why: str) -> Any:
    """The first true answer of `what`, asked again and again."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := what()):
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s in vain: {why}"
        time.sleep(0.01)
    return answer


def bench_subject(root: Path) -> tuple[str, ...]:
    """Makes a variant of the quadratic subject under `root` that can misbehave, and returns the overrides for it."""
    for part in ("train/quadratic", "evals/quadratic"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    bench = Path(__file__).parent / "bench"
    shutil.copy(bench / "train.py", root / "train/quadratic/bench.py")
    shutil.copy(bench / "score.py", root / "evals/quadratic/bench.py")
    return (*QUADRATIC, f"subject.root={root}", f"subject.train_cmd={TRAIN}", f"subject.score_cmd={SCORE}")


def faults(names: list[str], default: str = "none") -> tuple[str, ...]:
    """Overrides that leave `fault` as the only parameter, each value of which is tried once."""
    choices = ", ".join(dict.fromkeys([default, *names]))
    removed = (f"~subject.space.{name}" for name in ("x", "y", "size", "mode", "z"))
    return (
        *removed,
        f"+subject.space.fault={{type: categorical, choices: [{choices}], default: {default}}}",
        "proposer=random",
    )


class Evolve:
    """Runs commands in one folder, with the environment of the tests and what is given on top."""

    def __init__(self, cwd: Path, **env: str) -> None:
        self.cwd = cwd
        self.started: list[subprocess.Popen[Any]] = []
        self.env = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": str(ROOT)} | env

    def raw(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"cwd": self.cwd, "env": self.env, "stdin": subprocess.DEVNULL, "timeout": 120} | options
        return subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, **options)

    def __call__(self, *words: str, code: int = 0, **options: Any) -> str:
        """Standard output of a command that must end with `code`."""
        done = self.raw(*words, **options)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def refuses(self, *words: str, code: int = 2, **options: Any) -> str:
        """The one line on standard error of a command that must fail with `code`."""
        done = self.raw(*words, **options)
        lines = done.stderr.splitlines()
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert len(lines) == 1, f"not one line:\n{done.stderr}"
        assert lines[0].startswith("evolve: ")
        return lines[0]

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """A command in the background, its output in one pipe."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen([*COMMAND, *words], cwd=self.cwd, env=self.env, text=True, **(pipes | options))
        self.started.append(process)
        return process

    def end(self) -> None:
        """Nothing that a failing test began is left behind."""
        for process in self.started:
            process.kill()
            process.wait()
        for pid in processes_of(self.cwd):
            os.kill(pid, signal.SIGKILL)

    # ------------------------------------------------ what is there

    def status(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("status", "--json", *words))
        return found

    def events(self, kind: str | None = None, *words: str) -> list[dict[str, Any]]:
        """The journal's events as the CLI prints them; of one type only their data."""
        lines = [json.loads(line) for line in self("log", "--json", *words).splitlines()]
        return [line["data"] for line in lines if line["type"] == kind] if kind else lines

    def stable(self, *words: str) -> str:
        return self("log", "--json", "--stable", *words)

    def folder(self, campaign: str, state: str = ".evolve") -> Path:
        return self.cwd / state / "campaigns" / campaign

    def lines(self, campaign: str) -> list[dict[str, Any]]:
        """The journal's whole lines, read without a process: for polling a live run."""
        path = self.folder(campaign) / "journal.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def seen(self, campaign: str, kind: str) -> list[dict[str, Any]]:
        return [line["data"] for line in self.lines(campaign) if line["type"] == kind]


def processes_of(folder: Path) -> list[int]:
    """Living processes that were started for a campaign: their command lines name its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                zombie = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
            except OSError:
                continue
            if os.fsencode(f"{folder}/") in command and not zombie:
                found.append(int(entry.name))
    return found


class Terminal:
    """A command at a pseudo-terminal, with a person who waits for a prompt before typing. Without colour unless TERM is given."""

    def __init__(self, evolve: Evolve, command: list[str], stdin: Any = None, **env: str) -> None:
        self._master, slave = pty.openpty()
        self.screen, self._read_to = "", 0
        self.process = subprocess.Popen(
            command, cwd=evolve.cwd, env=evolve.env | {"TERM": "dumb"} | env, stdin=slave if stdin is None else stdin,
            stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        evolve.started.append(self.process)
        os.close(slave)

    def _pump(self) -> bool:
        if not select.select([self._master], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed
            return False
        self.screen += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)

    def expect(self, text: str) -> None:
        """Waits until `text` is on the screen, behind what was waited for before."""
        deadline = time.monotonic() + PATIENCE
        while (at := self.screen.find(text, self._read_to)) < 0:
            assert self._pump() and time.monotonic() < deadline, f"{text!r} never came:\n{self.screen}"
        self._read_to = at + len(text)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def answer(self, prompt: str, line: str) -> None:
        self.expect(prompt)
        self.type(line + "\n")

    def close(self, code: int = 0) -> str:
        """Waits for the end; the whole screen."""
        deadline = time.monotonic() + PATIENCE
        while self._pump() and time.monotonic() < deadline:
            pass
        os.close(self._master)
        found = self.process.wait(PATIENCE)
        assert found == code, f"exit code {found}\n{self.screen}"
        assert "Traceback" not in self.screen
        return self.screen


def digits(screen: str) -> str:
    """The first digits of the content that the screen shows: what an approval has to repeat."""
    return next(line.split()[1] for line in screen.splitlines() if line.startswith("content"))[:6]
