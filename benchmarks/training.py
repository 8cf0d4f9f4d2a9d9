"""The training job against a bare loop of the same model, in one run and one thread: tokens a second, and where a training's time goes.

    python benchmarks/training.py [--repeats 25] [--json FILE]

The bare loop is straight PyTorch, written here: functions over a dictionary of weights (no modules), data ready as tensors,
forward, loss, backward, clip, fused AdamW; decoding with a key-value cache of fixed size. It computes the same numbers: the
losses and answers of both sides are compared, exactly, in every round. What only the job does (drawing problems, writing
them as tokens, grading, learning-rate schedule, order of the data) counts against the job. Each round runs both sides, in
turns of who is first; a ratio is that of one round, given as the median of all with its quartiles. Left out of the steps,
and shown in the second table: what a training does once, and its reports.

Not measured: a GPU, since none was there; and `torch.compile`, whose compilation takes longer than a whole training here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Figure, Report, Table, spread
from evals import grading, problems, score
from train import recipe, run
from train.model import ModelConfig, Transformer, rotary_table
from train.tasks import FAMILIES, demonstrations, draw_many
from train.tokenizer import ANSWER_TOKENS, EOS, PAD, SEQUENCE_TOKENS, encode_answer, encode_prompt

ROOT = Path(__file__).resolve().parents[1]
AT_LEAST = 0.97  # of the bare loop's tokens a second
SUBJECT = yaml.safe_load((ROOT / "configs/subject/arithmetic.yaml").read_text())
BASE = ROOT / SUBJECT["assets"]["base"]
KEY, PROBLEMS = "07" * 32, SUBJECT["problems"]

Weights = dict[str, torch.Tensor]


# ---------------------------------------------------------------- the bare model


@dataclass
class Bare:
    """The model of `train/model.py` as plain functions of its weights."""

    weights: Weights
    heads: int = SUBJECT["model"]["heads"]
    layers: int = SUBJECT["model"]["layers"]

    def __post_init__(self) -> None:
        self.dim = self.weights["embed.weight"].shape[1]
        self.cos, self.sin = rotary_table(self.dim // self.heads)

    def forward(self, ids: torch.Tensor, start: int = 0, caches: list[Any] | None = None) -> tuple[torch.Tensor, list]:
        """(batch, seq) -> logits (batch, seq, vocab), and keys and values of each layer."""
        w, (batch, seq) = self.weights, ids.shape
        cos, sin = self.cos[start : start + seq], self.sin[start : start + seq]
        x = F.embedding(ids, w["embed.weight"])
        found = []
        for i in range(self.layers):
            normed = F.rms_norm(x, (self.dim,), w[f"blocks.{i}.attention_norm.weight"], 1e-6)
            qkv = F.linear(normed, w[f"blocks.{i}.qkv.weight"]).view(batch, seq, 3 * self.heads, -1).transpose(1, 2)
            qk, v = qkv.split([2 * self.heads, self.heads], dim=1)
            q, k = (qk * cos + qk.roll(qk.shape[-1] // 2, dims=-1) * sin).chunk(2, dim=1)
            if caches is not None:
                keys, values = caches[i]
                keys[:, :, start : start + 1], values[:, :, start : start + 1] = k, v
                k, v = keys[:, :, : start + 1], values[:, :, : start + 1]
            y = F.scaled_dot_product_attention(q, k, v, is_causal=caches is None)
            x = x + F.linear(y.transpose(1, 2).reshape(batch, seq, self.dim), w[f"blocks.{i}.out.weight"])
            normed = F.rms_norm(x, (self.dim,), w[f"blocks.{i}.mlp_norm.weight"], 1e-6)
            gate, up = F.linear(normed, w[f"blocks.{i}.gate_up.weight"]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, w[f"blocks.{i}.down.weight"])
            found.append((k, v))
        return F.linear(F.rms_norm(x, (self.dim,), w["norm.weight"], 1e-6), w["embed.weight"]), found

    @torch.no_grad()
    def decode(self, prompts: torch.Tensor, group: int, temperature: float) -> torch.Tensor:
        """(batch, 10) -> answers (batch * group, 7)."""
        batch, length = prompts.shape
        logits, pairs = self.forward(prompts)
        logits = logits[:, -1].repeat_interleave(group, 0)
        caches = []
        for pair in pairs:
            room = [x.new_empty(batch, group, self.heads, SEQUENCE_TOKENS, x.shape[-1]) for x in pair]
            for empty, x in zip(room, pair, strict=True):
                empty[:, :, :, :length] = x[:, None]
            caches.append([x.flatten(0, 1) for x in room])
        answers = torch.empty(batch * group, ANSWER_TOKENS, dtype=torch.long)
        for i in range(ANSWER_TOKENS):
            if i:
                logits = self.forward(answers[:, i - 1 : i], length + i - 1, caches)[0][:, -1]
            if temperature:
                answers[:, i] = torch.multinomial(torch.softmax(logits / temperature, -1), 1)[:, 0]
            else:
                answers[:, i] = logits.argmax(-1)
        return answers

    def log_probs(self, prompts: torch.Tensor, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each answer token, and which of them count, both (batch, 7)."""
        logits = self.forward(torch.cat([prompts, answers[:, :-1]], 1))[0][:, -ANSWER_TOKENS:]
        found = torch.log_softmax(logits, -1).gather(-1, answers[..., None])[..., 0]
        ended = (answers == EOS).cumsum(1) - (answers == EOS).int()
        return found, (ended == 0).float()


