"""A long campaign under faults neither grows nor leaves anything behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .cli import ROOT


def soak(tmp_path: Path, *words: str) -> tuple[dict[str, float], str]:
    """The figures' values by their names, and what else is said."""
    told = tmp_path / "told.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/soak.py"), "--json", str(told), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(told.read_text())
    figures = {figure["name"]: figure["median"] for figure in found["figures"]}
    assert figures["violations, as in the kill test"] == 0
    return figures, found["notes"][0]


def test_a_campaign_of_a_hundred_trials_under_faults_is_whole(tmp_path: Path) -> None:
    figures, said = soak(
        tmp_path, "--trials", "100", "--workers", "4", "--controller-kills", "1", "--every", "0.2", "tracking=none"
    )
    assert said.startswith("100 trials in ")
    assert "1 of controller" in said
    assert figures["open descriptors, end less middle"] <= 2 * 4 * 5, "a few pipes for each worker"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_neither_memory_nor_descriptors_nor_processes_grow_with_two_thousand_trials(tmp_path: Path) -> None:
    figures, said = soak(tmp_path, "--trials", "2000", "--controller-kills", "3", "--every", "1")
    assert said.startswith("2000 trials in ")
    assert figures["memory, second half: what the campaign knows of a trial"] < 20
    for name in ("open descriptors", "processes"):
        assert figures[f"{name}, end less middle"] <= 8 * 6, name
