"""The proposer that asks a language model: a bounded prompt from the view, a validated answer, one repair round.

The prompts are Markdown files in `prompts/`; their hash is recorded with each proposal. Every text in them that came
from a program or a model is quoted as JSON on one line, stripped of control characters and cut: it is data. What the
model answers becomes parameters through `SearchSpace.overlay` alone, and a rationale that is shown as a claim. It is
never formatted, executed or put into a configuration. The model itself is behind `ports.LanguageModel` (`llm.py`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from evolve import budget
from evolve.errors import InvalidCandidate, ModelFailed, ProposerFailed
from evolve.memory import Observation, View
from evolve.ports import LanguageModel
from evolve.space import SearchSpace, changes_text
from evolve.types import Candidate, Message, Parameter, Params, Proposal, Spend, Value, digest

_TEMPLATES = ("system", "propose", "repair")
_BEST, _LATEST, _LESSONS, _IMPORTED = 8, 12, 10, 5
_RATIONALE_CHARS, _LESSON_CHARS, _ERROR_CHARS = 1000, 300, 200
_CHANGES_CHARS, _REASON_CHARS, _ANSWER_CHARS = 600, 500, 2000
_SCANNED_CHARS, _SCANNED_OBJECTS = 100_000, 200


class AgentProposer:
    """A language model as `ports.Proposer`: its answer is a change of the incumbent, with a reason.

    An answer that cannot be used (prose, cut, wrong types, unknown names, out of range, tried before) is sent back
    once with the exact reason; a second one is a `ProposerFailed` that carries what both calls cost. No call is made
    that could pass the budget.
    """

    instant = False

    def __init__(self, model: LanguageModel, name: str = "agent") -> None:
        self.name = name
        self._model = model
        folder = resources.files("evolve") / "prompts"
        self._templates = {t: (folder / f"{t}.md").read_text(encoding="utf-8") for t in _TEMPLATES}
        self.prompt_hash = digest(self._templates)

    def propose(self, view: View) -> Proposal:
        messages = self.messages(view)
        schema = answer_schema(view.space)
        spent, reason = Spend(), ""
        for _ in range(2):
            self._check_room(view, spent, messages, schema)
            try:
                completion = self._model.complete(messages, schema)
            except ModelFailed as error:
                reason = clean(str(error), _REASON_CHARS)
                raise ProposerFailed(reason, self.name, spent + error.spend, transcript(messages)) from error
            spent += completion.spend
            messages = [*messages, {"role": "assistant", "content": clean(completion.text, _ANSWER_CHARS)}]
            try:
                if completion.truncated:
                    raise InvalidCandidate("An answer must be whole, but it was cut at agent.max_tokens; be brief.")
                params, rationale = read_answer(completion.text, view)
            except InvalidCandidate as error:
                reason = clean(str(error), _REASON_CHARS)
                messages = self._repair(messages, reason)
                continue
            return Proposal(
                Candidate(params, view.subject_version),
                self.name,
                rationale,
                (view.incumbent_id,),
                prompt_hash=self.prompt_hash,
                model=completion.model,
                spend=spent,
                transcript=transcript(messages),
            )
        text = f"{self._model.name} must give a valid answer, but after one repair round: {reason}"
        raise ProposerFailed(text, self.name, spent, transcript(messages))

    def messages(self, view: View) -> list[dict[str, str]]:
        """Exactly what would be sent for `view`. Its size is bounded whatever the length of the history."""
        ask = fill(self._templates["propose"], describe(view))
        return [{"role": "system", "content": self._templates["system"]}, {"role": "user", "content": ask}]

    def _repair(self, messages: Sequence[Mapping[str, str]], reason: str) -> list[dict[str, str]]:
        # Some providers refuse an empty message.
        last = {**messages[-1], "content": messages[-1]["content"] or "(nothing)"}
        ask = fill(self._templates["repair"], {"reason": json.dumps(reason)})
        return [*(dict(m) for m in messages[:-1]), last, {"role": "user", "content": ask}]

    def _check_room(self, view: View, spent: Spend, messages: Sequence[Mapping[str, str]], schema: Any) -> None:
        # The schema is sent too, so it counts as one more message.
        ahead = self._model.ceiling([*messages, {"role": "user", "content": json.dumps(schema)}])
        if reason := budget.room(view.budget, view.spend + spent, ahead):
            raise ProposerFailed(f"A model call must fit the budget, but {reason}; raise it.", self.name, spent)


def transcript(messages: Sequence[Mapping[str, str]]) -> tuple[Message, ...]:
    """What was said after the system prompt, for the record."""
    return tuple(Message(m["role"], m["content"]) for m in messages if m["role"] != "system")


# ---------------------------------------------------------------- the answer


def read_answer(text: str, view: View) -> tuple[dict[str, Value], str]:
    """Params and rationale of a model's answer. Raises `InvalidCandidate` with a reason that the model can act on."""
    answer = first_object(text)
    if answer is None:
        raise InvalidCandidate("An answer must hold one whole JSON object, but there is none; send only the object.")
    changed, rationale = answer.get("changes"), answer.get("rationale")
    if not isinstance(changed, dict):
        raise InvalidCandidate(f'"changes" must be an object, but is {_json_type(changed)}; write name: value.')
    if not isinstance(rationale, str):
        raise InvalidCandidate(f'"rationale" must be text, but is {_json_type(rationale)}; write one sentence.')
    params = view.space.overlay(view.incumbent, changed)
    for o in view.history:
        if dict(o.params) == params:
            raise InvalidCandidate(
                f"A candidate must be new, but {o.candidate_id} has the same parameters ({o.state}); change another."
            )
    if any(dict(s.candidate.params) == params for s in view.suggestions):
        raise InvalidCandidate("A candidate must be new, but this one waits to be tried already; change another.")
    return params, clean(rationale, _RATIONALE_CHARS)


