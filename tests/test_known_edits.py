"""The ready edits of the arithmetic harness, and those whose worth is known, fit the recipe as it is today."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.edits import RECIPE, ROOT, banks, harness_of, in_child, known_edits, play, ready_edits, schedule, train
from evolve import patches
from evolve.config import load
from evolve.space import SearchSpace
from evolve.types import ReadyEdit

TODAY = {RECIPE: (ROOT / RECIPE).read_text()}


@pytest.mark.parametrize("edit", ready_edits(), ids=lambda e: e.name)
def test_a_ready_edit_applies_to_the_recipe_and_compiles(edit):
    assert isinstance(edit, ReadyEdit)
    new = patches.from_blocks(TODAY, edit.blocks)[RECIPE]
    compile(new, edit.name, "exec")
    assert patches.make(TODAY, {RECIPE: new})
    for name in edit.parameters:
        assert f'params["{name}"]' in new, "a declared hyperparameter must be read"


def test_each_block_stands_once_in_the_recipe_of_today():
    for edit in ready_edits():
        for block in edit.blocks:
            patches.from_blocks(TODAY, [block])


@pytest.mark.parametrize("known", known_edits(), ids=lambda k: k.name)
def test_a_known_edit_applies_to_its_harness_and_compiles(known):
    harness, below = harness_of(known.name), harness_of(known.harness)
    compile(harness.recipe, known.name, "exec")
    assert harness.recipe != below.recipe
    assert harness.key != below.key


def test_ready_edits_apply_on_top_of_each_other_in_either_order():
    one, other = ready_edits()[:-1], ready_edits()[-2::-1]
    forwards = patches.from_blocks(TODAY, [b for e in one for b in e.blocks])[RECIPE]
    backwards = patches.from_blocks(TODAY, [b for e in other for b in e.blocks])[RECIPE]
    assert forwards == backwards
    compile(forwards, "all", "exec")


def test_names_are_unique_and_declared_hyperparameters_are_new_to_the_space():
    ready, known = [e.name for e in ready_edits()], [k.name for k in known_edits()]
    assert len(set(ready)) == len(ready) and len(set(known)) == len(known)
    space = load(["subject=arithmetic"]).subject.space
    declared = [(name, p) for e in ready_edits() for name, p in e.parameters.items()]
    assert len({name for name, _ in declared}) == len(declared) > 0
    assert not {name for name, _ in declared} & set(space)
    SearchSpace({**space, **dict(declared)})


def test_the_truth_has_helpful_harmful_and_useless_edits():
    expected = [k.expected for k in known_edits()]
    assert expected.count("helps") >= 5 and expected.count("hurts") == 3 and expected.count("nothing") == 7
    for k in known_edits():
        assert (k.about > 0) - (k.about < 0) == {"helps": 1, "hurts": -1, "nothing": 0}[k.expected]


def test_after_each_round_every_edit_has_as_many_seeds_and_a_bank_twice_as_many():
    made = [(name, seed) for _, name, seed, _ in schedule(3)]
    assert len(set(made)) == len(made)
    counts = {name: sum(name == n for n, _ in made) for name, _ in made}
    assert {n: c for n, c in counts.items() if n in banks()} == dict.fromkeys(banks(), 6)
    assert {c for n, c in counts.items() if n not in banks()} == {3}


def training(mean: float, seconds: float = 5.0, sets: int = 8) -> dict[str, object]:
    names = [*(f"gate-{k}" for k in range(1, sets + 1)), "vault-1"]
    return {"cpu_seconds": seconds, **{name: [mean, 0.01, [mean] * 7] for name in names}}


def test_a_gain_is_accepted_at_equal_compute_only():
    bank = [training(0.40 + 0.01 * (i % 3)) for i in range(18)]
    better = [training(0.60 + 0.01 * (i % 3)) for i in range(8)]
    dear = [training(0.60 + 0.01 * (i % 3), 7.5) for i in range(8)]
    found, refused = (play(x, bank, "standard", random.Random(0)) for x in (better, dear))
    assert found.accepted and found.compute and found.seeds <= 4
    assert refused.better and not refused.compute and not refused.accepted
    assert play(better, bank[:16], "standard", random.Random(0)) is None


def test_a_child_that_fails_is_an_error():
    assert in_child(lambda: None) < 1
    with pytest.raises(RuntimeError, match="must end with 0, but ended with 3"):
        in_child(lambda: sys.exit(3))


@pytest.mark.slow
def test_every_known_edit_trains(tmp_path):
    for known in known_edits():
        base = ROOT / "train/assets/base.safetensors"
        train(harness_of(known.name), base, 1, 0.03, tmp_path, tmp_path / known.name)
        assert (tmp_path / known.name / "weights.safetensors").exists()
