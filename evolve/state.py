"""The state of a campaign: the fold of its journal. Pure; `apply` is the only writer.

Replaying any prefix of a journal gives the state that the controller had at that point. For speed `apply` changes the
state in place (ten thousand trials must not cost a copy each) and returns it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

from evolve import budget, gate, pareto
from evolve.curves import CurveClaim, claims
from evolve.edits import difference
from evolve.space import SearchSpace, extended
from evolve.types import (
    MEASURED,
    AdviceStarted,
    Approval,
    ApprovalRequest,
    ApprovalRequested,
    Budget,
    CampaignStarted,
    CampaignStopped,
    Candidate,
    ChallengeOpened,
    ClockJumped,
    CommandRefused,
    Decided,
    EditChecked,
    EditCheckStarted,
    Environment,
    EvalAssessed,
    EvalAssessStarted,
    EvalProposal,
    EvalProposed,
    EvalReport,
    Evaluation,
    Event,
    EvidenceRequested,
    HistoryImported,
    HumanProposed,
    IntegrityReport,
    JournalRepaired,
    LessonRemoved,
    LessonWritten,
    ModelCallFinished,
    ModelCallRefused,
    ModelCallStarted,
    Objective,
    Promoted,
    Proposal,
    ProposalFailed,
    Proposed,
    RolledBack,
    Scored,
    ScoreStarted,
    SessionStarted,
    Spend,
    Split,
    StopRequested,
    Suggested,
    SuiteChanged,
    Trial,
    TrialFinished,
    TrialInterrupted,
    TrialScheduled,
    TrialStarted,
    Usage,
    VaultAnswered,
    VaultAsked,
    Verdict,
    VerdictReached,
    person_of,
    short,
)

# stale: it was accepted, but against a champion that is not the champion any more
Stage = Literal["proposed", "challenging", "rejected", "pending", "stale", "promoted", "declined"]
ScoreKey = tuple[int, Split, int]  # trial number, split, round

MOST_DETAILS = 64  # finished trainings whose curve and end of log are kept at hand, for the agent to look at
MOST_NEWS = 20  # finished candidates that wait for a lesson
MOST_SUGGESTIONS = 4  # that wait: what the advisor thought of longer ago was thought of with less evidence


@dataclass
class Challenge:
    """A challenger before the gate. `vault` is None until asked.

    The seeds of a challenge are its own: index `first_seed` and above, so that no evidence is used twice. `wanted`: how
    many a person asked for, after an acceptance with `accepted_at` of them.
    """

    candidate_id: str
    champion_id: str
    round: int
    first_seed: int = 1
    verdict: Verdict | None = None
    vault: Literal["asked", "yes", "no"] | None = None
    wanted: int = 0
    accepted_at: int = 0


@dataclass
class Entry:
    """All that is known of one candidate."""

    proposal: Proposal
    trials: list[int] = field(default_factory=list)
    stage: Stage = "proposed"
    verdict: Verdict | None = None
    reason: str = ""  # the person's, or the gate's
    check_error: str = ""  # of its patch, which failed an early check: it was not trained
    challenge: Challenge | None = None  # its latest
    finished: int = 0  # trials that have ended
    curve: tuple[CurveClaim, ...] = ()  # of the first training that reported one
    point: tuple[object, tuple[float, ...] | None] = field(default=(None, None), compare=False, repr=False)  # `values`


@dataclass
class EvalEntry:
    """All that is known of one proposal for the evaluation. `request` is there while it waits for a person."""

    proposal: EvalProposal
    stage: Literal["proposed", "assessed", "refused", "pending", "adopted", "declined"] = "proposed"
    reason: str = ""  # of the refusal, or the person's
    report: EvalReport | None = None
    request: ApprovalRequest | None = None


@dataclass
class State:
    """Empty until the first event. Dicts keep the order of the journal."""

    started: CampaignStarted | None = None
    imported: HistoryImported | None = None  # claims of an earlier study: seen by proposers alone
    entries: dict[str, Entry] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    waiting: dict[int, None] = field(default_factory=dict)  # scheduled, not running
    running: dict[int, None] = field(default_factory=dict)
    scores: dict[ScoreKey, Evaluation] = field(default_factory=dict)
    scoring: dict[ScoreKey, int] = field(default_factory=dict)  # -> attempt
    score_attempts: dict[ScoreKey, int] = field(default_factory=dict)
    score_errors: dict[ScoreKey, list[str]] = field(default_factory=dict)  # of each failed try
    queue: list[str] = field(default_factory=list)  # candidates to train next, a person's first
    checking: dict[str, None] = field(default_factory=dict)  # candidates whose patch is being checked
    checked: dict[str, str] = field(
        default_factory=dict
    )  # patch -> why it failed the early checks, "" where it did not
    tainted: bool = False  # edited code has run without a sandbox: nothing of this campaign can be trusted any more
    evals: dict[str, EvalEntry] = field(default_factory=dict)  # proposals for the evaluation, by id
    assessing: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of them -> trials whose weights are looked at
    contenders: list[str] = field(default_factory=list)  # searched, above the incumbent, not yet challenged
    challenge: Challenge | None = None
    # This session's latest trainings of the champion, where they have failed.
    bank_failures: list[int] = field(default_factory=list)
    rounds: int = 0
    champion_id: str = ""
    previous: list[tuple[str, Promoted]] = field(default_factory=list)  # champions before, latest last
    accepted_id: str | None = None  # where the search goes on from, see DESIGN
    pending: dict[str, ApprovalRequest] = field(default_factory=dict)
    stale: dict[str, ApprovalRequest] = field(default_factory=dict)  # that waited when the champion changed
    yeses: dict[str, list[Approval]] = field(default_factory=dict)  # pending candidate -> approvals, fewer than needed
    approved: ApprovalRequest | None = None  # said yes to, not promoted yet
    evidence: dict[str, int] = field(default_factory=dict)  # candidate -> further seeds that a person asked for
    approvals: list[Approval] = field(default_factory=list)
    promotions: list[Promoted | RolledBack] = field(default_factory=list)
    promoted_at: list[float] = field(default_factory=list, compare=False)  # times of `promotions`, 0 where not known
    asked_at: dict[str, float] = field(default_factory=dict, compare=False)  # candidate -> time of its latest request
    spend: Spend = field(default_factory=Spend)  # settled; `committed` has what is under way too
    largest: Spend = field(default_factory=Spend)  # training so far, in each unit
    calls: dict[int, ModelCallStarted] = field(default_factory=dict)  # of models, not settled
    call_count: int = 0
    refused: str | None = None  # why a model call did not fit; until something is settled
    wall_seconds: float = field(default=0.0, compare=False)  # of all sessions, by the times of the records
    clock: float | None = field(default=None, compare=False)  # the latest time of the session; None between sessions
    vault_queries: int = 0
    vault_yeses: int = 0
    proposals: int = 0  # turns taken, failed ones too: with the campaign's seed, the seed of the next
    turns: dict[str, int] = field(default_factory=dict)  # proposer -> turns taken
    failures_in_row: int = 0
    suggestions: dict[str, Proposal] = field(default_factory=dict)  # candidate -> untried, oldest first
    advising: str | None = None  # the advisor that is at work
    advice: int = 0  # turns of the advisor, failed ones too; not among `proposals`
    advice_failures: int = 0  # in a row
    advice_at: int = -1  # `proposals` when the advisor's last turn ended
    noise_groups: dict[int, list[float]] = field(default_factory=dict)  # round -> differences of its seeds
    noise_of: dict[str, dict[int, list[float]]] = field(default_factory=dict)  # the same of the secondary objectives
    lessons: dict[int, LessonWritten] = field(default_factory=dict)  # by number, from 1
    lesson_count: int = 0  # removed ones too
    news: dict[str, None] = field(default_factory=dict)  # short ids: searched, and no advisor has written about it
    details: dict[int, TrialFinished] = field(default_factory=dict)  # the latest `MOST_DETAILS`, and the incumbent's
    commands: dict[str, str] = field(default_factory=dict)  # id -> why it was refused, empty where it was not
    environment: Environment | None = None
    workers: int = 1
    sandbox: str = "none"
    budget: Budget = field(default_factory=Budget)
    stop_requested: bool = False
    stopped: CampaignStopped | None = None
    cache: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)  # of `memory.view`
    ranking: list[tuple[float, int]] = field(default_factory=list)  # (-merit, number) of trainings with weights, sorted
    retrained: dict[str, None] = field(default_factory=dict)  # candidates with more than one training
    rescored: dict[str, None] = field(default_factory=dict, compare=False, repr=False)  # since `best` last looked
    touched: dict[str, None] = field(default_factory=dict, compare=False, repr=False)  # entries it has not seen changed

    # ------------------------------------------------ spend

    @property
    def training_ahead(self) -> Spend:
        """What one more training is reserved at: the largest so far, before the first the subject's own estimate."""
        estimate, device = self.campaign.subject.estimate, self.campaign.subject.device
        if self.largest != Spend():
            return self.largest + Spend(wall_seconds=estimate.score_seconds)
        usage = Usage(estimate.train_seconds, estimate.train_seconds, 0.0)
        spend = budget.training_spend(self.budget, usage, device)
        return replace(spend, wall_seconds=estimate.train_seconds + estimate.score_seconds)

    @property
    def committed(self) -> Spend:
        """What is settled, and what is reserved for the calls and trainings that are under way."""
        total = self.spend + Spend(wall_seconds=self.wall_seconds)
        for call in self.calls.values():
            total += call.reserved
        promised, ahead = len(self.running) + len(self.waiting), self.training_ahead
        return total + Spend(train_seconds=promised * ahead.train_seconds, train_usd=promised * ahead.train_usd)

    def tick(self, now: float) -> None:
        """The session's clock: seconds since the epoch. One that was set back adds nothing."""
        if self.clock is not None:
            self.wall_seconds += max(0.0, now - self.clock)
            self.clock = now

    # ------------------------------------------------ questions

    @property
    def campaign(self) -> CampaignStarted:
        """The first event; a journal without it is no campaign."""
        if self.started is None:
            raise ValueError("The state of an empty journal has no campaign.")
        return self.started

    @property
    def sign(self) -> int:
        return self.campaign.subject.objective.sign

    @property
    def suite_version(self) -> int:
        """How many metrics were adopted, before this campaign and in it."""
        return len(self.campaign.subject.suite) + sum(e.stage == "adopted" for e in self.evals.values())

    @property
    def takes_evals(self) -> bool:
        """Whether evaluations may be proposed: the subject says what its models answer, and code can be confined here."""
        return bool(self.campaign.subject.answer_cmd) and self.sandbox == "bubblewrap"

    @property
    def eval_names(self) -> set[str]:
        """Names that a new evaluation may not have: existing metrics keep their meaning."""
        subject = self.campaign.subject
        used = {e.proposal.name for e in self.evals.values() if e.stage not in ("refused", "declined")}
        return used | {
            *MEASURED,
            "groups",
            subject.objective.metric,
            *subject.metrics,
            *(m.name for m in subject.suite),
        }

    def candidate(self, candidate_id: str) -> Candidate:
        return self.entries[candidate_id].proposal.candidate

    def space(self, candidate: Candidate | None = None) -> SearchSpace:
        """The subject's space, with what the candidate's edit declares."""
        declared = candidate.declared if candidate else {}
        key = ("space", *sorted((name, repr(p)) for name, p in declared.items()))
        if key not in self.cache:
            self.cache[key] = extended(self.campaign.subject.space, declared)
        space: SearchSpace = self.cache[key]
        return space

    def needs_check(self, candidate_id: str) -> bool:
        """Whether the candidate's patch must pass the early checks before anything trains with it."""
        patch = self.candidate(candidate_id).patch
        return patch is not None and patch not in self.checked

    def bank(self, candidate_id: str, first_seed: int = 1) -> list[Trial]:
        """The candidate's unselected trainings on this session's hardware, in the order of their seeds from `first_seed` on.

        The search's own training is not among them: it was selected for being high. Those for the vault come last.
        """
        hardware = self.environment.hardware if self.environment else None
        trials = (self.trials[n] for n in self.entries[candidate_id].trials)
        usable = [t for t in trials if t.evidence and t.state == "COMPLETE" and t.hardware == hardware]
        return sorted((t for t in usable if t.seed_index >= first_seed), key=lambda t: t.seed_index)

    def seeds(self, challenge: Challenge) -> list[Trial]:
        """The challenger's gate trainings of this challenge, in the order of their seeds."""
        return [t for t in self.bank(challenge.candidate_id, challenge.first_seed) if t.purpose == "gate"]

    def rerun(self, challenge: Challenge) -> Trial | None:
        """The training of the candidate's first seed once more, whatever has become of it."""
        first = self.seeds(challenge)[0]
        trials = (self.trials[n] for n in self.entries[challenge.candidate_id].trials)
        return next((t for t in trials if t.purpose == "rerun" and t.seed_index == first.seed_index), None)

    def integrity(self, candidate_id: str) -> IntegrityReport | None:
        """What was seen of all trainings of an edit, with its honeypot metric and its re-run; None without edited code."""
        entry, honeypot = self.entries[candidate_id], self.campaign.subject.honeypot
        trials = [self.trials[n] for n in entry.trials]
        seeds = self.seeds(entry.challenge) if entry.challenge else []
        reports = [t.integrity for t in (*seeds, *(t for t in trials if t not in seeds)) if t.integrity]
        if not reports:
            return None
        report = reports[0].merged(reports[1:])
        if honeypot is not None:
            scores = [e for (n, _, _), e in self.scores.items() if n in entry.trials] + [
                t.score for t in trials if t.score
            ]
            report = replace(
                report, unsatisfiable=max((e.metrics.get(honeypot.metric, 0.0) for e in scores), default=None)
            )
        again = self.rerun(entry.challenge) if entry.challenge and seeds else None
        return report if again is None else replace(report, rerun=_repeats(seeds[0], again))

    def search_score(self, candidate_id: str) -> Evaluation | None:
        """Mean over the candidate's trainings on the search split, the unselected ones where there are any.

        The standard error is that over problems; with several seeds, that of their mean on top: all were scored on the
        same problems, so that more seeds do not make the first part smaller.
        """
        done = [self.trials[n] for n in self.entries[candidate_id].trials if self.trials[n].score is not None]
        done = [t for t in done if t.evidence] or done
        scores = [t.score for t in done if t.score is not None]
        if not scores:
            return None
        if len(scores) == 1:
            return scores[0]
        mean = fmean(s.mean for s in scores)
        spread = sum((s.mean - mean) ** 2 for s in scores) / (len(scores) - 1)
        common = [g for g in scores[0].groups if all(g in s.groups for s in scores)]
        groups = {g: fmean(s.groups[g] for s in scores) for g in common}
        shared = [name for name in scores[0].metrics if all(name in s.metrics for s in scores)]
        metrics = {name: fmean(s.metrics[name] for s in scores) for name in shared}
        stderr = (spread / len(scores) + fmean(s.stderr**2 for s in scores)) ** 0.5
        return replace(scores[0], mean=mean, stderr=stderr, groups=groups, metrics=metrics)

    # ------------------------------------------------ several objectives

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self.campaign.subject.objectives

    def samples(self, candidate_id: str, objective: Objective) -> list[float]:
        """The objective's value of each training behind `search_score`; a measured one on this session's hardware alone."""
        done = [t for n in self.entries[candidate_id].trials if (t := self.trials[n]).score is not None]
        done = [t for t in done if t.evidence] or done
        if objective.measured and self.environment is not None:
            done = [t for t in done if t.hardware == self.environment.hardware]
        return [x for t in done if (x := value_of(t, objective)) is not None]

    def values(self, candidate_id: str) -> tuple[float, ...] | None:
        """The candidate's point, one mean for each objective; None where one of them is not known (here)."""
        entry = self.entries[candidate_id]
        key = (entry.finished, self.environment.hardware if self.environment else None)
        if entry.point[0] != key:  # made anew only when a training has ended or the hardware has changed
            samples = [self.samples(candidate_id, objective) for objective in self.objectives]
            entry.point = (key, tuple(map(fmean, samples)) if all(samples) else None)
        return entry.point[1]

    def points(self) -> dict[str, tuple[float, ...]]:
        return {c: point for c in self.entries if (point := self.values(c)) is not None}

    def noise(self) -> list[float]:
        """Standard deviation of each objective over the champion's seeds; 0 before two are there."""
        groups = [self.samples(self.champion_id, objective) for objective in self.objectives]
        return [gate.pooled_variance([group])[0] ** 0.5 for group in groups]

    def front(self) -> list[str]:
        """Candidates that no other dominates, by their search scores and measured use; best primary value first."""
        return pareto.front(self.points(), self.objectives)

    @property
    def incumbent_id(self) -> str:
        """Where the search goes on from: the best accepted candidate, else the champion."""
        return self.accepted_id or self.champion_id

    def noise_floor(self) -> tuple[float, int] | None:
        """(standard deviation, n) of the champion's score over seeds on the search split; None before two are there."""
        scores = [t.score.mean for t in self.bank(self.champion_id) if t.score] if self.champion_id else []
        if len(scores) < 2:
            return None
        return gate.pooled_variance([scores])[0] ** 0.5, len(scores)

    def best(self) -> str | None:
        """The candidate with the best search score; ties go to the earlier.

        With several objectives: of those that improve on the champion within the tolerances, and the champion itself, the
        one with the largest `pareto.merit`.
        """
        if len(self.objectives) > 1 and (champion := self.values(self.champion_id)) is not None:
            noise = self.noise()
            points = {c: p for c, p in self.points().items() if pareto.improves(p, champion, self.objectives, noise)}
            points = {self.champion_id: champion, **points}
            return max(points, key=lambda c: pareto.merit(points[c], champion, self.objectives))
        before = self.cache.get("best")
        best = self._best_of([before, *self.rescored]) if before and before not in self.rescored else []
        if len(best) != 1:  # of several the first one, in the order of the entries
            best = self._best_of(self.entries)
        self.cache["best"] = best[0] if best else None
        self.rescored.clear()
        return best[0] if best else None

    def _best_of(self, candidates: Iterable[str]) -> list[str]:
        """Those with the best search score."""
        scores = {c: self.sign * score.mean for c in candidates if (score := self.search_score(c)) is not None}
        most = max(scores.values(), default=0.0)
        return [c for c, score in scores.items() if score == most]


