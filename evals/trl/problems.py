"""Which held-out problems belong to which split, and the draw of one round, by the campaign's key.

The pool of procedural problems is fixed in public (`train.trl.tasks.is_held_out`); HMAC(key, prompt) divides it into three
disjoint parts, and HMAC(key, split and round) seeds the draw. Of a file of problems each split has its own, and a round is a draw from it.
"""

import hmac
import random

from train.trl.tasks import Problem, Tasks, is_held_out

SPLITS = ("search", "gate", "vault")


def split_of(key: bytes, prompt: str) -> str | None:
    """The split that a procedural prompt belongs to under `key`; None for the train split."""
    if not is_held_out(prompt):
        return None
    digest = hmac.digest(key, b"part:" + prompt.encode(), "sha256")
    return SPLITS[int.from_bytes(digest[:8], "big") % len(SPLITS)]


def draw(tasks: Tasks, key: bytes, split: str, round_number: int, n: int) -> list[Problem]:
    """`n` problems of a split, or all of a file that has fewer; the same arguments always give the same list.

    Raises:
        ValueError: no such split, a negative round, a key that is not 32 bytes, or procedural tasks with too few problems.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, but got {split!r}")
    if round_number < 0 or len(key) != 32 or n < 1:
        raise ValueError(f"round >= 0, a key of 32 bytes and n >= 1 must hold, but got {round_number}, {len(key)}, {n}")
    rng = random.Random(hmac.digest(key, f"draw:{split}:{round_number}".encode(), "sha256"))
    if tasks.jsonl:
        return rng.sample(tasks.jsonl, min(n, len(tasks.jsonl)))
    found = tasks.draw(n, rng, lambda prompt: split_of(key, prompt) == split)
    if len(found) < n:
        raise ValueError(
            f"the tasks must have {n} distinct problems in each split, but {len(found)} were found; widen their settings or"
            " lower subject.problems"
        )
    return found
