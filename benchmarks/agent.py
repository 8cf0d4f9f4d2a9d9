"""Whole campaigns of evolve with scripted advisors in the agent's place, and the size of prompts over 500 rounds.

    python benchmarks/agent.py                  # sampler alone, expert, fool: 5 paired seeds on the surrogate of `arithmetic`
    python benchmarks/agent.py --prompts 500    # characters and tokens of each round's requests
    python benchmarks/agent.py --table          # the table of what is there

A campaign is the real policy, loop, gate and journal; a training is the surrogate over real trainings of
`landscapes.py`, whose noise depends on params and seed. The arms of one seed share campaign seed and noise. The
advisors (`evolve/advisors.py`) go through the whole chain of tools and are no language models. Each run is a line of
`results/agent.jsonl`: the noise-free score of the best measured candidate after each search training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from multiprocessing import Pool
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import landscapes as lands
from evolve import config as configuration
from evolve.advisors import expert, fool
from evolve.agent import AgentProposer, tokens
from evolve.insight import SamplerInsight
from evolve.journal import Journal, read
from evolve.llm import ScriptedModel
from evolve.loop import Loop, Ports
from evolve.search import EvolveProposer
from evolve.state import State, apply
from evolve.testing import InlineExecutor, InlineScorer, MemoryTracker
from evolve.types import (
    Budget,
    CampaignStarted,
    Candidate,
    Environment,
    ProposalFailed,
    Rules,
    Subject,
    Suggested,
    TrialFinished,
)
from evolve.weights import WeightStore

LINES = lands.RESULTS / "agent.jsonl"
ARMS = {"sampler": None, "expert": expert, "fool": fool}
SHARE = 0.3  # configs/proposer/auto.yaml


def campaign(folder: Path, subject: Subject, landscape: lands.Landscape, arm: str, seed: int, trials: int) -> State:
    """One campaign in `folder`. The advisor answers at once, so that a run does not depend on this machine's speed."""
    (folder / "inbox").mkdir(parents=True)
    executor = InlineExecutor(lambda params, rng: 1 - landscape.measure(dict(params), rng.getrandbits(32)))  # type: ignore[operator]
    advisor, answers = None, ARMS[arm]
    if answers is not None:
        model = ScriptedModel(answers, calls_tools=True)
        advisor = AgentProposer(model, insight=SamplerInsight(EvolveProposer))
        advisor.instant = True
    rules = Rules(budget=Budget(trials=trials), advice_share=SHARE)
    start = Candidate(landscape.default, "v")
    first = CampaignStarted("c", subject, "v", "e", "s", seed, rules, start, "the default", {})
    with Journal.open(folder, lambda: 0.0) as journal:
        state = State()
        journal.append(first)
        apply(state, first)
        ports = Ports(
            EvolveProposer(), executor, InlineScorer(executor), MemoryTracker(), WeightStore(folder / "weights"),
            Environment("inline", "inline", "0" * 64, None, "3.11"), advisor=advisor,
        )  # fmt: skip
        Loop(journal, state, rules, ports, folder / "inbox", lambda: False).run()
    return state


