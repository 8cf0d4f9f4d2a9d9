"""What a reviewer is shown, what the prompt and the one writer refuse, signatures: without processes of a campaign."""

from __future__ import annotations

import copy
import json
import os
import pty
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from inline import Clock, Inline, Scripted

from evolve import log_text, policy, review, screen, signatures, waiting, watch
from evolve.errors import BadInput
from evolve.journal import Journal, read
from evolve.loop import leave_command, read_inbox
from evolve.notify import payload
from evolve.state import Entry, State, apply
from evolve.types import (
    ApprovalRequest,
    Candidate,
    Command,
    CommandRefused,
    Decided,
    EvalProposal,
    GateRules,
    GuardFinding,
    LessonWritten,
    Promoted,
    Proposal,
    ProposalFailed,
    Proposed,
    Record,
    Spend,
    SuiteChanged,
    TrialFinished,
    person_of,
    short,
)

BEST = {"x": 0.8, "mode": "b", "z": 4}
GOOD = {"x": 0.75, "mode": "b", "z": 4}
CODE = "def select(prompt: str) -> bool:\n    return True\n"
EVIL = '[red]a[/red]\x1b[31mb\x1b]0;owned\x07\x9bc\u202ed\u2066e\x00\r\n{"z": 1}<script>|`#\u200b\x7f'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "campaign"


def waits(folder: Path, *changes: dict[str, object], **gate: object) -> Inline:
    """A campaign whose candidates `changes` (BEST without any) wait, the first the oldest."""
    campaign = Inline(folder, Scripted(changes or [BEST]), gate=GateRules(**gate))  # type: ignore[arg-type]
    campaign.run()
    assert len(campaign.state.pending) == len(changes or [BEST])
    return campaign


def only(campaign: Inline) -> ApprovalRequest:
    (request,) = campaign.state.pending.values()
    return request


def decide(campaign: Inline, kind: str, by: str, check: object = None, **fields: object) -> list[object]:
    """What the one writer makes of a command while no controller runs."""
    for request in waiting.requests(campaign.state)[:1]:
        fields = {"candidate_id": request.candidate_id, "content_hash": request.content_hash} | fields
    campaign.commands += 1
    leave_command(campaign.folder / "inbox", Command(f"d{campaign.commands}", kind, by, **fields), campaign.commands)  # type: ignore[arg-type]
    found = []
    with Journal.open(campaign.folder, Clock()) as journal:
        for event in read_inbox(campaign.folder / "inbox", campaign.state, check):  # type: ignore[arg-type]
            apply(campaign.state, event, journal.append(event).time)
            found.append(event)
    return found


def refusal(events: list[object]) -> str:
    (event,) = events
    assert isinstance(event, CommandRefused)
    return event.reason


# ---------------------------------------------------------------- what is shown


def test_a_screen_says_gain_interval_promise_vault_seeds_compute_and_who(folder: Path) -> None:
    campaign = waits(folder)
    request = only(campaign)
    numbers = campaign.state.entries[request.candidate_id].verdict.numbers  # type: ignore[union-attr]
    text = screen.candidate_text(campaign.state, request, "http://link")
    assert f"candidate  {request.candidate_id}\ncontent    {request.content_hash}" in text
    assert "x     0.5 -> 0.8\n           mode  a -> b\n           z     (none) -> 4" in text
    assert f"better by {numbers['estimate']:.4g}, 95 % interval {numbers['low']:.4g} to {numbers['high']:.4g}" in text
    assert (
        "(maximize); corrected for selection\n           3 fresh seeds against 4 of the champion, fresh problems\n"
        in text
    )
    assert "vault      yes, there again" in text and "(1 of 10 asked)" in text
    assert "promise    at most 5% that a campaign of 50 useless candidates promotes any" in text
    assert "integrity  parameters only: no edited code ran; sandbox none" in text
    assert "compute    1.00 CPU s a training, champion 1.00 (1.00x); limit 1.1x" in text
    assert "│ by       scripted\n│ why      scripted" in text
    assert text.endswith("mlflow     http://link")
    assert f"± {numbers['stderr']:.4f}" not in text, "the naive difference is not shown"


