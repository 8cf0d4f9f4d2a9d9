"""Where a campaign's files lie under the state folder, and how they are made and found. No concrete port is named here.

.evolve/campaigns/<name>/  journal.jsonl  lock  secret  inbox/  trials/  weights/  code/<hash>/  tracking.json  tracking.lock  projected.json  used/
.evolve/champions/<subject>.yaml  .evolve/evaluations/<subject>.json      .evolve/mlflow.db      .evolve/mlartifacts/
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from evolve.errors import BadInput, EvolveError, NotFound, did_you_mean
from evolve.journal import Journal, check_version, read
from evolve.state import State, apply
from evolve.types import CampaignStarted, Candidate, Subject, digest, evaluation_digest
from evolve.workspace import Snapshot

POSITIONS = ("tracking.json", "projected.json")  # up to which line of the journal a projection shows it


@dataclass(frozen=True)
class Folder:
    """One campaign's folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def state_dir(self) -> Path:
        return self.path.parent.parent

    @property
    def inbox(self) -> Path:
        return self.path / "inbox"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    def secret(self) -> str:
        """The campaign's secret (64 hex digits). Raises `EvolveError` where it is not the one it was started with."""
        try:
            return (self.path / "secret").read_text().strip()
        except (OSError, ValueError) as error:
            raise EvolveError(
                f"The campaign's secret must be readable, but {error}; it cannot go on without."
            ) from error

    def snapshot(self, state: State) -> Snapshot:
        version = state.campaign.evaluation_version
        return Snapshot(self.path / "code" / version[:16], version, state.campaign.subject.outside)


def campaigns(state_dir: Path) -> list[Folder]:
    """All campaigns under a state folder, the latest begun last."""
    found = [p for p in (state_dir.resolve() / "campaigns").glob("*") if (p / "journal.jsonl").exists()]
    return sorted(map(Folder, found), key=lambda folder: (begun(folder), folder.name))


