from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from inline import HERE, Clock, Inline

from evolve import journal as journals
from evolve.errors import CampaignBusy, EvolveError, JournalCorrupt
from evolve.journal import Journal
from evolve.types import Budget, LessonWritten, SessionStarted


def lesson(text: str) -> LessonWritten:
    return LessonWritten(text, "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Journal.open(tmp_path, Clock()) as journal:
        for text in ("one", "two ✓", "three"):
            journal.append(lesson(text))
    return tmp_path


def texts(folder: Path) -> list[str]:
    return [r.event.text for r, _ in journals.read(folder / "journal.jsonl")]  # type: ignore[union-attr]


def test_events_come_back_as_they_were_written(folder: Path) -> None:
    assert texts(folder) == ["one", "two ✓", "three"]


def test_every_event_of_a_real_campaign_survives_the_round_trip(tmp_path: Path) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=25))
    campaign.run()
    read = [record for record, _ in journals.read(campaign.folder / "journal.jsonl")]
    assert read[1:] == campaign.tracker.records
    assert len({type(r.event) for r in read}) >= 12


def test_a_last_line_torn_at_any_byte_is_cut_off_and_kept_aside(folder: Path) -> None:
    path = folder / "journal.jsonl"
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last + 1, len(whole)):
        path.write_bytes(whole[:cut])
        with Journal.open(folder, Clock()) as journal:
            assert journal.torn is not None
            assert journal.torn.read_bytes() == whole[last:cut]
            journal.append(lesson("after"))
        assert texts(folder) == ["one", "two ✓", "after"]


def test_a_campaign_whose_last_line_is_torn_at_any_byte_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = Inline(tmp_path / "whole", budget=Budget(trials=7))
    whole.run()
    path = whole.folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    expected = list(journals.stable(r for r, _ in journals.read(path)))
    at = next(i for i, line in enumerate(lines) if b'"TrialFinished"' in line and b'"number":5,' in line)
    for cut in range(len(lines[at])):
        path.write_bytes(b"".join(lines[:at]) + lines[at][:cut])
        whole.run()
        assert list(journals.stable(r for r, _ in journals.read(path))) == expected, f"cut at byte {cut}"


@pytest.mark.parametrize("line", [0, 1])
def test_a_changed_line_is_refused_with_its_position(folder: Path, line: int) -> None:
    path = folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"by":"test"', b'"by":"best"')
    path.write_bytes(b"".join(lines))
    # the change is seen by the next line, whose link does not hold any more
    with pytest.raises(JournalCorrupt, match=f"line {line + 2} of"):
        texts(folder)
    before = path.read_bytes()
    with pytest.raises(JournalCorrupt):
        Journal.open(folder, Clock())
    assert path.read_bytes() == before


def test_a_removed_line_and_a_line_of_garbage_are_refused(folder: Path) -> None:
    path = folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(JournalCorrupt, match="line 2"):
        texts(folder)
    path.write_bytes(lines[0] + b"garbage\n" + lines[1])
    with pytest.raises(JournalCorrupt, match="line 2"):
        texts(folder)


def test_an_event_of_an_unknown_kind_is_refused(folder: Path) -> None:
    path = folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    raw = json.loads(lines[1])
    raw["type"] = "Later"
    path.write_bytes(lines[0] + json.dumps(raw).encode() + b"\n" + lines[2])
    with pytest.raises(JournalCorrupt, match="unknown event 'Later'"):
        texts(folder)


def test_the_lock_admits_one_writer(folder: Path) -> None:
    with Journal.open(folder, Clock()):
        with pytest.raises(CampaignBusy, match="one controller at a time"):
            Journal.open(folder, Clock())
    Journal.open(folder, Clock()).close()


def test_a_full_disk_leaves_the_journal_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def full(fd: int, data: bytes) -> int:
        real(fd, data[:7])  # what still fitted
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal.open(folder, Clock()) as journal:
        monkeypatch.setattr("evolve.journal.os.write", full)
        with pytest.raises(EvolveError, match="No space left on device; make room, then `evolve resume`"):
            journal.append(lesson("lost"))
        monkeypatch.setattr("evolve.journal.os.write", real)
        journal.append(lesson("four"))
    assert texts(folder) == ["one", "two ✓", "three", "four"]


def test_nan_never_enters_the_journal(folder: Path) -> None:
    event = SessionStarted(HERE, 1, "none", Budget(train_seconds=float("nan")), 1)
    with Journal.open(folder, Clock()) as journal:
        with pytest.raises(ValueError, match="Out of range float"):
            journal.append(event)
    assert texts(folder) == ["one", "two ✓", "three"]


def test_the_stable_form_drops_what_differs_between_equal_runs(tmp_path: Path) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=6))
    campaign.run()
    stable = list(journals.stable(r for r, _ in journals.read(campaign.folder / "journal.jsonl")))
    kinds = {line["type"] for line in stable}
    assert "TrialFinished" in kinds
    assert not kinds & {"SessionStarted", "TrialStarted", "CampaignStopped"}
    finished = next(line["data"] for line in stable if line["type"] == "TrialFinished")
    assert set(finished) == {"number", "state", "score", "error", "weights", "curve"}
