"""A campaign's search as an Optuna study: for `optuna.visualization`, optuna-dashboard, importances. A projection.

One Optuna trial is one candidate, numbered in the order of proposal; its value is the mean over the candidate's seeds on
the search split. Gate and vault appear as the words that proposers see, never as a number. Nothing here takes the
campaign's lock, and nothing reads a study back into this campaign (`history.py` reads other people's).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.errors import BadInput, EvolveError
from evolve.memory import Observation, observe
from evolve.search import distribution
from evolve.space import SearchSpace
from evolve.state import State, apply
from evolve.tracking import shown_uri
from evolve.tracking_page import campaign_key, plain
from evolve.types import Direction, Parameter, Progress, Record, TrialFinished, TrialStarted

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_KEY = "evolve:key"  # the study's attribute by which a later export knows it as the same campaign's
_JOURNALS = {".log", ".journal"}
_SQLITE = {".db", ".sqlite", ".sqlite3"}
_POINTS = 100  # of one curve, evenly thinned: each is a row of the storage


@dataclass
class Story:
    """When a candidate was trained (seconds since the epoch), and the self-reported curve of its first training."""

    proposed: float
    started: float | None = None
    ended: float | None = None
    curve: tuple[Progress, ...] = ()


@dataclass
class Told:
    """A journal as a study needs it: the fold, and what the fold drops."""

    state: State = field(default_factory=State)
    stories: dict[str, Story] = field(default_factory=dict)


def tell(records: Iterable[Record]) -> Told:
    """Reads a journal once."""
    told = Told()
    state, stories = told.state, told.stories
    for record in records:
        apply(state, record.event)
        if len(state.entries) > len(stories):
            stories[next(reversed(state.entries))] = Story(record.time)
        if isinstance(record.event, TrialStarted | TrialFinished):
            story = stories[state.trials[record.event.number].candidate_id]
            if isinstance(record.event, TrialStarted):
                story.started = story.started or record.time
            else:
                story.ended = record.time
                story.curve = story.curve or record.event.curve
    return told


# ---------------------------------------------------------------- the trials


def trials(told: Told) -> list[optuna.trial.FrozenTrial]:
    """The candidates as Optuna's trials, in the order of proposal. What is not finished is WAITING."""
    state = told.state
    curve = curve_name(told)
    return [_trial(state, c, told.stories[c], state.space(state.candidate(c)), curve) for c in state.entries]


def _trial(
    state: State, candidate_id: str, story: Story, space: SearchSpace, curve: str | None
) -> optuna.trial.FrozenTrial:
    import optuna

    seen = observe(state, candidate_id)
    several = bool(state.campaign.subject.secondary)
    values = seen.values if several else None if seen.score is None else (seen.score,)
    if several and seen.state == "COMPLETE" and values is None:
        seen = replace(seen, state="FAIL", error="its time or memory was measured on other hardware: no value here")
    kind = optuna.trial.TrialState["WAITING" if seen.state == "RUNNING" else seen.state]
    points = {p.step: p.metrics[curve] for p in _thin(story.curve) if curve in p.metrics} if curve else {}
    points = {} if several else points  # Optuna knows none there
    trial = optuna.trial.create_trial(
        state=kind,
        values=values if seen.state == "COMPLETE" else None,
        params=dict(seen.params),
        distributions={n: distribution(space.parameters[n]) for n in seen.params},
        user_attrs=_attributes(state, candidate_id, seen, curve if points else None),
        intermediate_values=points,
    )
    if kind.is_finished():
        trial.datetime_start = datetime.fromtimestamp(story.started or story.proposed)
        trial.datetime_complete = datetime.fromtimestamp(story.ended or story.started or story.proposed)
    return trial


def _attributes(state: State, candidate_id: str, seen: Observation, curve: str | None) -> dict[str, Any]:
    entry = state.entries[candidate_id]
    done = [state.trials[n] for n in entry.trials]
    attributes = {
        "candidate": seen.candidate_id,
        "proposer": plain(seen.proposer),
        "rationale": plain(entry.proposal.rationale),
        "outcome": seen.outcome,
        "seeds": sum(t.score is not None for t in done),
        "stderr": seen.stderr,
        "cpu_seconds": round(sum(t.usage.cpu_seconds for t in done if t.usage), 3),
        "error": plain(seen.error or "", 300),
        "curve": f"{curve}, self-reported by the first training" if curve else "",
    }
    return {name: value for name, value in attributes.items() if value not in ("", None)}


