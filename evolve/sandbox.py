"""The jail that edited code runs in: Linux namespaces by bubblewrap, with our own launcher as the first process inside.

What a process in a jail sees: the code (read-only), the interpreter and the system's libraries (read-only), what it was
given, and one folder in memory, `/scratch`, that ends with it. No network, no other process, no file of the campaign, of
the user's home or of the project. One file comes out, through a descriptor of the controller's.

Here are the mounts and whether they work on this machine (`find`); the limits, the filter of system calls and the
accounting are in `inside/launch.py`; starting, stopping and reading the pipes are in `processes.py`.
"""

from __future__ import annotations

import compileall
import contextlib
import functools
import json
import os
import platform
import posixpath
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evolve.errors import BadInput

PROGRESS_FD = "EVOLVE_PROGRESS_FD"
AUDIT_FD = "EVOLVE_AUDIT_FD"
_INSIDE = Path(__file__).parent / "inside"
# A module rather than a script, so that it need not be compiled at each start: 12 ms of about 60.
_LAUNCH = "import sys; sys.path.insert(0, '/evolve'); import launch; launch.main()"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives")  # the loader's, and its links
_CPUS = "/sys/devices/system/cpu"  # torch and its libraries choose their kernels by it
_RESERVED = (*_SYSTEM, "/etc", "/proc", "/dev", "/sys", "/evolve", "/scratch", "/code", "/tmp")
_OWN = ("/code", "/evolve", "/proc", "/dev", "/sys")  # of a jail, beside its inputs
_PREFIX_FLAGS = {"-W", "-X", "--check-hash-based-pycs"}  # of the interpreter, with an argument as the next word
_SHARED_MB = 64  # of /dev/shm, beside the scratch folder: what container engines give
_MB = 1 << 20
_WAY_OUT = "install bubblewrap 0.8 or newer on Linux, or use a container that allows user namespaces"
# Beside PYTHON* and the threads: what numbers depend on. No PATH of the user's, and nothing of a person or a service.
_PASSED_ON = ("LANG", "LC_ALL", "OPENBLAS_CORETYPE")


@dataclass(frozen=True)
class Jail:
    """What a command sees and may use. Its working directory is `/code`."""

    code: Path
    overlays: Mapping[str, Path] = field(default_factory=dict)  # path of a file in `code` -> the file that covers it
    inputs: Mapping[str, Path] = field(default_factory=dict)  # absolute path inside -> file or folder
    # path relative to /scratch of the one file that comes out, its folder is there; of a folder with `patterns`, packed
    keep: str | None = None
    patterns: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()  # paths in `code` that are empty inside
    readable: tuple[str, ...] = ()  # absolute folders of the host, as they are
    shown: Mapping[str, Path] = field(default_factory=dict)  # the same of a path inside -> file or folder of the host
    absent: tuple[Path, ...] = ()  # files or folders of the host, which nothing that it sees may hold or be part of
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment
    scratch_mb: int = 512
    memory_mb: int | None = None  # address space of each process, and resident memory of all; None: no limit
    processes: int = 1  # at once, the command's own included; 1: it cannot make another one
    gpu: bool = False  # NVIDIA's devices are there
    audit: bool = False  # a command of our interpreter runs under `inside/audit.py`


@dataclass(frozen=True)
class Descriptors:
    """The controller's ends that a jail inherits. `keep` takes at most `keep_bytes`."""

    report: int
    stop: int
    progress: int | None = None
    audit: int | None = None
    keep: int | None = None
    keep_bytes: int = 0

    @property
    def all(self) -> tuple[int, ...]:
        found = (self.report, self.stop, self.progress, self.audit, self.keep)
        return tuple(fd for fd in found if fd is not None)


@dataclass(frozen=True)
class Level:
    """What isolates edited code on this machine, and the reason: how well, or why nothing does and the way out."""

    name: Literal["bubblewrap", "none"]
    reason: str


def find() -> Level:
    """Whether a jail works here, found out by running one; cached."""
    return _probe()[0]


