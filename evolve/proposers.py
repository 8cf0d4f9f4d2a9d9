"""Proposers that need no library: the default config again, and the choice between suggestions and a sampler."""

from __future__ import annotations

from dataclasses import replace

from evolve.errors import ProposerFailed
from evolve.memory import View, take
from evolve.ports import Proposer
from evolve.types import Proposal, short


class DefaultProposer:
    """Proposes nothing beyond the default, which every campaign trains anyway: a campaign of the noise floor alone."""

    name = "default"

    def propose(self, view: View) -> Proposal:
        raise ProposerFailed("the default config is all that this proposer has; it is trained already", self.name)


class EditsProposer:
    """Edits of the harness that an advisor suggested, up to `share` of the candidates; else `inner`.

    A sampler ranks params within one harness, and cannot tell what another one is worth: that takes a training. An edit of
    a harness that is not the incumbent's any more is left to wait.
    """

    def __init__(self, inner: Proposer, share: float = 0.3) -> None:
        self._inner, self._share = inner, share
        self.name = inner.name

    def propose(self, view: View) -> Proposal:
        known = {o.candidate_id: o.patch for o in view.history}
        for s in view.suggestions if not view.retry else ():
            based_on = known.get(short(s.parents[0]), "unknown") if s.parents else "unknown"
            if s.candidate.patch is None or s.candidate.patch == view.patch or based_on != view.patch:
                continue
            taken = sum(o.proposer == s.proposer for o in view.history)
            total = taken + sum(o.proposer == self.name for o in view.history)
            if taken < self._share * (total + 1):
                return take(s, f"an edit of the harness; {taken} of {total} candidates before, quota {self._share:.0%}")
        return self._inner.propose(view)


class AdvisedProposer:
    """The advisor's suggestions, the oldest first and as they are, up to `share` of the candidates; else the sampler's.

    0.3 because a model helps an optimizer as a minority and harms it as a majority (arXiv 2603.24647). Without a sampler
    every candidate is a suggestion. Why it was this one is in `Proposal.decided`.
    """

    def __init__(self, sampler: Proposer | None, share: float = 0.3) -> None:
        self._sampler, self._share = sampler, share
        self.name = sampler.name if sampler else "advised"

    def propose(self, view: View) -> Proposal:
        waiting = view.suggestions
        if self._sampler is None:
            if not waiting:
                raise ProposerFailed("A suggestion must wait where nobody else proposes, but none does.", self.name)
            return take(waiting[0], "nobody else proposes")
        if not waiting:
            return replace(self._sampler.propose(view), decided=f"{self.name}: no suggestion was waiting")
        who = waiting[0].proposer
        taken = sum(o.proposer == who for o in view.history)
        total = taken + sum(o.proposer == self.name for o in view.history)
        quota = f"{taken} of {total} candidates before, reserved quota {self._share:.0%}"
        if taken < self._share * (total + 1):
            return take(waiting[0], quota)
        return replace(self._sampler.propose(view), decided=f"{self.name}: {who} has had its part, {quota}")