def _repeats(first: Trial, again: Trial) -> str:
    """Whether the same seed has given the same once more, in the words of `IntegrityReport.rerun`; "" where it is not known."""
    if again.state == "FAIL":
        return "score differs: the re-run failed"
    if first.score is None or again.score is None:
        return ""
    if first.weights == again.weights:
        return "same weights"
    difference = again.score.mean - first.score.mean
    return f"score differs by {difference:+.4g}" if difference else "same score"


def value_of(trial: Trial, objective: Objective) -> float | None:
    """The objective's value of one training on the search split; None where it has none."""
    if objective.metric == "train_seconds":
        return trial.usage.cold_seconds if trial.usage else None
    if objective.metric == "peak_memory_mb":
        return trial.usage.peak_memory_mb if trial.usage else None
    return None if trial.score is None else value_in(trial.score, objective)


def value_in(evaluation: Evaluation, objective: Objective) -> float:
    """The value of one of the scorer's metrics."""
    return evaluation.mean if objective.metric == evaluation.metric else evaluation.metrics[objective.metric]


def replay(events: Iterable[Event]) -> State:
    """The state after `events`."""
    state = State()
    for event in events:
        apply(state, event)
    return state


def apply(state: State, event: Event, time: float | None = None) -> State:
    """Fold one event into the state, and return it. Never fails on a journal that the policy wrote.

    `time` is the record's, for the wall seconds of the sessions and the times of promotions; nothing else depends on it.
    """
    if time is not None:
        # After a kill the session's clock still runs; it was over with its last event, whenever the next one or a repair is.
        if not isinstance(event, SessionStarted | JournalRepaired):
            state.tick(time)
        if isinstance(event, JournalRepaired):
            state.clock = None
        if isinstance(event, SessionStarted | CampaignStopped):
            state.clock = time if isinstance(event, SessionStarted) else None
        if isinstance(event, ApprovalRequested):
            state.asked_at[event.request.candidate_id] = time
    match event:
        case CampaignStarted():
            state.started = event
            state.champion_id = event.start.id
            state.entries[event.start.id] = Entry(
                Proposal(event.start, "default", event.start_origin), stage="promoted"
            )
            state.touched[event.start.id] = None
            state.budget = event.rules.budget
        case HistoryImported():
            state.imported = event
        case SessionStarted():
            _begin_session(state, event)
        case Proposed(proposal):
            _take_proposal(state, proposal)
        case AdviceStarted(proposer):
            state.advising = proposer
        case Suggested(proposal):
            _end_advice(state, proposal.proposer)
            state.advice_failures = 0
            state.suggestions[proposal.candidate.id] = proposal
            while len(state.suggestions) > MOST_SUGGESTIONS:
                del state.suggestions[next(iter(state.suggestions))]
        case HumanProposed(proposal, command_id):
            state.commands[command_id] = ""
            state.suggestions.pop(proposal.candidate.id, None)
            _enter(state, proposal)
            state.queue.insert(0, proposal.candidate.id)
        case ProposalFailed(proposer, advice=True):
            _end_advice(state, proposer)
            state.advice_failures += 1
        case ProposalFailed(proposer):
            state.proposals += 1
            _count_turn(state, proposer)
            state.failures_in_row += 1
        case ModelCallStarted(call):
            state.calls[call] = event
            state.call_count = call + 1
        case ModelCallFinished(call, spend):
            del state.calls[call]
            state.spend += spend
            state.refused = None
        case ModelCallRefused(_, reason):
            state.refused = reason
        case EvalProposed(proposed, error):
            state.evals.setdefault(proposed.id, EvalEntry(proposed, "refused" if error else "proposed", reason=error))
        case EvalAssessStarted(proposal_id, trials):
            state.assessing[proposal_id] = trials
        case EvalAssessed(proposal_id, report, error):
            state.assessing.pop(proposal_id, None)
            found = state.evals[proposal_id]
            found.stage, found.report, found.reason = "refused" if report is None else "assessed", report, error
        case SuiteChanged(_, metric):
            state.approved = None
            state.evals[metric.id].stage = "adopted"
        case EditCheckStarted(candidate_id):
            state.checking[candidate_id] = None
            _taint(state, candidate_id)
        case EditChecked(candidate_id, _, error, usage):
            if usage is not None:
                state.spend += budget.training_spend(state.budget, usage, state.campaign.subject.device)
            state.checking.pop(candidate_id, None)
            _settle_check(state, candidate_id, error)
        case TrialScheduled():
            trial = Trial(event.number, event.candidate_id, event.purpose, event.seed_index, event.seed, event.fidelity)
            state.trials[event.number] = trial
            numbers = _touch(state, event.candidate_id).trials
            numbers.append(event.number)
            if len(numbers) > 1:
                state.retrained[event.candidate_id] = None
            state.waiting[event.number] = None
            state.spend += Spend(trials=1)
            if event.purpose == "search":
                state.queue.remove(event.candidate_id)
        case TrialStarted(number, attempt):
            del state.waiting[number]
            state.running[number] = None
            state.trials[number] = replace(state.trials[number], state="RUNNING", attempt=attempt)
            _taint(state, state.trials[number].candidate_id)
        case TrialInterrupted(number, usage, reason):
            state.spend += budget.training_spend(state.budget, usage, state.campaign.subject.device)
            state.running.pop(number)
            state.waiting[number] = None
            trial = state.trials[number]
            state.trials[number] = replace(trial, state="WAITING", attempt=trial.attempt - (not reason))
        case TrialFinished():
            _finish_trial(state, event)
        case EvidenceRequested(candidate_id, seeds, _, command_id):
            state.commands[command_id] = ""
            state.evidence[candidate_id] = state.evidence.get(candidate_id, 0) + seeds
        case ChallengeOpened():
            _open_challenge(state, event)
        case ScoreStarted(number, split, round, attempt):
            state.scoring[(number, split, round)] = attempt
            state.score_attempts[(number, split, round)] = attempt
        case Scored(number, split, round, evaluation):
            state.scoring.pop((number, split, round), None)
            if evaluation is not None:
                state.scores[(number, split, round)] = evaluation
            else:
                state.score_errors.setdefault((number, split, round), []).append(event.error or "")
        case VerdictReached(candidate_id, round, verdict):
            _settle_verdict(state, candidate_id, verdict)
        case VaultAsked():
            state.vault_queries += 1
            assert state.challenge is not None
            state.challenge.vault = "asked"
        case VaultAnswered(candidate_id, _, passed):
            assert state.challenge is not None
            state.challenge.vault = "yes" if passed else "no"
            state.vault_yeses += passed
            if not passed:
                _close_challenge(state, candidate_id, "rejected", "the vault said no")
        case ApprovalRequested(request) if request.kind == "eval":
            state.evals[request.candidate_id].stage = "pending"
            state.evals[request.candidate_id].request = request
        case ApprovalRequested(request):
            state.pending[request.candidate_id] = request
            _close_challenge(state, request.candidate_id, "pending", "")
            state.accepted_id = _best_accepted(state, request.candidate_id)
            _refresh_contenders(state)
        case Decided(approval):
            _decide(state, approval)
        case Promoted():
            state.approved = None
            state.promotions.append(event)
            state.promoted_at.append(time or 0.0)
            state.previous.append((state.champion_id, event))
            state.champion_id = event.candidate_id
            _touch(state, event.candidate_id).stage = "promoted"
            _champion_changed(state)
        case RolledBack(candidate_id, restored_id, reason, _, command_id):
            state.commands[command_id] = ""
            state.promotions.append(event)
            state.promoted_at.append(time or 0.0)
            state.previous.pop()
            state.champion_id = restored_id
            _stage(state, candidate_id, "declined", reason)
            _champion_changed(state)
        case LessonWritten(command_id=command_id):
            if command_id:
                state.commands[command_id] = ""
            _learn(state, event)
        case LessonRemoved(number, _, command_id):
            state.commands[command_id] = ""
            state.lessons.pop(number, None)
        case CommandRefused(command_id, reason):
            state.commands[command_id] = reason
        case StopRequested(command_id):
            state.commands[command_id] = ""
            state.stop_requested = True
        case CampaignStopped():
            state.stopped = event
        case ClockJumped(seconds):  # one that was set back has added nothing
            state.wall_seconds = max(0.0, state.wall_seconds - max(0.0, seconds))
        case JournalRepaired():
            state.spend += event.spend
            state.vault_queries += event.vault_queries
            state.rounds = max(state.rounds, event.rounds)
    return state


