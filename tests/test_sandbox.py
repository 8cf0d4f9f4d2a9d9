"""Every property of the jail, by a real one. What it prevents is shown to succeed without it, so that nothing passes in vain."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
import yaml

from evolve import doctor, processes, sandbox
from evolve.errors import BadInput
from evolve.ports import Cancel
from evolve.proof import Finding
from evolve.sandbox import Jail

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(sandbox.find().name == "none", reason=f"no sandbox: {sandbox.find().reason}")


def run(
    folder: Path,
    code: str,
    *arguments: str,
    plain: bool = False,
    seconds: float = 30.0,
    keep_bytes: int = 1_000_000,
    cancel: Cancel | None = None,
    inputs: dict[str, Path] | None = None,
    on_progress: object = None,
    on_audit: object = None,
    **jail: object,
) -> processes.Result:
    """Python code in a jail, or plainly in the folder `plain`; what the jail keeps becomes `folder/kept`."""
    tree, bare = folder / "campaign" / "code", folder / "plain"
    for each in (tree, bare):
        each.mkdir(parents=True, exist_ok=True)
    if not (tree / "recipe.py").exists():
        (tree / "recipe.py").write_text("x = 1\n")
    settings: dict[str, object] = {"scratch_mb": 16, "memory_mb": 1000} | jail
    return processes.run(
        [sys.executable, "-S", "-c", textwrap.dedent(code), *arguments],
        cwd=bare, log=folder / "log", timeout_seconds=seconds, memory_mb=1000, log_bytes=100_000,
        on_progress=on_progress, on_audit=on_audit, cancel=cancel or Cancel(),
        jail=None if plain else Jail(tree, inputs=inputs or {}, **settings), keep=folder / "kept" if "keep" in jail else None,
        keep_bytes=keep_bytes,
    )  # type: ignore[arg-type]  # fmt: skip


def said(result: processes.Result) -> object:
    """What the code printed last, as JSON."""
    assert result.log_tail.strip(), result
    return json.loads(result.log_tail.strip().splitlines()[-1])


def burn(seconds: float) -> str:
    return f"import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"


# ---------------------------------------------------------------- what doctor shows


def test_every_attempt_of_doctors_is_blocked_in_the_jail() -> None:
    findings = list(doctor.prove())
    assert len(findings) == 8
    assert not [f for f in findings if not f.blocked]


def test_every_attempt_of_doctors_succeeds_without_the_jail() -> None:
    """But one: what outlives a plain training, and does not hide, is found and ended as well."""
    assert [f.name for f in doctor.prove(jailed=False) if f.blocked] == ["outliving"]


@pytest.mark.parametrize("blocked", [True, False])
def test_doctor_says_how_well_edits_are_isolated_and_fails_where_they_are_not(
    blocked: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "prove", lambda: [Finding("network", blocked, "what was seen")])
    assert doctor.report(tmp_path) == (0 if blocked else 1)
    out = capsys.readouterr().out
    assert "ok    sandbox      bubblewrap" in out
    assert f"{'ok  ' if blocked else 'FAIL'}    network    what was seen" in out


def test_doctor_says_that_edits_are_refused_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    sandbox._probe.cache_clear()
    try:
        doctor.report(tmp_path)
        level = sandbox.find()
        with pytest.raises(BadInput, match="must run in a sandbox"):
            run(tmp_path, "pass")
    finally:
        sandbox._probe.cache_clear()
    assert level.name == "none" and "install bubblewrap" in level.reason
    assert (
        "note  sandbox      edits of the code are refused: bubblewrap (bwrap) is not installed"
        in capsys.readouterr().out
    )


# ---------------------------------------------------------------- what it sees


def test_it_sees_the_code_its_inputs_and_the_interpreter_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    code = """
        import json, os
        found = {d: sorted(os.listdir(d)) for d in ("/", "/code", "/etc", "/scratch", "/evolve", os.getcwd())}
        found["home"] = os.environ["HOME"]
        print(json.dumps(found))
    """
    found = said(run(tmp_path, code, inputs={"/config.json": config}))
    assert isinstance(found, dict)
    prefixes = {Path(p).parts[1] for p in (sys.prefix, sys.base_prefix)}
    system = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "sys"}
    known = {"code", "config.json", "dev", "etc", "evolve", "proc", "scratch", "tmp"}
    assert known <= set(found["/"]) <= known | system | prefixes
    assert found["/code"] == ["recipe.py"]
    assert set(found["/etc"]) <= {"alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd"}
    assert found["/scratch"] == [] and found["home"] == "/scratch"


def test_an_overlay_covers_a_file_of_the_pristine_tree(tmp_path: Path) -> None:
    edited = tmp_path / "edited.py"
    edited.write_text("x = 2\n")
    result = run(tmp_path, "print(open('/code/recipe.py').read())", overlays={"recipe.py": edited})
    assert result.log_tail.strip() == "x = 2"
    assert (tmp_path / "campaign" / "code" / "recipe.py").read_text() == "x = 1\n"


@pytest.mark.parametrize("path", ["../out.py", "/etc/passwd", "missing.py", "a//b.py", "link.py", "."])
def test_an_overlay_out_of_the_tree_is_refused(path: str, tmp_path: Path) -> None:
    edited = tmp_path / "edited.py"
    edited.write_text("x = 2\n")
    run(tmp_path, "pass")
    (tmp_path / "campaign" / "code" / "link.py").symlink_to(edited)
    with pytest.raises(BadInput):
        run(tmp_path, "pass", overlays={path: edited})


@pytest.mark.parametrize(
    "path", ["config.json", "/usr/bin/python3", "/evolve/launch.py", "/code/x", "/proc", "/a/../etc"]
)
def test_an_input_over_what_the_jail_needs_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        run(tmp_path, "pass", inputs={path: tmp_path})


@pytest.mark.parametrize("path", ["/code/x", "/proc/x", "/weights", "/weights/base"])
def test_what_is_shown_over_what_the_jail_needs_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("shown")
    with pytest.raises(BadInput, match="which is the sandbox's own"):
        run(tmp_path, "pass", inputs={"/weights": tmp_path}, shown={path: tmp_path / "file"})
    assert run(tmp_path, "print(open('/w').read())", shown={"/w": tmp_path / "file"}).log_tail.strip() == "shown"


@pytest.mark.parametrize("shown", ["held", "held/file", ".", "link"])
def test_what_must_be_absent_is_shown_by_nothing(shown: str, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "file").write_text("held back")
    (tmp_path / "link").symlink_to("held/file")
    for how in ({"shown": {"/w": tmp_path / shown}}, {"readable": (str(tmp_path / shown),)}):
        with pytest.raises(BadInput, match="must lie apart|must not hold"):
            run(tmp_path, "pass", absent=(tmp_path / "held",), **how)


def test_a_campaign_in_a_folder_that_the_jail_shows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(BadInput, match="must not hold"):
        run(tmp_path, "pass")


def test_no_variable_and_no_descriptor_of_the_controllers_comes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "LD_LIBRARY_PATH", "MLFLOW_TRACKING_URI", "USER", "LD_PRELOAD"):
        monkeypatch.setenv(name, "")
    code = """
        import json, os
        fds = {}
        for name in os.listdir("/proc/self/fd"):
            try: fds[name] = os.readlink("/proc/self/fd/" + name).split(":")[0]
            except OSError: pass
        open("/scratch/out", "w").close()
        print(json.dumps([sorted(os.environ), fds, os.environ["EVOLVE_PROGRESS_FD"]]))
    """
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        names, fds, progress = said(run(tmp_path, code, keep="out"))  # type: ignore[misc]
    finally:
        os.close(leak)
    allowed = {"PATH", "LANG", "LC_ALL", "OPENBLAS_CORETYPE", "HOME", "TMPDIR", "PWD", "EVOLVE_PROGRESS_FD", "LC_CTYPE"}
    assert {n for n in names if not n.endswith("_NUM_THREADS") and not n.startswith("PYTHON")} <= allowed
    assert fds == {"0": "/dev/null", "1": "pipe", "2": "pipe", progress: "pipe"}


def test_the_controllers_null_device_is_not_given_away(tmp_path: Path) -> None:
    """Where the controller is root, code in the jail owns the machine's /dev/null, and must not change its mode."""
    before = os.stat("/dev/null").st_mode
    code = """
        import os, shutil
        os.fchmod(0, 0)
        os.chmod("/dev/null", 0)
        try: os.setxattr("/dev/null", "system.posix_acl_access", b"")
        except OSError: pass
        open("/scratch/a", "w").write("x")
        shutil.copy("/scratch/a", "/scratch/b")
    """
    assert run(tmp_path, code).exit_code == 0
    assert os.stat("/dev/null").st_mode == before


