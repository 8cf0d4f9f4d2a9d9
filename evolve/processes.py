"""One bounded process: its own group and session, time, output and memory limits, and the kernel's own accounting.

Nothing here trusts the process. Output goes through pipes that the controller empties, so that a process can neither
fill the disk nor block; whatever is left of its group is killed when its first process ends or its time is over. Code that
was edited runs in a jail besides (`sandbox.py`), and there everything is killed, whatever group or session it made.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from evolve.accounts import Account
from evolve.ports import Cancel
from evolve.sandbox import PROGRESS_FD, Jail
from evolve.types import Usage
from evolve.warm import Fork, Job, WarmLost, WarmServer

_TAIL_BYTES = 4096
_MAX_LINE = 4096
_MAX_LINES = 10_000
_MISSED_SECONDS = 3.0  # between two looks at a process: more than that and we were not there
_LOOK_SECONDS = 0.5  # between two looks at a silent process' memory
_MAXRSS_IN_MB = 1024 if sys.platform == "linux" else 1024 * 1024  # ru_maxrss: kB on Linux, bytes on macOS
_RUN = "EVOLVE_RUN"  # in the environment of all that a run starts: the run's folder
_PASSES = 20  # over all processes, while there are new ones of a run that has ended
_END_SECONDS = 5.0  # that a jail has to end and account for itself, when it is told to
# The environment of a training is an allow-list: no key, no tracker's address, no PYTHONPATH gets through.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE")
# A training frees and allocates the same few MB at every step. By default glibc gives them back to the system in between and
# takes every page's fault again: 5 % of a training, 15 % of a score. The one without the other makes both twice as slow.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}


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
    return env | dict.fromkeys(threads, "1") | python | _MALLOC


class _Log:
    """The head of a stream in a file, its tail in memory, the middle only counted."""

    def __init__(self, path: Path, limit: int, lines: _Lines | None = None) -> None:
        self._file, self._lines = path.open("wb"), lines
        self._room, self._tail, self.dropped = limit, b"", 0

    def write(self, data: bytes) -> None:
        head, rest = data[: self._room], data[self._room :]
        self._file.write(head)
        self._room -= len(head)
        self.dropped += len(rest)
        if self._lines:
            self._lines.feed(data)
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
    warm: WarmServer | None = None,
    account: Path | None = None,
    variables: Mapping[str, str] | None = None,
    on_output: Callable[[bytes], None] | None = None,
) -> Result:
    """Runs `command` to its end, its limit or its cancellation; afterwards no process of its group is left.

    With `warm` it is forked from that server, whose working directory it shares, where it is a command that can be.
    In a `jail` the words of the command are paths as seen inside, `cwd` is `/code` and the limit of memory is the jail's
    own. In the file `account` stands what it has used so far (`accounts.py`). `jail.keep` comes out as the new file `keep`, of
    at most `keep_bytes`; it is there only after exit code 0 and where that file was a regular one. `variables` are added to the
    environment; in a jail its own are. `on_output` gets the lines of the log, as `on_progress` those of the pipe.

    Raises `OSError` where the command cannot be started, the log not written, or the jail not set up; `BadInput` where
    there is no sandbox here; `WarmLost` where the server died, so that it has to be run again. Called from worker threads.
    """
    sink = _Log(log, log_bytes, _Lines(on_output) if on_output else None)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(sink.close)
        books = Account(account) if account else None
        if books:
            cleanup.callback(books.close)
        pipes = cleanup.enter_context(_Pipes())
        cleanup.callback(cancel.finished)  # before the pipe that it wakes us by is closed
        wake_read, wake_write = pipes.new()
        job = Job.of(command) if jail is None else None
        if jail is None:
            plan = _plain(command, cwd, log.parent, pipes, on_progress, variables or {})
        else:
            plan = _jailed(command, jail, pipes, keep, keep_bytes, on_progress, on_audit)
        cleanup.callback(plan.clean)
        out_read, out_write = pipes.new()
        fork = (
            warm.fork(job, environment() | dict(variables or {}) | {_RUN: str(log.parent)}, out_write, plan.theirs[0])
            if warm and job
            else None
        )
        started = time.monotonic()  # a server's imports are not this process' time
        process = _Forked(warm, fork) if warm and fork else _Child(plan, out_write)
        cleanup.callback(process.close)
        if jail is None:
            cleanup.callback(_end_daemons, log.parent)
        cleanup.callback(_kill_group, process.pid)
        pipes.close(out_write, *plan.theirs)
        reader = _Reader(process.pid, out_read, plan.lines, wake_read, sink, plan.end, books)
        (log.parent / "pid").write_text(f"{process.pid} {start_time(process.pid)}")
        if memory_mb is not None and jail is None:
            _limit_memory(process.pid, memory_mb)
        cancel.subscribe(lambda: _poke(wake_write))
        end = reader.pump(started + timeout_seconds, cancel)
        _kill_group(process.pid)  # before the number can belong to another
        exit_code, usage = process.reap(started, reader.peak_kb)
        reader.drain()
        result = Result(exit_code, usage, end == "timeout", end == "cancelled", sink.tail())
        result = plan.account(result)
        if books:
            books.over(result.usage)
        return result


class _Pipes:
    """Descriptors that are closed at the end, unless they were before."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(*self._open)

    def new(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open.extend(ends)
        return ends

    def add(self, fd: int) -> int:
        self._open.append(fd)
        return fd

    def close(self, *fds: int) -> None:
        for fd in fds:
            self._open.remove(fd)
            os.close(fd)


@dataclass(frozen=True)
class _Plan:
    """How to start a process, read its lines, end it, and what its end means."""

    words: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    theirs: Sequence[int]  # descriptors that it inherits, and that are closed here once it runs
    lines: Mapping[int, _Lines]
    end: Callable[[int], None]  # ends the process and all that it made
    account: Callable[[Result], Result]
    clean: Callable[[], None]


class _Child:
    """A process that we have started ourselves."""

    def __init__(self, plan: _Plan, out: int) -> None:
        self._floor_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._process = subprocess.Popen(
            plan.words,
            cwd=plan.cwd,
            env=plan.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=plan.theirs,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def reap(self, started: float, seen_kb: int) -> tuple[int, Usage]:
        """Exit code and the kernel's counts of the process and its waited-for children.

        The kernel's peak of memory contains what the controller itself had reached (`_floor_kb`) when it made the process:
        it is exact only above that, and below it what was seen while the process ran is nearer.
        """
        _, status, used = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        peak = used.ru_maxrss if used.ru_maxrss > self._floor_kb or not seen_kb else seen_kb
        usage = Usage(used.ru_utime + used.ru_stime, time.monotonic() - started, peak / _MAXRSS_IN_MB)
        return self._process.returncode, usage

    def close(self) -> None:
        pass


class _Forked:
    """A process that the warm server has forked; what the imports would have cost is in its usage."""

    def __init__(self, server: WarmServer, fork: Fork) -> None:
        self._server, self._fork, self.pid = server, fork, fork.pid

    def reap(self, started: float, seen_kb: int) -> tuple[int, Usage]:
        """As a child's; the peak of memory contains the server's pages that it shares, as a cold start's has its own."""
        try:
            status, cpu_seconds, peak = self._fork.reap()
        except WarmLost as error:
            self._server.lost(self._fork.line, str(error))
            raise
        wall_seconds = time.monotonic() - started
        usage = Usage(cpu_seconds, wall_seconds, peak / _MAXRSS_IN_MB, self._server.saved_seconds)
        return os.waitstatus_to_exitcode(status), usage

    def close(self) -> None:
        self._fork.close()


def _plain(
    command: Sequence[str], cwd: Path, folder: Path, pipes: _Pipes, on_progress: Callable[[bytes], None] | None,
    variables: Mapping[str, str],
) -> _Plan:  # fmt: skip
    progress_read, progress_write = pipes.new()
    env = environment() | dict(variables) | {PROGRESS_FD: str(progress_write), _RUN: str(folder)}
    lines = {progress_read: _Lines(on_progress)}
    words = [*die_with_parent(), *command]
    return _Plan(words, cwd, env, [progress_write], lines, _kill_group, lambda result: result, lambda: None)


def _jailed(
    command: Sequence[str],
    jail: Jail,
    pipes: _Pipes,
    keep: Path | None,
    keep_bytes: int,
    on_progress: Callable[[bytes], None] | None,
    on_audit: Callable[[bytes], None] | None,
) -> _Plan:
    progress_read, progress_write = pipes.new()
    report_read, report_write = pipes.new()
    stop_read, stop_write = pipes.new()
    lines, audit_write, keep_fd = {progress_read: _Lines(on_progress)}, None, None
    if jail.audit:
        audit_read, audit_write = pipes.new()
        lines[audit_read] = _Lines(on_audit)
    if jail.keep is not None and keep is not None:
        keep_fd = pipes.add(sandbox.open_keep(keep))
    warden = _Warden(report_read, stop_write, keep if keep_fd is not None else None)
    fds = sandbox.Descriptors(report_write, stop_read, progress_write, audit_write, keep_fd, keep_bytes)
    try:
        words = sandbox.arguments(jail, command, environment(), fds)
    except BaseException:
        warden.clean()
        raise
    # This is bubblewrap's own environment, by which `kill_leftover` knows it; the jail's is in the words.
    env = {PROGRESS_FD: str(progress_write)}
    return _Plan(words, Path("/"), env, fds.all, lines, warden.end, warden.account, warden.clean)


class _Warden:
    """The controller's side of one jail: ends it so that the kernel's counts survive, and reads how it ended."""

    def __init__(self, report: int, stop: int, keep: Path | None) -> None:
        self._report, self._stop, self._keep = report, stop, keep
        self._came_out = False
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

    def account(self, result: Result) -> Result:
        """The result with the jail's own exit code, usage and broken rule, when every process of it is dead.

        Raises `OSError` where the jail was never set up, or the controller's disk did not take the file.
        """
        os.set_blocking(self._report, False)
        try:
            ready, ended = sandbox.read_report(os.read(self._report, 65536))
        except BlockingIOError:  # some process still holds the other end: it never got as far as the launcher
            ready, ended = False, None
        usage = result.usage
        if ended is None:
            if not ready and result.exit_code > 0:
                said = next(iter(result.log_tail.strip().splitlines()[-1:]), f"exit code {result.exit_code}")
                raise OSError(f"The sandbox must be set up, but: {said}; see `evolve doctor`.")
            cpu = max(usage.cpu_seconds, self._counted)
            return dataclasses.replace(result, usage=dataclasses.replace(usage, cpu_seconds=cpu))
        if ended.trouble:
            raise OSError(f"The weights must come out of the sandbox, but {ended.trouble}; free some disk space.")
        self._came_out = ended.kept
        usage = Usage(max(usage.cpu_seconds, ended.cpu_seconds), usage.wall_seconds, ended.peak_kb / 1024)
        code = os.waitstatus_to_exitcode(ended.status)
        return dataclasses.replace(result, exit_code=code, usage=usage, killed_for=ended.killed_for)

    def clean(self) -> None:
        """Where no file came out there is none."""
        if self._keep is not None and not self._came_out:
            self._keep.unlink(missing_ok=True)


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
        self, pid: int, out: int, lines: Mapping[int, _Lines], wake: int, log: _Log, end: Callable[[int], None],
        books: Account | None,
    ) -> None:  # fmt: skip
        self._pid, self._out, self._lines, self._wake, self._log, self._end = pid, out, lines, wake, log, end
        self._books = books
        self.peak_kb = 0  # largest resident size seen while it ran
        for fd in (out, *lines):
            os.set_blocking(fd, False)

    def pump(self, deadline: float, cancel: Cancel) -> str:
        """Until the first process has ended; ends it and all others at the deadline or at a cancellation."""
        with selectors.DefaultSelector() as selector, _watch(self._pid) as watched:
            for fd in (self._out, *self._lines, self._wake, *watched):
                selector.register(fd, selectors.EVENT_READ)
            while True:
                looked = time.monotonic()
                self.peak_kb = max(self.peak_kb, _high_water_kb(self._pid))
                if self._books:
                    self._books.look(self._pid)
                left = 0.0 if cancel.requested else max(0.0, deadline - looked)
                # Its end is looked at before its deadline: it may have ended in time, and we come late.
                for key, _ in selector.select(min(left, _LOOK_SECONDS if watched else 0.05)):
                    fd = key.fd
                    if fd in watched:
                        return "ended"
                    if fd in (self._out, *self._lines) and not self._read(fd):
                        selector.unregister(fd)
                if not watched and os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return "ended"
                missed = time.monotonic() - looked
                if missed > _MISSED_SECONDS:  # we were stopped or asleep, and it may have been too
                    deadline += missed
                if cancel.requested or time.monotonic() >= deadline:
                    self._end(self._pid)
                    return "cancelled" if cancel.requested else "timeout"

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


def die_with_parent() -> list[str]:
    """A prefix that ties a process' life to the controller's, where the system has one (util-linux)."""
    tool = shutil.which("setpriv")
    return [tool, "--pdeathsig", "KILL", "--"] if tool else []


def _limit_memory(pid: int, memory_mb: int) -> None:
    if sys.platform == "linux":
        limit = memory_mb * 1024 * 1024
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


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


def _end_daemons(folder: Path) -> None:
    """Kills what has left the group and session of the run in `folder`, wherever it is now: its environment says so.

    Code that hides even that is none of the subject's own; edited code runs in a jail, which nothing leaves.
    """
    mark = f"{_RUN}={folder}\0".encode()
    for _ in range(_PASSES):
        found = False
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():  # a dead one that nobody has waited for has none
                    os.kill(int(entry.name), signal.SIGKILL)
                    found = True
        if not found:
            return


def _poke(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, b"x")


def start_time(pid: int) -> str:
    """A process' start in clock ticks since boot: with the pid it names one process for good. '0' where unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[19].decode()
    except (OSError, IndexError):
        return "0"


def leftover(folder: Path) -> int | None:
    """The group (its first process' id) that a former controller started in `folder`, if that very group is still there.

    The first process may have died with the controller and left children, so that they are looked for as well.
    """
    try:
        pid, start = (int(word) for word in (folder / "pid").read_text().split())
    except (OSError, ValueError):
        return None
    first = int(start_time(pid))
    if not start or (first and first != start) or not (first or _has_children_of_ours(pid, start)):
        return None
    return pid


def kill_leftover(folder: Path) -> bool:
    """Kills that group, and what has left it; whether there was one."""
    if (folder / "pid").exists():
        _end_daemons(folder)
    if (group := leftover(folder)) is None:
        return False
    _kill_group(group)
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
