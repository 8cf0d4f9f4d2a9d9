"""The search space: the only door by which values enter a candidate. Pure.

Sampling belongs to the proposers (`search.py` hands the same distributions to Optuna); this module only says what a
valid assignment is, which parameters are active in it, and how a partial change is laid over a base.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from evolve.errors import BadInput, InvalidCandidate, did_you_mean
from evolve.types import Parameter, Params, Value

_LARGEST = 1e100  # of a bound: the width of a range and its square must be floats too
_LARGEST_INT = 2**53  # up to here each whole number is a float


class SearchSpace:
    """Named distributions in an order in which each parameter comes after the one that it depends on.

    Raises `BadInput` where the definition itself cannot hold: an empty range, a default outside it, a `when` on
    something that is not a categorical parameter, a circle.

    >>> space = SearchSpace({"lr": Parameter("float", 0.1, low=0.01, high=1.0, log=True)})
    >>> space.parse({"lr": 0.5})
    {'lr': 0.5}
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        if not parameters:
            raise BadInput("A search space must have a parameter, but `space` is empty; declare one in the subject.")
        self.parameters: dict[str, Parameter] = {}
        waiting = dict(parameters)
        while waiting:
            ready = [n for n, p in waiting.items() if all(parent in self.parameters for parent in p.when)]
            if not ready:
                name, parameter = next(iter(waiting.items()))
                parent = next(parent for parent in parameter.when if parent not in self.parameters)
                raise BadInput(
                    f"`when` must name another parameter without a circle, but space.{name} names {parent!r}"
                    + did_you_mean(parent, parameters)
                )
            for name in ready:
                self._check_definition(name, waiting[name])
                self.parameters[name] = waiting.pop(name)

    def _check_definition(self, name: str, p: Parameter) -> None:
        where = f"space.{name}"
        if p.type == "categorical":
            if not p.choices:
                raise BadInput(f"{where}: a categorical parameter must have choices, but got none; add `choices`.")
        else:
            if p.low is None or p.high is None:
                raise BadInput(f"{where}: `low` and `high` must be given, but got {p.low} and {p.high}; add them.")
            if not (math.isfinite(p.low) and math.isfinite(p.high) and p.low < p.high):
                raise BadInput(f"{where}: low < high must hold, but got low={p.low} and high={p.high}; swap or widen.")
            if max(abs(p.low), abs(p.high)) > _LARGEST:
                raise BadInput(
                    f"{where}: bounds must be at most {_LARGEST:g} in size, but got {p.low:g} and {p.high:g}; narrow them."
                )
            if p.type == "int" and (p.low != int(p.low) or p.high != int(p.high) or max(-p.low, p.high) > _LARGEST_INT):
                raise BadInput(
                    f"{where}: bounds of an int must be whole numbers up to 2**53, but got {p.low:g} and {p.high:g}."
                )
            if p.step is not None and not (0 < p.step <= p.high - p.low and (p.high - p.low) / p.step <= _LARGEST_INT):
                raise BadInput(
                    f"{where}: `step` must be above 0 and fit into the range, but got {p.step:g}; correct it or drop it."
                )
            if p.step is not None and (p.log or (p.type == "int" and p.step != int(p.step))):
                raise BadInput(
                    f"{where}: `step` must be whole for an int and goes with no log scale, but got {p.step:g}; drop one."
                )
            if p.log and p.low <= 0:
                raise BadInput(f"{where}: low > 0 must hold on a log scale, but got {p.low}; raise it or drop `log`.")
        for parent, values in p.when.items():
            choices = self.parameters[parent].choices
            if not values or not set(values) <= set(choices):
                raise BadInput(
                    f"{where}: `when` must list choices of {parent!r}, but got {list(values)}; choose from {list(choices)}."
                )
        try:
            self._check_value(name, p, p.default)
        except InvalidCandidate as error:
            raise BadInput(f"{where}: the default must lie in the space. {error}") from error

    def _check_value(self, name: str, p: Parameter, value: object) -> Value:
        if p.type == "categorical":
            for choice in p.choices:
                # True == 1 in Python, but a switch is not a number.
                if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                    return choice
            raise InvalidCandidate(f"{name} must be one of {list(p.choices)}, but got {value!r}; choose one of them.")
        assert p.low is not None and p.high is not None  # _check_definition
        # Compared before converted: an int of a thousand digits has no float.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidCandidate(f"{name} must be a finite {p.type}, but got {value!r}; give a number.")
        assert isinstance(value, (int, float))
        if p.type == "int" and value != int(value):
            raise InvalidCandidate(f"{name} must be an int, but got {value!r}; round it.")
        if not p.low <= value <= p.high:
            raise InvalidCandidate(f"{name} must lie in [{p.low:g}, {p.high:g}], but got {value!r}; stay inside.")
        if p.step:
            steps = (value - p.low) / p.step
            if abs(steps - round(steps)) > 1e-6:
                raise InvalidCandidate(f"{name} must be {p.low:g} plus a multiple of {p.step:g}, but got {value!r}.")
        return int(value) if p.type == "int" else float(value)

    def is_active(self, name: str, params: Mapping[str, object]) -> bool:
        """Whether every condition of `name` holds in `params`; a condition on an inactive parent does not."""
        return all(
            parent in params and params[parent] in values for parent, values in self.parameters[name].when.items()
        )

    def parse(self, raw: Mapping[str, object]) -> dict[str, Value]:
        """A valid assignment in the space's own order, or `InvalidCandidate` with the first reason found.

        Every active parameter must be there, no inactive or unknown one may be: nothing is filled in silently.
        """
        for name in raw:
            if name not in self.parameters:
                raise InvalidCandidate(
                    f"{name!r} is not a parameter of this space" + did_you_mean(name, self.parameters)
                )
        params: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if not self.is_active(name, params):
                if name in raw:
                    condition = ", ".join(f"{k} in {list(v)}" for k, v in parameter.when.items())
                    raise InvalidCandidate(f"{name} exists only where {condition}; leave it out or change the parent.")
                continue
            if name not in raw:
                raise InvalidCandidate(f"{name} must be given, but is missing; add it.")
            params[name] = self._check_value(name, parameter, raw[name])
        return params

    def overlay(self, base: Params, changes: Mapping[str, object]) -> dict[str, Value]:
        """`base` with `changes`: parameters that become active take their default, those that become inactive go.

        Raises `InvalidCandidate` like `parse`; a change to a parameter that stays inactive is an error, not ignored.
        """
        for name in changes:
            if name not in self.parameters:
                raise InvalidCandidate(
                    f"{name!r} is not a parameter of this space" + did_you_mean(name, self.parameters)
                )
        merged: dict[str, object] = {}
        for name, parameter in self.parameters.items():
            if name in changes:
                merged[name] = changes[name]
            elif self.is_active(name, merged):
                merged[name] = base.get(name, parameter.default)
        return self.parse(merged)

    def default(self) -> dict[str, Value]:
        """The default of every parameter that is active in the defaults."""
        return self.overlay({}, {})


