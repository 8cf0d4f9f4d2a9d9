"""Edits of the arithmetic harness whose worth is stated before it is measured, and how often the gate accepts each.

    python benchmarks/edits.py smoke                     # every harness at a twentieth of the budget: that it runs, and what it says it spends
    python benchmarks/edits.py pool [--folder DIR]       # trains and scores; 45 minutes of one core, resumable, each round of seeds usable by itself
    python benchmarks/edits.py replay [--campaigns 200]  # challenges drawn from the pool's scores -> results/edits.md

The edits and the expectations are in known_edits.yaml, the ready ones among them in configs/ready_edits/arithmetic.yaml.

`pool`: on two base checkpoints (the bundled one, and one that `train.make_base` makes with another seed) it trains each edit, and a
bank of each harness that edits are made on. Challenger seed j is scored on problem set j, the banks on all sets, all of them on
one set of the vault's: as a campaign would. Problems are fresh: no training and no other round has seen them.
CPU seconds are the kernel's of the child that trained. It is forked from a process that has torch loaded, since 2.3 s of
imports, the same for all, would hide a part of what an edit spends; a campaign's ratios are a little nearer to 1.

`replay` draws challenges from the pool without putting back: a bank, then the edit's seeds in a random order, judged by
`evolve.gate`, then equal compute and the groups' guard as a campaign judges them, then the vault. Challenges of one pool share
trainings: the shares say what this pool gives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import runpy
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.arithmetic_recipes import SUBJECT, active
from benchmarks.gate_real import KEY, Draws, challenge
from evolve import gate, patches
from evolve.config import load
from evolve.types import Block, GateRules, Objective, ReadyEdit

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "train/recipe.py"
READY = ROOT / "configs" / "ready_edits" / "arithmetic.yaml"
KNOWN = ROOT / "benchmarks" / "known_edits.yaml"
RESULTS = ROOT / "benchmarks" / "results" / "edits.json"
TABLE = RESULTS.with_suffix(".md")

PLAIN = "the recipe as it is"
BASE_SEEDS = {"bundled": None, "other": 101}  # of train.make_base; None: the subject's own asset
SETS = 6  # of gate problems, one for each challenger seed
ROUNDS = 7  # one challenger seed each and two of each bank; one is left for the vault
SETTINGS = ("strict", "standard", "cheap", "single_seed")


# ---------------------------------------------------------------- the edits


@dataclass(frozen=True)
class Known:
    """One entry of known_edits.yaml, whose head says what the fields mean."""

    name: str
    expected: Literal["helps", "hurts", "nothing"]
    about: float
    why: str
    harness: str | None = None
    ready: str = ""
    params: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Harness:
    """A whole recipe with its parameters: what is trained."""

    name: str
    recipe: str
    params: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Another one for every other text or value, so that a pool never mixes two of one name."""
        return hashlib.sha256(json.dumps([self.recipe, dict(self.params)], sort_keys=True).encode()).hexdigest()[:12]


def ready_edits() -> tuple[ReadyEdit, ...]:
    return msgspec.yaml.decode(READY.read_bytes(), type=tuple[ReadyEdit, ...])


def known_edits() -> tuple[Known, ...]:
    decoder: Any = partial(msgspec.yaml.decode, type=tuple[Known, ...])
    return decoder(KNOWN.read_bytes())


def harness_of(name: str | None) -> Harness:
    """The harness of an entry: that of the entry it is on, then its ready edit's blocks, then its own."""
    text = (ROOT / RECIPE).read_text()
    if name is None:
        return Harness(PLAIN, text, active({}))
    [known] = [k for k in known_edits() if k.name == name]
    below = harness_of(known.harness)
    params, blocks = dict(below.params), known.blocks
    if known.ready:
        [ready] = [e for e in ready_edits() if e.name == known.ready]
        params |= {name: p.default for name, p in ready.parameters.items()}
        blocks = (*ready.blocks, *known.blocks)
    return Harness(known.name, patches.from_blocks({RECIPE: below.recipe}, blocks)[RECIPE], params | dict(known.params))


def banks() -> list[str | None]:
    """What champions carry: one entry each, None for the recipe as it is."""
    return list(dict.fromkeys(k.harness for k in known_edits()))