def begun(folder: Folder) -> float:
    """When the campaign began, by the first line of its journal; 0 where that cannot be read."""
    try:
        with folder.journal.open("rb") as file:
            return float(msgspec.json.decode(file.readline())["time"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def subject_of(folder: Folder) -> str:
    """The name of the campaign's subject, by the first line of its journal; "" where that cannot be read."""
    try:
        with folder.journal.open("rb") as file:
            return str(msgspec.json.decode(file.readline())["data"]["subject"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def find(state_dir: Path, name: str | None) -> Folder:
    """The campaign of that name, or the latest. Raises `NotFound` with what to do."""
    known = campaigns(state_dir)
    if not known:
        raise NotFound(f"A campaign must have been started, but {state_dir} holds none; use `evolve run`.")
    if name is None:
        return known[-1]
    for folder in known:
        if folder.name == name:
            return folder
    raise NotFound(f"There is no campaign {name!r}{did_you_mean(name, [f.name for f in known])}")


class Reader:
    """The state of a campaign for somebody who looks again and again: folded anew only where the journal has changed."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._state, self._seen = State(), (0, 0, 0)

    def load(self) -> State:
        """Not to be changed by the caller. Raises as `load` does."""
        info = self._folder.journal.stat()
        # Before it is read: what comes meanwhile is seen the next time.
        now = (info.st_ino, info.st_size, info.st_mtime_ns)
        if now != self._seen:
            self._state, self._seen = load(self._folder), now
        return self._state


def load(folder: Folder) -> State:
    """The state by the journal as it is now, without the lock. Raises `JournalCorrupt`."""
    state = State()
    for record, _ in read(folder.journal):
        apply(state, record.event, record.time)
    if state.started is None:
        raise NotFound(f"The journal of {folder.name} must begin with a campaign, but is empty; start a new one.")
    return state


def check_secret(folder: Folder, state: State) -> str:
    """The secret, if it is the one of the campaign's start. Raises `EvolveError` otherwise."""
    secret = folder.secret()
    if hashlib.sha256(secret.encode()).hexdigest() != state.campaign.secret_sha256:
        raise EvolveError(f"The secret of {folder.name} has changed since its start; put the old one back to go on.")
    return secret


def new_secret(secret_file: str | None, entropy: Callable[[int], bytes] = os.urandom) -> str:
    """64 hex digits: from the file where one is named, else fresh."""
    if secret_file is None:
        return entropy(32).hex()
    try:
        secret = Path(secret_file).read_text().strip()
    except (OSError, ValueError) as error:
        raise BadInput(f"secret_file must be readable, but {error}; correct the path.") from error
    if not re.fullmatch(r"[0-9a-f]{64}", secret):
        raise BadInput(
            "secret_file must hold 64 hex digits, but holds something else; `openssl rand -hex 32` makes them."
        )
    return secret


def create(path: Path, secret: str) -> Folder:
    """Makes the folder of a new campaign. Raises `BadInput` where it exists, `EvolveError` where it cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)  # secret, vault scores and the problem key lie below it
        for name in ("inbox", "trials", "weights", "code"):
            (path / name).mkdir()
        fd = os.open(path / "secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secret + "\n")
    except FileExistsError as error:
        raise BadInput(
            f"A new campaign needs a new name, but {path.name} exists; `evolve resume {path.name}` goes on."
        ) from error
    except OSError as error:
        raise EvolveError(
            f"The state folder must be writable, but {error}; check permissions and space, or set state_dir=."
        ) from error
    return Folder(path)


def subject_version(subject: Subject, evaluation_version: str) -> str:
    """sha256 of all that makes a training of this subject what it is; its place on disk is not part of that."""
    raw: dict[str, Any] = msgspec.to_builtins(subject)
    training = {
        k: raw[k] for k in ("name", "train_cmd", "score_cmd", "assets", "weights", "model", "device", "objective")
    }
    if subject.is_project:  # of another subject the version is what it was before there were projects
        training |= {k: raw[k] for k in ("fixed", "data", "log_metrics")}
        for kind in ("assets", "data"):  # the content of what lies outside is in the evaluation's version
            training[kind] = {k: "outside" if path.startswith("/") else path for k, path in raw[kind].items()}
    else:
        training["weights"] = {k: training["weights"][k] for k in ("file", "like")}
    # How much worse is tolerated is the gate's affair: it changes neither a training nor a score.
    training["objective"] = _what_better_means(raw["objective"])
    if subject.secondary:
        training["secondary"] = [_what_better_means(objective) for objective in raw["secondary"]]
    return digest([training, raw["problems"], evaluation_digest(evaluation_version, subject.suite)])


def _what_better_means(objective: dict[str, Any]) -> dict[str, Any]:
    return {"metric": objective["metric"], "direction": objective["direction"]}


def open_journal(folder: Folder, clock: Callable[[], float]) -> tuple[Journal, State]:
    """Takes the lock and folds the history. The journal's records are kept in `journal.records` for the tracker.

    Raises `CampaignBusy`, `JournalCorrupt`, `OtherVersion`, and `EvolveError` where the folder cannot be written.
    """
    journal = Journal.open(folder.path, clock)
    try:
        state = State()
        for record in journal.records:
            apply(state, record.event, record.time)
        if state.started is not None:
            check_version(state.started)
        _forget_positions(folder, past=len(journal.records))
    except BaseException:
        journal.close()
        raise
    return journal, state


def _forget_positions(folder: Folder, past: int) -> None:
    """Of projections that say more than the journal has lines: it was put back to a copy, or a crash of the machine took
    its last lines. They are brought up to date from its beginning, where events after `past` would be taken as shown."""
    for name in POSITIONS:
        path = folder.path / name
        try:
            lines = [n for key, n in json.loads(path.read_text()).items() if key == "seq" or name == "projected.json"]
        except (OSError, ValueError, AttributeError):
            continue
        if any(not isinstance(n, int) or n > past for n in lines):
            path.unlink()


def started_event(
    folder: Folder, subject: Subject, snapshot: Snapshot, secret: str, start: Candidate, origin: str, **rest: Any
) -> CampaignStarted:
    """The first line of a journal. `start` becomes a candidate of this snapshot's version."""
    version = subject_version(subject, snapshot.version)
    return CampaignStarted(
        campaign=folder.name,
        subject=subject,
        subject_version=version,
        evaluation_version=snapshot.version,
        secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
        start=replace(start, subject_version=version),
        start_origin=origin,
        **rest,
    )
