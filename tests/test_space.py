from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.errors import BadInput, InvalidCandidate
from evolve.space import SearchSpace, changes_text, extended
from evolve.types import Parameter

SPACE = SearchSpace(
    {
        "lr": Parameter("float", 0.1, low=0.01, high=1.0, log=True),
        "size": Parameter("int", 8, low=4, high=16, step=4),
        "phase": Parameter("categorical", "sft", choices=("sft", "grpo")),
        "group": Parameter("int", 4, low=2, high=8, when={"phase": ("grpo",)}),
        "masked": Parameter("categorical", False, choices=(True, False)),
    }
)
DEFAULT = {"lr": 0.1, "size": 8, "phase": "sft", "masked": False}


def test_default_holds_the_active_parameters_alone() -> None:
    assert SPACE.default() == DEFAULT


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 2.0}, "lr must lie in [0.01, 1], but got 2.0"),
        ({"lr": float("nan")}, "lr must be a finite float"),
        ({"lr": "0.1"}, "lr must be a finite float, but got '0.1'"),
        ({"lr": True}, "lr must be a finite float, but got True"),
        ({"lr": 10**400}, "lr must lie in [0.01, 1], but got 1000"),
        ({"size": 6}, "size must be 4 plus a multiple of 4"),
        ({"size": 8.5}, "size must be an int"),
        ({"phase": "dpo"}, "phase must be one of ['sft', 'grpo'], but got 'dpo'"),
        ({"masked": 1}, "masked must be one of [True, False], but got 1"),
        ({"group": 4}, "group exists only where phase in ['grpo']"),
        ({"lrr": 0.1}, "'lrr' is not a parameter of this space; did you mean 'lr'?"),
    ],
)
def test_parse_names_the_rule_and_the_value(change: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidCandidate) as caught:
        SPACE.parse(DEFAULT | change)
    assert words in str(caught.value)


def test_parse_fills_nothing_in() -> None:
    with pytest.raises(InvalidCandidate, match="size must be given"):
        SPACE.parse({k: v for k, v in DEFAULT.items() if k != "size"})


def test_integral_floats_are_taken_for_ints_and_ints_for_floats() -> None:
    params = SPACE.parse(DEFAULT | {"size": 12.0, "lr": 1})
    assert (params["size"], type(params["size"]), type(params["lr"])) == (12, int, float)


def test_overlay_gives_new_conditionals_their_default_and_drops_those_that_end() -> None:
    grpo = SPACE.overlay(DEFAULT, {"phase": "grpo"})
    assert grpo == DEFAULT | {"phase": "grpo", "group": 4}
    assert SPACE.overlay(grpo | {"group": 8}, {"phase": "sft"}) == DEFAULT


def test_overlay_refuses_a_change_that_would_have_no_effect() -> None:
    with pytest.raises(InvalidCandidate, match="group exists only where"):
        SPACE.overlay(DEFAULT, {"group": 8})


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (Parameter("float", 1.0, low=2.0, high=1.0), "low < high must hold"),
        (Parameter("float", 1.0, low=0.0, high=1.0, log=True), "low > 0 must hold on a log scale"),
        (Parameter("float", 5.0, low=0.0, high=1.0), "the default must lie in the space"),
        (Parameter("float", 1.0), "`low` and `high` must be given"),
        (Parameter("categorical", "a"), "must have choices"),
        (Parameter("int", 1, low=0, high=2, when={"nowhere": (1,)}), "`when` must name another parameter"),
    ],
)
def test_a_definition_that_cannot_hold_is_refused(parameter: Parameter, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        SearchSpace({"p": parameter})
    assert words in str(caught.value)


def test_conditions_in_a_circle_are_refused() -> None:
    a = Parameter("categorical", "x", choices=("x",), when={"b": ("x",)})
    b = Parameter("categorical", "x", choices=("x",), when={"a": ("x",)})
    with pytest.raises(BadInput, match="without a circle"):
        SearchSpace({"a": a, "b": b})


def test_changes_text_shows_both_sides() -> None:
    assert changes_text({"a": 0.5, "c": 1}, {"a": 0.25, "b": True}) == "a 0.25 -> 0.5, c (none) -> 1, b True -> (none)"


@given(
    lr=st.floats(0.01, 1.0),
    size=st.sampled_from([4, 8, 12, 16]),
    group=st.one_of(st.none(), st.integers(2, 8)),
    masked=st.booleans(),
)
def test_every_valid_assignment_parses_to_itself(lr: float, size: int, group: int | None, masked: bool) -> None:
    phase = {"phase": "sft"} if group is None else {"phase": "grpo", "group": group}
    raw = {"lr": lr, "size": size, "masked": masked} | phase
    assert SPACE.parse(raw) == raw
    assert SPACE.overlay(DEFAULT, raw) == raw


@pytest.mark.parametrize(
    "declared",
    [
        Parameter("float", 1.0, low=0.0, high=1.0, step=5e-324),  # a quotient that is no float
        Parameter("float", 1.0, low=0.0, high=2.0, step=-1.0),
        Parameter("float", 1.0, low=0.0, high=2.0, step=0.0),
        Parameter("float", 1.0, low=0.0, high=2.0, step=3.0),
        Parameter("float", 1.0, low=0.0, high=2.0, step=float("nan")),
        Parameter("float", 1.0, low=1.0, high=2.0, step=0.5, log=True),
        Parameter("float", 0.0, low=-1e308, high=1e308),  # a width that is no float
        Parameter("int", 5, low=0, high=1e308),
        Parameter("int", 5, low=0.5, high=7.5),
        Parameter("int", 5, low=0, high=10, step=0.5),
    ],
)
def test_an_edit_cannot_declare_a_range_that_breaks_a_reader_or_a_sampler(declared: Parameter) -> None:
    with pytest.raises(InvalidCandidate):
        extended({"lr": Parameter("float", 0.1, low=0.01, high=1.0)}, {"mine": declared})