# ---------------------------------------------------------------- a pool of trainings


def in_child(work: Callable[[], None]) -> float:
    """CPU seconds of `work`, done in a fork of this process. Raises `RuntimeError` where it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if child.exitcode:
        raise RuntimeError(f"a child must end with 0, but ended with {child.exitcode}; see what it printed last.")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def module(tree: Path, name: str, config: Path, out: Path) -> None:
    """`python -m NAME` in `tree`. Only in a child: it changes the process."""
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    sys.argv = [name, "--config", str(config), "--out", str(out)]
    sys.stdout = (out / f"{name}.log").open("w")
    runpy.run_module(name, run_name="__main__")
    if not str(sys.modules["train"].__file__).startswith(str(tree)):
        raise RuntimeError(f"{name} must come from {tree}, but came from {sys.modules['train'].__file__}.")


def common(base: Path) -> dict[str, Any]:
    return {"device": SUBJECT["device"], "model": SUBJECT["model"], "assets": {"base": str(base)}}


def train(harness: Harness, base: Path, seed: int, fidelity: float, folder: Path, out: Path) -> float:
    """Weights into `out`; CPU seconds."""
    tree = folder / "harnesses" / harness.key
    if not tree.exists():
        shutil.copytree(ROOT / "train", tree / "train", ignore=shutil.ignore_patterns("assets", "__pycache__"))
        (tree / RECIPE).write_text(harness.recipe)
    out.mkdir(parents=True, exist_ok=True)
    config = {"params": dict(harness.params), "seed": seed, "fidelity": fidelity, **common(base)}
    (out / "config.json").write_text(json.dumps(config))
    return in_child(partial(module, tree, "train.run", out / "config.json", out))


def score(base: Path, sets: list[str], out: Path) -> dict[str, dict[str, Any]]:
    """Of the weights in `out`, on each set (`gate-3`)."""
    found = {}
    for name in sets:
        split, number = name.split("-")
        asked = {"split": split, "key": KEY, "round": int(number), "n": SUBJECT["problems"]}
        (out / "asked.json").write_text(
            json.dumps({"weights": [str(out / "weights.safetensors")], **asked, **common(base)})
        )
        in_child(partial(module, ROOT, "evals.score", out / "asked.json", out))
        [e] = json.loads((out / "evaluation.json").read_text())["evaluations"]
        found[name] = {"mean": round(e["mean"], 5), "stderr": round(e["stderr"], 5),
                       "groups": [round(g["mean"], 4) for g in e["groups"].values()],
                       "right": "".join(map(str, e["per_problem"]))}  # fmt: skip
    return found


def one(harness: Harness, base: tuple[str, Path], seed: int, sets: list[str], folder: Path) -> dict[str, Any]:
    """A training with its scores, unless it is there already."""
    place = folder / base[0] / f"{harness.key}-{seed}.json"
    if not place.exists():
        out = place.with_suffix("")
        seconds = train(harness, base[1], seed, 1.0, folder, out)
        found = {"seed": seed, "cpu_seconds": round(seconds, 3), "scores": score(base[1], sets, out)}
        shutil.rmtree(out)
        place.write_text(json.dumps(found))
    return json.loads(place.read_text())


def base_checkpoints(folder: Path) -> dict[str, Path]:
    """The paths of the bases; makes what is missing (three minutes)."""
    found = {}
    for name, seed in BASE_SEEDS.items():
        found[name] = ROOT / SUBJECT["assets"]["base"] if seed is None else folder / f"base-{seed}.safetensors"
        if not found[name].exists():
            arguments = ["train.make_base", "--seed", str(seed), "--out", str(found[name])]
            in_child(lambda words=arguments: (setattr(sys, "argv", words), runpy.run_module(words[0], run_name="__main__"))[0])  # fmt: skip
    return found


def schedule(rounds: int) -> Iterator[tuple[int, str | None, int, list[str]]]:
    """(round, harness, seed, sets) in the order in which they are made: after each round there are as many seeds of every edit.

    A harness with a bank has no seeds of its own as a challenger: its bank's serve, since they meet another harness' bank.
    """
    everything = [*(f"gate-{k}" for k in range(1, SETS + 1)), "vault-1"]
    names = [*dict.fromkeys([*banks(), *(k.name for k in known_edits())])]
    for number in range(rounds):
        # in another order in each round: a machine that others use too gets slower for an hour, for none of the edits more than for others
        for place in random.Random(number).sample(range(len(names)), len(names)):
            name, first = names[place], 20_000 + 1_000 * place
            if name in banks():
                yield from ((number, name, first + 2 * number + i, everything) for i in range(2))
            else:
                yield number, name, first + number, [f"gate-{1 + number % SETS}", "vault-1"]


def pool(folder: Path, rounds: int) -> None:
    import torch._dynamo  # noqa: F401  # once, for all children

    folder.mkdir(parents=True, exist_ok=True)
    bases = base_checkpoints(folder)
    harnesses = {name: harness_of(name) for name in [*banks(), *(k.name for k in known_edits())]}
    started, last = time.monotonic(), 0
    for number, name, seed, sets in schedule(rounds):
        if number != last:
            collect(folder, number)
            print(f"{number} of {rounds} rounds, {time.monotonic() - started:.0f} s", flush=True)
        last = number
        for base in bases.items():
            one(harnesses[name], base, seed, sets, folder)
    collect(folder, rounds)


def collect(folder: Path, rounds: int) -> None:
    """What `replay` needs of the first `rounds` rounds, into results/edits.json: scores without single problems, and their error."""
    arms: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in BASE_SEEDS:
        arms[name] = {}
        for _, edit, seed, _ in schedule(rounds):
            harness = harness_of(edit)
            found = json.loads((folder / name / f"{harness.key}-{seed}.json").read_text())
            arms[name].setdefault(harness.name, []).append(found)
    errors = {
        name: {k.name: problem_error(arms[name][k.name], arms[name][k.harness or PLAIN]) for k in known_edits()}
        for name in BASE_SEEDS
    }
    for base in arms.values():
        for trainings in base.values():
            for t in trainings:
                scores = t.pop("scores")
                t |= {s: [e["mean"], e["stderr"], e["groups"]] for s, e in scores.items()}
    RESULTS.write_text(json.dumps({"rounds": rounds, "problem_errors": errors, "trainings": arms}) + "\n")


def problem_error(challengers: list[dict[str, Any]], bank: list[dict[str, Any]]) -> float:
    """Standard error of the mean difference over problems: each set's, paired problem by problem with the bank's mean."""
    import numpy as np

    def right(t: dict[str, Any], name: str) -> Any:
        return np.frombuffer(t["scores"][name]["right"].encode(), np.uint8) - ord("0")

    variances = []
    for name, t in by_set(challengers).items():
        difference = right(t, name) - np.mean([right(b, name) for b in bank], axis=0)  # (problems,)
        variances.append(difference.var(ddof=1) / len(difference))
    return round(float(np.sqrt(np.sum(variances)) / len(variances)), 5)


def by_set(challengers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The challenger seed of each problem set, in the order of the seeds."""
    return {f"gate-{k}": t for k, t in enumerate(challengers[:SETS], start=1)}