def arguments(jail: Jail, command: Sequence[str], environment: Mapping[str, str], fds: Descriptors) -> list[str]:
    """The command line that runs `command`, whose words are paths as seen inside, in the jail.

    Raises `BadInput` where the jail would show what it must not, or where nothing isolates on this machine.
    """
    level, more = _probe()
    if level.name == "none":
        raise BadInput(f"Edited code must run in a sandbox, but there is none here: {level.reason}.")
    return _arguments(jail, command, environment, fds, more)


@functools.cache
def _probe() -> tuple[Level, tuple[str, ...]]:
    """The level, and the options that only some versions and machines take."""
    if sys.platform != "linux":
        return Level("none", f"{platform.system()} has no bubblewrap; {_WAY_OUT}"), ()
    tool = shutil.which("bwrap")
    if tool is None:
        return Level("none", f"bubblewrap (bwrap) is not installed; {_WAY_OUT}"), ()
    said = ""
    compileall.compile_file(_INSIDE / "launch.py", quiet=2)  # no more than slower where the folder cannot be written
    for more in (("--disable-userns",), ()):
        ready, said = _try(more)
        if ready is not None:
            version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout.split()
            how = f"bubblewrap {version[-1] if version else '?'}"
            if not ready:
                how += (
                    f", without a filter of system calls on {platform.machine()}: extra processes are killed when seen"
                )
            return Level("bubblewrap", how), more
    return Level("none", f"bubblewrap does not work here ({said}); {_WAY_OUT}"), ()


def _try(more: tuple[str, ...]) -> tuple[bool | None, str]:
    """Runs an empty jail: whether it had a filter of system calls, None where it failed, with what it said."""
    report_read, report_write = os.pipe()
    stop_read, stop_write = os.pipe()
    try:
        with tempfile.TemporaryDirectory() as folder:
            fds = Descriptors(report_write, stop_read)
            command = _arguments(Jail(Path(folder)), [sys.executable, "-I", "-S", "-c", "pass"], {}, fds, more)
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False, pass_fds=fds.all, env={}
            )  # fmt: skip
        os.close(report_write)
        report_write = -1
        first, _, last = os.read(report_read, 65536).partition(b"\n")
        if done.returncode == 0 and last and json.loads(last)["status"] == 0:
            return bool(json.loads(first)["filtered"]), ""
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return None, lines[-1][:200] if lines else f"exit code {done.returncode}"
    except (OSError, ValueError, BadInput, subprocess.TimeoutExpired) as error:
        return None, str(error)[:200]
    finally:
        for fd in (report_read, report_write, stop_read, stop_write):
            if fd >= 0:
                os.close(fd)