def curve_name(told: Told) -> str | None:
    """The self-reported metric that goes with the objective, by its own name or the field's word; None without one.

    Another metric, or one of the other direction, would mislead whoever reads the curves as the study's.
    """
    objective = told.state.objectives[0]
    names = (objective.metric, "exact_match" if objective.direction == "maximize" else "loss")
    reported = {name for story in told.stories.values() for point in story.curve for name in point.metrics}
    return next((name for name in names if name in reported), None)


def _thin(curve: tuple[Progress, ...]) -> tuple[Progress, ...]:
    every = -(-len(curve) // _POINTS) or 1
    return tuple(p for i, p in enumerate(curve) if i % every == 0 or i == len(curve) - 1)


# ---------------------------------------------------------------- importances


@dataclass(frozen=True)
class Importances:
    """Share of each parameter in reaching the best `top` of `n` scores (PED-ANOVA); `shares` add up to 1, largest first."""

    shares: dict[str, float]
    top: int
    n: int


def importances(state: State) -> Importances | None:
    """Importances over the candidates with the incumbent's harness that have a score; None where they would say nothing.

    That is below 10 candidates, where all scores are equal, and where fewer than two parameters vary. PED-ANOVA asks what
    the best candidates have in common; at least 5 of them, as Optuna advises. Unlike fANOVA it knows conditional
    parameters: one counts only where it is active.
    """
    campaign = state.campaign
    incumbent = state.candidate(state.incumbent_id)
    observed = (observe(state, c) for c in state.entries if state.candidate(c).patch == incumbent.patch)
    return importances_of(observed, state.space(incumbent), campaign.subject.objective.direction)


def importances_of(observed: Iterable[Observation], space: SearchSpace, direction: Direction) -> Importances | None:
    """The same of a view's history."""
    return GrowingImportances()(observed, space, direction)


class GrowingImportances:
    """`importances_of`, asked again and again of one campaign: what was told to Optuna before stays there.

    Telling a study of 600 trials anew takes ten times as long as asking it. What it knows is put away where a score that
    it was told is another by now, and where space or direction are.
    """

    def __init__(self) -> None:
        self._study: optuna.Study | None = None
        self._of: tuple[dict[str, Parameter], Direction] | None = None
        self._told: dict[str, float | None] = {}  # candidate -> score

    def __call__(self, observed: Iterable[Observation], space: SearchSpace, direction: Direction) -> Importances | None:
        import optuna

        seen = {o.candidate_id: o for o in observed if o.state == "COMPLETE" and o.score is not None}
        n, top = len(seen), max(5, -(-len(seen) // 10))
        if n < 10 or len({o.score for o in seen.values()}) < 2 or len(names := _varied(list(seen.values()), space)) < 2:
            return None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        changed = any(c not in seen or seen[c].score != score for c, score in self._told.items())
        asked_of = (space.parameters, direction)
        if self._study is None or changed or self._of != asked_of:
            self._study, self._told, self._of = optuna.create_study(direction=direction), {}, asked_of
        new = [o for c, o in seen.items() if c not in self._told]
        distributions = {name: distribution(p) for name, p in space.parameters.items()}
        self._study.add_trials(
            [
                optuna.trial.create_trial(
                    value=o.score, params=dict(o.params), distributions={p: distributions[p] for p in o.params}
                )
                for o in new
            ]
        )
        self._told |= {o.candidate_id: o.score for o in new}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=top / n)
        found = optuna.importance.get_param_importances(self._study, evaluator=evaluator, params=names)
        if len(set(found.values())) == 1:  # Optuna's answer where it could tell nothing
            return None
        return Importances(dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))), top, n)


def _varied(seen: list[Observation], space: SearchSpace) -> list[str]:
    """Parameters with two values and more, present at least twice, and absent never or at least twice: PED-ANOVA drops
    a smaller group with a warning."""

    def counts(name: str) -> bool:
        values = [o.params[name] for o in seen if name in o.params]
        return len(set(values)) > 1 and len(seen) - len(values) != 1

    return [name for name in space.parameters if counts(name)]


# ---------------------------------------------------------------- storages


def storage_url(place: str) -> str:
    """`place` as a URL: `sqlite:///...` for a `.db` file, `journal:...` for a `.log` or `.journal` file."""
    if "://" in place:
        return place
    suffix = Path(place).suffix
    if suffix in _JOURNALS:
        return f"journal:{place}"
    if suffix in _SQLITE:
        return f"sqlite:///{place}"
    raise BadInput(
        "An Optuna storage must be a URL (sqlite:///study.db, postgresql://...), a .db file or a .log file, but got"
        f" {shown_uri(place)!r}; give one of them."
    )


