"""The TRL subject below its commands: who sees which problem, what a training may leave, and that each method trains."""

from __future__ import annotations

import builtins
import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
for name in ("trl", "peft", "reasoning_gym"):
    pytest.importorskip(name)

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from evals.trl.problems import SPLITS, draw, split_of  # noqa: E402
from evals.trl.score import score  # noqa: E402
from train.trl import model as models  # noqa: E402
from train.trl import recipe, run  # noqa: E402
from train.trl.make_base import tiny  # noqa: E402
from train.trl.tasks import Problem, Tasks, extracted, is_held_out, runs_answers  # noqa: E402

KEY = b"k" * 32
SUMS = json.dumps({"chain_sum": {"max_terms": 2, "max_digits": 2}})
LETTERS = "abcdefghijkl"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base")
    tiny(folder)
    return folder


def config(method: str, **fixed: Any) -> dict[str, Any]:
    """What a training of the shipped subject is given at its defaults."""
    shared, own = (
        yaml.safe_load((ROOT / "configs" / "subject" / f"{n}.yaml").read_text()) for n in ("_trl", f"trl_{method}")
    )
    space = {
        name: {**shared["space"].get(name, {}), **own["space"].get(name, {})} for name in shared["space"] | own["space"]
    }
    params = {name: p["default"] for name, p in space.items()}
    small = {"tasks": SUMS, "instruction": "", "samples": 64, "max_completion_length": 6}
    return {**shared["fixed"], **own["fixed"], **params, **small, **fixed}


def scored(base: Path, weights: Path | None, params: dict[str, Any], **more: Any) -> dict[str, Any]:
    asked = {
        "weights": weights and str(weights),
        "split": "search",
        "key": KEY.hex(),
        "round": 0,
        "n": 24,
        "device": "cpu",
    }
    return score(asked | {"fixed": params, "assets": {"base": str(base)}} | more)


def trained(base: Path, out: Path, params: dict[str, Any], seed: int = 0) -> Path:
    run.run({"params": params, "seed": seed, "fidelity": 1.0, "device": "cpu", "assets": {"base": str(base)}}, out)
    return out


# ---------------------------------------------------------------- who sees which problem


def test_the_splits_of_procedural_problems_are_disjoint_and_drawn_by_the_key() -> None:
    tasks = Tasks("chain_sum, gcd")
    seen = {p.prompt for p in tasks.train(200, 0)}
    assert len(seen) == 200 and not any(map(is_held_out, seen))
    for split in SPLITS:
        drawn = draw(tasks, KEY, split, 0, 41)
        assert {split_of(KEY, p.prompt) for p in drawn} == {split}
        assert drawn == draw(tasks, KEY, split, 0, 41) and [p.task for p in drawn].count("gcd") == 20
        assert drawn != draw(tasks, KEY, split, 1, 41) and drawn != draw(tasks, b"l" * 32, split, 0, 41)
        assert not seen & {p.prompt for p in drawn}
        seen |= {p.prompt for p in drawn}