# ---------------------------------------------------------------- the one file


def test_one_file_comes_out_and_progress_and_exit_code_too(tmp_path: Path) -> None:
    lines: list[bytes] = []
    code = """
        import os, sys
        os.write(int(os.environ["EVOLVE_PROGRESS_FD"]), b'{"step": 1}\\n')
        open("/scratch/out", "wb").write(b"weights" * 1000)
        open("/scratch/other", "wb").write(b"x")
    """
    result = run(tmp_path, code, on_progress=lines.append, keep="out")
    assert (result.exit_code, result.killed_for) == (0, "")
    assert (tmp_path / "kept").read_bytes() == b"weights" * 1000
    assert os.stat(tmp_path / "kept").st_mode & 0o777 == 0o600
    assert lines == [b'{"step": 1}']
    assert sorted(p.name for p in tmp_path.iterdir()) == ["campaign", "kept", "log", "pid", "plain"]


def test_the_folder_of_the_file_that_comes_out_is_there(tmp_path: Path) -> None:
    assert run(tmp_path, "open('/scratch/out/w', 'w').write('x')", keep="out/w").exit_code == 0
    assert (tmp_path / "kept").read_text() == "x"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", "No such file"),
        ("os.symlink('/etc/passwd', '/scratch/out')", "must be a regular file"),
        ("os.mkfifo('/scratch/out')", "must be a regular file"),
        ("os.mkdir('/scratch/out')", "must be a regular file"),
        ("open('/scratch/out', 'wb').truncate(3_000_000)", "must be at most 2000000 bytes, but has 3000000"),
    ],
)
def test_anything_but_a_small_regular_file_stays_inside(code: str, reason: str, tmp_path: Path) -> None:
    result = run(tmp_path, f"import os\n{code}", keep_bytes=2_000_000, keep="out")
    assert result.exit_code == 0 and reason in result.log_tail
    assert not (tmp_path / "kept").exists()


