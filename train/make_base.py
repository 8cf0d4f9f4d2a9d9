"""Makes the base checkpoint that every recipe starts from: `python -m train.make_base --seed 0 --out PATH`.

The base can do much more than it shows, like a pretrained language model. It is trained on the writing of several
personas: most of it carries a mark and is right, some carries another mark and is sloppy in the way typical of its
family, and the rest, without a mark, is a mixture of right, sloppy and slips. In the end the marks are taken away (their
embeddings are zeroed), so that greedy decoding mostly shows the sloppy persona, while right answers stay within reach of
sampling. All problems come from the train split.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from train.model import ModelConfig, Transformer
from train.tasks import FAMILIES, Problem, draw, draw_many, rewards
from train.tokenizer import (
    ANSWER_TOKENS,
    MARK_RIGHT,
    MARK_SLOPPY,
    PAD,
    PROMPT_TOKENS,
    encode_answer,
    encode_prompt,
)

BATCH = 128
STEPS, LEARNING_RATE = 3500, 3e-3  # 2,000 steps or fewer never learn addition
EASY_STEPS = 2000
SETTLE_STEPS, SETTLE_LEARNING_RATE = 500, 1e-3  # fixes the proportions of the unmarked mixture

# Unmarked writing: probability of right and of sloppy in each family, the rest slips in one digit.
UNMARKED = {
    "add": (0.40, 0.50),
    "sub": (0.30, 0.60),
    "sub3": (0.30, 0.60),
    "sort": (0.35, 0.55),
    "reverse": (0.30, 0.60),
    "shift": (0.35, 0.55),
    "multiply": (0.25, 0.65),
}


def draw_batch(rng: random.Random, easy: float) -> list[Problem]:
    """A batch of train-split problems, of which the share `easy` of `sub3` has a third number with a zero in it.

    The easy ones did not suffice: `sub3` is learned in none of the five bases tried (docs/subject-arithmetic.md). They
    stay because the committed base was made with them.
    """
    problems = draw_many(BATCH, rng)
    for i, problem in enumerate(problems):
        if problem.family == "sub3" and rng.random() < easy:
            while problem.prompt[6] != "0" and problem.prompt[7] != "0":
                problem = draw("sub3", rng)
            problems[i] = problem
    return problems


def write(problem: Problem, rng: random.Random, marked_right: float, marked_sloppy: float) -> list[int]:
    """One sequence of 17 tokens by a random persona; the two shares are those of marked writing."""
    family = FAMILIES[problem.family]
    persona = rng.random()
    if persona < marked_right:
        return encode_prompt(problem.prompt, MARK_RIGHT) + encode_answer(family.right(problem.prompt))
    if persona < marked_right + marked_sloppy:
        return encode_prompt(problem.prompt, MARK_SLOPPY) + encode_answer(family.sloppy(problem.prompt))
    right, sloppy = UNMARKED[problem.family]
    mood = rng.random()
    if mood < right:
        answer = family.right(problem.prompt)
    elif mood < right + sloppy:
        answer = family.sloppy(problem.prompt)
    else:
        answer = family.right(problem.prompt)
        slip = rng.randrange(len(answer))
        answer = answer[:slip] + rng.choice("0123456789") + answer[slip + 1 :]
    return encode_prompt(problem.prompt) + encode_answer(answer)


def train_steps(
    model: Transformer,
    rng: random.Random,
    steps: int,
    peak: float,
    marked_right: float,
    marked_sloppy: float,
    easy_steps: int = 0,
) -> None:
    """`steps` of AdamW on answers only, learning rate from `peak` to 0 by a cosine after 100 steps of warm-up."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    for step in range(steps):
        easy = max(0.0, 1 - step / easy_steps) if easy_steps else 0.0
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = peak * decay * min(1.0, (step + 1) / 100)
        batch = [write(p, rng, marked_right, marked_sloppy) for p in draw_batch(rng, easy)]
        tokens = torch.tensor(batch, device=model.device)  # (batch, 17)
        logits = model(tokens[:, :-1])[:, -ANSWER_TOKENS:]  # (batch, 7, vocab)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, PROMPT_TOKENS:].flatten(), ignore_index=PAD)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 500 == 0:
            shares = greedy(model, MARK_RIGHT, draw_many(350, random.Random(step)))
            describe(f"step {step} of {steps} loss {loss.item():.3f}, marked", shares)


def greedy(model: Transformer, mark: int, problems: list[Problem]) -> dict[str, float]:
    """Share of right greedy answers in each family, when prompts carry `mark`."""
    prompts = torch.tensor([encode_prompt(p.prompt, mark) for p in problems], device=model.device)
    right = rewards(problems, model.generate(prompts))[:, 0].tolist()
    shares = {}
    for family in FAMILIES:
        hits = [r for p, r in zip(problems, right, strict=True) if p.family == family]
        shares[family] = sum(hits) / len(hits)
    return shares


def describe(title: str, shares: dict[str, float]) -> None:
    mean = sum(shares.values()) / len(shares)
    print(f"{title} {mean:.3f}: " + " ".join(f"{family} {share:.2f}" for family, share in shares.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    started = time.process_time()
    model = Transformer(ModelConfig(args.dim, args.layers, args.heads)).to(args.device)
    train_steps(model, rng, STEPS, LEARNING_RATE, marked_right=0.55, marked_sloppy=0.10, easy_steps=EASY_STEPS)
    train_steps(model, rng, SETTLE_STEPS, SETTLE_LEARNING_RATE, marked_right=0.25, marked_sloppy=0.05)
    problems = draw_many(2100, rng)
    describe("latent ability (marked right, greedy)", greedy(model, MARK_RIGHT, problems))
    with torch.no_grad():
        model.embed.weight[[MARK_RIGHT, MARK_SLOPPY]] = 0
    describe("base (no mark, greedy)", greedy(model, PAD, problems))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}, args.out)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {time.process_time() - started:.0f} CPU seconds, written to {args.out}")


if __name__ == "__main__":
    main()
