"""Which held-out problems belong to which split, and the draw of one round, by the campaign's key.

The held-out pool is fixed in public (`train.tasks.is_held_out`); HMAC(key, prompt) divides it into three disjoint parts,
and HMAC(key, split and round) seeds the draw. Who does not have the key can tell neither the parts nor the draw.
"""

import hmac
import random
from dataclasses import dataclass

from train.tasks import FAMILIES, is_held_out

SPLITS = ("search", "gate", "vault")


@dataclass(frozen=True)
class HeldOut:
    """One held-out problem with its right answer."""

    family: str
    prompt: str
    answer: str


def split_of(key: bytes, prompt: str) -> str | None:
    """The split that a prompt belongs to under `key`; None for the train split."""
    if not is_held_out(prompt):
        return None
    digest = hmac.digest(key, b"part:" + prompt.encode(), "sha256")
    return SPLITS[int.from_bytes(digest[:8], "big") % len(SPLITS)]


def draw_held_out(key: bytes, split: str, round_number: int, n: int) -> list[HeldOut]:
    """`n` distinct problems of a split, family after family, each family's count equal to within one.

    The same arguments always give the same list. Rounds of one split may overlap by chance (a family's part holds
    166,000 problems and more), splits never do.

    Raises:
        ValueError: no such split, a negative round, a key that is not 32 bytes, or fewer than one problem a family.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, but got {split!r}")
    if round_number < 0 or len(key) != 32 or n < len(FAMILIES):
        raise ValueError(
            f"round >= 0, a key of 32 bytes and n >= {len(FAMILIES)} must hold, "
            f"but got round {round_number}, {len(key)} bytes, n {n}"
        )
    rng = random.Random(hmac.digest(key, f"draw:{split}:{round_number}".encode(), "sha256"))
    drawn: list[HeldOut] = []
    for i, (name, family) in enumerate(FAMILIES.items()):
        count = n // len(FAMILIES) + (i < n % len(FAMILIES))
        prompts: dict[str, None] = {}  # ordered and distinct
        while len(prompts) < count:
            prompt = family.prompt(rng.randrange(family.size))
            if split_of(key, prompt) == split:
                prompts[prompt] = None
        drawn += [HeldOut(name, prompt, family.right(prompt)) for prompt in prompts]
    return drawn
