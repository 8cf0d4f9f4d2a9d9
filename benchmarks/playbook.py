"""The playbook mixed into our sampler against the sampler alone, on the arithmetic subject: trials to the same result.

    python benchmarks/playbook.py                 # surrogate of 1,200 real trainings, 20 campaign seeds; minutes
    python benchmarks/playbook.py --real          # real trainings at half of the budget, 5 campaign seeds; resumable
    python benchmarks/playbook.py --tpe           # surrogate, Optuna's TPE in the place of our sampler, alone and mixed
    python benchmarks/playbook.py --first         # of these the playbook's first move alone: five trainings
    python benchmarks/playbook.py --table         # the tables of what is there so far

Both arms are what a campaign runs: the state, the view, the proposers and `policy`'s rule for when the advisor is asked
(`proposer=evolve` and `proposer=auto` without a model). Left out: the gate. The default is trained on four seeds, the
same for both arms and not counted; then each turn is a trial, and a turn without a candidate or with a failed training
counts as one too. Whatever measures better than the incumbent becomes the incumbent.

A curve is the incumbent's value after each trial: noise-free on the surrogate, as measured with real trainings. The
figure is the number of the first trial at which the mixed arm is at least as good as the sampler alone after 40,
over 40; an arm that never is counts as 41 of 40.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evolve import memory, policy
from evolve.config import load
from evolve.errors import InvalidCandidate, ProposerFailed
from evolve.playbook import PlaybookProposer
from evolve.ports import Proposer
from evolve.proposers import AdvisedProposer
from evolve.search import EvolveProposer, OptunaProposer, tpe
from evolve.space import SearchSpace
from evolve.state import State, apply
from evolve.types import (
    ApprovalRequest,
    ApprovalRequested,
    CampaignStarted,
    Candidate,
    Environment,
    Evaluation,
    Params,
    Progress,
    Proposal,
    ProposalFailed,
    Proposed,
    Rules,
    SessionStarted,
    Subject,
    Suggested,
    TrialFinished,
    TrialScheduled,
)

RESULTS = Path(__file__).parent / "results"
LINES = {"surrogate": RESULTS / "playbook.jsonl", "real": RESULTS / "playbook_real.jsonl"}
TRAININGS = RESULTS / "playbook_trainings.jsonl"  # of --real, by (campaign seed, seed, params): what a restart reuses
TRIALS, BANK, SHARE_WANTED = 40, 4, 0.6
SEEDS = {"surrogate": 20, "real": 5}
ARMS = ("evolve", "auto")
MORE_ARMS = ("tpe", "tpe+playbook")  # of --tpe
HERE = Environment("benchmark", "linux", "0" * 64, None, "3.11")

# (params, seed of the training) -> (score or None, error, curve of the exact match)
Measure = Callable[[Params, int], tuple[float | None, str | None, list[float]]]


class Campaign:
    """One arm on one campaign seed; `turn` is a proposal with its training."""

    def __init__(self, subject: Subject, arm: str, seed: int, measure: Measure) -> None:
        self.seed, self.measure, self.space = seed, measure, SearchSpace(subject.space)
        share = float(load([]).proposer.share)
        start = Candidate(self.space.default(), "v")
        mixed = arm in ("auto", "tpe+playbook")
        sampler = OptunaProposer(tpe, "tpe") if arm.startswith("tpe") else EvolveProposer()
        self.rules = Rules(advice_share=share if mixed else 0.0)
        self.proposer: Proposer = AdvisedProposer(sampler, share) if arm == "tpe+playbook" else sampler
        if arm == "playbook":
            self.proposer = PlaybookProposer()
        self.advisor = PlaybookProposer() if mixed else None
        self.state = State()
        apply(self.state, CampaignStarted(arm, subject, "v", "e", "s", seed, self.rules, start, "the default", {}))
        apply(self.state, SessionStarted(HERE, 1, "none", self.rules.budget, 0))
        self.wasted = self.refused = self.failures = 0
        for index in range(1, BANK + 1):
            self._train(start, "bank", index)

    def turn(self) -> Params:
        """The incumbent's params after one more trial."""
        if self.advisor is not None and policy._advice_is_due(self.state, self.rules):
            advice = self._ask(self.advisor, policy.check_suggestion)
            if advice is None:
                self.refused += 1
                apply(self.state, ProposalFailed(self.advisor.name, "no candidate", advice=True))
            else:
                apply(self.state, Suggested(advice))
        proposal = self._ask(self.proposer, policy.check_new)
        if proposal is None:
            self.wasted += 1
            apply(self.state, ProposalFailed(self.proposer.name, "no candidate"))
        else:
            apply(self.state, Proposed(proposal))
            self._train(proposal.candidate, "search", 0)
        return self.state.entries[self.state.incumbent_id].proposal.candidate.params

    def _ask(self, proposer: Any, check: Callable[[State, Candidate], Candidate]) -> Proposal | None:
        """As the loop does: asked again after a duplicate, ten times at most."""
        view = memory.view(self.state, self.seed)
        for retry in range(10):
            try:
                proposal: Proposal = proposer.propose(replace(view, retry=retry))
                check(self.state, proposal.candidate)
                return proposal
            except InvalidCandidate:
                continue
            except ProposerFailed:
                break
        return None

    def _train(self, candidate: Candidate, purpose: Any, index: int) -> None:
        number = len(self.state.trials)
        apply(self.state, TrialScheduled(number, candidate.id, purpose, index, index))
        score, error, curve = self.measure(candidate.params, index)
        tokens = self.state.campaign.subject.progress.every_tokens if self.state.campaign.subject.progress else 1
        points = tuple(Progress(i, {"exact_match": v}, i * tokens) for i, v in enumerate(curve, 1))
        if score is None:
            self.failures += 1
            apply(self.state, TrialFinished(number, "FAIL", error=error, curve=points, environment=HERE))
            return
        evaluation = Evaluation("score", "search", score, 0.01, 2000)
        apply(self.state, TrialFinished(number, "COMPLETE", evaluation, curve=points, environment=HERE))
        if candidate.id in self.state.contenders:
            self.state.contenders.remove(candidate.id)
            request = ApprovalRequest(candidate.id, self.state.champion_id, "", number, "", "e", "none")
            apply(self.state, ApprovalRequested(request))