def _json_type(value: object) -> str:
    return "missing" if value is None else type(value).__name__


def first_object(text: str) -> dict[str, Any] | None:
    """The first balanced JSON object in `text` that has "changes", else the first one of all; None without any.

    The inner parts of an object that was cut are not taken for the answer.

    >>> first_object('Sure! {"changes": {}} or {"changes": {"a": 1}}')
    {'changes': {}}
    """
    decoder = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer)
    text, position, first, cut = text[:_SCANNED_CHARS].rstrip(), 0, None, False
    for _ in range(_SCANNED_OBJECTS):
        start = text.find("{", position)
        if start < 0:
            break
        try:
            value, position = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            cut = cut or error.pos >= len(text) or error.msg.startswith("Unterminated")
            position = start + 1
            continue
        except (ValueError, RecursionError):
            position = start + 1
            continue
        if "changes" in value:
            return dict(value)
        first = first or value
    return None if cut else first


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 18 else float(digits)  # 400 digits become inf, which no range admits


def answer_schema(space: SearchSpace) -> dict[str, Any]:
    """JSON schema of an answer. Its ranges are a hint, which `llm.py` keeps from providers whose schemas know none."""
    kinds = {"float": "number", "int": "integer"}
    properties: dict[str, Any] = {
        n: {"enum": list(p.choices)}
        if p.type == "categorical"
        else {"type": kinds[p.type], "minimum": p.low, "maximum": p.high} | ({"multipleOf": p.step} if p.step else {})
        for n, p in space.parameters.items()
    }
    return {
        "type": "object",
        "properties": {
            "changes": {"type": "object", "properties": properties, "additionalProperties": False},
            "rationale": {"type": "string"},
        },
        "required": ["changes", "rationale"],
        "additionalProperties": False,
    }


# ---------------------------------------------------------------- the prompt


def clean(text: str, limit: int) -> str:
    """`text` on one line without control and invisible formatting characters, at most `limit` long.

    >>> clean("a\\x1b[31m\\n b\\u202e", 20)
    'a [31m b'
    """
    head = text[: 4 * limit]
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in head)
    line = " ".join(kept.split())
    return line if len(line) <= limit and len(head) == len(text) else line[: limit - 1] + "…"


def quote(text: str, limit: int) -> str:
    """`text` as data: cleaned, cut, inside JSON quotes, unable to close a table, a code span or a heading."""
    return json.dumps(clean(text, limit).replace("`", "'").replace("|", "/"), ensure_ascii=False)


