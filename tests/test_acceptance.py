"""What is said of an accepted candidate: the corrected interval, never the naive one, and the gate's promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evolve import acceptance
from evolve.screen import candidate_text
from evolve.state import State
from evolve.tracking_page import page
from evolve.types import GateRules, Objective, Verdict
from tests.tracking_campaign import Campaign

NAIVE = {"n": 3.0, "m": 4.0, "difference": 0.09, "stderr": 0.001, "t": 90.0}


def accepted(numbers: dict[str, float], **rules: object) -> tuple[State, str]:
    """A state whose waiting candidate has these numbers."""
    state = Campaign().play().state
    candidate_id = next(iter(state.pending))
    state.entries[candidate_id].verdict = Verdict("ACCEPT", "difference +0.09", numbers)
    assert state.started is not None
    gate = replace(state.started.rules.gate, **rules)  # type: ignore[arg-type]
    state.started = replace(state.started, rules=replace(state.started.rules, gate=gate))
    return state, candidate_id


@pytest.mark.parametrize(
    ("numbers", "rules", "text"),
    [
        ({"estimate": 0.05, "low": 0.01, "high": 0.08}, {}, "+0.05 (95 % interval +0.01 to +0.08)"),
        ({"estimate": 0.05, "high": 0.08}, {}, "+0.05 (95 % interval: lower bound not above 0, upper +0.08)"),
        ({}, {"max_seeds": 1}, "no interval: one seed, no test"),
        ({}, {}, "no corrected interval was recorded"),
    ],
)
def test_the_gain_of_an_acceptance_is_the_corrected_one(
    numbers: dict[str, float], rules: dict[str, object], text: str
) -> None:
    state, candidate_id = accepted(NAIVE | numbers, **rules)
    assert acceptance.gain_text(state, candidate_id) == text


def test_with_several_objectives_each_that_was_shown_to_be_better_is_named() -> None:
    numbers = NAIVE | {"train_seconds.estimate": 1.5, "train_seconds.low": 0.5, "train_seconds.high": 2.5}
    state, candidate_id = accepted(numbers)
    assert state.started is not None
    subject = replace(state.started.subject, secondary=(Objective("train_seconds", "minimize"),))
    state.started = replace(state.started, subject=subject)
    assert acceptance.gain_text(state, candidate_id) == "train_seconds +1.5 (95 % interval +0.5 to +2.5)"


def test_what_was_not_accepted_has_no_gain() -> None:
    state = Campaign().play().state
    assert acceptance.gain_text(state, state.campaign.start.id) == "no acceptance"
    assert acceptance.seeds_text(None) == "-"


def test_all_who_said_yes_are_named() -> None:
    campaign = Campaign().play().command("approve")
    first = campaign.state.approvals[0]
    campaign.state.approvals.insert(0, replace(first, by="grace", reason="faster too"))
    event = campaign.state.promotions[0]
    assert acceptance.person(campaign.state, event) == "grace, ada"
    assert acceptance.reason(campaign.state, event) == "faster too"


def test_the_promise_names_its_setting() -> None:
    rules = GateRules(setting="strict", alpha=0.01, candidates=50)
    assert acceptance.promise_text(rules) == (
        "strict: at most 1% that a campaign of 50 useless candidates promotes any"
    )


def test_a_yes_of_the_vault_without_data_for_it_says_that_it_confirms_nothing() -> None:
    state, _ = accepted(NAIVE | {"estimate": 0.05, "high": 0.08, "challenger_mean": 0.5, "champion_mean": 0.4})
    assert acceptance.vault_text(state.campaign.subject) == "yes"
    assert state.started is not None
    weights = replace(state.campaign.subject.weights, files=("*",))
    project = replace(state.campaign.subject, weights=weights, data={"search": "dev"}, fresh_problems=False)
    state.started = replace(state.started, subject=project)
    assert acceptance.vault_text(project) == "yes, not confirmed: the subject has no data for the vault"
    assert acceptance.vault_text(project, passed=False) == "no"
    assert "not confirmed" in page(state, [], [])
    request = next(iter(state.pending.values()))
    assert "on a new seed and the search's own problems" in candidate_text(state, request, None)
