from __future__ import annotations

import pytest
from inline import SPACE

from evolve.errors import BadInput
from evolve.memory import Observation, View
from evolve.search import OptunaProposer, distribution, random, tpe
from evolve.space import SearchSpace
from evolve.types import Objective

space = SearchSpace(SPACE)


def view(history: list[Observation], turn: int = 0, **changes: object) -> View:
    settings: dict[str, object] = {
        "space": space, "objective": Objective("score", "maximize"), "subject_version": "v", "description": "", "seed": 0,
        "turn": turn, "turns": {}, "default": space.default(), "champion": space.default(), "incumbent": space.default(),
        "incumbent_score": 0.5, "history": tuple(history),
    }  # fmt: skip
    return View(**(settings | changes))  # type: ignore[arg-type]


def grow(proposer: OptunaProposer, rounds: int) -> list[Observation]:
    history = [Observation("default", space.default(), "default", "COMPLETE", 0.4, 0.01)]
    for turn in range(rounds):
        params = proposer.propose(view(history, turn)).candidate.params
        crash = float(params["x"]) > 0.6
        score = None if crash else 0.5 + float(params["x"])
        error = "out of memory" if crash else None
        history.append(
            Observation(f"c{turn}", params, proposer.name, "FAIL" if crash else "COMPLETE", score, 0.01, error=error)
        )
    return history


def test_proposals_are_valid_and_depend_on_the_view_alone() -> None:
    history = grow(OptunaProposer(tpe, "tpe"), 15)
    again = OptunaProposer(tpe, "tpe").propose(view(history[:10], 9))
    assert again.candidate.params == history[10].params, (
        "a proposer that starts in the middle continues as the other did"
    )
    for o in history:
        assert space.parse(o.params) == o.params


def test_a_retry_of_the_same_turn_proposes_something_else() -> None:
    proposer = OptunaProposer(random, "random")
    first, second = (proposer.propose(view([], 3, retry=retry)).candidate.params for retry in (0, 1))
    assert first != second


def test_tpe_learns_to_keep_away_from_a_crash_beside_the_optimum() -> None:
    history = grow(OptunaProposer(tpe, "tpe"), 60)
    late = history[-25:]
    crashed = sum(o.state == "FAIL" for o in late) / len(late)
    assert crashed < 0.6, "samplers that ignore failures send nearly all of their last trials into the crash"


def test_running_candidates_are_known_to_the_sampler_and_closed_later() -> None:
    proposer = OptunaProposer(tpe, "tpe")
    running = Observation("r", space.default() | {"x": 0.25}, "tpe", "RUNNING")
    proposer.propose(view([running], 0))
    finished = Observation("r", running.params, "tpe", "COMPLETE", 0.7, 0.01)
    proposer.propose(view([finished], 1))
    assert proposer._study is not None
    states = [t.state.name for t in proposer._study.trials]
    assert "RUNNING" not in states
    assert [t.value for t in proposer._study.trials if t.state.name == "COMPLETE"] == [0.7]


def test_distributions_are_the_same_ranges_in_optunas_terms() -> None:
    shown = {name: repr(distribution(p)) for name, p in space.parameters.items()}
    assert shown == {
        "x": "FloatDistribution(high=1.0, log=False, low=0.0, step=None)",
        "mode": "CategoricalDistribution(choices=('a', 'b'))",
        "z": "IntDistribution(high=8, log=False, low=1, step=1)",
    }


def test_any_sampler_of_optunas_can_be_named_and_a_wrong_one_is_explained() -> None:
    from evolve.compose import sampler_factory

    assert type(sampler_factory({"_target_": "optuna.samplers.QMCSampler"})(1)).__name__ == "QMCSampler"
    with pytest.raises(BadInput, match="did you mean 'TPESampler'"):
        sampler_factory({"_target_": "optuna.samplers.TPSampler"})
    with pytest.raises(BadInput, match="must accept proposer.sampler's settings"):
        sampler_factory({"_target_": "optuna.samplers.TPESampler", "n_startup": 3})
    with pytest.raises(BadInput, match="must be one of Optuna's samplers"):
        sampler_factory({"_target_": "os.system"})
