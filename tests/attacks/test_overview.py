"""The table, the files and the document say the same."""

from __future__ import annotations

from attacks.overview import TARGET, overview
from attacks.scene import HERE
from attacks.table import ATTACKS
from attacks.without import DEFENCES, ROOT, changes


def test_the_document_is_what_the_table_says() -> None:
    assert TARGET.read_text() == overview(), "run python tests/attacks/overview.py"


def test_each_payload_and_each_twin_is_used() -> None:
    elsewhere = {"boasts", "draws_on_the_terminal", "fails_with_instructions", "types_at_the_terminal"}
    payloads = {p.stem for p in (HERE / "payloads").glob("[a-z]*.py")}
    assert payloads == {a.payload for a in ATTACKS} | elsewhere
    assert {p.stem for p in (HERE / "twins").glob("*.py")} == {a.twin for a in ATTACKS}


def test_each_defence_is_named_by_lines_that_the_program_has() -> None:
    for name in DEFENCES:
        for change in changes([name]):
            assert (ROOT / change.file).read_text().count(change.old) == 1, (name, change.old)


def test_an_attack_without_a_missing_defence_says_why() -> None:
    assert all(bool(a.without) != bool(a.note) for a in ATTACKS)
