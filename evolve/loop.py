"""The loop: decide, perform, journal, fold. The only place where a campaign's input and output happen.

    while not isinstance(action := decide(state, rules), Stop):        # pure, `policy.py`
        for event in perform(action):
            journal.append(event); apply(state, event); tracker.record(event)

Trainings and scores run in worker threads that wait for processes, and an advisor that takes time is asked in a thread
of its own; everything else happens here, in one thread, so that there is one writer. Serial and parallel are the same
loop: `decide` says `Run` until all workers are busy, and whatever ends first wakes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from evolve import budget, memory, policy
from evolve.errors import Cancelled, InvalidCandidate, Lost, ModelFailed, ProposerFailed, TrialFailed
from evolve.journal import Journal
from evolve.ledger import Ledger
from evolve.policy import Action, Advise, AssessEval, CheckEdit, Emit, Propose, Rescore, Run, Stop, Wait, answer, decide
from evolve.ports import (
    Advisor,
    Assessor,
    Cancel,
    Checked,
    Executor,
    NeverPruner,
    NoAssessor,
    Proposer,
    Pruner,
    Scorer,
    Tracker,
)
from evolve.space import extended
from evolve.state import State, apply
from evolve.types import (
    AdviceStarted,
    CampaignStopped,
    Candidate,
    ClockJumped,
    Command,
    CommandRefused,
    Decided,
    EditChecked,
    EditCheckStarted,
    Environment,
    EvalAssessed,
    EvalAssessStarted,
    EvalProposal,
    EvalProposed,
    Event,
    LessonWritten,
    ModelCallFinished,
    ModelCallRefused,
    ModelCallStarted,
    Progress,
    Promoted,
    Proposal,
    ProposalFailed,
    Proposed,
    Record,
    Rules,
    Scored,
    ScoreStarted,
    SessionStarted,
    Spend,
    Split,
    Suggested,
    Trial,
    TrialFinished,
    TrialInterrupted,
    TrialStarted,
    Usage,
    VerdictReached,
)
from evolve.weights import WeightStore

_CLOCK_SECONDS = 5.0  # that wall clock and steady clock may differ between two looks
_CHEAP_SECONDS = 10.0  # for scores under way when a session is asked to end; their trainings would be lost with them
_INBOX_SECONDS = 0.25  # how soon a person's command is seen while all workers are busy
_DUPLICATE_RETRIES = 10
_CHECK_CHARS = 2000  # of a check's message to the author of a patch
_REASON_CHARS = 500  # of why an evaluation was refused, or a training lost
_COLLECT_EVERY = 25  # trials between two collections of weights
ADVISOR_THREAD = "advisor"  # the CLI looks for it at its end
_LAST_WORD_SECONDS = 1.0  # for an advisor at work when the session ends, so that what the call cost is counted
_LEFT_BEHIND = "left behind by the end of its session: what it cost is not known, so all that was reserved"
_KILLED = "open when its session was killed: what it cost is not known, so all that was reserved"

T = TypeVar("T")
Check = Callable[[State, Command], str]  # why an approval may not be taken, "" where it may


class Watcher:
    """What a front end may want to show. Does nothing by itself; called from the loop's thread, except `progress`."""

    def event(self, record: Record, state: State) -> None:
        """After each event, with the state that includes it."""

    def progress(self, trial: Trial, point: Progress) -> None:
        """A self-reported point of a running training, from a worker's thread."""


@dataclass
class Ports:
    """The outside world of one session."""

    proposer: Proposer  # who chooses; called in the loop's thread, so that it must be quick
    executor: Executor
    scorer: Scorer
    tracker: Tracker
    store: WeightStore
    environment: Environment
    sandbox: str = "none"
    watcher: Watcher = field(default_factory=Watcher)
    assessor: Assessor = field(default_factory=NoAssessor)
    pruner: Pruner = field(default_factory=NeverPruner)  # has been told the journal up to here
    advisor: Advisor | None = None  # whose suggestions the proposer may take
    ledger: Ledger = field(default_factory=Ledger)  # of the models that proposer and advisor call
    advisor_paused: Callable[[], bool] = lambda: False  # its model is down: it is not asked until that is over
    check: Check | None = None  # of approvals, by what no pure function can see: files and signatures
    prepare: Callable[[], None] = lambda: None  # slow first steps (imports), made once while the first trainings run
    # Ends what a killed session left running; what its trainings have used, or None where nobody can say.
    left_behind: Callable[[State], tuple[Usage, ...] | None] = lambda state: None
    journalled: Callable[[Event], None] = lambda event: None  # is told each event when it is in the journal
    steady: Callable[[], float] | None = None  # seconds that no sleep or hand changes; None: the journal's clock
    close: Callable[[], None] = lambda: None  # ends what executor and scorer keep running between two trainings


