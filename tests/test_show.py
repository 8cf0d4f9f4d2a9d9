"""What the CLI prints of a campaign."""

from __future__ import annotations

import pytest

from evolve.show import folded

GATE = "gate       cheap: 8 training(s) of the champion, then 1 to 8 for each challenger\npromise    at most 5%"


def test_long_lines_break_between_words_under_what_they_say() -> None:
    assert folded(GATE, 44).split("\n") == [
        "gate       cheap: 8 training(s) of the",
        "           champion, then 1 to 8 for each",
        "           challenger",
        "promise    at most 5%",
    ]


def test_what_can_be_copied_stays_in_one_piece() -> None:
    path = "/a/path/that/is-longer-than-the-terminal/evolve.yaml"
    assert path in folded(f"written    {path}", 40)


def test_what_goes_to_no_terminal_is_not_folded(capsys: pytest.CaptureFixture[str]) -> None:
    assert folded(GATE * 3) == GATE * 3
