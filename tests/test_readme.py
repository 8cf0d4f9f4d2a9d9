"""The README's commands are real: each is read from the text and tried as far as that costs no training."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from evolve.cli import build_parser, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# Indented blocks; several commands on a line, a comment behind it and variables before it are taken apart.
LINES = [line.strip().split("  #")[0] for line in README.splitlines() if line.startswith("    ")]
COMMANDS = [
    words[next(i for i, w in enumerate(words) if w.split("/")[-1] == "evolve") + 1 :]
    for line in LINES
    for part in line.split(";")
    if re.search(r"(^|[ /])evolve ", part)
    for words in [shlex.split(part)]
    if any(w.split("/")[-1] == "evolve" for w in words)
]


def test_the_readme_has_commands_to_try() -> None:
    assert len(COMMANDS) >= 12
    assert {words[0] for words in COMMANDS} >= {"run", "resume", "review", "ui", "rollback", "status"}


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] == "run"], ids=" ".join)
def test_each_run_of_the_readme_can_be_planned(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("subject=examples/", f"subject={ROOT}/examples/") for word in words]
    words = [
        word.replace("base=/models/SmolLM2-135M-Instruct", f"base={tmp_path}") for word in words
    ]  # the reader's own
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evolve.history.read", lambda *_, **__: None)  # the README's sources are the reader's own
    assert main([*words, *([] if "--dry-run" in words else ["--dry-run"])]) == 0
    assert "subject    " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [], "a plan makes nothing"


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] != "run"], ids=" ".join)
def test_each_other_command_of_the_readme_is_understood(words: list[str]) -> None:
    assert build_parser().parse_args(words).command == words[0]


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^    make (\w+)", README, re.MULTILINE)
    assert set(targets) == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_what_ci_runs_is_the_readmes_test_command() -> None:
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_the_readmes_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_proposers_and_subjects_that_the_readme_names_exist() -> None:
    from evolve.config import groups

    for group, option in re.findall(r"\b(subject|proposer|tracking|gate|executor)=(\w+)(?![\w/.])", README):
        assert option in groups()[group], f"{group}={option}"


def test_every_release_of_torch_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.!+-]+", line) for line in lines if line and not line.startswith("#"))
