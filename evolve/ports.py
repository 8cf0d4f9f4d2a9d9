"""The seams: what the loop needs of the outside world. Each has a contract suite in `tests/contracts/`.

Implementations and the fakes that ship with them: proposers (`proposers.py`, `search.py`, `agent.py`), executor and
scorer (`executors.py`, fakes in `testing.py`), pruner (`pruning.py`), tracker and registry (`tracking.py`, `registry.py`), language model (`llm.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evolve.memory import View
from evolve.state import State
from evolve.types import (
    Candidate,
    EvalProposal,
    EvalReport,
    Evaluation,
    Event,
    IntegrityReport,
    Progress,
    Proposal,
    Record,
    Spend,
    Split,
    Trial,
    Usage,
)


class Proposer(Protocol):
    """Offers candidates. Deterministic from the view, unless a language model answers."""

    @property
    def name(self) -> str:
        """In whose name the proposals are recorded: `tpe`, `playbook`, `agent`, ..."""
        ...

    def propose(self, view: View) -> Proposal:
        """One proposal whose params have been through `view.space.parse`. Mixed proposers name who really proposed.

        Raises `ProposerFailed` with the reason; `ProposerFailed.spend` counts what the attempt cost.
        """
        ...


class Advisor(Proposer, Protocol):
    """A proposer whose candidates are suggestions: they wait in a small pool from which another one may take them."""

    @property
    def instant(self) -> bool:
        """Answers at once, and is called in the loop's thread; else from a thread of its own, one call at a time."""
        ...


class Cancel:
    """A request, from another thread, to end the process of one trial now."""

    def __init__(self) -> None:
        self.requested = False
        self._wake: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def subscribe(self, wake: Callable[[], None]) -> None:
        """`wake` is called once when the end is requested; at once where it already was."""
        with self._lock:
            self._wake = wake
            if self.requested:
                wake()

    def finished(self) -> None:
        """The process has ended: `wake` will not be called any more."""
        with self._lock:
            self._wake = None

    def request(self) -> None:
        """Asks for the end. Safe to call twice."""
        with self._lock:
            self.requested = True
            if self._wake:
                self._wake()


@dataclass(frozen=True)
class Training:
    """What a successful training left behind: verified weights in the store, by sha256, and the kernel's counts."""

    weights: str
    usage: Usage
    curve: tuple[Progress, ...] = ()
    log_tail: str = ""
    integrity: IntegrityReport | None = None  # of edited code


@dataclass(frozen=True)
class Checked:
    """The first early check of an edit that failed, and the message to its author; both "" where all passed.

    `usage` is that of the trial training, where one began.
    """

    stage: str = ""
    error: str = ""
    usage: Usage | None = None


class Executor(Protocol):
    """Runs one training to its end. Called from worker threads, several at a time."""

    def check(self, candidate: Candidate, cancel: Cancel) -> Checked:
        """The early checks of the candidate's patch, up to a training of seconds whose weights are thrown away.

        Raises `Cancelled`.
        """
        ...

    def train(
        self, trial: Trial, candidate: Candidate, progress: Callable[[Progress], None], cancel: Cancel
    ) -> Training:
        """Trains and stores verified weights. `progress` is called for each self-reported point, in order.

        Raises:
            TrialFailed: crash, time-out, no weights, weights that break the contract; `usage` may be set on it.
            Cancelled: `cancel` was requested, perhaps by `progress` itself; no process of the training is left.
                `usage` is set on it where one had begun.
        """
        ...


class Scorer(Protocol):
    """Scores stored weights, in a fresh process on pristine sources. Called from worker threads."""

    def score(self, trials: Sequence[Trial], split: Split, round: int, cancel: Cancel) -> list[Evaluation]:
        """The subject's metric of each trial's weights on the problems of (split, round): the same for every trial.

        One process for all, since its start is most of what a score costs. Raises `TrialFailed` where any of them has no
        valid score, `Cancelled` as above.
        """
        ...


