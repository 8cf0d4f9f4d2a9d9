"""Every error that evolve raises on purpose. A message holds the rule, the value received and the next step.

EvolveError                 printed as one line, without a traceback
├── BadInput                something that a person typed or wrote in a YAML; exit code 2
│   └── NotFound            a campaign, candidate or file that is not there
├── InvalidCandidate        values outside the search space, a duplicate, a patch that is not allowed
├── ProposerFailed          a proposer had no valid candidate to offer; the round goes to another, in its own name
├── ModelFailed             a language model could not be reached, or its answer could not be used
├── TrialFailed             a training or a score that ended without a usable result; the trial is recorded as FAIL
│   └── Cancelled           the controller ended it itself; unless it was pruned, a resume runs it again
│       └── Lost            nobody ended it: the node that it ran on is gone; it runs again, which counts as an attempt
├── JournalCorrupt          the history does not read back as it was written
├── OtherVersion            a journal of an evolve that this one cannot read, or not go on with
├── CampaignBusy            another controller holds the campaign's lock
├── NotCommitted            a promotion is not on the subject's branch yet; never changes a decision
└── TrackingFailed          MLflow did not take an event; never changes a decision
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from evolve.types import EvalProposal, IntegrityReport, Message, Spend, Usage


class EvolveError(Exception):
    """Base of all expected errors; `str(error)` is one line that a person can act on."""


class BadInput(EvolveError):
    """A person's input broke a rule."""


class NotFound(BadInput):
    """The thing named does not exist."""


class InvalidCandidate(EvolveError):
    """Values or a patch that the search space does not admit."""


class ProposerFailed(EvolveError):
    """A proposer could not offer a valid candidate; `spend` is what the attempt cost, `proposer` whose turn it was.

    `lessons` it had written and `evaluations` it had proposed by then are kept.
    """

    def __init__(
        self,
        message: str,
        proposer: str,
        spend: Spend | None = None,
        transcript: tuple[Message, ...] = (),
        lessons: tuple[str, ...] = (),
        evaluations: tuple[EvalProposal, ...] = (),
    ) -> None:
        super().__init__(message)
        self.proposer = proposer
        self.spend = spend or Spend()
        self.transcript = transcript
        self.lessons = lessons
        self.evaluations = evaluations


class ModelFailed(EvolveError):
    """A language model gave no usable answer. `spend` is what its attempts cost all the same; where nobody knows, at most.

    `down`: no service was there (no connection, a time-out, too many requests, a fault of the server's), so that asking
    again soon helps nobody.
    """

    def __init__(self, message: str, spend: Spend | None = None, *, down: bool = False) -> None:
        super().__init__(message)
        self.spend = spend or Spend()
        self.down = down


class TrialFailed(EvolveError):
    """A training or a score without a usable result.

    `log_tail` is the end of its output, at most a few kB; `usage` what it used all the same, where it is known; `integrity`
    what was seen of it, where its code was edited.
    """

    def __init__(self, message: str, log_tail: str = "", usage: Usage | None = None) -> None:
        super().__init__(message)
        self.log_tail = log_tail
        self.usage = usage
        self.integrity: IntegrityReport | None = None


class Cancelled(TrialFailed):
    """The controller ended the process itself: at a stop, or because its training was pruned."""


class Lost(Cancelled):
    """What it ran on is gone, a node or a worker on it; `usage` is at least what it can have used until then."""


class JournalCorrupt(EvolveError):
    """The journal's chain of hashes is broken. `line` (from 1) is the first that cannot be relied on, and `reason` why."""

    def __init__(self, message: str, line: int, reason: str) -> None:
        super().__init__(message)
        self.line, self.reason = line, reason


class OtherVersion(EvolveError):
    """The journal's version is newer than this evolve, or too old to go on with."""


class CampaignBusy(EvolveError):
    """Another process is the one writer."""


class NotCommitted(EvolveError):
    """The subject's repository did not take a promotion's commit."""


class TrackingFailed(EvolveError):
    """The tracking server did not take an event."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error line that names the nearest valid spelling.

    >>> did_you_mean("learning_rte", ["learning_rate", "beta"])
    "; did you mean 'learning_rate'?"
    >>> did_you_mean("zzz", ["a", "b"])
    '; known: a, b'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return "; known: " + ", ".join(known) if known else ""
