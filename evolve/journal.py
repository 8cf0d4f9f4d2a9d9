"""The journal: an append-only JSONL file of events, each line carrying the hash of the line before.

One process writes (it holds the lock), any may read. Each append is one write, and one fsync unless the event is
volatile. A torn last line (a crash in the middle of a write) is cut off at the next opening for writing and kept beside
the journal; a line changed anywhere else breaks the chain and is refused with its position.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import filelock
import msgspec

from evolve import types
from evolve.errors import CampaignBusy, EvolveError, JournalCorrupt, OtherVersion
from evolve.types import SCHEMA_VERSION, CampaignStarted, Event, Record

GENESIS = "0" * 64
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False)
_EVENT_TYPES: dict[str, type] = {cls.__name__: cls for cls in get_args(Event)}


def encode(record: Record, previous_hash: str) -> bytes:
    """One line, with the newline. Raises `ValueError` for NaN and infinity: they have no place in a journal."""
    line = {
        "seq": record.seq,
        "prev": previous_hash,
        "time": record.time,
        "type": type(record.event).__name__,
        "data": msgspec.to_builtins(record.event, enc_hook=_plain),
    }
    return _JSON.encode(line).encode() + b"\n"


def _plain(value: object) -> object:
    """A number of numpy's as one of Python's."""
    if isinstance(value, int | float):
        return float(value) if isinstance(value, float) else int(value)
    raise TypeError(f"{type(value).__name__} has no place in a journal")


def decode(line: bytes) -> tuple[Record, str]:
    """The record of a line and the hash of the line before. Raises `ValueError` where it is not one, and `OtherVersion`."""
    raw = msgspec.json.decode(line)
    if not isinstance(raw, dict) or str(raw.get("type")) not in _EVENT_TYPES:
        raise ValueError(f"unknown event {raw.get('type')!r}" if isinstance(raw, dict) else "not an object")
    if raw["type"] == CampaignStarted.__name__:
        raw["data"]["schema"] = _version(raw["data"])
    event: Event = msgspec.convert(raw["data"], _EVENT_TYPES[raw["type"]])
    return Record(raw["seq"], raw["time"], event), raw["prev"]


def _version(started: dict[str, Any]) -> int:
    """Of a journal, by the data of its first event. Raises `OtherVersion` for one of a later evolve."""
    version = int(started["schema"])
    if version > SCHEMA_VERSION:
        raise OtherVersion(
            f"A journal must be of version {SCHEMA_VERSION} or earlier, but that of {started['campaign']!r} is of version"
            f" {version}, made by a newer evolve; nothing was changed, update evolve."
        )
    # Version 2 was written for a while before it was called so; what tells it from version 1 came with it.
    return 2 if version == 1 and "setting" in started["rules"]["gate"] else version


def check_version(started: CampaignStarted) -> None:
    """Raises `OtherVersion` where this evolve can read the campaign, but would not go on with it as it was begun."""
    if started.schema < SCHEMA_VERSION:
        raise OtherVersion(
            f"A campaign goes on with the evolve that its journal is of, but that of {started.campaign!r} is of version"
            f" {started.schema} and this evolve's is {SCHEMA_VERSION}; `evolve status`, `log` and `report` show it, `evolve"
            f" run start.import={started.campaign}` begins a new one with its trials."
        )


def line_hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def read(path: Path) -> Iterator[tuple[Record, bytes]]:
    """Records with their lines, the chain checked. An incomplete last line is left out: a writer may be at it.

    Raises `JournalCorrupt` with the line's number (from 1) where the history does not hold together.
    """
    previous = GENESIS
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record, claimed = decode(line)
            except (ValueError, KeyError, msgspec.ValidationError) as error:
                if not file.read(1):
                    return  # torn by a crash of the machine: the blocks of the last line never arrived
                raise _corrupt(path, number, str(error)) from error
            if claimed != previous or record.seq != number:
                # A line that is where it belongs, behind one that it does not know: that one has been changed.
                first = number - 1 if record.seq == number else number
                raise _corrupt(path, number, "its link to the line before does not hold", first)
            previous = line_hash(line)
            yield record, line


class Follower:
    """Reads a journal on while another process writes it: each record once, the chain checked.

    Nothing that was read ahead is kept, since an append that the disk refused is taken back, and written differently later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset, self._hash = 0, GENESIS
        self.seq = 0  # of the last record that was given out

    def read(self, upto: int) -> Iterator[Record]:
        """The records after the last one, up to number `upto`, which the writer has said are there.

        Raises `JournalCorrupt` where they are not, or where the history does not hold together.
        """
        if self.seq >= upto:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while self.seq < upto:
                line, number = file.readline(), self.seq + 1
                try:
                    record, claimed = decode(line)
                except (ValueError, KeyError, msgspec.ValidationError) as error:
                    raise _corrupt(self._path, number, str(error)) from error
                if claimed != self._hash or record.seq != number:
                    raise _corrupt(self._path, number, "its link to the line before does not hold")
                self._offset, self._hash, self.seq = self._offset + len(line), line_hash(line), number
                yield record


