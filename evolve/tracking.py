"""MLflow as a projection of the journal: what is carried over, how far, and what happens when the server is away.

How an event looks in MLflow is in `tracking_runs.py`, the text of the campaign's page in `tracking_page.py`, the model
registry in `registry.py`. Nothing here decides anything: a campaign whose tracker fails differs in no event.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from evolve import durable
from evolve.errors import TrackingFailed
from evolve.state import State, apply
from evolve.tracking_page import plain
from evolve.tracking_runs import Runs
from evolve.types import Record

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RETRY_SECONDS = 30.0  # after a failure the next attempt waits for a new event, and at least so long
CLOSE_SECONDS = 10.0
_LOCK_SECONDS = 10.0  # another one that is about to end gets so long for the event that it has in hand

# Before mlflow's import. Telemetry and litellm's price map would go out to the internet; a dead server must cost 0.1 s,
# where MLflow's own defaults let a call hang for four minutes (STACK.md).
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",  # written when it is said to be, as everything else
    "PGCONNECT_TIMEOUT": "5",  # of PostgreSQL's own client, which else waits for two minutes for a host that says nothing
}


_IMPORT = threading.Lock()
_TABLES_LOCK = 0x65766F6C7665  # "evolve"; any number that all evolves share


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`; the first call in a process imports mlflow (3 CPU seconds).

    Raises `sqlite3.Error` where an SQLite file cannot be opened and SQLAlchemy's errors where a database does not answer:
    MLflow itself would try for 100 seconds. Raises `TrackingFailed` where the database's driver is not installed.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if uri.startswith("sqlite:///"):
        sqlite3.connect(uri.removeprefix("sqlite:///")).close()
    with _IMPORT:  # two threads that import mlflow at the same time break it: a circular import inside
        from mlflow.tracking import MlflowClient

        if uri.startswith("sqlite:///") and not uri.endswith(":memory:"):
            _make_database(Path(uri.removeprefix("sqlite:///")))
        elif is_database(uri) and not uri.startswith("sqlite:"):
            _prepare_database(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_database(uri: str) -> bool:
    """Whether MLflow opens the store itself, so that whoever makes an experiment says where its files go; a server decides that.

    >>> is_database("postgresql+psycopg2://db/mlflow"), is_database("sqlite:///mlflow.db"), is_database("http://host:5000")
    (True, True, False)
    """
    return uri.partition(":")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def _prepare_database(uri: str) -> None:
    """Asks a database server once whether it is there, and makes MLflow's tables where there are none."""
    import sqlalchemy
    from mlflow.store.db.utils import _all_tables_exist, _initialize_tables

    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    except ModuleNotFoundError as error:
        raise TrackingFailed(
            f"A database must have its driver, but the module {error.name} of {shown_uri(uri)} is not installed; for"
            " PostgreSQL: pip install 'evolve[shared]' and tracking.uri=postgresql+psycopg2://..."
        ) from error
    with engine.connect() as connection:
        if _all_tables_exist(engine):
            return
        if (
            engine.dialect.name == "postgresql"
        ):  # two that make the tables at once fail each other; ends with the connection
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_TABLES_LOCK})"))
        if not _all_tables_exist(engine):
            _initialize_tables(engine)


def _make_database(path: Path) -> None:
    """A new one is made beside `path` and renamed: one that was killed half made could never be used again."""
    if _is_made(path):
        return
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    with filelock.FileLock(f"{path}.lock"):
        if _is_made(path):  # another process was quicker
            return
        new = Path(f"{path}.new")
        for left in path.parent.glob(f"{new.name}*"):  # by one that was killed, SQLite's own journal too
            left.unlink()
        engine = sqlalchemy.create_engine(f"sqlite:///{new}")
        _initialize_tables(engine)
        engine.dispose()
        os.replace(new, path)


