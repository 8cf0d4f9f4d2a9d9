"""Live progress of a session: one line kept up to date on a terminal, plain lines elsewhere. Part of the CLI."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from evolve.acceptance import vault_text
from evolve.edits import difference
from evolve.loop import Watcher
from evolve.show import score_text
from evolve.state import State
from evolve.tracking_page import plain
from evolve.types import (
    ApprovalRequested,
    EvalAssessed,
    EvalProposed,
    LessonWritten,
    Progress,
    Promoted,
    ProposalFailed,
    Record,
    Suggested,
    SuiteChanged,
    Trial,
    TrialFinished,
    TrialInterrupted,
    VaultAnswered,
    VerdictReached,
    short,
)

if TYPE_CHECKING:
    from rich.status import Status


class Interrupts:
    """Ctrl-C, SIGTERM and a closed terminal: the first asks the loop to stop and leave a resumable state, the second ends
    at once. What was started to outlive its terminal (`nohup`) does."""

    def __init__(self) -> None:
        self._seen = 0
        self._before: dict[int, object] = {}

    def __call__(self) -> bool:
        return self._seen > 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._seen += 1
        if number == signal.SIGHUP:  # what is printed from now on must not fail
            _leave_terminal()
        if self._seen > 1:
            raise KeyboardInterrupt
        print("\nstopping: ending what runs; once more to stop at once", file=sys.stderr)

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _leave_terminal() -> None:
    """Standard output and errors go nowhere where they went to a terminal."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        if _is_terminal(fd):
            os.dup2(nowhere, fd)
    os.close(nowhere)


def _is_terminal(fd: int) -> bool:
    """Also of one that is closed at its other end, of which `isatty` says nothing."""
    try:
        return stat.S_ISCHR(os.fstat(fd).st_mode)
    except OSError:
        return False


class Lines(Watcher):
    """One plain line for each thing worth knowing."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first_trials = 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def warn(self, line: str) -> None:
        """A warning that is not an event, from any thread."""
        self.say(f"warning: {plain(line, 400)}")

    def say(self, line: str) -> None:
        print(line, flush=True)

    def event(self, record: Record, state: State) -> None:
        line = describe(record, state)
        if line:
            self.say(line)

    def summary(self, state: State) -> str:
        """Trial k of n, best, champion, spend, time left."""
        done = len(state.trials) - len(state.waiting) - len(state.running)
        of = f" of {state.budget.trials}" if state.budget.trials else ""
        best = state.best()
        parts = [f"trial {done}{of}"]
        if best:
            parts.append(f"best {short(best)} {score_text(state.search_score(best))}")
        parts.append(f"champion {short(state.champion_id)}")
        parts.append(f"{state.spend.train_seconds:.0f} CPU s")
        if state.pending:
            parts.append(f"{len(state.pending)} waiting")
        elapsed = time.monotonic() - self._started
        if state.budget.trials and done > 2:
            parts.append(f"{elapsed / done * (state.budget.trials - done) / 60:.1f} min left")
        return " | ".join(parts)


class Live(Lines):
    """The same lines, with a summary below them that stays in its place."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._status = status

    def __enter__(self) -> Live:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def say(self, line: str) -> None:
        # markup=False: a rationale must not be able to draw in our terminal.
        self._status.console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")

    def event(self, record: Record, state: State) -> None:
        super().event(record, state)
        if isinstance(record.event, TrialFinished | ApprovalRequested | Promoted):
            from rich.text import Text

            self._status.update(Text(self.summary(state)))

    def progress(self, trial: Trial, point: Progress) -> None:
        pass


def make() -> Lines:
    """A live display where standard output is a terminal, else plain lines."""
    if not sys.stdout.isatty():
        return Lines()
    from rich.console import Console

    return Live(Console().status("starting", spinner="dots"))


def describe(record: Record, state: State) -> str | None:
    """An event as one line, or None where it is not worth one."""
    match record.event:
        case TrialFinished(number, outcome, score, error):
            trial = state.trials[number]
            proposal = state.entries[trial.candidate_id].proposal
            what = score_text(score) if score else plain(error or "", 160)
            if score and trial.purpose == "vault":  # never the vault's own score, which nobody is shown
                what += f" on {score.split}"
            changed = difference(proposal.candidate, state.campaign.start)
            return (
                f"trial {number:>3} {outcome:<8} {short(trial.candidate_id)} {trial.purpose:<6} {what}"
                f"  {plain(proposal.proposer, 20)}: {plain(changed, 110)}"
            )
        case Suggested(p):
            changed = difference(p.candidate, state.campaign.start)
            return f"suggested by {plain(p.proposer, 40)}: {short(p.candidate.id)} {plain(changed, 160)}"
        case ProposalFailed(proposer, reason):
            return f"no proposal from {plain(proposer, 40)}: {plain(reason, 200)}"
        case VerdictReached(candidate_id, _, verdict):
            return f"gate: {short(candidate_id)} {verdict.decision}: {plain(verdict.reason, 200)}"
        case VaultAnswered(candidate_id, _, passed):
            return f"vault: {short(candidate_id)} {vault_text(state.campaign.subject, passed=passed)}"
        case TrialInterrupted(number, _, reason) if reason:
            return f"trial {number} lost, runs again: {plain(reason, 200)}"
        case EvalProposed(p, error):
            refused = f": refused: {plain(error, 200)}" if error else ""
            return f"evaluation proposed by {plain(p.proposer, 40)}: {plain(p.name, 40)} ({p.form}){refused}"
        case EvalAssessed(proposal_id, report, error):
            what = "works" if report else f"refused: {plain(error, 200)}"
            return f"evaluation {plain(state.evals[proposal_id].proposal.name, 40)} {what}"
        case SuiteChanged(version, metric):
            return f"suite version {version}: {plain(metric.metric, 60)} is measured by later campaigns"
        case ApprovalRequested(request):
            return f"waiting for approval: {short(request.candidate_id)}"
        case Promoted():
            return f"promoted: {short(record.event.candidate_id)}"
        case LessonWritten(text):
            return f"lesson of {plain(record.event.by, 40)}: {plain(text, 200)}"
        case _:
            return None
