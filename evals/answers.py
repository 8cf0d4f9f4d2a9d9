"""The model's own answers: `python -m evals.answers --config CONFIG.json --out OUTDIR` writes OUTDIR/answers.json.

For evaluations that were proposed as code, which run elsewhere: they get what is written here, and neither weights nor key.
CONFIG.json holds `weights`, `key`, `device`, `model`, `assets.base` as for `evals.score`, and `sets`: each one is `split`
(search alone), `round` and `n`, or `prompts` (a list of [prompt, expected answer]) with `n`, the most that are used.

answers.json is `{"sets": [{"problems": [{"prompt", "expected"}], "evaluations": [{"answers", "results"}], "left_out": {}}]}`:
one evaluation for each weights file, `results` as `evals.score` grades. Of given prompts those that are malformed, in the
train split, or in the gate's or vault's part by the campaign's key are left out and counted. Exit codes as `evals.score`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from evals.grading import BATCH, BadWeights, load_weights
from evals.problems import HeldOut, draw_held_out, split_of
from train.model import ModelConfig, Transformer
from train.tasks import FAMILIES
from train.tokenizer import decode_answer, encode_answer, encode_prompt

INVALID, TRAIN, ELSEWHERE = "invalid", "could be in the train split", "kept for gate or vault"


def usable(prompts: list[list[str]], key: bytes, most: int) -> tuple[list[HeldOut], dict[str, int]]:
    """The first `most` prompts that may be asked, and how many of all could not be, by reason."""
    found, left_out = list[HeldOut](), {INVALID: 0, TRAIN: 0, ELSEWHERE: 0}
    for prompt, expected in prompts:
        try:
            encode_prompt(prompt)
            encode_answer(expected)
        except (ValueError, KeyError):
            left_out[INVALID] += 1
            continue
        split = split_of(key, prompt)
        if split == "search":
            found.append(HeldOut("given", prompt, expected))
        else:
            left_out[TRAIN if split is None else ELSEWHERE] += 1
    return found[:most], left_out


def answer(model: Transformer, prompts: list[str]) -> list[str | None]:
    """Greedy answers, None where there is none that ends."""
    found: list[str | None] = []
    for start in range(0, len(prompts), BATCH):
        batch = torch.tensor(
            [encode_prompt(p) for p in prompts[start : start + BATCH]], device=model.device
        )  # (batch, 10)
        found += [decode_answer(ids) for ids in model.generate(batch)[:, 0].tolist()]
    return found


def answers(config: dict[str, Any]) -> dict[str, Any]:
    """The content of answers.json.

    Raises:
        BadWeights: see `load_weights`.
        ValueError, KeyError: the configuration is wrong.
    """
    torch.set_num_threads(1)
    key = bytes.fromhex(config["key"])
    sets: list[dict[str, Any]] = []
    for wanted in config["sets"]:
        if "prompts" in wanted:
            problems, left_out = usable(wanted["prompts"], key, wanted["n"])
        else:
            if wanted["split"] != "search":
                raise ValueError(f"answers are given on the search split alone, but got {wanted['split']!r}")
            problems, left_out = draw_held_out(key, "search", wanted["round"], max(wanted["n"], len(FAMILIES))), {}
        asked = [{"prompt": p.prompt, "expected": p.answer} for p in problems]
        sets.append({"problems": asked, "evaluations": [], "left_out": left_out})
    model = Transformer(ModelConfig(**config["model"])).to(config["device"])
    for path in config["weights"]:
        model.load_state_dict(load_weights(Path(path), Path(config["assets"]["base"])))
        for each in sets:
            given = answer(model, [p["prompt"] for p in each["problems"]])
            results = [int(a == p["expected"]) for a, p in zip(given, each["problems"], strict=True)]
            each["evaluations"].append({"answers": given, "results": results})
    return {"sets": sets}


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the answers of weights to held-out problems as answers.json.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        found = answers(json.loads(args.config.read_text()))
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "answers.json").write_text(json.dumps(found, allow_nan=False) + "\n")
    except BadWeights as error:
        print(f"answering refused: {error}", file=sys.stderr)
        sys.exit(3)
    except KeyError as error:
        print(f"answering failed: the config must name {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"answering failed: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
