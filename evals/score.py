"""Scores weights: `python -m evals.score --config CONFIG.json --out OUTDIR` writes OUTDIR/evaluation.json.

CONFIG.json holds `weights` (a list of files), `split` (search, gate or vault), `key` (64 hex digits, the campaign's), `round`, `n`,
`device`, `model` and `assets.base`. The score is greedy exact match on `n` problems drawn here; nothing that a training
process wrote is read except the weights. `metrics.unsatisfiable` is the share of problems that were given their decoy
(`evals/decoys.py`), which honest training does next to never. evaluation.json is `{"evaluations": [...]}`, one for each
weights file, in order. Exit 3: the weights are unacceptable; exit 2: the configuration is.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from evals.decoys import decoy
from evals.grading import BadWeights, answers_of, grade, load_weights, mean_and_stderr
from evals.problems import draw_held_out
from train.model import ModelConfig, Transformer
from train.tasks import FAMILIES


def score(config: dict[str, Any]) -> dict[str, Any]:
    """The content of evaluation.json; `per_problem` is in the order of the draw, so that two scores can be paired.

    Raises:
        BadWeights: see `load_weights`.
        ValueError, KeyError: the configuration is wrong.
    """
    torch.set_num_threads(1)
    model = Transformer(ModelConfig(**config["model"]))
    problems = draw_held_out(bytes.fromhex(config["key"]), config["split"], config["round"], config["n"])
    decoys = [decoy(bytes.fromhex(config["key"]), p) for p in problems]
    evaluations = []
    for path in config["weights"]:
        weights = load_weights(Path(path), Path(config["assets"]["base"]))
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in model.state_dict().items()}:
            raise ValueError(f"the base must fit the model {config['model']}; make one with train.make_base")
        model.load_state_dict(weights)
        answers = answers_of(model.to(config["device"]), problems)
        graded = grade(answers, [p.answer for p in problems])
        groups = {
            family: mean_and_stderr([g for g, p in zip(graded, problems, strict=True) if p.family == family])
            for family in FAMILIES
        }
        metrics = {"unsatisfiable": sum(grade(answers, decoys)) / len(decoys)}
        found = {"metric": "score", **mean_and_stderr(graded), "groups": groups, "metrics": metrics}
        evaluations.append(found | {"per_problem": graded})
    return {"evaluations": evaluations}


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores weights on held-out problems and writes evaluation.json.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        evaluation = score(json.loads(args.config.read_text()))
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "evaluation.json").write_text(json.dumps(evaluation, allow_nan=False) + "\n")
    except BadWeights as error:
        print(f"scoring refused: {error}", file=sys.stderr)
        sys.exit(3)
    except KeyError as error:
        print(f"scoring failed: the config must name {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, TypeError, OSError) as error:
        print(f"scoring failed: {error}", file=sys.stderr)
        sys.exit(2)
    for e in evaluation["evaluations"]:
        print(f"score {e['mean']:.4f} +- {e['stderr']:.4f} on {e['n']} problems")


if __name__ == "__main__":
    main()
