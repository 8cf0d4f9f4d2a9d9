"""A journal that does not hold together, cut off before the place where it does not: `evolve repair`.

What is before that place stays as it is, byte for byte. The whole file as it was is kept beside it, and the cut is an event
of the journal itself. Nothing of what is cut off was decided for good: trials are trained again, questions asked again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from evolve import durable
from evolve import journal as journals
from evolve.budget import training_spend
from evolve.campaign import POSITIONS, Folder
from evolve.errors import EvolveError, JournalCorrupt
from evolve.types import (
    Budget,
    CampaignStarted,
    ChallengeOpened,
    Decided,
    Event,
    JournalRepaired,
    ModelCallFinished,
    Promoted,
    Record,
    RolledBack,
    SessionStarted,
    Spend,
    TrialFinished,
    VaultAsked,
    short,
)


@dataclass(frozen=True)
class Damage:
    """Where a journal stops holding together, and what would be cut off.

    `line`: the first that is cut, from 1; `lines`: how many are; `cut`: the records of those that can still be read.
    """

    line: int
    lines: int
    reason: str
    cut: tuple[Record, ...]
    kept: bytes
    last: Record  # that is kept
    campaign: CampaignStarted
    budget: Budget  # of the last session that is kept

    @property
    def used(self) -> Spend:
        """What the cut lines had used of the budget: it is gone, although their trials are trained again."""
        device, total = self.campaign.subject.device, Spend()
        for event in (record.event for record in self.cut):
            if isinstance(event, ModelCallFinished):
                total += event.spend
            elif isinstance(event, TrialFinished) and event.usage is not None:
                total += training_spend(self.budget, event.usage, device)
        return total

    def lines_of_text(self) -> Iterator[str]:
        """What would be cut off, for a person."""
        yield f"damage     line {self.line}: {self.reason}"
        yield f"kept       {self.line - 1} lines, byte for byte"
        unreadable = self.lines - len(self.cut)
        yield f"cut off    {self.lines} line(s), {unreadable} of them cannot be read"
        counts = Counter(type(record.event).__name__ for record in self.cut)
        if counts:
            yield "           " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        if trials := sorted({r.event.number for r in self.cut if isinstance(r.event, TrialFinished)}):
            yield f"trials     {', '.join(map(str, trials))}: `evolve resume` trains them again"
        for event in (record.event for record in self.cut):
            if isinstance(event, Decided):
                a = event.approval
                yield f"decision   {a.decision} of {short(a.candidate_id)} by {a.by}: it has to be made again"
            elif isinstance(event, Promoted | RolledBack):
                what = "promotion" if isinstance(event, Promoted) else "rollback"
                yield f"{what:<10} of {short(event.candidate_id)}: undone"


def find(folder: Folder) -> Damage | None:
    """None where the journal holds together. Raises `JournalCorrupt` where not even its first line can be kept."""
    kept = list[tuple[Record, bytes]]()
    try:
        for pair in journals.read(folder.journal):
            kept.append(pair)
        return None
    except JournalCorrupt as error:
        if error.line <= 1 or not isinstance(kept[0][0].event, CampaignStarted):
            raise
        line, reason = error.line, error.reason
    del kept[line - 1 :]
    before = b"".join(raw for _, raw in kept)
    after = folder.journal.read_bytes()[len(before) :].splitlines(keepends=True)
    budget = kept[0][0].event.rules.budget
    for record, _ in kept:
        budget = record.event.budget if isinstance(record.event, SessionStarted) else budget
    return Damage(
        line, len(after), reason, tuple(_readable(after)), before, kept[-1][0], kept[0][0].event, budget
    )  # fmt: skip


def _readable(lines: Iterable[bytes]) -> Iterator[Record]:
    for line in lines:
        try:
            yield journals.decode(line)[0]
        except (ValueError, KeyError, TypeError, msgspec.ValidationError):
            continue


def carry_out(folder: Folder, damage: Damage, by: str, clock: Callable[[], float]) -> Path:
    """Cuts off what `damage` names and returns the file that keeps the journal as it was. Atomic: all of it or nothing.

    Raises `CampaignBusy` where a controller runs, and `EvolveError` where the journal has changed since or the disk does not
    take it.
    """
    with journals.take_lock(folder.path):
        whole = folder.journal.read_bytes()
        if find(folder) != damage:
            raise EvolveError(
                "What is cut off must be what was shown, but the journal has changed since; run it again."
            )
        aside = folder.path / f"journal.broken-{damage.line}"
        for number in range(2, 1000):
            if not aside.exists() or aside.read_bytes() == whole:
                break
            aside = folder.path / f"journal.broken-{damage.line}-{number}"
        event = JournalRepaired(
            damage.line, damage.lines, damage.reason, aside.name, hashlib.sha256(whole).hexdigest(), by,
            damage.used, sum(isinstance(r.event, VaultAsked) for r in damage.cut), _last_round(r.event for r in damage.cut),
        )  # fmt: skip
        previous = journals.line_hash(damage.kept.splitlines(keepends=True)[-1])
        line = journals.encode(Record(damage.last.seq + 1, clock(), event), previous)
        try:
            durable.write(aside, whole)
            # Before the cut: a projection without its position is made again, one that is ahead would miss what comes.
            for name in POSITIONS:
                (folder.path / name).unlink(missing_ok=True)
            durable.write(folder.journal, damage.kept + line)
        except OSError as error:
            raise EvolveError(f"A repair must be written, but {error}; make room, nothing was cut off.") from error
    return aside


def _last_round(events: Iterable[Event]) -> int:
    return max((event.round for event in events if isinstance(event, ChallengeOpened | VaultAsked)), default=0)
