"""Scripted advisors for tests and benchmarks: functions of the messages for `llm.ScriptedModel`, through every tool.

    AgentProposer(ScriptedModel(expert, calls_tools=True))

`expert` answers as a person who knows post-training would, from common knowledge and from what the tools say; it was
tuned on no landscape; `author` is the expert that proposes an evaluation first. `fool` proposes bounds and nonsense. `editor`
edits the harness: it reads the file, quotes it wrongly once, and is put right by the error. None is a language model, and no
default names them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evolve.ports import Completion, ToolCall
from evolve.types import Value

# In the order in which a person would try them: recipe first, then rates, then the rest.
_MOVES: tuple[tuple[str, Value, str], ...] = (
    ("phases", "sft_grpo", "reinforcement where the reward can be checked"),
    ("learning_rate", 1e-3, "small models take larger rates than large ones"),
    ("prompt_masking", True, "loss on the answer alone"),
    ("batch_size", 32, "more updates of the same data"),
    ("kl_weight", 0.0, "no KL term where the reward is verifiable"),
    ("schedule", "cosine", "a decay at the end usually helps"),
    ("warmup", 0.05, "a short warm-up"),
    ("grpo_share", 0.7, "more of the compute for the phase that optimises the metric"),
    ("grpo_share", 0.3, "a longer SFT before reinforcement"),
    ("grpo_learning_rate", 1e-3, "the same as for SFT at this size"),
    ("grpo_learning_rate", 1e-4, "reinforcement usually takes smaller rates"),
    ("group_size", 16, "a better baseline"),
    ("clip", 0.28, "clip higher: keeps exploration alive"),
    ("learning_rate", 2e-3, "one step further"),
    ("weight_decay", 0.0, "short trainings need none"),
    ("advantage_normalization", "none", "no division by the standard deviation"),
    ("phases", "sft_dpo_grpo", "preferences before reinforcement"),
    ("prompts_per_step", 8, "more updates of the same samples"),
    ("temperature", 1.2, "more exploration"),
    ("batch_size", 16, "still more updates"),
)
_ROW = re.compile(r"^\| (\w+) \| (float|int) (\S+) to (\S+)", re.MULTILINE)
Messages = Sequence[Mapping[str, Any]]


def expert(messages: Messages) -> Completion:
    """Looks at history, failures, sampler, importances, champion and the best trial, writes a lesson, proposes."""
    answers = _answers(messages)
    if "history" not in answers:
        return _calls(
            ("history", {"order": "best", "limit": 5}),
            ("history", {"order": "latest", "limit": 50}),
            ("failures", {}),
            ("sampler", {}),
            ("importances", {}),
            ("champion", {}),
        )
    best = answers["history"][0].get("candidates", [])
    if "trial" not in answers and best:
        return _calls(("trial", {"id": best[0]["id"]}), ("files", {}))
    refused = sum("error" in a for a in answers.get("propose", []))
    ideas = list(_ideas(answers, str(messages[1]["content"])))
    changes, why = ideas[min(refused, len(ideas) - 1)] if ideas else ({}, "nothing is left to try")
    calls: list[tuple[str, dict[str, Any]]] = [("propose", {"changes": changes, "rationale": why})]
    if "write_lesson" not in answers and best:
        top = best[0]
        text = f"Best so far {top['changes']}: {top['score']}, {top.get('against_incumbent') or 'the reference'}. Next: {why}."
        calls.insert(0, ("write_lesson", {"text": text[:300]}))
    return _calls(*calls)


# name, form, code and rationale of what a person would look at on each of the shipped subjects.
_EVALUATIONS = {
    "arithmetic": (
        "carry_chains",
        "generator",
        """import random


def generate(seed: int, n: int) -> list[tuple[str, str]]:
    \"\"\"Additions in which every column carries: 473+758= -> 1321, least significant digit first.\"\"\"
    draw, found = random.Random(seed), []
    for _ in range(n):
        a, b = "", ""
        for column in range(3):
            x = draw.randint(1, 9)
            a += str(x)
            b += str(draw.randint(10 - x if column == 2 else 9 - x, 9))
        found.append((f"{a}+{b}=", f"{int(a) + int(b):04d}"[::-1]))
    return found
""",
        "additions whose carry runs through all three columns: the score's mean over families hides them",
    ),
    "quadratic": (
        "not_easy",
        "slice",
        """def select(prompt: str) -> bool:
    \"\"\"Thresholds above a tenth: the default solves next to none of them.\"\"\"
    return float(prompt) > 0.1