def _is_made(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def shown_uri(uri: str) -> str:
    """`uri`, or a text with several, without a password.

    >>> shown_uri("postgresql://me:secret@db/mlflow")
    'postgresql://db/mlflow'
    >>> shown_uri("postgresql://me:sl/ash@db/mlflow and postgresql://db/mlflow?user=me&password=secret")
    'postgresql://db/mlflow and postgresql://db/mlflow?user=me&password=***'
    """
    uri = re.sub(r"([?&]\w*password=)[^&\s]*", r"\1***", uri)
    # SQLAlchemy takes a slash in a password; in a server's address an @ may come behind one.
    return re.sub(r"(?<!http:)(?<!https:)//[^@/:\s]*:[^@\s]*@|//[^@/]*@", "//", uri)


# ---------------------------------------------------------------- position


@dataclass(frozen=True)
class Position:
    """How far a store has come: the last event that it shows, and where the campaign is in it.

    `page_due`: the campaign's page lags behind, since more events waited then. `rebuilding`: the store may show more than the
    journal, until all of it is carried over (`Runs.sweep`).
    """

    uri: str
    seq: int
    experiment_id: str
    run_id: str
    page_due: bool = False
    rebuilding: bool = False


def read_position(folder: Path) -> Position | None:
    """The position kept in the campaign's `tracking.json`; None where there is none that can be read."""
    try:
        raw = json.loads((folder / "tracking.json").read_text())
        marks = (raw.get("page_due") is True, raw.get("rebuilding") is True)
        return Position(str(raw["uri"]), int(raw["seq"]), str(raw["experiment_id"]), str(raw["run_id"]), *marks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _last_seq(folder: Path) -> int:
    """The number of the journal's last whole line; 0 where there is none."""
    try:
        whole = (folder / "journal.jsonl").read_bytes().rpartition(b"\n")[0]
    except FileNotFoundError:
        return 0
    return int(json.loads(whole.rpartition(b"\n")[2])["seq"]) if whole else 0


# ---------------------------------------------------------------- carrying over


class Carrier:
    """Carries one event after the other to an MLflow store, and keeps how far it has come. One at a time has a campaign.

    The whole journal is expected again after a restart: what `tracking.json` says is there already is read, not repeated.
    At most the one event after it may be half carried over, so only for that the store is searched first.

    `warn` gets at most one line about a store that fails, and one about a run that a person deleted there. `artifacts` is
    the folder or URI for files of an experiment that has to be made; None leaves it to the server.
    """

    def __init__(
        self, uri: str, folder: Path, *, warn: Callable[[str], None], artifacts: Path | str | None = None
    ) -> None:
        self._uri = uri
        self._folder = folder
        self._warn = warn
        self._warned = False
        self._lock = filelock.FileLock(folder / "tracking.lock", is_singleton=False, thread_local=False)
        self._state = State()
        self._folded = -1
        self._carried = -1
        self._runs = Runs(lambda: connect(uri), folder, artifacts, warn)

    def carry(self, record: Record, *, behind: bool = False) -> bool:
        """Shows one event in the store, in the journal's order; False where that failed, and it has to be tried again.

        `behind`: others wait already, so that what sums up the campaign need not be shown after this one.
        """
        try:
            if not self._lock.is_locked:
                self._resume()
            if record.seq > self._folded:  # not again at a second attempt
                apply(self._state, record.event)
                self._folded = record.seq
            if record.seq <= self._carried:
                self._runs.skip(self._state, record.event)
                asked = False
            else:
                asked = self._runs.carry(self._state, record.event, round(record.time * 1000), behind=behind)
            if self._runs.rebuilding and not behind and record.seq == _last_seq(self._folder):
                self._runs.sweep(self._state)
                asked = True
            if not behind and self._runs.page_due:
                self._runs.show_page(self._state)
                asked = True
            if asked:
                self._keep(max(record.seq, self._carried))
                self._runs.careful = False
            return True
        except Exception as error:  # noqa: BLE001 - the port's promise: whatever MLflow does, the campaign goes on
            self._failed(record, error)
            return False

    def close(self) -> None:
        """Another may carry on."""
        self._lock.release()

    def _resume(self) -> None:
        try:
            self._lock.acquire(timeout=_LOCK_SECONDS)
        except filelock.Timeout as error:
            raise TrackingFailed("one process at a time carries a campaign over, but another one is at it") from error
        position = read_position(self._folder)
        if position is not None and position.uri == self._uri:
            self._carried = position.seq
            self._runs.experiment_id, self._runs.run_id = position.experiment_id, position.run_id
            self._runs.page_due = self._runs.undrawn = position.page_due
            self._runs.rebuilding = position.rebuilding
            self._runs.careful = True

    def _keep(self, seq: int) -> None:
        # Volatile events may not be on the disk yet, and after a power cut their numbers would be others'.
        with contextlib.suppress(FileNotFoundError), open(self._folder / "journal.jsonl", "rb") as journal:
            os.fsync(journal)
        runs = self._runs
        marks = (runs.page_due, runs.rebuilding)
        position = Position(self._uri, seq, runs.experiment_id, runs.run_id, *marks)
        durable.write(self._folder / "tracking.json", json.dumps(asdict(position)))
        self._carried = seq

    def _failed(self, record: Record, error: Exception) -> None:
        self._runs.careful = True
        if not self._warned:
            self._warned = True
            reason = plain(f"{type(error).__name__}: {shown_uri(str(error))}", 300)
            self._warn(
                f"MLflow at {shown_uri(self._uri)} must take every event, but refused number {record.seq} ({reason});"
                " the campaign goes on, `evolve sync` carries the rest over."
            )


class MlflowTracker:
    """`ports.Tracker` in a thread of this process, for commands that need mlflow anyhow and end soon.

    `record` queues, one daemon thread carries over, in the journal's order (`Carrier`). After a failure the events wait; the
    next attempt comes with a later event (`RETRY_SECONDS`) or with `flush`. `warn` is called from the thread.
    """

    def __init__(
        self, uri: str, folder: Path, *, warn: Callable[[str], None], artifacts: Path | str | None = None
    ) -> None:
        self._wake = threading.Condition()
        self._backlog: deque[Record] = deque()
        self._seen = -1
        self._held = False  # after a failure, until the next attempt is due
        self._retry_at = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._carrier = Carrier(uri, folder, warn=warn, artifacts=artifacts)

    def record(self, record: Record) -> None:
        """Takes one event, in the order of the journal, in microseconds; one seen before changes nothing."""
        with self._wake:
            if record.seq <= self._seen:
                return
            self._seen = record.seq
            self._backlog.append(record)
            if self._held and time.monotonic() >= self._retry_at:
                self._held = False
            self._wake.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="evolve-tracker", daemon=True)
                self._thread.start()

    def flush(self, timeout_seconds: float) -> int:
        """Waits until all is carried over, the store fails (again), or the time is up; returns the backlog."""
        with self._wake:
            self._held = False
            self._wake.notify_all()
            self._wake.wait_for(lambda: not self._backlog or self._held or self._closing, timeout_seconds)
            return len(self._backlog)

    def close(self) -> None:
        """Ends the thread after the event in hand; what is left is carried over by the next tracker or `evolve sync`."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or (self._backlog and not self._held))
                if self._closing:
                    self._carrier.close()
                    return
                record, behind = self._backlog[0], len(self._backlog) > 1
            done = self._carrier.carry(record, behind=behind)
            with self._wake:
                if done:
                    self._backlog.popleft()
                else:
                    self._held, self._retry_at = True, time.monotonic() + RETRY_SECONDS
                if self._held or not self._backlog:
                    self._wake.notify_all()
