"""Warm starts: what a fork of a server shares with it, what it must not, and what happens when the server dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evolve import config, processes
from evolve.errors import Cancelled
from evolve.executors import LocalExecutor, LocalProcesses
from evolve.ports import Cancel
from evolve.sandbox import PROGRESS_FD
from evolve.types import Candidate, Progress, Trial, Usage
from evolve.warm import Job, WarmServer
from evolve.weights import WeightStore
from evolve.workspace import Snapshot

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="warm starts need pidfd")


class Server:
    """A warm server in `folder`, and what it warned of."""

    def __init__(self, folder: Path, *modules: str) -> None:
        self.folder, self.warnings = folder, list[str]()
        environment = processes.environment() | {PROGRESS_FD: "-1"}
        self.warm = WarmServer(modules or ("json",), folder, environment, [], self.warnings.append)

    def run(self, code: str, *words: str, module: bool = False) -> processes.Result:
        (self.folder / "program.py").write_text(code)
        program = ["-m", "program"] if module else [str(self.folder / "program.py")]
        return processes.run(
            [sys.executable, *program, *words], cwd=self.folder, log=self.folder / "log", timeout_seconds=20,
            memory_mb=None, log_bytes=10_000, on_progress=None, cancel=Cancel(), warm=self.warm,
        )  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.warm.close()


@pytest.mark.parametrize("module", [False, True], ids=["script", "-m"])
def test_a_fork_finds_what_a_fresh_start_would_find(server: Server, module: bool) -> None:
    code = (
        "import json, os, sys\n"
        "print(json.dumps([__name__, sys.argv, sys.path, os.getcwd(), sorted(os.environ),"
        " len(os.listdir('/proc/self/fd')), os.getpgid(0) == os.getsid(0) == os.getpid()]))"
    )
    warm = json.loads(server.run(code, "--out", "o", module=module).log_tail)
    server.warm.close()
    server.warm = Server(server.folder, "no_such_module").warm  # so that it starts cold
    cold = json.loads(server.run(code, "--out", "o", module=module).log_tail)
    assert warm == cold
    assert warm[-1], "a session of its own"


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("import sys; sys.exit('no such file')", 1, "no such file"),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit()", 0, ""),
        ("raise ValueError('odd')", 1, "ValueError: odd"),
        ("import atexit; atexit.register(print, 'bye')", 0, "bye"),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(.1), print('late'))).start()", 0, "late"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_every_end_is_that_of_a_fresh_start(server: Server, code: str, exit_code: int, said: str) -> None:
    result = server.run(code)
    assert result.exit_code == exit_code
    assert (result.log_tail.splitlines() or [""])[-1] == said


def test_a_fork_has_the_imports_and_the_use_counts_what_they_saved(server: Server) -> None:
    result = server.run("import sys; print('json' in sys.modules, 'evolve' in sys.modules)")
    assert result.log_tail == "True False\n"
    assert result.usage.saved_seconds == server.warm.saved_seconds > 0
    assert result.usage.cold_seconds == result.usage.cpu_seconds + result.usage.saved_seconds


def test_two_forks_draw_different_random_numbers(tmp_path: Path) -> None:
    server = Server(tmp_path, "random", "numpy")
    code = "import random, numpy; print(random.random(), numpy.random.random())"
    first, second = (server.run(code).log_tail.split() for _ in range(2))
    server.warm.close()
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_nothing_that_a_fork_does_is_seen_by_the_next(server: Server) -> None:
    server.run("import json, os; json.dumps = None; os.environ['X'] = 'x'; os.chdir('/')")
    result = server.run("import json, os; print(json.dumps([os.environ.get('X'), os.getcwd()]))")
    assert json.loads(result.log_tail) == [None, str(server.folder)]


@pytest.mark.parametrize("module", ["no_such_module", "program"])
def test_a_module_that_cannot_be_preloaded_is_one_warning_and_everything_starts_cold(
    tmp_path: Path, module: str
) -> None:
    (tmp_path / "program.py").write_text("")  # of the subject itself: not on the server's path
    server = Server(tmp_path, module)
    results = [server.run("import sys; print('here')") for _ in range(2)]
    assert [r.log_tail for r in results] == ["here\n", "here\n"]
    assert results[0].usage.saved_seconds == 0
    assert server.warnings == [
        f"no warm starts, each training imports {module} by itself: ModuleNotFoundError: No module named '{module}'"
    ]


def test_a_module_that_starts_threads_is_not_forked_from(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    environment = processes.environment() | {"PYTHONPATH": str(site)}
    warnings: list[str] = []
    warm = WarmServer(["threaded"], tmp_path, environment, [], warnings.append)
    assert not warm.ready()
    assert "has started a thread" in warnings[0]


def test_a_server_that_was_killed_is_started_again_and_gives_up_in_the_end(server: Server) -> None:
    pids = set()
    for _ in range(10):
        assert server.run("print('here')").log_tail == "here\n"
        pids.add(server.warm.pid)
        with contextlib.suppress(ProcessLookupError):  # the last one
            os.kill(server.warm.pid, signal.SIGKILL)
    assert len(pids) == 4
    assert len(server.warnings) == 1


@pytest.mark.parametrize(
    ("words", "job"),
    [
        (["-m", "train.run", "--out", "o"], Job(("-m", "--out", "o"), "train.run")),
        (["-B", "-u", "run.py", "x"], Job(("run.py", "x"))),
        (["-S", "run.py"], None),
        (["-c", "pass"], None),
        (["-m"], None),
        ([], None),
    ],
)
def test_only_what_a_fork_can_do_alike_is_forked(words: list[str], job: Job | None) -> None:
    assert Job.of([sys.executable, *words]) == job
    assert Job.of(["/bin/sh", *words]) is None


# ---------------------------------------------------------------- in the executor


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalProcesses]:
    root = tmp_path / "subject"
    (root / "train").mkdir(parents=True)
    base = config.data_root() / "train" / "quadratic" / "base.safetensors"
    (root / "train" / "base.safetensors").write_bytes(base.read_bytes())
    (root / "train" / "run.py").write_text(
        "import os, pathlib, shutil, sys, time\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "os.write(int(os.environ['EVOLVE_PROGRESS_FD']), b'{\"step\": 1, \"loss\": 0.5}\\n')\n"
        "time.sleep(600 if not (out.parent.parent / 'once').exists() else 0)\n"
        "shutil.copy('train/base.safetensors', out / 'weights.safetensors')\n"
    )
    subject = replace(
        config.load(["subject=quadratic"]).subject,
        preload=("json",), editable=("train/run.py",), train_cmd=("{python}", "train/run.py", "{out}"), sources=("train",),
        assets={"base": "train/base.safetensors"},
    )  # fmt: skip
    snapshot = Snapshot.take(root, subject.sources, tmp_path / "code")
    made = LocalProcesses(subject, snapshot, tmp_path / "trials", WeightStore(tmp_path / "weights"))
    made.warm_up(pytest.fail)
    yield made
    made.close()


def test_a_training_whose_server_dies_is_interrupted_not_failed_and_runs_again(local: LocalProcesses) -> None:
    executor, trial, candidate = LocalExecutor(local), Trial(0, "c", "search", 0, 1), Candidate({}, "v")

    def kill(point: Progress) -> None:
        os.kill(local._warm["train"].pid, signal.SIGKILL)

    with pytest.raises(Cancelled) as caught:
        executor.train(trial, candidate, kill, Cancel())
    assert isinstance(caught.value.usage, Usage)
    assert caught.value.usage.cpu_seconds > 0
    (local.trials / "once").touch()
    training = executor.train(trial, candidate, lambda point: None, Cancel())
    assert training.usage.saved_seconds > 0, "warm again"
    assert len(training.curve) == 1


def test_an_edited_training_never_comes_near_a_server(
    local: LocalProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (local.trials / "once").parent.mkdir(exist_ok=True)
    (local.trials / "once").touch()
    seen = []
    monkeypatch.setattr(WarmServer, "fork", lambda *a: seen.append(a))
    local.sandbox = "none"  # the weakest place that edited code runs in
    place = local.edited(local.folder(Trial(0, "c", "search", 0, 1)), patch=_patch(local))
    result = local.run("train", local.subject.train_cmd, {}, local.trials / "00000", Cancel(), place=place)
    assert result.exit_code == 0
    assert not seen


def _patch(local: LocalProcesses) -> str:
    from evolve.patches import make

    before = (local.snapshot.folder / "train/run.py").read_text()
    return make({"train/run.py": before}, {"train/run.py": before + "# edited\n"})


def test_without_a_sandbox_there_is_no_server_that_edited_code_could_reach(
    tmp_path: Path, local: LocalProcesses
) -> None:
    other = LocalProcesses(local.subject, local.snapshot, tmp_path / "t", local.store, "none")
    other.warm_up(pytest.fail)
    assert other._warm == {}
