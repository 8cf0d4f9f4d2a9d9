"""The recipe: how one compute budget is turned into a better model. The one file that an agent may edit.

Three phases, each with its own AdamW: supervised fine-tuning on noisy demonstrations (SFT), direct preference optimization
on pairs that the checker tells apart (DPO, arXiv 2305.18290), and reinforcement learning with the checker's reward (GRPO,
arXiv 2402.03300). A recipe is a *division* of the budget: what a later phase takes, SFT does not get.

Left out: filtering or weighting of demonstrations, curricula over families, dropping of GRPO groups whose answers are
all right or all wrong, averaging of weights.

Notation: batch, seq = 17 tokens (10 of prompt, 7 of answer), group = answers to one prompt, vocab.
"""

import copy
import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F

from train.model import Transformer
from train.tasks import demonstrations, draw_many, rewards
from train.tokenizer import ANSWER_TOKENS, EOS, PAD, encode_answer, encode_prompt

Params = dict[str, float | int | str | bool]
Report = Callable[[str, float, torch.Tensor], None]  # phase, units of budget spent so far, loss

# What work costs, in units of about one SFT sequence. Measured in CPU seconds with
# `python benchmarks/arithmetic_recipes.py costs`; the controller measures too, and refuses a recipe that uses more than
# 1.1 times the champion's CPU seconds.
COST_STEP = 6.4  # an optimizer step, whatever its batch
COST_SEQUENCE = 0.95  # forward and backward
COST_DROPOUT = 0.25  # more, where there is dropout
COST_FORWARD = 0.33  # without gradients
COST_ROLLOUT = 0.35  # one answer, generated and graded
COST_ROLLOUT_STEP = 18.0  # a call of generate, whatever its batch

GRPO_PASSES = 2  # over each batch of answers, so that the clip of the ratio has something to clip
DPO_SAMPLES = 4  # answers to each problem, in search of a right one and a wrong one
DPO_SAMPLING_SHARE = 0.25  # of the phase's budget; the rest trains on the pairs found


def train(model: Transformer, params: Params, budget: float, seed: int, report: Report) -> None:
    """Trains `model` in place with at most `budget` units of compute.

    Args:
        params: exactly the active parameters of the subject's space.
        budget: in the units of the COST constants; the default trial has 16,128.
        seed: decides demonstrations, order, dropout and sampling.
        report: called after each step; it ends a training whose loss is not finite.
    """
    torch.manual_seed(seed)
    rng = random.Random(f"recipe:{seed}")
    model.dropout = float(params["dropout"])
    model.train()
    phases = str(params["phases"])
    grpo_budget = budget * float(params["grpo_share"]) if "grpo" in phases else 0.0
    # DPO's share is of what GRPO leaves, so that every point of the space divides one budget
    dpo_budget = (budget - grpo_budget) * float(params["dpo_share"]) if "dpo" in phases else 0.0
    spent = sft(model, params, budget - dpo_budget - grpo_budget, rng, report)
    if "dpo" in phases:
        spent = dpo(model, params, dpo_budget, rng, spent, report)
    if "grpo" in phases:
        grpo(model, params, budget - spent, rng, spent, report)


def sequence_cost(params: Params) -> float:
    """Units for one sequence, forward and backward."""
    return COST_SEQUENCE + (COST_DROPOUT if float(params["dropout"]) else 0.0)


def adamw(model: Transformer, params: Params, learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=float(params["weight_decay"]), fused=True
    )


def update(optimizer: torch.optim.AdamW, loss: torch.Tensor, params: Params, peak: float, done: float) -> None:
    """One optimizer step at the learning rate of a phase of which the share `done`, in [0, 1), is over."""
    warmup = float(params["warmup"])
    if done < warmup:
        scale = done / warmup
    elif params["schedule"] == "cosine":
        scale = 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
    elif params["schedule"] == "linear":
        scale = 1 - (done - warmup) / (1 - warmup)
    else:
        scale = 1.0
    for group in optimizer.param_groups:
        group["lr"] = peak * scale
    loss.backward()
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    torch.nn.utils.clip_grad_norm_(weights, float(params["grad_clip"]))
    optimizer.step()
    optimizer.zero_grad()


