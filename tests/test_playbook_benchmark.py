"""The figures of `benchmarks/playbook.py` are made from its lines as its docstring says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.playbook import TRIALS, Campaign, pairs, summarize, trials_to
from evolve.config import load


def line(arm: str, seed: int, *curve: float) -> dict[str, object]:
    whole = [*curve, *[curve[-1]] * (TRIALS - len(curve))]
    return {"arm": arm, "seed": seed, "curve": whole, "advised": 1, "failed_trainings": 0, "wasted_turns": 0, "advice_failures": 0}  # fmt: skip


def test_the_ratio_is_of_the_first_trial_that_is_as_good_as_the_other_arms_last():
    lines = [
        line("evolve", 0, 0.1, 0.5),
        line("auto", 0, 0.2, 0.4, 0.4, 0.6),
        line("evolve", 1, 0.5),
        line("auto", 1, 0.4),
    ]
    assert trials_to([0.2, 0.4, 0.6], 0.5) == 3
    found = summarize(lines)
    assert found["trials_needed"] == [4, 41]
    assert found["mean_ratio"] == pytest.approx((4 + 41) / 2 / TRIALS, abs=1e-3)
    assert (found["at_most_60_percent"], found["better_after_40"]) == (1, 1)


def test_a_seed_of_which_one_arm_is_missing_is_no_pair():
    assert list(pairs([line("evolve", 0, 0.1), line("auto", 1, 0.1)])) == []
    assert summarize([line("evolve", 0, 0.1)]) == {"pairs": 0}


def test_both_arms_train_the_same_default_and_failed_trainings_cost_their_turn():
    trained: list[tuple[str, int]] = []

    def measure(params, index):
        trained.append((params["phases"], index))
        return (None, "training diverged: loss is nan", []) if "grpo" in params["phases"] else (0.4, None, [0.1] * 20)

    campaign = Campaign(load(["subject=arithmetic"]).subject, "auto", 0, measure)
    assert trained == [("sft", index) for index in (1, 2, 3, 4)]
    campaign.turn()
    assert trained[4] == ("sft_grpo", 0), "the playbook's first move"
    assert (campaign.failures, campaign.wasted) == (1, 0)
    advised = [e.proposal.proposer for e in campaign.state.entries.values()]
    assert advised == ["default", "playbook"]
