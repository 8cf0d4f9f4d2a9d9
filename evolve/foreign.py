"""What somebody else's scorer says, as an evaluation: its `evaluation.json`, or what it prints.

{"accuracy": 0.91, "n": 2000}                     a JSON object, in the file or as the last such line of the output
{"accuracy": 0.91, "stderr": 0.006, "f1": 0.88}   with its own standard error and further metrics
{"accuracy": 0.91, "per_problem": [1, 0, ...]}    the error from the results of each problem
test accuracy: 0.91                               by `subject.log_metrics`: {accuracy: "test accuracy: ([0-9.]+)"}
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from evolve.types import Subject

_LIMIT = 50_000_000  # bytes of the file


def numbers(path: Path, output: bytes, subject: Subject) -> dict[str, Any]:
    """The scorer's own object. Raises `ValueError` with why there is none."""
    if path.exists() or path.is_symlink():
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LIMIT:
            raise ValueError("evaluation.json is a link, no file or too large; write a small regular file.")
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"evaluation.json is not JSON ({str(error)[:100]}); write one object.") from error
        if not isinstance(found, dict):
            raise ValueError('evaluation.json holds no object; write one such as {"accuracy": 0.9}.')
        return found
    text = output.decode(errors="replace")
    if subject.log_metrics:
        return _by_patterns(text, subject)
    for line in reversed(text.splitlines()):
        if line.strip().startswith("{"):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                return found
    raise ValueError(
        f'it wrote no evaluation.json and printed no line such as {{"{subject.objective.metric}": 0.9}}; print one, or set'
        " subject.log_metrics."
    )


def _by_patterns(text: str, subject: Subject) -> dict[str, Any]:
    """The last match of each pattern."""
    found: dict[str, Any] = {}
    for metric, pattern in subject.log_metrics.items():
        matches = list(re.finditer(pattern, text))
        if not matches:
            raise ValueError(f"nothing that it printed matches subject.log_metrics.{metric}; correct the pattern.")
        try:
            found[metric] = float(matches[-1][1])
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{matches[-1][1]!r} is no number (subject.log_metrics.{metric}); correct the pattern."
            ) from error
    return found


def evaluation(said: dict[str, Any], subject: Subject) -> dict[str, Any]:
    """In the form of our own scorers. Raises `ValueError` where the metric is missing or no number.

    The standard error, where it is not said: of the results of each problem; of a share of `n` problems, by the binomial
    distribution; else 0, which says that nothing is known of it (`evolve check` warns).
    """
    metric = subject.objective.metric
    mean, results = said.get(metric), said.get("per_problem")
    if mean is None and isinstance(results, list) and results:
        mean = math.fsum(map(_number, results)) / len(results)
    if mean is None:
        raise ValueError(f"it says {', '.join(sorted(map(str, said)))[:200] or 'nothing'}; call it {metric!r}.")
    mean = _number(mean)
    n = said.get("n", len(results) if isinstance(results, list) else 1)
    n = n if isinstance(n, int) and not isinstance(n, bool) else 1
    stderr = said.get("stderr")
    if stderr is None and isinstance(results, list) and len(results) > 1:
        values = [_number(result) for result in results]
        middle = math.fsum(values) / len(values)
        stderr = math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (len(values) - 1) / len(values))
    if stderr is None:
        stderr = math.sqrt(mean * (1 - mean) / n) if n > 1 and 0 <= mean <= 1 else 0.0
    metrics = {name: _number(said[name]) for name in subject.metrics if name in said}
    groups = said.get("groups", {})
    groups = (
        {str(k): v if isinstance(v, dict) else {"mean": v} for k, v in groups.items()}
        if isinstance(groups, dict)
        else {}
    )
    return {"metric": metric, "mean": mean, "stderr": _number(stderr), "n": n, "groups": groups, "metrics": metrics}


def _number(value: Any) -> float:
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{str(value)[:100]!r} is no finite number.")
