"""Training and scoring as the controller meets them: through their commands and files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evals.grading import BadWeights, load_weights
from evals.problems import split_of
from evals.score import score
from train.tasks import FAMILIES, is_held_out

ROOT = Path(__file__).resolve().parents[2]
SUBJECT = yaml.safe_load((ROOT / "configs/subject/arithmetic.yaml").read_text())
BASE = ROOT / SUBJECT["assets"]["base"]
KEY = "0f" * 32


def call(kind: str, config: dict, out: Path, **popen) -> subprocess.CompletedProcess[str]:
    path = out / f"{kind}.json"
    path.write_text(json.dumps(config))
    words = {"python": sys.executable, "config": str(path), "out": str(out)}
    command = [part.format(**words) for part in SUBJECT[f"{kind}_cmd"]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | popen.pop("env", {})
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **popen)


def train_config(**changes) -> dict:
    params = {name: spec["default"] for name, spec in SUBJECT["space"].items() if "when" not in spec}
    config = {
        "params": params | changes.pop("params", {}),
        "seed": 0,
        "fidelity": 0.04,
        "device": "cpu",
        "model": SUBJECT["model"],
        "assets": {"base": str(BASE)},
    }
    return config | changes


def score_config(**changes) -> dict:
    config = {
        "weights": [str(BASE)],
        "split": "search",
        "key": KEY,
        "round": 0,
        "n": 350,
        "device": "cpu",
        "model": SUBJECT["model"],
        "assets": {"base": str(BASE)},
    }
    return config | changes


def test_a_short_training_is_scored_through_the_two_commands(tmp_path):
    read, write = os.pipe()
    trained = call("train", train_config(), tmp_path, env={"EVOLVE_PROGRESS_FD": str(write)}, pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as pipe:
        progress = [json.loads(line) for line in pipe]
    assert trained.returncode == 0, trained.stderr
    assert 5 <= len(progress) <= 20
    assert progress[-1]["phase"] == "sft"
    assert set(progress[-1]["metrics"]) == {"loss", "exact_match"}
    assert [line["tokens"] for line in progress] == sorted(line["tokens"] for line in progress)
    weights = load_file(tmp_path / "weights.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in weights.items()} == {
        k: (v.shape, v.dtype) for k, v in load_file(BASE).items()
    }

    scored = call("score", score_config(weights=[str(tmp_path / "weights.safetensors")]), tmp_path)
    assert scored.returncode == 0, scored.stderr
    [evaluation] = json.loads((tmp_path / "evaluation.json").read_text())["evaluations"]
    assert evaluation["metric"] == "score"
    assert evaluation["n"] == len(evaluation["per_problem"]) == 350
    assert evaluation["mean"] == pytest.approx(sum(evaluation["per_problem"]) / 350)
    assert [group["n"] for group in evaluation["groups"].values()] == [50] * 7


def test_a_diverging_training_exits_with_a_clear_last_line_and_no_weights(tmp_path):
    poisoned = load_file(BASE)
    poisoned["norm.weight"][0] = float("inf")
    save_file(poisoned, tmp_path / "base.safetensors")
    config = train_config(assets={"base": str(tmp_path / "base.safetensors")})
    failed = call("train", config, tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("training diverged: the loss must stay finite")
    assert not (tmp_path / "weights.safetensors").exists()


def test_the_base_is_small_and_knows_more_than_it_shows():
    assert BASE.stat().st_size < 1_000_000
    [evaluation] = score(score_config(n=700))["evaluations"]
    assert 0.05 < evaluation["mean"] < 0.35


def test_a_score_is_repeatable_and_its_standard_error_is_that_of_a_share():
    first, again = score(score_config()), score(score_config())
    assert first == again
    [found] = first["evaluations"]
    p = found["mean"]
    assert found["stderr"] == pytest.approx((p * (1 - p) / 349) ** 0.5)


def broken(kind: str) -> tuple[dict[str, torch.Tensor], dict[str, str] | None]:
    weights = load_file(BASE)
    if kind == "shape":
        weights["norm.weight"] = torch.ones(65)
    if kind == "nan":
        weights["norm.weight"][3] = float("nan")
    if kind == "extra":
        weights["extra"] = torch.ones(2)
    if kind == "missing":
        del weights["norm.weight"]
    if kind == "dtype":
        weights["norm.weight"] = weights["norm.weight"].half()
    return weights, {"note": "hello"} if kind == "metadata" else None


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("shape", r"norm.weight must have shape \[64\], but got \[65\]"),
        ("nan", "norm.weight must be finite"),
        ("extra", r"unknown \['extra'\]"),
        ("missing", r"missing \['norm.weight'\]"),
        ("dtype", "norm.weight must be float32"),
        ("metadata", "no metadata"),
    ],
)
def test_unacceptable_weights_are_refused_with_the_rule_that_they_break(kind, message, tmp_path):
    weights, metadata = broken(kind)
    save_file(weights, tmp_path / "weights.safetensors", metadata)
    with pytest.raises(BadWeights, match=message):
        load_weights(tmp_path / "weights.safetensors", BASE)


def test_a_link_a_pickle_and_a_giant_are_refused_in_the_place_of_weights(tmp_path):
    (tmp_path / "link").symlink_to(BASE)
    (tmp_path / "pickle").write_bytes(b"\x80\x04not safetensors")
    (tmp_path / "giant").write_bytes(bytes(1_000_000))
    for name, message in (("link", "regular file"), ("pickle", "cannot be read"), ("giant", "at most")):
        with pytest.raises(BadWeights, match=message):
            load_weights(tmp_path / name, BASE)


def test_scoring_command_exits_3_on_bad_weights_and_writes_no_score(tmp_path):
    weights, _ = broken("nan")
    save_file(weights, tmp_path / "weights.safetensors")
    refused = call("score", score_config(weights=[str(tmp_path / "weights.safetensors")]), tmp_path)
    assert refused.returncode == 3
    assert refused.stderr.strip() == "scoring refused: norm.weight must be finite, but holds NaN or infinity"
    assert not (tmp_path / "evaluation.json").exists()


def answers_config(*sets: dict, **changes) -> dict:
    config = {key: value for key, value in score_config().items() if key not in ("split", "round", "n")}
    return config | {"sets": list(sets)} | changes


def test_answers_are_graded_as_the_scorer_grades_and_given_prompts_keep_to_the_search_split(tmp_path):
    prompts = [
        [FAMILIES["add"].prompt(i), FAMILIES["add"].right(FAMILIES["add"].prompt(i))] for i in range(0, 600_000, 1000)
    ]
    wrong = [["é", "1"], ["1" * 12, "1"], ["12+1=", "1234567"]]  # a character, a length and an answer that do not exist
    drawn = {"split": "search", "round": 0, "n": 350}
    done = call("answer", answers_config(drawn, {"prompts": [*wrong, *prompts], "n": 40}), tmp_path)
    assert done.returncode == 0, done.stderr
    first, given = json.loads((tmp_path / "answers.json").read_text())["sets"]
    [evaluation] = score(score_config())["evaluations"]
    assert first["evaluations"][0]["results"] == evaluation["per_problem"]
    assert len(first["problems"]) == 350
    assert len(given["problems"]) == len(given["evaluations"][0]["answers"]) == 40
    assert all(split_of(bytes.fromhex(KEY), p["prompt"]) == "search" for p in given["problems"])
    left_out = given["left_out"]
    assert left_out["invalid"] == 3
    assert left_out["could be in the train split"] == sum(not is_held_out(p) for p, _ in prompts)
    assert sum(left_out.values()) < 603 - 40, "the rest was not needed"


def test_answers_are_never_given_on_gate_or_vault(tmp_path):
    for split in ("gate", "vault"):
        done = call("answer", answers_config({"split": split, "round": 0, "n": 350}), tmp_path)
        assert done.returncode == 2
        assert "on the search split alone" in done.stderr
    assert not (tmp_path / "answers.json").exists()
