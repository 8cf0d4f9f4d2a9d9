"""Runs a proposed evaluation: `python -I -S -B evaluate.py` in a jail, on the standard library alone.

`/code/proposal.py` is the code, `/request.json` what it is given: `form`, and `items` (prompts of a slice; prompt, answer
and expected answer of a metric) or `seed` and `n` (a generator). Answers with `/scratch/out.json`: `{"values": [...]}`, or
`{"fault": KIND, "exception": NAME, "line": N}`.

The code shares this process, so that it can write any answer that it likes: the controller takes values in their range
and faults of known kinds alone. A fault holds no text, since the code could put problems into a message that its author reads.
"""

from __future__ import annotations

import builtins
import json
import math
import sys
from collections.abc import Callable
from typing import Any

CODE, REQUEST, OUT = "/code/proposal.py", "/request.json", "/scratch/out.json"
FUNCTIONS = {"slice": "select", "metric": "measure", "generator": "generate"}
MOST_PROMPT_CHARS, MOST_ANSWER_CHARS = 2000, 2000


class Fault(Exception):
    """The code broke its contract in the way that the text names."""


def main() -> None:
    with open(REQUEST, encoding="utf-8") as file:
        request = json.load(file)
    try:
        answer: dict[str, Any] = {"values": run(request)}
    except Fault as fault:
        answer = {"fault": str(fault)}
    except BaseException as error:  # noqa: BLE001  whatever the code raises, SystemExit too
        answer = {"fault": "raised", "exception": builtin_name(error), "line": line_of(error)}
    with open(OUT, "w", encoding="utf-8") as file:
        json.dump(answer, file, allow_nan=False)


def run(request: dict[str, Any]) -> list[Any]:
    with open(CODE, encoding="utf-8") as file:
        source = file.read()
    space: dict[str, Any] = {"__name__": "proposal", "__file__": CODE}
    exec(compile(source, CODE, "exec", dont_inherit=True), space)
    function = space.get(FUNCTIONS[request["form"]])
    if not callable(function):
        raise Fault("no function")
    if request["form"] == "generator":
        return generated(function, request["seed"], request["n"])
    if request["form"] == "slice":
        return [selected(function(prompt)) for prompt in request["items"]]
    return [measured(function(*item)) for item in request["items"]]


def selected(value: Any) -> int:
    if not isinstance(value, bool):
        raise Fault("not a bool")
    return int(value)


def measured(value: Any) -> float:
    if not isinstance(value, int | float):
        raise Fault("not a number")
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise Fault("out of range")
    return float(value)


def generated(function: Callable[[int, int], Any], seed: int, n: int) -> list[list[str]]:
    pairs = function(seed, n)
    if not isinstance(pairs, list) or not 1 <= len(pairs) <= n:
        raise Fault("not n pairs")
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise Fault("not pairs of text")
        if len(pair[0]) > MOST_PROMPT_CHARS or len(pair[1]) > MOST_ANSWER_CHARS:
            raise Fault("too long")
    return [list(pair) for pair in pairs]


def builtin_name(error: BaseException) -> str:
    """Of Python's own exceptions; the name of any other is text of its author's."""
    kind = type(error)
    return kind.__name__ if getattr(builtins, kind.__name__, None) is kind else "Exception"


def line_of(error: BaseException) -> int:
    """The last line of the code itself that the error went through; 0 where there is none."""
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == CODE:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


if __name__ == "__main__":
    main()
    sys.exit(0)
