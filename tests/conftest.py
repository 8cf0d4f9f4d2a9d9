"""Shared by all tests. `tests/` is on the path, so that helper modules such as `inline.py` can be imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# One thread a process, and nothing that would ask the internet.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from hypothesis import HealthCheck, settings

# These machines are shared and noisy: no example fails for being slow.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process durability is not under test, and fsync takes most of an inline campaign's time."""
    monkeypatch.setattr("evolve.journal.os.fsync", lambda fd: None)
