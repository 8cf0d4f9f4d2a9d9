"""What every proposer must do; run on all that ship, the language model's with a scripted model."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from inline import SPACE, Scripted, Walk

from evolve.agent import AgentProposer
from evolve.errors import ProposerFailed
from evolve.llm import ScriptedModel
from evolve.memory import Observation, View
from evolve.playbook import PlaybookProposer
from evolve.ports import Proposer
from evolve.proposers import DefaultProposer, MixedProposer
from evolve.search import OptunaProposer, random, tpe
from evolve.space import SearchSpace
from evolve.types import Objective

space = SearchSpace(SPACE)


def agent() -> Proposer:
    return AgentProposer(ScriptedModel([json.dumps({"changes": {"x": 0.71}, "rationale": "nearer"})] * 9))


MAKERS: dict[str, Callable[[], Proposer]] = {
    "tpe": lambda: OptunaProposer(tpe, "tpe"),
    "random": lambda: OptunaProposer(random, "random"),
    "playbook": PlaybookProposer,
    "agent": agent,
    "mixed": lambda: MixedProposer(PlaybookProposer(), OptunaProposer(tpe, "tpe")),
    "mixed agent": lambda: MixedProposer(agent(), OptunaProposer(tpe, "tpe")),
    "walk": Walk,
    "scripted": lambda: Scripted([{"x": 0.1}] * 9),
}


def view(turn: int = 0, **changes: object) -> View:
    history = (
        Observation("a", space.default(), "default", "COMPLETE", 0.5, 0.01),
        Observation("b", space.default() | {"x": 0.3}, "tpe", "COMPLETE", 0.4, 0.01),
        Observation("c", space.default() | {"x": 0.99}, "tpe", "FAIL", error="out of memory"),
        Observation("d", space.default() | {"x": 0.6}, "tpe", "RUNNING"),
    )
    settings: dict[str, object] = {
        "space": space, "objective": Objective("score", "maximize"), "subject_version": "v7", "description": "a test",
        "seed": 3, "turn": turn, "turns": {}, "default": space.default(), "champion": space.default(),
        "incumbent": space.default(), "incumbent_score": 0.5, "history": history, "noise_floor": 0.01,
    }  # fmt: skip
    return View(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> Callable[[], Proposer]:
    return MAKERS[request.param]


def test_a_proposal_is_a_valid_candidate_of_this_subject_version(make: Callable[[], Proposer]) -> None:
    proposal = make().propose(view())
    assert space.parse(proposal.candidate.params) == proposal.candidate.params
    assert proposal.candidate.subject_version == "v7"
    assert proposal.candidate.patch is None


def test_who_proposed_is_said_and_is_never_the_mixture(make: Callable[[], Proposer]) -> None:
    proposal = make().propose(view())
    assert proposal.proposer in {"tpe", "random", "playbook", "agent", "walk", "scripted"}
    assert (proposal.model is not None) == (proposal.proposer == "agent"), (
        "only a language model's proposal names a model"
    )
    assert proposal.rationale


def test_equal_views_give_equal_proposals_also_from_a_fresh_proposer(make: Callable[[], Proposer]) -> None:
    assert make().propose(view(5)).candidate == make().propose(view(5)).candidate


def test_the_view_is_not_changed(make: Callable[[], Proposer]) -> None:
    before, given = repr(view()), view()
    make().propose(given)
    assert repr(given) == before


def test_a_proposer_without_an_idea_says_so_in_its_own_name() -> None:
    for proposer in (DefaultProposer(), AgentProposer(ScriptedModel(["no idea", "still none"]))):
        with pytest.raises(ProposerFailed) as caught:
            proposer.propose(view())
        assert caught.value.proposer == proposer.name
        assert str(caught.value)


def test_the_guide_has_its_share_of_the_turns_and_speaks_first() -> None:
    mixed = MixedProposer(PlaybookProposer(), OptunaProposer(random, "random"), share=0.3)
    turns: dict[str, int] = {}
    order = []
    for turn in range(20):
        who = mixed.propose(view(turn, turns=dict(turns))).proposer
        turns[who] = turns.get(who, 0) + 1
        order.append(who)
    assert order[0] == "playbook"
    assert turns == {"playbook": 6, "random": 14}


def test_after_a_guides_failure_the_turn_goes_to_the_sampler_in_its_own_name() -> None:
    mixed = MixedProposer(AgentProposer(ScriptedModel(["prose"] * 9)), OptunaProposer(random, "random"), share=0.5)
    with pytest.raises(ProposerFailed) as caught:
        mixed.propose(view(0))
    assert caught.value.proposer == "agent"
    proposal = mixed.propose(view(1, turns={"agent": 1}, last_failed="agent"))
    assert proposal.proposer == "random"