def test_files_of_its_own_may_be_larger_than_the_one_that_comes_out(tmp_path: Path) -> None:
    code = "open('/scratch/cache', 'wb').write(bytes(4_000_000)); open('/scratch/out', 'w').write('x')"
    assert run(tmp_path, code, keep_bytes=1000, keep="out").exit_code == 0
    assert (tmp_path / "kept").read_text() == "x"


def test_a_link_in_the_way_to_the_file_is_not_followed(tmp_path: Path) -> None:
    code = "import os\nos.rmdir('/scratch/out')\nos.symlink('/code', '/scratch/out')"
    result = run(tmp_path, code, keep="out/recipe.py")
    assert result.exit_code == 0 and "must be a regular file" in result.log_tail
    assert not (tmp_path / "kept").exists()


def test_a_file_of_a_failed_training_stays_inside(tmp_path: Path) -> None:
    assert run(tmp_path, "open('/scratch/out', 'w').write('x'); raise SystemExit(3)", keep="out").exit_code == 3
    assert not (tmp_path / "kept").exists()


def test_the_controllers_file_must_be_new(tmp_path: Path) -> None:
    (tmp_path / "kept").symlink_to("/etc/passwd")
    with pytest.raises(FileExistsError):
        run(tmp_path, "pass", keep="out")
    assert (tmp_path / "kept").is_symlink()


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("import os; os._exit(137)", 137),
    ],
)
def test_the_exit_code_is_the_commands_own(code: str, expected: int, tmp_path: Path) -> None:
    assert run(tmp_path, code).exit_code == expected
    assert run(tmp_path, code, plain=True).exit_code == expected


