"""Trials of an earlier study as history to start from: `start.import=`. Reads; nothing is written anywhere.

Sources: an Optuna study (`STORAGE#STUDY`), the runs of an MLflow experiment (`mlflow:EXPERIMENT@URI`), another campaign by
its name. What they say is a claim of theirs: it enters through the search space, and the campaign's own trials decide.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolve.errors import BadInput, InvalidCandidate, NotFound, TrackingFailed, did_you_mean
from evolve.space import SearchSpace
from evolve.tracking import shown_uri
from evolve.tracking_page import plain
from evolve.types import HistoryImported, ImportedTrial, Objective, Parameter

LIMIT = 2000  # trials that are taken at most, the newest: one line of the journal, and told to the sampler once
_PAGE = 1000  # runs of MLflow's at a time, its own limit


@dataclass(frozen=True)
class Raw:
    """One trial as its source has it. `skip` says why it cannot be used at all; a failure has an error and no value."""

    params: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    error: str | None = None
    skip: str = ""


def read(
    source: str, space: SearchSpace, objective: Objective, *, metric: str | None, state_dir: Path, tracking_uri: str
) -> HistoryImported:
    """The usable trials of `source`, oldest first.

    Args:
        metric: what the source calls the objective's metric; None: the same.
        tracking_uri: of the MLflow store, where the source names none.

    Raises `BadInput`: no such source, an objective of the other direction or another metric, no usable trial.
    """
    metric = metric or objective.metric
    if source.startswith("mlflow:"):
        raws = _mlflow(source.removeprefix("mlflow:"), metric, tracking_uri)
    elif "://" in source or "#" in source or Path(source.partition("#")[0]).suffix:
        raws = _optuna(source, metric, objective)
    else:
        raws = _campaign(source, metric, objective, state_dir)
    return select(shown_uri(source), raws, space)


def select(source: str, raws: Iterator[Raw], space: SearchSpace) -> HistoryImported:
    """What of `raws` (newest first) fits the space. Raises `BadInput` where nothing with a value does."""
    taken: list[ImportedTrial] = []
    skipped: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    older = False
    for raw in raws:
        if len(taken) == LIMIT:
            older = True
            break
        try:
            params, unknown, missing = fit(raw, space)
        except InvalidCandidate as error:
            skipped[plain(str(error), 120)] += 1
            continue
        ignored.update(unknown)
        filled.update(missing)
        taken.append(ImportedTrial(params, raw.value, None if raw.error is None else plain(raw.error) or "failed"))
    reasons = dict(sorted(skipped.items()))
    if not any(t.score is not None for t in taken):
        why = "; ".join(f"{n} {reason}" for reason, n in skipped.most_common(3)) or f"{len(taken)} failed, no other"
        raise BadInput(f"start.import needs a finished trial that fits the space, but {source} has none: {why}.")
    notes = [f"parameter {plain(name, 60)} ignored in {n}" for name, n in sorted(ignored.items())[:20]]
    notes += [f"{name} filled with its default in {n}" for name, n in sorted(filled.items())]
    notes += [f"only the newest {LIMIT} were taken"] if older else []
    return HistoryImported(source, tuple(reversed(taken)), reasons, tuple(notes))


def fit(raw: Raw, space: SearchSpace) -> tuple[dict[str, Any], list[str], list[str]]:
    """Valid params of `raw`, the names that were ignored and those that were filled with a default.

    Raises `InvalidCandidate` with a reason that does not name the value, so that reasons can be counted.
    """
    if raw.skip:
        raise InvalidCandidate(raw.skip)
    if raw.value is not None and not math.isfinite(raw.value):
        raise InvalidCandidate("value not finite")
    if not set(raw.params) & set(space.parameters):
        raise InvalidCandidate("no parameter of the space")
    params: dict[str, Any] = {}
    missing = []
    for name, parameter in space.parameters.items():
        if not space.is_active(name, params):
            continue
        if name not in raw.params:
            missing.append(name)
        value = typed(raw.params[name], parameter) if name in raw.params else parameter.default
        try:
            params[name] = space.overlay(params, {name: value})[name]
        except InvalidCandidate as error:
            raise InvalidCandidate(f"{name} outside its range") from error
    return params, [name for name in raw.params if name not in params], missing


def typed(value: object, parameter: Parameter) -> object:
    """A value that a source keeps as text (MLflow does) as the parameter's own type; anything else as it is.

    >>> typed("8.0", Parameter("int", 4, low=1, high=9)), typed("True", Parameter("categorical", True, choices=(True, False)))
    (8.0, True)
    """
    if not isinstance(value, str):
        return value
    if parameter.type == "categorical":
        return next((choice for choice in parameter.choices if str(choice) == value), value)
    try:
        return float(value)
    except ValueError:
        return value


# ---------------------------------------------------------------- sources, newest first


def _optuna(source: str, metric: str, objective: Objective) -> Iterator[Raw]:
    import optuna

    from evolve.study import open_storage, usable

    place, _, name = source.partition("#")
    storage = open_storage(place, create=False)
    with usable(place):
        names = optuna.get_all_study_names(storage)
        if not name and len(names) != 1:
            raise BadInput(
                f"start.import must say which study, since {shown_uri(place)} has {len(names)}: "
                + (", ".join(plain(n, 40) for n in names[:5]) or "none")
                + f"; write {shown_uri(place)}#NAME."
            )
        if name and name not in names:
            raise NotFound(f"There is no study {name!r} in {shown_uri(place)}{did_you_mean(name, names)}")
        study = optuna.load_study(study_name=name or names[0], storage=storage)
        column = _column(study.metric_names, len(study.directions), metric)
        _same_direction(study.directions[column].name.lower(), objective, f"the study {study.study_name!r}")
        trials = study.get_trials(deepcopy=False)
    return (_of_optuna(trial, column) for trial in reversed(trials))


def _column(names: list[str] | None, count: int, metric: str) -> int:
    """Which of a study's values is `metric`; the only one of a study that has no names."""
    if names is None and count == 1:
        return 0
    if names and metric in names:
        return names.index(metric)
    has = ", ".join(plain(n, 40) for n in names) if names else f"{count} objectives without a name"
    raise BadInput(
        f"The study must have the metric {metric!r}, but has {has}; set start.metric, or name them in the study."
    )


