"""Budgets that hold for model calls: each is reserved in the journal before it is made, and settled after.

`MeteredModel` wraps any `ports.LanguageModel`, in whatever thread it is called. `Ledger` is its way to the loop, the one
writer of the journal: a call waits until its reservation is on the disk. A kill at any moment leaves either a call that
was never made or a reservation, which the next session settles at its full amount.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evolve.errors import ModelFailed
from evolve.ports import Completion, LanguageModel
from evolve.types import Spend


class Books(Protocol):
    """Who writes the journal: the loop. Both methods may be called from any thread, and return when it is written."""

    def reserve(self, by: str, model: str, ahead: Spend) -> int:
        """The number of a call that may cost up to `ahead`. Raises `ModelFailed` where that does not fit the budget."""
        ...

    def settle(self, call: int, spend: Spend, error: str) -> None:
        """What the call cost. Where the session has ended meanwhile, it was settled there, at its reservation."""
        ...


class Ledger:
    """Made before the models that use it, and opened by the session that keeps the books."""

    def __init__(self) -> None:
        self._books: Books | None = None

    def open(self, books: Books) -> None:
        """From here on calls can be made. Called once, by the loop's session."""
        self._books = books

    @property
    def books(self) -> Books:
        """Raises `ModelFailed` outside a session, where nobody would count the call."""
        if self._books is None:
            raise ModelFailed(
                "A model is called within a campaign's session alone, but none is open; use `evolve run`."
            )
        return self._books


@dataclass(frozen=True)
class MeteredModel:
    """A language model whose every call is in the journal; `by` is in whose name it is called.

    Raises `ModelFailed` without a call where its ceiling does not fit the budget, calls under way included.
    """

    model: LanguageModel
    ledger: Ledger
    by: str = "agent"

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def calls_tools(self) -> bool:
        return self.model.calls_tools

    def ceiling(self, messages: Sequence[Mapping[str, Any]]) -> Spend:
        return self.model.ceiling(messages)

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Completion:
        # Schema and tools are sent too, so they count as one more message.
        sent = [*messages, {"role": "user", "content": json.dumps([schema, list(tools)])}]
        books, ahead = self.ledger.books, self.model.ceiling(sent)
        call = books.reserve(self.by, self.name, ahead)
        try:
            completion = self.model.complete(messages, schema, tools)
        except ModelFailed as error:
            books.settle(call, error.spend, str(error))
            raise
        except BaseException as error:
            books.settle(call, ahead, f"{type(error).__name__}: what it cost is not known, so all that was reserved")
            raise
        books.settle(call, completion.spend, "")
        return completion