def killed_spend(state: State, event: SessionStarted) -> Spend:
    """What the trainings of a killed session count as; `state` is as it was before `event`."""
    total = Spend()
    if event.killed is None:  # as much as was reserved for them
        ahead = state.training_ahead
        for _ in state.running:
            total += Spend(train_seconds=ahead.train_seconds, train_usd=ahead.train_usd)
        return total
    for usage in event.killed:
        total += budget.training_spend(state.budget, usage, state.campaign.subject.device)
    return total


def _touch(state: State, candidate_id: str) -> Entry:
    """The candidate's entry, to be changed: what `memory.view` has made of it does not hold any more."""
    state.touched[candidate_id] = None
    return state.entries[candidate_id]


def _stage(state: State, candidate_id: str, stage: Stage, reason: str) -> Entry:
    entry = _touch(state, candidate_id)
    entry.stage, entry.reason = stage, reason
    return entry


def _enter(state: State, proposal: Proposal) -> None:
    state.touched[proposal.candidate.id] = None
    state.entries[proposal.candidate.id] = Entry(proposal)


def _begin_session(state: State, event: SessionStarted) -> None:
    """What ran before does not run any more. Only a crash counts as an attempt of a trial, not an orderly stop."""
    orderly = state.stopped is not None
    moved = state.environment is not None and state.environment.hardware != event.environment.hardware
    state.environment, state.workers, state.sandbox = event.environment, event.workers, event.sandbox
    if not orderly:
        state.spend += killed_spend(state, event)
    state.budget, state.refused = event.budget, None
    state.stop_requested, state.stopped, state.bank_failures = False, None, []
    state.failures_in_row, state.score_errors = 0, {}
    state.advising, state.advice_failures = None, 0
    state.waiting = dict.fromkeys(sorted([*state.running, *state.waiting]))
    for number in state.running:
        trial = state.trials[number]
        state.trials[number] = replace(trial, state="WAITING", attempt=trial.attempt - orderly)
    state.running, state.scoring, state.checking, state.assessing = {}, {}, {}, {}
    if moved and state.challenge is not None:  # evidence is paired within one hardware: from the start, in a new round
        state.rounds += 1
        state.challenge = replace(
            state.challenge, round=state.rounds, verdict=None, vault=None, wanted=0, accepted_at=0
        )
        state.entries[state.challenge.candidate_id].challenge = state.challenge


