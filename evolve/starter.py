"""`evolve init`: a subject's YAML for a project that is there, from flags or from a few questions. Part of the CLI."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolve import commands, infer, projects
from evolve.errors import BadInput

FILE = "evolve.yaml"


@dataclass
class Answers:
    """What a person says; None is asked, where somebody can answer."""

    train_cmd: str | None = None
    score_cmd: str | None = None
    metric: str | None = None
    direction: str | None = None
    weights: list[str] = field(default_factory=list)
    editable: list[str] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    infer: str | None = None
    seconds: float | None = None


QUESTIONS = (
    ("train_cmd", "How is it trained? Such as: python train.py {params:--key value} --seed {seed} --out {out}"),
    ("score_cmd", "How is the result scored? Such as: python score.py --model {weights}/model.pt --data {data}"),
    ("metric", "What does the scorer call its number?"),
    ("direction", "Is more of it better (maximize) or less (minimize)?"),
    ("infer", "Which script or YAML has the hyperparameters and their defaults? (empty: an example to fill in)"),
)


def ask(answers: Answers, answer: Callable[[str], str]) -> None:
    """Fills in what is missing."""
    for name, question in QUESTIONS:
        if getattr(answers, name) is None:
            setattr(answers, name, answer(f"{question}\n> ").strip() or None)


def write(folder: Path, answers: Answers, *, force: bool = False) -> tuple[Path, list[str]]:
    """Writes `folder/evolve.yaml`; returns it and lines for the person. Raises `BadInput`; nothing is overwritten."""
    target = folder / FILE
    if target.exists() and not force:
        raise BadInput(f"{target} is there already; edit it, or overwrite it with --force.")
    if missing := [name for name in ("train_cmd", "score_cmd", "metric") if not getattr(answers, name)]:
        flags = ", ".join("--" + name.removesuffix("_cmd") for name in missing)
        raise BadInput(f"`evolve init` needs {flags}; give them, or answer its questions at a terminal.")
    direction = answers.direction or "maximize"
    if direction not in ("maximize", "minimize"):
        raise BadInput(f"--direction must be maximize or minimize, but got {direction!r}.")
    notes = []
    found = infer.draft(folder / answers.infer) if answers.infer else infer.Draft()
    if answers.infer:
        notes.append(f"space      {len(found.space)} parameters from {answers.infer}: look at their ranges")
    else:
        notes.append("space      one example: replace it by your own parameters")
    if found.seed and "{seed}" not in str(answers.train_cmd):
        notes.append(f"seed       {answers.infer} has {found.seed!r}: pass it in train_cmd as {{seed}}")
    text = _text(answers, direction, found)
    projects.parse(text, target)  # what we write must be what we read
    target.write_text(text, encoding="utf-8")
    return target, notes


def _text(answers: Answers, direction: str, found: infer.Draft) -> str:
    lines = [
        "# A subject of evolve: `evolve check evolve.yaml`, then `evolve run subject=evolve.yaml`.",
        f"train_cmd: {_quoted(str(answers.train_cmd))}",
        f"score_cmd: {_quoted(str(answers.score_cmd))}",
        f"objective: {{{answers.metric}: {direction}}}",
        f"weights: [{', '.join(_quoted(w) for w in answers.weights or ['*'])}]   # what of the output folder is kept",
    ]
    if answers.data:
        lines.append(f"data: {{{', '.join(f'{split}: {_quoted(path)}' for split, path in answers.data.items())}}}")
    else:
        lines.append("# data: {train: data/train, search: data/dev, vault: data/test}   # what {data} stands for")
    lines.append(f"editable: [{', '.join(_quoted(name) for name in answers.editable)}]   # files that may be edited")
    lines.append(f"limits: {{train_seconds: {answers.seconds or projects.LIMITS['train_seconds']:g}}}")
    if found.left:
        lines += ["# base:   # passed to every training as they are; these are the script's own defaults"]
        lines += [f"#   {name}: {_scalar(value)}" for name, value in found.left.items()]
    lines.append("space:")
    space = found.space or {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True, "default": 1e-3, "role": "learning_rate"}
    }
    for name, spec in space.items():
        lines.append(f"  {name}: {{{', '.join(f'{key}: {_scalar(value)}' for key, value in spec.items())}}}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_scalar(v) for v in value)}]"
    if isinstance(value, bool | int | float):
        return commands.exact(value)
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """As a YAML scalar: plain where that reads back as the same text."""
    import yaml

    plain = text and not any(c in text for c in "{}[],:#&*!|>'\"%@`") and yaml.safe_load(text) == text
    return text if plain else "'" + text.replace("'", "''") + "'"


def at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
