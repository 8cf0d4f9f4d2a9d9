"""The playbook knows roles, never a subject: its spaces here have names that mean nothing."""

from dataclasses import replace
from importlib import resources

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evolve.config import load
from evolve.curves import GRAVE, CurveClaim, diagnose
from evolve.errors import ProposerFailed
from evolve.memory import Observation, View
from evolve.playbook import PlaybookProposer, _cooked
from evolve.playbook_rules import WORDS, Rule, book
from evolve.space import SearchSpace
from evolve.types import Objective, Parameter, Params, Proposal

SPACE = SearchSpace(
    {
        "a": Parameter("float", 3e-4, "learning_rate", low=3e-5, high=3e-3, log=True),
        "m": Parameter("categorical", False, "prompt_masking", choices=(True, False)),
        "w": Parameter("float", 0.01, "weight_decay", low=0.0, high=0.3),
        "r": Parameter("categorical", "sft", "phases", choices=("sft", "sft_dpo", "sft_grpo", "sft_dpo_grpo")),
        "b": Parameter("float", 0.3, "beta", low=0.02, high=1.0, log=True, when={"r": ("sft_dpo", "sft_dpo_grpo")}),
        "k": Parameter("float", 0.04, "kl", low=0.0, high=0.2, when={"r": ("sft_grpo", "sft_dpo_grpo")}),
        "t": Parameter("float", 0.7, "temperature", low=0.5, high=1.5, when={"r": ("sft_grpo", "sft_dpo_grpo")}),
        "g": Parameter("int", 6, "group_size", low=4, high=16, when={"r": ("sft_grpo", "sft_dpo_grpo")}),
    }
)


def seen(params: Params, score: float | None, number: int, error: str | None = None, outcome: str = "") -> Observation:
    state = "FAIL" if error else "RUNNING" if score is None else "COMPLETE"
    return Observation(str(number), dict(params), "someone", state, score, 0.01, error=error, outcome=outcome)


def make_view(
    space: SearchSpace = SPACE, *observations: Observation, direction: str = "maximize", **more: object
) -> View:
    default = space.default()
    history = (seen(default, 0.4, 0), *observations)
    view = View(
        space,
        Objective("score", direction),
        "v1",
        "",
        0,
        len(history),
        {},
        default,
        default,
        default,
        0.4,
        history,
        0.01,
    )
    return replace(view, **more)


def after(changes: dict[str, object], score: float | None, number: int = 1, error: str | None = None) -> Observation:
    return seen(SPACE.overlay(SPACE.default(), changes), score, number, error)


def recipes_without_gain() -> list[Observation]:
    """The default with each recipe laid over it, all as good as the default."""
    made = [p for r in book().recipes if (p := _cooked(r, SPACE, SPACE.default())) is not None]
    return [seen(p, 0.4, i) for i, p in enumerate(made, 1)]


def mine(observation: Observation) -> Observation:
    return replace(observation, proposer="playbook")


def exhaust(view: View, at_most: int = 2000) -> list[Proposal]:
    """All proposals until the playbook says that it has run out, none of them finished meanwhile."""
    made: list[Proposal] = []
    while len(made) < at_most:
        try:
            made.append(PlaybookProposer().propose(view))
        except ProposerFailed:
            return made
        view = replace(view, history=(*view.history, seen(made[-1].candidate.params, None, len(made))))
    raise AssertionError("the playbook never ran out")


def test_the_first_move_is_the_whole_of_a_published_recipe_and_its_rationale_names_the_sources():
    proposal = PlaybookProposer().propose(make_view())
    assert dict(proposal.candidate.params) == {
        "a": 3e-4, "m": True, "w": 0.01, "r": "sft_grpo", "k": 0.0, "t": 1.0, "g": 8,
    }  # fmt: skip
    assert (proposal.proposer, proposal.model, proposal.candidate.subject_version) == ("playbook", None, "v1")
    assert proposal.rationale.startswith("SFT, then reinforcement, as published today: a short cold start")
    assert "2501.12948" in proposal.rationale
    assert proposal.rationale.endswith(
        "m False -> True, r sft -> sft_grpo, k (none) -> 0, t (none) -> 1, g (none) -> 8."
    )


