from __future__ import annotations

import os
import platform
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolve import processes
from evolve.ports import Cancel
from evolve.sandbox import PROGRESS_FD
from evolve.warm import WarmServer

_server: WarmServer | None = None


@pytest.fixture(autouse=True, params=["cold", "warm"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Each test twice: a fresh Python, and a fork of a warm server, which must not be told apart."""
    global _server
    if request.param == "cold":
        yield
        return
    if not hasattr(os, "pidfd_open"):
        pytest.skip("warm starts need pidfd")
    _server = WarmServer(["json"], tmp_path, processes.environment() | {PROGRESS_FD: "-1"}, [], pytest.fail)
    yield
    _server.close()
    _server = None


def run(folder: Path, code: str, cancel: Cancel | None = None, **changes: object) -> processes.Result:
    settings: dict[str, object] = {
        "timeout_seconds": 20,
        "memory_mb": 1000,
        "log_bytes": 10_000,
        "on_progress": None,
    } | changes
    (folder / "script.py").write_text(textwrap.dedent(code))
    words = ["-S"] if _server is None else []
    return processes.run(
        [sys.executable, *words, str(folder / "script.py")],
        warm=_server,
        cwd=folder,
        log=folder / "log",
        cancel=cancel or Cancel(),
        **settings,
    )  # type: ignore[arg-type]


def gone(pid: int) -> bool:
    """Whether the process ends within ten seconds; one that is dead but not reaped counts as ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):  # the second where it ends between opening and reading
            return True
        time.sleep(0.02)
    return False


def test_exit_code_output_and_the_kernels_counts_come_back(tmp_path: Path) -> None:
    result = run(
        tmp_path, "import sys, time\nx = sum(range(3_000_000))\nprint('done', flush=True); time.sleep(0.3); sys.exit(3)"
    )
    assert result.exit_code == 3
    assert result.log_tail == "done\n"
    assert (tmp_path / "log").read_text() == "done\n"
    assert result.usage.cpu_seconds > 0.01
    assert 1 < result.usage.peak_memory_mb < 1000


def test_a_hanging_process_that_ignores_sigterm_is_ended_with_its_children(tmp_path: Path) -> None:
    code = """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
        time.sleep(600)
    """
    result = run(tmp_path, code, timeout_seconds=1.0)
    assert result.timed_out
    assert gone(int(result.log_tail))


def test_children_left_behind_are_ended_and_not_waited_for(tmp_path: Path) -> None:
    code = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
    """
    started = time.monotonic()
    result = run(tmp_path, code)
    assert result.exit_code == 0
    assert time.monotonic() - started < 15, "the child held the pipe open, and was not waited for"
    assert gone(int(result.log_tail))


@pytest.mark.parametrize(
    "then",
    ["time.sleep(600)", "os.execv(sys.executable, [sys.executable, '-S', '-c', 'import time; time.sleep(600)'])"],
)
@pytest.mark.parametrize("hangs", [False, True])
def test_a_daemon_that_has_left_group_and_session_is_ended(tmp_path: Path, then: str, hangs: bool) -> None:
    code = f"""
        import os, sys, time
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(write, str(os.getpid()).encode())
                {then}
            os._exit(0)
        print(os.read(read, 20).decode(), flush=True)
        time.sleep({600 if hangs else 0})
    """
    result = run(tmp_path, code, timeout_seconds=2.0 if hangs else 20.0)
    assert result.timed_out is hangs
    assert gone(int(result.log_tail))


def test_a_hundred_megabytes_of_output_take_neither_disk_nor_memory(tmp_path: Path) -> None:
    code = "import sys\nfor _ in range(1600): sys.stdout.write('x' * 65536)\nprint('the end')"
    result = run(tmp_path, code)
    assert result.exit_code == 0
    assert (tmp_path / "log").stat().st_size < 20_000
    assert result.log_tail.endswith("the end\n")
    assert "bytes dropped" in (tmp_path / "log").read_text()


def test_progress_lines_arrive_and_too_many_or_too_long_ones_do_not(tmp_path: Path) -> None:
    code = """
        import os
        fd = int(os.environ["EVOLVE_PROGRESS_FD"])
        os.write(fd, b'{"step": 1}' + b"\\n" + b"y" * 5000 + b"\\n")
        for _ in range(11_000): os.write(fd, b"z\\n")
    """
    lines: list[bytes] = []
    run(tmp_path, code, on_progress=lines.append)
    assert lines[0] == b'{"step": 1}'
    assert max(map(len, lines)) < 5000
    assert len(lines) <= 10_000


def test_cancelling_ends_it_within_a_moment(tmp_path: Path) -> None:
    cancel = Cancel()
    threading.Timer(0.3, cancel.request).start()
    started = time.monotonic()
    result = run(tmp_path, "import time; time.sleep(600)", cancel)
    assert result.cancelled
    assert time.monotonic() - started < 15


def test_a_request_made_before_the_start_is_not_forgotten(tmp_path: Path) -> None:
    cancel = Cancel()
    cancel.request()
    assert run(tmp_path, "import time; time.sleep(600)", cancel).cancelled


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are glibc's")
def test_memory_that_a_step_frees_is_at_hand_for_the_next_one_without_page_faults(tmp_path: Path) -> None:
    code = """
        import resource
        for step in range(50):
            arrays = [bytearray(4 << 20) for _ in range(4)]  # 4,096 pages
            del arrays
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    """
    assert int(run(tmp_path, code).log_tail) < 4 * 4096


def test_the_environment_is_an_allow_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "MLFLOW_TRACKING_URI", "PYTHONPATH", "LD_PRELOAD", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "" if name == "LD_PRELOAD" else "canary")
    result = run(tmp_path, "import os; print(sorted(os.environ))")
    seen = set(eval(result.log_tail))
    assert "PATH" in seen
    assert not seen & {"OPENAI_API_KEY", "MLFLOW_TRACKING_URI", "PYTHONPATH", "LD_PRELOAD", "HYDRA_FULL_ERROR", "HOME"}


def test_memory_is_limited(tmp_path: Path) -> None:
    result = run(tmp_path, "import time; time.sleep(0.2); x = bytearray(2_000_000_000)", memory_mb=500)
    assert result.exit_code == 1
    assert "MemoryError" in result.log_tail


def test_the_peak_of_memory_is_the_processes_own_and_not_the_controllers(tmp_path: Path) -> None:
    ours = bytearray(b"x" * 200_000_000)
    small = run(tmp_path, "import time; print('here', flush=True); time.sleep(0.3)").usage.peak_memory_mb
    large = run(
        tmp_path, "import time; x = bytearray(b'x' * 300_000_000); time.sleep(1.5)", memory_mb=2000
    ).usage.peak_memory_mb
    assert len(ours) == 200_000_000
    assert 2 < small < 100
    assert 280 < large < 1000


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    run(tmp_path, "pass")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(tmp_path, "pass")
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_killed_controller_left_running_is_ended_by_the_next(tmp_path: Path) -> None:
    import subprocess

    left = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    (tmp_path / "pid").write_text(f"{left.pid} {processes.start_time(left.pid)}")
    assert processes.kill_leftover(tmp_path)
    assert left.wait(10) == -9
    # another process that happens to have the same number is not touched
    (tmp_path / "pid").write_text(f"{os.getpid()} 12345")
    assert not processes.kill_leftover(tmp_path)
