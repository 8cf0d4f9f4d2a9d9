"""A long campaign under faults neither grows nor leaves anything behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .cli import ROOT


def soak(tmp_path: Path, *words: str) -> dict[str, Any]:
    told = tmp_path / "told.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/soak.py"), "--json", str(told), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(told.read_text())
    assert found["violations"] == []
    return found


def test_a_campaign_of_a_hundred_trials_under_faults_is_whole(tmp_path: Path) -> None:
    found = soak(
        tmp_path, "--trials", "100", "--workers", "4", "--controller-kills", "1", "--every", "0.2", "tracking=none"
    )
    assert found["trials"] == 100
    assert found["kills"]["controller"] == 1
    early, late = found["descriptors"]
    assert late <= early + 2 * 4 * 5, "a few pipes for each worker"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_neither_memory_nor_descriptors_nor_processes_grow_with_two_thousand_trials(tmp_path: Path) -> None:
    found = soak(tmp_path, "--trials", "2000", "--controller-kills", "3", "--every", "1")
    assert found["trials"] == 2000
    assert found["rss_mb_per_1000_trials"] < 20
    for name in ("descriptors", "processes"):
        early, late = found[name]
        assert late <= early + 8 * 6, name