def test_usual_values_are_brought_into_the_range():
    narrow = SearchSpace(
        {
            "r": Parameter("categorical", "sft", "phases", choices=("sft", "sft_rl")),
            "k": Parameter("float", 0.1, "kl", low=0.02, high=0.2, when={"r": ("sft_rl",)}),
            "g": Parameter("int", 3, "group_size", low=2, high=5, when={"r": ("sft_rl",)}),
        }
    )
    assert PlaybookProposer().propose(make_view(narrow)).candidate.params == {"r": "sft_rl", "k": 0.02, "g": 5}


def test_recipes_come_first_then_single_changes_in_the_menus_order():
    default = SPACE.default()
    made = [dict(p.candidate.params) for p in exhaust(make_view())]
    changes = [{n: v for n, v in p.items() if default.get(n) != v} for p in made]
    grpo = {"k": 0.0, "t": 1.0, "g": 8}
    assert changes[:8] == [
        {"m": True, "r": "sft_grpo", **grpo},
        {"a": 9e-4},
        {"m": True, "r": "sft_dpo_grpo", "b": 0.1, **grpo},
        {
            "r": "sft_grpo",
            **grpo,
        },  # reinforcement that learns faster: here its learning rate is SFT's, so only the phase
        {"m": True, "r": "sft_dpo", "b": 0.1},
        {"w": 0.1},
        {"r": "sft_grpo", "k": 0.0, "t": 1.0, "g": 16},
        {"a": 1e-4},
    ]
    assert changes[8] == {"m": True}, "the menu's first that is new"


def test_a_recipe_is_tried_once_and_again_only_when_all_else_has_been():
    incumbent = SPACE.overlay(SPACE.default(), {"r": "sft_grpo", "m": True, "k": 0.0, "t": 1.0, "g": 8})
    moved = {**incumbent, "m": False}  # as a sampler may
    view = make_view(
        SPACE,
        seen(incumbent, 0.6, 1, outcome="accepted"),
        seen(moved, 0.7, 2, outcome="accepted"),
        incumbent=moved,
        incumbent_score=0.7,
    )
    reasons = [p.rationale for p in exhaust(view)]
    again = [i for i, r in enumerate(reasons) if r.startswith("SFT, then reinforcement")]
    assert reasons[0].startswith("larger learning rates"), "the second recipe"
    assert all(i > 40 for i in again)


def test_beside_reinforcement_its_own_values_come_before_other_divisions_of_the_training():
    incumbent = SPACE.overlay(SPACE.default(), {"r": "sft_grpo", "k": 0.04, "t": 0.7, "g": 6, "m": True})
    view = make_view(SPACE, seen(incumbent, 0.7, 1, outcome="accepted"), incumbent=incumbent, incumbent_score=0.7)
    single = [p.rationale for p in exhaust(view) if " -> " in p.rationale.split(":")[0]]
    # The group's size is doubled before: by a recipe of which this space has nothing else.
    assert [r.split(":")[0] for r in single[:3]] == ["k 0.04 -> 0", "t 0.7 -> 1", "w 0.01 -> 0"]
    assert min(i for i, r in enumerate(single) if r.startswith("r ")) > 3


def test_a_move_that_helped_goes_further_in_its_direction():
    view = make_view(SPACE, *recipes_without_gain(), after({"a": 9e-4}, 0.45, 14))
    assert PlaybookProposer().propose(view).candidate.params["a"] == pytest.approx(2.7e-3, rel=1e-3)


@pytest.mark.parametrize(("direction", "score"), [("maximize", 0.3), ("minimize", 0.5)])
def test_a_move_that_hurt_is_not_repeated_and_not_taken_further(direction, score):
    made = exhaust(make_view(SPACE, after({"a": 5e-4}, score), direction=direction))
    assert made
    assert all(p.candidate.params["a"] < 5e-4 for p in made)
    assert any(p.candidate.params["a"] > 3e-4 for p in made), "a smaller step may still be tried"


def test_a_step_that_helped_is_not_taken_back_by_the_usual_values():
    first = SPACE.overlay(SPACE.default(), {"a": 9e-4})
    incumbent = {**first, "m": True}
    view = make_view(
        SPACE,
        seen(first, 0.5, 1, outcome="accepted"),
        seen(incumbent, 0.6, 2, outcome="accepted"),
        incumbent=incumbent,
        incumbent_score=0.6,
    )
    made = exhaust(view)
    back = [i for i, p in enumerate(made) if p.candidate.params == {**incumbent, "a": 3e-4}]
    others = [i for i, p in enumerate(made) if p.candidate.params == {**incumbent, "w": 0.1}]
    assert others[0] < back[0], "only after everything else"