def sft_loss(
    model: Transformer, tokens: torch.Tensor, prompt_masking: bool, label_smoothing: float, count: int | None = None
) -> torch.Tensor:
    """Cross-entropy per predicted token.

    Args:
        tokens: (batch, 17).
        prompt_masking: whether only answers count; else prompts are predicted too. Padding never counts.
        count: divide by this many tokens rather than by those of this batch, to accumulate over micro-batches.
    """
    logits = model(tokens[:, :-1])  # (batch, 16, vocab)
    targets = tokens[:, 1:]  # (batch, 16)
    if prompt_masking:
        logits, targets = logits[:, -ANSWER_TOKENS:], targets[:, -ANSWER_TOKENS:]
    total = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / (count or (targets != PAD).sum())


def sft(model: Transformer, params: Params, budget: float, rng: random.Random, report: Report) -> float:
    """Supervised fine-tuning on shuffled epochs of the demonstrations; returns the units spent."""
    shown = demonstrations(rng.getrandbits(32))
    tokens = torch.tensor(
        [encode_prompt(d.problem.prompt) + encode_answer(d.answer) for d in shown], device=model.device
    )  # (demonstrations, 17)
    batch_size, peak = int(params["batch_size"]), float(params["learning_rate"])
    cost = COST_STEP + batch_size * sequence_cost(params)
    steps = int(budget / cost)
    optimizer = adamw(model, params, peak)
    order: list[int] = []
    for step in range(steps):
        while len(order) < batch_size:
            order += rng.sample(range(len(shown)), len(shown))
        batch, order = order[:batch_size], order[batch_size:]
        loss = sft_loss(model, tokens[batch], bool(params["prompt_masking"]), float(params["label_smoothing"]))
        update(optimizer, loss, params, peak, step / steps)
        report("sft", (step + 1) * cost, loss.detach())
    return steps * cost