@pytest.mark.parametrize(
    ("numbers", "seeds", "text"),
    [
        ({"estimate": 0.25, "low": 0.2, "high": 0.3}, 8, "better by 0.25, 95 % interval 0.2 to 0.3"),
        ({"estimate": 0.25, "high": 0.3}, 8, "better by 0.25, lower bound not above 0, at most 0.3 (95 %)"),
        ({"difference": 0.25, "stderr": 0.1}, 1, "no interval: one seed, no test"),
        ({"difference": 0.25, "stderr": 0.1}, 8, "no interval: no gain was shown"),
    ],
)
def test_an_interval_is_the_gates_or_said_to_be_missing(numbers: dict[str, float], seeds: int, text: str) -> None:
    assert waiting.interval_text(numbers, GateRules(max_seeds=seeds)) == text


def test_one_seed_shows_that_nothing_was_tested_and_nothing_is_promised(folder: Path) -> None:
    campaign = waits(folder, setting="single_seed", baseline_seeds=1, max_seeds=1, candidates=1)
    text = screen.candidate_text(campaign.state, only(campaign), None)
    assert "gain       no interval: one seed, no test" in text
    assert "promise    none: keep if better, on one seed" in text
    assert "gate       single_seed" in text


def test_guards_are_shown_with_both_values_and_what_was_allowed(folder: Path) -> None:
    campaign = waits(folder)
    request = only(campaign)
    entry = campaign.state.entries[request.candidate_id]
    assert entry.verdict is not None
    found = {"difference": -0.02, "margin": 0.05, "challenger": 0.48, "champion": 0.5}
    entry.verdict = replace(entry.verdict, guards=(*entry.verdict.guards, GuardFinding("groups/sums", **found)))
    assert "guards     groups/sums  holds  0.48, champion 0.5; may be worse by 0.05" in screen.candidate_text(
        campaign.state, request, None
    )
    (guard,) = [g for g in waiting.guards(entry.verdict) if g["name"] == "groups/sums"]
    assert guard == {"name": "groups/sums", "holds": True, **found}


def test_what_descends_from_something_rejected_says_so(folder: Path) -> None:
    campaign = waits(folder)
    request, state = only(campaign), campaign.state
    parent = Candidate({"x": 0.1, "mode": "a"}, "v")
    state.entries[parent.id] = Entry(Proposal(parent, "human"), stage="declined", reason="it cheats")
    entry = state.entries[request.candidate_id]
    entry.proposal = replace(entry.proposal, parents=(short(parent.id),))
    text = screen.candidate_text(state, request, None)
    assert f"parent   {short(parent.id)} (declined), which a person rejected: it cheats" in text


