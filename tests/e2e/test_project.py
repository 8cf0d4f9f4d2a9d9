"""Somebody's own training project as a subject: from `evolve init` to a promotion, and what `evolve check` finds before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from .cli import ROOT, SMALL_GATE, Evolve

EXAMPLE = ROOT / "examples" / "argparse-script"

TRAIN = """
import argparse, json, pathlib, random
p = argparse.ArgumentParser()
p.add_argument("--x", type=float, default=0.3)
p.add_argument("--mode", choices=["flat", "curved"], default="flat")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--data", default="data/train.json")
p.add_argument("--out", default="out")
a = p.parse_args()
rng = random.Random(a.seed)
assert json.loads(pathlib.Path(a.data).read_text())
for step in range(1, 5):
    print(f"step {step}: loss {1 / step}")
skill = 1 - (a.x - 0.8) ** 2 + (0.05 if a.mode == "curved" else 0) + rng.gauss(0, 0.01)
pathlib.Path(a.out, "model.json").write_text(json.dumps(skill))
"""
SCORE = """
import argparse, json, pathlib
import metrics
p = argparse.ArgumentParser()
p.add_argument("--model")
p.add_argument("--data")
a = p.parse_args()
skill = json.loads(pathlib.Path(a.model, "model.json").read_text())
print(json.dumps(metrics.report(skill, json.loads(pathlib.Path(a.data).read_text()))))
"""
METRICS = """
def report(skill, problems):
    return {"accuracy": sum(u < skill / 1.2 for u in problems) / len(problems), "n": len(problems)}
