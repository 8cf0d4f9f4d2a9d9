"""`start.import=`: what is taken of an earlier study, what is not, and what the campaign makes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest
from inline import SPACE, Inline, Walk

from evolve import history, memory, study
from evolve.config import load
from evolve.errors import BadInput, NotFound
from evolve.history import Raw, select
from evolve.journal import Journal, read, stable
from evolve.search import OptunaProposer, tpe
from evolve.space import SearchSpace
from evolve.types import Budget, HistoryImported, ImportedTrial, Objective

space = SearchSpace(SPACE)
MAXIMIZE = Objective("score", "maximize")


def taken(raws: list[Raw]) -> HistoryImported:
    return select("there", iter(raws), space)


# ---------------------------------------------------------------- what fits


def test_trials_are_fitted_to_the_space_and_the_misfits_are_counted() -> None:
    found = taken(
        [
            Raw({"x": 0.9, "mode": "b", "z": 3}, 0.7),  # newest first
            Raw({"x": 0.3}, 0.6),
            Raw({"x": 0.1, "mode": "a", "z": 4, "warmup": 10}, 0.5),
            Raw({"x": 0.2, "mode": "a"}, error="out of memory"),
            Raw({"x": 1.5, "mode": "a"}, 0.9),
            Raw({"x": 7.0, "mode": "a"}, 0.9),
            Raw({"x": 0.4, "mode": "c"}, 0.9),
            Raw({"x": 0.4}, float("nan")),
            Raw({"warmup": 3}, 0.9),
            Raw(skip="pruned"),
        ]
    )
    assert found.observations == (
        ImportedTrial({"x": 0.2, "mode": "a"}, None, "out of memory"),
        ImportedTrial({"x": 0.1, "mode": "a"}, 0.5),
        ImportedTrial({"x": 0.3, "mode": "a"}, 0.6),
        ImportedTrial({"x": 0.9, "mode": "b", "z": 3}, 0.7),
    )
    assert found.skipped == {
        "mode outside its range": 1,
        "no parameter of the space": 1,
        "pruned": 1,
        "value not finite": 1,
        "x outside its range": 2,
    }
    assert found.notes == (
        "parameter warmup ignored in 1",
        "parameter z ignored in 1",
        "mode filled with its default in 1",
    )


def test_only_the_newest_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LIMIT", 2)
    found = taken([Raw({"x": x}, x) for x in (0.3, 0.2, 0.1)])
    assert [t.score for t in found.observations] == [0.2, 0.3]
    assert "only the newest 2 were taken" in found.notes


def test_nothing_with_a_score_is_no_history() -> None:
    with pytest.raises(BadInput, match="has none: 1 failed, no other"):
        taken([Raw({"x": 0.1}, error="boom")])
    with pytest.raises(BadInput, match="has none: 1 x outside its range"):
        taken([Raw({"x": 5}, 0.1)])


# ---------------------------------------------------------------- Optuna


def optuna_study(place: Path, name: str = "old", direction: str = "maximize", **options: Any) -> optuna.Study:
    storage = study.open_storage(str(place), create=True)
    return optuna.create_study(study_name=name, storage=storage, direction=direction, **options)


def read_history(source: str, tmp_path: Path, metric: str | None = None) -> HistoryImported:
    return history.read(
        source, space, MAXIMIZE, metric=metric, state_dir=tmp_path, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"
    )


@pytest.mark.parametrize("file", ["a b.db", "old.log"])
def test_an_optuna_study_is_imported(tmp_path: Path, file: str) -> None:
    there = optuna_study(tmp_path / file)
    for x, score in ((0.25, 0.4), (0.5, 0.6), (1.75, 0.9)):
        there.add_trial(
            optuna.create_trial(
                params={"x": x}, distributions={"x": optuna.distributions.FloatDistribution(0, 2)}, value=score
            )
        )
    there.tell(there.ask(), state=optuna.trial.TrialState.PRUNED)
    found = read_history(f"{tmp_path / file}#old", tmp_path)
    assert [(t.params["x"], t.score) for t in found.observations] == [(0.25, 0.4), (0.5, 0.6)]
    assert found.skipped == {"pruned": 1, "x outside its range": 1}
    assert found.observations == read_history(str(tmp_path / file), tmp_path).observations, (
        "the only study needs no name"
    )


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_what_cannot_be_imported_is_one_clear_line_and_writes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "old.db"
    optuna_study(place, "up")
    optuna_study(place, "down", "minimize")
    several = optuna.create_study(study_name="two", storage=study.open_storage(str(place), create=False),
                                  directions=["maximize", "minimize"])  # fmt: skip
    (tmp_path / "empty.db").touch()
    for source, reason in (
        (f"{place}#up", "has none: 0 failed"),
        (
            f"{place}#down",
            "must maximize as the subject's objective does, but the study 'down' has the direction minimize",
        ),
        (f"{place}#two", "has 2 objectives without a name; set start.metric"),
        (f"{place}#upp", "did you mean 'up'"),
        (str(place), "must say which study, since .* has 3"),
        (str(tmp_path / "no.db"), "there is no file .*no.db"),
        (str(tmp_path / "no.log"), "there is no file .*no.log"),
        (str(tmp_path / "empty.db"), "is empty"),
        ("elsewhere.csv", "a .db file or a .log file"),
        ("mlflow:runs", "there is no file .*mlflow.db"),
        ("mlflow:runs@nowhere", "must be an address"),
        ("mlflow:runs@http://me:secret@127.0.0.1:9", "MLflow at http://127.0.0.1:9 must answer"),
        ("quadratic-1", "holds none"),
    ):
        with pytest.raises(BadInput, match=reason) as caught:
            read_history(source, tmp_path)
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.db", "old.db"]
    assert (tmp_path / "empty.db").stat().st_size == 0
    several.set_metric_names(["score", "cost"])
    with pytest.raises(BadInput, match="has none"):
        read_history(f"{place}#two", tmp_path)
    with pytest.raises(BadInput, match="must have the metric 'accuracy', but has score, cost"):
        read_history(f"{place}#two", tmp_path, metric="accuracy")


# ---------------------------------------------------------------- MLflow


def test_the_runs_of_an_mlflow_experiment_are_imported(tmp_path: Path) -> None:
    from tracking_campaign import new_store

    from evolve.tracking import connect

    uri = new_store(tmp_path / "store")
    client = connect(uri)
    experiment = client.create_experiment("by hand")

    def run(status: str, params: dict[str, str], **metrics: float) -> None:
        made = client.create_run(experiment).info.run_id
        for name, value in params.items():
            client.log_param(made, name, value)
        for name, value in metrics.items():
            client.log_metric(made, name, value)
        client.set_terminated(made, status)

    run("FINISHED", {"x": "0.25", "mode": "b", "z": "4", "model": "llama"}, accuracy=0.5)
    run("FAILED", {"x": "0.75"})
    run("FINISHED", {"x": "many"}, accuracy=0.5)
    run("FINISHED", {"x": "0.5"})
    run("KILLED", {"x": "0.5"}, accuracy=0.5)
    found = read_history(f"mlflow:by hand@{uri}", tmp_path, metric="accuracy")
    assert sorted(found.observations, key=lambda t: str(t.params["x"])) == [
        ImportedTrial({"x": 0.25, "mode": "b", "z": 4}, 0.5),
        ImportedTrial({"x": 0.75, "mode": "a"}, None, "failed"),
    ]
    assert found.skipped == {"no metric accuracy": 1, "not finished": 1, "x outside its range": 1}
    with pytest.raises(NotFound, match="did you mean 'by hand'"):
        read_history(f"mlflow:by hnd@{uri}", tmp_path)
    with pytest.raises(BadInput, match="no metric score"):
        read_history(f"mlflow:by hand@{uri}", tmp_path)


# ---------------------------------------------------------------- what a campaign makes of it


IMPORTED = HistoryImported(
    "there",
    (*(ImportedTrial({"x": x / 20, "mode": "a"}, 10.0 - (x - 6) ** 2 / 100) for x in range(18)),
     ImportedTrial({"x": 1.0, "mode": "a"}, None, "boom")),
)  # fmt: skip


def campaign(folder: Path, proposer: object, crash_after: int | None = None) -> Inline:
    """An inline campaign whose journal begins with `IMPORTED`."""
    from inline import Clock, apply_first

    from evolve.state import State

    inline = Inline(folder, proposer=proposer, budget=Budget(trials=16), crash_after=crash_after)
    with Journal.open(folder, Clock()) as journal:
        journal.append(apply_first(State(), inline))
        journal.append(IMPORTED)
    return inline


def test_imported_scores_are_no_evidence_and_no_candidate(tmp_path: Path) -> None:
    inline = campaign(tmp_path / "c", Walk())
    inline.run()
    state = inline.state
    assert state.imported == IMPORTED
    assert len(memory.view(state, 0).imported) == 19
    best = state.search_score(str(state.best()))
    assert best is not None and best.mean < 1, "an imported score of 10 is nobody's"
    plain = Inline(tmp_path / "plain", proposer=Walk(), budget=Budget(trials=16))
    plain.run()
    without = [
        line
        for line in stable(r for r, _ in read(inline.folder / "journal.jsonl"))
        if line["type"] != "HistoryImported"
    ]
    assert without == list(stable(r for r, _ in read(plain.folder / "journal.jsonl"))), "verdicts and all are the same"


def test_an_imported_point_can_be_proposed_and_is_trained_here(tmp_path: Path) -> None:
    from inline import Scripted

    inline = campaign(tmp_path / "c", Scripted([{"x": 0.3}]))
    inline.run()
    (entry,) = [e for e in inline.state.entries.values() if e.proposal.candidate.params["x"] == 0.3]
    score = inline.state.trials[entry.trials[0]].score
    assert score is not None and score.mean < 1


def test_the_sampler_starts_from_the_imported_trials_and_a_resume_goes_on_the_same_way(tmp_path: Path) -> None:
    whole = campaign(tmp_path / "whole", OptunaProposer(tpe, "tpe"))
    whole.run()
    first = [e.proposal.candidate.params["x"] for e in whole.state.entries.values()][1:6]
    assert sum(abs(float(x) - 0.3) < 0.25 for x in first) >= 4, "near the best imported point, not at random"
    broken = campaign(tmp_path / "broken", OptunaProposer(tpe, "tpe"), crash_after=30)
    with pytest.raises(BaseException):  # noqa: B017 - the inline crash
        broken.run()
    broken.crash_after, broken.proposer = None, OptunaProposer(tpe, "tpe")
    broken.run()
    lines = [list(stable(r for r, _ in read(c.folder / "journal.jsonl"))) for c in (whole, broken)]
    assert lines[0] == lines[1]


def test_the_prompt_shows_the_best_imported_trials_as_claims(tmp_path: Path) -> None:
    from evolve.agent_text import Sharing, describe

    inline = campaign(tmp_path / "c", Walk())
    inline.run()
    view = memory.view(inline.state, 0)
    text = describe(view, Sharing())["imported"]
    assert "claims of an earlier study, 18 scored and 1 failed" in text and ": 10\n" in text
    assert text.count("\n- ") == 5
    assert describe(dataclasses.replace(view, imported=()), Sharing())["imported"] == ""


# ---------------------------------------------------------------- the setting


@pytest.mark.parametrize(
    "source",
    ["sqlite:///a/b.db#my study", "mlflow:evolve/x@http://u:p@h:50", "/a/b.log", "a=b~c", 'it"s', "null-1", "2024"],
)
def test_start_import_takes_a_source_as_it_is_typed(source: str) -> None:
    config = load(["subject=quadratic", "start=default", f"start.import={source}", "start.metric=acc"])
    assert (config.start, config.history.source, config.history.metric) == ("default", source, "acc")


def test_without_an_import_start_is_as_before() -> None:
    assert load(["subject=quadratic"]).start == "champion"
    config = load(["start=default", "start.import=null"])
    assert (config.start, config.history.source) == ("default", None)
    with pytest.raises(BadInput, match="did you mean 'start.import'"):
        load(["start.imprt=x"])
    with pytest.raises(BadInput, match="start=best must be one of champion, default"):
        load(["start=best"])
