"""Trains one candidate: `python -m train.trl.run --config CONFIG.json --out OUTDIR`.

CONFIG.json holds `params` (the active parameters of the space and the subject's `fixed` ones), `seed`, `fidelity` in (0, 1]
(share of the budget of `samples`), `device` and `assets.base`, the folder of the model to start from. A file of problems is named by
EVOLVE_DATA. Protected: the recipe decides how the budget is used, this file decides how much there is, and what is kept.

Progress goes to stdout, and as JSON lines to the descriptor in EVOLVE_PROGRESS_FD: besides the trainer's own numbers `probe_loss`, the
cross-entropy per token of right answers to fixed problems of the train split. It is self-reported; no verdict rests on it.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from train.trl import model as models
from train.trl import recipe
from train.trl.tasks import Tasks, messages

REPORTS, PROBE_PROBLEMS = 10, 8  # reports in a training; problems of the probe: together some hundredths of a training
SHOWN = ("loss", "reward", "rewards/accuracies", "kl", "completions/mean_length", "mean_token_accuracy", "entropy")


class Progress:
    """Reports each tenth of the budget."""

    def __init__(self, model: Any, tokenizer: Any, tasks: Tasks, params: dict[str, Any], samples: int) -> None:
        self.model, self.samples, self.reported = model, samples, 0
        self.fd = int(os.environ["EVOLVE_PROGRESS_FD"]) if "EVOLVE_PROGRESS_FD" in os.environ else None
        plain = tokenizer.chat_template is None
        self.probe = []  # (tokens of prompt and answer, how many are the prompt's)
        for problem in tasks.train(PROBE_PROBLEMS, 0):
            asked = models.prompt_of(tokenizer, messages(problem, str(params["instruction"])))
            prompt = tokenizer(asked, add_special_tokens=plain)["input_ids"]
            answer = tokenizer(problem.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            self.probe.append((torch.tensor([prompt + answer], device=model.device), len(prompt)))

    def probe_loss(self) -> float:
        """Mean over the answers' tokens, in nats."""
        total, count, training = 0.0, 0, self.model.training
        self.model.eval()
        with torch.no_grad():
            for tokens, prompt in self.probe:
                logits = self.model(tokens[:, :-1]).logits[0, prompt - 1 :].float()  # (answer, vocab)
                total += float(torch.nn.functional.cross_entropy(logits, tokens[0, prompt:], reduction="sum"))
                count += tokens.shape[1] - prompt
        self.model.train(training)
        return total / count

    def __call__(self, used: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            raise ArithmeticError(f"the loss must stay finite, but is {logs['loss']} after {used} samples")
        mark = min(REPORTS, int(REPORTS * used / self.samples + 1e-9))
        if mark <= self.reported:
            return
        self.reported = mark
        metrics = {name.replace("/", "_"): round(logs[name], 5) for name in SHOWN if name in logs}
        metrics["probe_loss"] = round(self.probe_loss(), 5)
        print(f"samples {used} " + " ".join(f"{name} {value}" for name, value in metrics.items()), flush=True)
        if self.fd is not None:
            try:
                os.write(self.fd, (json.dumps({"step": used, "tokens": used, "metrics": metrics}) + "\n").encode())
            except BrokenPipeError:
                self.fd = None  # nobody listens any more


def run(config: dict[str, Any], out: Path) -> None:
    """Trains and writes what is kept.

    Raises:
        ValueError: the configuration is wrong.
        ArithmeticError: the training diverged; nothing is written.
    """
    params, device = dict(config["params"]), str(config["device"])
    if device == "cpu":
        torch.set_num_threads(1)  # trainings run side by side
    if not 0 < config["fidelity"] <= 1:
        raise ValueError(f"0 < fidelity <= 1 must hold, but got {config['fidelity']}")
    tasks = Tasks.given(str(params["tasks"]))
    torch.manual_seed(config["seed"])
    model, tokenizer = models.load_base(Path(config["assets"]["base"]), device)
    samples = max(1, int(int(params["samples"]) * config["fidelity"]))
    progress = Progress(model, tokenizer, tasks, params, samples)
    trained = recipe.train(model, tokenizer, tasks, params, samples, config["seed"], device, progress)
    models.save(trained, tokenizer, out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains one candidate with TRL and writes an adapter or a model.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        run(json.loads(args.config.read_text()), args.out)
    except ArithmeticError as error:
        sys.exit(f"training diverged: {error}; lower a learning rate.")
    except KeyError as error:
        sys.exit(f"the config or its params must name {error}; see configs/subject/_trl.yaml.")
    except (ValueError, OSError) as error:
        sys.exit(f"training failed: {error}")


if __name__ == "__main__":
    main()