@contextmanager
def usable(place: str) -> Iterator[None]:
    """Turns what Optuna and the database raise into one line. Raises `BadInput`."""
    import sqlalchemy.exc
    from optuna.exceptions import OptunaError

    try:
        yield
    except (
        sqlalchemy.exc.SQLAlchemyError, OptunaError, RuntimeError, ImportError, OSError, ValueError, KeyError, AssertionError,
    ) as error:  # fmt: skip
        reason = plain(shown_uri(str(error.__cause__ or error)), 200)
        raise BadInput(
            f"{shown_uri(place)} must be usable as an Optuna storage, but {type(error).__name__}: {reason}; correct it."
        ) from error


def open_storage(place: str, *, create: bool) -> optuna.storages.BaseStorage:
    """The storage at a URL or a file. Without `create` it must be there, and nothing is written to it.

    Raises `BadInput`, also for a database that holds something else: Optuna would put its tables beside the others'.
    """
    import optuna
    import sqlalchemy
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = storage_url(place)
    with usable(place):
        file = url.removeprefix("journal:") if url.startswith("journal:") else _sqlite_file(url)
        if file is not None and not create and not Path(file).is_file():
            raise BadInput(f"An Optuna storage must exist to be read, but there is no file {file}; correct the path.")
        if file is not None and not Path(file).absolute().parent.is_dir():
            raise BadInput(f"The folder of {file} must exist, but does not; make it, or name another file.")
        if url.startswith("journal:"):
            return optuna.storages.JournalStorage(JournalFileBackend(str(file)))
        engine = sqlalchemy.create_engine(url)
        tables = set(sqlalchemy.inspect(engine).get_table_names())
        engine.dispose()
        if "studies" not in tables and (tables or not create):
            what = f"holds {', '.join(sorted(tables)[:3])}, ..." if tables else "is empty"
            raise BadInput(f"{shown_uri(place)} must be an Optuna storage, but {what}; name another.")
        return optuna.storages.RDBStorage(url, skip_table_creation=not create)


def _sqlite_file(url: str) -> str | None:
    return url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None


# ---------------------------------------------------------------- export


def export(
    told: Told, place: str, name: str, follow: Callable[[list[FrozenTrial]], Iterable[FrozenTrial]] = iter
) -> dict[str, int]:
    """Writes the study `name` in the place of an earlier export of the same campaign; returns trials by state.

    `follow` goes through the trials as they are written: Optuna's databases take about 10 ms for each.

    In a database that is one transaction: a reader sees the old study or the new one. A journal file is appended to,
    so there a reader may meet a part. Raises `BadInput` where the storage cannot be used, or has a study of that name
    that is not this campaign's.
    """
    import optuna

    state = told.state
    if state.started is None:
        raise EvolveError("A study needs a campaign, but the journal is empty; start one.")
    done = trials(told)
    key = campaign_key(state.campaign)
    storage = open_storage(place, create=True)
    with usable(place), _one_transaction(storage):
        if name in optuna.get_all_study_names(storage):
            there = optuna.load_study(study_name=name, storage=storage)
            if there.user_attrs.get(_KEY) != key:
                raise BadInput(
                    f"A study may only replace an earlier export of its campaign, but {name!r} in {shown_uri(place)} is"
                    " another; choose a name with --name."
                )
            optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(
            study_name=name, storage=storage, directions=[o.direction for o in state.objectives]
        )
        for attribute, value in {
            _KEY: key,
            "campaign": state.campaign.campaign,
            "subject": state.campaign.subject.name,
            "champion": observe(state, state.champion_id).candidate_id,
            "values": "means over a candidate's trainings, on the search split; gate and vault are not exported",
        }.items():
            study.set_user_attr(attribute, value)
        with warnings.catch_warnings():  # "experimental" since 2023
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([o.metric for o in state.objectives])
        for trial in follow(done):
            study.add_trial(trial)
    counts: dict[str, int] = {}
    for trial in done:
        counts[trial.state.name] = counts.get(trial.state.name, 0) + 1
    return counts


@contextmanager
def _one_transaction(storage: optuna.storages.BaseStorage) -> Iterator[None]:
    """Everything that is done to a database inside happens at once or, after an error, not at all.

    Optuna commits each call; its sessions are bound to one connection here, whose transaction is ours.
    """
    import optuna
    from sqlalchemy.orm import scoped_session, sessionmaker

    if not isinstance(storage, optuna.storages.RDBStorage):
        yield
        return
    with storage.engine.connect() as connection, connection.begin():
        theirs = storage.scoped_session
        storage.scoped_session = scoped_session(sessionmaker(bind=connection, join_transaction_mode="rollback_only"))
        try:
            yield
        finally:
            storage.scoped_session = theirs
