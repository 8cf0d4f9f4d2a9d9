"""What a server carries and what memory a model needs: figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.capacity import EXAMPLE_POINTS, EXAMPLES, Model, Point, at, capacity, frontier, memory
from evolve.cli import main
from evolve.errors import BadInput

POINTS = (Point(20, 4000, 0.01), Point(40, 2000, 0.01), Point(80, 1600, 0.01))
DENSE = Model("dense", 1e9, full_layers=10, kv_heads=2, head_dim=64)


def test_agents_and_throughput_per_megawatt_at_a_measured_speed() -> None:
    found = capacity(POINTS, 40)
    assert (found.agents, found.tokens_per_second_megawatt, found.measured) == (50, 200_000, True)


def test_between_two_points_the_total_is_on_a_straight_line() -> None:
    found = capacity(POINTS, 60)
    assert (found.tokens_per_second_total, found.agents, found.measured) == (1800, 30, False)


def test_the_speed_at_which_the_capacity_is_twice_as_large() -> None:
    # 25 agents at 60... from 50 at 40 to 200 at 20: total = 6000 - 100 s, so that 100 agents are served at s = 30
    assert capacity(POINTS, 40).doubling == pytest.approx(30)
    assert capacity(POINTS, 20).doubling is None, "slower than that was not measured"


def test_the_wall_is_where_speed_costs_most_agents() -> None:
    found = capacity(POINTS, 60)
    assert found.wall == (20, 40)
    assert found.wall_elasticity == pytest.approx(2), "200 agents become 50 for twice the speed"


def test_a_point_that_another_beats_in_speed_and_tokens_a_megawatt_is_left_out() -> None:
    assert frontier((*POINTS, Point(30, 1000, 0.01))) == list(POINTS)


@pytest.mark.parametrize("speed", [19.9, 80.1, float("nan")])
def test_nothing_is_extrapolated(speed: float) -> None:
    with pytest.raises(BadInput, match="nothing is extrapolated"):
        at(POINTS, speed)


@given(st.floats(20, 120))
def test_at_the_speed_of_the_doubling_twice_as_many_are_served(speed: float) -> None:
    found = capacity(EXAMPLE_POINTS, speed)
    if found.doubling is not None:
        assert at(EXAMPLE_POINTS, found.doubling).agents == pytest.approx(2 * found.agents, rel=1e-6)


def test_the_cache_of_full_attention_grows_with_the_context() -> None:
    # 2 * 2 heads * 64 * 2 bytes = 512 bytes a token and layer
    assert memory(DENSE, 1).cache == 5120
    assert memory(DENSE, 1000).cache == 5_120_000
    assert memory(DENSE, 1000).weights == 1e9


def test_a_window_bounds_the_cache_and_a_linear_layer_has_one_state() -> None:
    window = Model("w", 1e9, 0, 2, 64, sliding_layers=10, window=100)
    assert [memory(window, n).cache for n in (50, 100, 100_000)] == [256_000, 512_000, 512_000]
    linear = Model("l", 1e9, 0, 2, 64, linear_layers=10, heads=8)
    assert memory(linear, 1).cache == memory(linear, 10**6).cache == 10 * 8 * 64 * 64 * 4


def test_two_hundred_thousand_tokens_of_a_230_b_model() -> None:
    found = memory(EXAMPLES[0], 200_000)
    assert found.weights == 230e9
    assert found.cache == 200_000 * 62 * 2 * 8 * 128 * 2 == 50_790_400_000


@pytest.mark.parametrize(
    "settings", [{"full_layers": 0}, {"full_layers": 1, "kv_heads": 0}, {"full_layers": 1, "sliding_layers": 2}]
)
def test_dimensions_that_make_no_sense_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        Model(**({"name": "m", "parameters": 1e9, "kv_heads": 2, "head_dim": 64} | settings))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="1 token or more"):
        memory(DENSE, 0)


ROWS = [{"tokens_per_second_user": p.tokens_per_second_user, "tokens_per_second_total": p.tokens_per_second_total,
         "megawatts": p.megawatts} for p in POINTS]  # fmt: skip


@pytest.mark.parametrize("form", ["csv", "json", "yaml"])
def test_plan_reads_points_from_a_file(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"points.{form}"
    csv = "\n".join([",".join(ROWS[0]), *(",".join(map(str, row.values())) for row in ROWS)])
    yaml = "\n".join(f"- {{{', '.join(f'{k}: {v}' for k, v in row.items())}}}" for row in ROWS)
    file.write_text({"csv": csv, "json": json.dumps(ROWS), "yaml": yaml}[form])
    assert main(["plan", "capacity", "--json", "--points", str(file), "--interactivity", "60"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["capacity"]
    assert (found["agents"], found["tokens_per_second_megawatt"]) == (30, pytest.approx(180_000))
    file.write_text("tokens_per_second_user,watts\n1,2" if form == "csv" else '[{"watts": 2}]')
    assert main(["plan", "capacity", "--points", str(file)]) == 2
    assert "watts is not a column" in capsys.readouterr().err


def test_plan_without_a_topic_prints_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"]) == 0
    out = capsys.readouterr().out
    for words in ("an invented example", "the wall:", "230 B mixture of experts", "200,000", "47.30"):
        assert words in out
