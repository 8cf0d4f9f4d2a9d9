"""Problems with a verifier, and which of them a training may see: procedural ones of reasoning-gym, or JSONL files.

`tasks` of a subject names datasets of reasoning-gym, `chain_sum, gcd` or as JSON with their settings,
`{"chain_sum": {"max_terms": 3}}`; or it is `jsonl`, and each split has a file whose lines hold `prompt`, `answer`, perhaps
`task`, and for DPO `rejected`, a wrong answer. A fixed public key divides procedural problems by their prompt into the train
split, which trainings draw from, and the held-out pool, which only the scorer draws from (`evals/trl/problems.py`).
"""

import ast
import hashlib
import inspect
import json
import os
import random
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JSONL = "jsonl"
PUBLIC_KEY = b"evolve/trl/1"
MOST_INDEX = 2**31 - 1  # of a procedural dataset, whose items are made as they are asked for
MOST_MISSES = 1000  # draws in a row that bring nothing new, before a task counts as used up
# Functions that run a text as Python; sympy's parsers are among them.
_RUNS = {"eval", "exec", "compile", "parse_expr", "sympify", "simplify", "lambdify", "S"}
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """One problem: what is asked, a right answer, and what its task's verifier needs."""

    task: str
    prompt: str
    answer: str
    rejected: str = ""  # a wrong answer, where the file has one
    entry: dict[str, Any] = field(default_factory=dict, compare=False)


def is_held_out(prompt: str) -> bool:
    """Whether a procedural problem belongs to the scorer's half, by a public hash of its prompt."""
    return hashlib.blake2b(prompt.encode(), key=PUBLIC_KEY, digest_size=1).digest()[0] % 2 == 1


def extracted(text: str) -> str:
    """The answer in a model's text: what stands in the last `<answer>` tags, else all of it, without blanks around.

    >>> extracted("30 and 12 make <answer>42</answer>.")
    '42'
    """
    found = _ANSWER.findall(text)
    return (found[-1] if found else text).strip()


class Tasks:
    """The subject's tasks.

    Args:
        named: `tasks` of the subject, see above.
        path: the JSONL file of the split, None for procedural tasks.

    Raises:
        ValueError: no such task or setting, or a line of the file is no problem.
    """

    def __init__(self, named: str, path: Path | None = None) -> None:
        self.jsonl = read_jsonl(path) if named.strip() == JSONL else []
        self._datasets = {} if self.jsonl else _datasets(named)

    @classmethod
    def given(cls, named: str) -> "Tasks":
        """With the file of the split that this process was given, where it was given one."""
        data = os.environ.get("EVOLVE_DATA")
        return cls(named, Path(data) if data else None)

    def draw(self, n: int, rng: random.Random, wanted: Callable[[str], bool]) -> list[Problem]:
        """At most `n` procedural problems, distinct prompts of which `wanted` is true, each task's count equal to within one.

        A task that has too few gives what it has.
        """
        drawn: list[Problem] = []
        for i, (name, dataset) in enumerate(self._datasets.items()):
            count = n // len(self._datasets) + (i < n % len(self._datasets))
            found: dict[str, Problem] = {}
            misses = 0
            while len(found) < count and misses < MOST_MISSES:
                entry = dataset[rng.randrange(MOST_INDEX)]
                prompt = entry["question"]
                misses += 1
                if prompt not in found and wanted(prompt):
                    found[prompt] = Problem(name, prompt, str(entry["answer"]), entry=entry)
                    misses = 0
            drawn += found.values()
        return drawn

    def train(self, n: int, seed: int) -> list[Problem]:
        """At most `n` problems of the train split in random order.

        Raises:
            ValueError: there are none.
        """
        rng = random.Random(f"train:{seed}")
        found = self.jsonl or self.draw(n, rng, lambda prompt: not is_held_out(prompt))
        if not found:
            raise ValueError(
                "the tasks must have problems in the train split, but there are none; widen their settings"
            )
        return rng.sample(found, min(n, len(found)))

    def reward(self, problem: Problem, text: str) -> float:
        """In [0, 1], by the task's own verifier, which may give a part for an answer that is nearly right; 1 is right."""
        answer = extracted(text)
        if not problem.entry:
            return float(answer == problem.answer.strip())
        return float(self._datasets[problem.task].score_answer(answer, problem.entry))


def _datasets(named: str) -> dict[str, Any]:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    try:
        settings = json.loads(named) if named.lstrip().startswith("{") else {n.strip(): {} for n in named.split(",")}
    except ValueError as error:
        raise ValueError(f"tasks must be names or a JSON object, but got {named!r}: {error}") from error
    found = {}
    for name, more in settings.items():
        if name not in DATASETS:
            raise ValueError(f"tasks must be {JSONL!r} or datasets of reasoning-gym, but it has no {name!r}")
        try:
            found[name] = reasoning_gym.create_dataset(name, seed=0, size=MOST_INDEX, **more)
            if runs_answers(type(found[name])):
                raise ValueError(
                    f"task {name} must not be used, but its verifier runs an answer as Python: a model could learn to write its"
                    " own score; take another task"
                )
        except (TypeError, AssertionError) as error:
            raise ValueError(f"the settings of task {name} must suit it, but {' '.join(str(error).split())}") from error
    return found


def runs_answers(dataset: type) -> bool:
    """Whether the verifier of a dataset gives what it judges to a function that runs text as Python.

    Looks at the source of `score_answer` and of what it calls in its own class and module. A function of such a name that is
    harmless counts as well; one that gets nothing but the entry's own texts does not.
    """
    module = inspect.getmodule(dataset.score_answer)
    todo, seen = [dataset.score_answer], set[str]()
    while todo:
        function = todo.pop()
        seen.add(function.__name__)
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _RUNS and not all(_of_the_entry(argument) for argument in node.args):
                return True
            known = getattr(dataset, called, None) or getattr(module, called, None)
            if inspect.isfunction(known) and known.__module__ == getattr(module, "__name__", "") and called not in seen:
                todo.append(known)
    return False


def _of_the_entry(node: ast.expr) -> bool:
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "entry"


def read_jsonl(path: Path | None) -> list[Problem]:
    if path is None:
        raise ValueError("tasks jsonl needs a file for each split; set subject.data.train, .search and .vault")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                raw = json.loads(line)
                texts = [raw["prompt"], raw["answer"], raw.get("task", "all"), raw.get("rejected", "")]
                if not all(isinstance(text, str) for text in texts):
                    raise ValueError("a value is no text")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"line {number} of {path.name} must be an object with prompt and answer, but {error!r}"
                ) from error
            found.append(Problem(texts[2], texts[0], texts[1], texts[3]))
    if not found:
        raise ValueError(f"{path.name} must hold problems, but is empty")
    return found


def messages(problem: Problem, instruction: str) -> str:
    """What a model is asked."""
    return f"{problem.prompt}\n{instruction}" if instruction else problem.prompt
