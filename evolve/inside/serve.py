"""A server that forks processes which have the slow libraries imported: `python serve.py FD FOLDER MODULE ...`.

A program of its own, on the standard library alone, like its neighbours; unlike them it runs outside of any sandbox, since
it serves the campaign's own, pristine sources (in FOLDER) and nothing else. It imports the named modules, says so on the socket FD
(one end of the controller's pair; nobody else can reach it), and from then on only forks and waits. It never runs anything
of a subject itself: a fork of a process that has done so could hang (OpenMP), or inherit what it left behind.

Each message on FD is a job, `{"module" or "script", "argv", "env"}` with three descriptors: standard output, the pipe for
progress, and a socket of the job's own. There the new process sends its pid, when it is a session of its own; the
controller sends one byte when it has seen that the process has ended, and gets `{"status", "cpu", "maxrss"}`, by the
kernel's wait4: until then the pid cannot belong to another. A socket that is closed before that ends its process. When
FD is closed, or this process dies, all of them end.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Collection
from typing import Any

PROGRESS_FD = "EVOLVE_PROGRESS_FD"
_MESSAGE_BYTES = 65536
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    sys.path.pop(0)  # the folder of this file, which a training would not have there
    line = socket.socket(fileno=int(sys.argv[1]))
    try:
        os.chdir(sys.argv[2])
        for name in sys.argv[3:]:
            importlib.import_module(name)
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError("one of the modules has started a thread, and such a process cannot be forked safely")
    except BaseException as error:  # noqa: BLE001 - a library may do anything when it is imported
        line.send(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}).encode())
        return 1
    cpu_seconds = time.process_time() + end_seconds()
    gc.collect()
    gc.freeze()  # a collection in a child would write into every page that it shares with us
    line.send(json.dumps({"cpu": cpu_seconds}).encode())
    job = serve(line)
    return run(job) if job else 0


def end_seconds() -> float:
    """CPU seconds that an interpreter with these imports takes to end, as after a cold start; what we fork ends at once."""
    pid = os.fork()
    if pid == 0:
        sys.exit()
    _, _, used = os.wait4(pid, 0)
    return used.ru_utime + used.ru_stime


def serve(line: socket.socket) -> dict[str, Any] | None:
    """Forks until `line` is closed. Returns None then, and in each forked process its job."""
    libc = ctypes.CDLL(None)
    libc.prctl(
        _PR_SET_CHILD_SUBREAPER, 1
    )  # whatever leaves the process that made it becomes our child, and ends with that
    me = os.getpid()
    children: dict[socket.socket, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not line:
                    own: socket.socket = key.fileobj  # type: ignore[assignment]
                    selector.unregister(own)
                    settle(own, children.pop(own))
                    end_orphans(children.values())
                    continue
                data, fds, *_ = socket.recv_fds(line, _MESSAGE_BYTES, 3)
                if not data:
                    for own, pid in children.items():
                        settle(own, pid)
                    end_orphans(())
                    return None
                out, progress, control = fds
                own = socket.socket(fileno=control)
                pid = os.fork()
                if pid == 0:
                    os.setsid()
                    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                    if os.getppid() != me:  # it died before that took hold
                        os._exit(1)
                    for other in (*children, line):
                        other.close()
                    job: dict[str, Any] = json.loads(data)
                    begin(job, out, progress)
                    own.send(str(os.getpid()).encode())
                    own.close()
                    return job
                os.close(out)
                os.close(progress)
                children[own] = pid
                selector.register(own, selectors.EVENT_READ)


def settle(own: socket.socket, pid: int) -> None:
    """Ends the process where it has not, takes its counts from the kernel, and tells them to whoever still listens."""
    with contextlib.suppress(OSError):
        own.recv(1)
    for kill in (os.killpg, os.kill):  # it may not have come as far as a group of its own
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    counts = {"status": status, "cpu": used.ru_utime + used.ru_stime, "maxrss": used.ru_maxrss}
    with contextlib.suppress(OSError):
        own.send(json.dumps(counts).encode())
    own.close()


def end_orphans(running: Collection[int]) -> None:
    """Ends all children that are no running job: daemons, which a job has left behind, and what those leave in turn."""
    while orphans := [pid for pid in offspring() if pid not in running]:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def offspring() -> list[int]:
    me, found = str(os.getpid()).encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if file.read().rsplit(b")", 1)[1].split()[1] == me:  # a name can be any bytes
                    found.append(int(name))
    return found


def begin(job: dict[str, Any], out: int, progress: int) -> None:
    """Makes this process look like a fresh one: descriptors, environment, random states."""
    silence = os.open(os.devnull, os.O_RDONLY)
    os.dup2(silence, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for fd in (silence, out):
        os.close(fd)
    os.set_inheritable(progress, True)  # as after a start with `pass_fds`
    os.environ.clear()
    os.environ.update(job["env"], **{PROGRESS_FD: str(progress)})
    if numpy := sys.modules.get("numpy.random"):  # Python's own generator does that itself after a fork
        numpy.seed()


def run(job: dict[str, Any]) -> int:
    """The program as `python -m MODULE` or `python SCRIPT` runs it."""
    sys.argv = job["argv"]
    try:
        if "module" in job:
            sys.path.insert(0, os.getcwd())
            runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(job["script"])))
            runpy.run_path(job["script"], run_name="__main__")
    except SystemExit as error:
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
            return 1
        return int(error.code or 0)
    except BaseException:  # noqa: BLE001 - as the interpreter itself does
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    threading._shutdown()  # type: ignore[attr-defined]
    import atexit

    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 0xFF)  # an orderly end would take the imported libraries apart: a tenth of a second for nothing