""",
        "the easiest tenth is solved by nearly everything, so that differences between good candidates show above it",
    ),
}


def author(messages: Messages) -> Completion:
    """Proposes one evaluation where that is offered and nothing was proposed yet, beside what `expert` does."""
    answers, prompt = _answers(messages), str(messages[1]["content"])
    offered = "`propose_evaluation`" in str(messages[0]["content"])
    if (
        not offered
        or "propose_evaluation" in answers
        or "# Evaluations that were proposed" in prompt
        or "history" in answers
    ):
        return expert(messages)
    name, form, code, why = _EVALUATIONS["arithmetic" if "arithmetic" in prompt else "quadratic"]
    first = [(c.name, json.loads(c.arguments)) for c in expert(messages).tool_calls]
    return _calls(("propose_evaluation", {"name": name, "form": form, "code": code, "rationale": why}), *first)


def _ideas(answers: Mapping[str, list[Any]], prompt: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Moves on top of the best candidate, that nobody has made; at last what the sampler would do."""
    best, latest = (a.get("candidates", []) for a in answers["history"][:2])
    incumbent = (answers.get("sampler") or [{}])[0].get("incumbent") or {}
    top = {n: v for n, v in (best[0]["changes"] if best else {}).items() if v is not None}
    base = incumbent | top
    for name, value, why in _MOVES:
        if f"| {name} |" not in prompt or base.get(name) == value:
            continue
        if name not in base:
            continue  # of a recipe that is not there
        if any(_same(row["changes"].get(name), value) for row in latest):
            continue  # tried, and it is not part of the best
        yield top | {name: value}, why
    suggested = (answers.get("sampler") or [{}])[0].get("next") or {}
    yield {n: v for n, v in suggested.items() if v is not None}, "nothing of my own is left: the sampler's next step"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool | str) or isinstance(b, bool | str) or a is None:
        return bool(a == b)
    return abs(float(a) - float(b)) <= 0.05 * abs(float(b))


# Edits that `editor` knows: why, and (lines that it looks for in the file, what it writes in their place).
_EDITS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "a checker is at hand, so train on demonstrations that are right",
        (
            ("from train.tasks import demonstrations, draw_many, rewards", "from train.tasks import demonstrations, draw_many, is_right, rewards"),
            (
                "    shown = demonstrations(rng.getrandbits(32))",
                "    shown = [d for d in demonstrations(rng.getrandbits(32)) if is_right(d.problem, d.answer)]",
            ),
        ),
    ),
    ("half of the way to the known optimum", (("        1 + (y - 0.5),", "        1 + (y - 0.5) * 0.5,"),)),
)  # fmt: skip
_PAGE_STARTS = (1, 50, 100, 150, 200, 250)  # a tool's answer holds some 60 lines


def editor(messages: Messages) -> Completion:
    """Reads the file, proposes one of its own edits, else one of the menu that nobody has tried, else parameters."""
    answers = _answers(messages)
    if "files" not in answers:
        return _calls(("history", {"order": "latest", "limit": 50}), ("files", {}))
    listed = answers["files"][0].get("files", [])
    if len(answers["files"]) == 1 and listed:
        return _calls(*(("files", {"id": 1, "line": line}) for line in _PAGE_STARTS))
    lines = {line for page in answers["files"][1:] for line in page.get("text", ())}
    past = json.dumps(answers["history"][0])
    for why, pairs in _EDITS:
        if all(old in lines for old, _ in pairs):
            # From memory first, as models do; the error that comes back has the lines as they are.
            misquoted = [(old.strip() + "  # as I remember it", new) for old, new in pairs]
            tried = "propose" in answers
            blocks = [
                {"file": listed[0]["name"], "search": a, "replace": b} for a, b in (pairs if tried else misquoted)
            ]
            return _calls(("propose", {"changes": {}, "rationale": why, "edit": {"blocks": blocks}}))
    menu = re.findall(r'^- ("(?:[^"\\]|\\.)*"): ', str(messages[0]["content"]), re.MULTILINE)
    for name in [json.loads(quoted) for quoted in menu][len(re.findall("from the menu", past)) :]:
        return _calls(("propose", {"changes": {}, "rationale": f"{name}, from the menu", "edit": {"ready": name}}))
    return expert(messages)


def fool(messages: Messages) -> Completion:
    """By turns: prose, values beyond the range, a tool that does not exist, and everything at one of its bounds."""
    prompt = str(messages[1]["content"])
    found = re.search(r"(\d+) candidates so far", prompt)
    turn = int(found[1]) if found else 0
    rows = _ROW.findall(prompt)
    tries = sum(m["role"] == "assistant" for m in messages)
    if tries == 0 and turn % 4 == 0:
        return Completion("Trust me, the defaults are far too timid!", "fool")
    if tries == 0 and turn % 4 == 1:
        return _calls(("propose", {"changes": {"speed": 11, rows[0][0]: 1e9}, "rationale": "more is more"}))
    if tries == 0 and turn % 4 == 2:
        return _calls(("delete_everything", {}), ("history", {"order": "worst"}))
    which = 2 if turn % 2 else 3  # low or high
    held = {m[0]: m for m in re.findall(r"^\| (\w+) \|.*\| (\S+) \| (\S+) \| (\S+) \|$", prompt, re.MULTILINE)}
    active = [row for row in rows if row[0] in held and held[row[0]][2] != "–"]
    chosen = active if turn % 3 else [active[turn % len(active)]]
    changes = {row[0]: (int if row[1] == "int" else float)(float(row[which])) for row in chosen}
    return _calls(("propose", {"changes": changes, "rationale": "all the way"}))


def _answers(messages: Messages) -> dict[str, list[Any]]:
    """tool -> its answers in this turn, in order."""
    names: dict[str, str] = {}
    found: dict[str, list[Any]] = {}
    for m in messages:
        for call in m.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if m["role"] == "tool":
            found.setdefault(names[m["tool_call_id"]], []).append(json.loads(m["content"]))
    return found


def _calls(*calls: tuple[str, dict[str, Any]]) -> Completion:
    """One answer that calls tools; ids only have to be unique within a turn, and answers are read by name."""
    made = tuple(ToolCall(f"{n}-{name}", name, json.dumps(a)) for n, (name, a) in enumerate(calls))
    return Completion("", "scripted", tool_calls=made)
