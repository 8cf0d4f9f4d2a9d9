"""Families by hand-written examples, who may see which problem, demonstrations and rewards."""

import random

import pytest
import torch

from evals.problems import SPLITS, draw_held_out, split_of
from train.tasks import (
    FAMILIES,
    HeldOutProblem,
    Problem,
    demonstrations,
    draw,
    draw_many,
    is_held_out,
    is_right,
    rewards,
)
from train.tokenizer import EOS, decode_answer, encode_answer, encode_prompt

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("family", "prompt", "right", "sloppy"),
    [
        ("add", "473+755=", "8221", "8210"),
        ("add", "001+002=", "3000", "3000"),
        ("add", "999+999=", "8991", "8880"),
        ("sub", "473-755=", "718", "728"),
        ("sub", "755-473=", "282", "382"),
        ("sub3", "47-51-75=", "129", "120"),
        ("sub3", "00-99-99=", "208", "200"),
        ("sub3", "90-20-30=", "040", "040"),
        ("sort", "s457901=", "014579", "975410"),
        ("reverse", "r457901=", "109754", "109745"),
        ("shift", "3k457901=", "780234", "780201"),
        ("multiply", "4m457901=", "406138", "406136"),
        ("multiply", "9m999999=", "199999", "199991"),
    ],
)
def test_right_and_sloppy_answers_are_those_worked_out_by_hand(family, prompt, right, sloppy):
    assert FAMILIES[family].right(prompt) == right
    assert FAMILIES[family].sloppy(prompt) == sloppy


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_a_million_distinct_prompts_that_fit_the_window(family):
    spec = FAMILIES[family]
    assert spec.size >= 1_000_000
    # index -> prompt is injective: every digit of the index is a character of the prompt, checked on a stride that is
    # coprime to the size, and at both ends
    indexes = {i * 7919 % spec.size for i in range(5000)} | {0, spec.size - 1}
    prompts = {spec.prompt(i) for i in indexes}
    assert len(prompts) == len(indexes)
    for prompt in list(prompts)[:500]:
        assert len(encode_prompt(prompt)) == 10
        assert decode_answer(encode_answer(spec.right(prompt))) == spec.right(prompt)
        assert len(spec.sloppy(prompt)) == len(spec.right(prompt))


def test_about_half_of_each_family_is_held_out():
    for spec in FAMILIES.values():
        shares = [is_held_out(spec.prompt(i * 7919 % spec.size)) for i in range(4000)]
        assert 0.46 < sum(shares) / 4000 < 0.54


def test_public_split_never_changes():
    """A change here would let the committed base have seen problems that are held out now."""
    prompts = ["473+755=", "473-755=", "47-51-75=", "s457901=", "r457901=", "3k457901=", "4m457901="]
    assert [is_held_out(prompt) for prompt in prompts] == FROZEN_SPLIT


FROZEN_SPLIT = [True, True, True, True, True, False, False]


def test_drawing_for_training_gives_train_split_problems_only():
    rng = random.Random(0)
    assert not any(is_held_out(p.prompt) for p in draw_many(2000, rng))
    assert not any(is_held_out(d.problem.prompt) for d in demonstrations(0, 500))


def test_training_refuses_a_held_out_problem():
    held_out = next(p for p in map(FAMILIES["sort"].prompt, range(50)) if is_held_out(p))
    with pytest.raises(HeldOutProblem, match="train split only"):
        Problem("sort", held_out)


def test_same_seed_gives_the_same_demonstrations_and_another_seed_others():
    assert demonstrations(3, 50) == demonstrations(3, 50)
    assert demonstrations(3, 50) != demonstrations(4, 50)


def test_demonstrations_are_as_wrong_as_announced():
    shown = demonstrations(0, 3000)
    wrong = {
        family: [not is_right(d.problem, d.answer) for d in shown if d.problem.family == family] for family in FAMILIES
    }
    assert not wrong["multiply"]
    assert 0.65 < sum(wrong["sort"]) / len(wrong["sort"]) < 0.80
    assert 0.05 < sum(wrong["shift"]) / len(wrong["shift"]) < 0.20


def test_reward_is_exact_match_with_eos_and_ignores_what_follows():
    rng = random.Random(0)
    problem = draw("sub", rng)
    right = encode_answer(FAMILIES["sub"].right(problem.prompt))  # 3 digits, EOS, 3 x padding
    noise_after = [*right[:4], 9, 9, 9]
    no_eos = [*right[:3], 9, 9, 9, 9]
    wrong_digit = [*right[:2], 4 if right[2] != 4 else 5, EOS, 0, 0, 0]
    answers = torch.tensor([[right, noise_after, no_eos, wrong_digit]])  # (1, 4, 7)
    assert rewards([problem], answers).tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_search_gate_and_vault_are_disjoint_and_leave_the_train_split_alone():
    drawn = {split: {p.prompt for p in draw_held_out(KEY, split, 0, 2000)} for split in SPLITS}
    assert not drawn["search"] & drawn["gate"]
    assert not drawn["search"] & drawn["vault"]
    assert not drawn["gate"] & drawn["vault"]
    assert all(is_held_out(prompt) for prompts in drawn.values() for prompt in prompts)
    assert all(split_of(KEY, prompt) == split for split, prompts in drawn.items() for prompt in prompts)


def test_parts_of_the_pool_are_about_equal():
    prompts = [p for p in (FAMILIES["sort"].prompt(i) for i in range(6000)) if is_held_out(p)]
    for split in SPLITS:
        assert 0.28 < sum(split_of(KEY, p) == split for p in prompts) / len(prompts) < 0.39


def test_draw_is_distinct_balanced_and_repeatable_from_the_key_alone():
    first = draw_held_out(KEY, "search", 3, 2000)
    assert first == draw_held_out(KEY, "search", 3, 2000)
    assert len({p.prompt for p in first}) == 2000
    counts = [sum(p.family == family for p in first) for family in FAMILIES]
    assert counts == [286, 286, 286, 286, 286, 285, 285]
    assert first != draw_held_out(KEY, "search", 4, 2000)
    assert first != draw_held_out(bytes(32), "search", 3, 2000)


def test_bad_draws_are_refused():
    with pytest.raises(ValueError, match="search, gate, vault"):
        draw_held_out(KEY, "train", 0, 2000)
    with pytest.raises(ValueError, match="32 bytes"):
        draw_held_out(b"short", "search", 0, 2000)