# ---------------------------------------------------------------- challenges from the pool


@dataclass(frozen=True)
class Outcome:
    """Of one challenge: what the test, the guards and the vault said, each asked after the one before."""

    better: bool
    compute: bool
    groups: bool
    accepted: bool
    seeds: int


@cache
def rules_of(setting: str) -> GateRules:
    return load([f"gate={setting}"]).gate


def play(
    challengers: list[dict[str, Any]], bank: list[dict[str, Any]], setting: str, rng: random.Random
) -> Outcome | None:
    """One challenge; None where the pool's bank is too small for the setting.

    `gate_real.challenge` reads set j for the j-th seed. Here the set goes with the seed, so that the sets are named anew.
    """
    rules = rules_of(setting)
    # one training of each side is left for the vault
    rules = replace(rules, max_seeds=min(rules.max_seeds, SETS, len(challengers) - 1))
    if len(bank) <= rules.baseline_seeds:
        return None
    sets = list(by_set(challengers))
    order = rng.sample(range(len(sets)), len(sets))
    renamed = {sets[old]: f"gate-{new}" for new, old in enumerate(order, start=1)} | {"vault-1": "vault-1"}

    def rename(t: Mapping[str, Any]) -> dict[str, Any]:
        return {renamed[s]: x for s, x in t.items() if s in renamed}

    champions = Draws([t | {"names": rename(t)} for t in bank], rng)
    stored = champions.take(rules.baseline_seeds)
    mine = [*(challengers[i] for i in order), *challengers[SETS:]]
    draws, rest = Draws([], rng), Draws([], rng)
    draws.left = [{"vault-1": t["vault-1"][:2]} for t in mine]
    for n, i in enumerate(order):
        draws.left[n][f"gate-{n + 1}"] = mine[n][sets[i]][:2]
    rest.left = [{s: x[:2] for s, x in t["names"].items()} for t in champions.left]
    scores = [{s: x[:2] for s, x in t["names"].items()} for t in stored]
    better, vault, seeds, _ = challenge(rules, scores, draws, rest, [], corrected=False)

    limits = SUBJECT["limits"]
    spent = Objective("train_seconds", "minimize", limits["compute_slack_seconds"], limits["compute_ratio"] - 1)
    compute = gate.judge_guard(
        spent.metric, [t["cpu_seconds"] for t in mine[:seeds]], [t["cpu_seconds"] for t in stored], spent
    ).holds
    [tolerance] = [g["tolerance"] for g in SUBJECT["guards"] if g["metric"] == "groups"]
    kept = Objective("groups", "maximize", tolerance)
    groups = all(
        gate.judge_guard("groups", [mine[j][sets[order[j]]][2][g] for j in range(seeds)],
                         [fmean(t[sets[order[j]]][2][g] for t in stored) for j in range(seeds)], kept).holds
        for g in range(len(mine[0]["vault-1"][2]))
    )  # fmt: skip
    return Outcome(better, compute, groups, better and compute and groups and vault, seeds)


