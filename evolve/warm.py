"""The controller's side of a warm server: a process that has imported what a subject's YAML names and forks from there.

A fresh Python that imports torch takes 2 to 3 seconds; a fork of one that has takes a few milliseconds. Only the campaign's
own, pristine sources run in it: a training of an edited harness starts cold, in its jail (`sandbox.py`). Trainings and scores
have a server each. The program is `inside/serve.py`; `processes.py` runs what is forked like any other process.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SERVER = Path(__file__).parent / "inside" / "serve.py"
_STARTS = 4
_READY_SECONDS = 60.0  # for the imports, on a busy machine
_ANSWER_SECONDS = 10.0  # for a fork, and for the counts of a dead process
_AS_WE_ARE = {"-B", "-u"}  # options of Python that say what the environment of every training says anyhow


class WarmLost(Exception):
    """The server has died, and all that it had forked with it. Never leaves `executors.py`."""


@dataclass(frozen=True)
class Job:
    """A command as a forked process runs it: `python -m MODULE` or `python SCRIPT`, with the arguments behind."""

    argv: tuple[str, ...]
    module: str = ""

    @classmethod
    def of(cls, command: Sequence[str]) -> Job | None:
        """None where the command is not this Python, or asks for one that is started otherwise.

        >>> Job.of([sys.executable, "-m", "train.run", "--out", "o"])
        Job(argv=('-m', '--out', 'o'), module='train.run')
        >>> Job.of([sys.executable, "-S", "train.py"]) is None
        True
        """
        words = list(command)
        if not words or words.pop(0) != sys.executable:
            return None
        while words and words[0] in _AS_WE_ARE:
            words.pop(0)
        if words[:1] == ["-m"] and len(words) > 1:
            return cls(("-m", *words[2:]), words[1])
        return cls(tuple(words)) if words and not words[0].startswith("-") else None

    def message(self, environment: Mapping[str, str]) -> bytes:
        what = {"module": self.module} if self.module else {"script": self.argv[0]}
        return json.dumps(what | {"argv": self.argv, "env": dict(environment)}).encode()


class Fork:
    """One forked process: a session of its own, whose parent is the server."""

    def __init__(self, control: socket.socket, line: socket.socket) -> None:
        self._control = control
        self.line = line  # of the server that made it
        self.pid = 0

    def begin(self) -> None:
        try:
            self.pid = int(_answer(self._control))
        except ValueError as error:
            raise WarmLost("a forked process said something else than its number") from error

    def reap(self) -> tuple[int, float, int]:
        """Wait status, CPU seconds and peak resident size (as in `rusage`) of the dead process. Raises `WarmLost`."""
        try:
            self._control.send(b"x")
            counts = json.loads(_answer(self._control))
            return int(counts["status"]), float(counts["cpu"]), int(counts["maxrss"])
        except (OSError, ValueError, KeyError) as error:
            raise WarmLost(f"its end was not reported: {error}") from error

    def close(self) -> None:
        """Where it still runs, the server ends it."""
        self._control.close()


class WarmServer:
    """Imports in the background from the start, and ends with the thread that made it, or by `close`.

    Where it dies it is started again, `_STARTS` times in all; where the imports fail, or it has died too often, everything
    starts cold, and `warn` gets one line. Its socket is one end of a pair that nobody else inherits.

    Args:
        prefix: words before the command that tie its life to ours (`processes.die_with_parent`).
    """

    def __init__(
        self,
        modules: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        prefix: Sequence[str],
        warn: Callable[[str], None],
    ) -> None:
        self._modules, self._cwd, self._environment, self._prefix = modules, cwd, environment, prefix
        self._warn = warn
        self._lock = threading.RLock()
        self._left = _STARTS
        self._is_ready: bool | None = None  # not known yet
        self.saved_seconds = 0.0  # CPU of a start, these imports and an end, by its own account
        self._start()

    def _start(self) -> None:
        self._left -= 1
        self._is_ready = None
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "-B", str(_SERVER), str(theirs.fileno()), str(self._cwd), *self._modules],
                env=dict(self._environment), pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> bool:
        """Whether jobs can be sent; waits for the imports."""
        with self._lock:
            if self._is_ready is None:
                try:
                    said = json.loads(_answer(self._line, _READY_SECONDS))
                    self._is_ready = "error" not in said
                    self.saved_seconds = float(said.get("cpu", 0.0))
                    if "error" in said:
                        self._left = 0
                        self._give_up(str(said["error"]))
                except (WarmLost, ValueError) as error:
                    self._lost(str(error))
                    return self.ready()
            return self._is_ready

    def fork(self, job: Job, environment: Mapping[str, str], out: int, progress: int) -> Fork | None:
        """A new process that runs `job`, with copies of the two descriptors; None where it has to start cold."""
        while self.ready():
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            line = self._line
            fork = Fork(ours, line)
            try:
                with theirs, self._lock:
                    socket.send_fds(line, [job.message(environment)], [out, progress, theirs.fileno()])
                fork.begin()
                return fork
            except (
                OSError,
                WarmLost,
            ) as error:  # where it had begun all the same, it ends with its server or its socket
                fork.close()
                self.lost(line, str(error))
        return None

    def lost(self, line: socket.socket, reason: str) -> None:
        """Takes note, once, that the server on the other end of `line` has died."""
        with self._lock:
            if line is self._line and self._is_ready:
                self._lost(reason)

    def _lost(self, reason: str) -> None:
        self.close()
        if self._left:
            self._start()
        else:
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        self._is_ready = False
        self._warn(f"no warm starts, each training imports {', '.join(self._modules)} by itself: {reason}")

    def close(self) -> None:
        """Ends the server and all that it has forked, and waits for that."""
        self._line.close()
        try:
            self._process.wait(_ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _answer(line: socket.socket, seconds: float = _ANSWER_SECONDS) -> bytes:
    """The next message. Raises `WarmLost` where none comes."""
    watch = select.poll()
    watch.register(line, select.POLLIN)
    if not watch.poll(seconds * 1000):  # no `settimeout`: it would change the socket for all who use it
        raise WarmLost(f"the server did not answer within {seconds:g} s")
    try:
        data = line.recv(65536)
    except OSError as error:
        raise WarmLost(f"the server is gone: {error}") from error
    if not data:
        raise WarmLost("the server is gone")
    return data