"""
GOOD = {
    "train_cmd": "python train.py {params:--key value} --seed {seed} --data {data} --out {out}",
    "score_cmd": "python score.py --model {weights} --data {data}",
    "objective": {"accuracy": "maximize"},
    "weights": ["model.json"],
    "data": {"train": "data/train.json", "search": "data/dev.json", "vault": "data/test.json"},
    "editable": ["train.py"],
    "log_progress": r"step (?P<step>\\d+): loss (?P<loss>\\S+)".replace("\\\\", "\\"),
    "limits": {"train_seconds": 20, "score_seconds": 20},
    "space": {
        "x": {"low": 0.0, "high": 1.0, "default": 0.3},
        "mode": {"choices": ["flat", "curved"], "default": "flat"},
    },
}
RUN = ("run", "subject=digits/evolve.yaml", "tracking=none", *SMALL_GATE, "campaign=c")
RANDOM = (*RUN, "proposer=random", "seed=3")


def project(folder: Path) -> Path:
    """A whole project of the standard library alone; what is in `GOOD` fits it."""
    (folder / "data").mkdir(parents=True)
    for name, text in {"train.py": TRAIN, "score.py": SCORE, "metrics.py": METRICS}.items():
        (folder / name).write_text(text)
    for number, name in enumerate(("train", "dev", "test")):
        rows = [(i * 0.6180339887 + number / 7) % 1 for i in range(2000)]
        (folder / "data" / f"{name}.json").write_text(json.dumps(rows))
    return folder


def subject(folder: Path, **changes: object) -> Path:
    path = folder / "evolve.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (GOOD | changes).items() if v is not None}))
    return path


# ---------------------------------------------------------------- from an empty folder to a promotion


def test_a_project_is_tuned_reviewed_and_promoted_without_a_line_changed(evolve: Evolve) -> None:
    folder = project(evolve.cwd / "digits")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    subject(folder)
    evolve(*RANDOM, "budget.trials=40")
    request = json.loads(evolve("review", "--json"))["waiting"][0]
    assert (evolve.folder("c") / "weights").exists()
    curve = next(e["curve"] for e in evolve.events("TrialFinished") if e["curve"])
    assert [point["step"] for point in curve] == [1, 2, 3, 4]
    evolve("approve", request["candidate"], "--yes", request["content_hash"])
    assert "promoted" in evolve("log")
    evolve("export-champion", "--out", "champion")
    assert sorted(p.name for p in (evolve.cwd / "champion").iterdir()) == ["README.md", "candidate.json", "model.json"]
    assert "Approved by" in (evolve.cwd / "champion" / "README.md").read_text()
    assert {p: p.read_bytes() for p in before} == before
    assert not list(folder.rglob("__pycache__"))


def test_without_data_for_the_vault_a_promotion_says_that_it_is_not_confirmed(evolve: Evolve) -> None:
    folder = project(evolve.cwd / "digits")
    subject(folder, data={"train": "data/train.json", "search": "data/dev.json"})
    evolve(*RANDOM, "budget.trials=40")
    request = json.loads(evolve("review", "--json"))["waiting"][0]
    assert "not confirmed" in json.dumps(json.loads(evolve("review", "--json")))
    evolve("approve", request["candidate"], "--yes", request["content_hash"])
    assert "not confirmed" in evolve("log")
    assert "vault      yes, not confirmed: the subject has no data for the vault" in evolve("log", "--decisions")
    evolve("report", "--out", "report.html")
    assert "vault yes, not confirmed" in (evolve.cwd / "report.html").read_text()
    evolve("export-champion", "--out", "champion")
    assert "vault: yes, not confirmed" in (evolve.cwd / "champion" / "README.md").read_text()


def test_three_commands_from_somebodys_script_to_the_first_scored_trial(evolve: Evolve) -> None:
    shutil.copytree(EXAMPLE, evolve.cwd, dirs_exist_ok=True, ignore=shutil.ignore_patterns("evolve.yaml"))
    said = evolve(
        "init", "--train", "python train.py {params:--key value} --seed {seed} --data {data} --out {out}",
        "--score", "python score.py --model {weights} --data {data}", "--metric", "accuracy",
        "--infer", "train.py", "--data", "train=data/train.jsonl", "--data", "search=data/dev.jsonl",
        "--data", "vault=data/test.jsonl", "--editable", "train.py",
    )  # fmt: skip
    assert "evolve check evolve.yaml" in said
    checked = evolve("check", "evolve.yaml")
    assert "FAIL" not in checked
    assert "ready: evolve run subject=evolve.yaml" in checked
    assert "log_progress: 'step (?P<step>" in checked
    said = evolve("run", "subject=quadratic", "--dry-run")
    assert "note:" not in said
    assert "for yours: evolve run subject=evolve.yaml" in evolve("run", "--dry-run")
    said = evolve(
        "run", "subject=evolve.yaml", "tracking=none", *SMALL_GATE, "proposer=random", "budget.trials=5", "campaign=c"
    )
    assert "reckoned with 70 s a trial, the subject's `estimate`" in said
    assert "nothing waits for approval; to go on, raise a limit: evolve resume c budget.trials=25" in said
    assert [e["state"] for e in evolve.events("TrialFinished")][:4] == ["COMPLETE"] * 4
    for line in (EXAMPLE / "train.py", EXAMPLE / "score.py", EXAMPLE / "model.py"):
        assert "evolve" not in line.read_text().split('"""', 2)[2], "nothing of ours is in their code"


def test_edited_code_sees_no_data_but_those_to_train_on(evolve: Evolve) -> None:
    folder = project(evolve.cwd / "digits")
    (folder / "held" / "out").mkdir(parents=True)
    (folder / "data" / "test.json").rename(folder / "held" / "out" / "test.json")
    subject(folder, data={"train": "data/train.json", "search": "data/dev.json", "vault": "held/out"},
            score_cmd="python score.py --model {weights} --data {data}")  # fmt: skip
    replaced(
        "score.py",
        "pathlib.Path(a.data).read_text()",
        "(pathlib.Path(a.data) / 'test.json' if pathlib.Path(a.data).is_dir() else pathlib.Path(a.data)).read_text()",
    )(folder)
    edited = TRAIN.replace(
        "rng = random",
        """seen = [p.name for p in pathlib.Path("held/out").iterdir()]
assert seen == [] and pathlib.Path("score.py").read_text()
try:
    pathlib.Path("data/dev.json").read_bytes()
except PermissionError:
    pass
else:
    raise AssertionError("the search's data can be read")
assert len(json.loads(pathlib.Path("data/train.json").read_text())) == 2000
rng = random""",
        1,
    )
    evolve(*RUN, "proposer=default", "budget.trials=4")
    (evolve.cwd / "train.py").write_text(edited)
    evolve("try", "--patch", "train.py", "x=0.5")
    evolve("resume", "budget.trials=5")
    (trial,) = [e for e in evolve.events("TrialFinished") if e["number"] == 4]
    assert (trial["state"], trial["error"]) == ("COMPLETE", None)


