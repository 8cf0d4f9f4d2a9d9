"""The log of decisions, and what the files beside a journal say about its promotions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from inline import Inline, Scripted

from evolve import champion, gate, log_text
from evolve import journal as journals
from evolve.campaign import Folder
from evolve.types import Budget, Command, GateRules

GOOD, BETTER = {"x": 0.8}, {"x": 0.8, "mode": "b", "z": 4}
RULES = GateRules("strict", approvals=2)


def decided(campaign: Inline) -> list[log_text.Decision]:
    return list(log_text.decisions(r for r, _ in journals.read(campaign.folder / "journal.jsonl")))


def tell(campaign: Inline, kind: str, by: str, **fields: object) -> None:
    request = next(iter(campaign.state.pending.values()))
    campaign.command(kind, by, candidate_id=request.candidate_id, content_hash=request.content_hash, **fields)


@pytest.fixture
def campaign(tmp_path: Path) -> Inline:
    """More evidence, two approvals, a rollback: with two candidates that waited."""
    made = Inline(tmp_path / "c", Scripted([GOOD, BETTER]), gate=RULES, budget=Budget(trials=60))
    made.run()
    tell(made, "evidence", "bob", seeds=2)
    made.run()
    while len(made.state.pending) > 1:
        tell(made, "reject", "bob", reason="slow " * 80, seconds=7.4)
        made.run()
    tell(made, "approve", "ada", seconds=42.0)
    tell(made, "approve", "eve", signature="-----BEGIN SSH SIGNATURE-----")
    made.run()
    made.command("rollback", "ada", candidate_id=made.state.champion_id, reason="worse in use")
    made.run()
    return made


def test_decisions_are_told_with_the_evidence_that_was_there(campaign: Inline) -> None:
    evidence, rejected, first, second, rollback = decided(campaign)
    assert [d.what for d in (evidence, rejected, first, second, rollback)] == [
        "evidence", "reject", "approve", "approve", "rollback",
    ]  # fmt: skip
    assert [d.by for d in (evidence, rejected, first, second, rollback)] == ["bob", "bob", "ada", "eve", "ada"]
    assert (first.promoted, second.promoted) == (False, True)
    assert (first.signed, second.signed) == (False, True)
    assert (evidence.asked_seeds, rejected.seconds, first.seconds) == (2, 7.4, 42.0)
    assert first.content == second.content != evidence.content
    assert all(d.vault for d in (evidence, rejected, first, second))
    assert (second.setting, second.promise) == ("strict", gate.promise(RULES))
    assert rollback.candidate == second.candidate
    assert rollback.champion == campaign.state.champion_id
    for d in (rejected, first):
        assert d.low is not None and d.estimate is not None and d.high is not None
        assert d.low < d.estimate < d.high
        assert "95 % interval" in d.gain
        assert "fresh seeds against 4 of the champion" in d.evidence


def test_the_text_of_decisions_fits_a_hundred_columns_and_shows_no_naive_difference(campaign: Inline) -> None:
    for decision in decided(campaign):
        text = log_text.decision_text(replace(decision, campaign="c" * 80, by="somebody with a long name " * 3))
        assert max(map(len, text.splitlines())) <= 100
        assert "±" not in text
    shown = "\n".join(map(log_text.decision_text, decided(campaign)))
    for part in ("more evidence", "rejected", "approved", "promoted", "rolled back", "waited 42 s, not signed",
                 "waited 0 s, signed", "vault      yes", "strict: at most 5%", "restored"):  # fmt: skip
        assert part in shown, part


def test_text_of_others_cannot_write_into_the_terminal(campaign: Inline) -> None:
    evil = replace(decided(campaign)[1], by="a\x1b[31m\nb", reason="\x1b]0;x\x07\r\n2026 approved", campaign="c\x1b[2J")
    text = log_text.decision_text(evil)
    assert "\x1b" not in text
    assert "\r" not in text
    assert not any(line.startswith("2026 approved") for line in text.splitlines())


def test_the_log_reads_the_new_events(campaign: Inline) -> None:
    lines = list(log_text.log_lines(r for r, _ in journals.read(campaign.folder / "journal.jsonl")))
    told = "\n".join(lines)
    assert "bob asks for more (2 seed(s), or all of it anew)" in told
    assert ": 2 further seed(s)" in told
    assert ": fresh seeds" in told
    assert " is asked about" in told
    assert " yes: vault: +" in told
    assert " for a person, content " in told


def test_one_of_two_approvals_says_that_others_are_needed(tmp_path: Path) -> None:
    campaign = Inline(tmp_path / "c", Scripted([GOOD]), gate=RULES, budget=Budget(trials=40))
    campaign.run()
    (candidate,) = campaign.state.pending
    tell(campaign, "approve", "ada")
    campaign.run()
    said = log_text.outcome(campaign.state, Command("1", "approve", "ada", candidate), None)
    assert said == f"approved: {candidate[:8]}, by 1 of 2 persons; it waits for the others"


def test_the_last_change_of_the_champion_is_found_behind_a_torn_line_and_text_that_looks_like_one(
    campaign: Inline,
) -> None:
    folder = Folder(campaign.folder)
    records = [r for r, _ in journals.read(folder.journal)]
    (promoted,) = [r for r in records if type(r.event).__name__ == "Promoted"]
    (rolled,) = [r for r in records if type(r.event).__name__ == "RolledBack"]
    assert champion.last_change(folder) == champion.Change(rolled.seq, rolled.time)
    assert champion.last_change(folder, "Promoted") == champion.Change(promoted.seq, promoted.time)
    with folder.journal.open("ab") as file:
        file.write(b'{"seq":999,"prev":"","time":9.0,"type":"CommandRefused","data":{"a":{"type":"Promoted"}}}\n')
        file.write(b'{"seq":1000,"prev":"","time":10.0,"type":"Promoted","data":{')
    assert champion.last_change(folder, "Promoted") == champion.Change(promoted.seq, promoted.time)
    assert champion.last_change(Folder(campaign.folder / "nothing")) is None


def test_projections_are_behind_until_they_are_marked_at_the_last_change(campaign: Inline) -> None:
    folder = Folder(campaign.folder)
    assert champion.behind(folder) == ["file", "branch", "registry"]
    change = champion.last_change(folder)
    assert change is not None
    champion.mark(folder, "file", change.seq)
    champion.mark(folder, "branch", change.seq)
    assert champion.behind(folder) == ["registry"]
    champion.mark(folder, "registry", change.seq - 1)
    assert champion.behind(folder) == ["registry"]
    (campaign.folder / "projected.json").write_text("[half")
    assert champion.behind(folder) == ["file", "branch", "registry"]
