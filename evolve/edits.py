"""Edits of the harness as proposals: from what a model answers, or a ready edit, to a patch and what it declares. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolve import patches
from evolve.errors import InvalidCandidate, did_you_mean
from evolve.space import changes_text
from evolve.types import Block, Candidate, Parameter, ReadyEdit

_FORMS = ("ready", "blocks", "diff", "files")
_MOST_TEXT = 2 * patches.MOST_FILE_CHARS  # of one answer


@dataclass(frozen=True)
class Harness:
    """What may be edited: the editable files as the campaign's own copy has them, and the subject's ready edits."""

    files: Mapping[str, str]
    ready: Sequence[ReadyEdit] = field(default=())

    def texts(self, patch: str | None) -> dict[str, str]:
        """The files with a patch."""
        return patches.patched(self.files, patch)

    def take(self, edit: ReadyEdit, patch: str | None) -> str:
        """The canonical patch of a ready edit on top of `patch`. Raises `InvalidCandidate` where it does not fit."""
        return patches.make(self.files, patches.from_blocks(self.texts(patch), edit.blocks))

    def read(self, raw: object, patch: str | None) -> tuple[str, Mapping[str, Parameter]]:
        """The canonical patch, and the hyperparameters that it declares, of a model's `edit` on top of `patch`.

        Raises `InvalidCandidate` with a reason that the model can act on.
        """
        if not isinstance(raw, Mapping):
            raise InvalidCandidate(
                f'"edit" must be an object with one of {", ".join(_FORMS)}, but is {type(raw).__name__}.'
            )
        given = [form for form in _FORMS if raw.get(form) is not None]
        if unknown := [name for name in raw if name not in (*_FORMS, "parameters")]:
            raise InvalidCandidate(f'"edit" has no {str(unknown[0])[:60]!r}{did_you_mean(str(unknown[0]), _FORMS)}')
        if len(given) != 1:
            raise InvalidCandidate(f'"edit" must have exactly one of {", ".join(_FORMS)}, but has {given or "none"}.')
        [form], value = given, raw[given[0]]
        declared = declarations(raw.get("parameters") or {})
        if form == "ready":
            found = [e for e in self.ready if e.name == value]
            if not found:
                raise InvalidCandidate(
                    f"A ready edit must be one of the menu, but {str(value)[:60]!r} is not{did_you_mean(str(value), [e.name for e in self.ready])}"
                )
            return self.take(found[0], patch), {**found[0].parameters, **declared}
        before = self.texts(patch)
        if form == "blocks":
            after = patches.from_blocks(before, _blocks(value))
        elif form == "diff":
            after = patches.from_diff(before, _text("diff", value))
        else:
            if not isinstance(value, Mapping) or not value:
                raise InvalidCandidate('"files" must be an object of file name: whole new text; write it so.')
            after = patches.from_files(before, {str(name): _text("a file", text) for name, text in value.items()})
        return patches.make(self.files, after), declared


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise InvalidCandidate(
            f"{what} must be text of at most {_MOST_TEXT} characters, but is {type(value).__name__}."
        )
    return value


def _blocks(value: object) -> list[Block]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidCandidate('"blocks" must be a list of {"file", "search", "replace"}; write it so.')
    blocks = []
    for number, raw in enumerate(value, start=1):
        if not isinstance(raw, Mapping) or set(raw) != {"file", "search", "replace"}:
            raise InvalidCandidate(f'Block {number} must have "file", "search" and "replace", and nothing else.')
        file, search, replace = (
            _text(f"{name} of block {number}", raw[name]) for name in ("file", "search", "replace")
        )
        blocks.append(Block(file, search, replace))
    return blocks


def declarations(raw: object) -> dict[str, Parameter]:
    """Hyperparameters as a subject's YAML writes them. Whether the space takes them, `space.extended` says.

    Raises `InvalidCandidate`.
    """
    if not isinstance(raw, Mapping):
        raise InvalidCandidate('"parameters" must be an object of name: {"type", "default", "low", "high", ...}.')
    return {str(name): _declaration(str(name)[:60], fields) for name, fields in raw.items()}


def _declaration(name: str, raw: object) -> Parameter:
    known: dict[str, tuple[type, ...]] = {
        "type": (str,), "default": (bool, int, float, str), "role": (str,), "low": (int, float), "high": (int, float),
        "log": (bool,), "step": (int, float), "choices": (list, tuple),
    }  # fmt: skip
    if not isinstance(raw, Mapping):
        raise InvalidCandidate(
            f'{name!r} must be declared as {{"type", "default", "low", "high"}}, but is {type(raw).__name__}.'
        )
    fields: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise InvalidCandidate(f"{name!r} has no {str(key)[:60]!r}{did_you_mean(str(key), known)}")
        if value is None:
            continue
        if not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
            raise InvalidCandidate(
                f"{key} of {name!r} must be {' or '.join(t.__name__ for t in known[key])}, but got {value!r:.60}."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidCandidate(f"{key} of {name!r} must be a finite number, but is {value}; give a number.")
        fields[key] = tuple(value) if isinstance(value, list | tuple) else value
    if fields.get("type") not in ("float", "int", "categorical") or "default" not in fields:
        raise InvalidCandidate(f'{name!r} must have "type" (float, int or categorical) and "default"; add them.')
    if not all(isinstance(c, bool | int | float | str) for c in fields.get("choices", ())):
        raise InvalidCandidate(f"choices of {name!r} must be numbers, words or true/false; correct them.")
    role = "".join(c for c in fields.get("role", "") if c.isprintable())[:40]
    return Parameter(**{**fields, "role": role})


def difference(candidate: Candidate, base: Candidate) -> str:
    """What a candidate has that `base` has not, on one line: its edit of the harness, and its parameters."""
    text = changes_text(candidate.params, base.params)
    if candidate.patch == base.patch:
        return text
    edit = f"edit of {edited(candidate.patch)}" if candidate.patch else "the harness without an edit"
    return edit if text == "(none)" else f"{edit}; {text}"


def edited(patch: str) -> str:
    """The files and numbers of lines of a patch: `train/recipe.py +12 -3`."""
    try:
        return patches.summary(patch)
    except InvalidCandidate:  # of a hand-made journal
        return "the harness"
