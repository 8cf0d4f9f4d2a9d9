"""The gate on real trainings of `arithmetic`: an A/A campaign, and how often a known gain is found.

    python benchmarks/gate_real.py campaign [--state-dir DIR]     # 50 edits of the random stream through the whole product; half an hour
    python benchmarks/gate_real.py pool [--folder DIR]            # trains and scores a pool; an hour of two cores, resumable
    python benchmarks/gate_real.py replay                         # campaigns drawn from the pool's scores (results/gate_real.json)

`campaign`: the subject gets one parameter more, `stream`, which changes the seed and nothing else; a person queues 50 values of
it (`evolve try`), and `evolve run gate=strict` does the rest: search, gate, vault. Nothing can be gained, so that whatever is promoted is an error.

`pool`: 240 trainings of the default and 64 of a config with a small real gain, each scored on the same eight sets of gate problems and one
set of the vault's. `replay` draws campaigns from it without putting back: a bank, then challengers, seed j of each scored beside the bank on
problem set j, judged by `evolve.gate` as a campaign would; the gain as it is, and with so much taken off that 2 sd are left. Campaigns of one pool are not independent of each other: the shares say what this pool gives.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evolve import gate
from evolve.config import load
from evolve.space import SearchSpace
from evolve.types import Evaluation, GateRules

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "gate_real.json"
GAIN: dict[str, Any] = {"prompt_masking": True}
CONFIGS: dict[str, tuple[dict[str, Any], int, int]] = {"default": ({}, 10_000, 240), "gain": (GAIN, 30_000, 64)}
KEY = "5e" * 32  # of the problems
SETS = [("gate", k) for k in range(1, 9)] + [("vault", 1)]
EDITS = 50

# ---------------------------------------------------------------- a campaign of edits that change only the random stream

TRAIN = (
    "import json, sys; from pathlib import Path; from train.run import run; "
    "a = dict(zip(sys.argv[1::2], sys.argv[2::2])); c = json.loads(Path(a['--config']).read_text()); "
    "c['seed'] = (c['seed'] + 7919 * c['params'].pop('stream')) % 2**31; run(c, Path(a['--out']))"
)


def campaign(state_dir: Path, workers: int) -> None:
    """Runs it, resumes it where it was interrupted, and prints what `evolve status` and the verdicts say."""
    command = [sys.executable, "-m", "evolve.cli"]
    place = f"state_dir={state_dir}"

    def evolve(*words: str) -> str:
        done = subprocess.run([*command, *words, place], capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            sys.exit(done.stderr)
        return done.stdout

    if not (state_dir / "campaigns" / "aa").exists():
        train = json.dumps(["{python}", "-c", TRAIN, "--config", "{config}", "--out", "{out}"])
        evolve(
            "run", "campaign=aa", "subject=arithmetic", "proposer=default", "gate=strict", "tracking=none", "start=default",
            f"subject.train_cmd={train}", "+subject.space.stream={type: int, low: 0, high: 1000000, default: 0}",
            "subject.limits.compute_ratio=3", "budget.trials=1", f"executor.workers={workers}",
        )  # fmt: skip
        for stream in range(1, EDITS + 1):
            evolve("try", f"stream={stream}", "--why", "another random stream")
    evolve("resume", "aa", "budget.trials=2000", f"executor.workers={workers}")
    status = json.loads(evolve("status", "--json"))
    events = [json.loads(line) for line in evolve("log", "--json").splitlines()]
    verdicts = [e["data"]["verdict"] for e in events if e["type"] == "VerdictReached"]
    final = [v for v in verdicts if v["decision"] != "NEED_MORE"]
    print(json.dumps({
        "edits": status["candidates"] - 1,
        "challenged": sum(e["type"] == "ChallengeOpened" for e in events),
        "accepted": sum(v["decision"] == "ACCEPT" for v in final),
        "vault_yes": sum(e["type"] == "VaultAnswered" and e["data"]["passed"] for e in events),
        "pending": len(status["pending"]),
        "seeds_per_challenge": round(fmean(len(v["differences"]) for v in final), 2) if final else None,
        "noise_floor": status["noise_floor"],
        "trials": status["spend"]["trials"],
    }))  # fmt: skip


# ---------------------------------------------------------------- a pool of trainings


def one(folder: Path, name: str, seed: int) -> str:
    """Trains and scores one, unless that is done. In a process of its own, one thread."""
    from evals.score import score
    from train.run import run

    out = folder / f"{name}-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    subject = load(["subject=arithmetic"]).subject
    space = SearchSpace(subject.space)
    params = dict(space.overlay(space.default(), CONFIGS[name][0]))
    common = {"device": "cpu", "model": dict(subject.model), "assets": {"base": str(ROOT / subject.assets["base"])}}
    weights = out / "weights.safetensors"
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if not weights.exists():
        run({"params": params, "seed": seed, "fidelity": 1.0, **common}, out)
    found = out / "scores.json"
    if not found.exists():
        scores = {}
        for split, number in SETS:
            drawn = {"split": split, "key": KEY, "round": number, "n": subject.problems}
            [e] = score({"weights": [str(weights)], **drawn, **common})["evaluations"]
            scores[f"{split}-{number}"] = [round(e["mean"], 5), round(e["stderr"], 5)]
        found.write_text(json.dumps(scores))
    return f"{name}-{seed}"


def pool(folder: Path, processes: int) -> None:
    jobs = [(name, first + i) for name, (_, first, count) in CONFIGS.items() for i in range(count)]
    with ProcessPoolExecutor(processes) as workers:
        for done, _ in enumerate(workers.map(one, [folder] * len(jobs), *zip(*jobs, strict=True)), start=1):
            if done % 20 == 0:
                print(f"{done} of {len(jobs)}", flush=True)
    scores = {name: [json.loads((folder / f"{name}-{first + i}" / "scores.json").read_text()) for i in range(count)]
              for name, (_, first, count) in CONFIGS.items()}  # fmt: skip
    RESULTS.write_text(json.dumps({"gain": GAIN, "scores": scores}) + "\n")


# ---------------------------------------------------------------- campaigns from the pool


class Draws:
    """Trainings of the pool in a random order, each used once."""

    def __init__(self, scores: list[dict[str, list[float]]], rng: random.Random) -> None:
        self.left = rng.sample(scores, len(scores))

    def take(self, count: int) -> list[dict[str, list[float]]]:
        taken, self.left = self.left[:count], self.left[count:]
        if len(taken) < count:
            raise IndexError
        return taken


def challenge(
    rules: GateRules,
    bank: list[dict[str, list[float]]],
    mine: Draws,
    champions: Draws,
    groups: list[list[float]],
    taken_off: float = 0.0,
    corrected: bool = True,
) -> tuple[bool, bool, int, dict[str, float]]:
    """(accepted, promoted, seeds, the verdict's numbers) of one challenger, whose trainings come from `mine`.

    `taken_off` its scores, the champion's noise and problems are as they are: a smaller gain than the one at hand.
    """
    taken = list[dict[str, list[float]]]()
    while True:
        taken += mine.take(1)
        sets = [f"gate-{k}" for k in range(1, len(taken) + 1)]
        rows = [[x[s][0] - taken_off, *(t[s][0] for t in bank)] for x, s in zip(taken, sets, strict=True)]
        means = [fmean(column) for column in list(zip(*rows, strict=True))[1:]]
        verdict = gate.judge([row[0] for row in rows], means, rules, references=[fmean(row[1:]) for row in rows],
                             prior=gate.pooled_variance([means, *groups]), corrected=corrected)  # fmt: skip
        if verdict.decision != "NEED_MORE":
            break
    if len(taken) > 1:
        groups.append(list(verdict.differences))
    if verdict.decision == "REJECT":
        return False, False, len(taken), dict(verdict.numbers)
    [new], [champion] = mine.take(1), champions.take(1)
    asked = [Evaluation("score", "vault", *t["vault-1"], 2000) for t in (new, champion, *bank)]
    asked[0] = replace(asked[0], mean=asked[0].mean - taken_off)
    vault = gate.judge_vault(asked[0], asked[1:], verdict, 1)
    return True, vault.decision == "ACCEPT", len(taken), dict(verdict.numbers)


def capped(name: str) -> GateRules:
    """A setting of the gate; with at most eight seeds, since the pool has eight sets of problems."""
    rules = load([f"gate={name}"]).gate
    return replace(rules, max_seeds=min(rules.max_seeds, 8))


def replay(campaigns: int) -> None:
    scores = json.loads(RESULTS.read_text())["scores"]
    flat = {name: [fmean(t[f"gate-{k}"][0] for k in range(1, 9)) for t in scores[name]] for name in scores}
    sd, gain = stdev(flat["default"]), fmean(flat["gain"]) - fmean(flat["default"])
    error = (sd**2 / len(flat["default"]) + stdev(flat["gain"]) ** 2 / len(flat["gain"])) ** 0.5
    print(f"pool: default {fmean(flat['default']):.4f}, seed sd {sd:.4f} over {len(flat['default'])} trainings; "
          f"gain of {GAIN}: {gain:+.4f} ± {error:.4f} = {gain / sd:.2f} sd")  # fmt: skip
    print(
        "\n| setting | A/A campaigns | candidates each | promote any | accepted | seeds a candidate |\n|---|---|---|---|---|---|"
    )
    for name in ("strict", "standard", "cheap", "exploratory"):
        rules, rng = capped(name), random.Random(name)
        hits, accepted, seeds, judged = 0, 0, 0, 0
        for _ in range(campaigns):
            draws = Draws(scores["default"], rng)
            bank, groups, hit = draws.take(rules.baseline_seeds), list[list[float]](), False
            for _ in range(EDITS):
                try:
                    yes, promoted, used, _ = challenge(rules, bank, draws, draws, groups)
                except IndexError:  # the pool is used up
                    break
                judged, accepted, seeds, hit = judged + 1, accepted + yes, seeds + used, hit or promoted
            hits += hit
        print(
            f"| {name} | {campaigns} | {judged / campaigns:.1f} | {hits / campaigns:.1%} | {accepted / judged:.2%} | {seeds / judged:.2f} |"
        )
    print(
        "\n| setting | gain, sd | challenges | accepted | promoted | seeds | interval holds the gain | naive |\n|---|---|---|---|---|---|---|---|"
    )
    whole = gain
    for name, gain in itertools.product(("strict", "standard", "cheap", "exploratory"), (whole, 2 * sd)):
        rules, rng = capped(name), random.Random(name)
        rows = []
        for _ in range(campaigns):
            draws, mine = Draws(scores["default"], rng), Draws(scores["gain"], rng)
            rows.append(challenge(rules, draws.take(rules.baseline_seeds), mine, draws, [], whole - gain))
        yes = [n for accepted, _, _, n in rows if accepted]
        held = fmean(n.get("low", -1.0) <= gain <= n["high"] for n in yes) if yes else float("nan")
        naive = fmean(abs(n["difference"] - gain) <= 1.96 * n["stderr"] for n in yes) if yes else float("nan")
        label = f"{name} (N={rules.max_seeds})"
        print(f"| {label} | {gain / sd:.1f} | {campaigns} | {len(yes) / campaigns:.0%} | {fmean(p for _, p, _, _ in rows):.0%} |"
              f" {fmean(s for _, _, s, _ in rows):.1f} | {held:.0%} | {naive:.0%} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["campaign", "pool", "replay"])
    parser.add_argument("--state-dir", type=Path, default=Path(".evolve/gate-real"))
    parser.add_argument("--folder", type=Path, default=Path(".evolve/gate-real-pool"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--campaigns", type=int, default=500)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.what == "campaign":
        campaign(arguments.state_dir, arguments.processes)
    elif arguments.what == "pool":
        pool(arguments.folder, arguments.processes)
    else:
        replay(arguments.campaigns)


if __name__ == "__main__":
    main()
