"""Trains one candidate: `python -m train.run --config CONFIG.json --out OUTDIR` writes OUTDIR/weights.safetensors.

CONFIG.json holds `params` (flat, the active parameters of the space), `seed`, `fidelity` in (0, 1] (share of the budget),
`device`, `model` (dim, layers, heads) and `assets.base` (the checkpoint to start from). Protected: the recipe decides how
the budget is used, this file decides how much there is, and what is reported. A param `compute` in (0, 1], 1 where it is
missing, is the share of the budget that the candidate asks for; the recipe does not see it.

Progress goes to stdout for people, and as JSON lines to the file descriptor named by EVOLVE_PROGRESS_FD, where it is set.
It is self-reported, and no verdict rests on it. No score is computed here: that is `evals.score`, another process.
"""

import argparse
import json
import math
import os
import random
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from train import recipe
from train.model import ModelConfig, Transformer
from train.tasks import FAMILIES, draw, rewards
from train.tokenizer import ANSWER_TOKENS, SEQUENCE_TOKENS, encode_answer, encode_prompt

BUDGET = 16_128.0  # at fidelity 1: 240 SFT steps of 64 sequences, at the costs measured in recipe.py
REPORTS = 20  # in a training
PROBE_PROBLEMS = 126  # of the train split, 18 of each family; 20 probes are about 3 % of a default training


class Divergence(ArithmeticError):
    """The loss or a weight is not finite."""


class Progress:
    """Reports every 5 % of the budget: loss, and the share of right greedy answers on fixed train-split problems."""

    def __init__(self, model: Transformer, budget: float) -> None:
        self.model = model
        self.budget = budget
        self.fd = int(os.environ["EVOLVE_PROGRESS_FD"]) if "EVOLVE_PROGRESS_FD" in os.environ else None
        self.step = 0
        self.reported = 0
        rng = random.Random("probe")
        self.problems = [draw(family, rng) for family in FAMILIES for _ in range(PROBE_PROBLEMS // len(FAMILIES))]
        right = [FAMILIES[p.family].right(p.prompt) for p in self.problems]
        self.tokens = torch.tensor(
            [encode_prompt(p.prompt) + encode_answer(a) for p, a in zip(self.problems, right, strict=True)],
            device=model.device,
        )  # (126, 17)

    def exact_match(self) -> float:
        """Share of problems whose every answer token is the likeliest one, given the right ones before it.

        That is exactly the share of right greedy answers, at the price of one forward pass.
        """
        self.model.eval()
        with torch.no_grad():
            answers = self.model(self.tokens[:, :-1])[:, -ANSWER_TOKENS:].argmax(-1)  # (126, 7)
        self.model.train()
        return float(rewards(self.problems, answers[:, None]).mean())

    def __call__(self, phase: str, spent: float, loss: torch.Tensor) -> None:
        """Called by the recipe after each step, with the units of budget that it has spent so far."""
        self.step += 1
        mark = min(REPORTS, int(REPORTS * spent / self.budget + 1e-9))
        if mark <= self.reported:
            return
        self.reported = mark
        if not math.isfinite(loss.item()):
            raise Divergence(f"the loss must stay finite, but is {loss.item()} at step {self.step} ({phase})")
        metrics = {"loss": round(loss.item(), 5), "exact_match": round(self.exact_match(), 5)}
        tokens = int(spent * SEQUENCE_TOKENS)  # the equivalent in SFT tokens, so that recipes share one axis
        line = {"step": self.step, "tokens": tokens, "metrics": metrics, "phase": phase}
        shown = " ".join(f"{name} {value}" for name, value in metrics.items())
        print(f"{phase} step {self.step} tokens {tokens} {shown}", flush=True)
        if self.fd is not None:
            try:
                os.write(self.fd, (json.dumps(line) + "\n").encode())
            except BrokenPipeError:
                self.fd = None  # nobody listens any more


def run(config: dict, out: Path) -> None:
    """Trains and writes the weights.

    Raises:
        ValueError: the configuration is wrong, or the base does not fit the model.
        Divergence: nothing is written.
    """
    torch.set_num_threads(1)  # two processes of one thread beat one of two by 1.4x
    if not 0 < config["fidelity"] <= 1:
        raise ValueError(f"0 < fidelity <= 1 must hold, but got {config['fidelity']}")
    params = dict(config["params"])
    compute = float(params.pop("compute", 1.0))
    if not 0 < compute <= 1:
        raise ValueError(f"0 < compute <= 1 must hold, but got {compute}")
    torch.manual_seed(config["seed"])
    model = Transformer(ModelConfig(**config["model"]))
    try:
        model.load_state_dict(load_file(config["assets"]["base"]))
    except RuntimeError as error:
        raise ValueError(f"the base must fit the model {config['model']}: {' '.join(str(error).split())}") from error
    model.to(config["device"])
    budget = BUDGET * config["fidelity"] * compute
    recipe.train(model, params, budget, config["seed"], Progress(model, budget))
    weights = {name: tensor.float().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise Divergence(f"weights must be finite, but {name} is not")
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "weights.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains one candidate and writes weights.safetensors.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        run(json.loads(args.config.read_text()), args.out)
    except Divergence as error:
        sys.exit(f"training diverged: {error}; lower a learning rate.")
    except KeyError as error:
        sys.exit(f"the config or its params must name {error}; see configs/subject/arithmetic.yaml.")
    except (ValueError, OSError) as error:
        sys.exit(f"training failed: {error}")


if __name__ == "__main__":
    main()