def test_two_moves_that_helped_alone_are_combined():
    view = make_view(SPACE, *recipes_without_gain(), after({"m": True}, 0.45, 14), after({"w": 0.3}, 0.44, 15))
    proposal = PlaybookProposer().propose(view)
    assert dict(proposal.candidate.params) == SPACE.overlay(SPACE.default(), {"m": True, "w": 0.3})
    assert proposal.rationale == "m = True (+0.05) and w = 0.3 (+0.04): each helped on its own; together."


def test_what_helped_beside_an_earlier_incumbent_is_carried_over_to_the_new_one():
    incumbent = SPACE.overlay(SPACE.default(), {"r": "sft_grpo", "k": 0.0, "t": 1.0, "g": 16})
    view = make_view(SPACE, after({"m": True}, 0.45), seen(incumbent, 0.7, 2), incumbent=incumbent, incumbent_score=0.7)
    assert PlaybookProposer().propose(view).candidate.params == {**incumbent, "m": True}


def test_an_effect_of_a_recipe_that_was_left_again_is_no_obstacle():
    far = {"r": "sft_grpo", "k": 0.0, "t": 1.0, "g": 8}
    history = [
        seen(SPACE.overlay(SPACE.default(), far), 0.6, 1, outcome="accepted"),
        seen(SPACE.overlay(SPACE.default(), {**far, "g": 16}), 0.3, 2),
        seen(SPACE.overlay(SPACE.default(), {**far, "k": 0.1}), 0.7, 3),
    ]
    assert len(exhaust(make_view(SPACE, *history))) > 10


def curved(metric: str, *quarters: float) -> tuple[CurveClaim, ...]:
    return (CurveClaim(metric, quarters, 20),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("curve", "changed"),
    [
        (curved("loss", 2.0, 1.0, 1.5, 3.0), {"a": 1e-4}),
        (curved("reward", 0.2, 0.6, 0.6, 0.3), {"k": 0.08}),
        (curved("train/kl", 0.0, 0.5, 1.0, 4.0), {"k": 0.08}),
        (curved("eval_loss", 2.0, 1.0, 1.0, 1.5) + curved("loss", 2.0, 1.0, 0.5, 0.3), {"w": 0.1}),
        (curved("exact_match", 0.2, 0.5, 0.6, 0.6), {"a": 9e-4}),
    ],
)
def test_what_is_usually_done_about_the_incumbents_curve_comes_before_recipes_for_faults_else_after_them(
    curve, changed
):
    fault = bool(set(diagnose(curve, one_phase=True)) & set(GRAVE))
    phase = "sft_grpo" if "k" in changed else "sft"
    incumbent = SPACE.overlay(SPACE.default(), {"r": phase})
    view = make_view(SPACE, replace(seen(incumbent, 0.7, 1), curve=curve), incumbent=incumbent, incumbent_score=0.7)
    if incumbent == view.default:
        view = replace(view, history=(replace(view.history[0], curve=curve),))
    if not fault:
        assert PlaybookProposer().propose(view).rationale.startswith("SFT, then reinforcement")
        tried = [
            o for o in recipes_without_gain() if {n for n, v in o.params.items() if incumbent.get(n) != v} != {"a"}
        ]
        view = replace(view, history=(*view.history, *tried))
    proposal = PlaybookProposer().propose(view)
    assert {n: v for n, v in proposal.candidate.params.items() if incumbent[n] != v} == changed


def test_the_curves_of_others_and_losses_of_several_phases_say_nothing():
    collapsed = replace(after({"a": 5e-4}, 0.4), curve=curved("reward", 0.2, 0.6, 0.6, 0.1))
    assert PlaybookProposer().propose(make_view(SPACE, collapsed)).rationale.startswith("SFT, then reinforcement")
    assert diagnose(curved("loss", 2.0, 1.0, 1.5, 3.0), one_phase=False) == []


def test_a_reaction_that_did_not_help_is_not_repeated():
    incumbent = SPACE.default()
    first = replace(seen(incumbent, 0.4, 0), curve=curved("loss", 2.0, 1.0, 1.5, 3.0))
    view = replace(make_view(SPACE), history=(first, after({"a": 1e-4}, 0.3)))
    made = exhaust(view)
    assert made[0].rationale.startswith("SFT, then reinforcement"), (
        "of the other reactions none fits a training of SFT alone"
    )
    assert not any(p.candidate.params["a"] <= 1e-4 and p.candidate.params["r"] == "sft" for p in made[:20])


