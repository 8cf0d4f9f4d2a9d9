"""Trainings and scores on a Ray cluster: the controller's side. The only module that names Ray.

A worker is an actor with the resources of one trial, placed by Ray; it runs `ray_node.Node`, and so the local executor and
scorer. Controller and worker speak by calls: a job, news of it while it runs, its outcome. What comes back is checked here
like what a training leaves on this machine, and this process alone writes journal, weights and trials' folders.

Ray repeats nothing by itself. A worker that is gone (a lost or preempted node, a killed process) makes a training `Lost`, so
that the journal says so and the loop runs it again; a score or a check of an edit is asked again, elsewhere.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evolve import ray_node
from evolve.errors import BadInput, Cancelled, Lost, TrialFailed
from evolve.executors import SHORT, LocalProcesses
from evolve.ports import Cancel, Checked, Training
from evolve.ray_node import Facts, Job, Node, Outcome, Setup, names
from evolve.types import (
    Candidate,
    Environment,
    EvalProposal,
    EvalReport,
    Evaluation,
    Progress,
    Split,
    Trial,
    Usage,
)
from evolve.weights import Bundle, check

_LOOK_SECONDS = 0.2  # between two looks at a cancellation, while nothing is reported
_END_SECONDS = 15.0  # for an orderly end of a job (a jail takes up to 10), before its worker is killed
_PROBE_SECONDS = 60.0  # for a node to say what it is; it starts a process and imports evolve
_PING_SECONDS = 10.0
_TRIES = 3  # of what is asked again elsewhere when its worker is lost
_UNLIKE = 5  # workers on nodes that joined later and are of another kind, before that is a fault
_KEPT_BLOBS = 16  # weights in the object store at once: the champion's are scored again and again


@dataclass(frozen=True)
class Asked:
    """What is asked of the cluster. `resources`: Ray's custom ones, each trial's."""

    address: str | None  # None: a local one, which ends with the session
    workers: int
    num_cpus: float
    num_gpus: float
    resources: Mapping[str, float]

    @property
    def each(self) -> dict[str, float]:
        found = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return {name: amount for name, amount in found.items() if amount > 0}


@dataclass
class _Worker:
    actor: Any
    host: str


class Cluster:
    """The workers of one session. Made in the thread that runs the loop; `call` is for its worker threads."""

    def __init__(self, asked: Asked, warn: Callable[[str], None]) -> None:
        """Connects and asks each node that could carry a trial what it is. Raises `BadInput` in one line."""
        self._asked = asked
        self._ours = _connect(asked)
        self._idle: list[_Worker] = []
        try:
            self.facts = self._probe(warn)
        except BaseException:
            self.close()
            raise
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._blobs: dict[str, Any] = {}
        self._setup: Any = None
        self._files: Any = None
        self._local: LocalProcesses | None = None
        self._node = ray.remote(Node).options(
            num_cpus=asked.num_cpus, num_gpus=asked.num_gpus, resources=dict(asked.resources), max_concurrency=4,
            max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD",
        )  # fmt: skip

    def environment(self, commit: str | None) -> Environment:
        """That results made here depend on: the nodes', with the commit of the subject's repository."""
        return replace(self.facts.environment, commit=commit)

    def sandbox(self, asked: str) -> tuple[str, str]:
        """What edited code runs in on the nodes, and why: as `compose.sandbox_of` says it of this machine."""
        level, reason = self.facts.sandbox, f"{self.facts.sandbox_reason}, on the nodes"
        if asked == "none":
            return "none", "sandbox=none: after edited code has run, nothing of the campaign can be accepted"
        if level != "bubblewrap" and asked == "bubblewrap":
            raise BadInput(f"sandbox=bubblewrap must work on each node, but {self.facts.sandbox_reason}")
        return (level if level == "bubblewrap" else "unavailable"), reason

    def begin(self, local: LocalProcesses, *, warm: bool) -> None:
        """What the session is about; its files go into the object store once."""
        self._local = local
        folder = local.snapshot.folder
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self._setup = Setup(local.subject, local.snapshot.version, local.sandbox, warm)
        self._files = ray.put(files)

    def close(self) -> None:
        workers, self._idle = self._idle, []
        with contextlib.suppress(RayError):
            if ends := [worker.actor.end.remote() for worker in workers]:
                ray.wait(ends, num_returns=len(ends), timeout=_PING_SECONDS)
        for worker in workers:
            _kill(worker.actor)
        if self._ours:
            ray.shutdown()

    # ------------------------------------------------ the nodes

    def _probe(self, warn: Callable[[str], None]) -> Facts:
        each = self._asked.each
        nodes = [n for n in ray.nodes() if n["Alive"] and all(n["Resources"].get(k, 0) >= v for k, v in each.items())]
        if not nodes:
            wanted = ", ".join(f"{name} {amount:g}" for name, amount in each.items()) or "nothing"
            raise BadInput(f"A node of the cluster must carry a trial ({wanted}), but none does; ask for less.")
        places = [NodeAffinitySchedulingStrategy(n["NodeID"], soft=False) for n in nodes]
        ask = ray.remote(ray_node.facts)
        refs = [ask.options(num_cpus=0, max_retries=1, scheduling_strategy=place).remote() for place in places]
        found: list[Facts] = []
        for node, ref in zip(nodes, refs, strict=True):
            try:
                found.append(ray.get(ref, timeout=_PROBE_SECONDS))
            except (RayError, ImportError) as error:
                said = str(getattr(error, "cause", None) or error).strip().splitlines()[-1][:200]
                raise BadInput(
                    f"Each node must have this evolve in its Python, but {node['NodeManagerHostname']} says: {said};"
                    " install it there, or keep trials off that node with executor.resources."
                ) from error
        if found[0].sources != ray_node.own_sources():
            raise BadInput(
                "The nodes must have this evolve, but theirs is another version; install the same one there."
            )
        for other in found[1:]:
            if differs := found[0].unlike(other):
                raise BadInput(
                    f"All nodes must be alike, since evidence is paired only among those, but {found[0].host} and"
                    f" {other.host} differ in {differs}; keep trials off one kind with executor.resources."
                )
        room = sum(
            int(min(n["Resources"][k] / v for k, v in each.items())) if each else self._asked.workers for n in nodes
        )
        if room < self._asked.workers:
            warn(
                f"the cluster carries {room} of executor.workers={self._asked.workers} trials at once: the others wait"
            )
        return found[0]

    # ------------------------------------------------ workers

    def _take(self, cancel: Cancel) -> _Worker:
        """An idle worker that answers, or a new one. Raises `Cancelled`; `OSError` where none can be had."""
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._new(cancel)
            try:
                ray.get(worker.actor.ping.remote(), timeout=_PING_SECONDS)
            except RayError:  # its node went while it had nothing to do: nobody's loss
                _kill(worker.actor)
            else:
                return worker

    def _new(self, cancel: Cancel) -> _Worker:
        refused: list[Any] = []  # held until there is a good one, so that Ray places that elsewhere
        lost, said = 0, ""
        try:
            while len(refused) < _UNLIKE and lost < _UNLIKE:
                actor = self._node.remote()
                ready = actor.begin.remote(self._setup)
                try:
                    other, facts = self._wait_for(actor, ready, cancel)
                    if other is not None:
                        _kill(actor)
                        return other
                    assert facts is not None
                except Cancelled:
                    _kill(actor)
                    raise
                except RayTaskError as error:
                    _kill(actor)
                    raise OSError(f"a worker must be able to begin, but says: {error.cause}") from error
                except RayError as error:
                    _kill(actor)
                    lost, said = lost + 1, _first_line(error)
                    continue
                if not (differs := self.facts.unlike(facts)):
                    return _Worker(actor, facts.host)
                refused.append(actor)
                said = f"{facts.host} differs from the session's first nodes in {differs}"
            raise OSError(f"a worker must be had from the cluster, but {said}")
        finally:
            for actor in refused:
                _kill(actor)

    def _wait_for(self, actor: Any, ready: Any, cancel: Cancel) -> tuple[_Worker | None, Facts | None]:
        """Until the worker has begun; or another one, which has become idle and may hold what this one waits for."""
        while True:
            if cancel.requested:
                raise Cancelled("ended by the controller", usage=Usage(0.0, 0.0, 0.0))
            done, _ = ray.wait([ready], timeout=_LOOK_SECONDS)
            if done:
                facts = ray.get(ready)
                if facts is not None:
                    return None, facts
                ready = actor.begin.remote(self._setup, self._files)
                continue
            with self._lock:
                if self._idle:
                    return self._idle.pop(), None

    # ------------------------------------------------ jobs

    def call(
        self,
        job: Job,
        cancel: Cancel,
        progress: Callable[[Progress], None] = lambda point: None,
        account: Path | None = None,
    ) -> Outcome:
        """Does a job on some worker. `account` is where the next session finds what it has used, should this one be killed.

        Raises `Lost` where its worker is gone, `Cancelled` where it had to be killed or never began, `OSError` where there
        is no worker to be had.
        """
        worker = self._take(cancel)
        number, asked = next(self._numbers), None
        use = _Use(account, max(1.0, self._asked.num_cpus))
        try:
            done = worker.actor.run.remote(number, job, *(self._blob(sha256) for sha256 in job.weights))
            seen, news = 0, worker.actor.news.remote(number, 0)
            while True:
                if cancel.requested and asked is None:
                    asked = time.monotonic()
                    worker.actor.cancel.remote(number)
                if asked is not None and time.monotonic() - asked > _END_SECONDS:
                    raise Cancelled("ended by the controller, with its worker", usage=use.most())
                ready, _ = ray.wait([done, news], num_returns=1, timeout=_LOOK_SECONDS)
                if done in ready:
                    break
                if news in ready:
                    told = ray.get(news)
                    seen += len(told.points)
                    news = worker.actor.news.remote(number, seen)
                    use.told(told.account)
                    for point in told.points:
                        progress(point)
            outcome: Outcome = ray.get(done)
        except RayTaskError:  # a fault of ours on the node
            _kill(worker.actor)
            raise
        except RayError as error:
            _kill(worker.actor)  # where it only could not be reached: what it still does must not be done twice
            raise Lost(f"its worker on {worker.host} was lost: {_first_line(error)}", usage=use.most()) from error
        except BaseException:
            _kill(worker.actor)
            raise
        with self._lock:
            self._idle.append(worker)
        for point in outcome.points[seen:]:
            progress(point)
        return outcome

    def _blob(self, sha256: str) -> Any:
        """The weights in the object store, put there once."""
        assert self._local is not None
        with self._lock:
            found = self._blobs.pop(sha256, None)
        if found is None:
            found = ray.put(self._local.store.verified(sha256).read_bytes())
        with self._lock:
            self._blobs[sha256] = found
            while len(self._blobs) > _KEPT_BLOBS:
                del self._blobs[next(iter(self._blobs))]
        return found

    def ask(self, job: Job, cancel: Cancel, account: Path | None = None) -> Outcome:
        """The outcome of a job that may be done twice: done elsewhere where its worker is lost.

        Raises as `call` does, and `TrialFailed` where that happens again and again.
        """
        used: Usage | None = None
        for _ in range(_TRIES):
            try:
                outcome = self.call(job, cancel, account=account)
            except Lost as error:
                said = str(error)
                used = _sum(used, error.usage)
            else:
                return replace(outcome, lost=used)
        raise TrialFailed(f"{job.what}: {_TRIES} times in a row {said}", usage=used)


@dataclass
class _Use:
    """What a job has used so far, by its worker's account; never less than it can have used where nobody could look."""

    path: Path | None
    cpus: float
    begun: float = field(default_factory=time.monotonic)
    looked: float = field(default_factory=time.monotonic)
    cpu_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(exist_ok=True)
            self._write(json.dumps({"cpu": 0.0, "wall": 0.0, "over": False, "seen": {}}).encode())

    def told(self, account: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            self.cpu_seconds = max(self.cpu_seconds, float(json.loads(account)["cpu"]))
            self.looked = time.monotonic()
            self._write(account)

    def most(self) -> Usage:
        now = time.monotonic()
        return Usage(self.cpu_seconds + (now - self.looked) * self.cpus, now - self.begun, 0.0)

    def _write(self, account: bytes) -> None:
        if self.path is not None:
            temporary = self.path.with_name(f".{self.path.name}")
            temporary.write_bytes(account)
            temporary.replace(self.path)


def _connect(asked: Asked) -> bool:
    """Whether the connection is ours to end. Raises `BadInput`."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if asked.address is None:
        quiet |= {"include_dashboard": False}
    with _signals_kept():
        try:
            ray.init(asked.address or "local", **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as error:
            raise BadInput(
                f"executor.address must be a Ray cluster that answers, but {asked.address!r} does not: {_first_line(error)};"
                " start one with `ray start --head`, or set executor.address=null for a local one."
            ) from error
    return True


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts its own handlers in place: a stop in order is ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(actor: Any) -> None:
    """The worker and, since their lives are tied to its, whatever it runs."""
    with contextlib.suppress(Exception):
        ray.kill(actor)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


class RayExecutor:
    """`ports.Executor` on a cluster. `local` is the controller's: where what comes back is checked and kept."""

    def __init__(self, cluster: Cluster, local: LocalProcesses, secret: str) -> None:
        self._cluster, self._local, self._secret = cluster, local, secret
        self._lock, self._baits = threading.Lock(), list[str | None]()

    def _bait(self) -> str | None:
        """The subject's own false answers, made once by a worker that may know the campaign's key."""
        with self._lock:
            if not self._baits:
                self._baits.append(self._cluster.ask(Job("bait", secret=self._secret), Cancel()).get())
            return self._baits[0]

    def train(
        self, trial: Trial, candidate: Candidate, progress: Callable[[Progress], None], cancel: Cancel
    ) -> Training:
        local, folder = self._local, self._local.folder(trial)
        bait = None if candidate.patch is None else self._bait()
        job = Job("train", (trial,), candidate, bait)
        outcome = self._cluster.call(job, cancel, progress, local.books / folder.name)
        keep(outcome, job, folder)
        training: Training = outcome.get()
        try:
            return replace(training, weights=local.store.put(self._checked(outcome.weights)))
        except TrialFailed as error:
            raise TrialFailed(str(error), training.log_tail, training.usage) from error

    def _checked(self, data: bytes) -> bytes:
        """The canonical bytes of what a node says are weights; it is not believed about their form. Raises `TrialFailed`."""
        form: Any = self._local.form
        if len(data) > form.most_bytes:
            raise TrialFailed(f"Weights must be at most {form.most_bytes} bytes, but {len(data)} came from the node.")
        return form.check(data) if isinstance(form, Bundle) else check(data, form)

    def check(self, candidate: Candidate, cancel: Cancel) -> Checked:
        job = Job("check", (), candidate, self._bait())
        try:
            outcome = self._cluster.ask(job, cancel, self._local.books / candidate.id[:SHORT])
            found: Checked = outcome.get()
        except Cancelled:
            raise
        except TrialFailed as error:
            return Checked("smoke", str(error), error.usage)
        return replace(found, usage=_sum(found.usage, outcome.lost))


class RayScorer:
    """`ports.Scorer` and `ports.Assessor` on a cluster, with the campaign's suite where it has one."""

    def __init__(self, cluster: Cluster, local: LocalProcesses, secret: str) -> None:
        self._cluster, self._local, self._secret = cluster, local, secret

    def score(self, trials: Sequence[Trial], split: Split, round: int, cancel: Cancel) -> list[Evaluation]:
        if unweighed := [t.number for t in trials if t.weights is None]:
            raise TrialFailed(f"trial {unweighed[0]} has no weights to score")
        job = Job("score", tuple(trials), split=split, round=round, secret=self._secret, weights=_weights(trials))
        outcome: Outcome = self._cluster.ask(job, cancel)
        if names(job):
            keep(outcome, job, self._local.folder(trials[0]))
        found: list[Evaluation] = outcome.get()
        return found

    def assess(
        self, proposal: EvalProposal, trials: Sequence[Trial], champion_id: str, cancel: Cancel
    ) -> tuple[EvalReport | None, str]:
        job = Job("assess", tuple(trials), secret=self._secret, proposal=proposal, champion_id=champion_id,
                  weights=_weights(trials))  # fmt: skip
        try:
            found: tuple[EvalReport | None, str] = self._cluster.ask(job, cancel).get()
        except Cancelled:
            raise
        except TrialFailed as error:  # lost again and again: not the evaluation's fault
            raise OSError(str(error)) from error
        return found


def _sum(one: Usage | None, other: Usage | None) -> Usage | None:
    if one is None or other is None:
        return one or other
    peak = max(one.peak_memory_mb, other.peak_memory_mb)
    return Usage(one.cpu_seconds + other.cpu_seconds, one.wall_seconds + other.wall_seconds, peak)


def _weights(trials: Sequence[Trial]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(trial.weights) for trial in trials))


def keep(outcome: Outcome, job: Job, folder: Path) -> None:
    """Writes what came back for the trial's folder: only names that such a job leaves."""
    for name in names(job):
        if (data := outcome.files.get(name)) is not None:
            (folder / name).write_bytes(data)
