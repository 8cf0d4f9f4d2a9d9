"""A journal cut off before the place where it does not hold together: what is before stays, and the campaign goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from inline import Clock, Inline

from evolve import campaign as files
from evolve import journal as journals
from evolve import repair
from evolve.cli import main
from evolve.errors import CampaignBusy, EvolveError, JournalCorrupt
from evolve.journal import Journal
from evolve.state import State, apply
from evolve.types import Budget, JournalRepaired, TrialFinished, VaultAsked


@pytest.fixture
def campaign(tmp_path: Path) -> Inline:
    made = Inline(tmp_path / "campaigns" / "c", budget=Budget(trials=25))
    made.run()
    return made


def lines_of(campaign: Inline) -> list[bytes]:
    return (campaign.folder / "journal.jsonl").read_bytes().splitlines(keepends=True)


def damage(campaign: Inline, at: int, how: str) -> tuple[list[bytes], bytes]:
    """Damages line `at` (from 1); returns the lines as they were, and the file as it is."""
    lines = lines_of(campaign)
    change = {
        "garbage": [b"\x00\xff garbage\n"],
        "changed": [lines[at - 1].replace(b'"time":', b'"time":1')],
        "lost": [],
        "twice": [lines[at - 1], lines[at - 1]],
    }[how]
    bad = b"".join([*lines[: at - 1], *change, *lines[at:]])
    (campaign.folder / "journal.jsonl").write_bytes(bad)
    return lines, bad


def found(campaign: Inline) -> repair.Damage:
    damaged = repair.find(files.Folder(campaign.folder))
    assert damaged is not None
    return damaged


@pytest.mark.parametrize("how", ["garbage", "changed", "lost", "twice"])
@pytest.mark.parametrize("at", [2, 3, 20])
def test_all_that_is_before_the_damage_is_kept_and_all_there_was_is_beside_it(
    campaign: Inline, how: str, at: int
) -> None:
    lines, bad = damage(campaign, at, how)
    first = at + 1 if how == "twice" else at
    damaged = found(campaign)
    assert damaged.line == first
    aside = repair.carry_out(files.Folder(campaign.folder), damaged, "ada", Clock())
    assert aside.read_bytes() == bad
    *kept, last = lines_of(campaign)
    assert kept == lines[: first - 1]
    event = journals.decode(last)[0].event
    assert isinstance(event, JournalRepaired)
    assert (event.line, event.by, event.kept_as) == (first, "ada", aside.name)
    assert event.sha256 == hashlib.sha256(bad).hexdigest()
    assert repair.find(files.Folder(campaign.folder)) is None


def test_a_repaired_campaign_goes_on_to_the_same_end(campaign: Inline) -> None:
    before = list(journals.stable(r for r, _ in journals.read(campaign.folder / "journal.jsonl")))
    at = next(
        i for i, line in enumerate(lines_of(campaign), 1) if b'"TrialFinished"' in line and b'"number":11,' in line
    )
    damage(campaign, at, "garbage")
    repair.carry_out(files.Folder(campaign.folder), found(campaign), "ada", Clock())
    campaign.state = State()
    campaign.run()
    after = list(journals.stable(r for r, _ in journals.read(campaign.folder / "journal.jsonl")))
    numbers = [line["data"]["number"] for line in after if line["type"] == "TrialFinished"]
    assert numbers == sorted(set(numbers))
    assert [line for line in after if line["type"] == "Proposed"] == [li for li in before if li["type"] == "Proposed"]


def test_what_the_cut_lines_had_used_stays_used(campaign: Inline) -> None:
    whole = files.load(files.Folder(campaign.folder))
    assert whole.vault_queries > 0
    assert whole.spend.train_seconds > 0
    damage(campaign, 3, "garbage")
    repair.carry_out(files.Folder(campaign.folder), found(campaign), "ada", Clock())
    state = files.load(files.Folder(campaign.folder))
    assert state.spend.trials == 0
    assert state.spend.train_seconds == pytest.approx(whole.spend.train_seconds)
    assert state.vault_queries == whole.vault_queries
    assert state.rounds == whole.rounds, "no problem of a later round has been seen before"


def test_projections_that_are_past_the_end_begin_again(campaign: Inline) -> None:
    for name in ("tracking.json", "projected.json"):
        (campaign.folder / name).write_text(json.dumps({"seq": 9}))
    damage(campaign, 20, "garbage")
    repair.carry_out(files.Folder(campaign.folder), found(campaign), "ada", Clock())
    assert not [p for p in campaign.folder.iterdir() if p.name in ("tracking.json", "projected.json")]


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        ("tracking.json", {"uri": "u", "seq": 5, "experiment_id": "1", "run_id": "r"}, True),
        ("tracking.json", {"uri": "u", "seq": 500, "experiment_id": "1", "run_id": "r"}, False),
        ("projected.json", {"file": 3, "registry": 5}, True),
        ("projected.json", {"file": 3, "registry": 500}, False),
    ],
)
def test_a_journal_put_back_to_a_copy_makes_positions_past_its_end_void(
    tmp_path: Path, name: str, content: dict[str, object], kept: bool
) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=4))
    campaign.run()
    (campaign.folder / name).write_text(json.dumps(content))
    files.open_journal(files.Folder(campaign.folder), Clock())[0].close()
    assert (campaign.folder / name).exists() is kept


def test_nothing_is_cut_while_a_controller_runs_or_after_the_journal_has_changed(campaign: Inline) -> None:
    damage(campaign, 20, "garbage")
    damaged = found(campaign)
    lock = journals.take_lock(campaign.folder)
    with pytest.raises(CampaignBusy):
        repair.carry_out(files.Folder(campaign.folder), damaged, "ada", Clock())
    lock.release()
    damage(campaign, 10, "garbage")
    with pytest.raises(EvolveError, match="the journal has changed since"):
        repair.carry_out(files.Folder(campaign.folder), damaged, "ada", Clock())


def test_a_journal_whose_first_line_is_damaged_cannot_be_repaired(campaign: Inline) -> None:
    damage(campaign, 1, "changed")
    with pytest.raises(JournalCorrupt, match="restore the file from a copy, no line is left"):
        repair.find(files.Folder(campaign.folder))


def test_the_error_names_the_command_and_the_command_asks_first(
    campaign: Inline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"state_dir={tmp_path}"
    assert main(["repair", where]) == 0
    assert "holds together" in capsys.readouterr().out
    _, bad = damage(campaign, 20, "changed")
    assert main(["status", where]) == 1
    assert "line 21 of" in (said := capsys.readouterr().err)
    assert "keep what is before line 20: `evolve repair c`" in said
    assert main(["repair", "c", where]) == 2
    shown = capsys.readouterr()
    assert "line 20" in shown.out
    assert "19 lines, byte for byte" in shown.out
    assert "trained again" in shown.out or "JournalRepaired" not in shown.out
    assert "nobody can be asked here" in shown.err
    assert (campaign.folder / "journal.jsonl").read_bytes() == bad
    assert main(["repair", "c", "--yes", where]) == 0
    assert "evolve resume c" in capsys.readouterr().out
    assert main(["log", where]) == 0
    assert "were cut off by" in capsys.readouterr().out


def test_a_last_line_that_is_torn_needs_no_repair(campaign: Inline) -> None:
    path = campaign.folder / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert repair.find(files.Folder(campaign.folder)) is None
    Journal.open(campaign.folder, Clock()).close()
    assert any(isinstance(r.event, TrialFinished | VaultAsked) for r, _ in journals.read(path))
    assert apply(State(), next(journals.read(path))[0].event).started is not None