def _taint(state: State, candidate_id: str) -> None:
    if state.sandbox != "bubblewrap" and state.candidate(candidate_id).patch is not None:
        state.tainted = True


def _settle_check(state: State, candidate_id: str, error: str) -> None:
    entry = state.entries[candidate_id]
    patch = entry.proposal.candidate.patch
    assert patch is not None
    state.checked[patch] = error
    if not error:
        return
    for other in [c for c in state.queue if state.candidate(c).patch == patch]:
        state.queue.remove(other)
        _stage(state, other, "rejected", "its edit failed a check").check_error = error
        _note_news(state, other)


def _note_news(state: State, candidate_id: str) -> None:
    state.news[short(candidate_id)] = None
    if len(state.news) > MOST_NEWS:
        del state.news[next(iter(state.news))]


def _count_turn(state: State, proposer: str) -> None:
    state.turns[proposer] = state.turns.get(proposer, 0) + 1


def _take_proposal(state: State, proposal: Proposal) -> None:
    """A suggestion keeps what it cost, for whoever looks; it was spent, and its author's turn counted, when it was made."""
    suggestion = state.suggestions.pop(proposal.candidate.id, None)
    state.proposals += 1
    state.failures_in_row = 0
    if suggestion is not None and suggestion.proposer == proposal.proposer:
        proposal = replace(proposal, spend=suggestion.spend)
    else:
        _count_turn(state, proposal.proposer)
    _enter(state, proposal)
    state.queue.append(proposal.candidate.id)