def test_a_command_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    result = processes.run(
        ["no-such-command"], cwd=tmp_path, log=tmp_path / "log", timeout_seconds=20, memory_mb=None, log_bytes=1000,
        on_progress=None, cancel=Cancel(), jail=Jail(tmp_path / "code"),
    )  # fmt: skip
    assert result.exit_code == 127
    assert "no-such-command must start in the sandbox" in result.log_tail


def test_a_jail_that_cannot_be_set_up_is_not_the_trainings_fault(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="The sandbox must be set up, but: .*missing"):
        run(tmp_path, "pass", inputs={"/config.json": tmp_path / "missing"}, keep="out")
    assert not (tmp_path / "kept").exists()


def test_a_cancellation_ends_it_at_once(tmp_path: Path) -> None:
    cancel = Cancel()
    threading.Timer(1.0, cancel.request).start()
    started = time.monotonic()
    result = run(tmp_path, burn(100), cancel=cancel)
    assert result.cancelled and time.monotonic() - started < 5
    assert result.usage.cpu_seconds > 0.1


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    run(tmp_path, "pass")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run(tmp_path, "pass", audit=False)
    assert len(os.listdir("/proc/self/fd")) == before


def test_signals_to_the_first_process_do_nothing(tmp_path: Path) -> None:
    code = """
        import json, os, signal, time
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP, signal.SIGHUP, signal.SIGSEGV):
            os.kill(1, number)
        time.sleep(0.3)
        print(json.dumps("alive"))
    """
    result = run(tmp_path, code)
    assert (result.exit_code, said(result)) == (0, "alive")


@pytest.mark.parametrize("launcher_answers", [True, False])
def test_a_killed_controller_takes_its_jail_along(launcher_answers: bool, tmp_path: Path) -> None:
    """By a real kill -9. Also where the launcher cannot see that the pipe of its controller closed."""
    mark = f"mark-{os.getpid()}-{launcher_answers}"
    code = f"""
        import sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        from pathlib import Path
        from test_sandbox import run
        run(Path({str(tmp_path)!r}), "import time; time.sleep(600)", {mark!r}, seconds=600.0)
    """
    controller = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    try:
        wait(lambda: len(with_mark(mark)) >= 3)  # bubblewrap, the launcher, the training
        if not launcher_answers:
            launcher = next(p for p in with_mark(mark) if b"import launch" in cmdline(p) and b"bwrap" not in cmdline(p))
            os.kill(launcher, signal.SIGSTOP)
        controller.kill()
        controller.wait()
        wait(lambda: not [p for p in with_mark(mark) if p != controller.pid])
    finally:
        controller.kill()
        controller.wait()


def test_a_leftover_jail_is_ended_by_the_next_controller(tmp_path: Path) -> None:
    """As if the system had no die-with-parent: the jail lives, and its process id is in the folder."""
    mark, ended = f"mark-{os.getpid()}-leftover", threading.Event()

    def train() -> None:
        run(tmp_path, "import time; time.sleep(600)", mark, seconds=600.0)
        ended.set()

    threading.Thread(target=train, daemon=True).start()
    wait(lambda: len(with_mark(mark)) >= 3)
    assert processes.kill_leftover(tmp_path)
    wait(lambda: not with_mark(mark))
    assert ended.wait(10)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def with_mark(mark: str) -> list[int]:
    """Processes that were started with the argument `mark`."""
    numbers = [int(p.name) for p in Path("/proc").glob("[0-9]*")]
    return [n for n in numbers if mark.encode() in cmdline(n).split(b"\0")]