def fill(template: str, values: Mapping[str, str]) -> str:
    """`template` with each {{name}} replaced, in one pass: a value that looks like a placeholder stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def describe(view: View) -> dict[str, str]:
    """The values of `prompts/propose.md` for `view`."""
    sign = view.objective.sign
    done = [o for o in view.history if o.score is not None]
    best = sorted(done, key=lambda o: sign * (o.score or 0.0), reverse=True)[:_BEST]
    groups = next((o.groups for o in view.history if o.params == view.incumbent and o.groups), {})
    by_group = ", ".join(f"{clean(name, 40)} {value:.4g}" for name, value in list(groups.items())[:30])
    return {
        "description": quote(view.description, 1000),
        "metric": clean(view.objective.metric, 100),
        "secondary": _secondary(view),
        "direction": view.objective.direction,
        "noise": "unknown yet" if view.noise_floor is None else f"{view.noise_floor:.4g}",
        "budget": budget_left(view),
        "space": "\n".join(_row(n, p, view) for n, p in view.space.parameters.items()),
        "incumbent_score": "nothing yet" if view.incumbent_score is None else f"{view.incumbent_score:.4g}",
        "groups": f" ({by_group})" if by_group else "",
        "tried": str(len(view.history)),
        "best": _lines(_result(o, view) for o in best),
        "latest": _lines(_result(o, view) for o in view.history[-_LATEST:]),
        "imported": _imported(view),
        "waiting": _lines(clean(_difference(s.candidate.params, view), _CHANGES_CHARS) for s in view.suggestions),
        "lessons": _lines(quote(lesson, _LESSON_CHARS) for lesson in view.lessons[-_LESSONS:]),
    }


def _imported(view: View) -> str:
    """The best few of an imported history, under a heading of their own; nothing where there is none."""
    if not view.imported:
        return ""
    scored = [o for o in view.imported if o.score is not None]
    best = sorted(scored, key=lambda o: view.objective.sign * (o.score or 0.0), reverse=True)[:_IMPORTED]
    failed = sum(o.score is None for o in view.imported)
    lines = _lines(f"{clean(_difference(o.params, view), _CHANGES_CHARS)}: {o.score:.4g}" for o in best)
    return (
        f"\n# Imported: claims of an earlier study, {len(scored)} scored and {failed} failed; the best, as changes from"
        f" the incumbent\n\nMeasured elsewhere, so not comparable with the scores above. What is not in the results above"
        f" has not been tried here and may be proposed.\n\n{lines}\n"
    )


def _secondary(view: View) -> str:
    """The other objectives in a sentence; empty where there is one alone."""
    names = [f"`{clean(o.metric, 100)}` ({o.direction})" for o in view.secondary]
    return (
        f" Objectives beside it: {', '.join(names)}; a gain on one that costs little on the others counts."
        if names
        else ""
    )


def budget_left(view: View) -> str:
    """What the budget still allows, in its units."""
    b, s = view.budget, view.spend
    left = [
        f"{limit - used:.6g} of {limit:g} {unit}"
        for limit, used, unit in (
            (b.trials, s.trials, "trials"),
            (b.train_seconds, s.train_seconds, "CPU seconds of training"),
            (b.llm_usd, s.llm_usd, "US dollars for models"),
            (b.llm_tokens, s.llm_tokens, "tokens for models"),
        )
        if limit is not None
    ]
    return ", ".join(left) or "without a limit"


def _lines(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items) or "- none yet"


def _show(value: Value | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _row(name: str, p: Parameter, view: View) -> str:
    if p.type == "categorical":
        values = ", ".join(_show(choice) for choice in p.choices)
    else:
        scale = " log" if p.log else ""
        values = f"{p.type} {p.low:g} to {p.high:g}{scale}" + (f" step {p.step:g}" if p.step else "")
    condition = " and ".join(f"{k} in {list(map(_show, v))}" for k, v in p.when.items()).replace("'", "")
    held = [_show(p.default), _show(view.incumbent.get(name)), _show(view.champion.get(name))]
    return "| " + " | ".join([name, values, p.role or "–", condition or "–", *held]) + " |"


def _result(o: Observation, view: View) -> str:
    if o.score is not None:
        error = f" ± {o.stderr:.2g}" if o.stderr is not None else ""
        result = f"{o.score:.4g}{error}"
        for objective, value in zip(view.secondary, (o.values or ())[1:], strict=False):
            result += f", {clean(objective.metric, 100)} {value:.4g}"
    elif o.error:
        result = f"{o.state} {quote(o.error, _ERROR_CHARS)}"
    else:
        result = o.state
    who = clean(o.proposer, 40) + (f"; {clean(o.outcome, 100)}" if o.outcome else "")
    return f"{clean(_difference(o.params, view), _CHANGES_CHARS)}: {result} ({who})"


def _difference(params: Params, view: View) -> str:
    return "the incumbent itself" if params == view.incumbent else changes_text(params, view.incumbent)
