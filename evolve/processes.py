"""One bounded process: its own group and session, time, output and memory limits, and the kernel's own accounting.

Nothing here trusts the process. Output goes through pipes that the controller empties, so that a process can neither
fill the disk nor block; whatever is left of its group is killed when its first process ends or its time is over.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve.ports import Cancel
from evolve.types import Usage

PROGRESS_FD = "EVOLVE_PROGRESS_FD"
_TAIL_BYTES = 4096
_MAX_PROGRESS_LINE = 4096
_MAX_PROGRESS_LINES = 10_000
_LOOK_SECONDS = 0.5  # between two looks at a silent process' memory
# The environment of a training is an allow-list: no key, no tracker's address, no PYTHONPATH gets through.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE")


@dataclass(frozen=True)
class Result:
    """How a process ended. `exit_code` is negative for a signal, as in `subprocess`."""

    exit_code: int
    usage: Usage
    timed_out: bool
    cancelled: bool
    log_tail: str


def environment() -> dict[str, str]:
    """What a training or a scorer gets to see of ours: an allow-list, one thread, no bytecode written."""
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    python = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1"}
    return env | dict.fromkeys(threads, "1") | python


class _Log:
    """The head of a stream in a file, its tail in memory, the middle only counted."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = path.open("wb")
        self._room, self._tail, self.dropped = limit, b"", 0

    def write(self, data: bytes) -> None:
        head, rest = data[: self._room], data[self._room :]
        self._file.write(head)
        self._room -= len(head)
        self.dropped += len(rest)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def close(self) -> str:
        if self.dropped:
            self._file.write(f"\n[{self.dropped} bytes dropped; the end follows]\n".encode() + self._tail)
        self._file.close()
        return self._tail.decode(errors="replace")


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    timeout_seconds: float,
    memory_mb: int | None,
    log_bytes: int,
    on_progress: Callable[[bytes], None] | None,
    cancel: Cancel,
) -> Result:
    """Runs `command` to its end, its limit or its cancellation; afterwards no process of its group is left.

    Raises `OSError` where the command cannot be started or the log not written. Called from worker threads.
    """
    sink = _Log(log, log_bytes)
    wake_read, wake_write = os.pipe()
    progress_read, progress_write = os.pipe()
    started, floor_kb = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        process = subprocess.Popen(
            [*_die_with_parent(), *command],
            cwd=cwd,
            env=environment() | {PROGRESS_FD: str(progress_write)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(progress_write,),
            start_new_session=True,
        )
    except BaseException:
        for fd in (wake_read, wake_write, progress_read, progress_write):
            os.close(fd)
        sink.close()
        raise
    os.close(progress_write)
    assert process.stdout is not None
    reader = _Reader(process.pid, process.stdout.fileno(), progress_read, wake_read, sink, on_progress)
    try:
        (log.parent / "pid").write_text(f"{process.pid} {_start_time(process.pid)}")
        if memory_mb is not None:
            _limit_memory(process.pid, memory_mb)
        cancel.subscribe(lambda: _poke(wake_write))
        end = reader.pump(started + timeout_seconds, cancel)
        _kill_group(process.pid)  # before the number can belong to another
        exit_code, usage = _reap(process, started, floor_kb, reader.peak_kb)
        reader.drain()
    finally:
        cancel.finished()
        _kill_group(process.pid)
        process.stdout.close()
        for fd in (wake_read, wake_write, progress_read):
            os.close(fd)
        tail = sink.close()
    return Result(exit_code, usage, end == "timeout", end == "cancelled", tail)


class _Reader:
    """Empties a process' two pipes until it ends."""

    def __init__(
        self, pid: int, out: int, progress: int, wake: int, log: _Log, on_progress: Callable[[bytes], None] | None
    ) -> None:
        self._pid, self._out, self._progress, self._wake = pid, out, progress, wake
        self._log, self._on_progress = log, on_progress
        self._partial, self._lines = b"", 0
        self.peak_kb = 0  # largest resident size seen while it ran
        for fd in (out, progress):
            os.set_blocking(fd, False)

    def pump(self, deadline: float, cancel: Cancel) -> str:
        """Until the first process of the group has ended; kills the group at the deadline or at a cancellation."""
        with selectors.DefaultSelector() as selector, _watch(self._pid) as watched:
            for fd in (self._out, self._progress, self._wake, *watched):
                selector.register(fd, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or cancel.requested:
                    _kill_group(self._pid)
                    return "cancelled" if cancel.requested else "timeout"
                self.peak_kb = max(self.peak_kb, _high_water_kb(self._pid))
                for key, _ in selector.select(min(left, _LOOK_SECONDS if watched else 0.05)):
                    fd = key.fd
                    if fd in watched:
                        return "ended"
                    if fd in (self._out, self._progress) and not self._read(fd):
                        selector.unregister(fd)
                if not watched and os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return "ended"

    def drain(self) -> None:
        """What is still in the pipes. Whoever else holds them open is killed first, and is not waited for."""
        _kill_group(self._pid)
        for fd in (self._out, self._progress):
            for _ in range(1000):  # a pipe holds 64 kB; a survivor that goes on writing must not keep us here
                if not self._read(fd):
                    break

    def _read(self, fd: int) -> bool:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return False
        if not data:
            return False
        if fd == self._out:
            self._log.write(data)
        else:
            self._take_progress(data)
        return True

    def _take_progress(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[:_MAX_PROGRESS_LINE]
        for line in lines:
            self._lines += 1
            if self._on_progress and len(line) <= _MAX_PROGRESS_LINE and self._lines <= _MAX_PROGRESS_LINES:
                self._on_progress(line)


@contextlib.contextmanager
def _watch(pid: int):  # type: ignore[no-untyped-def]
    """A descriptor that becomes readable when `pid` ends; empty where the system has none (macOS: we look at 20 Hz)."""
    if not hasattr(os, "pidfd_open"):
        yield ()
        return
    fd = os.pidfd_open(pid)
    try:
        yield (fd,)
    finally:
        os.close(fd)


def _die_with_parent() -> list[str]:
    """A prefix that ties a process' life to the controller's, where the system has one (util-linux)."""
    tool = shutil.which("setpriv")
    return [tool, "--pdeathsig", "KILL", "--"] if tool else []


def _limit_memory(pid: int, memory_mb: int) -> None:
    if sys.platform == "linux":
        limit = memory_mb * 1024 * 1024
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _reap(process: subprocess.Popen[bytes], started: float, floor_kb: int, seen_kb: int) -> tuple[int, Usage]:
    """Exit code and the kernel's counts of the process and its waited-for children.

    The kernel's peak of memory contains what the controller itself had reached (`floor_kb`) when it made the process: it
    is exact only above that, and below it what was seen while the process ran is nearer.
    """
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = used.ru_maxrss if used.ru_maxrss > floor_kb or not seen_kb else seen_kb
    scale = 1024 if sys.platform == "linux" else 1024 * 1024  # ru_maxrss: kB on Linux, bytes on macOS
    usage = Usage(used.ru_utime + used.ru_stime, time.monotonic() - started, peak / scale)
    return process.returncode, usage


def _high_water_kb(pid: int) -> int:
    """The largest resident size of a running process so far, in kB; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _poke(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, b"x")


def _start_time(pid: int) -> str:
    """A process' start in clock ticks since boot: with the pid it names one process for good. '0' where unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return "0"


def kill_leftover(folder: Path) -> bool:
    """Kills the group that a former controller started in `folder`, if that very group is still there.

    The first process may have died with the controller and left children, so that they are looked for as well.
    """
    try:
        pid, start = (int(word) for word in (folder / "pid").read_text().split())
    except (OSError, ValueError):
        return False
    first = int(_start_time(pid))
    if not start or (first and first != start) or not (first or _has_children_of_ours(pid, start)):
        return False
    _kill_group(pid)
    return True


def _has_children_of_ours(group: int, start: int) -> bool:
    """Whether a process of the session `group`, begun since `start`, has the environment of a training or a scorer.

    A process id is not given out again while its group lives, but it is afterwards: hence the environment.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            ours = fields[2] == fields[3] == str(group) and int(fields[19]) >= start
            if ours and f"{PROGRESS_FD}=".encode() in (entry / "environ").read_bytes():
                return True
        except (OSError, IndexError):
            continue
    return False