def wait(what: object) -> None:
    deadline = time.monotonic() + 20
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------- what it uses is counted


def test_cpu_seconds_of_a_daemon_are_counted(tmp_path: Path) -> None:
    code = f"""
import os
end, daemons = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        exec({burn(1.0)!r})
    os._exit(0)
os.close(daemons)
os.read(end, 1)  # until the daemon has ended
"""
    jailed, plain = run(tmp_path, code, processes=4), run(tmp_path, code, plain=True)
    assert jailed.exit_code == 0
    assert jailed.usage.cpu_seconds > 0.9
    assert plain.usage.cpu_seconds < 0.6, "without the jail nobody waits for it"


def test_cpu_seconds_are_counted_when_it_is_killed_at_its_limit(tmp_path: Path) -> None:
    code = f"""
import os
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        exec({burn(100)!r})
import time; time.sleep(100)
"""
    result = run(tmp_path, code, processes=4, seconds=2.0, keep="out")
    assert result.timed_out and result.exit_code == -9
    assert result.usage.cpu_seconds > 0.4
    assert not (tmp_path / "kept").exists()


def ignoring(children: int, seconds: float) -> str:
    """A parent that ignores SIGCHLD, and so takes its children out of the kernel's counts; one child after the other."""
    return f"""
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range({children}):
    end, childs = os.pipe()
    if os.fork() == 0:
        exec({burn(seconds)!r})
        os._exit(0)
    os.close(childs)
    os.read(end, 1)  # until the child has ended
"""


def test_cpu_seconds_of_children_that_nobody_waits_for_are_counted(tmp_path: Path) -> None:
    code = ignoring(20, 0.05)
    jailed, plain = run(tmp_path, code, processes=32), run(tmp_path, code, plain=True)
    assert (jailed.exit_code, jailed.killed_for) == (0, "")
    assert jailed.usage.cpu_seconds > 0.95
    assert plain.usage.cpu_seconds < 0.5


def unfiltered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose system calls we have no numbers of."""
    inside = folder / "inside"
    shutil.copytree(sandbox._INSIDE, inside, ignore=shutil.ignore_patterns("__pycache__"))
    text = (inside / "launch.py").read_text()
    assert text.count('"x86_64": (') == text.count('"aarch64": (') == 1
    (inside / "launch.py").write_text(text.replace('"x86_64": (', '"a": (').replace('"aarch64": (', '"b": ('))
    monkeypatch.setattr(sandbox, "_INSIDE", inside)


def test_without_a_filter_of_system_calls_watching_is_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfiltered(tmp_path, monkeypatch)
    level, _ = sandbox._probe.__wrapped__()
    assert level.name == "bubblewrap" and "without a filter of system calls" in level.reason
    forking = "import os, time\nos.fork()\ntime.sleep(20)"
    assert run(tmp_path, forking).killed_for == "more than 1 process"
    # The kernel's counts of children that nobody waits for are lost; what was seen of them is not.
    seen = run(tmp_path, ignoring(3, 0.4), processes=8)
    assert seen.usage.cpu_seconds > 0.9


def test_the_larger_of_what_was_seen_and_what_the_kernel_says_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the launcher had to be killed: it is stopped here, so that it does not answer."""
    monkeypatch.setattr(processes, "_END_SECONDS", 0.5)
    mark, cancel = f"mark-{os.getpid()}-stopped", Cancel()

    def stop() -> None:
        wait(lambda: len(with_mark(mark)) >= 3)
        time.sleep(1.0)
        launcher = next(p for p in with_mark(mark) if b"import launch" in cmdline(p) and b"bwrap" not in cmdline(p))
        os.kill(launcher, signal.SIGSTOP)
        cancel.request()

    threading.Thread(target=stop).start()
    result = run(tmp_path, burn(100), mark, cancel=cancel)
    assert result.cancelled and result.usage.cpu_seconds > 0.2
    assert not with_mark(mark)