def _arguments(
    jail: Jail, command: Sequence[str], environment: Mapping[str, str], fds: Descriptors, more: Sequence[str]
) -> list[str]:
    _check(jail)
    words = [
        shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", *more, "--as-pid-1", "--die-with-parent",
        "--new-session", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox",
    ]  # fmt: skip
    for name in _SYSTEM:
        if os.path.islink(name):
            words += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            words += ["--ro-bind", name, name]
    interpreter = _interpreter(_private(jail))
    below_tmp = any(path.is_relative_to("/tmp") for path in interpreter)
    if below_tmp:  # a small one of its own, since it cannot be the scratch folder by another name
        words += ["--size", str(min(_SHARED_MB, jail.scratch_mb) * _MB), "--tmpfs", "/tmp"]
    for path in interpreter:
        words += ["--ro-bind", str(path), str(path)]
    for name in (*_ETC, _CPUS, *(("/sys",) if jail.gpu else ())):
        words += ["--ro-bind-try", name, name]
    words += ["--ro-bind", str(_INSIDE), "/evolve", "--ro-bind", str(_INSIDE / "passwd"), "/etc/passwd"]
    words += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"]
    for name in sorted(str(path) for path in Path("/dev").glob("nvidia*")) if jail.gpu else ():
        words += ["--dev-bind", name, name]
    words += ["--size", str(min(_SHARED_MB, jail.scratch_mb) * _MB), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    words += ["--size", str(jail.scratch_mb * _MB), "--perms", "0700", "--tmpfs", "/scratch"]
    if not below_tmp:
        words += ["--symlink", "scratch", "/tmp"]
    if jail.keep is not None and (made := jail.keep if jail.patterns else posixpath.dirname(jail.keep)):
        words += ["--dir", f"/scratch/{made}"]  # as the controller makes it for a training outside
    words += ["--ro-bind", str(jail.code), "/code"]
    for relative in jail.hidden:
        covered = jail.code / relative
        words += (
            ["--tmpfs", f"/code/{relative}"] if covered.is_dir() else ["--ro-bind", "/dev/null", f"/code/{relative}"]
        )
    for name, source in _shown(jail):
        words += ["--ro-bind", str(source), name]
    for relative, source in sorted(jail.overlays.items()):
        words += ["--ro-bind", str(source), f"/code/{relative}"]
    for inside, source in sorted(jail.inputs.items()):
        words += ["--ro-bind", str(source), inside]
    words += ["--remount-ro", "/", "--chdir", "/code", "--clearenv"]
    for name, value in (_environment(environment, jail, fds) | dict(jail.variables)).items():
        words += ["--setenv", name, value]
    settings = {
        "report": fds.report, "stop": fds.stop, "passed": [fd for fd in (fds.progress, fds.audit) if fd is not None],
        "keep": jail.keep, "keep_fd": fds.keep, "keep_bytes": fds.keep_bytes, "patterns": list(jail.patterns),
        # No file of the host is open to the command: what it writes has the scratch folder's limit.
        "file_bytes": jail.scratch_mb * _MB, "memory_mb": jail.memory_mb, "processes": jail.processes,
        "gpu": jail.gpu,
    }  # fmt: skip
    if jail.audit and command[0] == sys.executable:
        command = audited(command, "/evolve/audit.py")
    launcher = [sys.executable, "-I", "-S", "-B", "-c", _LAUNCH, json.dumps(settings)]
    return [*words, "--", *launcher, *command]


def audited(command: Sequence[str], audit: str) -> list[str]:
    """The same call of an interpreter with its program under `inside/audit.py`, which lies at `audit`.

    >>> audited(["python", "-S", "-X", "utf8", "-m", "train.run", "--out", "x"], "/a.py")
    ['python', '-S', '-X', 'utf8', '/a.py', '-m', 'train.run', '--out', 'x']
    """
    at = 1
    while at < len(command) and command[at].startswith("-") and not command[at].startswith(("-m", "-c")):
        at += 2 if command[at] in _PREFIX_FLAGS else 1
    words = list(command[at:])
    if words and words[0] not in ("-m", "-c") and words[0].startswith(("-m", "-c")):  # -mMODULE
        words[:1] = [words[0][:2], words[0][2:]]
    return [*command[:at], audit, *words]


def _environment(given: Mapping[str, str], jail: Jail, fds: Descriptors) -> dict[str, str]:
    """An allow-list of `given`, and what the jail itself sets."""
    names = (*_PASSED_ON, *(("CUDA_VISIBLE_DEVICES",) if jail.gpu else ()))
    env = {k: v for k, v in given.items() if k in names or k.endswith("_NUM_THREADS") or k.startswith("PYTHON")}
    env |= {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": "/scratch", "TMPDIR": "/scratch"}
    if fds.progress is not None:
        env[PROGRESS_FD] = str(fds.progress)
    if fds.audit is not None:
        env[AUDIT_FD] = str(fds.audit)
    return env


def _private(jail: Jail) -> list[Path]:
    """The jail's own host paths: what lies beside them is the campaign's; and what must not be seen."""
    return [path.resolve() for path in (jail.code, *jail.overlays.values(), *jail.absent)]


def _shown(jail: Jail) -> list[tuple[str, Path]]:
    """Path inside and on the host of what is shown as it is, the outer ones first: a later one covers what is there."""
    return sorted([*((name, Path(name)) for name in jail.readable), *jail.shown.items()])


def _interpreter(private: Sequence[Path]) -> list[Path]:
    """The folders of this interpreter that lie outside of the system's, the outer ones first.

    Raises `BadInput` where one of them, or the system's, holds a path of `private` or the user's home.
    """
    system = [Path(name) for name in _SYSTEM]
    named = [Path(p) for p in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)]
    named.append(Path(sys.executable).resolve().parent.parent)
    found: list[Path] = []
    for path in sorted({*named, *(p.resolve() for p in named)}):
        if not any(path.is_relative_to(other) for other in (*system, *found)):
            found.append(path)
    hidden = [*private]
    with contextlib.suppress(RuntimeError):  # a user without a home
        hidden.append(Path.home().resolve())
    for folder in (*found, *system):
        if inner := [p for p in hidden if p.is_relative_to(folder.resolve())]:
            raise BadInput(
                f"A folder that edited code can read must not hold {inner[0]}, but {folder} does;"
                " use another state_dir, or a virtual environment in a folder of its own."
            )
    return found


def _check(jail: Jail) -> None:
    """Raises `BadInput` where a path would lead out of its place, or cover another."""
    for relative in (*jail.overlays, *jail.hidden, *(() if jail.keep is None else (jail.keep,))):
        if posixpath.normpath(relative) != relative or relative.startswith(("/", "..")) or relative == ".":
            raise BadInput(f"A path of the sandbox must be relative and plain, but got {relative!r}.")
    for relative in jail.overlays:
        covered = jail.code / relative
        if not covered.is_file() or covered.resolve() != jail.code.resolve() / relative:
            raise BadInput(f"An edited file must be a regular file of the code, but {relative!r} is not.")
    absent = [path.resolve() for path in jail.absent]
    for name, source in _shown(jail):
        real = source.resolve()
        if inner := [path for path in _private(jail) if path.is_relative_to(real)]:
            raise BadInput(
                f"A folder that edited code can read must not hold {inner[0]}, but {name} does; name a smaller one in"
                " subject.readable, assets or data."
            )
        if outer := [path for path in absent if real.is_relative_to(path)]:
            raise BadInput(
                f"What edited code can read must lie apart from {outer[0]}, but {source} does not; move it, or what links"
                " to it."
            )
        if theirs := [own for own in (*_OWN, *jail.inputs) if Path(name).is_relative_to(own)]:
            raise BadInput(
                f"What edited code can read must not lie in {theirs[0]}, which is the sandbox's own, but {name} does; move it."
            )
    for inside in jail.inputs:
        taken = any(inside == name or inside.startswith(f"{name}/") for name in _RESERVED)
        if posixpath.normpath(inside) != inside or not inside.startswith("/") or inside in ("/", "//") or taken:
            raise BadInput(f"An input's path in the sandbox must be absolute and not the system's, but got {inside!r}.")
    if jail.processes < 1 or jail.scratch_mb < 1:
        raise BadInput(
            f"At least 1 process and 1 MB must be allowed, but got {jail.processes} and {jail.scratch_mb};"
            " set limits.processes and limits.scratch_mb."
        )


def open_keep(path: Path) -> int:
    """A new, empty regular file of the controller's own at `path`, for the file that comes out."""
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR
    )


