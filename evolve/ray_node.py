"""What runs on a node of a cluster: the local executor and scorer, in folders of the node's own. Ray itself is not named here.

    controller --files by content hash, Job, weights--> Node --LocalExecutor, LocalScorer--> processes, jails
    controller <--News (progress, use so far)-- Node --Outcome (weights, logs, counts)--> controller (`ray_executor.py`)

A node keeps the snapshots of subjects between sessions, below one folder of the user's in the system's temporary one; all
else lies in a folder of one worker and ends with it. Where a worker was killed, the next one on the node ends what it left.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import filelock

from evolve import processes, sandbox, suite_runs
from evolve.contents import tree_hash
from evolve.environment import this_environment
from evolve.errors import Cancelled, EvolveError, TrialFailed
from evolve.executors import SHORT, LocalExecutor, LocalProcesses, LocalScorer, clear
from evolve.ports import Cancel, Scorer, Training
from evolve.types import Candidate, Environment, EvalProposal, IntegrityReport, Progress, Split, Subject, Trial, Usage
from evolve.weights import WeightStore
from evolve.workspace import Snapshot

_NEWS_SECONDS = 0.5  # that a question for news waits for some; well below what an account of a killed session adds
_LOG_MORE = 3 * 4096  # of a log beyond its limit: the tail and the line between
_LARGEST_FILE = 50_000_000


@dataclass(frozen=True)
class Setup:
    """What a session is about: the same for all its workers."""

    subject: Subject
    version: str  # of the snapshot, its tree hash
    sandbox: str  # of edited code, see `LocalProcesses`
    warm: bool


@dataclass(frozen=True)
class Facts:
    """What a node says of itself: evidence is paired only among nodes that are alike."""

    host: str
    environment: Environment
    sources: str  # sha256 of evolve's own
    sandbox: str
    sandbox_reason: str

    def unlike(self, other: Facts) -> str:
        """In what they differ, with both values, or ""."""
        mine, theirs = self.environment, other.environment
        pairs = (
            ("hardware", mine.hardware, theirs.hardware),
            ("Python", mine.python, theirs.python),
            ("installed packages", mine.lock[:8], theirs.lock[:8]),
            ("evolve's own sources", self.sources[:8], other.sources[:8]),
            ("sandbox", self.sandbox, other.sandbox),
        )
        return next((f"{what} ({a} and {b})" for what, a, b in pairs if a != b), "")


def facts() -> Facts:
    """Of this machine."""
    level = sandbox.find()
    return Facts(os.uname().nodename, this_environment(None), own_sources(), level.name, level.reason)


def own_sources() -> str:
    """sha256 of the modules that decide what runs and how: two versions of evolve may not share a campaign."""
    package = Path(__file__).parent
    files = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    return tree_hash(package, [file for file in files if file.parts[0] != "_data"])  # in a wheel only


@dataclass(frozen=True)
class Job:
    """One thing to do. `secret` is the campaign's, and there only where problems are drawn; `weights` come beside it."""

    what: Literal["train", "check", "bait", "score", "assess"]
    trials: tuple[Trial, ...] = ()
    candidate: Candidate | None = None
    bait: str | None = None
    split: Split = "search"
    round: int = 0
    secret: str = ""
    proposal: EvalProposal | None = None
    champion_id: str = ""
    weights: tuple[str, ...] = ()  # sha256, in the order of the bytes beside it


