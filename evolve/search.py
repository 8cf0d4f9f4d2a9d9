"""Optuna's samplers as proposers. The study lives in memory and is fed from the view: a projection of the journal.

A sampler is made anew for each turn, seeded by (campaign seed, turn), so that an interrupted campaign proposes what an
uninterrupted one would. Samplers that keep state in their own trials (CMA-ES) start over after a resume.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from evolve.errors import InvalidCandidate, ProposerFailed
from evolve.memory import Observation, View, take
from evolve.space import SearchSpace
from evolve.types import Parameter, Params, Proposal, Value

if TYPE_CHECKING:
    import optuna

    from evolve.sampler import EvolveSampler

OPEN = "evolve:open"  # system attribute: a trial closed by our bookkeeping, whose FAIL says nothing
SOURCE = "evolve:source"  # system attribute: who offered the point, see `evolve.sampler`
SamplerFactory = Callable[[int], "optuna.samplers.BaseSampler"]


def derive_seed(*parts: object) -> int:
    """A 32-bit seed from anything with a stable text."""
    return int(hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()[:8], 16)


def distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    """The same range in Optuna's terms."""
    from optuna import distributions as d

    if parameter.type == "categorical":
        return d.CategoricalDistribution(parameter.choices)
    assert parameter.low is not None and parameter.high is not None  # SearchSpace has checked
    if parameter.type == "int":
        step = 1 if parameter.log else int(parameter.step or 1)
        return d.IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return d.FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, Value]:
    """Samples every active parameter, parents before children."""
    params: dict[str, Value] = {}
    for name, p in space.parameters.items():
        if not space.is_active(name, params):
            continue
        match distribution(p):
            case d if p.type == "categorical":
                params[name] = cast(Value, trial.suggest_categorical(name, p.choices))
            case d if p.type == "int":
                params[name] = trial.suggest_int(name, d.low, d.high, log=d.log, step=d.step)  # type: ignore[attr-defined]
            case d:
                params[name] = trial.suggest_float(name, d.low, d.high, log=d.log, step=d.step)  # type: ignore[attr-defined]
    return params


class OptunaProposer:
    """Any Optuna sampler behind `ports.Proposer`.

    Args:
        factory: seed -> sampler. Called once a turn.
        name: in whose name it proposes: `tpe`, `random`, ...

    A failed candidate is told as infeasible: an ordinary FAIL would be ignored, and the sampler would go on searching
    beside the crash. Its value there is the worst seen minus a margin, so that it never ties with the incumbent; both
    exist only inside this private study.
    """

    def __init__(self, factory: SamplerFactory, name: str) -> None:
        self._factory, self.name = factory, name
        self._advisors = frozenset({"agent", "playbook"})  # whose candidates count as advice
        self._harness: str | None = None  # the patch that all it knows was measured with
        self._forget()

    def _forget(self) -> None:
        self._study: optuna.Study | None = None
        self._numbers: dict[str, int] = {}  # candidate -> number of its open trial in the study
        self._told: set[str] = set()
        self._count = 0  # of the study's trials; asking the study copies them all

    def propose(self, view: View) -> Proposal:
        import optuna

        view = view.same_harness
        if self._harness != view.patch:  # another function of the params: what was learned of the old one is put away
            self._forget()
            self._harness = view.patch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = self._sampler(view)
            study = self._follow(view, sampler)
            study.sampler = sampler
            trial = study.ask()
            self._count += 1
            params = suggest(trial, view.space)
            # The loop records the candidate or not; the view tells us. Our own trial has done its work.
            study._storage.set_trial_system_attr(trial._trial_id, OPEN, True)
            source = str(study._storage.get_trial_system_attrs(trial._trial_id).get(SOURCE, ""))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        try:
            candidate = view.candidate(view.space.parse(params))
        except InvalidCandidate as error:
            raise ProposerFailed(str(error), self.name) from error
        for suggestion in view.suggestions if source == "advice" else ():
            if suggestion.candidate.params == candidate.params:
                return take(suggestion, "reserved quota, or the surrogate expects more of it than of the sampler's own")
        text = f"{self.name} over {len(self._told)} finished candidates"
        return Proposal(candidate, self.name, text, decided=f"{self.name}: {source} step" if source else "")

    def _sampler(self, view: View) -> optuna.samplers.BaseSampler:
        return self._factory(derive_seed("sampler", view.seed, view.turn, view.retry))

    def _follow(self, view: View, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        import optuna

        if self._study is None:
            self._study = optuna.create_study(directions=[o.direction for o in view.objectives])
            self._tell_imported(view)
        states = optuna.trial.TrialState
        worst: list[float] | None = None
        for o in view.history:
            if o.candidate_id in self._told:
                continue
            if o.state == "RUNNING":
                if o.candidate_id not in self._numbers:
                    self._numbers[o.candidate_id] = self._add(view.space, o.params, states.RUNNING, attrs={OPEN: True})
                continue
            if o.candidate_id in self._numbers:  # close the open trial; its result is added as a finished one
                self._study.tell(self._numbers.pop(o.candidate_id), state=states.FAIL)
            attrs: dict[str, int | str] = {**_generation(sampler, len(self._told))}
            if o.proposer in self._advisors:
                attrs[SOURCE] = "advice"
            if o.score is not None:
                values = _values(o, view)
                if values is None:
                    continue  # its seconds or memory were measured on other hardware
                self._add(view.space, o.params, states.COMPLETE, values, infeasible=False, attrs=attrs)
            elif o.state == "PRUNED":  # it trains, and is no better than what has a score; its curve is not told
                self._add(view.space, o.params, states.PRUNED, infeasible=False, attrs=attrs)
            else:
                worst = _beyond_worst(view) if worst is None else worst
                self._add(view.space, o.params, states.COMPLETE, worst, infeasible=True, attrs=attrs)
            self._told.add(o.candidate_id)
        return self._study

    def _tell_imported(self, view: View) -> None:
        """Once, before the campaign's own trials."""
        import optuna

        if view.secondary:
            return  # an import has one value a trial
        complete = optuna.trial.TrialState.COMPLETE
        worst = _beyond_worst(view)
        for o in view.imported:
            failed = o.score is None
            self._add(view.space, o.params, complete, worst if o.score is None else [o.score], infeasible=failed)

    def _add(
        self,
        space: SearchSpace,
        params: Params,
        state: optuna.trial.TrialState,
        values: list[float] | None = None,
        infeasible: bool | None = None,
        attrs: Mapping[str, int | str] | None = None,
    ) -> int:
        import optuna

        assert self._study is not None
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=values,
                system_attrs=dict(attrs or {}),
                params=dict(params),
                distributions={n: distribution(space.parameters[n]) for n in params},
                constraints=None if infeasible is None else {"trains": 1.0 if infeasible else 0.0},
            )
        )
        self._count += 1
        return self._count - 1


