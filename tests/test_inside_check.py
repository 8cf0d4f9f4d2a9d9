"""`evolve/inside/check.py` as the sandbox runs it: a process with one argument. Each refusal has an honest twin."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECK = ROOT / "evolve/inside/check.py"
RUFF = str(Path(sys.executable).with_name("ruff"))
PRISTINE = """import math
import torch
from train.model import Transformer

def train(model, params):
    return math.sqrt(2) * torch.ones(1)
"""


def check(
    tmp_path: Path,
    new: str | bytes,
    before: str | None = PRISTINE,
    name: str = "train/recipe.py",
    imports: tuple[str, ...] = (),
    ruff: str | None = None,
) -> dict[str, str]:
    """The answer to an edit of one file, in a folder that holds a package `train`."""
    (tmp_path / "train").mkdir(exist_ok=True)
    (tmp_path / "train/__init__.py").touch()
    (tmp_path / "new.py").write_bytes(new if isinstance(new, bytes) else new.encode())
    request: dict[str, object] = {"files": {name: "new.py"}, "before": {}, "imports": list(imports), "ruff": ruff}
    if before is not None:
        (tmp_path / "before.py").write_text(before)
        request["before"] = {name: "before.py"}
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-I", "-B", str(CHECK), "request.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, str] = json.loads(done.stdout)
    return found


def passes(answer: dict[str, str]) -> bool:
    return (answer["stage"], answer["error"]) == ("", "")


# ---------------------------------------------------------------- parse


def test_the_harness_as_it_is_passes_every_check(tmp_path: Path) -> None:
    for name in ("train/recipe.py", "train/quadratic/recipe.py"):
        text = (ROOT / name).read_text()
        answer = check(tmp_path, text, before=text, name=name, ruff=RUFF)
        assert answer == {"stage": "", "error": ""}


def test_a_syntax_error_is_told_with_its_line_and_its_text(tmp_path: Path) -> None:
    answer = check(tmp_path, PRISTINE + "\ndef f(:\n    pass\n")
    assert answer["stage"] == "parse"
    assert answer["error"] == "train/recipe.py:8: SyntaxError: invalid syntax: `def f(:`; correct it."


def test_what_parses_but_does_not_compile_is_refused_and_its_twin_in_a_function_passes(tmp_path: Path) -> None:
    assert "train/recipe.py:1: SyntaxError: 'return' outside function" in check(tmp_path, "return 1\n")["error"]
    assert passes(check(tmp_path, "def f():\n    return 1\n"))


@pytest.mark.parametrize(
    ("text", "twin", "message"),
    [
        (b"x = 1\ny = '\0'\n", b"x = 1\ny = '\\0'\n", "train/recipe.py:2: source code holds no null byte"),
        (b"x = 1\ny = '\xe9'\n", "x = 1\ny = 'é'\n".encode(), "train/recipe.py:2: source code is UTF-8, but byte 0xe9"),
        (
            b"# -*- coding: utf-7 -*-\nx = 1\n",
            b"# -*- coding: utf-8 -*-\nx = 1\n",
            "train/recipe.py:1: source code is UTF-8, but this declares utf-7",
        ),
        (b"x = 1\n" * 100_000, b"x = 1\n" * 1000, "a file has at most 500000 bytes"),
        (b"x = " + b"(" * 300 + b")" * 300, b"x = " + b"(" * 50 + b")" * 50, "too many nested parentheses"),
        (b"x = " + b"-" * 100_000 + b"1", b"x = " + b"-" * 50 + b"1", "nested too deeply"),
        (b"x = 1" + b"+1" * 100_000, b"x = 1" + b"+1" * 200, "nested too deeply"),
        (b"x = " + b"9" * 5000, b"x = " + b"9" * 4000, "Exceeds the limit"),
        (b"\xef\xbb\xbfif 1:\nx = 1\n", b"\xef\xbb\xbfx = 1\n", "train/recipe.py:2: IndentationError"),
    ],
    ids=["null", "latin-1", "declared", "large", "parentheses", "signs", "sum", "number", "mark"],
)
def test_a_file_that_python_cannot_take_gets_one_clean_message(
    tmp_path: Path, text: bytes, twin: bytes, message: str
) -> None:
    answer = check(tmp_path, text)
    assert answer["stage"] == "parse"
    assert message in answer["error"]
    assert len(answer["error"].splitlines()) == 1
    assert len(answer["error"]) < 300
    assert passes(check(tmp_path, twin))


def test_a_message_shows_no_control_character_of_the_code(tmp_path: Path) -> None:
    answer = check(tmp_path, "x = \x1b[31m1\n")
    assert answer["stage"] == "parse"
    assert answer["error"].isprintable()


def test_a_warning_of_the_code_is_no_refusal(tmp_path: Path) -> None:
    assert passes(check(tmp_path, "x = 1 is 1\ny = '\\d'\n"))


# ---------------------------------------------------------------- imports


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "import subprocess as math",
        "import os.path",
        "from socket import create_connection",
        "import math, ctypes",
        "def f():\n    import os",
        "try:\n    import os\nexcept ImportError:\n    pass",
        "import importlib",
        "__import__('os')",
        "import_module('os')",
        "x.import_module('os.path')",
        "import evals.problems",
        "from evals import problems",
        "import numpy",
        "import torchvision",
        "if not TYPE_CHECKING:\n    import os",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import os",
        "class A:\n    def f(self):\n        return [__import__('os') for _ in range(1)]",
    ],
)
def test_an_import_that_nobody_allowed_is_refused(tmp_path: Path, text: str) -> None:
    answer = check(tmp_path, text + "\n")
    assert answer["stage"] == "imports"
    assert "an edit may not import `" in answer["error"]


@pytest.mark.parametrize(
    "text",
    [
        "import math, random, copy, itertools, functools, statistics, heapq, bisect, json, time, re, warnings",
        "from collections import deque\nfrom dataclasses import dataclass\nfrom typing import Any",
        "from __future__ import annotations",
        "import torch.nn.functional as F",
        "from torch.optim.lr_scheduler import LambdaLR",
        "from train.tokenizer import PAD",
        "import train.tasks",
        "from . import model",
        "from .model import Transformer",
        "from .. import train",
        "def f():\n    import statistics",
        "if True:\n    import random\nelse:\n    import heapq",
        "try:\n    from math import cbrt\nexcept ImportError:\n    cbrt = None",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy",
        "import typing\nif typing.TYPE_CHECKING:\n    from numpy import ndarray",
        "__import__('math')",
        "x.import_module('torch.nn')",
        "x.import_module('.model', 'train')",
        "text = 'import os'",
        "# import os",
    ],
)
def test_an_honest_import_passes(tmp_path: Path, text: str) -> None:
    assert passes(check(tmp_path, text + "\n"))


def test_the_subject_can_allow_a_module_and_all_below_it(tmp_path: Path) -> None:
    assert passes(check(tmp_path, "import numpy.random\n", imports=("numpy",)))
    assert check(tmp_path, "import numpyro\n", imports=("numpy",))["stage"] == "imports"
    assert passes(check(tmp_path, "import os.path\n", imports=("os.path",)))
    assert check(tmp_path, "import os\n", imports=("os.path",))["stage"] == "imports"


def test_what_the_pristine_file_imports_may_stay_wherever_it_does_so(tmp_path: Path) -> None:
    before = "def f():\n    import os\n"
    assert passes(check(tmp_path, "import os.path\n", before=before))
    assert check(tmp_path, "import sys\n", before=before)["stage"] == "imports"


def test_a_new_file_without_a_pristine_one_is_held_to_the_harmless_modules(tmp_path: Path) -> None:
    assert passes(check(tmp_path, "import math\nfrom train import model\n", before=None))
    assert check(tmp_path, "import torch\n", before=None)["stage"] == "imports"


def test_a_script_may_import_its_neighbours_but_a_package_is_addressed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/helper.py").touch()
    assert passes(check(tmp_path, "import helper\n", name="scripts/recipe.py"))
    (tmp_path / "scripts/__init__.py").touch()
    assert check(tmp_path, "import helper\n", name="scripts/recipe.py")["stage"] == "imports"


def test_an_import_whose_name_is_computed_is_refused_unless_the_harness_does_so_itself(tmp_path: Path) -> None:
    computed = "__import__('o' + 's')\n"
    assert "train/recipe.py:1: an import must name its module" in check(tmp_path, computed)["error"]
    assert passes(check(tmp_path, computed, before="__import__(input())\n"))


def test_a_refused_import_says_where_it_stands_and_what_may_be_imported(tmp_path: Path) -> None:
    answer = check(tmp_path, "import math\n\nimport os\n", imports=("einops",))
    assert answer["error"] == (
        "train/recipe.py:3: an edit may not import `os`; use einops, recipe, torch, train or what only computes in the"
        " standard library (math, random, copy, ...), or leave it out."
    )


def test_of_many_refused_imports_five_are_told_and_the_rest_counted(tmp_path: Path) -> None:
    answer = check(tmp_path, "import os\n" * 12)
    assert len(answer["error"].splitlines()) == 6
    assert answer["error"].endswith("and 7 more")


# ---------------------------------------------------------------- ruff


@pytest.mark.parametrize(
    ("text", "twin", "rule"),
    [
        ("def f():\n    return lerning_rate\n", "def f(lerning_rate):\n    return lerning_rate\n", "F821"),
        ("def f():\n    print(x)\n    x = 1\nx = 2\n", "def f():\n    x = 1\n    print(x)\n", "F821|F823"),
        ("x = 1\nprint(x is 'a')\n", "x = 1\nprint(x == 'a')\n", "F632"),
        ("__all__ = ['gone']\n", "__all__ = ['here']\nhere = 1\n", "F822"),
    ],
)
def test_what_would_stop_a_training_is_found_before_it_starts(tmp_path: Path, text: str, twin: str, rule: str) -> None:
    answer = check(tmp_path, text, ruff=RUFF)
    assert answer["stage"] == "ruff"
    assert any(r in answer["error"] for r in rule.split("|"))
    assert answer["error"].startswith("train/recipe.py:2: ") or rule == "F822"
    assert check(tmp_path, twin, ruff=RUFF) == {"stage": "", "error": ""}


def test_style_is_no_business_of_the_checks(tmp_path: Path) -> None:
    assert passes(check(tmp_path, "import math,random\nx=lambda :1 ;y = 2\nl = x\n", ruff=RUFF))


def test_what_this_python_understands_is_no_error_to_ruff(tmp_path: Path) -> None:
    assert passes(check(tmp_path, "try:\n    pass\nexcept* ValueError:\n    pass\n", ruff=RUFF))


def test_a_finding_that_the_pristine_file_has_as_well_is_not_the_edits_fault(tmp_path: Path) -> None:
    before = "def f() -> 'Tensor':\n    return 1\n"
    assert passes(check(tmp_path, "# a comment\n" + before, before=before, ruff=RUFF))
    assert check(tmp_path, before, ruff=RUFF)["stage"] == "ruff"


def test_without_ruff_its_rules_are_skipped_and_the_answer_says_so(tmp_path: Path) -> None:
    broken = "def f():\n    return gone\n"
    assert check(tmp_path, broken, ruff=None) == {"stage": "", "error": "", "skipped": "ruff is not there"}
    assert "ruff did not run" in check(tmp_path, broken, ruff="/nonexistent/ruff")["skipped"]
    assert shutil.which(RUFF)
    assert check(tmp_path, broken, ruff=RUFF)["stage"] == "ruff"


def test_ruffs_own_settings_in_the_harness_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "ruff.toml").write_text('[lint.per-file-ignores]\n"*" = ["F821"]\n')
    assert check(tmp_path, "print(gone)\n", ruff=RUFF)["stage"] == "ruff"


def test_the_cheapest_check_that_fails_is_the_one_that_is_told(tmp_path: Path) -> None:
    assert check(tmp_path, "import os\nprint(gone)\ndef (:\n", ruff=RUFF)["stage"] == "parse"
    assert check(tmp_path, "import os\nprint(gone)\n", ruff=RUFF)["stage"] == "imports"
    assert check(tmp_path, "print(gone)\n", ruff=RUFF)["stage"] == "ruff"
