"""The tools of the agent: read-only questions to a view of the campaign, and their answers as bounded JSON. Pure.

An answer holds aggregates by task, never problems or results of single problems: the view has none. Strings that came
from a program or a model are cleaned and stay inside JSON quotes. What an answer leaves out for its size is counted in
`left_out`; its text is never cut in the middle.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolve.agent_text import Sharing, best_first, clean, compared, error_text, groups_of, harness_text, tame
from evolve.errors import did_you_mean
from evolve.memory import Observation, View
from evolve.space import changes
from evolve.types import Params, Value

_PATCH_LINES = 60
_CURVE_POINTS, _LOG_CHARS, _ROWS, _FILE_CHARS = 20, 1200, 12, 3000
_KIND = {"string": str, "number": (int, float), "integer": int, "object": dict, "boolean": bool}
_TEXT, _NUMBER, _COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_STATES = ["COMPLETE", "FAIL", "PRUNED", "RUNNING"]

# tool -> its arguments as properties of a JSON schema, and which of them must be there
READ: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "history": (
        {
            "order": {"type": "string", "enum": ["best", "latest"]},
            "state": {"type": "string", "enum": _STATES},
            "proposer": _TEXT,
            "parameter": _TEXT,
            "low": _NUMBER,
            "high": _NUMBER,
            "value": _TEXT,
            "limit": _COUNT,
        },
        (),
    ),
    "trial": ({"id": _TEXT}, ("id",)),
    "sampler": ({}, ()),
    "importances": ({}, ()),
    "failures": ({}, ()),
    "champion": ({}, ()),
    "files": ({"id": _COUNT, "line": _COUNT}, ()),
}


@dataclass(frozen=True)
class Insight:
    """What the sampler thinks. `suggestion` is None where it has none; `radius` is in ranges, None where it has no region."""

    suggestion: Params | None = None
    radius: float | None = None
    importances: Mapping[str, float] | None = None


class BadCall(Exception):
    """A call that no tool can answer; its text goes back to the model."""


@dataclass
class Tools:
    """The answers of one turn.

    Args:
        insight: asked at most once a turn; it may take a second.
        files: name -> text of the editable files.
    """

    view: View
    sharing: Sharing = field(default_factory=Sharing)
    insight: Callable[[View], Insight] = lambda view: Insight()
    files: Mapping[str, str] = field(default_factory=dict)
    _seen: Insight | None = None

    @property
    def names(self) -> list[str]:
        return [name for name in READ if name != "files" or self.sharing.code]

    def answer(self, name: str, arguments: str, limit: int) -> str:
        """JSON of at most `limit` characters. Raises `BadCall` with what is wrong with the call."""
        if name not in self.names:
            raise BadCall(f"There is no tool {clean(name, 60)!r}{did_you_mean(name, self.names)}")
        given = read_arguments(arguments, *READ[name])
        return bounded(getattr(self, f"_{name}")(**given), limit)

    # ------------------------------------------------ one method a tool

    def _history(
        self,
        order: str = "latest",
        state: str | None = None,
        proposer: str | None = None,
        parameter: str | None = None,
        low: float = -math.inf,
        high: float = math.inf,
        value: str | None = None,
        limit: int = _ROWS,
    ) -> dict[str, Any]:
        view = self.view
        if parameter is not None and parameter not in view.space.parameters:
            raise BadCall(
                f"{clean(parameter, 60)!r} is not a parameter{did_you_mean(parameter, view.space.parameters)}"
            )
        found = best_first(view) if order == "best" else list(reversed(view.history))
        found = [o for o in found if state in (None, o.state) and proposer in (None, o.proposer)]
        if parameter is not None:
            found = [o for o in found if _within(o.params.get(parameter), low, high, value)]
        rows = [self._row(o) for o in found[: max(1, min(limit, 50))]]
        return {"matching": len(found), "candidates": rows}

    def _row(self, o: Observation) -> dict[str, Any]:
        row: dict[str, Any] = {"id": o.candidate_id, "by": clean(o.proposer, 40), "state": o.state}
        row["changes"] = self._changes(o.params, self.view.incumbent)
        if o.patch != self.view.patch:
            row["harness"] = harness_text(o.patch)
        if o.score is not None:
            row |= {
                "score": _round(o.score),
                "stderr": _round(o.stderr),
                "against_incumbent": compared(o, self.view)[2:],
            }
            named = zip(self.view.secondary, (o.values or ())[1:], strict=False)
            row |= {clean(objective.metric, 60): _round(x) for objective, x in named}
        if o.error:
            row["error"] = tame(error_text(o.error, self.sharing), 200)
        if o.outcome:
            row["gate"] = o.outcome
        return row

    def _trial(self, id: str) -> dict[str, Any]:
        known = self.view.history
        found = [o for o in known if o.candidate_id == id or (len(id) >= 4 and o.candidate_id.startswith(id))]
        if len(found) != 1:
            raise BadCall(f"An id must be one of the history's, but {clean(id, 40)!r} is not; ask `history`.")
        o = found[0]
        answer = self._row(o) | {"params": _values(o.params), "by_task": _groups(o.groups)}
        if o.patch and self.sharing.code:
            answer["patch"] = [tame(line, 160) for line in o.patch.split("\n")[:_PATCH_LINES]]
        if o.rationale:
            answer["rationale_claimed"] = tame(o.rationale, 300)
        detail = self.view.details.get(o.candidate_id)
        if detail is None:
            return answer | {"curve": "not at hand: only the latest trainings' curves and logs are"}
        step = max(1, math.ceil(len(detail.curve) / _CURVE_POINTS))
        points = detail.curve[::-1][::step][::-1]
        answer["curve_self_reported"] = [
            {"step": p.step, **{clean(k, 40): _round(v) for k, v in list(p.metrics.items())[:6]}} for p in points
        ]
        if self.sharing.logs and detail.log_tail:
            answer["log_end_untrusted"] = tame(detail.log_tail[-_LOG_CHARS:], _LOG_CHARS)
        return answer

    def _sampler(self) -> dict[str, Any]:
        found = self._ask()
        return {
            "next": self._changes(found.suggestion, self.view.incumbent) if found.suggestion else None,
            "incumbent": _values(self.view.incumbent),
            "incumbent_score": _round(self.view.incumbent_score),
            "step_size_in_ranges": _round(found.radius),
        }

    def _importances(self) -> dict[str, Any]:
        found = self._ask().importances
        return {"importances": None if found is None else {n: _round(x) for n, x in found.items()}}

    def _ask(self) -> Insight:
        if self._seen is None:
            self._seen = self.insight(self.view)
        return self._seen

    def _failures(self) -> dict[str, Any]:
        kinds: dict[str, list[Observation]] = {}
        for o in self.view.history:
            if o.state in ("FAIL", "PRUNED"):
                text = error_text(o.error or "", self.sharing)
                kinds.setdefault(re.sub(r"[\d.e+-]*\d[\d.e+-]*", "#", tame(text, 120)), []).append(o)
        most = sorted(kinds.items(), key=lambda pair: -len(pair[1]))
        return {
            "kinds": [
                {
                    "error": kind,
                    "state": found[-1].state,
                    "count": len(found),
                    "latest": [self._changes(o.params, self.view.incumbent) for o in found[-3:]],
                }
                for kind, found in most[:10]
            ]
        }

    def _champion(self) -> dict[str, Any]:
        view = self.view
        return {
            "champion_from_default": self._changes(view.champion, view.default),
            "champion_by_task": _groups(groups_of(view, view.champion)),
            "incumbent_from_champion": self._changes(view.incumbent, view.champion),
            "incumbent_by_task": _groups(groups_of(view, view.incumbent)),
            "incumbent_score": _round(view.incumbent_score),
            "noise_floor": _round(view.noise_floor),
        }

    def _files(self, id: int | None = None, line: int = 1) -> dict[str, Any]:
        listed = list(self.files.items())
        if id is None:
            return {"files": [{"id": i, "name": clean(n, 100), "chars": len(t)} for i, (n, t) in enumerate(listed, 1)]}
        if not 1 <= id <= len(listed):
            raise BadCall(f"An id must be one of 1 to {len(listed)}, but got {id}; ask `files` without one.")
        name, text = listed[id - 1]
        whole = text.split("\n")
        if not 1 <= line <= len(whole):
            raise BadCall(f"A line must be one of 1 to {len(whole)}, but got {line}; ask without one for the first.")
        rest = "\n".join(whole[line - 1 :])
        # Whole lines, since an edit has to repeat them exactly.
        cut = (
            rest[:_FILE_CHARS]
            if len(rest) <= _FILE_CHARS
            else rest[:_FILE_CHARS].rpartition("\n")[0] or rest[:_FILE_CHARS]
        )
        shown = "".join(c for c in cut if c in "\n\t" or c.isprintable()).split("\n")
        answer = {"name": clean(name, 100), "first_line": line, "text": shown}
        if len(cut) < len(rest):
            answer |= {"next_line": line + len(shown), "left_out_chars": len(rest) - len(cut)}
        return answer

    def _changes(self, params: Params, base: Params) -> dict[str, Any]:
        """name -> value wherever it differs from `base`; null where it does not exist any more."""
        return {n: _value(after) for n, (_, after) in changes(params, base).items()}

    def everything(self, limit: int) -> str:
        """What a model without tools is told of them: each one's answer on a line of its own, together within `limit`."""
        calls: list[tuple[str, str]] = [
            (name, "{}") for name in ("sampler", "importances", "failures", "champion", "files") if name in self.names
        ]
        latest = next((o for o in reversed(self.view.history) if o.state != "RUNNING"), None)
        if latest is not None:
            calls.insert(0, ("trial", json.dumps({"id": latest.candidate_id})))
        if "files" in self.names and self.files:
            calls.append(("files", '{"id": 1}'))
        each = limit // len(calls)
        return "\n".join(f"- {name}: {self.answer(name, arguments, each)}" for name, arguments in calls)


