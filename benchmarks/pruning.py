"""What pruning saves on the arithmetic subject, and what it costs: campaigns replayed from a table of real trainings.

    python benchmarks/pruning.py [--table benchmarks/results/arithmetic_table.jsonl] [--seeds 40] [--trials 60]
    python benchmarks/pruning.py --grid        # other settings of the pruners than the shipped ones as well

Each campaign trains `--trials` configs of the table in one of three orders: `random`; `improving`, whose first third is
random and whose rest are drawn from the best third of the table, as a sampler's later proposals are; and `search`, whose
first third is uniform over the space and whose rest are steps around the best of those (`arithmetic_table.py`). Curves and scores are the table's; the pruner is `evolve.pruning.OptunaPruner`, told the same events as in
a campaign. What is reported, against the same order without a pruner:

- `time`: training time without over with, by the CPU seconds of the table times the share of the marks that ran. Once for
  the training alone, once with `--start-seconds` for the start of each (imports), which no pruner can save;
- `regret`: best score without minus best score of what ran to its end, mean over campaigns, with its standard error;
- `lost`: share of campaigns in which the best one was pruned;
- `to equal`: time without over time with until a config is finished that is within `NOISE` of the best of the whole order
  without: with a pruner the order goes on past `--trials` where that is needed. The ratio of the means, so that the
  campaigns that had to go on count; with the 5 % and 95 % quantile over resampled campaigns.

Then Spearman's correlation of the report at each mark with the score at the end, by `phases`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from evolve.config import load  # noqa: E402
from evolve.ports import NeverPruner, Pruner  # noqa: E402
from evolve.pruning import OptunaPruner, pruner_factory  # noqa: E402
from evolve.types import (  # noqa: E402
    Budget,
    CampaignStarted,
    Candidate,
    Evaluation,
    GateRules,
    Progress,
    Proposal,
    Proposed,
    Rules,
    Trial,
    TrialFinished,
    TrialScheduled,
    TrialStarted,
)

NOISE = 0.0175  # sd of the default's score over seeds, docs/log.md
MARKS = 20
UNIFORM = 500  # configs of the table below this number are uniform over the space
SHIPPED = ("none", "median", "hyperband", "asha", "wilcoxon")
PHASES = ("sft", "sft_dpo", "sft_grpo", "sft_dpo_grpo")
BUDGET = 16_128 * 0.5  # units of `train.recipe` in one training of the table

Row = dict[str, Any]


def marks_of(params: dict[str, Any]) -> list[int]:
    """The marks at which a recipe reports, which the table does not hold: `train.recipe`'s own arithmetic.

    A step that is dearer than 5 % of the budget skips marks.
    """
    from train import recipe as r

    found: list[int] = []

    def report(spent: float) -> None:
        mark = min(MARKS, int(MARKS * spent / BUDGET + 1e-9))
        if mark > (found[-1] if found else 0):
            found.append(mark)

    grpo = BUDGET * params["grpo_share"] if "grpo" in params["phases"] else 0.0
    dpo = (BUDGET - grpo) * params["dpo_share"] if "dpo" in params["phases"] else 0.0
    batch, each = int(params["batch_size"]), r.sequence_cost(params)
    cost = r.COST_STEP + batch * each
    steps = int((BUDGET - dpo - grpo) / cost)
    for step in range(steps):
        report((step + 1) * cost)
    spent = steps * cost
    problem = r.DPO_SAMPLES * r.COST_ROLLOUT + r.COST_ROLLOUT_STEP / 64 + 2 * r.COST_FORWARD
    if problems := int(dpo * r.DPO_SAMPLING_SHARE / problem):
        spent += problems * problem
        cost = r.COST_STEP + 2 * max(1, batch // 2) * each
        for _ in range(int((dpo - problems * problem) / cost)):
            spent += cost
            report(spent)
    if "grpo" in params["phases"]:
        answers = params["group_size"] * params["prompts_per_step"]
        cost = r.COST_ROLLOUT_STEP + answers * r.COST_ROLLOUT + r.GRPO_PASSES * (r.COST_STEP + answers * each)
        cost += answers * r.COST_FORWARD if params["kl_weight"] else 0.0
        for _ in range(int((BUDGET - spent) / cost)):
            spent += cost
            report(spent)
    return found


def read(path: Path) -> list[Row]:
    """The scored trainings of seed 0 with the marks of their curves; says what it leaves out."""
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if row["seed"] == 0]
    for row in rows:
        row["marks"] = marks_of(row["params"])
    good = [r for r in rows if r["score"] is not None and len(r["marks"]) == len(r["curve"])]
    failed = sum(r["score"] is None for r in rows)
    print(f"{len(good)} trainings; left out: {failed} failed, {len(rows) - failed - len(good)} of unclear marks")
    return sorted(good, key=lambda row: row["config"])


def order(rows: list[Row], kind: str, trials: int, rng: random.Random) -> list[Row]:
    """All of the table, the first `trials` of them being the campaign."""
    if kind == "random":
        return rng.sample(rows, len(rows))
    if kind == "improving":
        good = sorted(rows, key=lambda row: -row["score"])[: len(rows) // 3]
        first = rng.sample(rows, trials // 3)
        rest = [row for row in good if row not in first]
        return first + rng.sample(rest, len(rest))
    uniform, steps = [r for r in rows if r["config"] < UNIFORM], [r for r in rows if r["config"] >= UNIFORM]
    first, rest = rng.sample(uniform, trials // 3), rng.sample(steps, len(steps))
    return first + rest


class Campaign:
    """Trains rows one after the other under a pruner; `history` has (seconds, starts, score or None) of each."""

    def __init__(self, pruner: Pruner, seed: int, subject: Any, within_phases: bool = False) -> None:
        self.within_phases = within_phases
        self.pruner, self.history = pruner, list[tuple[float, float | None]]()
        self.progress = subject.progress
        self.ends: Counter[int] = Counter()
        start = Candidate({}, "v")
        rules = Rules(Budget(), GateRules())
        pruner.record(CampaignStarted("b", subject, "v", "e", "s", seed, rules, start, "", {}))

    def train(self, row: Row) -> None:
        number, pruner = len(self.history), self.pruner
        # The pruner compares within one patch: a name for the phases there compares within those alone.
        candidate = Candidate({"config": row["config"]}, "v", row["params"]["phases"] if self.within_phases else None)
        pruner.record(Proposed(Proposal(candidate, "table")))
        pruner.record(TrialScheduled(number, candidate.id, "search", 0, 0))
        pruner.record(TrialStarted(number, 1))
        trial = Trial(number, candidate.id, "search", 0, 0, state="RUNNING", attempt=1)
        curve: list[Progress] = []
        for mark, value in zip(row["marks"], row["curve"], strict=True):
            curve.append(Progress(mark, {self.progress.metric: value}, mark * self.progress.every_tokens))
            if pruner.observe(trial, curve[-1]) is not None:
                pruner.record(TrialFinished(number, "PRUNED", curve=tuple(curve)))
                self.history.append((row["cpu_seconds"] * mark / MARKS, None))
                self.ends[mark] += 1
                return
        score = Evaluation("score", "search", row["score"], row["stderr"], 2000)
        pruner.record(TrialFinished(number, "COMPLETE", score=score, curve=tuple(curve)))
        self.history.append((row["cpu_seconds"], row["score"]))

    def best(self) -> float:
        return max((score for _, score in self.history if score is not None), default=0.0)

    def seconds(self, start: float) -> float:
        return sum(seconds + start for seconds, _ in self.history)


def seconds_until(history: list[tuple[float, float | None]], target: float, start: float) -> float:
    total = 0.0
    for seconds, score in history:
        total += seconds + start
        if score is not None and score >= target:
            break
    return total


def compare(
    make: Callable[[], Pruner], rows: list[Row], kind: str, args: argparse.Namespace, within_phases: bool
) -> dict[str, Any]:
    """The figures of one pruner over all campaigns of one kind of order."""
    subject = load(["subject=arithmetic"]).subject
    ratio, started_ratio, regret, equal, ends = [], [], [], [], Counter[int]()
    pruned = 0
    for seed in range(args.seeds):
        configs = order(rows, kind, args.trials, random.Random(f"{kind}:{seed}"))
        full = [(r["cpu_seconds"], r["score"]) for r in configs[: args.trials]]
        best = max(score for _, score in full)
        campaign = Campaign(make(), seed, subject, within_phases)
        for row in configs[: args.trials]:
            campaign.train(row)
        alone = sum(seconds for seconds, _ in full)
        ratio.append(alone / campaign.seconds(0.0))
        start = args.start_seconds
        started_ratio.append((alone + start * len(full)) / campaign.seconds(start))
        regret.append(best - campaign.best())
        pruned += sum(score is None for _, score in campaign.history)
        ends += campaign.ends
        for row in configs[args.trials : 4 * args.trials]:
            if campaign.best() >= best - NOISE:
                break
            campaign.train(row)
        # Of a campaign that has not got there by four times its trials this is a lower bound of the time.
        equal.append((seconds_until(full, best - NOISE, start), seconds_until(campaign.history, best - NOISE, start)))
    rng = random.Random("bootstrap")
    boot = sorted(
        sum(a for a, _ in sample) / sum(b for _, b in sample)
        for sample in (rng.choices(equal, k=len(equal)) for _ in range(500))
    )
    return {
        "time": round(statistics.fmean(ratio), 2),
        "time_with_start": round(statistics.fmean(started_ratio), 2),
        "regret": round(statistics.fmean(regret), 4),
        "regret_stderr": round(statistics.stdev(regret) / len(regret) ** 0.5, 4),
        "lost": round(sum(r > 0 for r in regret) / len(regret), 3),
        "lost_beyond_noise": round(sum(r > NOISE for r in regret) / len(regret), 3),
        "to_equal": round(sum(a for a, _ in equal) / sum(b for _, b in equal), 2),
        "to_equal_90": [round(boot[25], 2), round(boot[474], 2)],
        "pruned": round(pruned / (args.seeds * args.trials), 3),
        "median_mark": statistics.median(ends.elements()) if ends else None,
    }


def ranks(values: list[float]) -> list[float]:
    ordered = sorted(range(len(values)), key=values.__getitem__)
    found, i = [0.0] * len(values), 0
    while i < len(ordered):
        j = i
        while j < len(ordered) and values[ordered[j]] == values[ordered[i]]:
            j += 1
        for at in ordered[i:j]:
            found[at] = (i + j - 1) / 2
        i = j
    return found


def correlations(rows: list[Row]) -> dict[str, list[float | None]]:
    """Spearman's, per mark: of the latest report at or before it with the score. None below ten trainings."""
    found: dict[str, list[float | None]] = {}
    uniform = [r for r in rows if r["config"] < UNIFORM]
    steps = [r for r in rows if r["config"] >= UNIFORM]
    groups = {"all": uniform, **{p: [r for r in uniform if r["params"]["phases"] == p] for p in PHASES}, "steps": steps}
    for name, group in groups.items():
        found[name] = []
        for mark in range(1, MARKS + 1):
            pairs = [
                (max((m, v) for m, v in zip(r["marks"], r["curve"], strict=True) if m <= mark)[1], r["score"])
                for r in group
                if r["marks"] and r["marks"][0] <= mark
            ]
            enough = len(pairs) >= 10 and len({a for a, _ in pairs}) > 1
            found[name].append(
                round(statistics.correlation(ranks([a for a, _ in pairs]), ranks([b for _, b in pairs])), 2)
                if enough
                else None
            )
    return found


