"""Model and recipe: invariants of the losses and of generation, the budget, determinism."""

import random
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from train import recipe
from train.model import ModelConfig, Transformer
from train.tasks import draw_many
from train.tokenizer import EOS, PROMPT_TOKENS, encode_answer, encode_prompt

ROOT = Path(__file__).resolve().parents[2]
SPACE = yaml.safe_load((ROOT / "configs/subject/arithmetic.yaml").read_text())["space"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def base() -> Transformer:
    model = Transformer(ModelConfig())
    model.load_state_dict(load_file(ROOT / "train/assets/base.safetensors"))
    return model


def active(**params):
    full = {name: spec["default"] for name, spec in SPACE.items()} | params
    return {
        name: full[name]
        for name, spec in SPACE.items()
        if all(full[parent] in values for parent, values in spec.get("when", {}).items())
    }


def some_tokens(n: int) -> torch.Tensor:
    """(n, 17), answers of different lengths."""
    answers = ["8221", "718", "129", "014579", "109754"]
    problems = draw_many(n, random.Random(0))
    return torch.tensor([encode_prompt(p.prompt) + encode_answer(answers[i % 5]) for i, p in enumerate(problems)])


@pytest.mark.parametrize("prompt_masking", [False, True])
def test_gradient_of_one_batch_of_eight_equals_eight_accumulated_of_one(prompt_masking):
    tokens = some_tokens(8)
    model = base()
    recipe.sft_loss(model, tokens, prompt_masking, 0.1).backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    counted = tokens[:, PROMPT_TOKENS:] if prompt_masking else tokens[:, 1:]
    count = int((counted != 0).sum())
    for row in tokens:
        recipe.sft_loss(model, row[None], prompt_masking, 0.1, count).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, whole[name], rtol=1e-4, atol=1e-6)


def test_prompt_masking_takes_the_prompt_out_of_the_loss():
    tokens = some_tokens(8)
    logits = base()(tokens[:, :-1])
    by_hand = torch.nn.functional.cross_entropy(logits[:, 9:].flatten(0, 1), tokens[:, 10:].flatten(), ignore_index=0)
    torch.testing.assert_close(recipe.sft_loss(base(), tokens, True, 0.0), by_hand)


def test_generation_with_the_cache_equals_generation_without():
    model = base()
    prompts = torch.tensor([encode_prompt(p.prompt) for p in draw_many(64, random.Random(1))])
    tokens = prompts
    for _ in range(7):
        tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(model.generate(prompts)[:, 0], tokens[:, 10:])


def test_a_sampled_group_with_the_cache_equals_one_sampled_without():
    model = base()
    prompts = torch.tensor([encode_prompt(p.prompt) for p in draw_many(16, random.Random(1))])
    tokens = prompts.repeat_interleave(3, 0)
    torch.manual_seed(5)
    for _ in range(7):
        tokens = torch.cat([tokens, torch.multinomial(torch.softmax(model(tokens)[:, -1] / 0.7, -1), 1)], 1)
    torch.manual_seed(5)
    assert torch.equal(model.generate(prompts, group=3, temperature=0.7).flatten(0, 1), tokens[:, 10:])


def test_answers_of_a_group_follow_their_own_prompt():
    model = base()
    prompts = torch.tensor([encode_prompt(p.prompt) for p in draw_many(8, random.Random(1))])
    together = model.generate(prompts, group=3, temperature=1e-4)
    for i in range(3):
        assert torch.equal(together[:, i], model.generate(prompts)[:, 0])


def test_answer_tokens_count_up_to_and_with_eos():
    answers = torch.tensor([[5, 6, EOS, 7, EOS, 0, 0], [5, 6, 7, 8, 9, 10, 11]])
    prompts = some_tokens(2)[:, :10]
    log_probs, counts = recipe.answer_log_probs(base(), prompts, answers)
    assert counts.tolist() == [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]
    assert bool((log_probs < 0).all())


def test_advantages_worked_out_by_hand():
    reward = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert recipe.advantages(reward, "none").tolist() == [[0.75, -0.25, -0.25, -0.25], [0, 0, 0, 0]]
    grouped = recipe.advantages(reward, "group")  # the group's standard deviation is 0.5
    torch.testing.assert_close(grouped[0], torch.tensor([1.5, -0.5, -0.5, -0.5]), rtol=1e-3, atol=1e-3)
    assert grouped[1].tolist() == [0, 0, 0, 0]
    by_batch = recipe.advantages(reward, "batch")  # that of all eight centred rewards is sqrt(0.75 / 7) = 0.3273
    torch.testing.assert_close(by_batch[0, 0], torch.tensor(2.291), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("phases", SPACE["phases"]["choices"])
def test_every_division_spends_the_budget_and_never_more(phases):
    spent = []
    params = active(phases=phases, batch_size=32, dropout=0.1)
    recipe.train(base(), params, 2000.0, 0, lambda phase, units, loss: spent.append((phase, units)))
    assert [units for _, units in spent] == sorted(units for _, units in spent)
    assert 1500 < spent[-1][1] <= 2000
    assert {phase for phase, _ in spent} == set(phases.split("_"))


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    def weights(seed):
        model = base()
        recipe.train(model, active(phases="sft_dpo_grpo", dropout=0.1), 1500.0, seed, lambda *_: None)
        return model.state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_model_whose_heads_do_not_divide_its_width_is_refused():
    with pytest.raises(ValueError, match="multiple of 2"):
        ModelConfig(dim=60, heads=8)


def test_a_share_of_the_compute_is_a_smaller_budget_and_the_recipe_does_not_see_it(tmp_path):
    from train.run import run

    def train(name, fidelity, **params):
        config = {
            "params": active(**params), "seed": 1, "fidelity": fidelity, "device": "cpu",
            "model": {"dim": 64, "layers": 3, "heads": 4}, "assets": {"base": ROOT / "train/assets/base.safetensors"},
        }  # fmt: skip
        config["params"] |= params
        run(config, tmp_path / name)
        return (tmp_path / name / "weights.safetensors").read_bytes()

    assert train("share", 0.02, compute=0.5) == train("smaller", 0.01) != train("whole", 0.02)
    for compute in (0.0, 1.5):
        with pytest.raises(ValueError, match="0 < compute <= 1"):
            train("wrong", 0.02, compute=compute)