@dataclass(frozen=True)
class News:
    """Of a running job: the points since the last question, and the bytes of its account (`accounts.py`)."""

    points: tuple[Progress, ...] = ()
    account: bytes = b""


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `machine`: this node's trouble, not the subject's."""

    kind: Literal["done", "failed", "cancelled", "machine"] = "done"
    value: Any = None
    error: str = ""
    log_tail: str = ""
    usage: Usage | None = None
    integrity: IntegrityReport | None = None
    weights: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)  # of the trial's folder
    points: tuple[Progress, ...] = ()  # all of them
    lost: Usage | None = None  # what workers had used that were lost before this one

    def get(self) -> Any:
        """The value. Raises `TrialFailed`, `Cancelled` or `OSError`, as the local executor would have."""
        if self.kind == "done":
            return self.value
        if self.kind == "machine":
            raise OSError(self.error)
        failed = (Cancelled if self.kind == "cancelled" else TrialFailed)(self.error, self.log_tail, self.usage)
        failed.integrity = self.integrity
        raise failed


class Node:
    """One worker on a node. It does one job at a time; `news` and `cancel` are called from other threads meanwhile."""

    def __init__(self) -> None:
        self._base = _base()
        self._run = _own_folder(self._base)
        self._changed = threading.Condition()
        self._number, self._ended, self._points = -1, -1, list[Progress]()  # of the job under way
        self._account: Path | None = None
        self._cancels: dict[int, Cancel] = {}
        self._scorer: tuple[str, Scorer, suite_runs.Suite] | None = None

    def begin(self, setup: Setup, files: Mapping[str, bytes] | None = None) -> Facts | None:
        """Makes ready for a session; None where this node does not have the snapshot yet, and must be given its files.

        Raises `OSError` where what lies outside of the snapshot is not here as it was pinned.
        """
        snapshot = materialise(self._base / "code", setup.version, files, setup.subject.outside)
        if snapshot is None:
            return None
        try:
            snapshot.verify()  # what lies outside of it is not sent: this node must have the same
        except EvolveError as error:
            raise OSError(f"{os.uname().nodename}: {error}") from error
        store = WeightStore(self._run / "weights")
        self._local = LocalProcesses(setup.subject, snapshot, self._run / "trials", store, setup.sandbox)
        self._executor = LocalExecutor(self._local)
        if setup.warm:
            self._local.warm_up(lambda line: None)
        return facts()

    def ping(self) -> None:
        pass

    def run(self, number: int, job: Job, *weights: bytes) -> Outcome:
        """Does the job; what goes wrong with it is part of the outcome."""
        with self._changed:
            self._number, self._points = number, []
            cancel = self._cancels.setdefault(number, Cancel())
            self._changed.notify_all()
        try:
            if cancel.requested:
                raise Cancelled("ended by the controller", usage=Usage(0.0, 0.0, 0.0))
            self._keep(job, weights)
            value, trained = self._perform(job, cancel)
            outcome = Outcome(value=value, weights=trained)
        except TrialFailed as error:
            kind: Literal["failed", "cancelled"] = "cancelled" if isinstance(error, Cancelled) else "failed"
            outcome = Outcome(kind, None, str(error), error.log_tail, error.usage, error.integrity)
        except (OSError, MemoryError) as error:
            outcome = Outcome("machine", error=f"{os.uname().nodename}: {error}")
        files = self._collect(job)
        with self._changed:
            self._ended, self._account = number, None
            self._cancels.pop(number, None)
            self._changed.notify_all()
        return replace(outcome, files=files, points=tuple(self._points))

    def news(self, number: int, after: int) -> News:
        """What there is beyond `after` points; answers at once where there is something, or the job has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended >= number or (self._number == number and len(self._points) > after), _NEWS_SECONDS
            )
            points = tuple(self._points[after:]) if self._number == number else ()
            account = self._account
        try:
            return News(points, account.read_bytes() if account else b"")
        except OSError:
            return News(points)

    def cancel(self, number: int) -> None:
        """Ends the job in order, so that what it used is counted; also one that has not begun yet."""
        with self._changed:
            cancel = None if self._ended >= number else self._cancels.setdefault(number, Cancel())
        if cancel is not None:
            cancel.request()

    def end(self) -> None:
        """The last call: nothing of this worker stays on the node but the snapshot."""
        self._local.close()
        clear(self._run)

    # ------------------------------------------------ one job

    def _keep(self, job: Job, weights: tuple[bytes, ...]) -> None:
        """The store holds what this job needs and nothing else; each under the hash of what really came."""
        store = self._local.store
        store.fresh.clear()
        store.collect(set(job.weights))
        for sha256, data in zip(job.weights, weights, strict=True):
            if store.put(data) != sha256:
                raise OSError(f"weights {sha256[:8]} did not arrive as they were sent")

    def _perform(self, job: Job, cancel: Cancel) -> tuple[Any, bytes]:
        local = self._local
        if job.what in ("train", "check"):
            assert job.candidate is not None
            local.bait = lambda: job.bait
            if job.what == "check":
                self._account = local.books / job.candidate.id[:SHORT]
                return self._executor.check(job.candidate, cancel), b""
            [trial] = job.trials
            self._account = local.books / f"{trial.number:05d}"
            training: Training = self._executor.train(trial, job.candidate, self._report, cancel)
            return training, local.store.verified(training.weights).read_bytes()
        if self._scorer is None or self._scorer[0] != job.secret:
            inner, suite = LocalScorer(local, job.secret), suite_runs.Suite(local, job.secret)
            self._bait = local.bait
            self._scorer = job.secret, suite_runs.SuiteScorer(inner, suite) if local.subject.suite else inner, suite
        _, scorer, suite = self._scorer
        if job.what == "bait":
            return self._bait(), b""
        if job.what == "assess":
            assert job.proposal is not None
            return suite.assess(job.proposal, job.trials, job.champion_id, cancel), b""
        return scorer.score(job.trials, job.split, job.round, cancel), b""

    def _report(self, point: Progress) -> None:
        with self._changed:
            self._points.append(point)
            self._changed.notify_all()

    def _collect(self, job: Job) -> dict[str, bytes]:
        """What the trial's folder is to have at the controller; the folder goes."""
        found: dict[str, bytes] = {}
        for trial in job.trials:
            folder = self._local.trials / f"{trial.number:05d}"
            for name in names(job):
                limit = self._local.subject.limits.log_bytes + _LOG_MORE if name.endswith(".log") else _LARGEST_FILE
                try:
                    with (folder / name).open("rb") as file:
                        found[name] = file.read(limit)
                except OSError:
                    continue
            clear(folder)
        shutil.rmtree(self._local.books, ignore_errors=True)
        return found