class Assessor(Protocol):
    """Tries proposed evaluations. Called from worker threads."""

    def assess(
        self, proposal: EvalProposal, trials: Sequence[Trial], champion_id: str, cancel: Cancel
    ) -> tuple[EvalReport | None, str]:
        """The quality report over the stored weights of `trials` and the untrained checkpoint, or why there is none.

        Raises `Cancelled`; `OSError` for what is this machine's trouble.
        """
        ...


class NoAssessor:
    """Where nothing can be tried."""

    def assess(
        self, proposal: EvalProposal, trials: Sequence[Trial], champion_id: str, cancel: Cancel
    ) -> tuple[EvalReport | None, str]:
        return None, "evaluations cannot be tried in this session"


class Pruner(Protocol):
    """Ends search trainings that promise little, by their self-reported curves: a projection of the journal.

    Equal journals give equal answers, also from a pruner that was made anew for a resume. What it is told stays inside
    it: no curve becomes a value of a sampler's or a verdict's.
    """

    def record(self, event: Event) -> None:
        """Takes each event of the journal once, in order, those of former sessions too."""
        ...

    def observe(self, trial: Trial, point: Progress) -> str | None:
        """Why this training should end now, on one line, or None. Called from worker threads, in the order of reports.

        Always None for a training of another purpose than `search`. Never raises, whatever is reported; once it has
        given a reason, it is not asked about this training again.
        """
        ...


class NeverPruner:
    """The pruner that prunes nothing."""

    def record(self, event: Event) -> None:
        pass

    def observe(self, trial: Trial, point: Progress) -> str | None:
        return None


class Tracker(Protocol):
    """A projection of the journal for people. Never raises, never decides, never blocks the loop for long."""

    def record(self, record: Record) -> None:
        """Takes one event, in the order of the journal. Recording one twice changes nothing."""
        ...

    def flush(self, timeout_seconds: float) -> int:
        """Waits at most so long; returns how many events are still to be carried over."""
        ...

    def close(self) -> None: ...


class Registry(Protocol):
    """Where the champion's weights are registered. A projection of the promotions."""

    def sync(self, state: State, *, check: bool = False) -> list[str]:
        """Makes the registry say what the state says; idempotent. Returns one line for each thing that it changed.

        `check`: first reads the weights of champion and previous again. Raises `TrackingFailed` where the registry cannot be
        reached, or holds other weights than those that were approved; nothing is changed then.
        """
        ...


@dataclass(frozen=True)
class ToolCall:
    """What a model asks a tool: `arguments` is its text, which may be anything."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Completion:
    """A language model's answer. `truncated`: it hit the limit of tokens, so that it must not be trusted to be whole.

    With `tool_calls` the text may be empty; `message` is the answer as it belongs among the messages of the next call.
    """

    text: str
    model: str
    spend: Spend = field(default_factory=Spend)
    truncated: bool = False
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        calls = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in self.tool_calls
        ]
        return {"role": "assistant", "content": self.text} | ({"tool_calls": calls} if calls else {})


class LanguageModel(Protocol):
    """One chat completion at a time."""

    @property
    def name(self) -> str: ...

    @property
    def calls_tools(self) -> bool:
        """Whether `tools` may be passed to `complete`."""
        ...

    def ceiling(self, messages: Sequence[Mapping[str, Any]]) -> Spend:
        """The most that a call with these messages can cost, for the reservation before it."""
        ...

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Completion:
        """Answers `messages`: role and content, an assistant's also `tool_calls`, a tool's also `tool_call_id`.

        With `schema`, as JSON of that JSON schema where the provider can. `tools` are functions in the chat API's format
        (`{"type": "function", "function": {"name", "description", "parameters"}}`) that it may ask for.

        Raises `ModelFailed` when the model cannot be reached or refuses, after its own bounded retries.
        """
        ...