class Loop:
    """One session of one campaign, from taking up the journal to the stop.

    Args:
        inbox: folder where other processes leave commands.
        interrupted: asked before each action; True ends the session as a stop on request would.
    """

    def __init__(
        self, journal: Journal, state: State, rules: Rules, ports: Ports, inbox: Path, interrupted: Callable[[], bool]
    ) -> None:
        ahead = ports.advisor is not None and not ports.advisor.instant
        share = 0.0 if ports.advisor is None else rules.advice_share
        self.rules = replace(rules, advice_share=share, advice_ahead=ahead)
        self.journal, self.state, self.ports, self.inbox = journal, state, ports, inbox
        self._interrupted = interrupted
        self._done: queue.SimpleQueue[Event | Callable[[], None]] = queue.SimpleQueue()  # work for this thread, too
        self._thread = threading.get_ident()  # the loop's
        self._over, self._closing = False, threading.Lock()  # nothing is taken from `_done` any more
        self._fault: OSError | MemoryError | None = None  # of this machine, seen by a worker
        self._cancels: dict[object, Cancel] = {}
        self._ending = False  # what is cancelled from now on runs again in the next session
        self._advice: threading.Thread | None = None
        self._litter = False  # weights may have become collectable
        self._prepared = False
        self._cheap: set[object] = set()  # of the running: those that are scored by now
        self._clocks: tuple[float, float] | None = None  # wall, steady: at the last look
        self._pool = ThreadPoolExecutor(max_workers=rules.workers, thread_name_prefix="worker")

    def run(self) -> CampaignStopped:
        """Until the policy says stop. Afterwards no process of this session is left; the last event is returned."""
        self._thread = threading.get_ident()
        self.ports.ledger.open(self)
        try:
            self._emit(
                SessionStarted(
                    self.ports.environment,
                    self.rules.workers,
                    self.ports.sandbox,
                    self.rules.budget,
                    os.getpid(),
                    self.ports.left_behind(self.state),
                )
            )
            self._settle_open_calls(_KILLED)
            self._take_commands()
            while not isinstance(action := decide(self.state, self._rules_now()), Stop):
                for event in self._perform(action):
                    self._emit(event)
                self._take_commands()
                self._look_at_clocks()
                if self._fault is not None:
                    action = Stop(
                        "failed", f"this machine, not a candidate: {self._fault}; mend it, then `evolve resume`"
                    )
                    break
                if self._interrupted():
                    action = Stop("stopped", "interrupted")
                    break
            if action.kind == "stopped":
                self._finish_cheap()
            self._cancel_running()
            self._hear_last_word()
            for event in self._finished():  # before the end was asked for: work that must not be lost
                self._emit(event)
            self._settle_open_calls(_LEFT_BEHIND)
            stopped = CampaignStopped(action.kind, action.reason)  # type: ignore[arg-type]
            self._emit(stopped)
            self._collect()
            return stopped
        finally:
            self._cancel_running()
            self.ports.close()
            self._close()

    def _look_at_clocks(self) -> None:
        """A jump of the wall clock is an event, so that the seconds of a sleep are not taken from the budget."""
        if self.ports.steady is None:
            return
        wall, steady = self.journal.now(), self.ports.steady()
        before, self._clocks = self._clocks, (wall, steady)
        if before is not None and abs(jump := (wall - before[0]) - (steady - before[1])) > _CLOCK_SECONDS:
            self._emit(ClockJumped(jump))

    def _finish_cheap(self) -> None:
        """At an orderly stop: ends all trainings, and gives the scores under way a moment, so that none was in vain."""
        self._ending = True
        for key, cancel in list(self._cancels.items()):
            if key not in self._cheap:
                cancel.request()
        deadline = time.monotonic() + _CHEAP_SECONDS
        while self._cancels and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                for event in self._take(self._done.get(timeout=min(left, 0.05))):
                    self._emit(event)

    def _rules_now(self) -> Rules:
        return replace(self.rules, advice_paused=True) if self.ports.advisor_paused() else self.rules

    def _emit(self, event: Event) -> None:
        record = self.journal.append(event)
        apply(self.state, event, record.time)
        self.ports.journalled(event)
        self.ports.pruner.record(event)
        self.ports.tracker.record(record)
        self.ports.watcher.event(record, self.state)
        if isinstance(event, TrialFinished) and event.weights:
            self.ports.store.fresh.discard(event.weights)
        if isinstance(event, VerdictReached | Promoted) or (
            isinstance(event, TrialFinished) and event.number % _COLLECT_EVERY == _COLLECT_EVERY - 1
        ):
            self._litter = True

    def _perform(self, action: Action) -> Iterator[Event]:
        match action:
            case Emit(event):
                yield event
            case Propose():
                yield from self._propose()
            case Advise():
                yield from self._advise()
            case CheckEdit(candidate_id):
                yield EditCheckStarted(candidate_id)
                self._submit(f"check {candidate_id}", lambda cancel: [self._check(candidate_id, cancel)])
            case AssessEval(proposal_id, trials):
                yield EvalAssessStarted(proposal_id, tuple(t.number for t in trials))
                self._submit(f"assess {proposal_id}", lambda cancel: [self._assess(proposal_id, trials, cancel)])
            case Run(trial):
                trial = replace(trial, attempt=trial.attempt + 1)
                yield TrialStarted(trial.number, trial.attempt)
                self._submit(trial.number, lambda cancel: [self._train(trial, cancel)])
            case Rescore(trials, split, round):
                keys = [(trial.number, split, round) for trial in trials]
                for key in keys:
                    yield ScoreStarted(*key, attempt=self.state.score_attempts.get(key, 0) + 1)
                self._cheap.add(tuple(keys))
                self._submit(tuple(keys), lambda cancel: self._score(trials, split, round, cancel))
            case Wait():
                self._tidy()
                try:
                    yield from self._take(self._done.get(timeout=_INBOX_SECONDS))
                except queue.Empty:
                    self.state.tick(self.journal.now())
        yield from self._finished()

    def _finished(self) -> Iterator[Event]:
        """What other threads have brought so far."""
        while not self._done.empty():
            yield from self._take(self._done.get())

    def _take(self, brought: Event | Callable[[], None]) -> Iterator[Event]:
        if callable(brought):
            brought()
        else:
            yield self._received(brought)

    # ------------------------------------------------ in the loop's thread

    def _take_commands(self) -> None:
        for event in read_inbox(self.inbox, self.state, self.ports.check):
            self._emit(event)

    def _propose(self) -> Iterator[Event]:
        """One turn: a new valid candidate, or the recorded reason why there is none."""
        view = memory.view(self.state, self.state.campaign.seed)
        turn, said = self._turn(self.ports.proposer, view, lambda candidate: policy.check_new(self.state, candidate))
        for event in said:
            yield self._received(event)
        yield Proposed(turn) if isinstance(turn, Proposal) else turn

    def _advise(self) -> Iterator[Event]:
        """The advisor's turn: a suggestion or a failure, now or, from a thread, through the queue of finished work."""
        advisor = self.ports.advisor
        assert advisor is not None, "without an advisor its share is 0"
        view = memory.view(self.state, self.state.campaign.seed)
        # As of now, for a thread that must not look at what the loop is changing; `_received` looks again.
        then = replace(self.state, entries=dict(self.state.entries), suggestions=dict(self.state.suggestions))

        def ask() -> list[Event]:
            turn, said = self._turn(advisor, view, lambda candidate: policy.check_suggestion(then, candidate))
            return [*said, Suggested(turn) if isinstance(turn, Proposal) else replace(turn, advice=True)]

        def body() -> None:
            events: list[Event] = [ProposalFailed(advisor.name, "its thread ended without an answer", advice=True)]
            try:
                events = ask()
                if self._ending:  # refused because the session is at its end: nobody failed, and nothing was spent
                    events = [e for e in events if not isinstance(e, ProposalFailed) or e.spend != Spend()]
            finally:
                for event in events:
                    self._done.put(event)

        if advisor.instant:
            for event in ask():
                yield self._received(event)
            return
        yield AdviceStarted(advisor.name)
        self._advice = threading.Thread(target=body, name=ADVISOR_THREAD, daemon=True)
        self._advice.start()

    def _received(self, event: Event) -> Event:
        """What another thread has made, as it stands now: a suggestion may have been proposed by somebody meanwhile."""
        if isinstance(event, Suggested):
            p = event.proposal
            try:
                policy.check_suggestion(self.state, p.candidate)
            except InvalidCandidate as error:
                return ProposalFailed(p.proposer, str(error), p.spend, p.transcript, advice=True)
        if isinstance(event, EvalProposed) and not event.error:
            try:
                policy.check_eval(self.state, event.proposal)
            except InvalidCandidate as error:
                return replace(event, error=str(error))
        return event

    def _turn(
        self, proposer: Proposer, view: memory.View, check: Callable[[Candidate], Candidate]
    ) -> tuple[Proposal | ProposalFailed, list[Event]]:
        """The first of a proposer's candidates that is valid and passes `check`, and what else was said on the way.

        Called from any thread.
        """
        reason, spend, who = "", None, proposer.name
        said: list[Event] = []

        def hear(lessons: Iterable[str], evaluations: Iterable[EvalProposal]) -> None:
            said.extend(LessonWritten(text, who, view.news) for text in lessons)
            said.extend(EvalProposed(proposal) for proposal in evaluations)

        for retry in range(_DUPLICATE_RETRIES):
            try:
                proposal = proposer.propose(replace(view, retry=retry))
                who, spend = proposal.proposer, proposal.spend if spend is None else spend + proposal.spend
                hear(proposal.lessons, proposal.evaluations)
                space = extended(self.state.campaign.subject.space, proposal.candidate.declared)
                candidate = check(replace(proposal.candidate, params=space.parse(proposal.candidate.params)))
                return replace(proposal, candidate=candidate, spend=spend, lessons=(), evaluations=()), said
            except InvalidCandidate as error:
                reason = str(error)
                view = replace(view, spend=view.spend + spend) if spend else view
                view = replace(view, news=()) if any(isinstance(e, LessonWritten) for e in said) else view
            except ProposerFailed as error:
                spend = error.spend if spend is None else spend + error.spend
                who = error.proposer
                hear(error.lessons, error.evaluations)
                return ProposalFailed(who, str(error), spend, error.transcript), said
            except Exception as error:  # noqa: BLE001  the same boundary: any sampler of any library runs here
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                break
        return ProposalFailed(who, reason, spend or Spend()), said

    # ------------------------------------------------ the books of the model calls, see `ledger.py`

    def reserve(self, by: str, model: str, ahead: Spend) -> int:
        return self._in_loop(lambda: self._reserve(by, model, ahead))

    def settle(self, call: int, spend: Spend, error: str) -> None:
        def write() -> None:
            if call in self.state.calls:
                self._emit(ModelCallFinished(call, spend, error[:500]))

        with contextlib.suppress(ModelFailed):  # the session ended meanwhile, and has settled the call
            self._in_loop(write)

    def _reserve(self, by: str, model: str, ahead: Spend) -> int:
        if self._ending:
            raise ModelFailed("A call needs an open session, but this one is at its end; nothing was sent.")
        if reason := budget.room(self.rules.budget, self.state.committed, ahead):
            self._emit(ModelCallRefused(by, reason))
            raise ModelFailed(f"A model call must fit the budget, but {reason}; raise it.")
        call = self.state.call_count
        self._emit(ModelCallStarted(call, by, model, ahead))
        return call

    def _in_loop(self, work: Callable[[], T]) -> T:
        """`work` done in the loop's thread, where the journal is written; at once where this is that thread.

        Raises `ModelFailed` where the session is over.
        """
        over = ModelFailed("A call needs an open session, but this one is over; nothing was sent.")
        result: Future[T] = Future()

        def body() -> None:
            try:
                if self._over:
                    raise over
                result.set_result(work())
            except ModelFailed as error:
                result.set_exception(error)
            except BaseException as error:
                result.set_exception(ModelFailed(f"The journal must be written, but {error}; nothing was sent."))
                raise  # it ends the session, as any other event that cannot be written

        with self._closing:
            if self._over:
                raise over
            if threading.get_ident() != self._thread:
                self._done.put(body)
        if threading.get_ident() == self._thread:
            body()
        return result.result()

    def _close(self) -> None:
        """Whoever still waits for the loop is told that it is over."""
        with self._closing:
            self._over = True
        while not self._done.empty():
            brought = self._done.get()
            if callable(brought):
                brought()

    def _settle_open_calls(self, why: str) -> None:
        """At the most that each can have cost: less than the provider's bill it is never."""
        for call, started in list(self.state.calls.items()):
            self._emit(ModelCallFinished(call, started.reserved, why))

    def _hear_last_word(self) -> None:
        """Waits a moment for an advisor at work; a call that goes on is left behind, and nobody reads its answer."""
        deadline = time.monotonic() + _LAST_WORD_SECONDS
        while self._advice is not None and self._advice.is_alive() and (left := deadline - time.monotonic()) > 0:
            try:
                for event in self._take(self._done.get(timeout=min(left, 0.05))):
                    self._emit(event)
            except queue.Empty:
                continue

    def _tidy(self) -> None:
        """What may take a while, now that no worker waits for us."""
        if not self._prepared:
            self._prepared = True
            self.ports.prepare()
        if self._litter:
            self._collect()

    def _cancel_running(self) -> None:
        self._ending = True
        for cancel in list(self._cancels.values()):
            cancel.request()
        self._pool.shutdown(wait=True)

    def _collect(self) -> None:
        self._litter = False
        self.ports.store.collect(policy.weights_to_keep(self.state, self.rules))

    # ------------------------------------------------ in a worker's thread

    def _submit(self, key: object, work: Callable[[Cancel], Iterable[Event]]) -> None:
        cancel = self._cancels[key] = Cancel()

        def body() -> None:
            try:
                for event in work(cancel):
                    self._done.put(event)
            except Cancelled as error:  # what it used is recorded, nothing else: it runs again
                if error.usage is not None and isinstance(key, int):
                    reason = str(error)[:_REASON_CHARS] if isinstance(error, Lost) else ""
                    self._done.put(TrialInterrupted(key, error.usage, reason))
            except (OSError, MemoryError) as error:
                self._fault = error  # a full disk or too many files: the same, and the session ends
            finally:
                self._cheap.discard(key)
                self._cancels.pop(key, None)

        self._pool.submit(body)

    def _check(self, candidate_id: str, cancel: Cancel) -> EditChecked:
        """The early checks of a patch. What goes wrong inside is the patch's fault, not the campaign's."""
        try:
            found = self.ports.executor.check(self.state.candidate(candidate_id), cancel)
        except (Cancelled, OSError, MemoryError):
            raise
        except Exception as fault:  # noqa: BLE001  the trial boundary
            found = Checked("internal", f"{fault!r}")
        return EditChecked(candidate_id, found.stage, found.error[:_CHECK_CHARS], found.usage)

    def _assess(self, proposal_id: str, trials: Sequence[Trial], cancel: Cancel) -> EvalAssessed:
        """Tries a proposed evaluation. What goes wrong inside is its own fault, not the campaign's."""
        proposal = self.state.evals[proposal_id].proposal
        try:
            report, error = self.ports.assessor.assess(proposal, trials, self.state.champion_id, cancel)
        except (Cancelled, OSError, MemoryError):
            raise
        except Exception as fault:  # noqa: BLE001  the trial boundary
            report, error = None, f"{fault!r}"
        return EvalAssessed(proposal_id, report, error[:_REASON_CHARS])

    def _train(self, trial: Trial, cancel: Cancel) -> TrialFinished:
        """Trains and scores on `search`. The trial boundary: whatever goes wrong inside becomes a recorded FAIL."""
        ports, entry = self.ports, self.state.entries[trial.candidate_id]
        finished = TrialFinished(trial.number, "FAIL", environment=ports.environment)
        curve, pruned = list[Progress](), list[str]()

        def report(point: Progress) -> None:
            if pruned:  # sent before the end reached it: what is recorded must not depend on how much that was
                return
            curve.append(point)
            ports.watcher.progress(trial, point)
            if trial.purpose == "search" and (reason := ports.pruner.observe(trial, point)) is not None:
                pruned.append(reason)
                cancel.request()

        try:
            training = ports.executor.train(trial, entry.proposal.candidate, report, cancel)
            if pruned:  # it had ended by itself by then; the decision stands, or two runs would differ
                raise Cancelled("pruned", training.log_tail, training.usage)
            finished = replace(finished, curve=training.curve, usage=training.usage, log_tail=training.log_tail,
                               integrity=training.integrity)  # fmt: skip
            self._cheap.add(trial.number)
            [score] = ports.scorer.score([replace(trial, weights=training.weights)], "search", 0, cancel)
            return replace(finished, state="COMPLETE", score=score, weights=training.weights)
        except (OSError, MemoryError):
            raise
        except TrialFailed as error:
            if finished.usage is not None:  # it was the score that ended so; what counts is the training
                error.usage = finished.usage
            if isinstance(error, Cancelled) and (self._ending or not pruned):
                raise
            spec = self.state.campaign.subject.progress
            return replace(
                finished,
                state="PRUNED" if pruned else "FAIL",
                error=pruned[0] if pruned else str(error),
                curve=finished.curve or (tuple(point for _, point in spec.marked(curve)) if spec else ()),
                usage=error.usage,
                log_tail=error.log_tail or finished.log_tail,
                integrity=error.integrity or finished.integrity,
            )
        except Exception as error:  # noqa: BLE001  the trial boundary
            return replace(finished, error=f"internal error: {error!r}", log_tail=traceback.format_exc()[-4096:])

    def _score(self, trials: Sequence[Trial], split: Split, round: int, cancel: Cancel) -> list[Event]:
        """All at once; where that fails each alone, so that nobody is blamed for another one's weights."""
        try:
            found = self.ports.scorer.score(trials, split, round, cancel)
            return [Scored(t.number, split, round, e) for t, e in zip(trials, found, strict=True)]
        except (Cancelled, OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  the trial boundary
            if len(trials) == 1:
                return [Scored(trials[0].number, split, round, None, str(error))]
        return [event for trial in trials for event in self._score([trial], split, round, cancel)]


def read_inbox(inbox: Path, state: State, check: Check | None = None) -> Iterator[Event]:
    """The events of the commands that wait in the inbox, oldest first. A command's file goes after its event is written.

    An approval that the policy would take is refused where `check` has a reason.
    The promotion that an approval is owed comes right after it, before the next command, which it may void; also the
    one that a crash has left owing.
    """
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(inbox) as found:
        names = sorted(entry.name for entry in found if entry.name.endswith(".json") and entry.is_file())
    for path in (inbox / name for name in names):
        yield from _owed(state)
        try:
            command = msgspec.json.decode(path.read_bytes(), type=Command)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            yield CommandRefused(path.stem, f"A command must be one that evolve wrote, but {path.name} is not: {error}")
        else:
            events = answer(state, command)
            if check is not None and any(isinstance(e, Decided) and e.approval.decision == "approve" for e in events):
                reason = check(state, command)
                events = (CommandRefused(command.id, reason),) if reason else events
            yield from events
        path.unlink(missing_ok=True)
    yield from _owed(state)


def _owed(state: State) -> Iterator[Event]:
    if (promotion := policy.settle(state)) is not None:
        yield promotion


def leave_command(inbox: Path, command: Command, order: float) -> Path:
    """Puts a command into the inbox by an atomic rename; `order` (seconds) sorts it behind earlier ones."""
    name = f"{int(order * 1000):015d}-{command.id}"
    temporary = inbox / f".{name}.tmp"
    temporary.write_text(json.dumps(msgspec.to_builtins(command)))
    target = inbox / f"{name}.json"
    temporary.replace(target)
    return target