def _end_advice(state: State, advisor: str) -> None:
    state.advising = None
    state.advice += 1
    state.advice_at = state.proposals
    _count_turn(state, advisor)


def _open_challenge(state: State, event: ChallengeOpened) -> None:
    entry = _touch(state, event.candidate_id)
    entry.stage = "challenging"
    state.evidence.pop(event.candidate_id, None)
    if event.more_seeds:  # what was accepted goes on; it cannot be decided on meanwhile
        before = entry.challenge
        assert before is not None and before.verdict is not None
        state.pending.pop(event.candidate_id)
        state.yeses.pop(event.candidate_id, None)
        if state.accepted_id == event.candidate_id:
            state.accepted_id = _best_accepted(state, next(reversed(state.pending), None))
        seeds = int(before.verdict.numbers["n"])
        at = before.accepted_at or seeds
        state.challenge = replace(before, wanted=seeds + event.more_seeds, accepted_at=at)
    else:
        if event.candidate_id in state.contenders:
            state.contenders.remove(event.candidate_id)
        state.stale.pop(event.candidate_id, None)
        used = [t.seed_index for n in entry.trials if (t := state.trials[n]).purpose == "gate"]
        state.challenge = Challenge(event.candidate_id, event.champion_id, event.round, max(used, default=0) + 1)
        state.rounds = event.round
    entry.challenge = state.challenge