def difference(challengers: list[dict[str, Any]], bank: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean over the challenger seeds of score less the bank's mean on the same problems; its standard error over seeds."""
    pairs = by_set(challengers)
    found = [t[s][0] - fmean(b[s][0] for b in bank) for s, t in pairs.items()]
    level = [fmean(b[s][0] for s in pairs) for b in bank]
    return fmean(found), (stdev(found) ** 2 / len(found) + stdev(level) ** 2 / len(level)) ** 0.5


def replay(campaigns: int) -> None:
    pool = json.loads(RESULTS.read_text())
    trainings, bases = pool["trainings"], list(BASE_SEEDS)
    lines = [
        "The edits of benchmarks/known_edits.yaml, fixed before looking. Made by `python benchmarks/edits.py replay`.",
        "",
        "Bases: `bundled` (train/assets/base.safetensors) and `other` (`train.make_base --seed 101`). "
        f"{pool['rounds']} seeds an edit, {2 * pool['rounds']} of each bank, {SUBJECT['problems']} fresh problems for each seed.",
        "",
        "| harness | " + " | ".join(f"score, seed sd ({b})" for b in bases) + " | CPU seconds |",
        "|---|" + "---|" * (len(bases) + 1),
    ]
    for harness in [name or PLAIN for name in banks()]:
        cells = []
        for b in bases:
            level = [fmean(t[f"gate-{k}"][0] for k in range(1, SETS + 1)) for t in trainings[b][harness]]
            cells.append(f"{fmean(level):.4f}, {stdev(level):.4f}")
        seconds = fmean(t["cpu_seconds"] for b in bases for t in trainings[b][harness])
        lines.append(f"| {harness} | {' | '.join(cells)} | {seconds:.2f} |")
    outcomes: dict[tuple[str, str, str], list[Outcome]] = {}
    for b in bases:
        for k in known_edits():
            for setting in SETTINGS:
                rng = random.Random(f"{b}/{k.name}/{setting}")
                played = [
                    play(trainings[b][k.name], trainings[b][k.harness or PLAIN], setting, rng) for _ in range(campaigns)
                ]
                if None not in played:
                    outcomes[b, k.name, setting] = [o for o in played if o]
    settings = [s for s in SETTINGS if any(s == key[2] for key in outcomes)]
    lines += [
        "",
        "Difference from the harness: mean ± standard error over seeds (± over problems). Accepted: share of "
        f"{campaigns} challenges that the test, the guards and the vault let pass, {' / '.join(bases)}; "
        f"`single_seed` is keep if better on one seed, for comparison; the others take at most {min(SETS, pool['rounds'] - 1)} seeds here. Compute: CPU seconds over the harness'.",
        "",
        "| edit | on | expected | " + " | ".join(f"difference ({b})" for b in bases) + " | compute | "
        + " | ".join(f"accepted, {s}" for s in settings) + " |",
        "|---|---|---|" + "---|" * (len(bases) + 1 + len(settings)),
    ]  # fmt: skip
    remarks = []
    for k in known_edits():
        cells, ratios = [], []
        for b in bases:
            mine, bank = trainings[b][k.name], trainings[b][k.harness or PLAIN]
            mean, error = difference(mine, bank)
            cells.append(f"{mean:+.4f} ± {error:.4f} (± {pool['problem_errors'][b][k.name]:.4f})")
            ratio = fmean(t["cpu_seconds"] for t in mine) / fmean(t["cpu_seconds"] for t in bank)
            ratios.append(f"{ratio:.2f}")
            if remark := against(k, mean, error):
                remarks.append(
                    f"- {k.name} ({b}): expected to {remark}; {mean:+.4f} ± {error:.4f}, about {k.about:+.2f} was expected."
                )
        shares = [
            " / ".join(f"{fmean(o.accepted for o in outcomes[b, k.name, s]):.0%}" for b in bases) for s in settings
        ]
        lines.append(
            f"| {k.name} | {k.harness or 'as it is'} | {k.expected}, {k.about:+.2f} | {' | '.join(cells)} | "
            f"{' / '.join(ratios)} | {' | '.join(shares)} |"
        )
    lines += [
        "",
        "Refused although the test called them better, as shares of the challenges; and over the compute allowed:",
        "",
    ]
    for (b, name, setting), found in outcomes.items():
        refused = [o for o in found if o.better and not o.accepted]
        dear = fmean(not o.compute for o in found)
        if setting != "single_seed" and max(len(refused) / len(found), dear) >= 0.005:
            compute = sum(not o.compute for o in refused) / len(found)
            groups = sum(o.compute and not o.groups for o in refused) / len(found)
            vault = len(refused) / len(found) - compute - groups
            lines.append(
                f"- {name} ({b}, {setting}): compute {compute:.0%}, groups {groups:.0%}, vault {vault:.0%}; too much compute {dear:.0%}"
            )
    lines += ["", "Against the expectation, by two standard errors over seeds:", "", *(remarks or ["- none"])]
    TABLE.write_text("\n".join(lines) + "\n")
    print(TABLE.read_text())


NOTHING = 0.01  # a difference below this is not worth a promotion


def against(known: Known, mean: float, error: float) -> str:
    """What was expected, where the measured difference speaks against it; else nothing."""
    if known.expected == "helps" and mean < 2 * error:
        return "help"
    if known.expected == "hurts" and mean > -2 * error:
        return "hurt"
    if known.expected == "nothing" and abs(mean) > max(NOTHING, 2 * error):
        return "do nothing"
    return ""


def smoke(folder: Path) -> None:
    """Prints CPU seconds and the share of the budget that each harness says it has spent; no score is read."""
    import torch._dynamo  # noqa: F401

    base = ROOT / SUBJECT["assets"]["base"]
    fidelity = 0.05
    for name in [*dict.fromkeys([*banks(), *(k.name for k in known_edits())])]:
        harness = harness_of(name)
        out = folder / "smoke" / harness.key
        seconds = train(harness, base, 1, fidelity, folder, out)
        last = (out / "train.run.log").read_text().splitlines()[-1].split()
        spent = int(last[last.index("tokens") + 1]) / 17 / (16_128 * fidelity)
        print(f"{harness.name:55s} {seconds:5.2f} CPU s, spent {spent:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["smoke", "pool", "replay"])
    parser.add_argument("--folder", type=Path, default=Path(".evolve/edits-pool"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--campaigns", type=int, default=200)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = arguments.folder.resolve()
    if arguments.what == "smoke":
        smoke(folder)
    elif arguments.what == "pool":
        pool(folder, arguments.rounds)
    else:
        replay(arguments.campaigns)


if __name__ == "__main__":
    main()
