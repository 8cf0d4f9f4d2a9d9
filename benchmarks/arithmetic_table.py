"""Makes the table of real trainings that `benchmarks/search.py` searches: 1,000 configs of the arithmetic subject.

    python benchmarks/arithmetic_table.py [--workers 2] [--nice 0]    # 90 minutes of CPU time; resumable

Config 0 is the default, 1 to 499 are uniform over the space, 500 to 999 are steps around the twenty best of those (a
table of uniform points alone has nothing to say about the region in which a search ends). Each is trained once and
scored once on 2,000 problems of its seed; then a random tenth of them on two seeds more. Each has half of the default
budget (`fidelity` 0.5): the whole budget for all would take three hours of CPU time. The code of the subject does all
of it, in processes forked from one that has imported it: the import of torch would cost as much again.

A line of `results/arithmetic_table.jsonl` holds: `config` (number), `seed`, `params` (active ones), `score` (null where
the training failed), `stderr`, `cpu_seconds` of the training (without imports) and `curve`, the exact match on the
train probe at each 5 % of the budget.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.arithmetic_recipes import KEY, SPACE, SUBJECT, active, random_params  # noqa: E402

TABLE = Path(__file__).parent / "results/arithmetic_table.jsonl"
CONFIGS, UNIFORM, PARENTS, REPEATED, SEEDS = 1000, 500, 20, 100, 3
FIDELITY = 0.5


def step_from(params: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Each coordinate moved with probability 0.3 by a Gaussian step of 0.15 of its range, categoricals redrawn by 0.15."""
    moved = {name: spec["default"] for name, spec in SPACE.items()} | params
    for name, spec in SPACE.items():
        if spec["type"] == "categorical":
            if rng.random() < 0.15:
                moved[name] = rng.choice(spec["choices"])
            continue
        if rng.random() > 0.3:
            continue
        low, high = (math.log(v) if spec.get("log") else v for v in (spec["low"], spec["high"]))
        at = math.log(moved[name]) if spec.get("log") else moved[name]
        at = min(high, max(low, at + rng.gauss(0, 0.15) * (high - low)))
        value = min(spec["high"], max(spec["low"], math.exp(at) if spec.get("log") else at))
        if "step" in spec:
            value = round(spec["low"] + round((value - spec["low"]) / spec["step"]) * spec["step"], 10)
        moved[name] = round(value) if spec["type"] == "int" else value
    return active(moved)


def measure(params: dict[str, Any], seed: int) -> dict[str, Any]:
    """One training and one score, in this process."""
    from evals.score import score
    from train import run

    curve: list[float] = []

    class Recorded(run.Progress):
        def exact_match(self) -> float:
            curve.append(round(super().exact_match(), 4))
            return curve[-1]

    run.Progress = Recorded  # type: ignore[misc]
    common = {"device": "cpu", "model": SUBJECT["model"], "assets": {"base": str(ROOT / SUBJECT["assets"]["base"])}}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        started = time.process_time()
        try:
            run.run({"params": params, "seed": seed, "fidelity": FIDELITY, **common}, out)
        except run.Divergence as error:
            return {"score": None, "error": str(error), "cpu_seconds": time.process_time() - started, "curve": curve}
        cpu = time.process_time() - started
        weights = {"weights": [str(out / "weights.safetensors")]}
        drawn = {"split": "search", "key": KEY, "round": 2000 + seed, "n": SUBJECT["problems"]}
        [evaluation] = score({**weights, **drawn, **common})["evaluations"]
    return {
        "score": evaluation["mean"],
        "stderr": round(evaluation["stderr"], 5),
        "cpu_seconds": round(cpu, 2),
        "curve": curve,
    }


def in_child(config: int, params: dict[str, Any], seed: int) -> int:
    """Forks; the child appends its line to the table (one write, so that lines of two children do not mix)."""
    if pid := os.fork():
        return pid
    try:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        line = {"config": config, "seed": seed, "params": params, **measure(params, seed)}
        with TABLE.open("ab", buffering=0) as table:
            table.write((json.dumps(line) + "\n").encode())
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  a fork must never return into the parent's code
        print(f"config {config}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []


def plan() -> list[tuple[int, dict[str, Any], int]]:
    """What is still to be trained and can be by now: (config, params, seed)."""
    rng = random.Random("arithmetic table")
    configs = [active({}), *(random_params(rng) for _ in range(UNIFORM - 1))]
    table = {(row["config"], row["seed"]): row for row in read()}
    if all((c, 0) in table for c in range(UNIFORM)):
        scored = [table[c, 0] for c in range(UNIFORM) if table[c, 0]["score"] is not None]
        best = sorted(scored, key=lambda row: -row["score"])[:PARENTS]
        configs += [step_from(rng.choice(best)["params"], rng) for _ in range(CONFIGS - UNIFORM)]
    wanted = [(c, 0) for c in range(len(configs))]
    if len(configs) == CONFIGS:
        repeated = random.Random("repeats").sample(range(CONFIGS), REPEATED)
        wanted += [(c, seed) for c in repeated for seed in range(1, SEEDS)]
    return [(c, configs[c], seed) for c, seed in wanted if (c, seed) not in table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--nice", type=int, default=0)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.nice(args.nice)
    import torch._dynamo  # noqa: F401  the first optimizer would import it in each child

    import train.run  # noqa: F401

    while todo := plan():
        running: set[int] = set()
        for item in todo:
            while len(running) >= args.workers:
                running.discard(os.wait()[0])
            running.add(in_child(*item))
        while running:
            running.discard(os.wait()[0])
        print(f"{len(read())} trainings", flush=True)


if __name__ == "__main__":
    main()
