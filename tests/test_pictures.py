"""The pictures of a campaign: drawn where there is something to see, by nobody's clock, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from inline import Inline

from evolve import canvas, pictures, staircase, tracking_runs
from evolve.pictures import IMPORTANCES, draw
from evolve.staircase import PROGRESS, Point, brief, limits, points, steps
from evolve.state import State
from evolve.tracking import Carrier
from evolve.types import Budget, Parameter
from tests.tracking_campaign import Campaign, all_runs, new_store


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    campaign = Inline(tmp_path_factory.mktemp("pictures") / "c", budget=Budget(trials=40))
    campaign.run()
    return campaign.state


def test_both_are_drawn_as_png_and_the_same_each_time(state: State) -> None:
    drawn = draw(state)
    assert list(drawn) == [PROGRESS, IMPORTANCES]
    assert all(picture.startswith(b"\x89PNG") for picture in drawn.values())
    assert draw(state) == drawn


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("trials", "names"), [(4, []), (6, [PROGRESS])])
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
    low, high = limits([-1e6, 0.5, 0.55, 0.6, 0.7], [0.5, 0.52])
    assert 0 < low < 0.5 and 0.7 < high < 0.8
    low, high = limits([0.5, 0.5], [])
    assert low < 0.5 < high


def found(*kinds: str) -> list[Point]:
    scores = [0.40, 0.70, 0.55, 0.50, 0.60, 0.65]
    return [Point(n, str(n), score, 0.01, kind) for n, (score, kind) in enumerate(zip(scores, kinds, strict=True))]


def test_the_line_climbs_over_what_was_kept_alone() -> None:
    seen = found("kept", "discarded", "kept", "kept", "taken back", "promoted")
    assert steps(seen, 1, ("kept", "promoted")) == ([0, 2, 5], [0.40, 0.55, 0.65])
    assert steps(seen, -1, ("kept", "promoted")) == ([0], [0.40])
    assert steps(seen, 1, ("kept", "promoted", "taken back", "discarded")) == ([0, 1], [0.40, 0.70])


def test_what_is_kept_was_accepted_by_the_gate_and_not_taken_back() -> None:
    campaign = Campaign().play()
    waits = next(iter(campaign.state.pending))

    def kind() -> str:
        return next(p.kind for p in points(campaign.state) if p.candidate_id == waits)

    assert kind() == "kept"
    campaign.command("approve")
    assert kind() == "promoted"
    campaign.command("rollback", "too slow")
    assert kind() == "taken back"
    assert points(campaign.state)[0].kind == "kept", "the line begins at the start config"


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_picture_says_what_it_shows(tmp_path: Path, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=40), direction=direction)
    campaign.run()
    figures = []
    monkeypatch.setattr(staircase, "png", lambda figure: figures.append(figure) or b"")
    staircase.progress(campaign.state)
    (axes,) = figures[0].axes
    (line,) = [line for line in axes.lines if line.get_label() == "best kept so far"]
    values = [float(v) for v in line.get_ydata()]
    assert values == sorted(values, reverse=direction == "minimize") and len(set(values)) > 1
    assert axes.get_title(loc="left") == "inline"
    words = [text.get_text() for text in axes.texts]
    kept = len(campaign.state.pending)
    assert f"40 trials of {len(campaign.state.entries)} candidates, {kept} kept, 0 promoted" in words
    assert "start" in words
    better = {"maximize": "higher", "minimize": "lower"}[direction]
    assert axes.get_ylabel() == f"score on the search split ({better} is better)"
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    _, seeds = campaign.state.noise_floor() or (0.0, 0)
    assert any(f"champion ± 1 sd ({seeds} seeds)" == label for label in labels)
    assert {"discarded", "kept by gate and vault", "best tried (by luck too)"} <= set(labels)


def test_no_label_covers_another_or_leaves_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Inline(tmp_path / "c", budget=Budget(trials=60))
    campaign.run()
    figures = []
    monkeypatch.setattr(staircase, "png", lambda figure: figures.append(figure) or b"")
    staircase.progress(campaign.state)
    (axes,) = figures[0].axes
    renderer = figures[0].canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts[1:]]
    assert len(boxes) > 1
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert all(axes.get_window_extent(renderer).count_overlaps([box]) for box in boxes)


def test_a_label_names_the_largest_change_and_not_what_came_with_it() -> None:
    space = {
        "rate": Parameter("float", 0.1, low=0.001, high=1.0, log=True),
        "method": Parameter("categorical", "sft", choices=("sft", "grpo")),
        "beta": Parameter("float", 0.1, low=0.0, high=1.0, when={"method": ("grpo",)}),
        "masking": Parameter("categorical", False, choices=(False, True)),
    }
    base = {"rate": 0.1, "method": "sft", "masking": False}
    assert brief(base | {"rate": 0.2}, base, space) == "rate 0.2"
    assert brief(base | {"method": "grpo", "beta": 0.5, "masking": True}, base, space) == (
        "method grpo, masking True, beta 0.5"
    )
    changed = {"rate": 0.12345678, "method": "grpo", "beta": 0.123456, "masking": True}
    assert brief(changed, base, space) == "method grpo, masking True, 2 more"
    assert brief(base, base, space) == "no change"


def test_a_dollar_in_a_name_is_no_formula() -> None:
    assert canvas.text("cost in $ per $x_{") == r"cost in \$ per \$x_{"


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
    assert "![](get-artifact?path=pictures%2Fprogress.png&run_uuid=RUN)" in note


def test_a_picture_that_cannot_be_drawn_holds_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(state: State) -> dict[str, bytes]:
        raise RuntimeError("no font")

    monkeypatch.setattr(pictures, "draw", broken)
    run = carried(tmp_path, Campaign().play())
    assert run["status"] == "FINISHED"
    assert run["tags"]["evolve.pictures"] == "not drawn at 14 trials: RuntimeError('no font')"  # type: ignore[index]


def carried_live(folder: Path) -> None:
    """Each event is shown before the next one is there, as where trials last a second or more."""
    folder.mkdir()
    carrier = Carrier(new_store(folder / "store"), folder, warn=pytest.fail, artifacts=folder / "artifacts")
    assert all(carrier.carry(record) for record in Campaign().play().records)
    carrier.close()


def test_pictures_are_drawn_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(pictures, "draw", lambda state: drawn.append(len(state.trials)) or {})
    carried(tmp_path / "behind", Campaign().play())
    assert drawn == [14], "where events wait, once for all of them"
    drawn.clear()
    carried_live(tmp_path / "slow")
    assert drawn == [5, 9, 14, 14], "once at the first occasion, with each acceptance, and at the stop"
    drawn.clear()
    monkeypatch.setattr(tracking_runs, "PICTURE_SECONDS", 0.0)
    carried_live(tmp_path / "fast")
    assert drawn == [5, 9, 14, 14, 14], "every five trials, with each acceptance, and at the stop"