def answer_log_probs(
    model: Transformer, prompts: torch.Tensor, answers: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each answer token, and which tokens count (those up to EOS), both (batch, 7).

    Args:
        prompts: (batch, 10).
        answers: (batch, 7).
    """
    logits = model(torch.cat([prompts, answers[:, :-1]], 1))[:, -ANSWER_TOKENS:]  # (batch, 7, vocab)
    log_probs = torch.log_softmax(logits / temperature, -1).gather(-1, answers[..., None])[..., 0]  # (batch, 7)
    ended_before = (answers == EOS).cumsum(1) - (answers == EOS).int()
    return log_probs, (ended_before == 0).float()


def preference_pairs(
    model: Transformer, problems_count: int, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prompts (pairs, 10), right answers and wrong answers, each (pairs, 7), of the model's own making."""
    prompts, chosen, rejected = [], [], []
    while problems_count > 0:
        problems = draw_many(min(64, problems_count), rng)
        problems_count -= len(problems)
        asked = torch.tensor([encode_prompt(p.prompt) for p in problems], device=model.device)  # (batch, 10)
        answers = model.generate(asked, DPO_SAMPLES, temperature=1.0)  # (batch, samples, 7)
        reward = rewards(problems, answers)  # (batch, samples)
        mixed = (reward.amax(1) > reward.amin(1)).nonzero()[:, 0]  # problems with a right and a wrong answer
        prompts.append(asked[mixed])
        chosen.append(answers[mixed, reward[mixed].argmax(1)])
        rejected.append(answers[mixed, reward[mixed].argmin(1)])
    return torch.cat(prompts), torch.cat(chosen), torch.cat(rejected)


def dpo(model: Transformer, params: Params, budget: float, rng: random.Random, spent: float, report: Report) -> float:
    """Direct preference optimization (arXiv 2305.18290, equation 7) on pairs sampled once; returns the units spent."""
    pairs_per_step, beta = max(1, int(params["batch_size"]) // 2), float(params["dpo_beta"])
    problem_cost = DPO_SAMPLES * COST_ROLLOUT + COST_ROLLOUT_STEP / 64 + 2 * COST_FORWARD
    problems_count = int(budget * DPO_SAMPLING_SHARE / problem_cost)
    if problems_count == 0:
        return spent
    prompts, chosen, rejected = preference_pairs(model, problems_count, rng)
    spent += problems_count * problem_cost
    if len(prompts) == 0:
        return spent
    both = torch.stack([chosen, rejected], 1)  # (pairs, 2, 7)
    twice = prompts[:, None].expand(-1, 2, -1)  # (pairs, 2, 10)
    model.eval()
    with torch.no_grad():
        log_probs, counts = answer_log_probs(model, twice.flatten(0, 1), both.flatten(0, 1))
        reference = (log_probs * counts).sum(1).view(-1, 2)  # (pairs, 2)
    model.train()
    peak = float(params["dpo_learning_rate"])
    cost = COST_STEP + 2 * pairs_per_step * sequence_cost(params)
    steps = int((budget - problems_count * problem_cost) / cost)
    optimizer = adamw(model, params, peak)
    order: list[int] = []
    for step in range(steps):
        while len(order) < pairs_per_step:
            order += rng.sample(range(len(both)), len(both))
        batch, order = order[:pairs_per_step], order[pairs_per_step:]
        log_probs, counts = answer_log_probs(model, twice[batch].flatten(0, 1), both[batch].flatten(0, 1))
        gain = (log_probs * counts).sum(1).view(-1, 2) - reference[batch]  # (batch, 2)
        loss = -F.logsigmoid(beta * (gain[:, 0] - gain[:, 1])).mean()
        update(optimizer, loss, params, peak, step / steps)
        spent += cost
        report("dpo", spent, loss.detach())
    return spent


def advantages(reward: torch.Tensor, normalization: str) -> torch.Tensor:
    """How much better than its group an answer is, (prompts, group).

    Args:
        reward: (prompts, group).
        normalization: `group` divides by the group's standard deviation (GRPO), `batch` by the whole batch's, `none` by
            nothing (Dr. GRPO, arXiv 2503.20783).
    """
    centred = reward - reward.mean(1, keepdim=True)
    if normalization == "group":
        return centred / (reward.std(1, keepdim=True) + 1e-4)
    if normalization == "batch":
        return centred / (centred.std() + 1e-4)
    return centred


def grpo(model: Transformer, params: Params, budget: float, rng: random.Random, spent: float, report: Report) -> None:
    """Group relative policy optimization (arXiv 2402.03300, equation 3): PPO's clip, advantages within a group.

    Departs from it in that the mean is over all answer tokens of the batch, not per answer (DAPO, arXiv 2503.14476).
    """
    group, prompts_per_step = int(params["group_size"]), int(params["prompts_per_step"])
    clip, kl_weight, temperature = float(params["clip"]), float(params["kl_weight"]), float(params["temperature"])
    peak = float(params["grpo_learning_rate"])
    answers_per_step = group * prompts_per_step
    cost = COST_ROLLOUT_STEP + answers_per_step * COST_ROLLOUT
    cost += GRPO_PASSES * (COST_STEP + answers_per_step * sequence_cost(params))
    if kl_weight:
        cost += answers_per_step * COST_FORWARD
    steps = int(budget / cost)
    reference = copy.deepcopy(model).eval()
    optimizer = adamw(model, params, peak)
    for step in range(steps):
        problems = draw_many(prompts_per_step, rng)
        asked = torch.tensor([encode_prompt(p.prompt) for p in problems], device=model.device)  # (prompts, 10)
        answers = model.generate(asked, group, temperature)  # (prompts, group, 7)
        reward = rewards(problems, answers)  # (prompts, group)
        advantage = advantages(reward, str(params["advantage_normalization"])).flatten()[:, None]  # (batch, 1)
        prompts, answers = asked.repeat_interleave(group, 0), answers.flatten(0, 1)  # (batch, 10), (batch, 7)
        if kl_weight:
            with torch.no_grad():
                reference_log_probs = answer_log_probs(reference, prompts, answers, temperature)[0]
        old = None  # log-probabilities of the model that answered: those of the first pass
        for _ in range(GRPO_PASSES):
            log_probs, counts = answer_log_probs(model, prompts, answers, temperature)  # (batch, 7) each
            old = log_probs.detach() if old is None else old
            ratio = (log_probs - old).exp()
            token_loss = -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
            if kl_weight:
                difference = reference_log_probs - log_probs
                token_loss = token_loss + kl_weight * (difference.exp() - difference - 1)  # equation 4
            loss = (token_loss * counts).sum() / counts.sum()
            update(optimizer, loss, params, peak, step / steps)
        spent += cost
        report("grpo", spent, loss.detach())