@dataclass(frozen=True)
class Ended:
    """What the launcher said of a jail's end; see `inside/launch.py`."""

    status: int
    cpu_seconds: float
    peak_kb: int
    killed_for: str
    kept: bool
    trouble: str


def read_report(data: bytes) -> tuple[bool, Ended | None]:
    """Whether the jail was set up, and how it ended; None where the launcher did not live to say so."""
    first, _, last = data.partition(b"\n")
    return bool(first), Ended(**json.loads(last)) if last else None


def first_process(outer: int) -> int | None:
    """The host's process id of process 1 in the jail that bubblewrap's process `outer` made."""
    return next((pid for pid, parent, _, _ in _processes() if parent == outer), None)


def cpu_seconds(outer: int) -> float:
    """Of all living processes under `outer` and of the children that they waited for, by the kernel's counts of now."""
    return sum(family(outer).values())


def family(outer: int) -> dict[int, float]:
    """The same by process id: `outer`, all under it, and those of its session, also where it is dead."""
    found, members = _processes(), {outer}
    while more := {pid for pid, parent, session, _ in found if parent in members or session in members} - members:
        members |= more
    return {pid: ticks / os.sysconf("SC_CLK_TCK") for pid, _, _, ticks in found if pid in members}


def _processes() -> list[tuple[int, int, int, int]]:
    """(pid, its parent, its session, clock ticks of it and its waited-for children) of every process that can be seen."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_bytes().rsplit(b")", 1)[1].split()
                found.append((int(entry), int(fields[1]), int(fields[3]), sum(int(f) for f in fields[11:15])))
            except (OSError, IndexError):
                continue
    return found
