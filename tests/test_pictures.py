"""The pictures of a campaign: drawn where there is something to see, by nobody's clock, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from inline import Inline

from evolve import pictures, tracking_runs
from evolve.pictures import HISTORY, IMPORTANCES, _limits, draw
from evolve.state import State
from evolve.types import Budget
from tests.tracking_campaign import Campaign, all_runs


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    campaign = Inline(tmp_path_factory.mktemp("pictures") / "c", budget=Budget(trials=40))
    campaign.run()
    return campaign.state


def test_both_are_drawn_as_png_and_the_same_each_time(state: State) -> None:
    drawn = draw(state)
    assert list(drawn) == [HISTORY, IMPORTANCES]
    assert all(picture.startswith(b"\x89PNG") for picture in drawn.values())
    assert draw(state) == drawn


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("trials", "names"), [(4, []), (6, [HISTORY])])
def test_a_picture_waits_until_there_is_something_to_see(tmp_path: Path, trials: int, names: list[str]) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=trials))
    campaign.run()
    assert list(draw(campaign.state)) == names


def test_no_global_figure_is_left_behind(state: State) -> None:
    import sys

    had = "matplotlib.pyplot" in sys.modules
    draw(state)
    assert ("matplotlib.pyplot" in sys.modules) == had


def test_one_divergence_does_not_flatten_the_others() -> None:
    low, high = _limits([-1e6, 0.5, 0.55, 0.6, 0.7], [0.5, 0.52])
    assert 0 < low < 0.5 and 0.7 < high < 0.8
    low, high = _limits([0.5, 0.5], [])
    assert low < 0.5 < high


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_so_far_follows_the_direction(tmp_path: Path, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=12), direction=direction)
    campaign.run()
    figures = []
    monkeypatch.setattr(pictures, "_png", lambda figure: figures.append(figure) or b"")
    pictures.history(campaign.state)
    (best,) = [line for line in figures[0].axes[0].lines if "best so far" in str(line.get_label())]
    values = [float(v) for v in best.get_ydata()]
    assert values == sorted(values, reverse=direction == "minimize") and len(set(values)) > 1
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert any("± 1 sd over 4 seeds" in label for label in labels)


def test_a_dollar_in_a_name_is_no_formula() -> None:
    assert pictures._text("cost in $ per $x_{") == r"cost in \$ per \$x_{"


# ---------------------------------------------------------------- in MLflow


def carried(tmp_path: Path, campaign: Campaign) -> dict[str, object]:
    from test_tracking import Desk

    desk = Desk(tmp_path)
    assert desk.carry(campaign.records) == 0
    assert desk.warnings == []
    return all_runs(desk.uri)[campaign.state.campaign.campaign]


def test_the_campaigns_run_has_the_pictures_and_its_page_shows_them(tmp_path: Path) -> None:
    run = carried(tmp_path, Campaign().play())
    assert run["files"] == ["pictures"]
    note = run["tags"]["mlflow.note.content"]  # type: ignore[index]
    assert "![](get-artifact?path=pictures%2Fhistory.png&run_uuid=RUN)" in note


def test_a_picture_that_cannot_be_drawn_holds_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(state: State) -> dict[str, bytes]:
        raise RuntimeError("no font")

    monkeypatch.setattr(pictures, "draw", broken)
    run = carried(tmp_path, Campaign().play())
    assert run["status"] == "FINISHED"
    assert run["tags"]["evolve.pictures"] == "not drawn at 14 trials: RuntimeError('no font')"  # type: ignore[index]


def test_pictures_are_drawn_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(pictures, "draw", lambda state: drawn.append(len(state.trials)) or {})
    carried(tmp_path / "slow", Campaign().play())
    assert len(drawn) == 2, "once at the first occasion, and at the stop"
    drawn.clear()
    monkeypatch.setattr(tracking_runs, "PICTURE_SECONDS", 0.0)
    carried(tmp_path / "fast", Campaign().play())
    assert drawn == [5, 10, 14], "not more often than every five trials"