def _finish_trial(state: State, event: TrialFinished) -> None:
    trial = state.trials[event.number]
    state.running.pop(event.number, None)
    state.waiting.pop(event.number, None)
    state.trials[event.number] = replace(
        trial,
        state=event.state,
        score=event.score,
        error=event.error,
        weights=event.weights,
        usage=event.usage,
        hardware=event.environment.hardware if event.environment else None,
        integrity=event.integrity,
    )
    if event.weights:
        merit = state.sign * event.score.mean if event.score else float("-inf")
        insort(state.ranking, (-merit, event.number))
    state.rescored[trial.candidate_id] = None
    entry = _touch(state, trial.candidate_id)
    entry.finished += 1
    entry.curve = entry.curve or claims(event.curve)
    _keep_details(state, trial, event)
    if event.usage:
        used = budget.training_spend(state.budget, event.usage, state.campaign.subject.device)
        state.spend += used
        state.largest = Spend(
            train_seconds=max(used.train_seconds, state.largest.train_seconds),
            train_usd=max(used.train_usd, state.largest.train_usd),
            wall_seconds=max(event.usage.wall_seconds, state.largest.wall_seconds),
        )
    if state.budget.usd is not None:  # less was used than reserved, perhaps
        state.refused = None
    if trial.purpose in ("bank", "vault") and trial.candidate_id == state.champion_id:
        state.bank_failures = [*state.bank_failures, trial.number] if event.state == "FAIL" else []
    if trial.purpose == "search" and event.score is not None and _beats_incumbent(state, trial.candidate_id):
        state.contenders.append(trial.candidate_id)
    if trial.purpose == "bank" and trial.candidate_id == state.champion_id:
        _recall_contenders(state)  # the bar has moved, also for what was searched beside the bank


