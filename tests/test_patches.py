"""Patches: what a model writes becomes one canonical diff, exactly, or an error that says what did not match."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolve import patches
from evolve.errors import InvalidCandidate
from evolve.types import Block

NAME = "train/recipe.py"
TEXT = """import math

def loss(x):
    y = x * 2
    return y

def other(x):
    y = x * 2
    return -y
"""
FILES = {NAME: TEXT, "train/extra.py": "A = 1\n"}


def edit(search: str, replace: str, file: str = NAME) -> dict[str, str]:
    return patches.from_blocks(FILES, [Block(file, search, replace)])


def test_a_block_replaces_the_lines_that_it_names() -> None:
    after = edit("    return y\n", "    return y + 1\n")
    assert after == {**FILES, NAME: TEXT.replace("    return y\n", "    return y + 1\n", 1)}


def test_blocks_are_applied_one_after_the_other() -> None:
    blocks = [Block(NAME, "    return -y", "    return 0"), Block(NAME, "    return 0", "    return 1")]
    assert "return 1" in patches.from_blocks(FILES, blocks)[NAME]


def test_a_block_that_does_not_match_is_named_with_the_nearest_lines() -> None:
    with pytest.raises(InvalidCandidate) as caught:
        patches.from_blocks(
            FILES, [Block(NAME, "    return -y", "    return 0"), Block(NAME, "def loss(z):\n    y = x * 2", "")]
        )
    assert (
        "block 2" in str(caught.value)
        and "def loss(z):" in str(caught.value)
        and "3: def loss(x):" in str(caught.value)
    )


def test_a_block_that_matches_twice_is_refused_with_both_places() -> None:
    with pytest.raises(InvalidCandidate, match=r"2 times \(lines 4, 8\)"):
        edit("    y = x * 2", "    y = x * 3")


@pytest.mark.parametrize(
    "name", ["../../etc/train.py", "train/run.py", "/etc/passwd", "train//recipe.py", "./train/recipe.py", ""]
)
def test_no_other_file_can_be_named_in_any_form(name: str) -> None:
    for attempt in (
        lambda: edit("import math", "import os", name),
        lambda: patches.from_diff(FILES, f"--- a/{name}\n+++ b/{name}\n@@ -1,1 +1,1 @@\n-import math\n+import os\n"),
        lambda: patches.from_files(FILES, {name: "x"}),
        lambda: patches.make(FILES, {name: "x"}),
    ):
        with pytest.raises(InvalidCandidate):
            attempt()


@pytest.mark.parametrize(
    "diff",
    [
        "--- a/train/recipe.py\n+++ b/train/other.py\n@@ -1 +1 @@\n-import math\n+import os\n",
        "--- /dev/null\n+++ b/train/recipe.py\n@@ -0,0 +1 @@\n+import os\n",
        "--- a/train/recipe.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-import math\n",
        "diff --git a/train/recipe.py b/train/recipe.py\nold mode 100644\nnew mode 100755\n",
        "diff --git a/train/recipe.py b/sitecustomize.py\nrename from train/recipe.py\nrename to sitecustomize.py\n",
        "diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+/etc/passwd\n",
        "just prose",
        "@@ -1 +1 @@\n-import math\n+import os\n",
    ],
)
def test_a_diff_may_change_lines_alone(diff: str) -> None:
    with pytest.raises(InvalidCandidate):
        patches.from_diff(FILES, diff)


def test_a_diff_with_wrong_line_numbers_and_counts_is_found_by_its_lines() -> None:
    diff = "Here it is:\n--- a/train/recipe.py\n+++ b/train/recipe.py\n@@ -90,7 +91,9 @@\n def other(x):\n-    y = x * 2\n+    y = x * 3\n     return -y\n"
    assert patches.from_diff(FILES, diff)[NAME] == TEXT.replace("y = x * 2\n    return -y", "y = x * 3\n    return -y")


def test_line_numbers_decide_between_equal_places() -> None:
    diff = f"--- a/{NAME}\n+++ b/{NAME}\n@@ -8,1 +8,1 @@\n-    y = x * 2\n+    y = x * 3\n"
    assert patches.from_diff(FILES, diff)[NAME].index("x * 3") > TEXT.index("def other")


def test_a_patch_that_changes_nothing_is_refused() -> None:
    with pytest.raises(InvalidCandidate, match="must change something"):
        patches.make(FILES, {NAME: TEXT})
    with pytest.raises(InvalidCandidate, match="must change something"):
        patches.make(FILES, {NAME: TEXT.rstrip("\n")})


@pytest.mark.parametrize("hidden", ["\u202e", "\u200b", "\x1b", "\x00", "\u2028", "\ufeff", "\x0c"])
def test_what_a_reader_does_not_see_is_refused(hidden: str) -> None:
    with pytest.raises(InvalidCandidate, match="characters that a reader sees"):
        patches.make(FILES, {NAME: TEXT + f"# a{hidden}b\n"})
    patches.make(FILES, {NAME: TEXT + "# äß漢 is seen\n"})


def test_too_much_is_refused() -> None:
    with pytest.raises(InvalidCandidate, match="at most"):
        patches.make(FILES, {NAME: "x = 1\n" * 50_000})
    with pytest.raises(InvalidCandidate, match="A patch must have at most"):
        patches.make(FILES, {NAME: "x = 1\n" * 20_000})


def test_a_patch_of_other_files_does_not_apply() -> None:
    patch = patches.make(FILES, edit("    return y\n", "    return y + 1\n"))
    assert patches.apply(FILES, patch)[NAME] == TEXT.replace("    return y\n", "    return y + 1\n", 1)
    with pytest.raises(InvalidCandidate, match="must fit"):
        patches.apply({**FILES, NAME: "\n" + TEXT}, patch)


def test_the_summary_counts_lines() -> None:
    patch = patches.make(
        FILES, {**edit("    return y\n", "    z = y\n    return z\n"), "train/extra.py": "A = 1\nB = 2\n"}
    )
    assert patches.summary(patch) == "train/extra.py +1 -0, train/recipe.py +2 -1"


LINE = st.text(alphabet="ab -+@\\ ", max_size=6)
BODY = st.lists(
    LINE | st.sampled_from(["--- a/x", "+++ b/x", "@@ -1,1 +1,1 @@", "-- x", "++ x", "\\ No newline"]), max_size=12
)


@given(BODY, BODY)
@example(["-- x", "b"], ["++ x", "b"])
@example(["a"], [])
@example([], ["@@ -1 +1 @@"])
def test_every_canonical_patch_applies_to_what_it_was_made_from(old: list[str], new: list[str]) -> None:
    before, after = ({NAME: "".join(f"{line}\n" for line in lines)} for lines in (old, new))
    if before == after:
        return
    assert patches.apply(before, patches.make(before, after)) == after


def test_git_applies_a_canonical_patch(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / NAME).write_text(TEXT)
    after = edit("    return y\n", "    return y + 1\n")
    done = subprocess.run(
        ["git", "apply", "-"],
        input=patches.make(FILES, after),
        cwd=tmp_path,
        text=True,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / NAME).read_text() == after[NAME]
