"""Attempts to break out of the sandbox, really made: what `evolve doctor` shows, and what the tests hold the sandbox to.

Each attempt is a small program that tries one thing that edited code must not do, and a check of what came of it. Without
the jail each of them succeeds, or it would prove nothing: `prove(jailed=False)`. Part of the CLI.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evolve import processes
from evolve.ports import Cancel
from evolve.sandbox import Jail

_SCRATCH_MB = 16
_PYTHON = (sys.executable, "-I", "-S", "-c")


@dataclass(frozen=True)
class Finding:
    """One attempt: whether it was blocked, and what was seen."""

    name: str
    blocked: bool
    found: str


@dataclass(frozen=True)
class Stage:
    """A make-believe campaign in a temporary folder, and a way to run a program beside it."""

    folder: Path
    jailed: bool

    @property
    def campaign(self) -> Path:
        return self.folder / "campaign"

    @property
    def scratch(self) -> str:
        return "/scratch" if self.jailed else str(self.folder / "plain")

    def run(self, code: str, *arguments: str, allowed: int = 1, seconds: float = 20.0) -> processes.Result:
        """Runs Python code with at most `allowed` processes, where it is jailed."""
        jail = Jail(self.campaign / "code", scratch_mb=_SCRATCH_MB, memory_mb=1000, processes=allowed)
        return processes.run(
            [*_PYTHON, textwrap.dedent(code), *arguments],
            cwd=self.folder / "plain", log=self.folder / "log", timeout_seconds=seconds, memory_mb=1000,
            log_bytes=100_000, on_progress=None, cancel=Cancel(), jail=jail if self.jailed else None,
        )  # fmt: skip


def prove(jailed: bool = True) -> Iterator[Finding]:
    """Makes all attempts, one after the other. `jailed=False` makes them as plain processes, as this user."""
    for attempt in (_network, _write, _read, _others, _bomb, _fill, _outlive, _privileges):
        with tempfile.TemporaryDirectory() as folder:
            stage = Stage(Path(folder).resolve(), jailed)
            (stage.campaign / "code").mkdir(parents=True)
            (stage.campaign / "code" / "recipe.py").write_text("x = 1\n")
            (stage.folder / "plain").mkdir()
            yield attempt(stage)


def startup_ms(repeats: int = 7) -> tuple[float, float]:
    """Median milliseconds to start and end an empty Python: plain, jailed. Alternating, after one of each."""
    times: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "campaign" / "code").mkdir(parents=True)
        (Path(folder) / "plain").mkdir()
        for _ in range(repeats + 1):
            for jailed, found in times.items():
                found.append(1000 * Stage(Path(folder), jailed).run("pass").usage.wall_seconds)
    return statistics.median(times[False][1:]), statistics.median(times[True][1:])


def _said(result: processes.Result) -> list[str]:
    """The JSON list of strings that a program printed last; a program that was ended before has said nothing."""
    try:
        return [str(word) for word in json.loads(result.log_tail.strip().splitlines()[-1])]
    except (IndexError, ValueError, TypeError):
        return []


def _judge(name: str, result: processes.Result, reached: list[str], blocked: str) -> Finding:
    """Blocked where nothing was reached and the program said so itself: one that failed to start proves nothing."""
    if reached:
        return Finding(name, False, f"NOT blocked: {', '.join(reached)}")
    if result.exit_code != 0 and not result.killed_for and not result.timed_out:
        return Finding(name, False, f"the attempt could not be made: {result.log_tail.strip()[-200:]!r}")
    return Finding(name, True, blocked)


def _network(stage: Stage) -> Finding:
    abstract = f"evolve-{secrets.token_hex(8)}"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as local:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        local.bind(f"\0{abstract}")
        local.listen()
        code = """
            import json, socket, sys
            port, abstract = sys.argv[1:]
            places = {
                "a service on 127.0.0.1": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(port))),
                "an abstract socket": (socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + abstract),
                # connecting a datagram socket asks for a route and sends nothing
                "a route to 1.1.1.1": (socket.AF_INET, socket.SOCK_DGRAM, ("1.1.1.1", 53)),
            }
            reached = []
            for what, (family, kind, address) in places.items():
                with socket.socket(family, kind) as s:
                    s.settimeout(3)
                    try:
                        s.connect(address)
                        reached.append(what)
                    except OSError:
                        pass
            print(json.dumps(reached))
        """
        result = stage.run(code, str(tcp.getsockname()[1]), abstract)
    return _judge(
        "network", result, _said(result), "neither a service of this machine nor an outside address is reached"
    )


def _write(stage: Stage) -> Finding:
    places = [str(stage.campaign), str(stage.campaign / "code")]
    if stage.jailed:
        places += ["/", "/code", "/evolve", "/etc", "/usr", "/dev", "/proc/self", "/home", sys.prefix, sys.base_prefix]
        places.append(f"/proc/1/root{stage.campaign}")
    code = """
        import json, os, sys
        reached = []
        for place in sys.argv[1:]:
            try:
                open(place + "/written", "w").close()
                reached.append(place)
            except OSError:
                pass
            try:
                open(place + "/recipe.py", "a").close()
                reached.append(place + "/recipe.py")
            except OSError:
                pass
        print(json.dumps(reached))
    """
    result = stage.run(code, *places)
    return _judge("writing", result, _said(result), "nothing but the scratch folder can be written")


def _read(stage: Stage) -> Finding:
    secret, file = secrets.token_hex(16), stage.campaign / "vault.json"
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(secret)
    code = """
        import json, os, sys
        path, reached = sys.argv[1], []
        roots = ["", "/proc/1/root", "/proc/self/root", "/proc/1/cwd/../../../../../../../..", "/code/../../../../.."]
        for root in roots:
            try:
                reached.append(open(root + path).read())
            except OSError:
                pass
        for fd in range(3, 256):
            try:
                reached.append(open(f"/proc/self/fd/{fd}/vault.json").read())
            except OSError:
                pass
        print(json.dumps(reached))
    """
    result = stage.run(code, str(file))
    reached = ["the secret was read"] if secret in "".join(_said(result)) else []
    return _judge("reading", result, reached, "a secret file of the campaign (mode 0600) is not there")


def _others(stage: Stage) -> Finding:
    secret = secrets.token_hex(16)
    code = """
        import json, os
        reached = []
        for name in os.listdir("/proc"):
            for what in ("environ", "cmdline"):
                try:
                    text = open(f"/proc/{name}/{what}", "rb").read().decode(errors="replace")
                except OSError:
                    continue
                reached += [word for word in text.split("\\0") if word.startswith("EVOLVE_PROBE=")]
        print(json.dumps(reached))
    """
    sleeper = [*_PYTHON, "import sys; sys.stdin.read()"]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE, env={"EVOLVE_PROBE": secret}) as other:
        try:
            result = stage.run(code)
        finally:
            other.kill()
    reached = ["another process' environment was read"] if f"EVOLVE_PROBE={secret}" in _said(result) else []
    return _judge("processes", result, reached, "other processes, their memory and environment are not there")


def _bomb(stage: Stage) -> Finding:
    code = """
        import json, os, time
        made = 0
        for _ in range(50):
            try:
                if os.fork() == 0:
                    time.sleep(20)
                    os._exit(0)
            except OSError:
                break
            made += 1
        time.sleep(1 if 0 < made else 0)
        print(json.dumps([f"{made} processes were made"] if made else []))
    """
    alone, few = stage.run(code), stage.run(code, allowed=8)
    reached = _said(alone) + _said(few)
    if stage.jailed and not reached and not few.killed_for:
        reached = ["more than 8 processes were not noticed"]
    return _judge(
        "fork bomb", alone, reached, f"no process can be made; where 8 are allowed: ended for {few.killed_for}"
    )


def _fill(stage: Stage) -> Finding:
    code = """
        import json, os, sys
        written = 0
        try:
            with open(sys.argv[1] + "/filler", "wb") as file:
                for _ in range(48):
                    written += file.write(bytes(1 << 20)) >> 20
                    file.flush()
        except OSError:
            pass
        try:
            os.unlink(sys.argv[1] + "/filler")
        except OSError:
            pass
        print(json.dumps([f"{written} MB were written"] if written > int(sys.argv[2]) else []))
    """
    result = stage.run(code, stage.scratch, str(_SCRATCH_MB))
    return _judge(
        "full disk", result, _said(result), f"writing ends at the scratch folder's limit, here {_SCRATCH_MB} MB"
    )


def _outlive(stage: Stage) -> Finding:
    mark = f"evolve-{secrets.token_hex(8)}"
    code = """
        import os, signal, time
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
        time.sleep(600)
    """
    result = stage.run(code, mark, allowed=4, seconds=1.0)
    left = _with_argument(mark)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    reached = [f"{len(left)} processes live on"] if left else []
    if not result.timed_out:
        result = dataclasses.replace(result, exit_code=1)  # it did not get as far as hanging
    return _judge("outliving", result, reached, "a daemon that ignores signals ends with its training")


def _with_argument(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def _privileges(stage: Stage) -> Finding:
    code = """
        import ctypes, json, os, sys
        libc, reached = ctypes.CDLL(None), []
        if libc.unshare(0x10000000) == 0:
            reached.append("a user namespace was made")
        if libc.mount(b"none", sys.argv[1].encode(), b"tmpfs", 0, None) == 0:
            reached.append("a file system was mounted")
        try:
            os.setuid(0)
            reached.append("became root")
        except OSError:
            pass
        print(json.dumps(reached))
    """
    result = stage.run(code, stage.scratch)
    return _judge("privileges", result, _said(result), "no user namespace, no mount, no other user")
