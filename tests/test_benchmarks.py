"""The page of benchmarks: made from what is stored, with every broken bound marked, and nothing that names a machine."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import report
from benchmarks.common import Figure, Report, Table, command_line, machine, show, write

FOUND = report.stored(report.RESULTS)


def test_the_page_is_what_the_stored_results_say() -> None:
    if not FOUND:
        pytest.skip("no results are stored")
    assert report.PAGE.read_text(encoding="utf-8") == report.render(FOUND), (
        "write docs/benchmarks.md with `python benchmarks/report.py --render`"
    )


@pytest.mark.parametrize("name", FOUND)
def test_stored_results_name_no_place_of_the_machine(name: str) -> None:
    text = json.dumps(FOUND[name])
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|var|opt)\b[^\"]*", text)


def test_the_median_is_held_against_the_bound() -> None:
    assert Figure("f", "s", [1, 2, 9], at_most=2).ok is True
    assert Figure("f", "s", [1, 2.1, 2.2], at_most=2).ok is False
    assert Figure("f", "a second", [5, 6, 7], at_least=6).ok is True
    assert Figure("f", "a second", [5, 5.9, 70], at_least=6).ok is False
    assert Figure("f", "s", [5]).ok is None
    assert Figure("f", "s", [4, 1, 3, 2], at_most=3).plain() == {
        "name": "f", "unit": "s", "median": 2.5, "low": 1.75, "high": 3.25, "n": 4, "at_most": 3, "ok": True,
    }  # fmt: skip


def made(*figures: Figure) -> dict[str, object]:
    return Report("Starts", [Table("Times", ["a|b", "c"], [[1, "x"]])], list(figures), ["A note."]).plain()


def test_a_broken_bound_is_marked_on_the_page_and_comes_first() -> None:
    good, bad = Figure("fast enough", "s", [0.2], at_most=0.3), Figure("too slow", "s", [0.4], at_most=0.3)
    page = report.render({"warm": made(good, bad)})
    assert (
        "| too slow | 0.4 s | at most 0.3 s | **does not hold** |\n| fast enough | 0.2 s | at most 0.3 s | holds |"
        in page
    )
    assert "Not measured: crash, soak, loop_cost, loop_cost_real, overhead, commands, training." in page
    assert "| a\\|b | c |\n| --- | --- |\n| 1 | x |" in page and "A note." in page
    assert "DOES NOT HOLD" in show(made(bad)) and "DOES NOT HOLD" not in show(made(good))


def test_a_page_says_where_there_was_no_gpu() -> None:
    plain = {"title": "t", "command": "python x.py", "machine": {"cpu": "c", "gpu": None}, "tables": [], "figures": []}
    assert "GPU: not measured, there is none." in report.render({"crash": plain})
    assert "GPU: H100." in report.render({"crash": plain | {"machine": {"gpu": "H100"}}})


def test_a_report_made_by_hand_needs_a_title_and_a_command_alone() -> None:
    plain = {"title": "t", "command": "python x.py", "figures": [{"name": "f", "value": 3, "at_most": 2, "ok": False}]}
    assert "| f | 3  | at most 2  | **does not hold** |" in report.render({"soak": plain})
    assert "at most 2" in show(plain)


def test_what_is_stored_is_what_is_rendered(tmp_path: Path) -> None:
    write(tmp_path / "warm.json", made())
    assert list(report.stored(tmp_path)) == ["warm"]


def test_a_command_is_shown_without_places_of_this_machine() -> None:
    words = ["/somewhere/benchmarks/overhead.py", "--n", "20", "--environments", "/tmp/x", "--json", "/tmp/a.json"]
    assert command_line(words) == "python benchmarks/overhead.py --n 20 --environments DIR"
    assert command_line(["overhead.py", "--json=/tmp/a", "--n", "1"]) == "python benchmarks/overhead.py --n 1"


def test_a_machine_is_described_without_its_name() -> None:
    import socket

    assert socket.gethostname() not in json.dumps(machine())
    assert machine()["cores"] >= 1
