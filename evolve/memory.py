"""What a proposer may know: a bounded view of the state, search split only. Pure.

The vault cannot leak from here by construction: the view is built from search scores, and of gate and vault it carries
the decision in words, without a number.

The memory is made of lessons (events) and of `measured`, which counts what the journal's own numbers say of each
parameter. Only the latest lessons are handed on; what older ones were about is in those counts, so that neither grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from evolve import suite
from evolve.curves import CurveClaim
from evolve.edits import difference
from evolve.space import SearchSpace, value_text
from evolve.state import Entry, State
from evolve.types import (
    Budget,
    Candidate,
    LessonWritten,
    Objective,
    Parameter,
    Params,
    Progress,
    Proposal,
    Spend,
    TrialState,
    Value,
    short,
)

MOST_LESSONS = 10  # of this campaign, the latest; as many of people's own, and of earlier campaigns
MOST_MEASURED = 16  # lines of counts
_TOLD_EVALUATIONS = 5  # the latest
_CARRIED = 8  # lessons of a campaign that a later one begins with
_COUNTED = 1000  # finished candidates, the latest, that `measured` counts
_NOTABLE = 2.0  # noise floors: a smaller difference is not worth a look


@dataclass(frozen=True)
class Observation:
    """One candidate's search result. `score` is None until there is one; a failure has an error and no score.

    `values`: with several objectives one value for each, the score first; None until all are there.
    Where it was pruned, `error` says when and why: with numbers of the training's own, which are nobody's measurement.
    """

    candidate_id: str
    params: Params
    proposer: str
    state: TrialState
    score: float | None = None
    stderr: float | None = None
    groups: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    outcome: str = ""  # of the gate, in words: "accepted", "rejected", ...
    values: tuple[float, ...] | None = None
    rationale: str = ""
    curve: tuple[CurveClaim, ...] = ()  # of its first training, self-reported: a hint, never a score
    patch: str | None = None  # its edit of the harness; scores with another one are of another function of the params


@dataclass(frozen=True)
class Detail:
    """What a training said of itself: its curve, and the end of its log. Claims and untrusted text, shown as such."""

    curve: tuple[Progress, ...]
    log_tail: str


@dataclass(frozen=True)
class Evaluations:
    """What an author of an evaluation has to know: names that are taken, ids that were proposed, what came of the latest."""

    taken: frozenset[str]
    known: frozenset[str]
    told: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """Everything that a proposer decides from; equal views give equal proposals.

    `turn` counts the proposers' turns so far, without the advisor's. With `seed` (the campaign's) it is the only source
    of chance. `turns` counts them by name, the advisor's too. `suggestions` are the advisor's, untried, oldest first.
    """

    space: SearchSpace
    objective: Objective
    subject_version: str
    description: str
    seed: int
    turn: int
    turns: Mapping[str, int]
    default: Params
    champion: Params
    incumbent: Params
    incumbent_score: float | None
    history: tuple[Observation, ...]
    noise_floor: float | None = None
    lessons: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    spend: Spend = field(default_factory=Spend)
    incumbent_id: str = ""
    suggestions: tuple[Proposal, ...] = ()
    retry: int = 0  # within one turn, after a duplicate
    imported: tuple[Observation, ...] = ()  # another study's claims: not tried here, so they may be proposed again
    secondary: tuple[Objective, ...] = ()
    champion_score: float | None = None
    news: tuple[str, ...] = ()  # ids of finished candidates that no advisor has written a lesson about
    details: Mapping[str, Detail] = field(default_factory=dict)  # by id; of the latest trainings alone
    patch: str | None = None  # the incumbent's; `space` has what it declares
    declared: Mapping[str, Parameter] = field(default_factory=dict)
    evaluations: Evaluations | None = None  # None where none may be proposed

    def candidate(self, params: Params) -> Candidate:
        """These params with the incumbent's harness."""
        return Candidate(params, self.subject_version, self.patch, self.declared)

    @property
    def same_harness(self) -> View:
        """With what was measured with the incumbent's harness alone: what a model of the params may learn from."""
        waiting = tuple(s for s in self.suggestions if s.candidate.patch == self.patch)
        history = tuple(o for o in self.history if o.patch == self.patch)
        return replace(self, history=history, suggestions=waiting, imported=() if self.patch else self.imported)

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """See the function of that name; counted when it is asked for, since few proposers do."""
        return measured(
            self.history[-_COUNTED:], self.champion, self.champion_score, self.noise_floor, self.objective.sign
        )

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All of them, the primary one first."""
        return (self.objective, *self.secondary)

    @property
    def finished(self) -> tuple[Observation, ...]:
        return tuple(o for o in self.history if o.state in ("COMPLETE", "FAIL", "PRUNED"))


def observe(state: State, candidate_id: str) -> Observation:
    """The search-split view of one candidate."""
    return _observations(state)[candidate_id]


def _observations(state: State) -> dict[str, Observation]:
    """By candidate, in the order of the entries; made anew only of those that have changed."""
    # Measured objectives are known on the session's hardware alone.
    hardware = state.environment.hardware if state.environment and state.campaign.subject.secondary else None
    found: dict[str, Observation]
    of, found = state.cache.get("observations", (hardware, {}))
    changed: Iterable[str] = state.touched
    if of != hardware or len(state.entries) != len(found) + sum(c not in found for c in changed):
        found, changed = {}, state.entries
    for candidate_id in changed:
        found[candidate_id] = _observe(state, candidate_id, state.entries[candidate_id])
    state.touched.clear()
    state.cache["observations"] = (hardware, found)
    return found


def _observe(state: State, candidate_id: str, entry: Entry) -> Observation:
    trials = [state.trials[n] for n in entry.trials]
    score = state.search_score(candidate_id)
    errors = [entry.check_error] if entry.check_error else [t.error for t in trials if t.error]
    if score is not None:
        status: TrialState = "COMPLETE"
    elif any(t.state == "PRUNED" for t in trials):
        status = "PRUNED"
    elif errors:
        status = "FAIL"
    else:
        status = "RUNNING"
    return Observation(
        candidate_id=short(candidate_id),
        params=entry.proposal.candidate.params,
        proposer=entry.proposal.proposer,
        state=status,
        score=score.mean if score else None,
        stderr=score.stderr if score else None,
        groups=score.groups if score else {},
        error=errors[0] if errors else None,
        outcome=_outcome(entry),
        values=state.values(candidate_id) if state.campaign.subject.secondary else None,
        rationale=entry.proposal.rationale,
        curve=entry.curve,
        patch=entry.proposal.candidate.patch,
    )


def _outcome(entry: Entry) -> str:
    words = {"proposed": "", "challenging": "", "pending": "accepted", "promoted": "champion", "declined": "declined"}
    words["stale"] = "accepted, against an earlier champion"
    if entry.stage in words:
        return words[entry.stage]
    if entry.check_error:
        return "not trained: its edit failed a check"
    return "rejected: no better than the champion beyond the noise" if entry.verdict else "rejected"


def imported(state: State) -> tuple[Observation, ...]:
    """The imported history in a proposer's terms; ids of its own, so that none is taken for a candidate's."""
    if state.imported is None:
        return ()
    if "imported" not in state.cache:
        state.cache["imported"] = tuple(
            Observation(
                f"import-{i}", t.params, "import", "FAIL" if t.score is None else "COMPLETE", t.score, error=t.error
            )
            for i, t in enumerate(state.imported.observations)
        )
    found: tuple[Observation, ...] = state.cache["imported"]
    return found


def recall(state: State) -> tuple[str, ...]:
    """The lessons that a proposer is told, at most three times `MOST_LESSONS`: of earlier campaigns, people, this campaign."""
    key = (state.lesson_count, len(state.lessons))
    if state.cache.get("recalled", (None,))[0] != key:
        state.cache["recalled"] = (key, _recall(state))
    found: tuple[str, ...] = state.cache["recalled"][1]
    return found


def _recall(state: State) -> tuple[str, ...]:
    own = [x for x in state.lessons.values() if not x.origin]
    parts: tuple[tuple[str, Iterable[LessonWritten]], ...] = (
        ("From an earlier campaign: ", (x for x in state.lessons.values() if x.origin)),
        ("", (x for x in own if x.by == "human")),
        ("", (x for x in own if x.by != "human")),
    )
    return tuple(prefix + x.text for prefix, lessons in parts for x in list(lessons)[-MOST_LESSONS:])


def carried(state: State) -> list[LessonWritten]:
    """What a later campaign on the same subject begins with: people's lessons, the latest others, the best result."""
    origin = state.campaign.campaign
    people = [x for x in state.lessons.values() if x.by == "human"][-_CARRIED:]
    others = [x for x in state.lessons.values() if x.by != "human"][-_CARRIED:]
    found = [LessonWritten(x.text, x.by, origin=x.origin or origin) for x in (*others, *people)]
    best, default = state.best(), next(iter(state.entries))
    floor = state.noise_floor()
    if best is None or best == default or floor is None:
        return found
    scores = [state.search_score(c) for c in (best, default)]
    if scores[0] is None or scores[1] is None:
        return found
    changed = difference(state.candidate(best), state.campaign.start)
    text = (
        f"Of {len(state.entries)} candidates the best on the search split was {changed} from the start:"
        f" {scores[0].mean:.4g} against {scores[1].mean:.4g}, noise floor {floor[0]:.2g}."
    )
    return [*found, LessonWritten(text, "journal", origin=origin)]


def measured(
    observations: Iterable[Observation], reference: Params, score: float | None, noise: float | None, sign: int
) -> tuple[str, ...]:
    """Counts of the search's results by parameter and direction from `reference`, the most tried first.

    Better and worse: by more than twice the noise floor. Candidates change several parameters at once, so that the counts
    are marginal: a hint, no test.
    """
    if score is None or noise is None:
        return ()
    counts: dict[str, list[int]] = {}
    for o in observations:
        if o.state == "RUNNING":
            continue
        gain = None if o.score is None else sign * (o.score - score)
        for name in o.params:
            if (move := _move(name, o.params[name], reference.get(name))) is None:
                continue
            row = counts.setdefault(move, [0, 0, 0, 0])
            row[0] += 1
            if gain is None:
                row[3] += 1
            elif abs(gain) > _NOTABLE * noise:
                row[1 if gain > 0 else 2] += 1
    most = sorted(counts.items(), key=lambda pair: (-pair[1][0], pair[0]))[:MOST_MEASURED]
    return tuple(
        f"{move}: {n} tried, {up} better, {down} worse, {bad} without a score" for move, (n, up, down, bad) in most
    )


def _move(name: str, value: Value, before: Value | None) -> str | None:
    if value == before:
        return None
    if isinstance(value, bool | str) or isinstance(before, bool | str) or before is None:
        return f"{name} = {value_text(value)}"
    return f"{name} {'above' if value > before else 'below'} {value_text(before)}"


def _details(state: State) -> dict[str, Detail]:
    """By short id; where a candidate has several trainings, the latest of them."""
    found: dict[str, Detail] = {}
    for number, event in state.details.items():
        # Of a failure the training's alone: what a scorer prints may be about problems.
        log = event.log_tail if event.state != "FAIL" or (event.error or "").startswith("train") else ""
        found[short(state.trials[number].candidate_id)] = Detail(event.curve, log)
    return found


def view(state: State, seed: int) -> View:
    """The view of this moment. Cost grows with the history only by one reference a candidate."""
    campaign = state.campaign
    champion = state.entries[state.champion_id].proposal.candidate.params
    champion_score = state.search_score(state.champion_id)
    incumbent = state.search_score(state.incumbent_id)
    floor = state.noise_floor()
    candidate = state.candidate(state.incumbent_id)
    return View(
        space=state.space(candidate),
        objective=campaign.subject.objective,
        subject_version=campaign.subject_version,
        description=campaign.subject.description,
        seed=seed,
        turn=state.proposals,
        turns=dict(state.turns),
        default=campaign.start.params,
        champion=champion,
        incumbent=state.entries[state.incumbent_id].proposal.candidate.params,
        incumbent_id=state.incumbent_id,
        incumbent_score=incumbent.mean if incumbent else None,
        history=tuple(_observations(state).values()),
        noise_floor=floor[0] if floor else None,
        lessons=recall(state),
        budget=state.budget,
        spend=state.spend,
        imported=imported(state),
        secondary=campaign.subject.secondary,
        suggestions=tuple(state.suggestions.values()),
        champion_score=champion_score.mean if champion_score else None,
        news=tuple(state.news),
        patch=candidate.patch,
        declared=candidate.declared,
        details=_details(state),
        evaluations=_evaluations(state),
    )


def _evaluations(state: State) -> Evaluations | None:
    """Of what was measured only words: an evaluation that is being judged is no guide for the search."""
    if not state.takes_evals or len(state.evals) >= suite.MOST_PROPOSALS:
        return None
    latest = list(state.evals.values())[-_TOLD_EVALUATIONS:]
    told = tuple(suite.told(e.proposal.name, e.proposal.form, e.stage, e.reason) for e in latest)
    return Evaluations(frozenset(state.eval_names), frozenset(state.evals), told)


def take(suggestion: Proposal, why: str) -> Proposal:
    """A suggestion as the proposal of this turn. Without its cost, which was counted when it was made."""
    return replace(suggestion, spend=Spend(), decided=f"suggestion of {suggestion.proposer}: {why}")
