"""Trainings and scores on a Ray cluster of two nodes on this machine: the same results as the local ones, and lost nodes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inline import Walk

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster as LocalCluster  # noqa: E402

from evolve import config, journal, patches, ray_node, sandbox  # noqa: E402
from evolve.errors import BadInput, Cancelled, Lost, TrialFailed  # noqa: E402
from evolve.executors import LocalExecutor, LocalProcesses, LocalScorer  # noqa: E402
from evolve.loop import Loop, Ports  # noqa: E402
from evolve.ports import Cancel  # noqa: E402
from evolve.ray_executor import Asked, Cluster, RayExecutor, RayScorer  # noqa: E402
from evolve.state import State, apply  # noqa: E402
from evolve.testing import MemoryTracker  # noqa: E402
from evolve.types import (  # noqa: E402
    Block,
    Budget,
    CampaignStarted,
    Candidate,
    GateRules,
    Progress,
    Rules,
    SessionStarted,
    Subject,
    Trial,
    TrialFinished,
    TrialInterrupted,
)
from evolve.weights import WeightStore  # noqa: E402
from evolve.workspace import Snapshot  # noqa: E402

SECRET = "ab" * 32
GOOD = {"x": 0.01, "y": 0.5, "size": 32, "mode": "curved", "z": 0.25}
RECIPE = "train/quadratic/recipe.py"
RETURN = "    return [w + rng.gauss(0, noise) for w in weights]"
OBJECTS = 80_000_000  # bytes of a node's object store


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    os.environ["RAY_health_check_period_ms"] = "1000"  # noqa: SIM112  Ray reads it so
    made = LocalCluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": OBJECTS, "include_dashboard": False}
    )
    made.add_node(num_cpus=2, object_store_memory=OBJECTS)
    made.wait_for_nodes()
    ray.init(made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


class Side:
    """An executor and a scorer, of this machine or of the cluster, over one subject."""

    def __init__(self, folder: Path, subject: Subject | None = None, root: Path | None = None) -> None:
        self.folder = folder
        self.subject = subject or config.load(["subject=quadratic"]).subject
        (folder / "code").mkdir(parents=True)
        self.snapshot = Snapshot.take(root or config.data_root(), self.subject.sources, folder / "code")
        self.store = WeightStore(folder / "weights")
        self.local = LocalProcesses(self.subject, self.snapshot, folder / "trials", self.store, sandbox.find().name)
        self.executor: Any = LocalExecutor(self.local)
        self.scorer: Any = LocalScorer(self.local, SECRET)
        self.cluster: Cluster | None = None

    def on(self, cluster: Cluster) -> Side:
        cluster.begin(self.local, warm=True)
        self.executor, self.scorer = RayExecutor(cluster, self.local, SECRET), RayScorer(cluster, self.local, SECRET)
        self.cluster = cluster
        return self

    def train(self, candidate: Candidate, number: int = 0, seed: int = 7, cancel: Cancel | None = None) -> Any:
        points: list[Progress] = []
        found = self.executor.train(
            Trial(number, candidate.id, "search", 0, seed), candidate, points.append, cancel or Cancel()
        )
        assert tuple(points) == found.curve
        return found

    def score(self, weights: str, split: Any = "search", number: int = 0) -> Any:
        trial = Trial(number, "c", "search", 0, 7, weights=weights)
        return self.scorer.score([trial], split, 0, Cancel())[0]

    def patched(self, replacement: str) -> Candidate:
        files = self.snapshot.texts(self.subject.editable)
        return Candidate(
            GOOD, "v", patches.make(files, patches.from_blocks(files, [Block(RECIPE, RETURN, replacement)]))
        )


def asked(**changes: Any) -> Asked:
    return Asked(**({"address": "auto", "workers": 2, "num_cpus": 1, "num_gpus": 0, "resources": {}} | changes))


@pytest.fixture
def remote(nodes: Any, tmp_path: Path) -> Iterator[Side]:
    side = Side(tmp_path / "remote").on(Cluster(asked(), pytest.fail))
    yield side
    assert side.cluster is not None
    side.cluster.close()


@pytest.fixture
def near(tmp_path: Path) -> Side:
    return Side(tmp_path / "near")


def slow(folder: Path, seconds: float) -> tuple[Subject, Path]:
    """The quadratic subject, whose training reports, and then takes its time while `folder/slow` is there."""
    root = folder / "slow-subject"
    for part in ("train/quadratic", "evals/quadratic"):
        shutil.copytree(config.data_root() / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    run = root / "train/quadratic/run.py"
    run.write_text(
        run.read_text().replace(
            "    save(Path(",
            f"    import time\n    started = time.monotonic()\n    while Path({str(folder / 'slow')!r}).exists() and"
            f" time.monotonic() - started < {seconds}:\n        time.sleep(0.05)\n    save(Path(",
        )
    )
    subject = config.load(["subject=quadratic"]).subject
    return replace(subject, limits=replace(subject.limits, train_seconds=120)), root


def running(mark: str) -> list[int]:
    """Processes of trainings, by the folder of node's workers in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"run.py" in words and mark.encode() in words:
            found.append(int(entry.name))
    return found