# ---------------------------------------------------------------- JSON


def schema(name: str, description: str, properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """A function in the chat API's format."""
    parameters = {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def read_arguments(text: str, properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """The arguments of a call, null ones left out. Raises `BadCall` for what the tool's schema does not admit."""
    try:
        raw = json.loads(text or "{}", parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadCall('Arguments must be one JSON object, but do not parse; send {"name": value}.') from error
    if not isinstance(raw, dict):
        raise BadCall(f'Arguments must be one JSON object, but are {type(raw).__name__}; send {{"name": value}}.')
    given = {k: v for k, v in raw.items() if v is not None}
    for name, value in given.items():
        if name not in properties:
            raise BadCall(f"{clean(name, 60)!r} is not an argument{did_you_mean(name, properties)}")
        kind, choices = properties[name].get("type"), properties[name].get("enum")
        wrong = isinstance(value, bool) != (kind == "boolean") or not isinstance(value, _KIND[kind])  # type: ignore[arg-type]
        if wrong or (choices and value not in choices):
            what = f"one of {choices}" if choices else f"of type {kind}"
            raise BadCall(f"{name} must be {what}, but got {clean(repr(value), 60)}; correct it.")
    for name in required:
        if name not in given:
            raise BadCall(f"{name} must be given, but is missing; add it.")
    return given


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def bounded(answer: dict[str, Any], limit: int) -> str:
    """`answer` as JSON of at most `limit` characters: the last items of its longest list or object go first, and are
    counted in `left_out`; below that nothing is left but the count."""
    left_out = 0
    while len(text := json.dumps(answer, ensure_ascii=False)) > limit:
        parts = {k: len(json.dumps(v)) for k, v in answer.items() if k != "left_out" and v}
        if not parts:
            return '{"left_out": "everything: no room"}'
        name = max(parts, key=lambda k: parts[k])
        value = answer[name]
        if isinstance(value, list | dict) and len(value) > 1:
            drop = max(1, len(value) // 5)
            kept = list(value.items() if isinstance(value, dict) else value)[:-drop]
            answer[name], left_out = dict(kept) if isinstance(value, dict) else kept, left_out + drop
        else:
            del answer[name]
            left_out += 1
        answer["left_out"] = left_out
    return text


def _within(value: Value | None, low: float, high: float, wanted: str | None) -> bool:
    if value is None:
        return False
    if wanted is not None:
        return str(value).lower() == wanted.lower()
    return isinstance(value, bool | str) or low <= value <= high


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _value(value: Value | None) -> Value | None:
    return _round(value) if isinstance(value, float) else value


def _values(params: Params) -> dict[str, Any]:
    return {n: _value(v) for n, v in params.items()}


def _groups(groups: Mapping[str, float]) -> dict[str, Any]:
    return {clean(n, 40): _round(x) for n, x in list(groups.items())[:30]}