def _corrupt(path: Path, number: int, reason: str, first: int | None = None) -> JournalCorrupt:
    """`first`: from where on nothing can be relied on; the line itself where not given."""
    first = number if first is None else first
    way = f"or keep what is before line {first}: `evolve repair {path.parent.name}`" if first > 1 else "no line is left"
    return JournalCorrupt(
        f"A journal must read back as it was written, but line {number} of {path} does not: {reason}. Nothing was"
        f" changed; restore the file from a copy, {way}.",
        first,
        reason,
    )


def take_lock(folder: Path) -> filelock.BaseFileLock:
    """The one writer's lock of a campaign, held. Raises `CampaignBusy`, or `EvolveError` where it cannot be written."""
    lock = filelock.FileLock(folder / "lock", is_singleton=False)
    try:
        lock.acquire(timeout=0.5)  # longer than `evolve status` holds it to see whether anyone does
    except filelock.Timeout as error:
        raise CampaignBusy(
            f"A campaign has one controller at a time, but another one is running {folder.name};"
            " use `evolve status`, or `evolve stop` to end it."
        ) from error
    except OSError as error:
        raise EvolveError(
            f"{folder} must be writable, but {error.strerror or error}; check its permissions."
        ) from error
    return lock


class Journal:
    """The one writer's handle. `with Journal.open(folder) as journal` holds the campaign's lock.

    Args:
        clock: seconds since the epoch; passed in so that tests own time.
    """

    def __init__(self, path: Path, lock: filelock.BaseFileLock, clock: Callable[[], float]) -> None:
        self.path, self._lock, self._clock = path, lock, clock
        self.records: list[Record] = []  # what was there at opening; handed over, then dropped by the caller
        self._hash = GENESIS
        self._seq = 0
        self.torn: Path | None = None
        self._load()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @classmethod
    def open(cls, folder: Path, clock: Callable[[], float]) -> Journal:
        """Takes the lock and reads the history.

        Raises:
            CampaignBusy: another controller holds the lock.
            JournalCorrupt: the history does not hold together.
            EvolveError: the folder cannot be written.
        """
        lock = take_lock(folder)
        try:
            return cls(folder / "journal.jsonl", lock, clock)
        except BaseException:
            lock.release()
            raise

    def _load(self) -> None:
        if not self.path.exists():
            return
        good = 0
        for record, line in read(self.path):
            self.records.append(record)
            self._hash, self._seq = line_hash(line), record.seq
            good += len(line)
        if good < self.path.stat().st_size:
            data = self.path.read_bytes()
            self.torn = self.path.with_name(f"journal.torn-{self._seq + 1}")
            self.torn.write_bytes(data[good:])
            os.truncate(self.path, good)

    def now(self) -> float:
        """Seconds since the epoch, by the clock that stamps the records."""
        return self._clock()

    def append(self, event: Event) -> Record:
        """Writes one event durably and returns its record.

        Raises `EvolveError` where the disk does not take it; the half-written line is removed, so that the journal
        stays whole and the campaign can be resumed.
        """
        record = Record(self._seq + 1, self._clock(), event)
        line = encode(record, self._hash)
        size = os.fstat(self._fd).st_size
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            if not getattr(type(event), "VOLATILE", False):  # what a session did may be lost with the machine's power
                os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, size)
            raise EvolveError(
                f"The journal must be written before anything else happens, but {error}; make room, then `evolve resume`."
            ) from error
        self._seq, self._hash = record.seq, line_hash(line)
        return record

    def close(self) -> None:
        os.close(self._fd)
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stable(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """The journal without what is marked volatile: equal for two runs of the same seed and secret with one worker."""
    for record in records:
        if getattr(type(record.event), "VOLATILE", False):
            continue
        yield {"type": type(record.event).__name__, "data": _stable(record.event)}


def _stable(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kept = (f for f in dataclasses.fields(value) if f.metadata != types.VOLATILE)
        return {f.name: _stable(getattr(value, f.name)) for f in kept}
    if isinstance(value, (list, tuple)):
        return [_stable(v) for v in value]
    if isinstance(value, dict):
        return {k: _stable(v) for k, v in value.items()}
    return value