def wait_until(holds: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


NODE_FOLDER = f"evolve-node-{os.getuid()}/runs/"


# ---------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("executor.address=nowhere", "must be auto, HOST:PORT, ray://HOST:PORT or null"),
        ("executor.num_cpus=1.5", "executor.num_cpus must be a whole number or a fraction"),
        ("executor.resources={spot: -1}", "executor.resources.spot must be"),
        ("subject.device=cuda", "executor.num_gpus > 0 must hold"),
    ],
)
def test_wrong_settings_are_one_line(word: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        config.load(["subject=quadratic", "executor=ray", word])
    assert "\n" not in str(caught.value)


def test_without_ray_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=re.escape("pip install 'evolve[ray]'")):
        config.load(["subject=quadratic", "executor=ray"])


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*words: object, **options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nMore.")

    monkeypatch.setattr("evolve.ray_executor.ray.is_initialized", lambda: False)
    monkeypatch.setattr("evolve.ray_executor.ray.init", nobody)
    with pytest.raises(BadInput, match="'auto' does not: Could not find any running Ray instance.;"):
        Cluster(asked(), pytest.fail)


# ---------------------------------------------------------------- the same as here


def test_weights_scores_curve_and_logs_are_those_of_the_local_executor(remote: Side, near: Side) -> None:
    here, there = near.train(Candidate(GOOD, "v")), remote.train(Candidate(GOOD, "v"))
    assert there.weights == here.weights and there.curve == here.curve and there.log_tail == here.log_tail
    assert there.usage.cpu_seconds > 0
    assert near.score(here.weights) == remote.score(there.weights)
    assert near.score(here.weights, "vault") == remote.score(there.weights, "vault")
    names = sorted(p.name for p in (near.folder / "trials/00000").iterdir())
    assert sorted(p.name for p in (remote.folder / "trials/00000").iterdir()) == names
    assert (remote.folder / "trials/00000/train.log").read_bytes() == (
        near.folder / "trials/00000/train.log"
    ).read_bytes()


def test_several_weights_are_scored_at_once(remote: Side, near: Side) -> None:
    trained = [remote.train(Candidate(GOOD, "v"), n, seed=n).weights for n in (1, 2)]
    for n in (1, 2):
        near.train(Candidate(GOOD, "v"), n, seed=n)
    trials = [Trial(n, "c", "gate", 0, n, weights=w) for n, w in zip((1, 2), trained, strict=True)]
    assert remote.scorer.score(trials, "gate", 1, Cancel()) == near.scorer.score(trials, "gate", 1, Cancel())


def test_a_failed_training_has_the_reason_the_log_and_the_use_of_a_local_one(remote: Side, near: Side) -> None:
    errors = []
    for side in (near, remote):
        with pytest.raises(TrialFailed) as caught:
            side.train(Candidate(GOOD | {"x": 1.0}, "v"))
        errors.append(caught.value)
    here, there = errors
    assert str(there) == str(here) and "MemoryError" in str(there)
    assert type(there) is TrialFailed and there.usage is not None and there.usage.cpu_seconds > 0
    assert "MemoryError" in (remote.folder / "trials/00000/train.log").read_text()


