"""What is said of an accepted candidate wherever it is shown: its corrected gain, its guards, who said yes. Pure.

An acceptance was selected for being high, so that its naive difference flatters: only the interval that is corrected for
the selection (`gate.interval`) is shown, with the setting's promise beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolve import gate
from evolve.state import State
from evolve.types import Approval, GateRules, Promoted, RolledBack, Subject, Verdict

_KEPT = ("pending", "stale", "promoted")


def kept(state: State) -> list[str]:
    """Candidates that gate and vault accepted and nobody took back, in the order of proposal; the start config is none."""
    return [c for c, entry in state.entries.items() if entry.stage in _KEPT and c != state.campaign.start.id]


def accepted(state: State) -> list[str]:
    """The same, with those that a person rejected or rolled back afterwards."""
    stages = (*_KEPT, "declined")
    return [c for c, entry in state.entries.items() if entry.stage in stages and c != state.campaign.start.id]


# ---------------------------------------------------------------- the gain


@dataclass(frozen=True)
class Gain:
    """How much better than the champion, in the direction of better; `low` is None where no lower bound above 0 was found."""

    metric: str
    estimate: float
    low: float | None
    high: float

    @property
    def text(self) -> str:
        if self.low is None:
            return f"{self.estimate:+.4g} (95 % interval: lower bound not above 0, upper {self.high:+.4g})"
        return f"{self.estimate:+.4g} (95 % interval {self.low:+.4g} to {self.high:+.4g})"


def gains(state: State, verdict: Verdict) -> list[Gain]:
    """Of each objective that was shown to be better, the primary one first; none where the gate tests nothing."""
    found = []
    for index, objective in enumerate(state.objectives):
        prefix, numbers = f"{objective.metric}." if index else "", verdict.numbers
        if f"{prefix}estimate" in numbers and f"{prefix}high" in numbers:
            low = numbers.get(f"{prefix}low")
            found.append(Gain(objective.metric, numbers[f"{prefix}estimate"], low, numbers[f"{prefix}high"]))
    return found


def gain_text(state: State, candidate_id: str) -> str:
    """The corrected gain of an accepted candidate on one line; why there is none, where there is none."""
    verdict = state.entries[candidate_id].verdict
    if verdict is None or verdict.decision != "ACCEPT":
        return "no acceptance"
    if state.campaign.rules.gate.max_seeds == 1:
        return "no interval: one seed, no test"
    found = gains(state, verdict)
    if len(state.objectives) == 1:
        return found[0].text if found else "no corrected interval was recorded"
    return "; ".join(f"{gain.metric} {gain.text}" for gain in found) or "no corrected interval was recorded"


def seeds_text(verdict: Verdict | None) -> str:
    """`3 fresh seeds against 4 of the champion`."""
    if verdict is None or "n" not in verdict.numbers:
        return "-"
    n, m = int(verdict.numbers["n"]), int(verdict.numbers["m"])
    return f"{n} fresh seed{'s' if n > 1 else ''} against {m} of the champion"


def vault_text(subject: Subject, *, passed: bool = True) -> str:
    """What the vault said; of a subject that has no data for it, that its yes confirms nothing."""
    return answer_text(passed, subject.unconfirmed)


def answer_text(passed: bool, unconfirmed: str) -> str:
    """The same by `Subject.unconfirmed` alone."""
    return ("yes" if passed else "no") + (f", {unconfirmed}" if passed and unconfirmed else "")


# ---------------------------------------------------------------- the gate and the people


def promise_text(rules: GateRules) -> str:
    """The gate's setting and what it promises."""
    return f"{rules.setting}: {gate.promise(rules)}"


def approvals(state: State, content_hash: str) -> list[Approval]:
    """The yeses to one content, in their order: one for each person that had to say it."""
    return [a for a in state.approvals if a.decision == "approve" and a.content_hash == content_hash]


def person(state: State, event: Promoted | RolledBack) -> str:
    """Who it was; all of them where several had to say yes."""
    if isinstance(event, RolledBack):
        return event.by or "unknown"
    return ", ".join(a.by for a in approvals(state, event.content_hash)) or "unknown"


def reason(state: State, event: Promoted | RolledBack) -> str:
    """What they said; empty where they said nothing."""
    if isinstance(event, RolledBack):
        return event.reason
    return "; ".join(a.reason for a in approvals(state, event.content_hash) if a.reason)
