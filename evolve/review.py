"""The prompt at which a person decides what is promoted. Part of the CLI; what is shown is `screen.py`'s.

Fail-closed: without a terminal on both ends, at the end of input, after the time-out, for any other answer than one of
those asked for, and where anything has changed since it was shown, nothing is approved. No variable or setting answers in a
person's place, and a letter alone does not approve: the first digits of the content must be typed as well. The one way
without a terminal is `evolve approve ID --yes HASH` with the whole hash of the content, which nobody knows who has not seen it.

What the prompt checks, the one writer checks again (`policy.answer`, and `loop.read_inbox` with what it is given): between
prompt and journal somebody else may have decided.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

from evolve import budget, policy, signatures, waiting
from evolve.errors import BadInput
from evolve.state import State
from evolve.tracking_page import plain
from evolve.types import PERSON_NAME, UID_NAME, ApprovalRequest, Command, short

TIMEOUT_SECONDS = 600.0
_REASON_CHARS = 1000
_WORDS = {
    "a": "approve",
    "r": "reject",
    "m": "more",
    "d": "diff",
    "c": "diff",
    "code": "diff",
    "l": "later",
    "q": "quit",
}
_PROMPT_LINES = 3  # of a page of the diff, kept for the prompt


def person() -> str:
    """Whose account this is: the system's user name, by the user's number, not by a variable that anyone can set."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers often have no such entry
        return f"uid {os.getuid()}"


def approver(name: str | None) -> str:
    """Who decides, as it is recorded: the system's user name, behind the name that the person goes by where there is one."""
    if name is None:
        return person()
    if not PERSON_NAME.fullmatch(name):
        raise BadInput(
            f"An approver's name must be letters, digits, blanks and any of .@+-_, but got {name!r}; use --by NAME."
        )
    return f"{name}{UID_NAME}{person()})"


def require_terminal(stdin: TextIO, stdout: TextIO) -> None:
    """Raises `BadInput` where a person cannot have read and typed."""
    if not (stdin.isatty() and stdout.isatty()):
        raise BadInput("A decision needs a person at a terminal, but input or output is none; nothing was approved.")


def ask(prompt: str, timeout_seconds: float = TIMEOUT_SECONDS) -> str | None:
    """One line typed at the terminal; None at the end of input or after the time-out. What was typed before is dropped."""
    import termios

    # Whatever was in the buffer before the screen was shown was not an answer to it.
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    sys.stdout.write(prompt)
    sys.stdout.flush()
    ready, _, _ = select.select([sys.stdin], [], [], timeout_seconds)
    if not ready:
        sys.stdout.write(f"\nno answer within {timeout_seconds:.0f} s\n")
        return None
    line = sys.stdin.readline()
    return line.strip() if line else None


def new_command(kind: str, *, by: str | None = None, **fields: object) -> Command:
    """A command in this person's name, with an id of its own. What was typed and is no Unicode becomes `?`."""
    fields = {k: v.encode(errors="replace").decode() if isinstance(v, str) else v for k, v in fields.items()}
    return Command(id=uuid.uuid4().hex, kind=kind, by=by or person(), **fields)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reviewer:
    """Who sits at the prompt. `key`: what approvals are signed with."""

    by: str
    key: Path | None = None
    timeout_seconds: float = TIMEOUT_SECONDS


@dataclass(frozen=True)
class Desk:
    """What the prompt knows of the world.

    Args:
        load: the campaign as it is now.
        carry_out: gives a command to the one writer and says what came of it; `BadInput` where it was refused.
        link: into MLflow, or None.
        problem: why a candidate's weights cannot be promoted, or "".
        since: when a candidate began to wait, seconds since the epoch.
        signed: whether the campaign takes signed approvals alone.
    """

    load: Callable[[], State]
    carry_out: Callable[[Command], str]
    link: Callable[[State, ApprovalRequest], str | None]
    reviewer: Reviewer
    problem: Callable[[ApprovalRequest], str] = lambda request: ""
    since: Callable[[str], float | None] = lambda candidate_id: None
    signed: bool = False