def _keep_details(state: State, trial: Trial, event: TrialFinished) -> None:
    if trial.purpose == "search":
        _note_news(state, trial.candidate_id)
    state.details[event.number] = event
    if len(state.details) > MOST_DETAILS:
        pinned = (state.champion_id, state.incumbent_id)
        old = (n for n in state.details if state.trials[n].candidate_id not in pinned)
        del state.details[next(old, event.number)]


def _beats_incumbent(state: State, candidate_id: str) -> bool:
    if len(state.objectives) > 1:
        point, incumbent = state.values(candidate_id), state.values(state.incumbent_id)
        if point is None or incumbent is None:
            return False
        return pareto.improves(point, incumbent, state.objectives, state.noise())
    mine, reference = state.search_score(candidate_id), state.search_score(state.incumbent_id)
    return mine is not None and reference is not None and state.sign * (mine.mean - reference.mean) > 0


def _best_accepted(state: State, latest: str | None) -> str | None:
    """Where the search goes on from. A later accepted candidate has beaten the one before; with several objectives it may
    only have been within the tolerance and the noise of it, so that the one with the largest merit is taken."""
    champion = state.values(state.champion_id) if len(state.objectives) > 1 else None
    points = {c: point for c in state.pending if champion and (point := state.values(c)) is not None}
    if champion is None or not points:
        return latest
    return max(points, key=lambda c: pareto.merit(points[c], champion, state.objectives))


