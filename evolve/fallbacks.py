"""Language models behind language models: one that is left alone while it is down, and several asked in order.

Both are `ports.LanguageModel` made of others, so that whoever asks sees one model. Neither knows a provider.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from evolve.errors import ModelFailed
from evolve.ports import Completion, LanguageModel
from evolve.types import Spend

Messages = Sequence[Mapping[str, Any]]


class Pausable(LanguageModel, Protocol):
    """A model that knows when asking it is of no use."""

    @property
    def price_known(self) -> bool: ...

    @property
    def paused(self) -> bool:
        """Whether a call now would fail at once, at no cost."""
        ...


class PricedModel(LanguageModel, Protocol):
    """A model that says whether its dollars can be counted."""

    @property
    def price_known(self) -> bool: ...


class CircuitBreaker:
    """Leaves a model alone while its provider is down: a circuit breaker, half open after each cool-down.

    After `failures` calls in a row that failed because nobody was served (`ModelFailed.down`), further calls fail at
    once, at no cost, for `cool_down_seconds`. The call after that is the trial: where it fails too, the next cool-down
    is twice as long, up to `longest_seconds`; where it is answered, or refused for another reason, all is forgotten.
    Called by one thread at a time; `paused` by any.
    """

    def __init__(
        self,
        model: PricedModel,
        *,
        failures: int = 3,
        cool_down_seconds: float = 60.0,
        longest_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._failures, self._clock = model, failures, clock
        self._cool_down, self._longest = cool_down_seconds, longest_seconds
        self._in_row, self._until = 0, float("-inf")

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def calls_tools(self) -> bool:
        return self._model.calls_tools

    @property
    def price_known(self) -> bool:
        return self._model.price_known

    @property
    def paused(self) -> bool:
        return self._clock() < self._until

    def ceiling(self, messages: Messages) -> Spend:
        return self._model.ceiling(messages)

    def complete(
        self, messages: Messages, schema: Mapping[str, Any] | None = None, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Completion:
        if self.paused:
            left = self._until - self._clock()
            raise ModelFailed(
                f"The model {self.name} must be up, but its last {self._in_row} calls failed; asked again in {left:.0f} s.",
                down=True,
            )
        try:
            completion = self._model.complete(messages, schema, tools)
        except ModelFailed as error:
            if not error.down:
                self._in_row = 0
                raise
            self._in_row += 1
            if self._in_row < self._failures:
                raise
            # The power is bounded too: a provider may be down for longer than a float can double.
            wait = min(self._longest, self._cool_down * 2 ** min(self._in_row - self._failures, 20))
            self._until = self._clock() + wait
            text = f"{self._in_row} calls in a row failed, the next is in {wait:.0f} s. {error}"
            raise ModelFailed(text, error.spend, down=True) from None
        self._in_row = 0
        return completion


class Fallbacks:
    """Several models as one: where the first fails, for whatever reason, the next is asked, in the order given.

    It has the first one's name, and calls tools where that one does; `Completion.model` says who answered. Where tools
    come into a call, a model that calls none is passed over. A call costs what all its models cost, failed ones too,
    and takes at most the sum of their time-outs.
    """

    def __init__(self, models: Sequence[Pausable]) -> None:
        self._models = tuple(models)

    @property
    def name(self) -> str:
        return self._models[0].name

    @property
    def calls_tools(self) -> bool:
        return self._models[0].calls_tools

    @property
    def price_known(self) -> bool:
        return all(model.price_known for model in self._models)

    @property
    def paused(self) -> bool:
        return all(model.paused for model in self._models)

    def ceiling(self, messages: Messages) -> Spend:
        return sum((model.ceiling(messages) for model in self._models), Spend())

    def complete(
        self, messages: Messages, schema: Mapping[str, Any] | None = None, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Completion:
        reasons, spend, down = list[str](), Spend(), True
        with_tools = bool(tools) or any(m["role"] == "tool" or m.get("tool_calls") for m in messages)
        first, *others = self._models
        for model in (first, *(m for m in others if m.calls_tools or not with_tools)):
            try:
                completion = model.complete(messages, schema, tools)
            except ModelFailed as error:
                reasons.append(str(error))
                spend += error.spend
                down = down and error.down
            else:
                return replace(completion, spend=spend + completion.spend)
        raise ModelFailed(" Then: ".join(reasons), spend, down=down)
