"""What a person sees of agent and memory: the prompt as it would be sent, the lessons as Markdown, and their edits.

Part of the CLI. An edit becomes commands to the one writer; nothing here writes into a campaign.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from evolve import memory
from evolve.agent_text import lines
from evolve.errors import BadInput
from evolve.policy import MOST_LESSON_CHARS
from evolve.review import new_command
from evolve.state import State
from evolve.tracking_page import plain
from evolve.types import Command, LessonWritten, digest

if TYPE_CHECKING:
    from evolve.agent import AgentProposer

_LINE = re.compile(r"- (?:\[(\d+)\] )?(.*)")
_HEADINGS = ("Of earlier campaigns", "Of people", "Of this campaign")


# ---------------------------------------------------------------- the prompt


def view_now(state: State) -> memory.View:
    return memory.view(state, state.campaign.seed)


def prompt_text(agent: AgentProposer, state: State, *, as_json: bool) -> str:
    """The first request of a turn that began now: all messages, and what else is sent with them."""
    from evolve.agent import tokens

    view = view_now(state)
    messages = agent.messages(view)
    tools = agent.schemas(view) if agent.calls_tools else []
    schema = None if agent.calls_tools else agent.answer_schema(view)
    if as_json:
        return json.dumps({"messages": messages, "tools": tools, "schema": schema}, ensure_ascii=False)
    extra = tools or [schema or {}]
    kind = "a loop of tool calls" if agent.calls_tools else "one prompt"
    head = f"# {kind}, at most {tokens(messages, extra)} tokens, prompts {agent.prompt_hash[:8]}"
    parts = [head, *(f"----- {m['role']}\n{m['content']}" for m in messages)]
    for what in extra:
        parts.append(f"----- {'tool' if tools else 'JSON schema of the answer'}\n{json.dumps(what)}")
    if tools:
        names = ", ".join(agent.tools(view).names)
        parts.append(f"----- sent when it is asked for: the answers of {names} (`evolve prompt --tool NAME`)")
    return "\n".join(parts)


def tool_text(agent: AgentProposer, state: State, name: str, arguments: str) -> str:
    """What a tool would answer now. Raises `BadInput` for a call that the agent would get an error for."""
    from evolve.agent import MOST_RESULT_CHARS
    from evolve.agent_tools import BadCall

    try:
        return agent.tools(view_now(state)).answer(name, arguments, MOST_RESULT_CHARS)
    except BadCall as error:
        raise BadInput(str(error)) from error


# ---------------------------------------------------------------- the memory


def memory_text(state: State) -> str:
    """The lessons by number under three headings, and what the journal itself counts, which nobody edits."""
    groups: tuple[list[str], ...] = ([], [], [])
    for number, lesson in state.lessons.items():
        groups[_group(lesson)].append(f"- [{number}] {plain(lesson.text, 1000)}{_author(lesson)}")
    told = len(memory.recall(state))
    parts = [
        f"# Memory of {plain(state.campaign.campaign, 100)}",
        f"{len(state.lessons)} lessons; the agent is told the latest of each kind, {told} of them, and the counts below.",
    ]
    for heading, rows in zip(_HEADINGS, groups, strict=True):
        parts += [f"## {heading}", "\n".join(rows) or "- none yet"]
    parts += ["## Counted from the journal (not to be edited)", lines(view_now(state).measured)]
    return "\n\n".join(parts)


def _group(lesson: LessonWritten) -> int:
    return 0 if lesson.origin else 1 if lesson.by == "human" else 2


def _author(lesson: LessonWritten) -> str:
    where = f", campaign {plain(lesson.origin, 80)}" if lesson.origin else ""
    return f" ({plain(lesson.person or lesson.by, 60)}{where})"


def added(text: str) -> list[Command]:
    """Raises `BadInput` where the lesson is empty or too long."""
    line = " ".join(text.split())
    if not 0 < len(line) <= MOST_LESSON_CHARS:
        raise BadInput(
            f"A lesson must have 1 to {MOST_LESSON_CHARS} characters, but got {len(line)}; say the one thing that matters."
        )
    return [new_command("remember", reason=line)]


def removed(state: State, number: int) -> list[Command]:
    """Raises `BadInput` where there is no such lesson."""
    if number not in state.lessons:
        raise BadInput(f"There is no lesson {number}; `evolve memory` shows the numbers.")
    return [new_command("forget", lesson=number, content_hash=digest(state.lessons[number].text))]


def edited(state: State, text: str) -> list[Command]:
    """The commands that make the memory say what `text`, an edited `memory_text`, says.

    A lesson whose line is gone is removed, one whose text was changed is replaced by the new one, a line without a number
    is new. Only the list items above the counts are looked at. Raises `BadInput`.
    """
    kept: dict[int, str] = {}
    new: list[str] = []
    for line in text.partition("## Counted")[0].splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None or match[2] in ("", "none yet"):
            continue
        if match[1] is None:
            new.append(match[2])
        elif int(match[1]) in state.lessons:
            kept[int(match[1])] = match[2]
        else:
            raise BadInput(f"There is no lesson {match[1]}; write a new line without a number.")
    commands: list[Command] = []
    for number, lesson in state.lessons.items():
        shown = f"{plain(lesson.text, 1000)}{_author(lesson)}"
        if kept.get(number) == shown:
            continue
        commands += removed(state, number)
        if number in kept:
            new.append(kept[number].removesuffix(_author(lesson)))
    return [*commands, *(command for line in new for command in added(line))]


def open_editor(text: str) -> str:
    """`text` as a person leaves it in $VISUAL or $EDITOR. Raises `BadInput` without one, or where it fails."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise BadInput("`--edit` needs an editor, but $EDITOR is not set; set it, or use --add and --remove.")
    with tempfile.TemporaryDirectory(prefix="evolve-") as folder:
        path = Path(folder) / "memory.md"
        path.write_text(text + "\n", encoding="utf-8")
        try:
            done = subprocess.run([*shlex.split(editor), str(path)], check=False)
        except OSError as error:
            raise BadInput(f"$EDITOR must start, but {error}; set it to an editor.") from error
        if done.returncode != 0:
            raise BadInput(f"The editor ended with {done.returncode}; nothing was changed.")
        return path.read_text(encoding="utf-8")