def fresh() -> Bare:
    loaded = load_file(BASE)
    order = [name for name, _ in Transformer(ModelConfig(**SUBJECT["model"])).named_parameters()]  # of the sum of norms
    return Bare({name: loaded[name].requires_grad_() for name in order})


def fresh_model() -> Transformer:
    model = Transformer(ModelConfig(**SUBJECT["model"]))
    model.load_state_dict(load_file(BASE))
    return model


class Step:
    """Backward, clip and fused AdamW, as plainly as they can be written."""

    def __init__(self, bare: Bare, learning_rate: float) -> None:
        self.weights = list(bare.weights.values())
        self.optimizer = torch.optim.AdamW(self.weights, lr=learning_rate, weight_decay=0.01, fused=True)

    def __call__(self, loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


# ---------------------------------------------------------------- both sides of each kind of work


@dataclass
class Side:
    """What one side did in a round: seconds of wall clock and of CPU, and numbers that both sides must share."""

    wall: float
    cpu: float
    numbers: list[Any]


@dataclass
class Kind:
    name: str
    tokens: int  # in a round
    ours: Callable[[int], Side]  # of a round's number, which is its seed
    bare: Callable[[int], Side]
    rounds: list[tuple[Side, Side]] = field(default_factory=list)


class Clock:
    """Times from the first call to the last; with each call a loss."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.losses: list[torch.Tensor] = []

    def __call__(self, phase: str, units: float, loss: torch.Tensor) -> None:
        self.losses.append(loss)
        self.times.append((time.perf_counter(), time.process_time()))

    def side(self) -> Side:
        (wall, cpu), (wall_end, cpu_end) = self.times[0], self.times[-1]
        return Side(wall_end - wall, cpu_end - cpu, [loss.item() for loss in self.losses])


def timed(work: Callable[[], Any]) -> tuple[Side, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return Side(time.perf_counter() - wall, time.process_time() - cpu, []), found


def params(**changes: Any) -> dict[str, Any]:
    """The defaults of the space, in every phase."""
    return {name: spec["default"] for name, spec in SUBJECT["space"].items()} | changes


def batches(count: int, size: int, steps: int, rng: random.Random) -> Iterator[list[int]]:
    """Indices of shuffled epochs, as the recipe draws them."""
    order: list[int] = []
    for _ in range(steps):
        while len(order) < size:
            order += rng.sample(range(count), count)
        yield order[:size]
        order = order[size:]


def sft(size: int, steps: int) -> Kind:
    chosen = params(batch_size=size)

    def ours(seed: int) -> Side:
        clock, model = Clock(), fresh_model()
        cost = recipe.COST_STEP + size * recipe.COST_SEQUENCE
        recipe.sft(model, chosen, (steps + 0.5) * cost, random.Random(seed), clock)
        return clock.side()

    def bare(seed: int) -> Side:
        rng = random.Random(seed)
        shown = demonstrations(rng.getrandbits(32))
        tokens = torch.tensor([encode_prompt(d.problem.prompt) + encode_answer(d.answer) for d in shown])
        ready = [tokens[batch] for batch in batches(len(shown), size, steps, rng)]
        clock, model = Clock(), fresh()
        step = Step(model, chosen["learning_rate"])
        for batch in ready:
            targets = batch[:, 1:]
            logits = model.forward(batch[:, :-1])[0].flatten(0, 1)
            loss = F.cross_entropy(logits, targets.flatten(), ignore_index=PAD, reduction="sum")
            loss = loss / (targets != PAD).sum()
            step(loss)
            clock("sft", 0, loss.detach())
        return clock.side()

    return Kind(f"SFT steps of {size}", (steps - 1) * size * SEQUENCE_TOKENS, ours, bare)


def dpo(steps: int) -> Kind:
    chosen = params()
    pairs, beta = chosen["batch_size"] // 2, chosen["dpo_beta"]
    cost = recipe.COST_STEP + 2 * pairs * recipe.COST_SEQUENCE
    budget = (steps + 0.5) * cost / (1 - recipe.DPO_SAMPLING_SHARE)

    def ours(seed: int) -> Side:
        clock, model = Clock(), fresh_model()
        torch.manual_seed(seed)
        recipe.dpo(model, chosen, budget, random.Random(seed), 0.0, clock)
        del clock.times[steps:], clock.losses[steps:]
        return clock.side()

    def bare(seed: int) -> Side:
        rng, sampler = random.Random(seed), fresh_model()
        torch.manual_seed(seed)
        problem_cost = (
            recipe.DPO_SAMPLES * recipe.COST_ROLLOUT + recipe.COST_ROLLOUT_STEP / 64 + 2 * recipe.COST_FORWARD
        )
        count = int(budget * recipe.DPO_SAMPLING_SHARE / problem_cost)
        prompts, better, worse = recipe.preference_pairs(sampler, count, rng)
        both, twice = torch.stack([better, worse], 1), prompts[:, None].expand(-1, 2, -1)
        model = fresh()
        with torch.no_grad():
            found, counts = model.log_probs(twice.flatten(0, 1), both.flatten(0, 1))
            reference = (found * counts).sum(1).view(-1, 2)
        ready = [
            (twice[batch].flatten(0, 1), both[batch].flatten(0, 1), reference[batch])
            for batch in batches(len(both), pairs, steps, rng)
        ]
        clock, step = Clock(), Step(model, chosen["dpo_learning_rate"])
        for asked, answers, before in ready:
            found, counts = model.log_probs(asked, answers)
            gain = (found * counts).sum(1).view(-1, 2) - before
            loss = -F.logsigmoid(beta * (gain[:, 0] - gain[:, 1])).mean()
            step(loss)
            clock("dpo", 0, loss.detach())
        return clock.side()

    return Kind(f"DPO steps of {pairs} pairs", (steps - 1) * 2 * pairs * SEQUENCE_TOKENS, ours, bare)


def targets_of(asked: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts (n, 10) and right answers (n, 7) of problems."""
    right = [encode_answer(FAMILIES[p.family].right(p.prompt)) for p in asked]
    return torch.tensor([encode_prompt(p.prompt) for p in asked]), torch.tensor(right)


def grpo(steps: int) -> Kind:
    chosen = params()
    group, asked, clip, kl = chosen["group_size"], chosen["prompts_per_step"], chosen["clip"], chosen["kl_weight"]
    batch = group * asked
    cost = recipe.COST_ROLLOUT_STEP + batch * (recipe.COST_ROLLOUT + recipe.COST_FORWARD)
    cost += recipe.GRPO_PASSES * (recipe.COST_STEP + batch * recipe.COST_SEQUENCE)

    def ours(seed: int) -> Side:
        clock, model = Clock(), fresh_model()
        torch.manual_seed(seed)
        recipe.grpo(model, chosen, (steps + 0.5) * cost, random.Random(seed), 0.0, clock)
        return clock.side()

    def bare(seed: int) -> Side:
        rng = random.Random(seed)
        ready = [targets_of(draw_many(asked, rng)) for _ in range(steps)]
        clock, model = Clock(), fresh()
        reference = Bare({name: weight.detach().clone() for name, weight in model.weights.items()})
        step = Step(model, chosen["grpo_learning_rate"])
        torch.manual_seed(seed)
        for prompts, right in ready:
            answers = model.decode(prompts, group, chosen["temperature"])
            reward = ((answers.view(asked, group, -1) == right[:, None]) | (right[:, None] == PAD)).all(-1).float()
            centred = reward - reward.mean(1, keepdim=True)
            advantage = (centred / (reward.std(1, keepdim=True) + 1e-4)).flatten()[:, None]
            prompts = prompts.repeat_interleave(group, 0)
            with torch.no_grad():
                before = reference.log_probs(prompts, answers)[0]
            old = None
            for _ in range(recipe.GRPO_PASSES):
                found, counts = model.log_probs(prompts, answers)
                old = found.detach() if old is None else old
                ratio = (found - old).exp()
                token_loss = -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
                difference = before - found
                token_loss = token_loss + kl * (difference.exp() - difference - 1)
                loss = (token_loss * counts).sum() / counts.sum()
                step(loss)
            clock("grpo", 0, loss.detach())
        return clock.side()

    tokens = (steps - 1) * recipe.GRPO_PASSES * batch * SEQUENCE_TOKENS
    return Kind(f"GRPO steps of {asked} x {group}, rollouts included", tokens, ours, bare)


def rollouts(asked: int, group: int, times: int) -> Kind:
    model, plain = fresh_model(), fresh()
    prompts = targets_of(draw_many(asked, random.Random(0)))[0]

    def side(generate: Callable[[], torch.Tensor]) -> Callable[[int], Side]:
        def once(seed: int) -> Side:
            torch.manual_seed(seed)
            found, answers = timed(lambda: [generate() for _ in range(times)])
            found.numbers = [each.flatten().tolist() for each in answers]
            return found

        return once

    tokens = times * asked * group * ANSWER_TOKENS
    return Kind(
        f"rollouts, {asked} x {group}",
        tokens,
        side(lambda: model.generate(prompts, group, 1.0)),
        side(lambda: plain.decode(prompts, group, 1.0)),
    )


def scoring() -> Kind:
    model, plain = fresh_model(), fresh()
    asked = problems.draw_held_out(bytes.fromhex(KEY), "search", 0, PROBLEMS)
    prompts = torch.tensor([encode_prompt(p.prompt) for p in asked])
    right = torch.tensor([encode_answer(p.answer) for p in asked])

    def ours(_: int) -> Side:
        expected = [p.answer for p in asked]
        side, side.numbers = timed(lambda: grading.grade(grading.answers_of(model, asked), expected))
        return side

    def grade() -> list[int]:
        answers = torch.cat([plain.decode(batch, 1, 0.0) for batch in prompts.split(grading.BATCH)])
        return ((answers == right) | (right == PAD)).all(1).int().tolist()

    def bare(_: int) -> Side:
        side, side.numbers = timed(grade)
        return side

    return Kind(f"scoring, {PROBLEMS} answers, greedy", PROBLEMS * ANSWER_TOKENS, ours, bare)


def measure(kinds: list[Kind], repeats: int) -> None:
    """Fills `rounds`, after one round that does not count; both sides must have computed the same."""
    for seed in range(repeats + 1):
        for kind in kinds:
            sides = [kind.ours, kind.bare] if seed % 2 else [kind.bare, kind.ours]
            first, second = (side(seed) for side in sides)
            if first.numbers != second.numbers:
                raise SystemExit(f"{kind.name}: the two sides must compute the same numbers; mend the bare loop.")
            if seed:
                kind.rounds.append((first, second) if seed % 2 else (second, first))


# ---------------------------------------------------------------- where the time goes


def parts(phases: str) -> dict[str, float]:
    """Seconds of a whole default training of these phases in this process, imports apart, by what they went to."""
    spent = {"load": 0.0, "data": 0.0, "reports": 0.0, "save": 0.0}

    @contextlib.contextmanager
    def counted(where: Any, name: str, part: str) -> Iterator[None]:
        function = getattr(where, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - began

        setattr(where, name, wrapped)
        yield
        setattr(where, name, function)

    needed = {
        n: s["default"] for n, s in SUBJECT["space"].items() if phases in s.get("when", {}).get("phases", [phases])
    }
    config = {"params": needed | {"phases": phases}, "seed": 1, "fidelity": 1.0, "device": "cpu"}
    config |= {"model": SUBJECT["model"], "assets": {"base": str(BASE)}}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        for where, name, part in (
            (run, "Transformer", "load"), (run, "load_file", "load"), (run.Progress, "__init__", "data"),
            (recipe, "demonstrations", "data"), (recipe, "draw_many", "data"), (run.Progress, "__call__", "reports"),
            (run, "save_file", "save"),
        ):  # fmt: skip
            stack.enter_context(counted(where, name, part))
        side, _ = timed(lambda: run.run(config, Path(folder)))
    return {"whole": side.wall, **spent, "steps": side.wall - sum(spent.values())}


def score_parts() -> dict[str, float]:
    """Seconds of a score in this process, imports apart: the whole, and the model's answers."""
    config = {"weights": [str(BASE)], "split": "search", "key": KEY, "round": 0, "n": PROBLEMS, "device": "cpu"}
    config |= {"model": SUBJECT["model"], "assets": {"base": str(BASE)}}
    whole, _ = timed(lambda: score.score(config))
    asked = problems.draw_held_out(bytes.fromhex(KEY), "search", 0, PROBLEMS)
    model = fresh_model()
    answers, _ = timed(lambda: grading.answers_of(model, asked))
    return {"whole": whole.wall, "answers": answers.wall, "problems, decoys, grades": whole.wall - answers.wall}


# ---------------------------------------------------------------- the report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [sft(64, 12), sft(16, 24), dpo(12), grpo(6), rollouts(16, 8, 15), scoring()]
    measure(kinds, arguments.repeats)
    rows, figures = [], []
    for kind in kinds:
        ours, bare = ([kind.tokens / pair[i].wall for pair in kind.rounds] for i in (0, 1))
        ratios = [b.wall / o.wall for o, b in kind.rounds]
        by_cpu = [b.cpu / o.cpu for o, b in kind.rounds]
        rows.append([kind.name, spread(ours, 0), spread(bare, 0), spread(ratios, 3), spread(by_cpu, 3)])
        name = f"{kind.name}: tokens a second, of the bare loop's"
        figures.append(Figure(name, "ratio", ratios, at_least=AT_LEAST))
    columns = ["work", "ours, tokens/s", "bare loop, tokens/s", "ratio", "ratio of CPU time"]
    tables = [Table("One thread: median (quartiles)", columns, rows)]
    spent = {phases: parts(phases) for phases in SUBJECT["space"]["phases"]["choices"]}
    rows = [[phases, *(f"{s:.3f}" for s in found.values())] for phases, found in spent.items()]
    columns = ["phases", "whole", "load", "data", "reports", "save", "steps and sampling"]
    tables.append(Table("A default training, imports apart: seconds", columns, rows))
    found = score_parts()
    rows = [[f"{s:.3f}" for s in found.values()]]
    tables.append(Table("A score, imports apart: seconds", list(found), rows))
    notes = ["One thread on the CPU; not measured on a GPU."]
    Report("The training job against a bare loop", tables, figures, notes).publish(arguments.json)


if __name__ == "__main__":
    main()