# ---------------------------------------------------------------- what `evolve check` finds


def replaced(name: str, old: str, new: str) -> Callable[[Path], dict[str, object]]:
    def change(folder: Path) -> dict[str, object]:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        return {}

    return change


def with_settings(**changes: object) -> Callable[[Path], dict[str, object]]:
    return lambda folder: changes


MISTAKES: dict[str, tuple[Callable[[Path], dict[str, object]], str]] = {
    "a place that is none": (
        with_settings(train_cmd="python train.py {params:--key value} --seed {sed} --data {data} --out {out}"),
        "FAIL  settings   subject.train_cmd may hold",
    ),
    "no seed": (
        with_settings(train_cmd="python train.py {params:--key value} --data {data} --out {out}"),
        "FAIL  seed       train_cmd takes no seed, so that noise cannot be told from gain",
    ),
    "a seed that is not used": (
        replaced("train.py", "random.Random(a.seed)", "random.Random(0)"),
        "FAIL  seed       another seed left the very same files",
    ),
    "a parameter that never arrives": (
        with_settings(train_cmd="python train.py --x {param:x} --seed {seed} --data {data} --out {out}"),
        "FAIL  space      mode never reaches the training",
    ),
    "a parameter that the script does not know": (
        with_settings(space=GOOD["space"] | {"momentum": {"low": 0.0, "high": 1.0, "default": 0.5}}),  # type: ignore[operator]
        "the script does not know --momentum 0.5",
    ),
    "a scorer that can be edited": (
        with_settings(editable=["train.py", "metrics.py"]),
        "FAIL  scorer     score_cmd runs metrics.py, which may be edited, so that a score could be cheated",
    ),
    "no vault": (
        with_settings(data={"train": "data/train.json", "search": "data/dev.json"}),
        "note  vault      no data for the vault, so that promotions are marked as not confirmed",
    ),
    "a vault that was searched on": (
        with_settings(data={"train": "data/train.json", "search": "data/dev.json", "vault": "data/dev.json"}),
        "FAIL  data       vault is the data of the search",
    ),
    "a training that reads what it is scored on": (
        with_settings(data={"train": "data/dev.json", "search": "data/dev.json", "vault": "data/test.json"}),
        "FAIL  settings   subject.data.search must be apart from what a training reads",
    ),
    "weights that are not left": (
        with_settings(weights=["model.pt"]),
        "FAIL  train      A training must leave model.pt, but there is none",
    ),
    "another name of the metric": (
        with_settings(objective={"acc": "maximize"}),
        "FAIL  score      The scorer must say its acc, but it says accuracy, n; call it 'acc'",
    ),
    "a scorer that draws lots": (
        replaced("score.py", "skill = json", "import random; skill = random.random() * json"),
        "FAIL  score      the same files scored",
    ),
    "a number without its error": (
        replaced("metrics.py", ', "n": len(problems)', ""),
        "note  error      the scorer says no standard error",
    ),
    "a limit that is too short": (
        lambda folder: (
            replaced("train.py", "rng = random", "import time; time.sleep(30); rng = random")(folder)
            | {"limits": {"train_seconds": 1, "score_seconds": 20}}
        ),
        "FAIL  train      train: ended at its limit of 1 s (limits.train_seconds)",
    ),
    "a library that is not installed": (
        replaced("train.py", "rng = random", "import no_such_library; rng = random"),
        "no_such_library is not installed for this interpreter",
    ),
    "data that are not there": (
        with_settings(data={"train": "data/train.json", "search": "data/dve.json"}),
        "FAIL  settings   subject.data.search must exist, but there is no",
    ),
    "a training that writes beside its sources": (
        replaced("train.py", "rng = random", 'open("cache.txt", "w"); rng = random'),
        "it writes beside its sources, which are a read-only copy",
    ),
    "a pickle of edited code": (
        lambda folder: (
            replaced("train.py", '"model.json")', '"model.pt")')(folder)
            | replaced("score.py", '"model.json")', '"model.pt")')(folder)
            | {"weights": ["model.pt"]}
        ),
        "note  weights    model.pt may hold a pickle, and loading one runs code",
    ),
}