def test_every_role_of_the_arithmetic_subject_has_a_rule_and_every_rule_a_source():
    space = load(["subject=arithmetic"]).subject.space
    ruled = {r.role.rpartition("/")[2] for r in book().menu} | {"phases"}
    assert {p.role for p in space.values()} <= ruled
    rules = [*book().menu, *(r for moves in book().reactions.values() for r in moves)]
    assert all(len(r.source) > 10 for r in [*rules, *book().recipes, *book().usual.values()])
    kinds = {r.role.rpartition("/")[0] for r in rules} - {""}
    kinds |= {k for r in book().recipes if r.phases for k in (*r.phases.with_, *r.phases.without)}
    assert kinds <= WORDS.keys()


def test_no_rule_names_a_parameter_of_the_subject():
    """Names that are not at the same time the field's word for the role."""
    text = (resources.files("evolve") / "playbook.yaml").read_text()
    space = load(["subject=arithmetic"]).subject.space
    own = [n for n, p in space.items() if n != p.role and p.role in text]
    assert len(own) > 4
    assert not [n for n in own if n in text]


def test_a_rule_goes_to_one_place_alone():
    with pytest.raises(msgspec.ValidationError, match="exactly one of to, times, plus"):
        msgspec.yaml.decode("{role: kl, to: 0.0, times: 2.0}", type=Rule)
    with pytest.raises(msgspec.ValidationError, match="unknown field `tmies`"):
        msgspec.yaml.decode("{role: kl, tmies: 2.0}", type=Rule)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("Weights must be finite, but 'x' has NaN: the training diverged.", {"a": 3e-5}),
        ("train: exit code 1: CUDA out of memory", {"g": 8}),
        ("train: ended at its limit of 60 s (limits.train_seconds)", {"g": 8}),
    ],
)
def test_a_known_failure_is_answered_with_the_same_but_milder(error, expected):
    failing = {"r": "sft_grpo", "a": 3e-4 if "g" in expected else 1e-4, "g": 16, "k": 0.0, "t": 1.0}
    proposal = PlaybookProposer().propose(make_view(SPACE, mine(after(failing, None, 1, error))))
    milder = {"a": 3.3333e-5} if "a" in expected else expected
    assert dict(proposal.candidate.params) == pytest.approx(SPACE.overlay(SPACE.default(), {**failing, **milder}))


def test_a_learning_rate_that_diverged_is_followed_by_one_below_the_incumbent():
    proposal = PlaybookProposer().propose(make_view(SPACE, mine(after({"a": 9e-4}, None, 1, "loss is NaN"))))
    assert proposal.candidate.params == SPACE.overlay(SPACE.default(), {"a": 9e-5})
    assert "diverged" in proposal.rationale


def test_a_samplers_failure_is_left_to_the_sampler():
    theirs = replace(after({"a": 9e-4}, None, 1, "diverged"), proposer="tpe")
    assert PlaybookProposer().propose(make_view(SPACE, theirs)).candidate.params["r"] == "sft_grpo"


def test_an_unknown_failure_and_a_third_failure_in_a_row_have_no_remedy():
    unknown = make_view(SPACE, mine(after({"a": 9e-4}, None, 1, "ValueError: something else")))
    assert PlaybookProposer().propose(unknown).candidate.params["r"] == "sft_grpo"
    thrice = [mine(after({"a": a}, None, i, "diverged")) for i, a in enumerate((9e-4, 1e-3, 2e-3), 1)]
    assert PlaybookProposer().propose(make_view(SPACE, *thrice)).candidate.params["r"] == "sft_grpo"


def test_parameters_without_a_known_role_are_moved_by_halved_steps_on_their_own_scale():
    plain = SearchSpace(
        {"x": Parameter("float", 0.0, low=-5.0, high=5.0), "y": Parameter("int", 10, low=1, high=100, log=True)}
    )
    made = [p.candidate.params for p in exhaust(make_view(plain))[:6]]
    assert made == [
        {"x": 2.5, "y": 10}, {"x": -2.5, "y": 10}, {"x": 0.0, "y": 32}, {"x": 0.0, "y": 3},
        {"x": 1.25, "y": 10}, {"x": -1.25, "y": 10},
    ]  # fmt: skip