def test_memory_of_the_training_itself_is_counted(tmp_path: Path) -> None:
    small = run(tmp_path, "pass").usage.peak_memory_mb
    large = run(tmp_path, "x = bytearray(b'x' * 300_000_000)").usage.peak_memory_mb
    assert 2 < small < 100
    assert 280 < large < 1000


# ---------------------------------------------------------------- its limits


def test_one_process_can_neither_fork_nor_be_a_parent_but_has_threads(tmp_path: Path) -> None:
    code = """
        import json, os, subprocess, sys, threading
        said, seen = [], []
        for call in (os.fork, lambda: subprocess.run(["true"], check=True), lambda: os.posix_spawn("/bin/true", ["true"], {})):
            try: call(); said.append("made")
            except OSError as error: said.append(type(error).__name__)
        thread = threading.Thread(target=seen.append, args=("ran",)); thread.start(); thread.join()
        print(json.dumps([said, seen]))
    """
    assert said(run(tmp_path, code)) == [["PermissionError"] * 3, ["ran"]]
    plainly = said(
        run(
            tmp_path,
            code.replace("call(); said", "call() or os._exit(0) if call is os.fork else call(); said"),
            plain=True,
        )
    )
    assert plainly == [["made"] * 3, ["ran"]]
    assert said(run(tmp_path, code.replace("os.fork,", ""), processes=8)) == [["made"] * 2, ["ran"]]


def test_more_memory_than_allowed_in_several_processes_ends_it(tmp_path: Path) -> None:
    code = """
        import os, time
        for _ in range(3):
            if os.fork() == 0:
                x = bytearray(b"x" * 90_000_000)
                time.sleep(20)
        time.sleep(20)
    """
    result = run(tmp_path, code, processes=8, memory_mb=200)
    assert (result.exit_code, result.killed_for) == (-9, "more than 200 MB of memory")


def test_memory_that_processes_share_counts_once(tmp_path: Path) -> None:
    code = """
        import os, time
        x = bytearray(100_000_000)
        for i in range(0, len(x), 4096): x[i] = 1
        for _ in range(3):
            if os.fork() == 0:
                time.sleep(1)
                os._exit(0)
        time.sleep(1)
    """
    assert run(tmp_path, code, processes=8, memory_mb=200).log_tail == ""


def test_too_many_threads_and_files_end_it(tmp_path: Path) -> None:
    threads = "import threading, time\nfor _ in range(1100): threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\ntime.sleep(5)"
    found = run(tmp_path, f"import threading\nthreading.stack_size(65536)\n{threads}", memory_mb=None)
    if os.getuid() == 0:  # an ordinary user is stopped by the kernel's limit
        assert found.killed_for == "more than 1024 threads"
    else:
        assert found.exit_code != 0
    files = "import os, time\nfor i in range(110_000): os.close(os.open(f'/scratch/{i}', os.O_CREAT))\ntime.sleep(5)"
    assert run(tmp_path, files).killed_for == "more than 100000 files"


def test_memory_outside_of_any_process_is_bounded(tmp_path: Path) -> None:
    code = """
        import ctypes, json, os
        libc, said = ctypes.CDLL(None, use_errno=True), {}
        said["shmget"] = libc.shmget(0, 1 << 20, 0o1600) >= 0
        try: os.memfd_create("x"); said["memfd"] = True
        except OSError: said["memfd"] = False
        for place in ("/dev/shm", "/scratch"):
            said[place] = os.statvfs(place).f_blocks * os.statvfs(place).f_frsize >> 20
        print(json.dumps(said))
    """
    assert said(run(tmp_path, code)) == {"shmget": False, "memfd": False, "/dev/shm": 16, "/scratch": 16}
    plain = said(
        run(tmp_path, code.replace("0o1600", "0o600").replace('("/dev/shm", "/scratch")', '("/dev/shm",)'), plain=True)
    )
    assert isinstance(plain, dict) and plain["shmget"] and plain["memfd"]


CALLS = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    ctypes.set_errno(0)
    result = libc.syscall(*map(ctypes.c_long, words))
    return "" if result >= 0 else errno.errorcode[ctypes.get_errno()]
