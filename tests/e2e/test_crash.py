"""Campaigns that are killed at every phase of their life lose nothing, double nothing and leave nothing over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from . import crash
from .cli import ROOT


def test_a_serial_campaign_that_is_killed_in_every_phase_equals_its_undisturbed_twin(tmp_path: Path) -> None:
    kills = ["train", "score", "inbox", "intensify", "vault", "await approval", "promote", "rollback"]
    told = crash.serial(tmp_path, 1, kills, "tracking=none", short=True)
    assert told.violations == []
    assert sum(told.kills.values()) >= 7, told.kills


@pytest.mark.parametrize("warm", [False, True])
def test_a_campaign_whose_trainings_scorers_and_servers_are_killed_stays_whole(tmp_path: Path, warm: bool) -> None:
    told = crash.rough(tmp_path, 1, 4, "tracking=none", warm=warm, workers=2)
    assert told.violations == []
    victims = {"controller", "warm server", "fork"} if warm else {"controller", "training", "scorer"}
    assert {victim for _, victim in told.kills} == victims


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/crash.py"), "--kills", "200", "--json", str(tmp_path / "told.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "told.json").read_text())["kills"] >= 200