def _same_direction(theirs: str, objective: Objective, what: str) -> None:
    if theirs != objective.direction:
        raise BadInput(
            f"An imported study must {objective.direction} as the subject's objective does, but {what} has the direction"
            f" {theirs}; import another one."
        )


def _of_optuna(trial: Any, column: int) -> Raw:
    state = trial.state.name
    if state == "COMPLETE":
        return Raw(trial.params, float(trial.values[column]))
    if state == "FAIL":
        return Raw(trial.params, error=str(trial.user_attrs.get("error", "failed")))
    return Raw(skip="pruned" if state == "PRUNED" else "not finished")


def _mlflow(source: str, metric: str, tracking_uri: str) -> Iterator[Raw]:
    import sqlite3

    import sqlalchemy

    from evolve.tracking import connect

    name, _, uri = source.partition("@")
    uri = uri or tracking_uri
    file = uri.removeprefix("sqlite:///")
    if uri.startswith("sqlite:///") and not Path(file).is_file():
        raise BadInput(f"An MLflow store must exist to be read, but there is no file {file}; correct the address.")
    if "://" not in uri:
        raise BadInput(
            f"An MLflow store must be an address such as http://HOST:5000, but got {shown_uri(uri)!r}; correct it."
        )
    try:
        client = connect(uri)
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, TrackingFailed) as error:
        reason = plain(shown_uri(str(error)), 200)
        raise BadInput(f"{shown_uri(uri)} must be an MLflow store, but {reason}; correct the address.") from error
    return _of_mlflow(client, name, metric, uri)


def _of_mlflow(client: Any, name: str, metric: str, uri: str) -> Iterator[Raw]:
    from mlflow.exceptions import MlflowException

    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            known = [e.name for e in client.search_experiments(max_results=50)]
            raise NotFound(f"There is no experiment {name!r} in {shown_uri(uri)}{did_you_mean(name, known)}")
        token: str | None = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id], max_results=_PAGE, page_token=token, order_by=["attributes.start_time DESC"]
            )
            yield from (_run(run, metric) for run in page)
            token = page.token
            if not token:
                return
    except MlflowException as error:
        raise BadInput(
            f"MLflow at {shown_uri(uri)} must answer, but {plain(shown_uri(str(error)), 200)}; correct the address."
        ) from error


def _run(run: Any, metric: str) -> Raw:
    if run.info.status == "FAILED":
        return Raw(run.data.params, error=str(run.data.tags.get("evolve.error", "failed")))
    if run.info.status != "FINISHED":
        return Raw(skip="not finished")
    if metric not in run.data.metrics:
        return Raw(skip=f"no metric {metric}")
    return Raw(run.data.params, float(run.data.metrics[metric]))


def _campaign(source: str, metric: str, objective: Objective, state_dir: Path) -> Iterator[Raw]:
    from evolve import campaign as files
    from evolve.memory import observe

    folder = files.find(state_dir, source)
    state = files.load(folder)
    theirs = state.campaign.subject.objective
    if theirs.metric != metric:
        raise BadInput(
            f"Campaign {source} must have the metric {metric!r}, but has {theirs.metric!r}; set start.metric."
        )
    _same_direction(theirs.direction, objective, f"campaign {source}")
    for candidate_id in reversed(state.entries):
        seen = observe(state, candidate_id)
        if state.entries[candidate_id].proposal.candidate.patch is not None:
            yield Raw(skip="edited code")
        elif seen.state == "COMPLETE":
            yield Raw(seen.params, seen.score)
        elif seen.state == "FAIL":
            yield Raw(seen.params, error=seen.error)
        else:
            yield Raw(skip="pruned" if seen.state == "PRUNED" else "not finished")