def test_weights_that_a_node_vouches_for_are_checked_again(remote: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote.cluster is not None
    call = remote.cluster.call
    monkeypatch.setattr(remote.cluster, "call", lambda *a, **k: replace(call(*a, **k), weights=b"no weights"))
    with pytest.raises(TrialFailed, match="must be a safetensors file") as caught:
        remote.train(Candidate(GOOD, "v"))
    assert caught.value.usage is not None
    assert not list(remote.store.folder.glob("*"))


@pytest.mark.skipif(sandbox.find().name != "bubblewrap", reason="edited code needs bubblewrap")
def test_edited_code_is_checked_and_runs_in_the_jail_of_its_node(remote: Side, near: Side) -> None:
    look = remote.patched(
        f"    import os\n\n    print('pid', os.getpid(), os.getcwd(), os.listdir('/vault'))\n{RETURN}"
    )
    here, there = near.train(look), remote.train(look)
    assert "pid 2 /code" in there.log_tail and there.log_tail == here.log_tail
    assert there.weights == here.weights
    assert there.integrity is not None and there.integrity.sandbox == "bubblewrap"
    assert remote.executor.check(look, Cancel()).stage == near.executor.check(look, Cancel()).stage
    assert remote.executor.check(remote.patched("    return ["), Cancel()).stage == "parse"


def test_without_a_sandbox_on_the_nodes_edited_code_is_refused(remote: Side) -> None:
    assert remote.cluster is not None
    facts = remote.cluster.facts
    remote.cluster.facts = replace(facts, sandbox="none", sandbox_reason="node 7 has no bubblewrap")
    assert remote.cluster.sandbox("auto")[0] == "unavailable"
    with pytest.raises(BadInput, match="node 7 has no bubblewrap"):
        remote.cluster.sandbox("bubblewrap")
    remote.cluster.facts = facts
    remote.local.sandbox = "unavailable"
    remote.on(remote.cluster)
    with pytest.raises(TrialFailed, match="needs the sandbox"):
        remote.train(remote.patched(f"    # edited\n{RETURN}"))


# ---------------------------------------------------------------- ends


def test_a_cancelled_training_ends_within_seconds_and_leaves_no_process(nodes: Any, tmp_path: Path) -> None:
    subject, root = slow(tmp_path, 100)
    (tmp_path / "slow").touch()
    side = Side(tmp_path / "remote", subject, root).on(Cluster(asked(), pytest.fail))
    cancel, ended = Cancel(), list[float]()

    def end(point: Progress) -> None:
        if not ended:
            ended.append(time.monotonic())
            threading.Timer(0.5, cancel.request).start()

    with pytest.raises(Cancelled) as caught:
        side.executor.train(Trial(0, "c", "search", 0, 7), Candidate(GOOD, "v"), end, cancel)
    assert ended, "progress came while it ran"
    assert time.monotonic() - ended[0] < 5
    assert not isinstance(caught.value, Lost) and caught.value.usage is not None
    assert running(NODE_FOLDER) == []
    side.cluster.close()  # type: ignore[union-attr]


def test_a_killed_worker_is_a_loss_and_its_training_dies_with_it(nodes: Any, tmp_path: Path) -> None:
    subject, root = slow(tmp_path, 100)
    (tmp_path / "slow").touch()
    side = Side(tmp_path / "remote", subject, root).on(Cluster(asked(), pytest.fail))

    def kill(point: Progress) -> None:
        for folder in (Path(ray_node._base()) / "runs").iterdir():
            if list(folder.glob("trials/00000")):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(folder.name.partition("-")[0]), 9)

    with pytest.raises(Lost) as caught:
        side.executor.train(Trial(0, "c", "search", 0, 7), Candidate(GOOD, "v"), kill, Cancel())
    assert caught.value.usage is not None and caught.value.usage.cpu_seconds > 0
    wait_until(lambda: running(NODE_FOLDER) == [])
    (tmp_path / "slow").unlink()
    assert side.train(Candidate(GOOD, "v")).weights
    side.cluster.close()  # type: ignore[union-attr]


def test_a_node_that_cannot_carry_a_trial_and_nodes_of_two_kinds_are_refused_in_one_line(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="must carry a trial"):
        Cluster(asked(resources={"spot": 1}), pytest.fail)
    warned: list[str] = []
    Cluster(asked(workers=99), warned.append)
    assert len(warned) == 1 and "carries 4" in warned[0]
    told, get = list[int](), ray.get

    def other_kind(ref: Any, **options: Any) -> Any:
        found = get(ref, **options)
        told.append(1)
        return replace(found, environment=replace(found.environment, hardware=f"kind {len(told)}"))

    monkeypatch.setattr("evolve.ray_executor.ray.get", other_kind)
    with pytest.raises(BadInput, match="All nodes must be alike.*hardware \\(kind 1 and kind 2\\)"):
        Cluster(asked(), pytest.fail)


# ---------------------------------------------------------------- whole campaigns


def campaign(side: Side, trials: int, workers: int = 1, seen: Any = None) -> list[Any]:
    """Runs one with the real loop and policy; returns its journal's events. `seen` is told each event."""
    rules = Rules(budget=Budget(trials=trials), gate=GateRules(baseline_seeds=2, max_seeds=4), workers=workers)
    (side.folder / "inbox").mkdir()
    with journal.Journal.open(side.folder, time.time) as book:
        state = State()
        first = CampaignStarted(
            campaign="c", subject=side.subject, subject_version="v", evaluation_version="e", secret_sha256="s", seed=3,
            rules=rules, start=Candidate({"x": 0.001, "y": 0.8, "size": 16, "mode": "flat"}, "v"), start_origin="test",
            config={},
        )  # fmt: skip
        apply(state, book.append(first).event)
        environment = ray_node.facts().environment

        def journalled(event: Any) -> None:
            side.local.journalled(event)
            if seen:
                seen(event)

        ports = Ports(Step(), side.executor, side.scorer, MemoryTracker(), side.store, environment,
                      journalled=journalled, left_behind=side.local.left_behind)  # fmt: skip
        stopped = Loop(book, state, rules, ports, side.folder / "inbox", lambda: False).run()
        assert stopped.kind == "finished", stopped
    return [r for r, _ in journal.read(side.folder / "journal.jsonl")]


