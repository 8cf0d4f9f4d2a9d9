"""What the agent is told, in words: a view as the values of the prompts' placeholders. Pure.

Every text that came from a program or a model is quoted as JSON on one line, stripped of control characters and cut: it
is data. The user's brief alone is told as it is.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evolve.edits import edited
from evolve.memory import Observation, View
from evolve.space import changes_text
from evolve.types import Parameter, Params, Value

_BEST, _LATEST, _LESSONS, _IMPORTED, _NEWS = 8, 12, 30, 5, 6
_DESCRIPTION_CHARS, _LESSON_CHARS, _ERROR_CHARS, _CHANGES_CHARS = 1000, 500, 200, 600
SCALES = (1.0, 0.5, 0.25, 0.0)  # of the numbers of lines, until the prompt fits agent.context_tokens


@dataclass(frozen=True)
class Sharing:
    """What may leave the machine beside parameters and results: code, text of logs (errors too), lessons."""

    code: bool = True
    logs: bool = True
    lessons: bool = True


def clean(text: str, limit: int) -> str:
    """`text` on one line without control and invisible formatting characters, at most `limit` long.

    >>> clean("a\\x1b[31m\\n b\\u202e", 20)
    'a [31m b'
    """
    head = text[: 4 * limit]
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in head)
    line = " ".join(kept.split())
    return line if len(line) <= limit and len(head) == len(text) else line[: max(0, limit - 1)] + "…"


def clean_lines(text: str, limit: int) -> str:
    """The same with its lines and their indentation, which an edit has to repeat exactly; for what goes inside of JSON."""
    head = text[: 4 * limit]
    kept = "".join(c if c == "\n" else " " if unicodedata.category(c)[0] in "CZ" else c for c in head)
    return kept if len(kept) <= limit and len(head) == len(text) else kept[: max(0, limit - 1)] + "…"


def tame(text: str, limit: int) -> str:
    """`clean`, and unable to close a table or a code span: what becomes data inside of JSON quotes."""
    return clean(text, limit).replace("`", "'").replace("|", "/")


def quote(text: str, limit: int) -> str:
    """`text` as data: cleaned, cut, inside JSON quotes, unable to close a table, a code span or a heading."""
    return json.dumps(tame(text, limit), ensure_ascii=False)


def fill(template: str, values: Mapping[str, str]) -> str:
    """`template` with each {{name}} replaced, in one pass: a value that looks like a placeholder stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def describe(view: View, sharing: Sharing, scale: float = 1.0) -> dict[str, str]:
    """The values of `turn.md`, `record.md` and `memory.md` for `view`, apart from other templates' text.

    Args:
        scale: of the numbers of lines that are history; 0 leaves the newest alone.
    """
    best = best_first(view)[: round(_BEST * scale)]
    latest = view.history[-round(_LATEST * scale) :] if round(_LATEST * scale) else ()
    news = [o for o in view.history if o.candidate_id in view.news][-max(1, round(_NEWS * scale)) :]
    groups = groups_text(groups_of(view, view.incumbent))
    return {
        "description": quote(view.description, _DESCRIPTION_CHARS),
        "metric": clean(view.objective.metric, 100),
        "secondary": _secondary(view),
        "direction": view.objective.direction,
        "noise": "unknown yet" if view.noise_floor is None else f"{view.noise_floor:.4g}",
        "budget": budget_left(view),
        "space": "\n".join(_row(n, p, view) for n, p in view.space.parameters.items()),
        "incumbent_score": "nothing yet" if view.incumbent_score is None else f"{view.incumbent_score:.4g}",
        "groups": f" ({groups})" if groups else "",
        "tried": str(len(view.history)),
        "best": lines(result(o, view, sharing) for o in best),
        "latest": lines(result(o, view, sharing) for o in latest),
        "news": lines(result(o, view, sharing) + compared(o, view) for o in news),
        "imported": _imported(view, round(_IMPORTED * scale)),
        "waiting": lines(clean(difference(s.candidate.params, view), _CHANGES_CHARS) for s in view.suggestions),
        "lessons": lines(quote(x, _LESSON_CHARS) for x in view.lessons[-max(1, round(_LESSONS * scale)) :]),
        "measured": lines(clean(x, 200) for x in view.measured[: round(len(view.measured) * scale)]),
    }


