"""Proposers that need no library: the default config again, and the mixture of a guide with a sampler."""

from __future__ import annotations

from evolve.errors import ProposerFailed
from evolve.memory import View
from evolve.ports import Proposer
from evolve.types import Proposal


class DefaultProposer:
    """Proposes nothing beyond the default, which every campaign trains anyway: a campaign of the noise floor alone."""

    name = "default"

    def propose(self, view: View) -> Proposal:
        raise ProposerFailed("the default config is all that this proposer has; it is trained already", self.name)


class MixedProposer:
    """A guide (playbook or agent) on a minority of the turns, a sampler on the others.

    The guide speaks first and then whenever its part of the turns has fallen below `share`; 0.3 because a model helps
    an optimizer as a minority and harms it as a majority (arXiv 2603.24647). Where the guide fails, its turn is
    recorded as failed and the next one goes to the sampler, in the sampler's own name.
    """

    def __init__(self, guide: Proposer, sampler: Proposer, share: float = 0.3) -> None:
        self._guide, self._sampler, self._share = guide, sampler, share
        self.name = f"{guide.name}+{sampler.name}"

    def propose(self, view: View) -> Proposal:
        taken = view.turns.get(self._guide.name, 0)
        total = taken + view.turns.get(self._sampler.name, 0)
        due = taken < self._share * (total + 1) and view.last_failed != self._guide.name
        return (self._guide if due else self._sampler).propose(view)
