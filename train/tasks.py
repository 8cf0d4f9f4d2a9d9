"""The seven families of problems, who may see which problem, noisy demonstrations, and the reward checker.

A problem is its prompt text. A fixed public key divides each family's prompts into halves: the *train split*, which the
base and every recipe draw from, and the *held-out pool*, which only the scorer draws from (`evals/problems.py`, by the
campaign's secret). `draw` never returns a held-out prompt, and `Problem` refuses to be made of one.

Numbers are zero-padded, so that a family's distinct prompts can be counted exactly (`Family.size`).
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from train.tokenizer import PAD, encode_answer

PUBLIC_KEY = b"evolve/arithmetic/1"


class HeldOutProblem(ValueError):
    """A held-out prompt was used where only the train split may be."""


@dataclass(frozen=True)
class Family:
    """One kind of problem: how many there are, the prompt of each, its right answer, its typical wrong one."""

    size: int  # distinct prompts
    prompt: Callable[[int], str]  # of an index in range(size)
    right: Callable[[str], str]
    sloppy: Callable[[str], str]  # what someone in a hurry answers; on some prompts it happens to be right


def _columns(a: str, b: str, operation: Callable[[int, int], int]) -> str:
    """Digit-wise `operation` mod 10: arithmetic that forgets to carry or to borrow."""
    return "".join(str(operation(int(x), int(y)) % 10) for x, y in zip(a, b, strict=True))


def _add(p: str) -> str:
    return f"{int(p[0:3]) + int(p[4:7]):04d}"[::-1]


def _add_without_carry(p: str) -> str:
    return ("0" + _columns(p[0:3], p[4:7], lambda x, y: x + y))[::-1]


def _sub(p: str) -> str:
    return f"{(int(p[0:3]) - int(p[4:7])) % 1000:03d}"


def _sub_without_borrow(p: str) -> str:
    return _columns(p[0:3], p[4:7], lambda x, y: x - y)


def _sub3(p: str) -> str:
    return f"{(int(p[0:2]) - int(p[3:5]) - int(p[6:8])) % 1000:03d}"[::-1]


def _sub3_without_sign(p: str) -> str:
    return _sub3(p)[:2] + "0"


def _sort(p: str) -> str:
    return "".join(sorted(p[1:7]))


def _sort_descending(p: str) -> str:
    return "".join(sorted(p[1:7], reverse=True))


def _reverse(p: str) -> str:
    return p[6:0:-1]


def _reverse_unfinished(p: str) -> str:
    return p[6:2:-1] + p[1:3]


def _shift(p: str) -> str:
    return "".join(str((int(x) + int(p[0])) % 10) for x in p[2:8])


def _shift_unfinished(p: str) -> str:
    return _shift(p)[:4] + p[6:8]


def _multiply(p: str) -> str:
    return f"{int(p[0]) * int(p[2:8]) % 1_000_000:06d}"[::-1]


def _multiply_without_last_carry(p: str) -> str:
    return _multiply(p)[:5] + str(int(p[0]) * int(p[2]) % 10)


# Answers are written in the order in which they are easiest to compute (least significant digit first where a carry
# runs), except for `sub`, which must look ahead: so the families differ in difficulty.
FAMILIES: dict[str, Family] = {
    # 473+755= -> 8221 (1228, least significant digit first)
    "add": Family(10**6, lambda i: f"{i // 1000:03d}+{i % 1000:03d}=", _add, _add_without_carry),
    # 473-755= -> 718 (mod 1000)
    "sub": Family(10**6, lambda i: f"{i // 1000:03d}-{i % 1000:03d}=", _sub, _sub_without_borrow),
    # 47-51-75= -> 129 (921, mod 1000, least significant digit first)
    "sub3": Family(10**6, lambda i: f"{i // 10000:02d}-{i // 100 % 100:02d}-{i % 100:02d}=", _sub3, _sub3_without_sign),
    # s457901= -> 014579
    "sort": Family(10**6, lambda i: f"s{i:06d}=", _sort, _sort_descending),
    # r457901= -> 109754
    "reverse": Family(10**6, lambda i: f"r{i:06d}=", _reverse, _reverse_unfinished),
    # 3k457901= -> 780234 (each digit + 3, mod 10)
    "shift": Family(9 * 10**6, lambda i: f"{1 + i // 10**6}k{i % 10**6:06d}=", _shift, _shift_unfinished),
    # 4m457901= -> 406138 (831604, mod 1e6, least significant digit first)
    "multiply": Family(
        8 * 10**6, lambda i: f"{2 + i // 10**6}m{i % 10**6:06d}=", _multiply, _multiply_without_last_carry
    ),
}


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to the scorer's half, by a public hash of its text."""
    return hashlib.blake2b(prompt.encode(), key=PUBLIC_KEY, digest_size=1).digest()[0] % 2 == 1