def best_first(view: View) -> list[Observation]:
    """The candidates with a score, the best first."""
    done = [o for o in view.history if o.score is not None]
    return sorted(done, key=lambda o: view.objective.sign * (o.score or 0.0), reverse=True)


def groups_of(view: View, params: Params) -> Mapping[str, float]:
    known = [o for o in view.history if o.params == params and o.groups]
    return next((o.groups for o in known if o.patch == view.patch), known[0].groups if known else {})


def groups_text(groups: Mapping[str, float]) -> str:
    return ", ".join(f"{clean(name, 40)} {value:.4g}" for name, value in list(groups.items())[:30])


def _imported(view: View, count: int) -> str:
    """The best few of an imported history, under a heading of their own; nothing where there is none."""
    if not view.imported:
        return ""
    scored = [o for o in view.imported if o.score is not None]
    best = sorted(scored, key=lambda o: view.objective.sign * (o.score or 0.0), reverse=True)[:count]
    failed = sum(o.score is None for o in view.imported)
    text = lines(f"{clean(difference(o.params, view), _CHANGES_CHARS)}: {o.score:.4g}" for o in best)
    return (
        f"\n# Imported: claims of an earlier study, {len(scored)} scored and {failed} failed; the best, as changes from"
        f" the incumbent\n\nMeasured elsewhere, so not comparable with the scores above. What is not in the results above"
        f" has not been tried here and may be proposed.\n\n{text}\n"
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


def lines(items: Iterable[str]) -> str:
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


def result(o: Observation, view: View, sharing: Sharing) -> str:
    """One candidate on a line: what it changes of the incumbent, what came out, by whom, what the gate said."""
    if o.score is not None:
        error = f" ± {o.stderr:.2g}" if o.stderr is not None else ""
        text = f"{o.score:.4g}{error}"
        for objective, value in zip(view.secondary, (o.values or ())[1:], strict=False):
            text += f", {clean(objective.metric, 100)} {value:.4g}"
    elif o.error and (reason := error_text(o.error, sharing)):
        text = f"{o.state} {quote(reason, _ERROR_CHARS)}"
    else:
        text = o.state
    who = clean(o.proposer, 40) + (f"; {clean(o.outcome, 100)}" if o.outcome else "")
    edited = f", {harness_text(o.patch)}" if o.patch != view.patch else ""
    return f"{clean(difference(o.params, view), _CHANGES_CHARS)}{edited}: {text} ({who})"


def harness_text(patch: str | None) -> str:
    """Which harness something was measured with, where it is not the incumbent's."""
    return f"harness edited ({clean(edited(patch), 100)})" if patch else "the original harness"


def error_text(error: str, sharing: Sharing) -> str:
    """The reason of a failure; its last line of a log only where logs may be shared, and never a scorer's."""
    if error.startswith("score:") or (error.startswith("train:") and not sharing.logs):
        return ":".join(error.split(":")[:2])
    return error if sharing.logs or not error else "failed"


def compared(o: Observation, view: View) -> str:
    """The result against the incumbent's, in noise floors; empty where there is nothing to compare."""
    if (
        o.score is None
        or view.incumbent_score is None
        or not view.noise_floor
        or (o.params == view.incumbent and o.patch == view.patch)
    ):
        return ""
    gain = view.objective.sign * (o.score - view.incumbent_score)
    word = "within the noise" if abs(gain) <= 2 * view.noise_floor else "better" if gain > 0 else "worse"
    return f", {gain / view.noise_floor:+.1f} noise floors: {word}"


def difference(params: Params, view: View) -> str:
    return "the incumbent itself" if params == view.incumbent else changes_text(params, view.incumbent)
