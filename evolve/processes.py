"""One bounded process: its own group and session, time, output and memory limits, and the kernel's own accounting.

Nothing here trusts the process. Output goes through pipes that the controller empties, so that a process can neither
fill the disk nor block; whatever is left of its group is killed when its first process ends or its time is over. Code that
was edited runs in a jail besides (`sandbox.py`), and there everything is killed, whatever group or session it made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve import sandbox
from evolve.ports import Cancel
from evolve.sandbox import AUDIT_FD, PROGRESS_FD, Jail
from evolve.types import Usage

_TAIL_BYTES = 4096
_MAX_LINE = 4096
_MAX_LINES = 10_000
_LOOK_SECONDS = 0.5  # between two looks at a silent process' memory
_END_SECONDS = 5.0  # that a jail has to end and account for itself, when it is told to
# The environment of a training is an allow-list: no key, no tracker's address, no PYTHONPATH gets through.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE")


@dataclass(frozen=True)
class Result:
    """How a process ended. `exit_code` is negative for a signal, as in `subprocess`.

    `killed_for` names the rule of the jail that it broke, such as "more than 8 processes"; then `exit_code` is -9.
    """

    exit_code: int
    usage: Usage
    timed_out: bool
    cancelled: bool
    log_tail: str
    killed_for: str = ""


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

    def tail(self) -> str:
        return self._tail.decode(errors="replace")

    def close(self) -> str:
        if self.dropped:
            self._file.write(f"\n[{self.dropped} bytes dropped; the end follows]\n".encode() + self._tail)
        self._file.close()
        return self.tail()


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
    jail: Jail | None = None,
    keep: Path | None = None,
    keep_bytes: int = 0,
    on_audit: Callable[[bytes], None] | None = None,
) -> Result:
    """Runs `command` to its end, its limit or its cancellation; afterwards no process of its group is left.

    In a `jail` the words of the command are paths as seen inside, `cwd` is `/code` and the limit of memory is the jail's
    own. `jail.keep` comes out as the new file `keep`, of at most `keep_bytes`, which is also the limit of each file that
    the command writes; `keep` is there only after exit code 0 and where that file was a regular one.

    Raises `OSError` where the command cannot be started, the log not written, or the jail not set up; `BadInput` where
    there is no sandbox here. Called from worker threads.
    """
    sink = _Log(log, log_bytes)
    opened: list[int] = []
    came_out = True  # or `keep` is not ours to remove

    def pipe() -> tuple[int, int]:
        ends = os.pipe()
        opened.extend(ends)
        return ends

    def close(*fds: int) -> None:
        for fd in fds:
            opened.remove(fd)
            os.close(fd)

    process: subprocess.Popen[bytes] | None = None
    started, floor_kb = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        wake_read, wake_write = pipe()
        progress_read, progress_write = pipe()
        lines = {progress_read: _Lines(on_progress)}
        theirs = [progress_write]
        warden = None
        if jail is None:
            words = [*_die_with_parent(), *command]
            env = environment() | {PROGRESS_FD: str(progress_write)}
        else:
            report_read, report_write = pipe()
            stop_read, stop_write = pipe()
            audit_write = keep_fd = None
            if jail.audit:
                audit_read, audit_write = pipe()
                lines[audit_read] = _Lines(on_audit)
            if jail.keep is not None and keep is not None:
                keep_fd = sandbox.open_keep(keep)
                came_out = False
                opened.append(keep_fd)
            fds = sandbox.Descriptors(report_write, stop_read, progress_write, audit_write, keep_fd, keep_bytes)
            words = sandbox.arguments(jail, command, environment(), fds)
            # Of bubblewrap itself; by the names `kill_leftover` knows it.
            env = {PROGRESS_FD: str(progress_write)} | ({} if audit_write is None else {AUDIT_FD: str(audit_write)})
            theirs, warden = [*fds.all], _Warden(report_read, stop_write)
        process = subprocess.Popen(
            words,
            cwd=cwd if jail is None else "/",
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=theirs,
            start_new_session=True,
        )
        close(*theirs)
        pid = process.pid
        assert process.stdout is not None
        end_it = functools.partial(_kill_group, pid) if warden is None else functools.partial(warden.end, pid)
        reader = _Reader(pid, process.stdout.fileno(), lines, wake_read, sink, end_it)
        (log.parent / "pid").write_text(f"{pid} {_start_time(pid)}")
        if memory_mb is not None and jail is None:
            _limit_memory(pid, memory_mb)
        cancel.subscribe(lambda: _poke(wake_write))
        end = reader.pump(started + timeout_seconds, cancel)
        _kill_group(pid)  # before the number can belong to another
        exit_code, usage = _reap(process, started, floor_kb, reader.peak_kb)
        reader.drain()
        killed_for = ""
        if warden is not None:
            exit_code, usage, killed_for, came_out = warden.account(exit_code, usage, sink.tail())
    finally:
        cancel.finished()
        if process is not None:
            _kill_group(process.pid)
            if process.stdout is not None:
                process.stdout.close()
        close(*opened[:])
        if keep is not None and not came_out:
            keep.unlink(missing_ok=True)
        tail = sink.close()
    return Result(exit_code, usage, end == "timeout", end == "cancelled", tail, killed_for)


class _Warden:
    """The controller's side of one jail: ends it so that the kernel's counts survive, and reads how it ended."""

    def __init__(self, report: int, stop: int) -> None:
        self._report, self._stop = report, stop
        self._counted = 0.0  # CPU seconds seen before the launcher had to be killed

    def end(self, outer: int) -> None:
        """Ends every process of the jail and waits for it, at most twice `_END_SECONDS`.

        The launcher is asked first: only it can wait for the others, and what nobody waits for is in no count. Where it
        does not answer, the first process of the namespace is killed, and all others with it by the kernel.
        """
        _poke(self._stop)
        if _ended(outer, _END_SECONDS):
            return
        self._counted = sandbox.cpu_seconds(outer)
        if (first := sandbox.first_process(outer)) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(first, signal.SIGKILL)
        _ended(outer, _END_SECONDS)
        _kill_group(outer)

    def account(self, exit_code: int, usage: Usage, said: str) -> tuple[int, Usage, str, bool]:
        """Exit code, usage, the rule broken and whether a file came out, when every process of the jail is dead.

        Raises `OSError` where the jail was never set up, or the controller's disk did not take the file.
        """
        os.set_blocking(self._report, False)
        try:
            ready, ended = sandbox.read_report(os.read(self._report, 65536))
        except BlockingIOError:  # some process still holds the other end: it never got as far as the launcher
            ready, ended = False, None
        if ended is None:
            if not ready and exit_code > 0:
                line = next(iter(said.strip().splitlines()[-1:]), f"exit code {exit_code}")
                raise OSError(f"The sandbox must be set up, but: {line}; see `evolve doctor`.")
            cpu = max(usage.cpu_seconds, self._counted)
            return exit_code, dataclasses.replace(usage, cpu_seconds=cpu), "", False
        if ended.trouble:
            raise OSError(f"The weights must come out of the sandbox, but {ended.trouble}; free some disk space.")
        cpu = max(usage.cpu_seconds, ended.cpu_seconds)
        counted = Usage(cpu, usage.wall_seconds, ended.peak_kb / 1024)
        return os.waitstatus_to_exitcode(ended.status), counted, ended.killed_for, ended.kept


class _Lines:
    """Lines of a pipe that a process writes what it likes to: too long and too many ones are dropped."""

    def __init__(self, take: Callable[[bytes], None] | None) -> None:
        self._take, self._partial, self._count = take, b"", 0

    def feed(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[:_MAX_LINE]
        for line in lines:
            self._count += 1
            if self._take and len(line) <= _MAX_LINE and self._count <= _MAX_LINES:
                self._take(line)


class _Reader:
    """Empties a process' pipes until it ends."""

    def __init__(
        self, pid: int, out: int, lines: Mapping[int, _Lines], wake: int, log: _Log, end: Callable[[], None]
    ) -> None:
        self._pid, self._out, self._lines, self._wake, self._log, self._end = pid, out, lines, wake, log, end
        self.peak_kb = 0  # largest resident size seen while it ran
        for fd in (out, *lines):
            os.set_blocking(fd, False)

    def pump(self, deadline: float, cancel: Cancel) -> str:
        """Until the first process has ended; ends it and all others at the deadline or at a cancellation."""
        with selectors.DefaultSelector() as selector, _watch(self._pid) as watched:
            for fd in (self._out, *self._lines, self._wake, *watched):
                selector.register(fd, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or cancel.requested:
                    self._end()
                    return "cancelled" if cancel.requested else "timeout"
                self.peak_kb = max(self.peak_kb, _high_water_kb(self._pid))
                for key, _ in selector.select(min(left, _LOOK_SECONDS if watched else 0.05)):
                    fd = key.fd
                    if fd in watched:
                        return "ended"
                    if fd in (self._out, *self._lines) and not self._read(fd):
                        selector.unregister(fd)
                if not watched and os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return "ended"

    def drain(self) -> None:
        """What is still in the pipes. Whoever else holds them open is killed first, and is not waited for."""
        _kill_group(self._pid)
        for fd in (self._out, *self._lines):
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
            self._lines[fd].feed(data)
        return True


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


def _ended(pid: int, seconds: float) -> bool:
    """Whether our child `pid` ends within that time; it stays to be reaped."""
    deadline = time.monotonic() + seconds
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


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
        lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(b"VmHWM:")), 0)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _poke(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, b"x")


def _start_time(pid: int) -> str:
    """A process' start in clock ticks since boot: with the pid it names one process for good. '0' where unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[19].decode()
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
            fields = (entry / "stat").read_bytes().rsplit(b")", 1)[1].split()  # a name can be any bytes
            ours = fields[2] == fields[3] == str(group).encode() and int(fields[19]) >= start
            if ours and f"{PROGRESS_FD}=".encode() in (entry / "environ").read_bytes():
                return True
        except (OSError, IndexError):
            continue
    return False