def test_a_project_that_is_in_order_is_ready(evolve: Evolve) -> None:
    subject(project(evolve.cwd / "digits"))
    said = evolve("check", "digits/evolve.yaml")
    assert [line.split()[0] for line in said.splitlines()] == ["ok"] * 6 + ["ready:"], said


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found_and_its_mending_said(evolve: Evolve, mistake: str) -> None:
    change, wanted = MISTAKES[mistake]
    folder = project(evolve.cwd / "digits")
    subject(folder, **change(folder))
    done = evolve.raw("check", "digits/evolve.yaml")
    assert "Traceback" not in done.stderr, done.stderr
    assert wanted in done.stdout, done.stdout
    assert done.returncode == ("FAIL" in done.stdout)


# ---------------------------------------------------------------- accelerators


@pytest.mark.parametrize(("each", "workers", "seen"), [("1", 2, {"5", "7"}), ("0.5", 4, {"5", "7"}), ("2", 1, {"5,7"})])
def test_each_trial_sees_the_accelerators_of_its_own(evolve: Evolve, each: str, workers: int, seen: set[str]) -> None:
    folder = project(evolve.cwd / "digits")
    replaced(
        "train.py",
        "rng = random",
        'import os, time; print("sees", os.environ["CUDA_VISIBLE_DEVICES"]); time.sleep(0.3); rng = random',
    )(folder)
    subject(folder, device="cuda", editable=[])
    evolve.env["CUDA_VISIBLE_DEVICES"] = "5,7"
    evolve(
        "run", "subject=digits/evolve.yaml", "tracking=none", *SMALL_GATE, "proposer=random", "budget.trials=8", "campaign=c",
        f"executor.workers={workers}", f"executor.gpus_per_trial={each}",
    )  # fmt: skip
    logs = [path.read_text().split("sees ")[1].split()[0] for path in evolve.folder("c").glob("trials/*/train.log")]
    assert set(logs) == seen
    said = evolve.refuses(
        "run", "subject=digits/evolve.yaml", "tracking=none", f"executor.workers={workers + 1}",
        f"executor.gpus_per_trial={each}",
    )  # fmt: skip
    assert f"executor.workers must be at most what the accelerators here carry, {workers}" in said


# ---------------------------------------------------------------- the examples


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "examples").glob("*/evolve.yaml")))
def test_each_example_is_ready_and_runs_as_its_readme_says(evolve: Evolve, name: str) -> None:
    shutil.copytree(ROOT / "examples" / name, evolve.cwd / "copy")
    evolve.cwd = evolve.cwd / "copy"
    if name == "autoresearch-style":
        replaced("prepare.py", "TIME_BUDGET = 20.0", "TIME_BUDGET = 1.0")(evolve.cwd)
    checked = evolve("check", "evolve.yaml", timeout=240)
    assert not [line for line in checked.splitlines() if line.startswith(("FAIL", "note"))], checked
    evolve(
        "run", "subject=evolve.yaml", "tracking=none", *SMALL_GATE, "proposer=random", "budget.trials=6", "campaign=c",
        timeout=240,
    )  # fmt: skip
    trials = evolve.events("TrialFinished")
    assert [e["state"] for e in trials] == ["COMPLETE"] * 6, [e["error"] for e in trials]
    assert all(e["curve"] for e in trials)
    assert "evolve.yaml" in (evolve.cwd / "README.md").read_text()
