"""What the sampler thinks, for the agent to read: its next suggestion, the size of its steps, what mattered so far.

Asked from the advisor's thread, so that it has a sampler of its own and never touches the one that proposes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evolve.agent_tools import Insight
from evolve.errors import ProposerFailed
from evolve.memory import View
from evolve.ports import Proposer
from evolve.search import EvolveProposer
from evolve.study import GrowingImportances


class SamplerInsight:
    """A view's `Insight`. `make` gives the sampler; None where the campaign has none.

    The suggestion is what that sampler would propose if it were asked now with nobody's advice; by the time that it is
    asked, more trials may have ended.
    """

    def __init__(self, make: Callable[[], Proposer] | None) -> None:
        self._sampler = make() if make else None
        self._importances = GrowingImportances()

    def __call__(self, view: View) -> Insight:
        suggestion = None
        if self._sampler is not None and any(o.score is not None for o in view.history):
            try:
                suggestion = self._sampler.propose(view).candidate.params
            except ProposerFailed:
                suggestion = None  # it has nothing to offer: said so by an empty answer
        found = self._importances(view.same_harness.history, view.space, view.objective.direction)
        radius = _radius(view) if isinstance(self._sampler, EvolveProposer) else None
        return Insight(suggestion, radius, found.shares if found else None)


def _radius(view: View) -> float:
    """The trust region's, as the sampler computes it from the finished trials."""
    from evolve.sampler import History, trust_radius

    done = view.finished
    values = np.array([np.nan if o.score is None else -view.objective.sign * o.score for o in done])
    pruned = np.array([o.state == "PRUNED" for o in done], dtype=bool)
    if not np.isnan(values).all():
        values[pruned] = np.nanquantile(values, 0.75)
    failed = np.array([o.state == "FAIL" for o in done], dtype=bool)
    none = np.zeros(len(done), dtype=bool)
    return trust_radius(History(np.zeros((len(done), 0)), values, failed, none, none))
