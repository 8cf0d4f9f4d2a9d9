"""MLflow out of the controller: the tracker and the registry as processes of their own (`tracker.py`).

MLflow's Python work for a trial, and its 200 MB, would be the controller's otherwise. A controller never imports it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evolve.errors import TrackingFailed
from evolve.state import State
from evolve.tracking_page import plain
from evolve.types import Record

_STARTS = 4
_CLOSE_SECONDS = 10.0
_LINE_BYTES = 1 << 20  # of a pipe: a resume says a hundred thousand numbers before the child has imported anything


def _command(prefix: Sequence[str], what: str, folder: Path) -> list[str]:
    # -P: no module of the folder that a person happens to stand in. What may be secret is never a word of a command.
    return [*prefix, sys.executable, "-P", "-m", "evolve.tracker", what, str(folder)]


def _environment() -> dict[str, str]:
    """Ours, keys of MLflow's included, and where this very package is found."""
    place = str(Path(__file__).parents[1])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (place, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


class TrackerProcess:
    """`ports.Tracker` whose work is done by a child, which follows the journal of `folder` by itself.

    Here are numbers alone: `record` says how far the journal is written, in microseconds, and never waits. The child is
    started by the first record, in a session of its own (a Ctrl-C at the terminal is not for it), and `_STARTS` times at most,
    where it dies; then `warn` gets one line. `warn` is called by `record`, `flush` and `close`. One thread uses this.

    Args:
        prefix: words before the command that tie the child's life to ours (`processes.die_with_parent`).
    """

    def __init__(
        self,
        uri: str,
        folder: Path,
        *,
        warn: Callable[[str], None],
        artifacts: Path | str | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._settings = {"uri": uri, "artifacts": None if artifacts is None else str(artifacts)}
        self._folder, self._warn, self._prefix = folder, warn, prefix
        self._child: subprocess.Popen[bytes] | None = None
        self._left = _STARTS
        self._closing = False
        self._rest = b""
        self._failed = ""  # the last word of a child that gave up
        self._recorded = self._carried = 0
        self._turn = self._held = 0  # of `flush`: the latest, and the latest that met a failing store

    @property
    def pid(self) -> int | None:
        """The child's, where one runs."""
        return None if self._child is None else self._child.pid

    def record(self, record: Record) -> None:
        """Takes note of one event; one seen before changes nothing."""
        if record.seq > self._recorded:
            self._recorded = record.seq
            self._hear()
            self._say(str(self._recorded))

    def flush(self, timeout_seconds: float) -> int:
        """Waits until all is carried over, the store fails (again), or the time is up; returns the backlog."""
        deadline = time.monotonic() + timeout_seconds
        self._turn += 1
        asked: subprocess.Popen[bytes] | None = None
        while True:
            self._hear()
            if self._carried >= self._recorded or self._held == self._turn:
                break
            if asked is None or asked is not self._child:
                if not self._say(f"{self._recorded} {self._turn}"):
                    break
                asked = self._child
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if self._child is not None and self._child.stdout is not None:
                select.select([self._child.stdout], [], [], left)
        return max(0, self._recorded - self._carried)

    def close(self) -> None:
        """Ends the child after the event in hand; what is left is carried over by the next tracker or `evolve sync`."""
        self._left, self._closing = 0, True
        child = self._child
        if child is None or child.stdin is None:
            return
        child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_CLOSE_SECONDS)
        self._hear()
        self._end()

    # ------------------------------------------------ the child

    def _start(self) -> bool:
        """Whether a child runs now."""
        if self._child is None and self._left:
            self._left -= 1
            try:
                self._child = subprocess.Popen(
                    _command(self._prefix, "carry", self._folder), env=_environment(), start_new_session=True, bufsize=0,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            except OSError as error:
                self._gone(str(error))
                return False
            stdin, stdout = self._child.stdin, self._child.stdout
            assert stdin is not None and stdout is not None
            for pipe in (stdin, stdout):
                os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(OSError, AttributeError):  # Linux; a small pipe serves too
                fcntl.fcntl(stdin, fcntl.F_SETPIPE_SZ, _LINE_BYTES)
            stdin.write(json.dumps(self._settings).encode() + b"\n")
        return self._child is not None

    def _say(self, line: str) -> bool:
        """False where nobody is there to hear it. Where the pipe is full it is not said: the next number says it too."""
        while self._start():
            assert self._child is not None and self._child.stdin is not None
            try:
                self._child.stdin.write(line.encode() + b"\n")
                return True
            except OSError:
                self._hear()  # its last words
                self._end()
        return False

    def _hear(self) -> None:
        while self._child is not None and self._child.stdout is not None:
            try:
                data = self._child.stdout.read(65536)
            except OSError:
                data = b""
            if data is None:
                return
            if not data:
                self._end()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        said: dict[str, Any] = json.loads(line)
        self._carried = max(self._carried, said.get("carried", 0))
        self._held = max(self._held, said.get("turn", 0))
        self._failed = said.get("failed", self._failed)
        if "warn" in said:
            self._warn(said["warn"])

    def _end(self) -> None:
        """Of the child, which has closed its line or must not go on."""
        child, self._child, self._rest = self._child, None, b""
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._gone(self._failed or f"exit code {code}")

    def _gone(self, reason: str) -> None:
        if not self._left and not self._closing:
            self._warn(
                f"The tracker's process must run, but it has ended {_STARTS} times, the last time with {plain(reason, 300)};"
                " the campaign goes on, `evolve sync` carries the rest over."
            )


class RegistryProcess:
    """`ports.Registry` whose work is done by a child, from the journal as it is by then."""

    def __init__(self, uri: str, folder: Path, *, prefix: Sequence[str] = ()) -> None:
        self._uri, self._folder, self._prefix = uri, folder, prefix

    def sync(self, state: State, *, check: bool = False) -> list[str]:
        """Makes the registry say what the journal says. `state` is only looked at: without a promotion no child is started."""
        if not state.promotions:
            return []
        done = subprocess.run(
            _command(self._prefix, "register", self._folder), env=_environment(), start_new_session=True, check=False,
            input=json.dumps({"uri": self._uri, "check": check}).encode() + b"\n",
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            said: dict[str, Any] = json.loads(done.stdout)
            if "lines" in said:
                return list(said["lines"])
            reason = str(said["failed"])
        except (ValueError, KeyError):
            reason = (
                f"The registry's process must answer, but ended with exit code {done.returncode}; run `evolve sync`."
            )
        raise TrackingFailed(reason)