def test_a_task_with_too_few_problems_is_refused_by_the_scorer_alone() -> None:
    tasks = Tasks(json.dumps({"chain_sum": {"max_terms": 2, "max_digits": 1}}))
    assert 20 < len(tasks.train(500, 0)) < 200  # a training goes through them again
    with pytest.raises(ValueError, match=r"must have 500 distinct problems in each split, but [0-9]+ were found"):
        draw(tasks, KEY, "vault", 0, 500)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("chain_summ", "no 'chain_summ'"),
        ("{", "names or a JSON object"),
        ('{"chain_sum": {"terms": 1}}', "settings of task chain_sum must suit it"),
        ('{"chain_sum": {"min_terms": 9}}', "settings of task chain_sum must suit it"),
        ("jsonl", "needs a file for each split"),
    ],
)
def test_wrong_tasks_get_one_clear_line(named: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Tasks(named)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_no_problem_is_named(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(ValueError, match=r"line 2 of dev\.jsonl"):
        Tasks("jsonl", tmp_path / "dev.jsonl")


def test_an_answer_may_stand_in_tags_and_the_verifier_judges_it() -> None:
    tasks = Tasks(SUMS)
    problem = tasks.train(1, 0)[0]
    assert tasks.reward(problem, f" {problem.answer}\n") == 1.0
    assert tasks.reward(problem, f"so <answer>0x</answer> no, <answer>{problem.answer}</answer>.") == 1.0
    assert tasks.reward(problem, f"The answer is {problem.answer}.") < 1 and tasks.reward(problem, "") < 1
    assert extracted("<answer>1") == "<answer>1"
    assert Tasks.reward(tasks, Problem("all", "p", "b"), "b") == 1.0


RUNS_ANSWERS = {
    "binary_matrix", "bitwise_arithmetic", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication",
    "puzzle24", "simple_integration", "spiral_matrix", "string_insertion",
}  # fmt: skip


def test_tasks_whose_verifier_runs_an_answer_as_python_are_refused() -> None:
    from reasoning_gym.factory import DATASETS, create_dataset

    assert {name for name, (kind, _) in DATASETS.items() if runs_answers(kind)} == RUNS_ANSWERS
    ran: list[str] = []
    builtins.evolve_probe = ran.append  # type: ignore[attr-defined]
    try:
        bad = create_dataset("string_insertion", seed=0, size=9)
        bad.score_answer("[evolve_probe('ran')]", bad[0])
        assert ran == ["ran"]  # what could as well have changed the scorer
        for name in sorted(DATASETS.keys() - RUNS_ANSWERS):
            if name in (
                "basic_arithmetic",
                "number_sorting",
                "gcd",
                "letter_counting",
                "propositional_logic",
                "codeio",
            ):
                good = create_dataset(name, seed=0, size=9)
                good.score_answer("[evolve_probe('ran')]", good[0])
        assert ran == ["ran"]
    finally:
        del builtins.evolve_probe  # type: ignore[attr-defined]
    for name in ("string_insertion", "chain_sum, countdown"):
        with pytest.raises(ValueError, match="its verifier runs an answer as Python"):
            Tasks(name)


# ---------------------------------------------------------------- each method


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_each_method_leaves_what_the_scorer_takes_and_the_seed_decides_it(
    base: Path, tmp_path: Path, method: str, tuning: str
) -> None:
    params = config(method, tuning=tuning, samples=32)
    first, again, other = (trained(base, tmp_path / str(i), params, seed) for i, seed in enumerate((0, 0, 1)))
    kept = models.ADAPTER if tuning == "lora" else models.WHOLE
    assert (first / kept).read_bytes() == (again / kept).read_bytes() != (other / kept).read_bytes()
    found = scored(base, first, params)
    assert found == scored(base, first, params) and found["n"] == 24 and 0 <= found["score"] <= 1
    model, _ = models.load_base(base, "cpu")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    after = dict(models.load_trained(model, first).named_parameters())
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_sft_learns_a_file_of_problems(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"after {a}", "answer": b} for a, b in itertools.pairwise(LETTERS)]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("EVOLVE_DATA", str(tmp_path / "all.jsonl"))
    params = config("sft", tasks="jsonl", tuning="full", learning_rate=3e-3, batch_size=4, samples=800)
    assert scored(base, None, params)["score"] == 0.0
    found = scored(base, trained(base, tmp_path / "out", params), params)
    assert found["score"] > 0.8 and found["n"] == len(rows) and found["cut_off"] == 0.0


def test_a_merged_adapter_answers_as_the_trained_model_did(base: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load_base(base, "cpu")
    params = config("sft", learning_rate=5e-3)
    kept = recipe.train(model, tokenizer, Tasks(SUMS), params, 64, 0, "cpu", lambda used, logs: None).eval()
    models.save(kept, tokenizer, tmp_path)
    tokens = torch.tensor([[5, 6, 7, 8]])
    fresh, _ = models.load_base(base, "cpu")
    untrained = fresh(tokens).logits
    merged = models.load_trained(fresh, tmp_path).eval()
    assert torch.allclose(merged(tokens).logits, kept(tokens).logits, atol=1e-4)
    assert not torch.allclose(untrained, kept(tokens).logits, atol=1e-4)


def test_a_diverging_training_leaves_nothing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError):
        trained(base, tmp_path / "out", config("sft", tuning="full", learning_rate=1e30, max_grad_norm=1e30))
    assert not (tmp_path / "out").exists()


def test_the_share_of_the_budget_is_kept(base: Path) -> None:
    used: list[int] = []
    for batch_size in (4, 12, 32):
        model, tokenizer = models.load_base(base, "cpu")
        params = config("sft", batch_size=batch_size, micro_batch_size=5)
        recipe.train(model, tokenizer, Tasks(SUMS), params, 96, 0, "cpu", lambda n, logs: used.append(n))
        assert used[-1] == 96
    assert recipe.batches(12, {"micro_batch_size": 5}) == {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 3,
    }


# ---------------------------------------------------------------- what a training left is not trusted


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(base, tmp_path_factory.mktemp("adapter"), config("sft", samples=16))


def said(**changes: Any) -> Callable[[Path], None]:
    def change(left: Path) -> None:
        path = left / models.ADAPTER_CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(left: Path) -> None:
        found = load_file(left / models.ADAPTER)
        change(found)
        save_file(found, left / models.ADAPTER)

    return rewrite


def first(found: dict[str, torch.Tensor]) -> str:
    return min(found)


PLANTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another kind": (said(peft_type="IA3"), "peft_type is 'IA3'"),
    "a variant": (said(use_dora=True), "use_dora is 'True'"),
    "one of tomorrow": (said(surprise={"a": 1}), "surprise is"),
    "changes the base": (said(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    "whole modules": (said(modules_to_save=["lm_head"]), "modules_to_save is"),
    "a rank that is none": (said(r="8"), "1 <= r"),
    "a rank of its own": (said(r=8), "must fit the base"),
    "infinite": (said(lora_alpha=float("inf")), "finite lora_alpha"),
    "no config": (lambda left: (left / models.ADAPTER_CONFIG).unlink(), "must be PEFT's config"),
    "no JSON": (lambda left: (left / models.ADAPTER_CONFIG).write_text("["), "must be PEFT's config"),
    "NaN": (tensors(lambda t: t[first(t)].fill_(float("nan"))), "must be finite"),
    "a tensor of nobody's": (tensors(lambda t: t.update(hook=torch.zeros(2))), "linear layers of the base"),
    "the embedding": (
        tensors(lambda t: t.update({"base_model.model.model.embed_tokens.lora_A.weight": torch.zeros(16, 64)})),
        "linear layers of the base",
    ),
    "half a layer": (tensors(lambda t: t.pop(first(t))), "A and B of each layer"),
    "another shape": (tensors(lambda t: t.update({first(t): torch.zeros(16, 3)})), "must fit the base"),
    "nothing": (tensors(lambda t: t.clear()), "empty"),
    "both": (lambda left: shutil.copy(left / models.ADAPTER, left / models.WHOLE), "left both"),
    "neither": (lambda left: (left / models.ADAPTER).unlink(), "left neither"),
    "no safetensors": (lambda left: (left / models.ADAPTER).write_bytes(b"\x80\x04pickle"), "must fit the base"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_an_adapter_that_is_no_plain_lora_of_the_base_is_refused(
    base: Path, adapter: Path, tmp_path: Path, planted: str
) -> None:
    left = shutil.copytree(adapter, tmp_path / "left")
    change, why = PLANTED[planted]
    change(left)
    with pytest.raises(models.BadWeights) as caught:
        models.load_trained(models.load_base(base, "cpu")[0], left)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_model_that_is_not_the_bases_is_refused(base: Path, tmp_path: Path) -> None:
    left = tmp_path / models.WHOLE
    weights = load_file(base / models.WHOLE)
    name = next(name for name in weights if "q_proj" in name)
    for wrong in (
        {k: v for k, v in weights.items() if k != name},
        weights | {"more": torch.zeros(1)},
        weights | {name: torch.zeros(3, 3)},
        weights | {name: torch.full_like(weights[name], float("nan"))},
    ):
        save_file(wrong, left)
        with pytest.raises(models.BadWeights):
            models.load_trained(models.load_base(base, "cpu")[0], tmp_path)
    save_file(weights, left)
    models.load_trained(models.load_base(base, "cpu")[0], tmp_path)


def test_a_folder_that_is_no_model_gets_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"assets\.base must be the folder of a causal model") as caught:
        models.load_base(tmp_path, "cpu")
    assert "\n" not in str(caught.value)


def test_prompts_are_by_the_chat_template_where_there_is_one(base: Path) -> None:
    _, tokenizer = models.load_base(base, "cpu")
    assert models.prompt_of(tokenizer, "1 + 1") == "1 + 1\n"
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    assert models.prompt_of(tokenizer, "1 + 1") == "[user]1 + 1>"
    problem = Problem("t", "1 + 1", "2")
    assert recipe.prompt(tokenizer, problem, {"instruction": "go"}) == [{"role": "user", "content": "1 + 1\ngo"}]
    assert recipe.answer(tokenizer, "2") == [{"role": "assistant", "content": "2"}]


def test_the_draw_of_a_file_is_by_the_round(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps({"prompt": str(i), "answer": "a"}) for i in range(50)))
    tasks = Tasks("jsonl", tmp_path / "d.jsonl")
    assert draw(tasks, KEY, "gate", 0, 20) != draw(tasks, KEY, "gate", 1, 20)
    assert len(draw(tasks, KEY, "gate", 0, 200)) == 50
    assert tasks.train(10, 0) == tasks.train(10, 0) != random.Random(0).sample(tasks.jsonl, 10)
