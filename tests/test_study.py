"""A campaign as an Optuna study: what is in it, where it is written, and that Optuna's own tools take it."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from inline import Inline

from evolve import study
from evolve.errors import BadInput
from evolve.journal import read
from evolve.memory import observe
from evolve.state import apply
from evolve.types import (
    Budget,
    Candidate,
    Evaluation,
    Progress,
    Proposal,
    Proposed,
    Record,
    Scored,
    TrialFinished,
    TrialScheduled,
    TrialStarted,
)

COMPLETE, FAIL, WAITING = (optuna.trial.TrialState[name] for name in ("COMPLETE", "FAIL", "WAITING"))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """40 trials, with crashes, candidates of several seeds, and verdicts."""
    campaign = Inline(tmp_path_factory.mktemp("study") / "c", budget=Budget(trials=40))
    campaign.scorer.stderr = 0.01  # the gate's problems score otherwise than the search's
    campaign.run()
    return [record for record, _ in read(campaign.folder / "journal.jsonl")]


@pytest.fixture(scope="module")
def told(records: list[Record]) -> study.Told:
    return study.tell(records)


def load(place: Path, name: str = "s") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=study.open_storage(str(place), create=False))


def test_a_trial_is_a_candidate_with_its_mean_over_seeds(told: study.Told) -> None:
    trials, state = study.trials(told), told.state
    assert len(trials) == len(state.entries)
    assert trials[0].params == {"x": 0.5, "mode": "a"}
    assert state.vault_queries == 3
    assert trials[0].user_attrs["seeds"] == 7  # the noise floor, and one for each question to the vault
    for trial, candidate_id in zip(trials, state.entries, strict=True):
        score = state.search_score(candidate_id)
        assert trial.value == (score.mean if score else None)
        assert candidate_id.startswith(trial.user_attrs["candidate"])
    assert {t.state for t in trials} == {COMPLETE, FAIL}
    failed = next(t for t in trials if t.state == FAIL)
    assert "x <= 0.95" in failed.user_attrs["error"] and failed.value is None


def test_inactive_parameters_are_absent(told: study.Told) -> None:
    for trial in study.trials(told):
        assert ("z" in trial.params) == (trial.params["mode"] == "b")
        assert set(trial.distributions) == set(trial.params)


def test_times_are_the_journals(records: list[Record], told: study.Told) -> None:
    first = study.trials(told)[0]
    own = told.state.entries[told.state.campaign.start.id].trials
    starts = [r.time for r in records if isinstance(r.event, TrialStarted) and r.event.number in own]
    ends = [r.time for r in records if isinstance(r.event, TrialFinished) and r.event.number in own]
    assert first.datetime_start is not None and first.datetime_complete is not None
    assert (first.datetime_start.timestamp(), first.datetime_complete.timestamp()) == (min(starts), max(ends))


def test_no_gate_or_vault_score_is_exported(records: list[Record], told: study.Told) -> None:
    hidden = {r.event.evaluation.mean for r in records if isinstance(r.event, Scored) and r.event.evaluation}
    told_search = {t.score.mean for t in told.state.trials.values() if t.score}
    shown = {t.value for t in study.trials(told)} | {
        value for t in study.trials(told) for value in t.user_attrs.values() if isinstance(value, float)
    }
    assert hidden - told_search  # the gate was at work
    assert not shown & (hidden - told_search)
    words = " ".join(str(t.user_attrs.get("outcome", "")) for t in study.trials(told))
    assert not any(character.isdigit() for character in words)


def test_what_has_not_finished_waits(records: list[Record]) -> None:
    cut = next(i for i, r in enumerate(records) if isinstance(r.event, TrialFinished) and r.event.number == 4)
    trials = study.trials(study.tell(records[:cut]))  # the first candidate after the noise floor is being trained
    assert len(trials) == 2
    assert trials[-1].state == WAITING
    assert trials[-1].datetime_start is None and trials[-1].value is None


def with_curve(records: list[Record], name: str) -> list[Record]:
    """The same journal, every training of which reported `name`."""
    curve = (Progress(1, {name: 0.1, "other": 9.0}), Progress(2, {name: 0.2}))
    return [
        dataclasses.replace(r, event=dataclasses.replace(r.event, curve=curve))
        if isinstance(r.event, TrialFinished)
        else r
        for r in records
    ]


@pytest.mark.parametrize(
    ("reported", "points"),
    [("score", {1: 0.1, 2: 0.2}), ("exact_match", {1: 0.1, 2: 0.2}), ("loss", {}), ("distance", {})],
)
def test_a_curve_is_exported_only_where_it_goes_with_the_objective(
    records: list[Record], reported: str, points: dict[int, float]
) -> None:
    trial = study.trials(study.tell(with_curve(records, reported)))[0]
    assert trial.intermediate_values == points
    assert trial.user_attrs.get("curve") == (f"{reported}, self-reported by the first training" if points else None)


# ---------------------------------------------------------------- storages


@pytest.mark.parametrize("file", ["study.db", "study.log"])
def test_an_export_reads_back_and_is_made_again_in_its_own_place(told: study.Told, tmp_path: Path, file: str) -> None:
    place = tmp_path / file
    counts = study.export(told, str(place), "s")
    once = load(place).trials
    assert counts == {"COMPLETE": sum(t.state == COMPLETE for t in once), "FAIL": sum(t.state == FAIL for t in once)}
    study.export(told, str(place), "s")
    again = load(place)
    assert optuna.get_all_study_names(study.open_storage(str(place), create=False)) == ["s"]
    wanted = study.trials(told)
    for loaded in (once, again.trials):
        assert [(t.number, t.state, t.values, t.params, t.user_attrs, t.datetime_start) for t in loaded] == [
            (i, t.state, t.values, t.params, t.user_attrs, t.datetime_start) for i, t in enumerate(wanted)
        ]
    assert again.metric_names == ["score"] and again.direction.name == "MAXIMIZE"
    assert again.best_trial.user_attrs["candidate"] == str(told.state.best())[:8]


def test_an_export_that_breaks_leaves_the_study_before(told: study.Told, tmp_path: Path) -> None:
    place = tmp_path / "study.db"
    study.export(told, str(place), "s")

    def crash_at_the_second(trials: list[optuna.trial.FrozenTrial]) -> Iterator[optuna.trial.FrozenTrial]:
        yield trials[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.export(told, str(place), "s", crash_at_the_second)
    assert len(load(place).trials) == len(told.state.entries)


def test_a_study_that_is_not_the_campaigns_is_left_alone(told: study.Told, tmp_path: Path) -> None:
    place = tmp_path / "study.db"
    optuna.create_study(study_name="s", storage=study.open_storage(str(place), create=True))
    with pytest.raises(BadInput, match="choose a name with --name"):
        study.export(told, str(place), "s")
    study.export(told, str(place), "other")
    assert len(load(place, "s").trials) == 0 and len(load(place, "other").trials) > 0


def test_a_storage_that_cannot_be_used_is_explained(told: study.Told, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE experiments (id INTEGER)")
    (tmp_path / "text.db").write_text("no database at all, whatever its name says")
    for place, reason in (
        (str(tmp_path / "mlflow.db"), "holds experiments"),
        (str(tmp_path / "text.db"), "not a database"),
        (str(tmp_path / "no" / "study.db"), "folder of .* must exist"),
        ("study.csv", "a .db file or a .log file"),
        ("sqlte:///x.db", "dialects:sqlte"),
        ("postgresql://me:secret@localhost/x", "postgresql://localhost/x must be usable"),
    ):
        with pytest.raises(BadInput, match=reason) as caught:
            study.export(told, place, "s")
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_own_pictures_are_drawn(told: study.Told, tmp_path: Path) -> None:
    from matplotlib.figure import Figure
    from optuna.visualization import matplotlib as pictures

    study.export(told, str(tmp_path / "study.log"), "s")
    loaded = load(tmp_path / "study.log")
    for plot in (pictures.plot_optimization_history, pictures.plot_slice, pictures.plot_timeline):
        drawn = plot(loaded)
        axes = drawn if not hasattr(drawn, "flat") else drawn.flat[0]
        assert isinstance(axes.figure, Figure)
    if optuna.visualization.is_available():
        assert optuna.visualization.plot_parallel_coordinate(loaded).data


# ---------------------------------------------------------------- importances


def scored(points: list[tuple[dict[str, object], float | None]], records: list[Record]) -> study.Told:
    """The start of `records`, then a candidate for each of `points` with its score; None fails."""
    told = study.tell(records[:1])
    events: list[object] = []
    for number, (params, score) in enumerate(points):
        candidate = Candidate(params, "v")  # type: ignore[arg-type]
        evaluation = None if score is None else Evaluation("score", "search", score, 0.01, 100)
        events += [
            Proposed(Proposal(candidate, "walk")),
            TrialScheduled(number, candidate.id, "search", 0, 1),
            TrialStarted(number, 1),
            TrialFinished(number, "FAIL" if score is None else "COMPLETE", evaluation, error="boom"),
        ]
    for event in events:
        apply(told.state, event)  # type: ignore[arg-type]
    return told


def test_the_parameter_that_makes_the_difference_is_the_most_important(records: list[Record]) -> None:
    points: list[tuple[dict[str, object], float | None]] = [
        ({"x": i / 40, "mode": "b", "z": 1 + i % 8}, 1 - (i / 40 - 0.8) ** 2) for i in range(38)
    ]
    found = study.importances(scored(points, records).state)
    assert found is not None and next(iter(found.shares)) == "x" and found.shares["x"] > 0.8
    assert (found.top, found.n) == (5, 38) and sum(found.shares.values()) == pytest.approx(1)
    assert "mode" not in found.shares  # one value alone says nothing


def test_a_conditional_parameter_counts_where_it_is_active(records: list[Record]) -> None:
    points: list[tuple[dict[str, object], float | None]] = [
        ({"x": (i * 7 % 30) / 40, "mode": "b", "z": 1 + i % 8}, float(i % 8 == 5)) for i in range(40)
    ]
    points += [({"x": (i * 7 % 30) / 40 + 0.001, "mode": "a"}, 0.0) for i in range(10)]
    found = study.importances(scored(points, records).state)
    assert found is not None and next(iter(found.shares)) == "z"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "points",
    [
        [({"x": i / 10, "mode": "a"}, float(i)) for i in range(9)],  # too few
        [({"x": i / 20, "mode": "ab"[i % 2]} | ({"z": 2} if i % 2 else {}), 0.5) for i in range(12)],  # all the same
        [({"x": i / 20, "mode": "a"}, float(i)) for i in range(12)],  # one parameter is always 100 %
        [({"x": i / 20, "mode": "a"}, None) for i in range(12)],
    ],
)
def test_importances_are_silent_where_they_would_say_nothing(
    points: list[tuple[dict[str, object], float | None]], records: list[Record]
) -> None:
    assert study.importances(scored(points, records).state) is None


def test_importances_asked_again_and_again_are_those_of_a_study_told_anew(records: list[Record]) -> None:
    points: list[tuple[dict[str, object], float | None]] = [
        ({"x": (i * 7 % 40) / 40, "mode": "b", "z": 1 + i % 8}, 1 - (i * 7 % 40 / 40 - 0.8) ** 2) for i in range(30)
    ]
    state = scored(points, records).state
    space = state.space(state.candidate(state.incumbent_id))
    seen = [observe(state, c) for c in state.entries]
    measured_again = [dataclasses.replace(o, score=0.9 - float(o.params["x"])) for o in seen]
    growing = study.GrowingImportances()
    for history in (seen[:12], seen[:20], seen, measured_again, measured_again[:15]):
        assert growing(history, space, "maximize") == study.importances_of(history, space, "maximize") is not None
    assert growing(seen, space, "minimize") == study.importances_of(seen, space, "minimize")
