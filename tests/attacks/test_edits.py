"""Edits that say one thing and do another are refused at the door: nothing of them is queued, and their honest twins are."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest

from attacks.scene import HIGH, RECIPE, ROOT, Outcome, Scene, Stage
from attacks.test_attacks import pytestmark  # noqa: F401
from evolve import campaign

TEXT = (ROOT / RECIPE).read_text()
LINES = TEXT.splitlines()
LAST = LINES[-1]


def diff(name: str = RECIPE, before: str = LAST, after: str = f"{LAST}  # kept", head: str = "", new: str = "") -> str:
    """A unified diff of the last line of the editable file."""
    context = LINES[-2]
    at = len(LINES) - 1
    return f"{head}--- a/{name}\n+++ b/{new or name}\n@@ -{at},2 +{at},2 @@\n {context}\n-{before}\n+{after}\n"


SAID = "may change train/quadratic/recipe.py alone"
FORGED = {
    "the evaluator": (diff("evals/quadratic/score.py"), SAID),
    "the runner": (diff("train/quadratic/run.py"), SAID),
    "the configuration": (diff("configs/subject/quadratic.yaml"), SAID),
    "the gate": (diff("evolve/gate.py"), SAID),
    "the tests": (diff("tests/conftest.py"), SAID),
    "a path upwards": (diff("../../etc/train.py"), SAID),
    "a path upwards and back": (diff("train/../train/quadratic/recipe.py"), SAID),
    "a path with a dot": (diff("train/./quadratic/recipe.py"), SAID),
    "a path with two slashes": (diff("train//quadratic/recipe.py"), SAID),
    "an absolute path": (diff("/etc/train.py"), SAID),
    "another folder": (diff("other/quadratic/recipe.py"), SAID),
    "a letter that looks the same": (diff("tr\u0430in/quadratic/recipe.py"), SAID),
    "a letter made of two": (diff("train/quadratic/re\u0301cipe.py"), SAID),
    "a capital": (diff("train/quadratic/Recipe.py"), SAID),
    "a rename": (diff(head=f"rename from {RECIPE}\nrename to evals/quadratic/score.py\n"), "says 'rename from'"),
    "a rename in the names": (diff(new="evals/quadratic/score.py"), "not add, delete or rename"),
    "a copy": (diff(head=f"copy from {RECIPE}\ncopy to x.py\n"), "says 'copy from'"),
    "a mode": (diff(head="old mode 100644\nnew mode 100755\n"), "says 'old mode'"),
    "a link": (diff(head="new file mode 120000\n"), "says 'new file mode'"),
    "a deletion": (diff(head="deleted file mode 100644\n", new="/dev/null"), "says 'deleted file mode'"),
    "a new file": (f"--- /dev/null\n+++ b/{RECIPE}\n@@ -0,0 +1,1 @@\n+x = 1\n", "not add, delete or rename"),
    "a binary": (diff(head="GIT binary patch\n"), "says 'GIT binary patch'"),
    "a second file behind the first": (diff() + diff("evals/quadratic/score.py"), SAID),
    "a line that is not there": (diff(before="    return perfect"), "must stand in the file exactly"),
    "a place that is not one": ("\n".join([f"--- a/{RECIPE}", f"+++ b/{RECIPE}", "@@ -999,1 +999,1 @@", "-", "+x", ""]), "must hold lines"),
    "text that runs backwards": (diff(after=f"{LAST}  # \u202e kept"), "U+202E"),
    "a blank of no width": (diff(after=f"{LAST}  # \u200b kept"), "U+200B"),
    "a code of the terminal": (diff(after=f"{LAST}  # \x1b[2K kept"), "U+001B"),
    "a lone carriage return": (diff(after=f"{LAST}  # bad\r    return weights"), "must stand in the file exactly"),
    "a null": (diff(after=f"{LAST}  # \0"), "U+0000"),
    "a line separator": (diff(after=f"{LAST}  # \u2028return 1"), "U+2028"),
    "a byte order mark": (f"\ufeff{TEXT}", "U+FEFF"),
    "more than a person reads": (TEXT + "#" * 120_000 + "\n", "must have at most"),
    "nothing": (TEXT, "must change something"),
}  # fmt: skip
HONEST = {
    "a diff": diff(),
    "a diff of git's": diff(head=f"diff --git a/{RECIPE} b/{RECIPE}\nindex 123..456 100644\n", after=f"{LAST}  # 1"),
    "a diff without prefixes": diff(after=f"{LAST}  # 2").replace("a/train", "train").replace("b/train", "train"),
    "a diff with wrong counts": diff(after=f"{LAST}  # 3").replace(",2 +", ",7 +"),
    "a diff with a wrong line": diff(after=f"{LAST}  # 4").replace(f"-{len(LINES) - 1},", "-3,"),
    "a diff of Windows": diff(after=f"{LAST}  # 5").replace("\n", "\r\n"),
    "a whole file": f"{TEXT}# 6\n",
    "a whole file of Windows": f"{TEXT}# 7\n".replace("\n", "\r\n"),
    "a whole file without a last line end": f"{TEXT}# 8",
    "a comment in another language": f"{TEXT}# Größe, 大小, величина: 9\n",
}
NUMBER = {"type": "float", "default": 0.5, "low": 0.0, "high": 1.0}
HOSTILE = {
    "the path": {"PATH": NUMBER},
    "a name of Python's": {"__class__": NUMBER},
    "two words": {"a b": NUMBER},
    "an option": {"--out": NUMBER},
    "a line end": {"lr\n": NUMBER},
    "a code of the terminal": {"\x1b[2J": NUMBER},
    "a letter that looks the same": {"\u0430lpha": NUMBER},
    "a name that is there": {"x": NUMBER},
    "a name without end": {"a" * 41: NUMBER},
    "nine of them": {f"p{i}": NUMBER for i in range(9)},
    "an infinite range": {"p": NUMBER | {"high": float("inf")}},
    "no number": {"p": NUMBER | {"default": float("nan")}},
    "a number beyond all": {"p": NUMBER | {"high": 1e308, "low": -1e308}},
    "steps beyond counting": {"p": NUMBER | {"step": 5e-324}},
    "a range upside down": {"p": NUMBER | {"low": 2.0}},
    "a logarithm of zero": {"p": NUMBER | {"log": True}},
    "no choice": {"p": {"type": "categorical", "default": "a", "choices": []}},
    "a choice of lists": {"p": {"type": "categorical", "default": "a", "choices": ["a", ["b"]]}},
    "a condition": {"p": NUMBER | {"when": {"mode": ["flat"]}}},
    "a type of its own": {"p": NUMBER | {"type": "str"}},
    "no object": [NUMBER],
}
VALUES = (
    "PATH=/tmp", "x=; rm -rf x", "x=${oc.env:HOME}", "x=$(id)", "x=nan", "x=inf", "x=1e309", "x=true", "x=[1]",
    "mode=\x1b[2J", "mode=curved\nflat", "z=0.3", "size=16.5", "__class__=1", "subject.root=/tmp",
)  # fmt: skip


@pytest.fixture(scope="module")
def door(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return stage.scene(tmp_path_factory.mktemp("door") / "campaign")


def refused(door: Scene, *words: str) -> str:
    before = door.evolve.seen("c", "HumanProposed")
    done = door.evolve.raw("try", "--campaign", "c", "--why", "a reason", *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done
    assert len(done.stderr.splitlines()) == 1 and "\x1b" not in done.stderr
    assert door.evolve.seen("c", "HumanProposed") == before
    return done.stderr


@pytest.mark.parametrize("name", FORGED)
def test_an_edit_of_anything_but_what_a_reader_sees_is_refused(name: str, door: Scene, tmp_path: Path) -> None:
    text, reason = FORGED[name]
    (tmp_path / "edit").write_bytes(text.encode())
    assert reason in refused(door, "--patch", str(tmp_path / "edit"))


def test_an_edit_that_is_no_text_is_refused(door: Scene, tmp_path: Path) -> None:
    (tmp_path / "edit").write_bytes(TEXT.encode() + b"# \xff\xfe\n")
    refused(door, "--patch", str(tmp_path / "edit"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_declaration_is_refused(name: str, door: Scene, tmp_path: Path) -> None:
    (tmp_path / "edit").write_text(f"{TEXT}# {name}\n")
    refused(door, "--patch", str(tmp_path / "edit"), "--declare", json.dumps(HOSTILE[name]))


@pytest.mark.parametrize("value", VALUES)
def test_a_value_that_is_more_than_a_value_is_refused(value: str, door: Scene) -> None:
    refused(door, value)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_edit_in_any_form_is_queued_and_stands_in_the_journal_as_it_will_run(
    name: str, door: Scene, tmp_path: Path
) -> None:
    (tmp_path / "edit").write_bytes(HONEST[name].encode())
    declared = json.dumps({"share": NUMBER})
    door.evolve("try", "--campaign", "c", "--patch", str(tmp_path / "edit"), "--declare", declared, "--why", name)
    candidate = door.evolve.seen("c", "HumanProposed")[-1]["proposal"]["candidate"]
    changed = [line for line in candidate["patch"].splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert all(line.lstrip("+-").startswith((LAST, "#")) for line in changed), "nothing but the line that was meant"
    assert "\r" not in candidate["patch"]
    assert candidate["params"]["share"] == 0.5


# ---------------------------------------------------------------- where even the evaluator may be edited

EVALUATOR = "evals/quadratic/score.py"


def lenient(stage: Stage, cwd: Path, without: tuple[str, ...] = ()) -> Outcome:
    """An edit of the evaluator by which everything is solved, in a campaign that allows edits of it."""
    made = stage.scene(cwd, without, f"subject.editable=[{RECIPE},{EVALUATOR}]")
    before = (ROOT / EVALUATOR).read_text()
    after = before.replace("int(u < skill) for u", "1 for u")
    names = (f"a/{EVALUATOR}", f"b/{EVALUATOR}")
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), *names)
    (cwd / "edit").write_text("".join(lines))
    made.evolve("try", "--campaign", "c", "--patch", "edit", "--why", "a better measure")
    candidate = campaign.load(campaign.find(cwd / ".evolve", "c")).queue[0]
    made.resume()
    return made.outcome(candidate)


def test_an_edit_of_the_evaluator_never_reaches_the_scorer(stage: Stage, tmp_path: Path) -> None:
    found = lenient(stage, tmp_path)
    assert found.trial["state"] == "COMPLETE" and found.score < HIGH


def test_without_pristine_sources_an_edit_of_the_evaluator_scores_itself(stage: Stage, tmp_path: Path) -> None:
    assert lenient(stage, tmp_path, ("pristine sources for the scorer",)).score == 1.0
