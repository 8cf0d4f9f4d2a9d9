"""What every proposer must do; run on all that ship, the language model's with a scripted model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from inline import SPACE, Scripted, Walk

from evolve.agent import AgentProposer
from evolve.errors import ProposerFailed
from evolve.llm import ScriptedModel
from evolve.memory import Observation, View
from evolve.playbook import PlaybookProposer
from evolve.ports import Proposer
from evolve.proposers import AdvisedProposer, DefaultProposer
from evolve.search import OptunaProposer, random, tpe
from evolve.space import SearchSpace
from evolve.types import Candidate, Objective, Proposal, Spend

space = SearchSpace(SPACE)


def agent() -> Proposer:
    return AgentProposer(ScriptedModel([json.dumps({"changes": {"x": 0.71}, "rationale": "nearer"})] * 9))


MAKERS: dict[str, Callable[[], Proposer]] = {
    "tpe": lambda: OptunaProposer(tpe, "tpe"),
    "random": lambda: OptunaProposer(random, "random"),
    "playbook": PlaybookProposer,
    "agent": agent,
    "advised": lambda: AdvisedProposer(OptunaProposer(tpe, "tpe")),
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


def suggestion(x: float, who: str = "agent") -> Proposal:
    spend = Spend(llm_tokens=42)
    return Proposal(Candidate(space.default() | {"x": x}, "v7"), who, "a hunch", model="m", spend=spend)


def test_suggestions_have_their_quota_of_the_candidates_and_go_first_the_oldest_as_it_is() -> None:
    advised = AdvisedProposer(OptunaProposer(random, "random"), share=0.3)
    history = view().history[:1]
    order = []
    for turn in range(20):
        given = view(turn, history=history, suggestions=(suggestion(turn / 100), suggestion(0.9)))
        proposal = advised.propose(given)
        order.append(proposal.proposer)
        if proposal.proposer == "agent":
            assert proposal == replace(suggestion(turn / 100), spend=Spend(), decided=proposal.decided), (
                "counted when it was made"
            )
            assert proposal.decided.startswith("suggestion of agent: ")
        else:
            assert proposal.decided.startswith("random: agent has had its part")
        history += (Observation(f"n{turn}", proposal.candidate.params, proposal.proposer, "RUNNING"),)
    assert order[0] == "agent"
    assert order.count("agent") == 6


def test_without_a_suggestion_the_sampler_proposes_and_alone_an_advisor_is_missed() -> None:
    proposal = AdvisedProposer(OptunaProposer(random, "random"), share=1.0).propose(view())
    assert (proposal.proposer, proposal.decided) == ("random", "random: no suggestion was waiting")
    alone = AdvisedProposer(None)
    assert alone.propose(view(suggestions=(suggestion(0.7),))).decided == "suggestion of agent: nobody else proposes"
    with pytest.raises(ProposerFailed, match="A suggestion must wait"):
        alone.propose(view())


def test_what_an_advisor_has_suggested_already_it_does_not_suggest_again() -> None:
    first = PlaybookProposer().propose(view())
    assert PlaybookProposer().propose(view(suggestions=(first,))).candidate != first.candidate
    model = ScriptedModel([json.dumps({"changes": {"x": x}, "rationale": "r"}) for x in (0.71, 0.72)])
    proposal = AgentProposer(model).propose(view(suggestions=(suggestion(0.71),)))
    assert proposal.candidate.params["x"] == 0.72
    assert "waits to be tried" in model.calls[1][-1]["content"]