def names(job: Job) -> tuple[str, ...]:
    """The files that a job leaves in its trial's folder, beside what ends with it."""
    if job.what == "train":
        return "train.json", "train.log"
    if job.what == "score" and job.split == "search" and len(job.trials) == 1:
        return "score.log", f"evaluation-search-{job.round}.json"
    return ()


# ---------------------------------------------------------------- folders of a node


def _base() -> Path:
    """The user's folder for all campaigns on this node. Raises `OSError` where somebody else could write there."""
    base = Path(tempfile.gettempdir()) / f"evolve-node-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    info = base.lstat()
    if base.is_symlink() or info.st_uid != os.getuid() or info.st_mode & 0o022:
        raise OSError(f"{base} must be this user's own folder, and writable for nobody else; remove it")
    return base


def _own_folder(base: Path) -> Path:
    """A new folder for this worker, named by its process; what dead ones left is ended and removed first."""
    runs = base / "runs"
    runs.mkdir(exist_ok=True)
    with filelock.FileLock(base / "runs.lock"):
        for folder in runs.iterdir():
            pid, _, start = folder.name.partition("-")
            if pid.isdigit() and processes.start_time(int(pid)) != start:
                for place in (*folder.glob("trials/*"), *folder.glob("checks/*"), folder / "canary"):
                    processes.kill_leftover(place)
                clear(folder)
        mine = runs / f"{os.getpid()}-{processes.start_time(os.getpid())}"
        clear(mine)
        (mine / "trials").mkdir(parents=True)
    return mine


def materialise(
    parent: Path, version: str, files: Mapping[str, bytes] | None, outside: Mapping[str, str] | None = None
) -> Snapshot | None:
    """The snapshot of that content hash below `parent`, made from `files` where it is not there as it was; None without them.

    Raises `OSError` where the files are not those of the hash.
    """
    parent.mkdir(exist_ok=True)
    snapshot = Snapshot(parent / version[:16], version, outside)
    with filelock.FileLock(parent / f"{version[:16]}.lock"):
        if _intact(snapshot):
            return snapshot
        if files is None:
            return None
        clear(snapshot.folder)  # the system may have tidied its temporary folder
        temporary = parent / f".{version[:16]}.{os.getpid()}"
        clear(temporary)
        for name, data in files.items():
            target = temporary / name
            if not target.resolve().is_relative_to(temporary.resolve()):
                raise OSError(f"a file of the snapshot must lie in it, but got {name!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(0o444)
        if not _intact(Snapshot(temporary, version)):
            clear(temporary)
            raise OSError(f"the snapshot {version[:8]} did not arrive as it was sent")
        temporary.replace(snapshot.folder)
    return snapshot


def _intact(snapshot: Snapshot) -> bool:
    try:
        snapshot.verify_copy()
    except EvolveError:
        return False
    return snapshot.folder.is_dir()