def grid() -> dict[str, dict[str, Any]]:
    """Other settings than the shipped ones."""
    at = "optuna.pruners."
    found: dict[str, dict[str, Any]] = {}
    for warmup in (4, 8, 10):
        found[f"median {warmup}"] = {"_target_": at + "MedianPruner", "n_warmup_steps": warmup}
        found[f"median {warmup} of a phase"] = {"_target_": at + "MedianPruner", "n_warmup_steps": warmup}
    for percentile, warmup in ((75.0, 8), (25.0, 12), (25.0, 13)):
        options = {"percentile": percentile, "n_warmup_steps": warmup}
        found[f"percentile {percentile:g} {warmup}"] = {"_target_": at + "PercentilePruner", **options}
    for resource, factor in ((1, 3), (4, 3), (8, 3), (10, 3)):
        options = {"min_resource": resource, "reduction_factor": factor}
        found[f"asha {resource} / {factor}"] = {"_target_": at + "SuccessiveHalvingPruner", **options}
    for resource, factor in ((2, 3), (8, 2)):
        options = {"min_resource": resource, "reduction_factor": factor}
        found[f"hyperband {resource} / {factor}"] = {"_target_": at + "HyperbandPruner", **options}
    for p, startup in ((0.05, 5), (0.01, 10)):
        options = {"p_threshold": p, "n_startup_steps": startup}
        found[f"wilcoxon {p} / {startup}"] = {"_target_": at + "WilcoxonPruner", **options}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks/results/arithmetic_table.jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/pruning.json")
    parser.add_argument("--seeds", type=int, default=40, help="campaigns of each kind")
    parser.add_argument("--trials", type=int, default=60, help="of one campaign")
    parser.add_argument("--start-seconds", type=float, default=1.0, help="of each training, at the table's half budget")
    parser.add_argument("--grid", action="store_true")
    args = parser.parse_args()
    rows = read(args.table)
    steps = sum(r["config"] >= UNIFORM for r in rows)
    kinds = ["random", "improving", *(["search"] if steps >= 2 * args.trials else [])]
    targets = {name: yaml.safe_load((ROOT / f"configs/pruner/{name}.yaml").read_text()) for name in SHIPPED}
    targets |= grid() if args.grid else {}
    result: dict[str, Any] = {
        "table": {"trainings": len(rows), "steps": steps},
        "campaigns": args.seeds,
        "trials": args.trials,
        "start_seconds": args.start_seconds,
        "noise": NOISE,
        "correlations": correlations(rows),
        "pruners": {},
    }
    for name, values in result["correlations"].items():
        print(f"{name:>14} {' '.join(' -- ' if v is None else f'{v:4.2f}' for v in values)}")
    print(f"{'order':<7} {'pruner':<24} pruned at  time (+start)  regret          lost  >noise  to equal")
    for kind in kinds:
        for name, target in targets.items():
            factory = pruner_factory(target) if target["_target_"] else None
            f = compare(
                lambda factory=factory: OptunaPruner(factory) if factory else NeverPruner(),
                rows,
                kind,
                args,
                "of a phase" in name,
            )
            result["pruners"].setdefault(kind, {})[name] = {"setting": target, **f}
            print(
                f"{kind:<7} {name:<24} {f['pruned']:6.0%} {f['median_mark'] or 0:2g}  {f['time']:.2f} ({f['time_with_start']:.2f})"
                f"   {f['regret']:.4f} ± {f['regret_stderr']:.4f} {f['lost']:5.0%} {f['lost_beyond_noise']:5.0%}"
                f"   {f['to_equal']:.2f} {f['to_equal_90']}",
                flush=True,
            )
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
