"""What every tracker keeps to, whatever it carries the events to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evolve.ports import Tracker
from evolve.testing import MemoryTracker
from evolve.tracking import MlflowTracker
from evolve.tracking_process import TrackerProcess
from evolve.types import Budget, GateRules, Rules
from tests.tracking_campaign import Campaign, all_runs, new_store, write_journal

Subject = tuple[Tracker, Callable[[], object]]  # a tracker, and what a person sees of it


DOWN = "http://127.0.0.1:9"


@pytest.fixture(params=["memory", "mlflow", "mlflow, its server down", "process", "process, its server down"])
def subject(request: pytest.FixtureRequest, tmp_path: Path, campaign: Campaign) -> Subject:
    if request.param == "memory":
        memory = MemoryTracker()
        return memory, lambda: list(memory.records)
    if request.param == "mlflow":
        uri = new_store(tmp_path / "store")
        tracker = MlflowTracker(uri, tmp_path, warn=pytest.fail, artifacts=tmp_path / "artifacts")
        return tracker, lambda: all_runs(uri)
    write_journal(tmp_path, campaign.records)
    if request.param == "process":
        uri = new_store(tmp_path / "store")
        process = TrackerProcess(uri, tmp_path, warn=pytest.fail, artifacts=tmp_path / "artifacts")
        return process, lambda: all_runs(uri)
    warnings: list[str] = []
    if request.param == "process, its server down":
        return TrackerProcess(DOWN, tmp_path, warn=warnings.append), lambda: len(warnings)
    return MlflowTracker(DOWN, tmp_path, warn=warnings.append), lambda: len(warnings)


@pytest.fixture
def campaign() -> Campaign:
    return Campaign(rules=Rules(budget=Budget(trials=3), gate=GateRules(baseline_seeds=2))).play()


def test_recording_an_event_twice_changes_nothing(subject: Subject, campaign: Campaign) -> None:
    tracker, seen = subject
    for record in campaign.records:
        tracker.record(record)
        tracker.record(record)
    tracker.flush(60)
    once = seen()
    for record in campaign.records:
        tracker.record(record)
    tracker.flush(60)
    tracker.close()
    assert seen() == once


def test_flush_counts_what_is_still_to_be_carried_over(subject: Subject, campaign: Campaign) -> None:
    tracker, seen = subject
    for record in campaign.records:
        tracker.record(record)
    backlog = tracker.flush(60)
    tracker.close()
    assert backlog == (len(campaign.records) if seen() == 1 else 0)


def test_an_empty_tracker_has_no_backlog_and_closes(subject: Subject) -> None:
    tracker, _ = subject
    assert tracker.flush(0) == 0
    tracker.close()


def test_closing_twice_and_recording_afterwards_is_no_error(subject: Subject, campaign: Campaign) -> None:
    tracker, _ = subject
    tracker.record(campaign.records[0])
    tracker.close()
    tracker.record(campaign.records[1])
    tracker.flush(0)
    tracker.close()