def run(arm: str, seed: int, measure: Measure, value: Callable[[Params], float]) -> dict[str, Any]:
    """A line of the results: the curve of the incumbent's value, larger is better."""
    campaign = Campaign(load(["subject=arithmetic"]).subject, arm, seed, measure)
    curve = [round(value(campaign.turn()), 5) for _ in range(TRIALS)]
    proposers = [e.proposal.proposer for e in campaign.state.entries.values()]
    return {
        "arm": arm,
        "seed": seed,
        "curve": curve,
        "advised": proposers.count("playbook"),
        "failed_trainings": campaign.failures,
        "wasted_turns": campaign.wasted,
        "advice_failures": campaign.refused,
    }


# ---------------------------------------------------------------- where the scores come from


def on_surrogate(job: tuple[str, int]) -> dict[str, Any]:
    from benchmarks.landscapes import arithmetic_model_landscape

    arm, seed = job
    landscape = arithmetic_model_landscape()

    def measure(params: Params, index: int) -> tuple[float | None, str | None, list[float]]:
        cost = landscape.measure(dict(params), 1000 * seed + index)
        assert cost is not None
        return 1 - cost, None, []

    return run(arm, seed, measure, lambda params: 1 - float(landscape.true(dict(params)) or math.nan))


def trainings(campaign: int) -> Callable[[Params, int], dict[str, Any]]:
    """(params, index) -> a line of `TRAININGS`, made where it is not there."""
    from benchmarks import arithmetic_table

    kept = {(r["campaign"], r["index"], json.dumps(r["params"], sort_keys=True)): r for r in read(TRAININGS)}

    def trained(params: Params, index: int) -> dict[str, Any]:
        key = (campaign, index, json.dumps(dict(params), sort_keys=True))
        if key not in kept:
            result = arithmetic_table.measure(dict(params), 1000 * (campaign + 1) + index)
            kept[key] = {"campaign": campaign, "index": index, "params": dict(params), **result}
            append(TRAININGS, kept[key])
        return kept[key]

    return trained


def first_moves() -> None:
    """The playbook's first move alone, trained for real: one training a campaign seed, which `--real` uses too."""
    for seed in range(SEEDS["real"]):
        campaign = Campaign(
            load(["subject=arithmetic"]).subject, "playbook", seed, lambda params, index: (0.0, None, [])
        )
        campaign.turn()
        move = next(reversed(campaign.state.entries.values())).proposal
        print(seed, trainings(seed)(move.candidate.params, 0)["score"], move.rationale, file=sys.stderr)


