"""A parameter's values on its own scale: steps, factors and places in the range, always within what it admits. Pure."""

from __future__ import annotations

import math

from evolve.types import Parameter, Value


def fit(p: Parameter, value: Value) -> Value:
    """The nearest value that `p` admits, rounded for people; the default where the types do not meet.

    >>> fit(Parameter("float", 0.1, low=0.0, high=0.2, step=0.05), 0.13)
    0.15
    """
    if not numeric(p) or isinstance(value, (bool, str)):
        return value if is_choice(p, value) else p.default
    low, high = _range(p)
    number = min(max(float(value), low), high)
    if p.type == "int":
        return int(min(max(_on_step(p, round(number)), math.ceil(low)), math.floor(high)))
    digits = 4 - math.floor(math.log10(number if p.log else high - low))
    return float(min(max(_on_step(p, round(number, digits)), low), high))


def _on_step(p: Parameter, number: float) -> float:
    if not p.step:
        return number
    low, high = _range(p)
    steps = min(round((number - low) / p.step), math.floor((high - low) / p.step + 1e-9))
    return float(f"{low + steps * p.step:.12g}")


def unit(p: Parameter, value: Value) -> float:
    """Place of `value` in the range, 0 to 1, on the parameter's own scale."""
    low, high = _range(p)
    return math.log(float(value) / low) / math.log(high / low) if p.log else (float(value) - low) / (high - low)


def at_unit(p: Parameter, place: float) -> Value:
    """The admitted number nearest to a place in the range; `place` may lie outside, the result does not."""
    low, high = _range(p)
    place = min(max(place, 0.0), 1.0)
    return fit(p, low * (high / low) ** place if p.log else low + place * (high - low))


def stepped(p: Parameter, now: Value, step: float) -> Value:
    """A step of a part of the range, at least to the next whole number or grid point where there are such."""
    goal = at_unit(p, unit(p, now) + step)
    grid = p.step or (1.0 if p.type == "int" else 0.0)
    return goal if goal != now else fit(p, float(now) + math.copysign(grid, step))


def _range(p: Parameter) -> tuple[float, float]:
    assert p.low is not None and p.high is not None, "a numeric parameter has a range (space.py)"
    return p.low, p.high


def scaled(p: Parameter, now: Value, factor: float) -> Value:
    return fit(p, float(now) * factor)


def numeric(p: Parameter) -> bool:
    return p.type != "categorical"


def is_choice(p: Parameter, value: Value) -> bool:
    return any(c == value and isinstance(c, bool) == isinstance(value, bool) for c in p.choices)