def review_all(desk: Desk, only: str | None = None) -> int:
    """Goes through what waits, the oldest first, what is stale last. Returns the number of approvals carried out."""
    state = desk.load()
    ids = [r.candidate_id for r in waiting.requests(state) if only is None or r.candidate_id == only]
    if not ids:
        print("nothing waits for approval")
        return 0
    require_terminal(sys.stdin, sys.stdout)
    started, approved = time.monotonic(), 0
    for position, candidate_id in enumerate(ids, start=1):
        state = desk.load()
        request = waiting.request_of(state, candidate_id)
        if request is None:
            print(f"{short(candidate_id)} does not wait any more: {plain(policy.standing(state, candidate_id))}")
            continue
        outcome = _Seat(desk, state, request).decide(f"{position} of {len(ids)} waiting in {state.campaign.campaign}")
        approved += outcome == "approved"
        if outcome == "quit":
            break
    print(f"({time.monotonic() - started:.0f} s at the prompt)")
    return approved


Outcome = Literal["approved", "other", "quit"]


class _Seat:
    """One person before one candidate."""

    def __init__(self, desk: Desk, state: State, request: ApprovalRequest) -> None:
        self.desk, self.state, self.request = desk, state, request
        self.name = short(request.candidate_id)
        self.eval = request.kind == "eval"
        # What has to be read to its end before it can be approved: the patch, or the code of an evaluation.
        self.patch = (
            state.evals[request.candidate_id].proposal.code
            if self.eval
            else state.entries[request.candidate_id].proposal.candidate.patch
        )
        self.read = self.patch is None  # the whole of it
        self.shown = time.monotonic()

    def decide(self, heading: str) -> Outcome:
        """Shows the candidate, asks until something is decided or left, says what came of it."""
        from evolve import screen  # draws with rich, which takes its time to import

        request = self.request
        link, since = self.desk.link(self.state, request), self.desk.since(request.candidate_id)
        screen.show(self.state, request, link, heading=heading, since=since, now=time.time())
        print()
        if obstacle := self._obstacle():
            print(f"cannot be approved: {obstacle}")
        if asked := self.state.evidence.get(request.candidate_id):
            print(f"more evidence is asked for already ({asked} seeds); it is taken when the campaign goes on")
        while True:
            answer = self._ask(self._choices())
            match _WORDS.get(answer or "", answer):
                case "diff" if self.patch is not None:
                    self.read = self._page() or self.read
                case "approve":
                    return self._approve()
                case "reject":
                    return self._reject()
                case "more" if not self.eval:
                    return self._more()
                case "quit":
                    print(f"not approved: {self.name} and what comes after it wait for a later review")
                    return "quit"
                case "later" | "":
                    print(f"not approved: {self.name} waits for a later review")
                    return "other"
                case None:
                    print(f"not approved: {self.name}")
                    return "other"
                case _:
                    keys = self._choices().removesuffix(" > ")
                    print(f"not approved: {self.name}; {plain(str(answer), 40)!r} is none of: {keys}")
                    return "other"

    def _ask(self, prompt: str) -> str | None:
        return ask(prompt, self.desk.reviewer.timeout_seconds)

    def _choices(self) -> str:
        more = "[m]ore: renew the evidence" if waiting.is_stale(self.state, self.request) else "[m]ore evidence"
        diff = ["[d]iff"] if self.patch is not None else []
        if self.eval:
            return "  ".join(["[a]pprove", "[r]eject", "[c]ode", "[l]ater", "[q]uit"]) + " > "
        return "  ".join(["[a]pprove", "[r]eject", more, *diff, "[l]ater", "[q]uit"]) + " > "

    def _obstacle(self) -> str:
        """Why an approval of this person's would be refused, or ""; all of it is checked again by the writer."""
        state, request, reviewer = self.state, self.request, self.desk.reviewer
        if waiting.is_stale(state, request):
            return (
                f"its evidence is against {short(request.champion_id)}, and the champion is {short(state.champion_id)} by"
                f" now; m renews it: {waiting.evidence_cost(state, request, 1).text}"
            )
        if waiting.has_approved(state, request.candidate_id, reviewer.by):
            needed = state.campaign.rules.gate.approvals
            return f"you ({plain(reviewer.by, 100)}) have approved it already, and {needed} different persons must"
        if self.desk.signed and reviewer.key is None:
            return "approvals of this campaign must be signed; call again with --sign KEY (and --by NAME)"
        return self.desk.problem(request)

    # ------------------------------------------------ the actions

    def _approve(self) -> Outcome:
        if obstacle := self._obstacle():
            return self._not(obstacle)
        if not self.read:
            print(f"the whole {self._text} first:")
            self.read = self._page()
            if not self.read:
                return self._not(f"its {self._text} was not read to the end")
        self.state = self.desk.load()
        current = waiting.request_of(self.state, self.request.candidate_id)
        if current is None:
            return self._not(plain(policy.standing(self.state, self.request.candidate_id)))
        if current.content_hash != self.request.content_hash:
            return self._not("it has changed since it was shown; review it again")
        if obstacle := self._obstacle():
            return self._not(obstacle)
        content = self.request.content_hash
        # A second, content-dependent answer: no stream of equal lines can give it.
        what = f"adopt the evaluation {self.name}" if self.eval else f"promote {self.name}"
        if self._ask(f"to {what}, type the first 6 digits of its content > ") != content[:6]:
            return self._not(f"would have needed {content[:6]}", colon=False)
        confirmations = 1
        if self.eval:
            subject = plain(self.state.campaign.subject.name, 80)
            print(f"From the next campaign on every training of {subject} is measured by this code as well.")
            if self._ask("to confirm once more, type the last 6 digits of its content > ") != content[-6:]:
                return self._not(f"would have needed {content[-6:]}", colon=False)
            confirmations = 2
        return self._carry_out("approve", confirmations=confirmations)

    def _reject(self) -> Outcome:
        reason = self._ask("reason (the agent will read it) > ")
        if not reason:
            print(f"not decided: a rejection of {self.name} needs a reason")
            return "other"
        return self._carry_out("reject", reason=reason[:_REASON_CHARS])

    def _more(self) -> Outcome:
        """Further seeds, or the whole evidence anew: what it takes is said before it is confirmed."""
        seeds, state, request = 1, self.state, self.request
        if waiting.is_stale(state, request):
            print(
                f"renewing the evidence against {short(state.champion_id)} takes {waiting.evidence_cost(state, request, 1).text}"
            )
        else:
            most = waiting.most_further_seeds(state, request.candidate_id)
            each = waiting.evidence_cost(state, request, 1)
            typed = self._ask(f"how many further seeds, 1 to {most}? (each: {each.text}) > ")
            seeds = int(typed) if typed and typed.isascii() and typed.isdigit() and len(typed) < 4 else 0
            if not 1 <= seeds <= most:
                got = "nothing" if not typed else repr(plain(typed, 40))
                print(f"not decided: a number from 1 to {most} was needed, but got {got}; nothing was asked for")
                return "other"
            print(f"{seeds} further: {waiting.evidence_cost(state, request, seeds).text}")
        if spent := budget.exhausted(state.budget, state.committed, state.training_ahead):
            print(f"the budget has no room for it: {spent}; they begin with `evolve resume` and a larger budget")
        if self._ask("ask for it? (yes / no) > ") not in ("yes", "y"):
            print(f"not decided: nothing was asked for, {self.name} waits")
            return "other"
        return self._carry_out("evidence", seeds=seeds)

    def _not(self, reason: str, *, colon: bool = True) -> Outcome:
        print(f"not approved: {self.name}{':' if colon else ''} {reason}")
        return "other"

    def _carry_out(self, kind: str, **fields: object) -> Outcome:
        reviewer, request = self.desk.reviewer, self.request
        seconds = time.monotonic() - self.shown
        command = new_command(
            kind, by=reviewer.by, candidate_id=request.candidate_id, content_hash=request.content_hash,
            seconds=seconds, **fields,
        )  # fmt: skip
        try:
            print(self.desk.carry_out(signed(command, reviewer.key, self.state)))
        except BadInput as error:
            print(f"not {'approved' if kind == 'approve' else 'decided'}: {plain(str(error), 600)}")
            return "other"
        return "approved" if kind == "approve" else "other"

    @property
    def _text(self) -> str:
        return "code" if self.eval else "diff"

    def _page(self) -> bool:
        """The patch or the code, page by page in a pager of our own; whether its end was reached."""
        from evolve import screen

        width, height = shutil.get_terminal_size()
        pages = screen.patch_pages(self.patch or "", width, height - _PROMPT_LINES)
        for number, page in enumerate(pages, start=1):
            screen.show_page(page)
            if number == len(pages):
                print(f"-- end of the {self._text}, page {number} of {len(pages)} --")
            elif self._ask(f"-- page {number} of {len(pages)}: Enter goes on, q leaves > ") != "":
                return False
        return True


def signed(command: Command, key: Path | None, state: State) -> Command:
    """An approval with its signature, where there is a key; all else as it is."""
    if key is None or command.kind != "approve":
        return command
    return replace(command, signature=signatures.sign(key, signatures.message(state.campaign, command)))