MOST_DECLARED = 8
_DECLARED_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def extended(parameters: Mapping[str, Parameter], declared: Mapping[str, Parameter]) -> SearchSpace:
    """The space of a subject with the hyperparameters that an edit declares. Raises `InvalidCandidate`."""
    if len(declared) > MOST_DECLARED:
        raise InvalidCandidate(
            f"An edit may declare {MOST_DECLARED} hyperparameters, but declares {len(declared)}; drop some."
        )
    for name in declared:
        if not _DECLARED_NAME.fullmatch(name):
            raise InvalidCandidate(
                f"A hyperparameter's name must be like `my_share`, but got {name[:60]!r}; rename it."
            )
        if name in parameters:
            raise InvalidCandidate(f"An edit may declare new hyperparameters alone, but {name} is there; rename it.")
    try:
        return SearchSpace({**parameters, **declared})
    except BadInput as error:
        raise InvalidCandidate(str(error)) from error


def changes(params: Params, base: Params) -> dict[str, tuple[Value | None, Value | None]]:
    """name -> (value in `base`, value in `params`) wherever they differ; None where a side has no such parameter.

    >>> changes({"a": 1, "b": 2}, {"a": 1, "c": 3})
    {'b': (None, 2), 'c': (3, None)}
    """
    names = [*params, *(name for name in base if name not in params)]
    return {n: (base.get(n), params.get(n)) for n in names if base.get(n) != params.get(n)}


def value_text(value: Value | None) -> str:
    """A parameter's value for people: four digits, `(none)` where it does not exist."""
    return "(none)" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def changes_text(params: Params, base: Params) -> str:
    """`changes` on one line: `lr 0.0003 -> 0.001, warmup (none) -> 10`, or `(none)`."""
    pairs = changes(params, base).items()
    return ", ".join(f"{name} {value_text(a)} -> {value_text(b)}" for name, (a, b) in pairs) or "(none)"