buffer = ctypes.create_string_buffer(4096)
address = ctypes.addressof(buffer)
found = {
    "ptrace": call(101, 0, 0, 0, 0),            # PTRACE_TRACEME
    "io_uring_setup": call(425, 1, address),
    "userfaultfd": call(323, 1),
    "keyctl": call(250, 0, -3, 1),              # KEYCTL_GET_KEYRING_ID of the session
    "add_key": call(248, address, address, address, 0, -2),
    "kcmp": call(312, os.getpid(), os.getpid(), 0, 0, 1),
    "unshare": call(272, 0),
    "prlimit of 1": call(302, 1, 7, 0, address),
    "prlimit of oneself": call(302, 0, 7, 0, address),
    "vsock": call(41, 40, 1, 0),
    "newer than all": call(470, 0),
}
print(json.dumps(found))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are of x86_64")
def test_the_filter_denies_what_no_training_needs(tmp_path: Path) -> None:
    found, plain = said(run(tmp_path, CALLS)), said(run(tmp_path, CALLS, plain=True))
    assert isinstance(found, dict) and isinstance(plain, dict)
    assert found.pop("prlimit of oneself") == "" and plain.pop("prlimit of oneself") == ""
    assert found.pop("vsock") == "EAFNOSUPPORT"
    assert found.pop("newer than all") == "ENOSYS"
    assert set(found.values()) == {"EPERM"}
    for name in ("ptrace", "kcmp", "unshare"):
        assert plain[name] == "", name
    assert plain["add_key"] != "EPERM"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is of x86_64")
def test_a_call_in_another_architectures_numbering_kills(tmp_path: Path) -> None:
    code = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)"
    assert run(tmp_path, code).exit_code == -signal.SIGSYS
    assert run(tmp_path, code, plain=True).exit_code == 0


def test_memory_of_the_first_process_is_closed(tmp_path: Path) -> None:
    code = """
        import json
        said = {}
        for what in ("mem", "environ", "maps", "fd/0", "root/etc/passwd", "cwd/recipe.py"):
            try: open(f"/proc/PID/{what}", "rb").read(1); said[what] = True
            except OSError as error: said[what] = "input" in str(error).lower()
        print(json.dumps(said))
    """
    found = said(run(tmp_path, code.replace("PID", "1")))
    assert isinstance(found, dict) and not any(found.values())
    own = said(run(tmp_path, code.replace("PID", "self")))
    assert isinstance(own, dict) and all(own.values())


def test_a_name_that_is_no_text_confuses_nobody(tmp_path: Path) -> None:
    code = f"""
import ctypes, os
ctypes.CDLL(None).prctl(15, b") R 1 \\xff\\xfe", 0, 0, 0)  # PR_SET_NAME
if os.fork() == 0:
    {burn(0.3).replace(chr(10), chr(10) + "    ")}
    os._exit(0)
os.wait()
import time; time.sleep(0.3)
"""
    with_name = threading.Thread(target=lambda: [processes.kill_leftover(tmp_path / "none"), sandbox.cpu_seconds(1)])
    with_name.start()
    result = run(tmp_path, code, processes=2)
    assert (result.exit_code, result.log_tail) == (0, "")
    assert result.usage.cpu_seconds > 0.3


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/self/oom_score_adj",
        "/etc/passwd",
        "/sys/devices/system/cpu/cpu1/online",
    ],
)
def test_no_switch_of_the_kernels_can_be_opened(path: str, tmp_path: Path) -> None:
    code = "import sys\ntry: open(sys.argv[1], 'r+b'); print('[true]')\nexcept (PermissionError, FileNotFoundError, OSError): print('[false]')"
    assert said(run(tmp_path, code, path)) == [False]
    if os.getuid() == 0 and os.path.exists(path):
        assert said(run(tmp_path, code, path, plain=True)) == [True]


# ---------------------------------------------------------------- audit and real trainings


