"""Scores what a training left: `python -m evals.trl.score --config CONFIG.json --out OUTDIR` writes OUTDIR/evaluation.json.

CONFIG.json holds `weights` (the folder), `split`, `key` (64 hex digits, the campaign's), `round`, `n`, `device`, `fixed` (of the
subject) and `assets.base`. The score is the share of problems whose greedy answer the task's verifier holds for wholly right. Nothing
of what a training left is read but its tensors and the numbers of its LoRA. Exit 3: those are unacceptable; exit 2: the configuration is.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from evals.trl.problems import draw
from train.trl import model as models
from train.trl.tasks import Tasks, messages


def score(config: dict[str, Any]) -> dict[str, Any]:
    """The content of evaluation.json. `weights` None scores the base itself.

    Raises:
        BadWeights: see `train.trl.model.load_trained`.
        ValueError, KeyError: the configuration is wrong.
    """
    fixed, device = config["fixed"], str(config["device"])
    if device == "cpu":
        torch.set_num_threads(1)
    tasks = Tasks.given(str(fixed["tasks"]))
    problems = draw(tasks, bytes.fromhex(config["key"]), config["split"], config["round"], config["n"])
    model, tokenizer = models.load_base(Path(config["assets"]["base"]), device)
    if config["weights"] is not None:
        model = models.load_trained(model, Path(config["weights"]))
    asked = [messages(p, str(fixed["instruction"])) for p in problems]
    answers, ended = models.generate(
        model, tokenizer, asked, int(fixed["max_completion_length"]), int(fixed["score_batch_size"])
    )
    right = [int(tasks.reward(p, text) >= 1) for p, text in zip(problems, answers, strict=True)]
    groups = {
        name: {"mean": fmean(r for r, p in zip(right, problems, strict=True) if p.task == name)}
        for name in sorted({p.task for p in problems})
    }
    cut = 1 - fmean(ended)
    return {"score": fmean(right), "n": len(right), "per_problem": right, "groups": groups, "cut_off": cut}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Scores a trained model on held-out problems and writes evaluation.json."
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        evaluation = score(json.loads(args.config.read_text()))
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "evaluation.json").write_text(json.dumps(evaluation, allow_nan=False) + "\n")
    except models.BadWeights as error:
        print(f"scoring refused: {error}", file=sys.stderr)
        sys.exit(3)
    except KeyError as error:
        print(f"scoring failed: the config must name {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, TypeError, OSError) as error:
        print(f"scoring failed: {error}", file=sys.stderr)
        sys.exit(2)
    print(
        f"score {evaluation['score']:.4f} on {evaluation['n']} problems, {evaluation['cut_off']:.2f} of the answers cut off"
    )


if __name__ == "__main__":
    main()
