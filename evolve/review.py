"""The prompt at which a person approves or rejects. Part of the CLI.

Fail-closed: without a terminal on both ends, at the end of input, after the time-out, or for any other answer than the
word asked for, nothing is approved. No flag, variable or setting answers in a person's place.
"""

from __future__ import annotations

import os
import pwd
import select
import sys
import time
import uuid
from collections.abc import Callable
from typing import TextIO

from evolve import pareto
from evolve.errors import BadInput
from evolve.show import candidate_text
from evolve.state import State
from evolve.types import ApprovalRequest, Command, short

TIMEOUT_SECONDS = 600.0


def person() -> str:
    """Who decides: the system's user name, always recorded; by the user's number, not by a variable that anyone can set."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers often have no such entry
        return f"uid {os.getuid()}"


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


def new_command(kind: str, **fields: object) -> Command:
    """A command in this person's name, with an id of its own. What was typed and is no Unicode becomes `?`."""
    fields = {k: v.encode(errors="replace").decode() if isinstance(v, str) else v for k, v in fields.items()}
    return Command(id=uuid.uuid4().hex, kind=kind, by=person(), **fields)  # type: ignore[arg-type]


def decide_one(state: State, request: ApprovalRequest, link: str | None, timeout_seconds: float) -> Command | str:
    """Shows one candidate and asks. Returns the command that was decided on, or a line saying why there is none."""
    print("\n" + candidate_text(state, request, link) + "\n")
    shown = time.monotonic()
    name = short(request.candidate_id)
    answer = ask("approve / reject / later (type the word) > ", timeout_seconds)
    if answer == "approve":
        # A second, content-dependent answer: no stream of equal lines can give it.
        digits = request.content_hash[:6]
        typed = ask(f"to promote {name}, type the first 6 digits of its content > ", timeout_seconds)
        if typed == digits:
            return new_command(
                "approve",
                candidate_id=request.candidate_id,
                content_hash=request.content_hash,
                seconds=time.monotonic() - shown,
            )
        return f"not approved: {name} would have needed {digits}"
    if answer == "reject":
        reason = ask("reason (the agent will read it) > ", timeout_seconds)
        if not reason:
            return f"not decided: a rejection of {name} needs a reason"
        return new_command(
            "reject",
            candidate_id=request.candidate_id,
            content_hash=request.content_hash,
            reason=reason[:1000],
            seconds=time.monotonic() - shown,
        )
    return f"not approved: {name} waits for a later review" if answer in ("later", "") else f"not approved: {name}"


def review_all(
    load: Callable[[], State],
    carry_out: Callable[[Command], str],
    link: Callable[[State, ApprovalRequest], str | None],
    only: str | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> int:
    """Goes through what waits, the best first. Returns the number of approvals carried out."""
    state = load()
    waiting = sorted(state.pending.values(), key=lambda r: -_merit(state, r))
    waiting = [r for r in waiting if only is None or r.candidate_id == only]
    if not waiting:
        print("nothing waits for approval")
        return 0
    require_terminal(sys.stdin, sys.stdout)
    started, approved = time.monotonic(), 0
    for position, request in enumerate(waiting, start=1):
        state = load()
        if request.candidate_id not in state.pending:
            print(f"{short(request.candidate_id)} does not wait any more")
            continue
        print(f"--- {position} of {len(waiting)} waiting in {state.campaign.campaign}")
        outcome = decide_one(state, request, link(state, request), timeout_seconds)
        if isinstance(outcome, str):
            print(outcome)
        else:
            print(carry_out(outcome))
            approved += outcome.kind == "approve"
    print(f"({time.monotonic() - started:.0f} s at the prompt)")
    return approved


def _merit(state: State, request: ApprovalRequest) -> float:
    """Larger is better: the search score in its direction; with several objectives, what is gained on the champion."""
    if state.campaign.subject.secondary:
        point, champion = state.values(request.candidate_id), state.values(state.champion_id)
        return pareto.merit(point, champion, state.objectives) if point and champion else float("-inf")
    score = state.search_score(request.candidate_id)
    return state.sign * score.mean if score else float("-inf")
