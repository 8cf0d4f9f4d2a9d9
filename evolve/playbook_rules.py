"""The rules of the playbook as data: the types of `playbook.yaml`, which is part of the package.

Which rule comes when is in `playbook.py`; where each is from, in its `source`, and in docs/playbook.md.
"""

from __future__ import annotations

import functools
import re
from importlib import resources

import msgspec

from evolve.scales import fit, is_choice, numeric
from evolve.types import Parameter, Value

PHASES = "phases"  # the role of the parameter that divides a training into phases
WORDS = {
    "reinforcement": frozenset({"grpo", "rl", "ppo", "rloo", "reinforce", "dapo", "gspo", "rlvr"}),
    "preference": frozenset({"dpo", "ipo", "kto", "orpo", "simpo"}),
}


class Amount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a value goes: exactly one of the three is set."""

    to: Value | None = None
    times: float | None = None
    plus: float | None = None

    def __post_init__(self) -> None:
        if sum(a is not None for a in (self.to, self.times, self.plus)) != 1:
            raise ValueError(f"exactly one of to, times, plus must be set, but got {self}")

    def of(self, p: Parameter, now: Value) -> Value:
        """The value that `p` admits; `now` where the amount means nothing to such a parameter."""
        if not numeric(p) or isinstance(now, (bool, str)):
            return self.to if self.to is not None and is_choice(p, self.to) else now
        if self.to is not None:
            if isinstance(self.to, (bool, str)):
                return now
            # A share, of a parameter that counts steps: that part of the most that is allowed.
            counted = p.role == "warmup" and (p.high or 0) > 1 and float(self.to) < 1
            return fit(p, float(self.to) * (p.high or 0) if counted else self.to)
        return fit(p, float(now) * self.times if self.times is not None else float(now) + (self.plus or 0.0))


class Rule(Amount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One change of one role, or of the role within one kind of phase: `reinforcement/learning_rate`."""

    role: str
    source: str = ""


class Usual(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: Value
    source: str


class Division(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Kinds of phases that a division of the training has, and has not."""

    with_: tuple[str, ...] = msgspec.field(default=(), name="with")
    without: tuple[str, ...] = ()

    def admits(self, choice: Value) -> bool:
        return all(kind_in(choice, k) for k in self.with_) and not any(kind_in(choice, k) for k in self.without)


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several changes that belong together, tried as one."""

    name: str
    set: dict[str, Amount]
    source: str
    phases: Division | None = None


class Remedy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is made milder where a failure's text matches `error`, whatever its case."""

    error: str
    moves: tuple[Rule, ...]
    why: str

    def fits(self, text: str) -> bool:
        return re.search(self.error, text, re.IGNORECASE) is not None


class Book(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    usual: dict[str, Usual]
    recipes: tuple[Recipe, ...]
    menu: tuple[Rule, ...]
    remedies: tuple[Remedy, ...]
    reactions: dict[str, tuple[Rule, ...]]


@functools.cache
def book() -> Book:
    """The whole of `playbook.yaml`. Raises `msgspec.ValidationError` where it is not of these types."""
    text = (resources.files("evolve") / "playbook.yaml").read_text(encoding="utf-8")
    return msgspec.yaml.decode(text, type=Book)


def words(choice: Value) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", str(choice).lower())) - {""}


def kind_in(choice: Value, kind: str) -> bool:
    """Whether a division of the training, `sft_grpo` for instance, has a phase of a kind of `WORDS`."""
    return bool(words(choice) & WORDS[kind])