def harmless(text: str) -> None:
    """Nothing but letters and line ends: no terminal and no page draws anything of it."""
    bad = [
        c for c in text if c != "\n" and (unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp"))
    ]
    assert bad == []
    assert "owned" in text or "a[/red]" in text, "it was shown, not dropped"


def evil(campaign: Inline) -> ApprovalRequest:
    """The candidate that waits, with every text that others may write set to EVIL."""
    request, state = only(campaign), campaign.state
    entry = state.entries[request.candidate_id]
    candidate = replace(entry.proposal.candidate, patch=f"--- a/{EVIL}\n+++ b/{EVIL}\n@@ -1 +1 @@\n-{EVIL}\n+{EVIL}\n")
    entry.proposal = replace(
        entry.proposal,
        candidate=candidate,
        proposer=EVIL,
        model=EVIL,
        rationale=EVIL,
        decided=EVIL,
        parents=(EVIL, "aa"),
    )
    assert entry.verdict is not None
    entry.verdict = replace(entry.verdict, reason=EVIL)
    declined = Entry(Proposal(replace(candidate, patch=None), EVIL), stage="declined", reason=EVIL)
    state.entries["aa" + "0" * 62] = declined
    return replace(request, sandbox=EVIL)


def test_evil_text_draws_on_no_screen_and_in_no_json(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    campaign = waits(folder, approvals=2)
    request, state = evil(campaign), campaign.state
    apply(state, Decided(policy.Approval(request.candidate_id, "approve", request.content_hash, EVIL, EVIL)))
    text = screen.candidate_text(state, request, None)
    harmless(text)
    claims = text[text.index("claims     of its proposer") :].splitlines()[1:]
    assert all(line.startswith("│ ") for line in claims if line), "no claim leaves its block"
    for page in screen.patch_pages(state.entries[request.candidate_id].proposal.candidate.patch or "", 80, 10):
        harmless("\n".join(line.plain for line in page) + "owned")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    screen.show(state, request, None, heading="1 of 1", since=5.0, now=1.0)
    harmless(capsys.readouterr().out)

    raw = json.dumps(waiting.describe(state, request), allow_nan=False)
    assert raw.isascii() and "\x7f" not in raw
    for value in strings(json.loads(raw)):
        harmless(value.replace("\n", "") + "owned")
    told = json.dumps(payload(state, request.candidate_id))
    for value in strings(json.loads(told)):
        harmless(value.replace("\n", "") + "owned")
    assert "owned" not in json.loads(told)["text"], "what a chat renders has nothing of the candidate's own"


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def test_evil_text_draws_in_no_line_of_log_and_progress(folder: Path) -> None:
    campaign = waits(folder)
    candidate = Candidate({"x": 0.1, "mode": "a"}, "v")
    events = [
        Proposed(Proposal(candidate, EVIL, EVIL, decided=EVIL)),
        ProposalFailed(EVIL, EVIL),
        TrialFinished(0, "FAIL", error=EVIL),
        LessonWritten(EVIL, EVIL),
        Decided(policy.Approval(candidate.id, "reject", "0" * 64, EVIL, EVIL)),
    ]
    for event in events:
        for line in log_text.log_lines([Record(1, 0.0, event)]):
            harmless(line)
        if line := watch.describe(Record(1, 0.0, event), campaign.state):
            harmless(line + "owned")


def test_hidden_characters_of_a_patch_are_shown_and_nothing_of_a_long_line_is_cut() -> None:
    patch = "--- a/f\n+++ b/f\n@@ -1 +1,2 @@\n-x = 1\n+x = 1  # \u202eevil\u2069\u00a0\r\n+\t" + "y" * 100 + "\n"
    pages = screen.patch_pages(patch, 40, 4)
    lines = [line.plain for page in pages for line in page]
    assert "+x = 1  # <U+202E>evil<U+2069><U+00A0><U" in lines
    assert "+    " + "y" * 35 in lines
    assert "".join(lines).count("y") == 100
    assert max(map(len, lines)) == 40
    assert [len(page) for page in pages] == [4, 4, 2]
    style = {line.plain: str(line.style) for page in pages for line in page}
    assert style["-x = 1"] == "red" and style["@@ -1 +1,2 @@"] == "cyan" and style["+++ b/f"] == "bold"


# ---------------------------------------------------------------- the prompt


class Person:
    """Types answers at the prompts of `review.ask`, and sees them; None is the end of input."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.prompts = list(answers), list[str]()

    def __call__(self, prompt: str, timeout_seconds: float = 0.0) -> str | None:
        self.prompts.append(prompt)
        answer = self.answers.pop(0) if self.answers else None
        return answer() if callable(answer) else answer  # type: ignore[return-value]


@pytest.fixture
def at_the_prompt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Person]:
    monkeypatch.setattr(review, "require_terminal", lambda stdin, stdout: None)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 10)))

    def sit(campaign: Inline, *answers: object, by: str = "ada", desk: dict[str, object] | None = None) -> Person:
        person = Person(*answers)
        monkeypatch.setattr(review, "ask", person)

        def carry_out(command: Command) -> str:
            fields = {
                k: getattr(command, k) for k in ("candidate_id", "content_hash", "reason", "seeds", "confirmations")
            }
            events = decide(campaign, command.kind, command.by, seconds=command.seconds, **fields)
            if isinstance(events[0], CommandRefused):
                raise BadInput(events[0].reason)
            return f"done: {command.kind}"

        settings: dict[str, object] = {"link": lambda s, r: None, "reviewer": review.Reviewer(by)} | (desk or {})
        review.review_all(review.Desk(lambda: copy.deepcopy(campaign.state), carry_out, **settings))  # type: ignore[arg-type]
        return person

    return sit


def decided(campaign: Inline) -> list[object]:
    records = (record.event for record, _ in read(campaign.folder / "journal.jsonl"))
    return [e for e in records if isinstance(e, Decided | Promoted | SuiteChanged)]


def test_a_letter_and_the_digits_approve(folder: Path, at_the_prompt: Callable[..., Person], capsys) -> None:  # type: ignore[no-untyped-def]
    campaign = waits(folder)
    at_the_prompt(campaign, "a", only(campaign).content_hash[:6])
    assert "done: approve" in capsys.readouterr().out
    assert [type(e) for e in decided(campaign)] == [Decided, Promoted]


@pytest.mark.parametrize(
    "answers", [("a", ""), ("a", None), ("a", "approve"), ("a", "a"), ("A",), ("yes",), (None,), ("a a",)]
)
def test_nothing_else_approves(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    answers: tuple[object, ...],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign = waits(folder)
    at_the_prompt(campaign, *answers)
    assert "not approved" in capsys.readouterr().out
    assert decided(campaign) == []


def test_the_oldest_comes_first_what_is_stale_last_and_q_leaves_the_rest(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign = waits(folder, GOOD, BEST)
    old, new = campaign.state.pending
    at_the_prompt(campaign, "l", "q")
    screens = capsys.readouterr().out
    assert screens.index(f"candidate  {old}") < screens.index(f"candidate  {new}")
    at_the_prompt(campaign, "q")
    assert f"candidate  {new}" not in capsys.readouterr().out
    second = campaign.state.pending[new]
    decide(campaign, "approve", "ada", candidate_id=new, content_hash=second.content_hash)
    assert [r.candidate_id for r in waiting.requests(campaign.state)] == [old]
    at_the_prompt(campaign, "a")
    said = capsys.readouterr().out
    assert "STALE" in said and f"the champion is {short(new)} by now" in said
    assert f"not approved: {short(old)}: its evidence is against" in said
    assert len(decided(campaign)) == 2


def patched(campaign: Inline) -> ApprovalRequest:
    request = only(campaign)
    entry = campaign.state.entries[request.candidate_id]
    lines = "".join(f"+line {n}\n" for n in range(12))
    patch = f"--- a/recipe.py\n+++ b/recipe.py\n@@ -1 +1,12 @@\n{lines}"
    entry.proposal = replace(entry.proposal, candidate=replace(entry.proposal.candidate, patch=patch))
    return request


def test_a_patch_is_approved_only_after_its_end_was_reached(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign = waits(folder)
    request = patched(campaign)
    person = at_the_prompt(campaign, "d", "", "q", "a", "", "q")  # left on page 2 both times
    said = capsys.readouterr().out
    assert "patch      +12 -0 lines in recipe.py; read it with d" in said
    assert "the whole diff first:" in said and "its diff was not read to the end" in said
    assert "+line 4" in said and "+line 11" not in said
    assert "-- page 1 of 3: Enter goes on, q leaves > " in person.prompts
    assert decided(campaign) == []
    at_the_prompt(campaign, "d", "", "", "a", request.content_hash[:6])
    assert "-- end of the diff, page 3 of 3 --" in capsys.readouterr().out
    assert [type(e) for e in decided(campaign)] == [Decided, Promoted]


def test_a_candidate_without_a_patch_has_no_diff_to_open(
    folder: Path, at_the_prompt: Callable[..., Person], capsys
) -> None:  # type: ignore[no-untyped-def]
    campaign = waits(folder)
    person = at_the_prompt(campaign, "d")
    assert "[d]iff" not in person.prompts[0]
    assert "'diff' is none of" in capsys.readouterr().out or decided(campaign) == []


def test_further_seeds_say_their_cost_before_they_are_confirmed(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign = waits(folder)
    name = short(only(campaign).candidate_id)
    for typed in ("0", "99", "0002000", "two", "", None, "-1", "²"):
        at_the_prompt(campaign, "m", typed)
        assert "a number from 1 to 21 was needed" in capsys.readouterr().out
    at_the_prompt(campaign, "m", "3", "no")
    said = capsys.readouterr().out
    # 3 trainings of 1 s, and scores of 1 s for the candidate and a bank of 4 on the problems of each seed
    assert "3 further: 3 trainings, about 0.3 minutes by what trainings took here" in said
    assert f"nothing was asked for, {name} waits" in said
    assert campaign.state.evidence == {}
    at_the_prompt(campaign, "m", "3", "yes")
    assert "done: evidence" in capsys.readouterr().out
    assert campaign.state.evidence == {only(campaign).candidate_id: 3}
    before = only(campaign).content_hash
    campaign.budget = replace(campaign.budget, trials=40)
    campaign.run()
    (request,) = campaign.state.pending.values()
    assert campaign.state.entries[request.candidate_id].verdict.numbers["n"] == 6  # type: ignore[union-attr]
    assert "changed since" in refusal(decide(campaign, "approve", "ada", content_hash=before))


def test_renewing_stale_evidence_says_what_it_takes_and_makes_it_pending_again(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign = waits(folder, GOOD, BEST)
    good, best = campaign.state.pending.values()
    decide(campaign, "approve", "ada", candidate_id=good.candidate_id, content_hash=good.content_hash)
    assert list(campaign.state.stale) == [best.candidate_id]
    person = at_the_prompt(campaign, "m", "yes")
    assert "[m]ore: renew the evidence" in person.prompts[0]
    # the new champion has 4 unselected trainings, enough for a bank; 1 to 8 seeds of the challenger, 2 before the vault
    assert f"against {short(good.candidate_id)} takes 1 to 10 trainings, at most about" in capsys.readouterr().out
    assert campaign.state.evidence == {best.candidate_id: 1}


# ---------------------------------------------------------------- two people


def test_the_slower_of_two_reviewers_is_told_who_decided_what(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign = waits(folder)
    request = only(campaign)
    digits = request.content_hash[:6]

    def somebody_approves() -> str:
        decide(campaign, "approve", "bob")
        return "a"

    at_the_prompt(campaign, somebody_approves, digits)
    assert f"not approved: {short(request.candidate_id)}: it is promoted (approved by bob)" in capsys.readouterr().out
    assert len(decided(campaign)) == 2


def test_a_rejection_between_the_digits_and_the_writer_is_told_with_its_reason(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign = waits(folder)
    request = only(campaign)

    def somebody_rejects() -> str:
        decide(campaign, "reject", "bob", reason="no\x1b[31m good")
        return request.content_hash[:6]

    at_the_prompt(campaign, "a", somebody_rejects)
    assert "it is declined (rejected by bob: no[31m good)" in capsys.readouterr().out
    assert [type(e) for e in decided(campaign)] == [Decided]


def test_two_approvals_need_two_names_and_the_first_is_shown(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign = waits(folder, approvals=2)
    digits = only(campaign).content_hash[:6]
    at_the_prompt(campaign, "a", digits, by="ada (uid name root)")
    assert "approvals  0 of 2: nobody yet" in capsys.readouterr().out
    assert [type(e) for e in decided(campaign)] == [Decided]
    at_the_prompt(campaign, "a", digits, by="Ada (uid name other)")
    said = capsys.readouterr().out
    assert "approvals  1 of 2: ada (uid name root) approved" in said
    assert "you (Ada (uid name other)) have approved it already, and 2 different persons must" in said
    assert "2 different persons must approve" in refusal(decide(campaign, "approve", "ADA"))
    at_the_prompt(campaign, "a", digits, by="bob")
    assert [type(e) for e in decided(campaign)] == [Decided, Decided, Promoted]


@pytest.mark.parametrize(("by", "person"), [("ada", "ada"), ("Ada (uid name root)", "ada"), ("uid 1000", "uid 1000")])
def test_a_person_is_the_name_whatever_the_account(by: str, person: str) -> None:
    assert person_of(by) == person


def test_a_name_is_recorded_with_the_systems_and_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "person", lambda: "root")
    assert review.approver("ada") == "ada (uid name root)"
    assert review.approver(None) == "root"
    for name in ("", " ada", "a,b", "*", "ada (uid name root)", "a\x1b[31m", "a" * 61, "-I"):
        with pytest.raises(BadInput, match="An approver's name"):
            review.approver(name)


def waits_with_evaluation(folder: Path, code: str = CODE, **gate: object) -> tuple[Inline, ApprovalRequest]:
    """A campaign in which a proposed evaluation waits, and nothing else."""
    proposal = EvalProposal("hard", "slice", code, f"why {EVIL}", "agent", "some/model")
    campaign = Inline(folder, Scripted([{"x": 0.1}, {"x": 0.2}], evaluations=(proposal,)), gate=GateRules(**gate))  # type: ignore[arg-type]
    campaign.changes = {"answer_cmd": ("x",)}
    campaign.run()
    (request,) = waiting.requests(campaign.state)
    assert request.kind == "eval"
    return campaign, request


def test_a_change_of_the_evaluation_needs_two_separate_confirmations(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign, request = waits_with_evaluation(folder)
    first, last = request.content_hash[:6], request.content_hash[-6:]
    at_the_prompt(campaign, "a", first)
    assert f"would have needed {last}" in capsys.readouterr().out
    at_the_prompt(campaign, "a", first, first)
    assert "must be confirmed twice" in refusal(decide(campaign, "approve", "ada"))
    assert "has changed since" in refusal(decide(campaign, "approve", "ada", content_hash="0" * 64, confirmations=2))
    assert decided(campaign) == []
    at_the_prompt(campaign, "m")
    assert "'m' is none of: [a]pprove  [r]eject  [c]ode  [l]ater  [q]uit" in capsys.readouterr().out
    at_the_prompt(campaign, "c", "a", first, last)
    out = capsys.readouterr().out
    assert out.index("return True") < out.index("done: approve"), "the whole code was on the screen"
    assert [type(e) for e in decided(campaign)] == [Decided, SuiteChanged]
    assert "it is adopted (approved by ada)" in refusal(
        decide(campaign, "approve", "bob", candidate_id=request.candidate_id, content_hash=request.content_hash)
    )


def test_two_persons_must_confirm_a_change_of_the_evaluation_where_two_must_approve(folder: Path) -> None:
    campaign, _ = waits_with_evaluation(folder, approvals=2)
    assert [type(e) for e in decide(campaign, "approve", "ada", confirmations=2)] == [Decided]
    assert "2 different persons must approve" in refusal(decide(campaign, "approve", "ada", confirmations=2))
    assert [type(e) for e in decide(campaign, "approve", "bob", confirmations=2)] == [Decided, SuiteChanged]


def test_an_evaluations_screen_shows_code_report_and_claims_and_nothing_draws_on_the_terminal(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign, request = waits_with_evaluation(folder, CODE + "# \u202e\x1b[31m hidden\n")
    data = waiting.describe(campaign.state, request)
    json.dumps(data, allow_nan=False)
    assert data["code"].endswith("# <U+202E><U+001B>[31m hidden\n")
    at_the_prompt(campaign, "c", "l")
    out = capsys.readouterr().out
    assert "suite/hard" in out and "known good" in out and "rank correlation" in out
    assert "2 hidden character(s) made visible" in out and "<U+202E><U+001B>[31m hidden" in out
    assert "\x1b" not in out and "\u202e" not in out and "\x07" not in out
    assert "│ by       agent with some/model" in out
    at_the_prompt(campaign, "r", "too narrow")
    assert campaign.state.evals[request.candidate_id].stage == "declined"
    assert waiting.requests(campaign.state) == []


# ---------------------------------------------------------------- clocks, files


def test_times_that_go_back_and_negative_seconds_at_the_prompt_do_no_harm(folder: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    campaign = waits(folder)
    screen.show(campaign.state, only(campaign), None, heading="1 of 1 waiting", since=2000.0, now=1000.0)
    assert "1 of 1 waiting ─" in capsys.readouterr().out, "it has waited for no negative time"
    screen.show(campaign.state, only(campaign), None, heading="1 of 1 waiting", since=1000.0, now=1000.0 + 3 * 3600)
    assert "1 of 1 waiting, for 3 h ─" in capsys.readouterr().out
    (decision, _) = decide(campaign, "approve", "ada", seconds=-5.0)
    assert isinstance(decision, Decided) and decision.approval.seconds == 0.0
    with Journal.open(folder, lambda: 0.5) as journal:  # the clock was set back
        apply(campaign.state, LessonWritten("x", "human"), journal.append(LessonWritten("x", "human")).time)
    state = State()
    for record, _ in read(folder / "journal.jsonl"):
        apply(state, record.event, record.time)
    assert state.champion_id == campaign.state.champion_id and state.wall_seconds >= 0


def test_the_writer_refuses_what_its_check_has_a_reason_against_and_only_approvals(folder: Path) -> None:
    campaign = waits(folder)
    asked = []

    def check(state: State, command: Command) -> str:
        asked.append(command.kind)
        return "its weights are gone"

    assert refusal(decide(campaign, "approve", "ada", check)) == "its weights are gone"
    assert "changed since" in refusal(decide(campaign, "approve", "ada", check, content_hash="0" * 64))
    assert decided(campaign) == []
    (rejected,) = decide(campaign, "reject", "ada", check, reason="no")
    assert isinstance(rejected, Decided)
    assert asked == ["approve"], "the policy is asked first"


def test_the_running_loop_asks_the_check_as_well(folder: Path) -> None:
    campaign = waits(folder)
    request = only(campaign)
    campaign.check = lambda state, command: "not with this loop"
    campaign.command("approve", candidate_id=request.candidate_id, content_hash=request.content_hash)
    campaign.run()
    assert campaign.state.commands["c1-approve"] == "not with this loop"
    assert decided(campaign) == []


# ---------------------------------------------------------------- signatures


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ada", "bob", "mallory"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(command, check=True)
    return {name: folder / name for name in ("ada", "bob", "mallory")}


def signers(keys: dict[str, Path], *names: str) -> str:
    return "".join(f"{name} {keys[name].with_suffix('.pub').read_text()}" for name in names)


def test_only_an_allowed_signers_signature_over_exactly_this_approval_is_taken(
    folder: Path, keys: dict[str, Path]
) -> None:
    campaign = waits(folder, GOOD, BEST)
    started, (first, second) = campaign.state.campaign, campaign.state.pending.values()
    allowed = signers(keys, "ada", "bob")

    def command(by: str, request: ApprovalRequest = first, kind: str = "approve") -> Command:
        return Command("c", kind, by, request.candidate_id, request.content_hash)  # type: ignore[arg-type]

    def attempt(by: str, key: str | None, said: Command | None = None, asked: Command | None = None) -> str:
        asked = asked or command(by)
        signature = "" if key is None else signatures.sign(keys[key], signatures.message(started, said or asked))
        return signatures.refusal(allowed, started, replace(asked, signature=signature))

    assert attempt("ada (uid name root)", "ada") == ""
    assert attempt("bob", "bob") == ""
    assert "must be signed" in attempt("ada", None)
    assert "an allowed signer called 'ada'" in attempt("ada", "bob"), "somebody else's key"
    assert "an allowed signer called 'mallory'" in attempt("mallory", "mallory")
    assert "an allowed signer called 'ada'" in attempt("ada", "ada", command("ada", second)), "of other content"
    assert "an allowed signer called 'ada'" in attempt("ada", "ada", command("ada", first, "reject"))
    other = replace(started, secret_sha256="another campaign")
    signature = signatures.sign(keys["ada"], signatures.message(other, command("ada")))
    assert signatures.refusal(allowed, started, replace(command("ada"), signature=signature))
    assert "must be letters" in signatures.refusal(allowed, started, replace(command("*"), signature="x"))
    assert signatures.refusal(allowed, started, replace(command("ada"), signature=EVIL)).isprintable()
    # where no signature is asked for, one that is there must fit all the same
    assert signatures.refusal("", started, command("ada")) == ""
    assert signatures.refusal("", started, replace(command("ada"), signature=signature))
    fitting = signatures.sign(keys["mallory"], signatures.message(started, command("ada")))
    assert signatures.refusal("", started, replace(command("ada"), signature=fitting)) == ""


def test_the_signature_is_in_the_journal_with_the_approval(folder: Path, keys: dict[str, Path]) -> None:
    campaign = waits(folder)
    request, started = only(campaign), campaign.state.campaign
    allowed = signers(keys, "ada")
    check = lambda state, command: signatures.refusal(allowed, started, command)  # noqa: E731
    unsigned = Command("c", "approve", "ada", request.candidate_id, request.content_hash)
    signature = signatures.sign(keys["ada"], signatures.message(started, unsigned))
    assert "must be signed" in refusal(decide(campaign, "approve", "ada", check))
    decide(campaign, "approve", "ada", check, signature=signature)
    decision, promotion = decided(campaign)
    assert isinstance(decision, Decided) and decision.approval.signature == signature
    assert isinstance(promotion, Promoted)


def test_a_key_that_cannot_sign_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="must name a private key"):
        signatures.sign(tmp_path / "none", b"x")
    (tmp_path / "no-key").write_text("this is no key")
    (tmp_path / "no-key").chmod(0o600)
    with pytest.raises(BadInput, match="nothing was decided"):
        signatures.sign(tmp_path / "no-key", b"x")


def test_a_reviewer_without_a_key_is_told_before_the_digits(
    folder: Path,
    at_the_prompt: Callable[..., Person],
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    campaign = waits(folder)
    at_the_prompt(campaign, "a", only(campaign).content_hash[:6], desk={"signed": True})
    assert "approvals of this campaign must be signed; call again with --sign KEY" in capsys.readouterr().out
    assert decided(campaign) == []


def test_the_terminal_of_a_person_is_both_ends() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "r+b", buffering=0) as end, open(os.devnull) as nothing:
        review.require_terminal(end, end)  # type: ignore[arg-type]
        for ends in ((end, nothing), (nothing, end)):
            with pytest.raises(BadInput, match="needs a person at a terminal"):
                review.require_terminal(*ends)  # type: ignore[arg-type]
    os.close(master)


def test_spend_of_a_model_is_part_of_a_candidates_cost(folder: Path) -> None:
    campaign = waits(folder)
    request = only(campaign)
    entry = campaign.state.entries[request.candidate_id]
    entry.proposal = replace(entry.proposal, spend=Spend(llm_tokens=1200, llm_usd=0.012), model="some/model")
    text = screen.candidate_text(campaign.state, request, None)
    assert "trainings, 5 CPU s, 1200 tokens ($0.0120)" in text
    assert "│ by       scripted with some/model" in text
