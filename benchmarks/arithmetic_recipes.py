"""Figures of the arithmetic subject, through the real commands: score, seed spread and CPU seconds of recipes.

    python benchmarks/arithmetic_recipes.py recipes [--seeds 3] [--only default sft_grpo ...]
    python benchmarks/arithmetic_recipes.py space [--points 12]      # CPU seconds of random points over the default's
    python benchmarks/arithmetic_recipes.py costs                    # the constants at the top of train/recipe.py

CPU seconds are those of the whole process (start and import of torch too), from the kernel (wait4), as the controller
measures them. Every seed is scored on problems of its own. Compare figures of one run of one table only: on a shared
machine CPU seconds differ by a tenth and more from one hour to the next.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SUBJECT = yaml.safe_load((ROOT / "configs/subject/arithmetic.yaml").read_text())
SPACE: dict[str, dict[str, Any]] = SUBJECT["space"]
KEY = "5e" * 32  # a fixed key, so that the table can be made again; a campaign's is secret

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "prompt masking": {"prompt_masking": True},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "sft_dpo": {"phases": "sft_dpo"},
    "sft_grpo": {"phases": "sft_grpo"},
    "sft_grpo, kl 0": {"phases": "sft_grpo", "kl_weight": 0.0},
    "sft_grpo, lr 1e-3": {"phases": "sft_grpo", "grpo_learning_rate": 1e-3},
    "sft_grpo, share .8": {"phases": "sft_grpo", "grpo_share": 0.8},
    "sft_dpo_grpo": {"phases": "sft_dpo_grpo"},
    "sft_grpo .8, masking, kl 0, batch": {
        "phases": "sft_grpo",
        "grpo_share": 0.8,
        "prompt_masking": True,
        "kl_weight": 0.0,
        "advantage_normalization": "batch",
    },
}


def active(params: dict[str, Any]) -> dict[str, Any]:
    """The active parameters: the defaults, overridden by `params`, without those whose condition does not hold."""
    full = {name: spec["default"] for name, spec in SPACE.items()} | params
    return {
        name: full[name]
        for name, spec in SPACE.items()
        if all(full[parent] in values for parent, values in spec.get("when", {}).items())
    }


def random_params(rng: random.Random) -> dict[str, Any]:
    """A point of the space, uniform (or log-uniform) in each parameter."""
    drawn: dict[str, Any] = {}
    for name, spec in SPACE.items():
        if spec["type"] == "categorical":
            drawn[name] = rng.choice(spec["choices"])
            continue
        low, high = spec["low"], spec["high"]
        value = math.exp(rng.uniform(math.log(low), math.log(high))) if spec.get("log") else rng.uniform(low, high)
        if "step" in spec:
            value = low + round((value - low) / spec["step"]) * spec["step"]
        drawn[name] = round(value) if spec["type"] == "int" else value
    return active(drawn)


def command(module: str, config: dict[str, Any], out: Path) -> tuple[float, float]:
    """Runs a module of the subject; returns its CPU and wall seconds.

    Raises:
        RuntimeError: it failed; the message is its last line.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{module}.json"
    path.write_text(json.dumps(config))
    started = time.perf_counter()
    with (out / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--config", str(path), "--out", str(out)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError((out / "log").read_text().strip().splitlines()[-1])
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - started


def train(params: dict[str, Any], seed: int, out: Path) -> tuple[float, float]:
    config = {
        "params": params,
        "seed": seed,
        "fidelity": 1.0,
        "device": SUBJECT["device"],
        "model": SUBJECT["model"],
        "assets": {"base": str(ROOT / SUBJECT["assets"]["base"])},
    }
    return command("train.run", config, out)


def score(weights: Path, round_number: int, out: Path) -> tuple[dict[str, Any], float, float]:
    config = {
        "weights": [str(weights)],
        "split": "search",
        "key": KEY,
        "round": round_number,
        "n": SUBJECT["problems"],
        "device": SUBJECT["device"],
        "model": SUBJECT["model"],
        "assets": {"base": str(ROOT / SUBJECT["assets"]["base"])},
    }
    cpu, wall = command("evals.score", config, out)
    return json.loads((out / "evaluation.json").read_text())["evaluations"][0], cpu, wall


def recipes(seeds: int, only: list[str], scratch: Path) -> None:
    evaluation, cpu, wall = score(ROOT / SUBJECT["assets"]["base"], 1000, scratch / "base")
    families = " ".join(evaluation["groups"])
    print(f"{'recipe':34s} score  sd    train CPU s (wall)  score CPU s (wall)  [{families}]", flush=True)
    print(row("base", [evaluation], [(0.0, 0.0)], [(cpu, wall)]), flush=True)
    for name, params in RECIPES.items():
        if only and name not in only:
            continue
        evaluations, trained, scored = [], [], []
        for seed in range(seeds):
            out = scratch / f"{name}-{seed}"
            trained.append(train(active(params), seed, out))
            evaluation, cpu, wall = score(out / "weights.safetensors", 1000 + seed, out)
            evaluations.append(evaluation)
            scored.append((cpu, wall))
        print(row(name, evaluations, trained, scored), flush=True)


def row(
    name: str, evaluations: list[dict[str, Any]], trained: list[tuple[float, float]], scored: list[tuple[float, float]]
) -> str:
    means = [e["mean"] for e in evaluations]
    sd = statistics.stdev(means) if len(means) > 1 else float("nan")
    groups = " ".join(
        f"{statistics.mean(e['groups'][g]['mean'] for e in evaluations):.2f}" for g in evaluations[0]["groups"]
    )
    seconds = [
        f"{statistics.mean(c for c, _ in s):5.2f} ({statistics.mean(w for _, w in s):5.2f})" for s in (trained, scored)
    ]
    return f"{name:34s} {statistics.mean(means):.3f} {sd:.3f}  {seconds[0]}       {seconds[1]}       [{groups}]"


def space(points: int, scratch: Path) -> None:
    """Interleaves random points with the default, so that a change of the machine's load hits both."""
    rng = random.Random(1)
    ratios = []
    for i in range(points):
        default_cpu, _ = train(active({}), i, scratch / f"default-{i}")
        params = random_params(rng)
        try:
            cpu, _ = train(params, i, scratch / f"point-{i}")
        except RuntimeError as error:
            print(f"failed: {error} {params}", flush=True)
            continue
        ratios.append(cpu / default_cpu)
        short = {k: round(v, 4) if isinstance(v, float) else v for k, v in params.items() if v != SPACE[k]["default"]}
        print(f"{ratios[-1]:.2f} = {cpu:.2f} / {default_cpu:.2f}  {short}", flush=True)
    print(
        f"CPU seconds over the default's: min {min(ratios):.2f} median {statistics.median(ratios):.2f} max {max(ratios):.2f}"
    )


def costs() -> None:
    """Times the parts of a recipe in this process and prints the constants of train/recipe.py."""
    sys.path.insert(0, str(ROOT))
    import torch

    from train import recipe
    from train.model import ModelConfig, Transformer
    from train.tasks import draw_many, rewards
    from train.tokenizer import encode_prompt

    torch.set_num_threads(1)
    model = Transformer(ModelConfig(**SUBJECT["model"]))
    params: recipe.Params = active({})
    optimizer = recipe.adamw(model, params, 0.0)
    rng = random.Random(0)

    def cpu(work: Callable[[], object], times: int = 20) -> float:
        work()
        seconds = []
        for _ in range(3):
            started = time.process_time()
            for _ in range(times):
                work()
            seconds.append((time.process_time() - started) / times)
        return min(seconds)

    def sft_step(batch: int) -> None:
        loss = recipe.sft_loss(model, tokens[:batch], False, 0.0)
        recipe.update(model, optimizer, loss, params, 0.0, 0.0)

    def grpo_pass(batch: int) -> None:
        log_probs, counts = recipe.answer_log_probs(model, tokens[:batch, :10], tokens[:batch, 10:])
        recipe.update(model, optimizer, (log_probs * counts).mean(), params, 0.0, 0.0)

    def rollout(prompts: int) -> None:
        problems = draw_many(prompts, rng)
        asked = torch.tensor([encode_prompt(p.prompt) for p in problems])
        rewards(problems, model.generate(asked, 8, 1.0))

    def forward(batch: int) -> None:
        with torch.no_grad():
            recipe.answer_log_probs(model, tokens[:batch, :10], tokens[:batch, 10:])

    tokens = torch.randint(4, 14, (256, 17))
    unit = cpu(lambda: sft_step(64)) / 64
    print(f"unit {unit * 1e6:.0f} CPU microseconds (an SFT sequence in a batch of 64)")
    for name, step in (("SFT", sft_step), ("GRPO pass", grpo_pass), ("forward", forward)):
        small, large = (cpu(partial(step, batch)) / unit for batch in (16, 256))
        slope = (large - small) / 240
        print(f"{name}: step {small - 16 * slope:.1f}, sequence {slope:.2f}")
    small, large = (cpu(partial(rollout, prompts)) / unit for prompts in (4, 32))
    slope = (large - small) / (8 * 28)
    print(f"rollout (group of 8): step {small - 32 * slope:.1f}, answer {slope:.2f}")
    model.dropout = 0.1
    small, large = (cpu(partial(sft_step, batch)) / unit for batch in (16, 256))
    slope = (large - small) / 240
    print(f"SFT with dropout: step {small - 16 * slope:.1f}, sequence {slope:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=["recipes", "space", "costs"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if args.table == "costs":
        costs()
        return
    with tempfile.TemporaryDirectory() as scratch:
        if args.table == "recipes":
            recipes(args.seeds, args.only, Path(scratch))
        else:
            space(args.points, Path(scratch))


if __name__ == "__main__":
    main()
