"""Campaigns that are killed at every phase of their life lose nothing, double nothing and leave nothing over."""

from __future__ import annotations

from pathlib import Path

from . import crash


def test_a_serial_campaign_that_is_killed_in_every_phase_equals_its_undisturbed_twin(tmp_path: Path) -> None:
    kills = ["train", "score", "inbox", "intensify", "vault", "await approval", "promote", "rollback"]
    told = crash.serial(tmp_path, 1, kills, "tracking=none", short=True)
    assert told.violations == []
    assert sum(told.kills.values()) >= 7, told.kills
