"""Nothing is promoted but by a person at a terminal, who has seen what it is and typed what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import yaml

from .cli import COMMAND, QUADRATIC, Evolve, Terminal, digits

FIRST = "[a]pprove  [r]eject  [m]ore evidence  [l]ater  [q]uit > "
STALE = "[a]pprove  [r]eject  [m]ore: renew the evidence  [l]ater  [q]uit > "
SECOND = "type the first 6 digits of its content > "
REASON = "reason (the agent will read it) > "
ALWAYS_YES = {
    "EVOLVE_YES": "1",
    "EVOLVE_APPROVE": "1",
    "CI": "true",
    "ASSUME_YES": "1",
    "DEBIAN_FRONTEND": "noninteractive",
}


def waits(evolve: Evolve) -> str:
    """The candidate that waits and is the best."""
    return str(evolve.seen("c", "ApprovalRequested")[-1]["request"]["candidate_id"])


def nothing_was_decided(evolve: Evolve) -> None:
    kinds = {line["type"] for line in evolve.lines("c")}
    assert "ApprovalRequested" in kinds
    assert not kinds & {"Decided", "Promoted", "RolledBack"}
    assert not list((evolve.folder("c") / "inbox").iterdir())
    assert not (evolve.cwd / ".evolve" / "champions").exists()


def approve(evolve: Evolve, candidate: str) -> str:
    person = Terminal(evolve, [*COMMAND, "approve", candidate[:8]])
    person.answer(FIRST, "approve")
    person.answer(SECOND, digits(person.screen))
    return person.close()


def test_an_approval_promotes_and_the_next_campaign_starts_from_it(waiting: Evolve) -> None:
    before = waiting.status()
    good, better = before["pending"]
    screen = approve(waiting, better)
    assert "approved and promoted" in screen
    assert "0.0003 -> 0.01" in screen, "the person saw what changes"
    assert "vault      yes" in screen
    assert "fresh seeds against 4 of the champion" in screen
    assert "gain       better by " in screen and "95 % interval" in screen and "corrected for selection" in screen
    assert "promise    at most 5% that a campaign of 50 useless candidates promotes any" in screen

    after = waiting.status()
    assert after["champion"] == better
    assert after["promoted"] == [better]
    assert better not in after["pending"]
    (decision,) = waiting.seen("c", "Decided")
    assert decision["approval"]["by"]
    champion = yaml.safe_load((waiting.cwd / ".evolve/champions/quadratic.yaml").read_text())
    assert champion["candidate"] == better
    assert champion["campaign"] == "c"
    assert champion["params"]["x"] == 0.01
    assert "approve    " in waiting("log")

    # The evidence of the other one was taken against the old champion: it is shown as stale, and cannot be approved.
    assert after["pending"] == []
    assert "needs a person at a terminal" in waiting.refuses("review")
    person = Terminal(waiting, [*COMMAND, "approve", good[:8]])
    person.expect("STALE")
    person.answer(STALE, "approve")
    assert f"not approved: {good[:8]}: its evidence is against" in person.close(code=1)
    content = json.loads(waiting("review", "--json"))["waiting"][0]["content_hash"]
    assert "Evidence must be against the champion of today" in waiting.refuses("approve", good, "--yes", content)
    assert waiting.status()["champion"] == better

    rules = ("proposer=default", "budget.trials=1", "campaign=next")
    assert "champion" in waiting("run", *QUADRATIC, "--dry-run", "start=champion").split("start")[1].splitlines()[0]
    assert (
        "default config" in waiting("run", *QUADRATIC, "--dry-run", "start=default").split("start")[1].splitlines()[0]
    )
    waiting("run", *QUADRATIC, *rules)
    (started,) = waiting.events("CampaignStarted", "--campaign", "next")
    assert started["start"]["params"]["x"] == 0.01
    assert started["start_origin"] == f"champion {better[:8]} of campaign c"


def test_a_rollback_restores_the_champion_before(waiting: Evolve) -> None:
    before = waiting.status()
    approve(waiting, before["pending"][1])
    assert "rolled back" in waiting("rollback", "--reason", "worse in production")
    after = waiting.status()
    assert after["champion"] == before["champion"]
    champion = yaml.safe_load((waiting.cwd / ".evolve/champions/quadratic.yaml").read_text())
    assert champion["candidate"] == before["champion"]
    assert champion["params"]["x"] == 3e-4
    assert "worse in production" in waiting("log")
    assert "A rollback needs a promotion" in waiting.refuses("rollback")


def test_a_review_rejects_with_a_reason_and_leaves_the_other_for_later(waiting: Evolve) -> None:
    good, better = waiting.status()["pending"]
    person = Terminal(waiting, [*COMMAND, "review"])
    person.expect(f"candidate  {good}")  # the oldest first
    person.answer(FIRST, "reject")
    person.answer(REASON, "too slow to serve")
    person.expect(f"candidate  {better}")
    person.answer(FIRST, "later")
    screen = person.close()
    assert f"rejected: {good[:8]}" in screen
    assert f"{better[:8]} waits for a later review" in screen
    assert waiting.status()["pending"] == [better]
    assert "too slow to serve" in waiting("log")


def test_a_rejection_at_the_prompt_without_a_reason_decides_nothing(waiting: Evolve) -> None:
    person = Terminal(waiting, [*COMMAND, "approve", waits(waiting)])
    person.answer(FIRST, "reject")
    person.answer(REASON, "")
    assert "needs a reason" in person.close(code=1)
    nothing_was_decided(waiting)


@pytest.mark.parametrize("word", ["y", "APPROVE", "later", "", "\x04"])
def test_any_other_answer_than_the_word_approves_nothing(waiting: Evolve, word: str) -> None:
    person = Terminal(waiting, [*COMMAND, "approve", waits(waiting)], **ALWAYS_YES)
    person.expect(FIRST)
    person.type(word if word == "\x04" else word + "\n")
    assert "not approved" in person.close(code=1)
    nothing_was_decided(waiting)


@pytest.mark.parametrize("typed", ["000000", "approve", "short", "\x04"])
def test_wrong_digits_approve_nothing(waiting: Evolve, typed: str) -> None:
    person = Terminal(waiting, [*COMMAND, "approve", waits(waiting)], **ALWAYS_YES)
    person.answer(FIRST, "approve")
    person.expect(SECOND)
    right = digits(person.screen)
    person.type({"short": right[:5] + "\n", "\x04": typed}.get(typed, typed + "\n"))
    assert f"would have needed {right}" in person.close(code=1)
    nothing_was_decided(waiting)


def test_what_was_typed_before_the_prompt_is_no_answer_to_it(waiting: Evolve) -> None:
    person = Terminal(waiting, [*COMMAND, "approve", waits(waiting)])
    person.type("approve\n")  # before anything is on the screen
    person.expect(FIRST)
    person.type("later\n")
    screen = person.close(code=1)
    assert "not approved" in screen
    assert SECOND not in screen
    nothing_was_decided(waiting)


def test_a_prompt_that_nobody_answers_runs_out_and_approves_nothing(waiting: Evolve) -> None:
    code = (
        "import sys; from pathlib import Path; from evolve import campaign, review\n"
        "folder = campaign.find(Path('.evolve'), None)\n"
        "def carry_out(command): raise SystemExit('decided: ' + command.kind)\n"
        "desk = review.Desk(lambda: campaign.load(folder), carry_out, lambda s, r: None, review.Reviewer('ada', None, 0.2))\n"
        "sys.exit(review.review_all(desk))"
    )
    screen = Terminal(waiting, [sys.executable, "-c", code]).close()
    assert screen.count("no answer within") == 2
    assert screen.count("not approved") == 2
    nothing_was_decided(waiting)


def pipe_of_yes(evolve: Evolve) -> subprocess.CompletedProcess[str]:
    yes = subprocess.Popen(["yes", "approve"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    done = evolve.raw("review", stdin=yes.stdout)
    yes.kill()
    yes.communicate()
    return done


WITHOUT_A_PERSON: dict[str, Callable[[Evolve], subprocess.CompletedProcess[str]]] = {
    "a pipe of approve": pipe_of_yes,
    "no input": lambda evolve: evolve.raw("review"),
    "an id": lambda evolve: evolve.raw("approve", waits(evolve)),
}


@pytest.mark.parametrize("how", WITHOUT_A_PERSON)
def test_without_a_terminal_nothing_is_approved(waiting: Evolve, how: str) -> None:
    waiting.env |= ALWAYS_YES
    done = WITHOUT_A_PERSON[how](waiting)
    assert done.returncode == 2
    assert "needs a person at a terminal" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    nothing_was_decided(waiting)


def test_a_pipe_into_a_screen_that_is_a_terminal_approves_nothing(waiting: Evolve) -> None:
    read, write = os.pipe()
    os.write(write, b"approve\n" * 100)
    os.close(write)
    person = Terminal(waiting, [*COMMAND, "review"], stdin=read)
    os.close(read)
    assert "needs a person at a terminal" in person.close(code=2)
    nothing_was_decided(waiting)


@pytest.mark.parametrize("flag", ["--force", "--approve", "--all"])
def test_no_flag_approves(waiting: Evolve, flag: str) -> None:
    assert "is not an option" in waiting.refuses("review", flag)
    assert "is not an option" in waiting.refuses("approve", waits(waiting), flag)
    nothing_was_decided(waiting)


def test_yes_is_no_flag_without_the_whole_hash_of_what_waits(waiting: Evolve) -> None:
    good, better = (w["content_hash"] for w in json.loads(waiting("review", "--json"))["waiting"])
    who = waits(waiting)
    assert "'--yes' is not an option" in waiting.refuses("review", "--yes")
    assert "expected one argument" in waiting.refuses("approve", who, "--yes")
    for typed in ("", "yes", better[:6], better[:63], better + "0", "x" * 64):
        assert "the whole content hash, 64 hex digits" in waiting.refuses("approve", who, "--yes", typed)
    for other in (good, "0" * 64):  # of another candidate, of nothing
        assert "must be the hash of what waits now" in waiting.refuses("approve", who, "--yes", other)
    nothing_was_decided(waiting)


def test_the_whole_hash_approves_without_a_terminal(waiting: Evolve) -> None:
    _, better = json.loads(waiting("review", "--json"))["waiting"]
    said = waiting("approve", better["candidate"][:8], "--yes", better["content_hash"], "--by", "ada")
    assert f"approved and promoted: {better['candidate'][:8]}" in said
    assert waiting.status()["champion"] == better["candidate"]
    (decision,) = waiting.seen("c", "Decided")
    assert decision["approval"]["by"].startswith("ada (uid name ")


def test_no_setting_approves(evolve: Evolve) -> None:
    for setting in ("gate.auto_approve=true", "+gate.auto_approve=true", "+approve=true", "+yes=true"):
        assert "is not a setting" in evolve.refuses("run", *QUADRATIC, setting)
