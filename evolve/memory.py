"""What a proposer may know: a bounded view of the state, search split only. Pure.

The vault cannot leak from here by construction: the view is built from search scores, and of gate and vault it carries
the decision in words, without a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from evolve.curves import CurveClaim
from evolve.space import SearchSpace
from evolve.state import Entry, State
from evolve.types import Budget, Objective, Params, Proposal, Spend, TrialState, short


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
    curve: tuple[CurveClaim, ...] = ()  # of its first training, self-reported: a hint, never a score


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

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All of them, the primary one first."""
        return (self.objective, *self.secondary)

    @property
    def finished(self) -> tuple[Observation, ...]:
        return tuple(o for o in self.history if o.state in ("COMPLETE", "FAIL", "PRUNED"))


def observe(state: State, candidate_id: str) -> Observation:
    """The search-split view of one candidate; made anew only when the candidate has changed."""
    entry = state.entries[candidate_id]
    # Measured objectives are known on the session's hardware alone.
    hardware = state.environment.hardware if state.environment and state.campaign.subject.secondary else None
    key = (entry.finished, len(entry.trials), entry.stage, entry.verdict is None, hardware)
    if key not in entry.cache:
        entry.cache = {key: _observe(state, candidate_id, entry)}
    observation: Observation = entry.cache[key]
    return observation


def _observe(state: State, candidate_id: str, entry: Entry) -> Observation:
    trials = [state.trials[n] for n in entry.trials]
    score = state.search_score(candidate_id)
    errors = [t.error for t in trials if t.error]
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
        curve=entry.curve,
    )


def _outcome(entry: Entry) -> str:
    words = {"proposed": "", "challenging": "", "pending": "accepted", "promoted": "champion", "declined": "declined"}
    if entry.stage in words:
        return words[entry.stage]
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


def view(state: State, space: SearchSpace, seed: int) -> View:
    """The view of this moment. Cost grows with the history only by one small object a candidate."""
    campaign = state.campaign
    incumbent = state.search_score(state.incumbent_id)
    floor = state.noise_floor()
    return View(
        space=space,
        objective=campaign.subject.objective,
        subject_version=campaign.subject_version,
        description=campaign.subject.description,
        seed=seed,
        turn=state.proposals,
        turns=dict(state.turns),
        default=campaign.start.params,
        champion=state.entries[state.champion_id].proposal.candidate.params,
        incumbent=state.entries[state.incumbent_id].proposal.candidate.params,
        incumbent_id=state.incumbent_id,
        incumbent_score=incumbent.mean if incumbent else None,
        history=tuple(observe(state, c) for c in state.entries),
        noise_floor=floor[0] if floor else None,
        lessons=tuple(lesson.text for lesson in state.lessons),
        budget=state.budget,
        spend=state.spend,
        imported=imported(state),
        secondary=campaign.subject.secondary,
        suggestions=tuple(state.suggestions.values()),
    )


def take(suggestion: Proposal, why: str) -> Proposal:
    """A suggestion as the proposal of this turn. Without its cost, which was counted when it was made."""
    return replace(suggestion, spend=Spend(), decided=f"suggestion of {suggestion.proposer}: {why}")