class EvolveProposer(OptunaProposer):
    """Our own sampler, which ranks the advisor's suggestions itself. For a single objective."""

    def __init__(self) -> None:
        self._ours: EvolveSampler | None = None  # one for all turns: it reads each finished trial once
        super().__init__(default_sampler, "evolve")
        self._suggestions: list[dict[str, Value]] = []

    def _forget(self) -> None:
        super()._forget()
        self._ours = None

    def _sampler(self, view: View) -> optuna.samplers.BaseSampler:
        """A retry has another seed, and no advice: what was refused as a duplicate may have been advice."""
        from evolve.sampler import EvolveSampler

        self._suggestions = [] if view.retry else [dict(s.candidate.params) for s in view.suggestions]
        if self._ours is None:
            defaults = {name: p.default for name, p in view.space.parameters.items()}
            self._ours = EvolveSampler(0, lambda study: self._suggestions, defaults)
        self._ours.reseed_rng(derive_seed("sampler", view.seed, view.turn, view.retry))
        return self._ours


def _values(o: Observation, view: View) -> list[float] | None:
    """What is told of a scored candidate: its score, with several objectives all values."""
    if not view.secondary:
        return None if o.score is None else [o.score]
    return None if o.values is None else list(o.values)


def _beyond_worst(view: View) -> list[float]:
    """On each objective the worst seen minus a margin; 0 where nothing is scored yet."""
    points = [values for o in (*view.imported, *view.history) if (values := _values(o, view)) is not None]
    if not points:
        return [0.0] * len(view.objectives)
    beyond = []
    for objective, column in zip(view.objectives, zip(*points, strict=True), strict=True):
        sign = objective.sign
        worst, best = min(sign * s for s in column), max(sign * s for s in column)
        beyond.append(sign * (worst - max(best - worst, abs(worst), 1e-6)))
    return beyond


def _generation(sampler: optuna.samplers.BaseSampler, told: int) -> dict[str, int]:
    """The mark by which a genetic sampler knows a result's generation; without it every generation would be the first.

    Optuna sets it when it asks; our results come from the journal, in whose order they fill one generation after another.
    """
    key, size = getattr(sampler, "_GENERATION_KEY", None), getattr(sampler, "population_size", None)
    return {key: told // size} if isinstance(key, str) and isinstance(size, int) else {}


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's TPE with its own defaults (multivariate, constant liar)."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed)


def random(seed: int) -> optuna.samplers.BaseSampler:
    """Independent uniform sampling of the space."""
    import optuna

    return optuna.samplers.RandomSampler(seed=seed)


def default_sampler(
    seed: int | None = None,
    advice: Callable[[optuna.Study], Sequence[Mapping[str, Value]]] | None = None,
    defaults: Mapping[str, Value] | None = None,
) -> optuna.samplers.BaseSampler:
    """Our own sampler, for any Optuna study with one objective; see `evolve.sampler`."""
    from evolve.sampler import EvolveSampler

    return EvolveSampler(seed, advice, defaults)
