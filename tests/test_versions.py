"""Campaigns of earlier evolves: `tests/journals/` holds what they really wrote, with the places of the machine taken out.

Each was made by the evolve of that time (`evolve run subject=quadratic`, two of them with `evolve try`), and chained anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from inline import Clock, Inline

from evolve import campaign as files
from evolve import journal as journals
from evolve.cli import main
from evolve.errors import OtherVersion
from evolve.journal import Journal
from evolve.types import SCHEMA_VERSION, Budget

JOURNALS = sorted((Path(__file__).parent / "journals").glob("*.jsonl"))
TRIALS = {
    "v1-first-campaigns": (5, 1),
    "v1-model-calls-counted": (4, 0),
    "v2-edits-and-suites": (6, 0),
    "v2-gates-by-name": (6, 0),
}
OLD = [path for path in JOURNALS if path.name.startswith("v1")]


def put(state_dir: Path, journal: Path) -> files.Folder:
    folder = state_dir / "campaigns" / "old"
    (folder / "inbox").mkdir(parents=True)
    (folder / "journal.jsonl").write_bytes(journal.read_bytes())
    return files.Folder(folder)


def test_the_journals_of_every_version_are_here() -> None:
    assert {path.stem for path in JOURNALS} == set(TRIALS)
    assert {int(name[1]) for name in TRIALS} == set(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.stem)
def test_what_only_looks_shows_a_campaign_of_any_earlier_version(
    tmp_path: Path, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put(tmp_path, journal)
    complete, failed = TRIALS[journal.stem]
    assert files.load(folder).campaign.schema == int(journal.stem[1])
    assert main(["status", "--json", f"state_dir={tmp_path}"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["trials"]["complete"], status["trials"]["failed"]) == (complete, failed)
    for command in (["status"], ["log"], ["log", "--json"], ["cost"], ["report"], ["log", "--decisions"]):
        assert main([*command, f"state_dir={tmp_path}"]) == 0, command
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("journal", OLD, ids=lambda path: path.stem)
@pytest.mark.parametrize("command", [["resume", "budget.trials=50"], ["try", "y=0.5"], ["gc"], ["rollback"], ["sync"]])
def test_a_version_that_this_evolve_would_measure_otherwise_is_not_gone_on_with(
    tmp_path: Path, journal: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put(tmp_path, journal)
    assert main([*command, f"state_dir={tmp_path}"]) == 1
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "is of version 1 and this evolve's is 2" in said
    assert "evolve run start.import=old" in said
    assert folder.journal.read_bytes() == journal.read_bytes()
    assert not list(folder.inbox.iterdir()), "nothing is left that a later evolve would carry out"


@pytest.mark.parametrize("journal", [p for p in JOURNALS if p not in OLD], ids=lambda path: path.stem)
def test_version_2_from_before_it_was_called_so_goes_on(tmp_path: Path, journal: Path) -> None:
    folder = put(tmp_path, journal)
    assert b'"schema":1' in journal.read_bytes()
    opened, state = files.open_journal(folder, Clock())
    with opened:
        assert state.campaign.schema == 2


def test_a_newer_version_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=4))
    campaign.run()
    path = campaign.folder / "journal.jsonl"
    newer = path.read_bytes().replace(b'"schema":2', b'"schema":3,"more":1')
    path.write_bytes(newer)
    for look in (lambda: list(journals.read(path)), lambda: Journal.open(campaign.folder, Clock())):
        with pytest.raises(OtherVersion, match="'inline' is of version 3, made by a newer evolve; .* update evolve"):
            look()
    assert path.read_bytes() == newer
