"""Trainings and scorers that misbehave, each once in one real campaign: failed trials with reasons, and it goes on."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .cli import COMMAND, SECRET, Evolve, bench_subject, faults, processes_of, wait_for
from .conftest import made_once

NOT_REGULAR = "weights.safetensors must be a regular file"
BAD_EVALUATION = "The scorer must leave a valid evaluation.json, but"
REASONS = {
    "crash": "train: exit code 1: RuntimeError: the optimizer",
    "killed": "train: killed by signal 9",
    "hang": "train: ended at its limit of 3 s (limits.train_seconds)",
    "stubborn": "train: ended at its limit of 3 s (limits.train_seconds)",
    "memory": "train: exit code 1: MemoryError",
    "nothing": "A training must leave weights.safetensors, but there is none",
    "shape": "Tensor 'w' must be F64 [4], but is ('F64', (5,))",
    "not_finite": "Weights must be finite, but 'w' has NaN or infinity",
    "metadata": "Weights must carry no metadata, but `__metadata__` is there",
    "garbage": "Weights must be a safetensors file",
    "huge": "weights.safetensors must be at most 1000040 bytes, but has 10000000000",
    "symlink": NOT_REGULAR,
    "hardlink": NOT_REGULAR,
    "fifo": NOT_REGULAR,
    "folder": NOT_REGULAR,
    "linked_folder": NOT_REGULAR,
    "scorer_nan_": f"{BAD_EVALUATION} DecodeError('JSON is malformed",
    "scorer_infi": f"{BAD_EVALUATION} DecodeError('JSON is malformed",
    "scorer_metr": f"{BAD_EVALUATION} ValueError(\"its metric is 'accuracy', not 'score'\")",
    "scorer_bool": f"{BAD_EVALUATION} ValueError('a value is not a finite number')",
    "scorer_text": f"{BAD_EVALUATION} ValueError('a value is not a finite number')",
    "scorer_nega": f"{BAD_EVALUATION} ValueError('n must be at least 1 and stderr at least 0')",
    "scorer_zero": f"{BAD_EVALUATION} ValueError('n must be at least 1 and stderr at least 0')",
    "scorer_keys": f"{BAD_EVALUATION} KeyError('mean')",
    "scorer_half": f"{BAD_EVALUATION} DecodeError('Input data was truncated')",
    "scorer_link": f"{BAD_EVALUATION} ValueError('it is a link or too large')",
    "scorer_none": f"{BAD_EVALUATION} FileNotFoundError",
    "scorer_cras": "score: exit code 1: RuntimeError: the scorer exploded",
    "scorer_hang": "score: ended at its limit of 3 s (limits.score_seconds)",
}
HARMLESS = ("leaves_child", "loud", "chatty")
LIMITS = (
    "subject.limits.train_seconds=3",
    "subject.limits.score_seconds=3",
    "subject.limits.memory_mb=500",
    "+subject.limits.log_bytes=100000",
    "gate.vault_queries=0",  # no challenges: each candidate is trained once
)


class Campaign:
    """The finished campaign, and how its trials came out."""

    def __init__(self, evolve: Evolve, peak_mb: float) -> None:
        self.evolve, self.peak_mb = evolve, peak_mb
        self.folder = evolve.folder("faults")
        self.log = evolve("log")
        proposals = evolve.seen("faults", "Proposed")
        names = {
            proposal["proposal"]["candidate"]["params"]["fault"]: trial["number"]
            for proposal, trial in zip(proposals, evolve.seen("faults", "TrialScheduled")[4:], strict=True)
        }
        finished = {event["number"]: event for event in evolve.seen("faults", "TrialFinished")}
        self.trials: dict[str, dict[str, Any]] = {name: finished[number] for name, number in names.items()}

    def place(self, fault: str) -> Path:
        return self.folder / "trials" / f"{self.trials[fault]['number']:05d}"


def _high_water_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def make_faults(evolve: Evolve) -> None:
    folder, names = evolve.cwd, [*REASONS, *HARMLESS]
    (folder / "secret").write_text(SECRET)
    evolve.env |= {"OPENAI_API_KEY": "canary-key", "MLFLOW_TRACKING_URI": "http://canary"}
    words = [
        "run", *bench_subject(folder / "subject"), *faults(names), *LIMITS, "campaign=faults",
        f"budget.trials={4 + len(names)}", "executor.workers=2", "secret_file=secret",
    ]  # fmt: skip
    with (folder / "output").open("w") as output:
        process = subprocess.Popen([*COMMAND, *words], cwd=folder, env=evolve.env, stdout=output, stderr=output)
        peak_kb = 0
        while process.poll() is None:  # not by wait4: its peak contains that of the process which runs the tests
            peak_kb = max(peak_kb, _high_water_kb(process.pid))
            time.sleep(0.02)
    assert process.returncode == 0, (folder / "output").read_text()
    (folder / "peak_mb").write_text(str(peak_kb / 1024))


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = made_once(tmp_path_factory, "faults", make_faults)
    return Campaign(Evolve(folder), float((folder / "peak_mb").read_text()))


@pytest.mark.parametrize("fault", REASONS)
def test_what_misbehaves_is_a_failed_trial_with_its_reason_in_the_log(campaign: Campaign, fault: str) -> None:
    trial = campaign.trials[fault]
    assert trial["state"] == "FAIL"
    assert trial["error"].startswith(REASONS[fault])
    assert trial["score"] is None
    assert trial["weights"] is None
    line = next(line for line in campaign.log.splitlines() if f"trial      {trial['number']} FAIL" in line)
    assert REASONS[fault][:60] in line


@pytest.mark.parametrize("fault", HARMLESS)
def test_a_training_that_is_only_a_nuisance_is_scored(campaign: Campaign, fault: str) -> None:
    assert campaign.trials[fault]["state"] == "COMPLETE"
    assert campaign.trials[fault]["score"]["mean"] > 0


def test_the_campaign_goes_on_to_its_end_past_every_failure(campaign: Campaign) -> None:
    status = campaign.evolve.status()
    assert status["state"] == "finished"
    assert status["trials"] == {"complete": 4 + len(HARMLESS), "failed": len(REASONS), "pruned": 0, "running": 0}


def test_no_process_of_a_training_survives_it(campaign: Campaign) -> None:
    assert processes_of(campaign.folder) == []


def test_100_megabytes_of_output_are_kept_within_the_limit(campaign: Campaign) -> None:
    log = campaign.place("loud") / "train.log"
    assert 100_000 <= log.stat().st_size < 110_000
    assert b"bytes dropped" in log.read_bytes()
    assert len(campaign.trials["loud"]["log_tail"]) <= 4096
    assert campaign.peak_mb < 250  # of the controller: without a limit it would be 100 more than the 130 it takes


def test_a_flood_of_progress_becomes_a_short_curve(campaign: Campaign) -> None:
    curve = campaign.trials["chatty"]["curve"]
    assert 1 <= len(curve) <= 50


def test_a_trial_leaves_a_bounded_number_of_small_files(campaign: Campaign) -> None:
    for place in (campaign.folder / "trials").iterdir():
        files = [p for p in place.rglob("*") if not p.is_relative_to(place / "elsewhere")]
        assert len(files) <= 6, files
        assert not (place / "out").is_symlink()
        assert not (place / "out").exists(), "what a training wrote is not kept"


def test_what_a_training_prints_cannot_draw_on_the_terminal(campaign: Campaign) -> None:
    assert "exploded" in campaign.log
    for text in (campaign.log, (campaign.evolve.cwd / "output").read_text()):
        assert "\x1b" not in text
        assert "\x07" not in text


def test_no_secret_reaches_a_training(campaign: Campaign) -> None:
    seen = [json.loads(p.read_text()) for p in (campaign.folder / "trials").glob("*/seen-environment.json")]
    assert len(seen) == 4 + len(REASONS) + len(HARMLESS)
    for environment in seen:
        assert "canary" not in json.dumps(environment)
        assert not [name for name in environment if "KEY" in name or "TOKEN" in name or "MLFLOW" in name]


def test_the_problems_key_is_in_no_file_of_a_trial_after_its_score(campaign: Campaign) -> None:
    key = hmac.new(bytes.fromhex(SECRET), b"problems", hashlib.sha256).hexdigest()
    files = [p for p in (campaign.folder / "trials").rglob("*") if p.is_file()]
    assert len(files) > 100
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert key.encode() not in content, path


def test_a_training_is_told_its_params_and_seed_and_nothing_of_scores(campaign: Campaign) -> None:
    config = json.loads((campaign.place("loud") / "train.json").read_text())
    assert sorted(config) == ["assets", "device", "fidelity", "model", "params", "seed"]
    assert config["params"] == {"fault": "loud"}


# ---------------------------------------------------------------- the default itself


@pytest.mark.parametrize("fault", ["crash", "nothing", "scorer_nan_"])
def test_a_failing_default_ends_the_campaign_with_its_reason(evolve: Evolve, fault: str) -> None:
    subject = bench_subject(evolve.cwd / "subject")
    output = evolve("run", *subject, *faults(["none"], default=fault), *LIMITS, "campaign=c", "budget.trials=9", code=1)
    assert f"the default config must train on every seed, but trial 0 failed: {REASONS[fault][:40]}" in output
    assert evolve.status()["state"] == "failed"
    assert evolve.status()["trials"]["failed"] == 1
    assert "trial      0 FAIL" in evolve("log")


def test_a_train_command_that_cannot_start_is_said_so(evolve: Evolve) -> None:
    output = evolve("run", *bench_subject(evolve.cwd / "subject"), 'subject.train_cmd=["/no/such/python"]', code=1)
    assert "/no/such/python" in output
    assert evolve.status()["state"] == "failed"


# ---------------------------------------------------------------- a controller that is killed


@pytest.fixture
def reaper() -> Iterator[Callable[[int], int]]:
    """Orphans become ours and are reaped, as a system's init does; in a container there may be none that does."""
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    prctl(set_child_subreaper, 1)
    yield lambda pid: os.waitpid(pid, 0)[0]
    prctl(set_child_subreaper, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="subreapers are Linux's")
def test_a_resume_ends_the_children_that_a_killed_training_left(evolve: Evolve, reaper: Callable[[int], int]) -> None:
    subject = bench_subject(evolve.cwd / "subject")
    words = [*faults(["none"], default="stubborn"), "campaign=c", "budget.trials=4", "subject.limits.train_seconds=50"]
    process = evolve.start("run", *subject, *words)
    folder = evolve.folder("c")
    leader, child = sorted(wait_for(lambda: len(p := processes_of(folder)) == 2 and p, "the training forks its child"))
    process.kill()
    process.communicate()
    reaper(leader)  # it dies with the controller, its child does not
    assert processes_of(folder) == [child]
    again = evolve.start("resume")
    assert reaper(child) == child
    again.terminate()
    again.communicate(timeout=30)
    assert processes_of(folder) == []
