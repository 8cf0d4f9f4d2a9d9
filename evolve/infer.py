"""A draft of a space from a project's own configuration: an argparse script, a dataclass or a YAML. Nothing of it is run.

What is a hyperparameter, and how far it may reach, is guessed from names and defaults, for a person to correct: a learning
rate over a factor of ten either way on a log scale, a dropout up to 0.5, a switch both ways. What says how long to train
(epochs, steps), where things are or how to run them is left as the project has it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolve.errors import BadInput

Scalar = bool | int | float | str

# (pattern of the name, role, lowest, highest as factors of the default or as bounds, log); the first that fits.
_LOG, _BOUNDS = "log", "bounds"
_ROLES: tuple[tuple[str, str, str, float, float], ...] = (
    (r"(^|[_.])(lr|learning_rate|eta)$", "learning_rate", _LOG, 10, 10),
    (r"weight_decay|(^|[_.])wd$", "weight_decay", _BOUNDS, 0.0, 0.3),
    (r"dropout", "dropout", _BOUNDS, 0.0, 0.5),
    (r"warmup_(ratio|frac)|(^|[_.])warmup$", "warmup", _BOUNDS, 0.0, 0.3),
    (r"label_smoothing", "label_smoothing", _BOUNDS, 0.0, 0.2),
    (r"batch_size|(^|[_.])batch$", "batch_size", _LOG, 4, 4),
    (r"(grad|gradient)_?clip|max_grad_norm", "grad_clip", _LOG, 10, 10),
    (r"(^|[_.])beta$|dpo_beta", "beta", _LOG, 5, 5),
    (r"(^|[_.])(kl|kl_coef|kl_weight)$", "kl", _LOG, 10, 10),
    (r"temperature", "temperature", _LOG, 2, 2),
    (r"momentum|(^|[_.])beta[12]$|ema", "", _BOUNDS, 0.0, 0.999),
)
# How long, how large, where, with what: no hyperparameter, or one that would change what a training costs.
_NOT = re.compile(
    r"seed|epoch|steps|iters|iterations|budget|max_(len|length|tokens)|seq_?len|context|path|dir|file|out(put)?$|name|device"
    r"|gpu|cuda|workers|threads|log|save|eval|checkpoint|resume|wandb|project|port|host|verbose|debug|compile|dtype|num_classes"
    r"|vocab|data|model|version|interval|every|freq"
)


@dataclass
class Draft:
    """What was found: parameters of the space, and values that are left as they are."""

    space: dict[str, dict[str, Any]] = field(default_factory=dict)
    left: dict[str, Scalar] = field(default_factory=dict)
    seed: str | None = None  # the name of a setting that looks like the seed


@dataclass(frozen=True)
class Setting:
    name: str
    default: Scalar
    choices: tuple[Scalar, ...] = ()


def draft(path: Path) -> Draft:
    """Raises `BadInput` where the file cannot be read or says nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"--infer must name a script or a YAML file, but {path} cannot be read: {error}; correct it."
        ) from error
    found = list(_of_yaml(text, path) if path.suffix in (".yaml", ".yml") else _of_python(text, path))
    if not found:
        raise BadInput(
            f"--infer needs arguments with defaults (argparse), a dataclass or a YAML, but {path} has none; write the space by"
            " hand."
        )
    result = Draft()
    for setting in found:
        name = setting.name.lower().replace("-", "_")
        if result.seed is None and re.search(r"(^|[_.])(random_)?seed$", name):
            result.seed = setting.name
        elif (spec := _spec(name, setting)) is not None:
            result.space[setting.name] = spec
        elif not re.search(r"path|dir|file|out(put)?$", name):
            result.left[setting.name] = setting.default
    return result


def _spec(name: str, setting: Setting) -> dict[str, Any] | None:
    default = setting.default
    for pattern, role, how, low, high in _ROLES:
        if re.search(pattern, name) and isinstance(default, int | float) and not isinstance(default, bool):
            return _number(default, role, how, low, high)
    if _NOT.search(name):
        return None
    if setting.choices and len(setting.choices) > 1:
        return {"choices": list(setting.choices), "default": default}
    if isinstance(default, bool):
        return {"choices": [True, False], "default": default}
    if isinstance(default, float) and default > 0:
        return _number(default, "", _LOG, 4, 4)
    return None


def _number(default: float, role: str, how: str, low: float, high: float) -> dict[str, Any]:
    spec: dict[str, Any]
    if how == _LOG and default > 0:
        if isinstance(default, int):
            spec = {"low": max(1, int(default / low)), "high": int(default * high), "log": True, "default": default}
        else:
            spec = {
                "low": float(f"{default / low:.3g}"),
                "high": float(f"{default * high:.3g}"),
                "log": True,
                "default": default,
            }
    else:
        bounds = (0.0, 1.0) if how == _LOG else (low, high)
        spec = {"low": bounds[0], "high": max(bounds[1], float(default)), "default": float(default)}
    return spec | ({"role": role} if role else {})


# ---------------------------------------------------------------- reading


def _of_yaml(text: str, path: Path) -> Iterator[Setting]:
    import yaml

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{path} must be YAML, but {' '.join(str(error).split())[:200]}; correct it.") from error
    yield from _leaves(tree, "")


def _leaves(tree: Any, prefix: str) -> Iterator[Setting]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key not in ("defaults", "hydra"):  # Hydra's own
                yield from _leaves(value, f"{prefix}{key}.")
    elif isinstance(tree, bool | int | float):
        yield Setting(prefix[:-1], tree)
    elif isinstance(tree, str) and "${" not in tree:
        number = re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", tree)  # 1e-3 is a text to YAML 1.1
        yield Setting(prefix[:-1], float(tree) if number else tree)


def _of_python(text: str, path: Path) -> Iterator[Setting]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise BadInput(f"{path} must be Python, but {error}; correct it.") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield from _argument(node)
        elif isinstance(node, ast.ClassDef) and any(_is_dataclass(d) for d in node.decorator_list):
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
                    value = _literal(line.value)
                    if value is not None:
                        yield Setting(line.target.id, value)


def _argument(call: ast.Call) -> Iterator[Setting]:
    flags = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    name = next((flag[2:] for flag in flags if flag.startswith("--")), None)
    words = {word.arg: word.value for word in call.keywords}
    if name is None or "default" not in words:
        return
    default = _literal(words["default"])
    kind = words.get("type")
    if isinstance(kind, ast.Name) and kind.id == "float" and isinstance(default, int) and not isinstance(default, bool):
        default = float(default)
    choices = words.get("choices")
    values = [_literal(e) for e in choices.elts] if isinstance(choices, ast.List | ast.Tuple) else []
    action = words.get("action")
    if default is not None and not (isinstance(action, ast.Constant) and str(action.value).startswith("store")):
        yield Setting(name, default, tuple(v for v in values if v is not None))


def _literal(node: ast.expr) -> Scalar | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if isinstance(value, bool | int | float | str) else None


def _is_dataclass(node: ast.expr) -> bool:
    target = node.func if isinstance(node, ast.Call) else node
    return (target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")) == "dataclass"
