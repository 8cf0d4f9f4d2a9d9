"""`evolve ui` and the links to MLflow: where people are sent, and what is said where there is nothing to see."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from evolve import compose
from evolve.campaign import Folder
from evolve.config import Config, TrackingConfig, load
from evolve.errors import BadInput
from evolve.types import ApprovalRequest
from tests.tracking_campaign import Campaign

REQUEST = ApprovalRequest("c1" * 32, "d", "w", 3, "e", "v", "none")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    found = Folder(tmp_path / "state" / "campaigns" / "toy-1")
    found.path.mkdir(parents=True)
    return found


def tracked(folder: Folder, uri: str) -> None:
    position = {"uri": uri, "seq": 7, "experiment_id": "3", "run_id": "r1"}
    (folder.path / "tracking.json").write_text(json.dumps(position))


def config(uri: str | None = None, kind: str = "mlflow") -> Config:
    return replace(load([]), tracking=TrackingConfig(kind=kind, uri=uri))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uri", "base"),
    [
        ("sqlite:////somewhere/mlflow.db", "http://127.0.0.1:5000"),
        ("postgresql://me:hunter2@db/mlflow", "http://127.0.0.1:5000"),
        ("https://me:hunter2@mlflow.example.com/", "https://mlflow.example.com"),
    ],
)
def test_a_reviewer_is_sent_to_the_store_that_has_the_campaign(folder: Folder, uri: str, base: str) -> None:
    tracked(folder, uri)
    assert compose.candidate_link(folder, REQUEST) == (
        f"{base}/#/experiments/3/runs?viewStateShareKey=evolve-c1c1c1c1c1c1c1c1&workflowType=machine_learning"
    )


def test_a_campaign_that_was_not_tracked_has_no_link(folder: Folder) -> None:
    assert compose.candidate_link(folder, REQUEST) is None


def test_a_server_of_your_own_is_linked_to_and_none_is_started(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "http://mlflow.example.com:8080"
    tracked(folder, uri)
    assert compose.serve_ui(config(uri), folder, Campaign().state, 5000) == 0
    trials, summary = capsys.readouterr().out.splitlines()
    assert trials.startswith(f"trials     {uri}/#/experiments/3/runs?viewStateShareKey=evolve-")
    assert summary == f"summary    {uri}/#/experiments/3/runs/r1?workflowType=machine_learning"


@pytest.mark.parametrize("kind", ["none", "mlflow"])
def test_without_a_store_the_report_is_named(folder: Folder, kind: str) -> None:
    with pytest.raises(BadInput, match="`evolve sync` carries it over .*`evolve report` needs no store"):
        compose.serve_ui(config(kind=kind), folder, Campaign().state, 5000)


def test_a_port_in_use_is_said_before_anything_starts(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    tracked(folder, "sqlite:////somewhere/mlflow.db")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"evolve ui --port {port + 1}"):
            compose.serve_ui(config(), folder, Campaign().state, port)
    assert capsys.readouterr().out == ""