def test_audit_lines_come_through_their_own_pipe_and_the_program_runs_under_the_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    shutil.copytree(sandbox._INSIDE, inside, ignore=shutil.ignore_patterns("__pycache__", "audit.py"))
    (inside / "audit.py").write_text(
        "import os, sys\nos.write(int(os.environ['EVOLVE_AUDIT_FD']), (' '.join(sys.argv[1:2]) + '\\n').encode())\n"
    )
    monkeypatch.setattr(sandbox, "_INSIDE", inside)
    lines: list[bytes] = []
    assert run(tmp_path, "pass", audit=True, on_audit=lines.append).exit_code == 0
    assert lines == [b"-c"]


def test_worker_processes_of_a_data_loader_run_where_processes_are_allowed(tmp_path: Path) -> None:
    """They make semaphores in /dev/shm, and set a handler of SIGCHLD that the filter takes away."""
    code = """
        import site, sys
        site.main()
        import torch
        from torch.utils.data import DataLoader
        print(sum(float(b.sum()) for b in DataLoader(torch.arange(100.0), batch_size=10, num_workers=2)))
    """
    assert said(run(tmp_path, code, processes=4, memory_mb=None)) == 4950.0


def subject(kind: str, folder: Path, jailed: bool, fidelity: float) -> tuple[list[str], Path]:
    """The command of an embedded subject's training and its config, with default params; `folder/code` is its tree."""
    raw = yaml.safe_load((ROOT / "configs" / "subject" / f"{kind}.yaml").read_text())
    code = folder / "code"
    if not code.exists():
        shutil.copytree(ROOT / "train", code / "train", ignore=shutil.ignore_patterns("__pycache__"))
    base = Path("/code") if jailed else code
    config = {
        "params": {k: v["default"] for k, v in raw["space"].items() if "when" not in v},
        "seed": 5, "fidelity": fidelity, "device": "cpu", "model": raw["model"],
        "assets": {k: str(base / v) for k, v in raw["assets"].items()},
    }  # fmt: skip
    path = folder / f"config-{jailed}.json"
    path.write_text(json.dumps(config))
    words = {"{python}": sys.executable, "{config}": "/config.json" if jailed else str(path)}
    words["{out}"] = "/scratch" if jailed else str(folder / "out")
    return [words.get(word, word) for word in raw["train_cmd"]], path


@pytest.mark.parametrize(("kind", "fidelity"), [("quadratic", 1.0), ("arithmetic", 0.05)])
def test_a_training_leaves_the_same_bytes_in_the_jail_and_without_it(
    kind: str, fidelity: float, tmp_path: Path
) -> None:
    weights, curves = [], []
    (tmp_path / "out").mkdir()
    for jailed in (False, True):
        command, config = subject(kind, tmp_path, jailed, fidelity)
        lines: list[bytes] = []
        jail = Jail(tmp_path / "code", {}, {"/config.json": config}, "weights.safetensors", memory_mb=4000)
        kept = tmp_path / "kept" if jailed else tmp_path / "out" / "weights.safetensors"
        result = processes.run(
            command, cwd=tmp_path / "code", log=tmp_path / "log", timeout_seconds=120, memory_mb=4000, log_bytes=10_000,
            on_progress=lines.append, cancel=Cancel(), jail=jail if jailed else None, keep=kept if jailed else None,
            keep_bytes=10_000_000,
        )  # fmt: skip
        assert result.exit_code == 0, result.log_tail
        weights.append(kept.read_bytes())
        curves.append(lines)
    assert weights[0] == weights[1] and len(weights[0]) > 100
    assert curves[0] == curves[1] and len(curves[0]) >= 12


def test_an_interpreter_below_tmp_can_be_used(tmp_path: Path) -> None:
    """Projects, and their virtual environments, are often tried out there."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        code = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; from evolve import sandbox; print(sandbox.find().name)"
        python = folder / "venv" / "bin" / "python"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "bubblewrap", done.stdout + done.stderr
    finally:
        shutil.rmtree(folder)