def run(job: tuple[str, int, int]) -> dict[str, Any]:
    arm, seed, trials = job
    began = time.process_time()
    landscape, subject = lands.arithmetic_model_landscape(), configuration.load(["subject=arithmetic"]).subject
    with tempfile.TemporaryDirectory() as name:
        state = campaign(Path(name) / "c", subject, landscape, arm, seed, trials)
        events = [r.event for r, _ in read(Path(name) / "c" / "journal.jsonl")]
    curve, best = [], float("-inf")
    shown = 1 - float(landscape.true(dict(landscape.default)) or 0)
    for e in events:
        if isinstance(e, TrialFinished) and state.trials[e.number].purpose == "search" and e.score is not None:
            if e.score.mean > best:
                best = e.score.mean
                params = state.entries[state.trials[e.number].candidate_id].proposal.candidate.params
                shown = 1 - float(landscape.true(dict(params)) or 0)
            curve.append(round(shown, 4))
    trained = {state.trials[n].candidate_id for n in state.trials}
    return {
        "arm": arm, "seed": seed, "trials": trials, "curve": curve,
        "suggested": sum(isinstance(e, Suggested) for e in events),
        "refused": sum(isinstance(e, ProposalFailed) for e in events),
        "taken": sum(state.entries[c].proposal.proposer == "agent" for c in trained),
        "accepted": len(state.pending), "lessons": state.lesson_count,
        "cpu_seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


def table(trials: int) -> str:
    rows = [row for row in map(json.loads, LINES.read_text().splitlines()) if row["trials"] == trials]
    lines = [
        "| arm | search trainings | score after 10 | after 20 | at the end | suggested | refused | trained | accepted |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")

    def middle(found: list[dict[str, Any]], value: Any) -> float:
        return statistics.median(value(r) for r in found)

    for arm in ARMS:
        if found := [r for r in rows if r["arm"] == arm]:
            at = [middle(found, lambda r, k=k: r["curve"][min(k, len(r["curve"])) - 1]) for k in (10, 20, 10**6)]
            counts = [sum(r[k] for r in found) for k in ("suggested", "refused", "taken", "accepted")]
            length = middle(found, lambda r: len(r["curve"]))
            lines.append(f"| {arm} | {length:g} | " + " | ".join([*(f"{x:.3f}" for x in at), *map(str, counts)]) + " |")
    alone = {r["seed"]: r for r in rows if r["arm"] == "sampler"}
    for arm in ("expert", "fool"):
        pairs = [r["curve"][-1] - alone[r["seed"]]["curve"][-1] for r in rows if r["arm"] == arm and r["seed"] in alone]
        if pairs:
            lines.append(f"\n{arm} against the sampler alone, by seed: " + ", ".join(f"{d:+.3f}" for d in pairs))
    return "\n".join(lines)


def prompts(rounds: int) -> str:
    """Sizes of the requests of both styles over `rounds` rounds of one campaign on a function, with a fake model."""
    subject = configuration.load(["subject=quadratic"]).subject
    parts = []
    for style in ("single", "tools"):
        sizes: list[tuple[int, int]] = []
        number = 0

        def answer(messages: Any, style: str = style, sizes: list[tuple[int, int]] = sizes) -> Any:
            nonlocal number
            number += 1
            sizes.append((sum(len(str(m)) for m in messages), tokens(messages, [])))
            x = (number * 0.6180339887) % 1
            reply = {"changes": {"x": round(1e-4 + 0.9998 * x, 6)}, "rationale": "r" * 200}
            if style == "single":
                return json.dumps({**reply, "lesson": f"lesson {number} " + "l" * 280})
            from evolve.advisors import _calls

            if len(messages) == 2:
                return _calls(("history", {"limit": 50}), ("failures", {}), ("champion", {}))
            return _calls(("write_lesson", {"text": f"lesson {number} " + "l" * 280}), ("propose", reply))

        agent = AgentProposer(ScriptedModel(answer, calls_tools=style == "tools"))
        agent.instant = True
        with tempfile.TemporaryDirectory() as name:
            _alone(Path(name) / "c", subject, agent, rounds)
        for what, column in (("characters", 0), ("tokens, estimated from above", 1)):
            values = [s[column] for s in sizes]
            late = values[len(values) // 2 :]
            parts.append(
                f"{style}: {what} of {len(values)} requests: min {min(values)}, median {statistics.median(values):g},"
                f" max {max(values)}; max of the second half {max(late)}"
            )
    return "\n".join(parts)


def _alone(folder: Path, subject: Subject, agent: AgentProposer, rounds: int) -> None:
    """A campaign in which the agent alone proposes, over a bowl."""
    from evolve.proposers import AdvisedProposer
    from evolve.space import SearchSpace

    (folder / "inbox").mkdir(parents=True)
    executor = InlineExecutor(lambda params, rng: -((float(params["x"]) - 0.3) ** 2) + rng.gauss(0, 0.01))
    rules = Rules(budget=Budget(trials=rounds), advice_share=1.0)
    start = Candidate(SearchSpace(subject.space).default(), "v")
    first = CampaignStarted("c", subject, "v", "e", "s", 0, rules, start, "the default", {})
    with Journal.open(folder, lambda: 0.0) as journal:
        state = State()
        journal.append(first)
        apply(state, first)
        ports = Ports(
            AdvisedProposer(None), executor, InlineScorer(executor), MemoryTracker(), WeightStore(folder / "weights"),
            Environment("inline", "inline", "0" * 64, None, "3.11"), advisor=agent,
        )  # fmt: skip
        Loop(journal, state, rules, ports, folder / "inbox", lambda: False).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40, help="trainings of any purpose")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--prompts", type=int, metavar="ROUNDS")
    arguments = parser.parse_args()
    if arguments.prompts:
        print(prompts(arguments.prompts))
        return
    if not arguments.table:
        done = {(r["arm"], r["seed"], r["trials"]) for r in map(json.loads, LINES.open())} if LINES.exists() else set()
        jobs = [(arm, seed, arguments.trials) for seed in range(arguments.seeds) for arm in ARMS]
        with Pool(arguments.workers) as pool, LINES.open("a") as file:
            for row in pool.imap_unordered(run, [j for j in jobs if j not in done]):
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(row["arm"], row["seed"], row["curve"][-1], f"{row['cpu_seconds']} s", flush=True)
    print(table(arguments.trials))


if __name__ == "__main__":
    main()