class Step(Walk):
    """A walk in the quadratic subject's space."""

    def propose(self, view: Any) -> Any:
        import random

        from evolve.types import Proposal

        rng = random.Random(f"{view.seed}:{view.turn}:{view.retry}")
        changes = {"x": 10 ** rng.uniform(-3, -1), "y": rng.uniform(0.3, 1.0)}
        return Proposal(Candidate(view.space.overlay(view.incumbent, changes), view.subject_version), "walk", "a step")


def test_the_journal_of_a_campaign_equals_that_of_the_local_executor(remote: Side, near: Side) -> None:
    assert list(journal.stable(campaign(remote, 8))) == list(journal.stable(campaign(near, 8)))


@pytest.mark.slow
def test_a_killed_controller_takes_its_trainings_along_and_a_resume_finishes_the_campaign(
    nodes: Any, tmp_path: Path
) -> None:
    _, root = slow(tmp_path, 100)
    (tmp_path / "slow").touch()
    evolve, path = [sys.executable, "-m", "evolve.cli"], tmp_path / ".evolve/campaigns/c/journal.jsonl"
    words = [
        "run", "subject=quadratic", f"subject.root={root}", "subject.limits.train_seconds=120", "campaign=c",
        "tracking=none", "proposer=evolve", "gate=exploratory", "budget.trials=5", "executor=ray", "executor.workers=2",
        f"executor.address={nodes.address}",
    ]  # fmt: skip
    with (tmp_path / "out").open("w") as out:
        controller = subprocess.Popen([*evolve, *words], cwd=tmp_path, stdout=out, stderr=out)
        wait_until(lambda: len(running(NODE_FOLDER)) == 2 or controller.poll() is not None)
        assert controller.poll() is None, (tmp_path / "out").read_text()
        time.sleep(1.5)  # so that there is something to count
        controller.kill()
        controller.wait()
    wait_until(lambda: running(NODE_FOLDER) == [], 20)
    (tmp_path / "slow").unlink()
    done = subprocess.run([*evolve, "resume", "c"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [r.event for r, _ in journal.read(path)]
    assert Counter(e.number for e in events if isinstance(e, TrialFinished)) == Counter(range(5))
    resumed = [e for e in events if isinstance(e, SessionStarted)][1]
    assert resumed.killed is not None and len(resumed.killed) == 2
    assert all(usage.wall_seconds > 1 for usage in resumed.killed)


def test_a_node_killed_in_the_middle_loses_and_doubles_nothing(nodes: Any, tmp_path: Path) -> None:
    subject, root = slow(tmp_path, 0.7)
    (tmp_path / "slow").touch()
    victim = nodes.add_node(num_cpus=2, object_store_memory=OBJECTS, resources={"doomed": 2})
    nodes.add_node(num_cpus=2, object_store_memory=OBJECTS, resources={"doomed": 2})
    nodes.wait_for_nodes()
    side = Side(tmp_path / "remote", subject, root).on(Cluster(asked(workers=4, resources={"doomed": 1}), pytest.fail))
    finished: list[int] = []

    def end_of_node() -> None:
        """All its processes at once, as a machine goes: a killed raylet alone leaves its workers time to finish in."""
        [raylet] = victim.all_processes["raylet"]
        for pid in sandbox.family(raylet.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        nodes.remove_node(victim, allow_graceful=False)

    def kill(event: Any) -> None:
        if isinstance(event, TrialFinished):
            finished.append(event.number)
            if len(finished) == 4:  # a moment later, in the middle of the next ones
                threading.Timer(0.4, end_of_node).start()

    records = campaign(side, 10, workers=4, seen=kill)
    events = [r.event for r in records]
    ended = Counter(e.number for e in events if isinstance(e, TrialFinished))
    assert ended == Counter(range(10)), "each once, none lost"
    assert all(e.state == "COMPLETE" for e in events if isinstance(e, TrialFinished))
    lost = [e for e in events if isinstance(e, TrialInterrupted)]
    wait_until(lambda: running(NODE_FOLDER) == [])
    assert lost and all("was lost" in e.reason and e.usage.wall_seconds > 0 for e in lost)
    (tmp_path / "slow").unlink()
    alone = Side(tmp_path / "near", subject, root)
    again = {e.number: e for e in (r.event for r in campaign(alone, 3)) if isinstance(e, TrialFinished)}
    banks = list(range(2))  # of trials that depend on no order of ends
    found = {e.number: e for e in events if isinstance(e, TrialFinished)}
    assert [found[n].weights for n in banks] == [again[n].weights for n in banks]
    side.cluster.close()  # type: ignore[union-attr]