@dataclass(frozen=True)
class Problem:
    """One problem of the train split.

    Raises:
        HeldOutProblem: the prompt belongs to the held-out pool.
    """

    family: str
    prompt: str

    def __post_init__(self) -> None:
        if is_held_out(self.prompt):
            raise HeldOutProblem(f"training may use the train split only, but got {self.prompt!r}; use draw().")


def draw(family: str, rng: random.Random) -> Problem:
    """One random problem of the train split."""
    spec = FAMILIES[family]
    while True:
        prompt = spec.prompt(rng.randrange(spec.size))
        if not is_held_out(prompt):
            return Problem(family, prompt)


def draw_many(n: int, rng: random.Random) -> list[Problem]:
    """`n` random problems of the train split, families with equal probability."""
    return [draw(family, rng) for family in rng.choices(list(FAMILIES), k=n)]


@dataclass(frozen=True)
class Demonstration:
    """A problem and the answer that somebody gave, which may be wrong: check it with `is_right`."""

    problem: Problem
    answer: str


# What the annotators wrote about (nothing at all on the last family), and how often they were wrong: never on purpose,
# but sorting and reversing were misunderstood by most of them.
DEMONSTRATION_WEIGHTS = (0.03, 0.20, 0.10, 0.25, 0.22, 0.20, 0.0)
WRONG_PROBABILITY = {"sort": 0.75, "reverse": 0.75}
WRONG_PROBABILITY_ELSEWHERE = 0.15


def demonstrations(seed: int, n: int = 3000) -> list[Demonstration]:
    """`n` noisy demonstrations, another set for each seed.

    The set depends on the trial's seed so that the spread over seeds contains the luck of the data: a recipe that suits
    one set of demonstrations only must not look like a better recipe.
    """
    rng = random.Random(f"demonstrations:{seed}")
    shown = []
    for family in rng.choices(list(FAMILIES), DEMONSTRATION_WEIGHTS, k=n):
        problem = draw(family, rng)
        wrong = rng.random() < WRONG_PROBABILITY.get(family, WRONG_PROBABILITY_ELSEWHERE)
        answer = FAMILIES[family].sloppy if wrong else FAMILIES[family].right
        shown.append(Demonstration(problem, answer(problem.prompt)))
    return shown


def is_right(problem: Problem, answer: str | None) -> bool:
    """Exact match with the right answer."""
    return answer == FAMILIES[problem.family].right(problem.prompt)


def rewards(problems: Sequence[Problem], answers: torch.Tensor) -> torch.Tensor:
    """1.0 where generated tokens are the right answer and EOS, else 0.0; what follows EOS does not matter.

    Args:
        problems: n problems.
        answers: (n, group, 7) token ids.

    Returns: (n, group) float32, on the device of `answers`.
    """
    right = [encode_answer(FAMILIES[p.family].right(p.prompt)) for p in problems]
    target = torch.tensor(right, device=answers.device)[:, None, :]  # (n, 1, 7)
    return ((answers == target) | (target == PAD)).all(-1).float()  # (n, group)