def _refresh_contenders(state: State) -> None:
    """The incumbent changed: only what beats the new one still deserves seeds."""
    state.contenders = [c for c in state.contenders if _beats_incumbent(state, c)]


def _settle_verdict(state: State, candidate_id: str, verdict: Verdict) -> None:
    challenge = state.challenge
    assert challenge is not None
    challenge.verdict = verdict
    _touch(state, candidate_id).verdict = verdict
    if verdict.decision != "NEED_MORE" and len(verdict.differences) > 1:
        state.noise_groups[challenge.round] = list(verdict.differences)
        for metric, differences in verdict.secondary.items():
            state.noise_of.setdefault(metric, {})[challenge.round] = list(differences)
    if verdict.decision == "REJECT":
        _close_challenge(state, candidate_id, "rejected", verdict.reason)


def _close_challenge(state: State, candidate_id: str, stage: Stage, reason: str) -> None:
    _stage(state, candidate_id, stage, reason)
    state.challenge = None


def _decide(state: State, approval: Approval) -> None:
    state.commands[approval.command_id] = ""
    state.approvals.append(approval)
    if approval.decision == "approve":
        yeses = state.yeses.setdefault(approval.candidate_id, [])
        yeses.append(approval)
        if len({person_of(a.by) for a in yeses}) < state.campaign.rules.gate.approvals:
            return
    state.yeses.pop(approval.candidate_id, None)
    if approval.kind == "eval":
        _decide_eval(state, approval)
        return
    entry = _touch(state, approval.candidate_id)
    state.evidence.pop(approval.candidate_id, None)
    entry.reason = approval.reason
    waiting = state.pending if approval.candidate_id in state.pending else state.stale
    request = waiting.pop(approval.candidate_id)
    if approval.decision == "approve":
        state.approved = request
        return
    entry.stage = "declined"
    if approval.candidate_id in state.contenders:  # a stale one would have met the new champion
        state.contenders.remove(approval.candidate_id)
    if state.accepted_id == approval.candidate_id:
        state.accepted_id = _best_accepted(state, next(reversed(state.pending), None))
        _recall_contenders(state)
    changed = difference(entry.proposal.candidate, state.candidate(request.champion_id))
    text = f"A person rejected {short(approval.candidate_id)} ({changed}): {approval.reason}"
    _learn(state, LessonWritten(text, "human"))


def _decide_eval(state: State, approval: Approval) -> None:
    found = state.evals[approval.candidate_id]
    request, found.request, found.reason = found.request, None, approval.reason
    if approval.decision == "approve":
        state.approved = request
        return
    found.stage = "declined"
    text = f"A person rejected the evaluation {found.proposal.name}: {approval.reason}"
    _learn(state, LessonWritten(text, "human"))


def _learn(state: State, lesson: LessonWritten) -> None:
    state.lesson_count += 1
    state.lessons[state.lesson_count] = lesson
    for candidate in lesson.about:
        state.news.pop(candidate, None)


def _champion_changed(state: State) -> None:
    """All evidence against the old champion is void: who was challenging or pending must meet the new one."""
    state.accepted_id = None
    state.stale |= state.pending
    for candidate_id in state.pending:
        _stage(state, candidate_id, "stale", "the champion changed")
    if state.challenge is not None:
        _stage(state, state.challenge.candidate_id, "proposed", "the champion changed")
    state.stale.pop(state.champion_id, None)
    state.pending, state.challenge, state.evidence = {}, None, {}
    state.yeses = {c: yeses for c, yeses in state.yeses.items() if c in state.evals}
    _recall_contenders(state)


def _recall_contenders(state: State) -> None:
    """The bar has become lower: whoever was never judged and is above it may be."""
    state.contenders = [
        c for c, entry in state.entries.items() if entry.stage in ("proposed", "stale") and entry.trials
    ]
    _refresh_contenders(state)