def on_trainings(job: tuple[str, int]) -> dict[str, Any]:
    """Real trainings, in this process, one after the other; each is a line of its own before it is used."""
    import torch._dynamo  # noqa: F401  the first optimizer would import it within the first training

    arm, seed = job
    trained = trainings(seed)
    scores: dict[str, float] = {}

    def measure(params: Params, index: int) -> tuple[float | None, str | None, list[float]]:
        row = trained(params, index)
        scores.setdefault(json.dumps(dict(params), sort_keys=True), math.nan if row["score"] is None else row["score"])
        return row["score"], row.get("error") and f"training diverged: {row['error']}", row["curve"]

    return run(arm, seed, measure, lambda params: scores[json.dumps(dict(params), sort_keys=True)])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as out:
        out.write(json.dumps(line) + "\n")


# ---------------------------------------------------------------- the table


def pairs(lines: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    by = {(r["arm"], r["seed"]): r for r in lines}
    for seed in sorted({r["seed"] for r in lines}):
        if all((arm, seed) in by for arm in ARMS):
            yield seed, by["evolve", seed], by["auto", seed]


def trials_to(curve: list[float], target: float) -> int:
    """Number of the first trial, from 1, at which `curve` reaches `target`; one more than there are, if never.

    >>> trials_to([0.1, 0.4, 0.4], 0.4), trials_to([0.1], 0.4)
    (2, 2)
    """
    return next((i for i, v in enumerate(curve, 1) if v >= target), len(curve) + 1)


def summarize(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the paired seeds; the interval is of the mean ratio, by a bootstrap over seeds."""
    both = list(pairs(lines))
    if not both:
        return {"pairs": 0}
    needed = [trials_to(mixed["curve"], alone["curve"][-1]) for _, alone, mixed in both]
    ratios = [n / TRIALS for n in needed]
    rng = random.Random(0)
    means = sorted(statistics.mean(rng.choices(ratios, k=len(ratios))) for _ in range(4000))
    wins = sum(mixed["curve"][-1] > alone["curve"][-1] for _, alone, mixed in both)
    more = {arm: [r["curve"] for r in lines if r["arm"] == arm] for arm in MORE_ARMS}
    return {
        "pairs": len(both),
        "trials_needed": needed,
        "median_ratio": round(statistics.median(ratios), 3),
        "mean_ratio": round(statistics.mean(ratios), 3),
        "mean_ratio_95": [round(means[int(q * 4000)], 3) for q in (0.025, 0.975)],
        "at_most_60_percent": sum(r <= SHARE_WANTED for r in ratios),
        "better_after_40": wins,
        "alone_after": {n: round(statistics.mean(a["curve"][n - 1] for _, a, _ in both), 4) for n in (5, 10, 24, 40)},
        "mixed_after": {n: round(statistics.mean(m["curve"][n - 1] for _, _, m in both), 4) for n in (5, 10, 24, 40)},
        **{
            f"{arm}_after": {n: round(statistics.mean(c[n - 1] for c in curves), 4) for n in (5, 10, 24, 40)}
            for arm, curves in more.items()
            if curves
        },
        "advised": round(statistics.mean(m["advised"] for _, _, m in both), 1),
        "failed_trainings": [
            sum(r["failed_trainings"] for r in column) for column in list(zip(*both, strict=True))[1:]
        ],
        "wasted_turns": [sum(r["wasted_turns"] for r in column) for column in list(zip(*both, strict=True))[1:]],
        "advice_failures": sum(m["advice_failures"] for _, _, m in both),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", action="store_true", help="real trainings, in one process")
    parser.add_argument("--first", action="store_true", help="of --real the playbook's first move alone")
    parser.add_argument("--tpe", action="store_true", help="TPE in the place of our sampler, on the surrogate")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--workers", type=int, default=1, help="of the surrogate's runs")
    args = parser.parse_args()
    kind = "real" if args.real else "surrogate"
    if args.first:
        first_moves()
    elif not args.table:
        done = {(r["arm"], r["seed"]) for r in read(LINES[kind])}
        seeds = range(args.seeds or SEEDS[kind])
        arms = MORE_ARMS if args.tpe else ARMS
        todo = [(arm, seed) for seed in seeds for arm in arms if (arm, seed) not in done]
        if args.real:
            for job in todo:
                append(LINES[kind], on_trainings(job))
        elif todo:
            from benchmarks.landscapes import table_model

            table_model()  # once, before the workers are forked from this process
            with Pool(args.workers) as pool:
                for line in pool.imap_unordered(on_surrogate, todo, chunksize=1):
                    append(LINES[kind], line)
    for kind, path in LINES.items():
        print(kind, json.dumps(summarize(read(path)), indent=1))


if __name__ == "__main__":
    main()