def test_a_retry_in_the_same_turn_offers_the_next_move():
    first, second = exhaust(make_view())[:2]
    assert PlaybookProposer().propose(replace(make_view(), retry=1)).candidate == second.candidate != first.candidate


def test_a_space_that_is_used_up_is_a_failure_in_the_playbooks_name():
    tiny = SearchSpace({"x": Parameter("categorical", "p", choices=("p", "q"))})
    used = seen({"x": "q"}, 0.1, 1)
    with pytest.raises(ProposerFailed, match="all were tried in 2 candidates") as caught:
        PlaybookProposer().propose(make_view(tiny, used))
    assert caught.value.proposer == "playbook"


def test_roles_on_parameters_of_an_unusual_type_are_harmless():
    odd = SearchSpace(
        {
            "a": Parameter("categorical", 3e-4, "learning_rate", choices=(1e-4, 3e-4)),
            "m": Parameter("int", 0, "prompt_masking", low=0, high=1),
            "k": Parameter("categorical", "on", "kl", choices=("on", "off")),
            "p": Parameter("categorical", 1, "phases", choices=(1, 2)),
        }
    )
    view = make_view(odd, seen(odd.overlay(odd.default(), {"a": 1e-4}), None, 1, "loss is nan"))
    assert len(exhaust(view)) == 3  # the other choice of k and of p, and 1 for m


ROLES = [
    "",
    "learning_rate",
    "kl",
    "group_size",
    "phases",
    "warmup",
    "prompt_masking",
    "temperature",
    "beta",
    "phase_share",
]


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Up to four parameters of any type, scale and role, the later ones perhaps conditional on a categorical one."""
    parameters: dict[str, Parameter] = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        kind = draw(st.sampled_from(["float", "int", "categorical"]))
        role = draw(st.sampled_from(ROLES))
        parents = [n for n, p in parameters.items() if p.type == "categorical"]
        when = {}
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            when = {parent: (draw(st.sampled_from(parameters[parent].choices)),)}
        if kind == "categorical":
            choices = draw(
                st.sampled_from([("sft", "sft_grpo", "sft_dpo"), (True, False), (0.1, 0.2, 0.4), ("none", "group")])
            )
            parameters[name] = Parameter(
                "categorical", draw(st.sampled_from(choices)), role, choices=choices, when=when
            )
            continue
        log = draw(st.booleans())
        low = draw(st.sampled_from([1, 3, 20] if log else [-7, 0, 2])) * (
            1 if kind == "int" else draw(st.sampled_from([1.0, 1e-4]))
        )
        high = low * draw(st.sampled_from([3, 1000])) if log else low + draw(st.sampled_from([1, 9]))
        step = None if log else draw(st.sampled_from([None, 1 if kind == "int" else 0.25]))
        parameters[name] = Parameter(kind, draw(st.sampled_from([low, high])), role, low, high, log, step, when=when)
    return SearchSpace(parameters)


_DIVISIONS = ("sft", "sft_grpo", "sft_dpo")
TWO_DIVISIONS = SearchSpace(
    {
        "a": Parameter("categorical", "sft_dpo", "phases", choices=_DIVISIONS),
        "c": Parameter("categorical", "sft", "phases", choices=_DIVISIONS, when={"a": ("sft_dpo",)}),
    }
)


@example(TWO_DIVISIONS, [None])  # a recipe that changes the first takes the second away
@settings(max_examples=60, deadline=None)
@given(spaces(), st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=25))
def test_on_any_space_every_proposal_is_valid_and_new_until_the_playbook_says_that_it_has_run_out(space, scores):
    view = make_view(space)
    tried = [space.default()]
    for number, score in enumerate(scores, 1):
        try:
            proposal = PlaybookProposer().propose(view)
        except ProposerFailed:
            break
        params = dict(proposal.candidate.params)
        assert space.parse(params) == params
        assert params not in tried
        assert 0 < len(proposal.rationale) < 1000
        assert PlaybookProposer().propose(view) == proposal, "equal views give equal proposals"
        tried.append(params)
        error = "loss is nan" if score is None else None
        view = replace(view, history=(*view.history, seen(params, score, number, error)))
        if score is not None and score > (view.incumbent_score or 0):
            view = replace(view, incumbent=params, incumbent_score=score)
    assert len(tried) > 1, "at least one move exists in every space of these"
