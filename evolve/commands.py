"""A subject's commands: what the words of their templates become for one training or score. Pure.

    python train.py {params:--key value} --seed {seed} --out {out}
    python train.py {params:key=value} seed={seed} hydra.run.dir={out}
    python train.py --config {config}
    python score.py --model {weights} --data {data}/test.csv

A word is one argument, whatever a value holds: no shell reads it. `{params:PATTERN}` becomes one or more arguments for each
parameter, in the order of the space; a flag of a switch is `{params:--key value}` with true and false as its values. Of one
parameter alone: `{param:NAME}`. `{asset:NAME}` is the path of one of the subject's assets. What no template names is in the
environment (`ENVIRONMENT`) and in the JSON of `{config}`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from evolve.errors import BadInput, did_you_mean
from evolve.types import Params, Value

TRAIN = ("python", "config", "out", "seed", "fidelity", "data")
SCORE = ("python", "config", "out", "weights", "split", "data", "seed")
# What a command finds in its environment, beside `EVOLVE_PROGRESS_FD`, where it may write its progress.
ENVIRONMENT = {"config": "EVOLVE_CONFIG", "out": "EVOLVE_OUT", "seed": "EVOLVE_SEED", "data": "EVOLVE_DATA",
               "weights": "EVOLVE_WEIGHTS", "split": "EVOLVE_SPLIT"}  # fmt: skip
PARAMS_FORMS = ("--key value", "--key=value", "key=value")

_PLACE = re.compile(r"\{([a-z]+)(?::([^{}]*))?\}")


def words_of(command: str | Sequence[str], rule: str) -> tuple[str, ...]:
    """A command as its words; a text is cut as a shell would, a place in braces stays whole. Raises `BadInput`."""
    if not isinstance(command, str):
        return tuple(command)
    guarded = re.sub(r"\{[^{}]*\}", lambda place: place[0].replace(" ", "\0"), command)
    try:
        words = shlex.split(guarded)
    except ValueError as error:
        raise BadInput(f"{rule} must be a command, but {command!r} has {str(error).lower()}; correct it.") from error
    return tuple(word.replace("\0", " ") for word in words)


def check(
    command: Sequence[str], known: Iterable[str], names: Iterable[str], rule: str, assets: Iterable[str] = ()
) -> None:
    """Raises `BadInput` where a place is none that a command of this kind has; `names` are those of the parameters."""
    known, names, assets = list(known), list(names), list(assets)
    for word in command:
        for place in _PLACE.finditer(word):
            kind, rest = place[1], place[2]
            if kind == "params" and rest is not None:
                if word != place[0]:
                    raise BadInput(
                        f"{rule} needs {place[0]} as a word of its own, but got {word!r}; put blanks around it."
                    )
                if "key" not in rest or "value" not in rest:
                    raise BadInput(f"{rule} needs `key` and `value` in {place[0]}; such as {{params:--key value}}.")
            elif kind == "param" and rest is not None:
                if rest not in names:
                    raise BadInput(
                        f"{rule} names the parameter {rest!r}, which the space has not{did_you_mean(rest, names)}"
                    )
            elif kind == "asset" and rest is not None:
                if rest not in assets:
                    raise BadInput(
                        f"{rule} names the asset {rest!r}, which subject.assets has not{did_you_mean(rest, assets)}"
                    )
            elif kind not in known or rest is not None:
                places = [*known, "params:--key value", "param:NAME"] if "fidelity" in known else [*known]
                places.append("asset:NAME")
                raise BadInput(
                    f"{rule} may hold {', '.join('{' + p + '}' for p in places)}, but has {place[0]}"
                    f"{did_you_mean(kind, known)}"
                )


def expand(command: Sequence[str], values: Mapping[str, object], params: Params) -> list[str]:
    """The arguments of one process. `values` are those of the places, `asset:NAME` among them; one that is none stays.

    >>> expand(["t.py", "{params:--key value}", "--out", "{out}/m"], {"out": "/o"}, {"lr": 0.001, "fast": True})
    ['t.py', '--lr', '0.001', '--fast', 'true', '--out', '/o/m']
    >>> expand(["t.py", "{params:optim.key=value}", "n={param:n}"], {}, {"n": 3})
    ['t.py', 'optim.n=3', 'n=3']
    """
    found: list[str] = []
    for word in command:
        form = re.fullmatch(r"\{params:([^{}]*)\}", word)
        if form is None:
            found.append(_PLACE.sub(lambda place: _filled(place, values, params), word))
            continue
        for name, value in params.items():
            found += [_named(part, name, exact(value)) for part in form[1].split(" ") if part]
    return found


def _named(pattern: str, name: str, value: str) -> str:
    return re.sub("key|value", lambda which: name if which[0] == "key" else value, pattern)


def exact(value: Value) -> str:
    """A value as an argument: floats with all their digits, switches in lower case as YAML and argparse helpers read them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _filled(place: re.Match[str], values: Mapping[str, object], params: Params) -> str:
    kind, rest = place[1], place[2]
    if kind == "param" and rest in params:
        return exact(params[rest])
    return str(values.get(kind if rest is None else f"{kind}:{rest}", place[0]))
