"""A project's own YAML as a subject: what it may leave out, and the short forms of what it says. Part of the configuration.

    name: digits                      # default: the folder's name
    root: .                           # a folder or git repository, relative to this file
    train_cmd: python train.py {params:--key value} --seed {seed} --out {out}
    score_cmd: python score.py --model {weights}/model.pt --data {data}
    weights: [model.pt]               # what of the output folder is kept; default: all of it
    objective: {accuracy: maximize}
    data: {train: data/train, search: data/dev, vault: data/test}
    editable: [train.py]
    limits: {train_seconds: 600}
    assets: {model: /models/small}    # {asset:NAME}; they and data are among the sources, or absolute paths, or hf://ORG/NAME
    base: {epochs: 3}                 # passed to every training beside the parameters
    space:
      lr: {low: 1e-5, high: 1e-2, log: true, default: 1e-3, role: learning_rate}

`subject=path/to/it.yaml` uses it, and its settings can be overridden like any other's: `subject.limits.train_seconds=60`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolve import commands
from evolve.errors import BadInput

LIMITS = {"train_seconds": 3600.0, "score_seconds": 600.0}
ESTIMATE = {"train_seconds": 60.0, "score_seconds": 10.0}  # until something has run


def is_path(subject: str) -> bool:
    """Whether `subject=...` names a file and no subject of ours."""
    return subject.endswith((".yaml", ".yml")) or "/" in subject


def read(path: Path) -> dict[str, Any]:
    """The file's content in the long form that `config.load` takes. Raises `BadInput`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadInput(f"subject must name a YAML file, but there is no {path}; `evolve init` writes one.") from error
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} must be a subject's YAML, but {' '.join(str(error).split())[:300]}; correct it."
        ) from error
    return parse(text, path)


def parse(text: str, path: Path) -> dict[str, Any]:
    """The same of a text, which is or will be the content of `path`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        raw = OmegaConf.to_container(OmegaConf.create(text))  # 1e-5 is a number there
    except (ValueError, OmegaConfBaseException, _yaml_error()) as error:
        raise BadInput(
            f"{path} must be a subject's YAML, but {' '.join(str(error).split())[:300]}; correct it."
        ) from error
    if not isinstance(raw, dict) or not raw:
        raise BadInput(f"{path} must hold a subject's settings, but holds {type(raw).__name__}; see `evolve init`.")
    return long_form({str(key): value for key, value in raw.items()}, path)


def _yaml_error() -> type[Exception]:
    import yaml

    return yaml.YAMLError


def long_form(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`raw`, the content of `path`, with its short forms written out and what it leaves out filled in."""
    found = dict(raw)
    for name in ("train_cmd", "score_cmd", "space", "objective"):
        if not found.get(name):
            raise BadInput(f"{path} must say {name}, but does not; add it, or let `evolve init` write the file.")
    root = (path.parent / str(found.get("root", "."))).resolve()
    if not root.is_dir():
        raise BadInput(f"root must be a folder, but {root} is none; it is relative to {path}.")
    found["root"] = str(root)
    found.setdefault("name", re.sub(r"[^a-z0-9_-]+", "-", root.name.lower()).strip("-") or "project")
    found.setdefault("description", f"the project in {root.name}")
    found.setdefault("sources", ["."])
    found.setdefault("editable", [])
    found.setdefault("assets", {})
    for name in ("train_cmd", "score_cmd"):
        first, *rest = commands.words_of(found[name], f"subject.{name}") or ("",)
        # the one that evolve runs in: a command has no PATH of the user's
        found[name] = ["{python}" if first in ("python", "python3") else first, *rest]
    found["weights"] = _weights(found.get("weights", ["*"]))
    found["objective"] = _objectives(found["objective"])
    found["limits"] = LIMITS | dict(found.get("limits") or {})
    found["estimate"] = ESTIMATE | dict(found.get("estimate") or {})
    if not isinstance(found["space"], Mapping):
        raise BadInput("subject.space must hold parameters by name; see `evolve init`.")
    base = found.pop("base", None) or {}
    found["space"] = {name: _parameter(str(name), spec, base) for name, spec in found["space"].items()}
    found["fixed"] = {name: value for name, value in base.items() if name not in found["space"]}
    found.setdefault(
        "fresh_problems", False
    )  # the files are what they are; true: its scorer draws them by key and round
    return found


def _weights(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        return {"files": [given]}
    return {"files": list(given)} if isinstance(given, list) else dict(given)


def _objectives(given: Any) -> list[Any]:
    """`{accuracy: maximize}` as a list of objectives; a list of such or of long ones as it is."""
    if isinstance(given, list):
        return [one for each in given for one in _objectives(each)]
    if isinstance(given, Mapping) and "metric" not in given:
        return [{"metric": metric, "direction": direction} for metric, direction in given.items()]
    return [given]


def _parameter(name: str, spec: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    """With its type, by its values, and its default, by `base`."""
    if not isinstance(spec, Mapping):
        raise BadInput(
            f"subject.space.{name} must say its range, such as {{low: 0, high: 1, default: 0.5}}, but got {spec!r}."
        )
    found = dict(spec)
    if name in base:
        found["default"] = base[name]
    if "default" not in found:
        raise BadInput(
            f"subject.space.{name} must say its default, the value that the project has now; add `default: ...`."
        )
    if "type" not in found:
        numbers = [found.get(key) for key in ("low", "high", "default", "step") if found.get(key) is not None]
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        found["type"] = "categorical" if "choices" in found else "int" if whole else "float"
    return found
