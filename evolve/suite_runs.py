"""Runs proposed and adopted evaluations: the model's answers from trusted code, the evaluation itself in the sandbox.

    controller --weights, key, sets of problems--> `answer_cmd` (trusted, pristine sources) --answers.json--> controller
    controller --prompts, answers, the code--> jail --out.json: numbers, or a fault of a known kind--> controller

The code gets prompts, answers and right answers of the `search` split alone, of rounds that score no candidate; never
weights, key, secret or vault, also after it was adopted. A generator's problems that belong to another split are left out by
the trusted side. What comes back is checked here: finite numbers in their range, as many as were asked for. Its words are
ours, since its author reads them, and could read problems in them otherwise.
"""

from __future__ import annotations

import builtins
import hashlib
import hmac
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from evolve import processes, suite
from evolve.errors import Cancelled, EvolveError, InvalidCandidate, TrialFailed
from evolve.executors import LocalProcesses, clear, problem_key
from evolve.ports import Cancel, Scorer
from evolve.sandbox import Jail
from evolve.types import EvalForm, EvalProposal, EvalReport, Evaluation, Split, SuiteMetric, Trial
from evolve.workspace import Interpreter

ITEMS = 1000  # at most, of one evaluation
SCORING_ROUND, TRYING_ROUND = 1_000_000, 2_000_000  # rounds of `search` from here on: no candidate is scored by them
_ASKED = 6  # prompts of a generator for each that is wanted: most of them belong to other splits
_SECONDS, _MEMORY_MB, _SCRATCH_MB, _OUT_BYTES = 20.0, 1000, 16, 8_000_000
_ANSWERS_BYTES = 100_000_000
_COMMAND = [sys.executable, "-I", "-S", "-B", "/evolve/evaluate.py"]
_EXCEPTIONS = {
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}
_FAULTS = {
    "no function": "it must define `{function}`",
    "not a bool": "`{function}` must return True or False",
    "not a number": "`{function}` must return a number",
    "out of range": "`{function}` must return a number in [0, 1]",
    "not n pairs": "`{function}` must return a list of 1 to n pairs",
    "not pairs of text": "`{function}` must return pairs of text: prompt and right answer",
    "too long": "a prompt or an answer has more than 2000 characters",
}


class Refused(Exception):
    """The evaluation's own fault, in words that hold nothing of what it was given."""


@dataclass(frozen=True)
class Answered:
    """One set of problems, and of each set of weights its answers and the subject's own results."""

    prompts: tuple[str, ...]
    expected: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    results: tuple[tuple[float, ...], ...]
    left_out: Mapping[str, int]


class Suite:
    """The evaluations of one campaign. Safe to call from several worker threads."""

    def __init__(self, local: LocalProcesses, secret: str) -> None:
        self._local, self._secret, self._key = local, secret, problem_key(secret)
        self._items, self._interpreter = min(local.subject.problems, ITEMS), Interpreter()

    # ------------------------------------------------ a proposal

    def assess(
        self, proposal: EvalProposal, trials: Sequence[Trial], champion_id: str, cancel: Cancel
    ) -> tuple[EvalReport | None, str]:
        """`ports.Assessor`: twice the same request, the same values; then the report."""
        folder = self._folder(f"assess-{proposal.id[:16]}")
        try:
            return self._assess(proposal, trials, champion_id, folder, cancel), ""
        except (Refused, InvalidCandidate) as error:
            return None, str(error)
        except Cancelled:
            raise
        except EvolveError as error:  # the subject's command or the store
            return None, f"the model's answers could not be had: {error}"
        finally:
            clear(folder)

    def _assess(
        self, proposal: EvalProposal, trials: Sequence[Trial], champion_id: str, folder: Path, cancel: Cancel
    ) -> EvalReport:
        local, metric = self._local, SuiteMetric(proposal.name, proposal.form, proposal.code)
        code = Code(metric, folder, cancel, runs=2)
        sets: list[dict[str, Any]] = [self._drawn(TRYING_ROUND)]
        duplicates = 0
        if metric.form == "generator":
            pairs = code.generate(self._seed(metric, TRYING_ROUND), _ASKED * self._items)
            sets.append(self._given(pairs))
            duplicates = len(pairs) - len(sets[1]["prompts"])
        base = Path(local.assets[local.subject.weights.like])
        weights = [base, *(local.store.verified(str(t.weights)) for t in trials)]
        answered = self._answers(folder, weights, sets, cancel)
        values, left_out, overlap = self._values(code, answered), dict(answered[-1].left_out), 0.0
        if metric.form == "generator":
            given = len(sets[1]["prompts"])
            overlap = sum(n for why, n in left_out.items() if "train" in why) / given
            left_out = {why: n for why, n in {"repeated": duplicates, **left_out}.items() if n}
        sign, primary = local.subject.objective.sign, answered[0].results
        pool = [
            suite.Measured(
                sign * (t.score.mean if t is not None and t.score is not None else fmean(primary[i])),
                tuple(values[i]), primary[i], t is not None and t.candidate_id == champion_id,
            )
            for i, t in enumerate([None, *trials])
        ]  # fmt: skip
        found = suite.report(pool)
        return replace(found, overlap=overlap, left_out=left_out, seconds=code.seconds)

    # ------------------------------------------------ the suite

    def measure(
        self, trials: Sequence[Trial], round: int, cancel: Cancel
    ) -> list[tuple[dict[str, float], dict[str, str]]]:
        """Of each trial the values of the suite, by name, and why one has none. Raises `Cancelled` and `OSError` alone."""
        metrics, numbers = self._local.subject.suite, SCORING_ROUND + round
        folder = self._folder(f"suite-{round}-{trials[0].number:05d}")
        missing: dict[str, str] = {}
        found: list[dict[str, float]] = [{} for _ in trials]
        try:
            sets, places, codes = [self._drawn(numbers)], dict[str, int](), dict[str, Code]()
            for metric in metrics:
                codes[metric.metric] = code = Code(metric, folder, cancel)
                places[metric.metric] = 0
                if metric.form == "generator":
                    try:
                        pairs = code.generate(self._seed(metric, numbers), _ASKED * self._items)
                    except Refused as error:
                        missing[metric.metric] = str(error)
                        continue
                    places[metric.metric] = len(sets)
                    sets.append(self._given(pairs))
            answered = self._answers(folder, [self._local.store.verified(str(t.weights)) for t in trials], sets, cancel)
            for name in [m.metric for m in metrics if m.metric not in missing]:
                try:
                    values = self._values(codes[name], [answered[places[name]]])
                except Refused as error:
                    missing[name] = str(error)
                    continue
                for each, mine in zip(found, values, strict=True):
                    each[name] = fmean(mine)
        except Cancelled:
            raise
        except EvolveError as error:
            missing = {m.metric: f"it could not be measured: {error}"[:300] for m in metrics}
            found = [{} for _ in trials]
        finally:
            clear(folder)
        return [(each, dict(missing)) for each in found]

    # ------------------------------------------------ steps

    def _folder(self, name: str) -> Path:
        folder = self._local.trials / name
        processes.kill_leftover(folder)
        clear(folder)
        folder.mkdir(parents=True)
        return folder

    def _drawn(self, round: int) -> dict[str, Any]:
        return {"split": "search", "round": round, "n": self._items}

    def _given(self, pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
        """The problems of a generator, each prompt once."""
        first: dict[str, str] = {}
        for prompt, expected in pairs:
            first.setdefault(prompt, expected)
        return {"prompts": [list(pair) for pair in first.items()], "n": self._items}

    def _seed(self, metric: SuiteMetric, round: int) -> int:
        """By the campaign's secret, which cannot be told from it; another one for each round."""
        label = f"suite:{metric.id}:{round}".encode()
        return int.from_bytes(hmac.new(bytes.fromhex(self._secret), label, hashlib.sha256).digest()[:7], "big")

    def _answers(
        self, folder: Path, weights: Sequence[Path], sets: Sequence[Mapping[str, Any]], cancel: Cancel
    ) -> list[Answered]:
        """By the subject's own command, in a process of its own. Raises `EvolveError`."""
        local, subject = self._local, self._local.subject
        local.snapshot.verify()
        self._interpreter.verify()
        config = {
            "weights": [str(path) for path in weights], "key": self._key, "sets": list(sets), "device": subject.device,
            "model": dict(subject.model), "assets": local.assets,
        }  # fmt: skip
        place = folder / "answers"
        place.mkdir(exist_ok=True)
        try:
            local.run("answer", subject.answer_cmd, config, place, cancel, times=len(weights) * len(sets))
            return read_answers(place / "out" / "answers.json", len(weights), len(sets))
        finally:
            clear(place)  # it holds the campaign's problem key

    def _values(self, code: Code, answered: Sequence[Answered]) -> list[list[float]]:
        """(weights, items), by the last of the sets. Raises `Refused`."""
        problems = answered[-1]
        if code.metric.form == "metric":
            # Each set of weights by itself, so that no code can tell the challenger from the champion by its place.
            return [
                code.measure([list(item) for item in zip(problems.prompts, given, problems.expected, strict=True)])
                for given in problems.answers
            ]
        if code.metric.form == "slice":
            chosen = code.select(problems.prompts)
            if not any(chosen):
                raise Refused(f"it selects none of {len(chosen)} problems")
            return [[r for r, c in zip(results, chosen, strict=True) if c] for results in problems.results]
        if not problems.prompts:
            left_out = ", ".join(f"{n} {why}" for why, n in problems.left_out.items() if n)
            raise Refused(f"none of its prompts can be used ({left_out})")
        return [[float(a == e) for a, e in zip(given, problems.expected, strict=True)] for given in problems.answers]


def read_answers(path: Path, weights: int, sets: int) -> list[Answered]:
    """The file of `answer_cmd`. Raises `TrialFailed`."""
    try:
        if path.is_symlink() or path.stat().st_size > _ANSWERS_BYTES:
            raise ValueError("it is a link or too large")
        raw = msgspec.json.decode(path.read_bytes(), type=_Answers).sets
        if len(raw) != sets or any(len(s.evaluations) != weights for s in raw):
            raise ValueError(f"it must hold {sets} set(s) of {weights} evaluation(s)")
        for s in raw:
            for e in s.evaluations:
                if not len(e.answers) == len(e.results) == len(s.problems):
                    raise ValueError("each problem must have one answer and one result")
                if not all(math.isfinite(r) and 0 <= r <= 1 for r in e.results):
                    raise ValueError("a result must be a number in [0, 1]")
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise TrialFailed(f"`answer_cmd` must leave a valid answers.json, but {error!r}.") from error
    return [
        Answered(
            tuple(p.prompt for p in s.problems),
            tuple(p.expected for p in s.problems),
            tuple(tuple(a or "" for a in e.answers) for e in s.evaluations),
            tuple(tuple(e.results) for e in s.evaluations),
            s.left_out,
        )
        for s in raw
    ]


class _Problem(msgspec.Struct):
    prompt: str
    expected: str


class _Evaluation(msgspec.Struct):
    answers: list[str | None]
    results: list[float]


class _Set(msgspec.Struct):
    problems: list[_Problem]
    evaluations: list[_Evaluation]
    left_out: dict[str, int] = {}


class _Answers(msgspec.Struct):
    sets: list[_Set]


# ---------------------------------------------------------------- the code


class Code:
    """One evaluation's code in jails, a new one for each request, each request made `runs` times.

    Raises `Refused` for what is the code's fault, `Cancelled`, and `OSError` where the jail could not be set up.
    """

    def __init__(self, metric: SuiteMetric, folder: Path, cancel: Cancel, runs: int = 1) -> None:
        self.metric, self._cancel, self._runs = metric, cancel, runs
        self._place, self.seconds = folder / metric.name, 0.0

    def select(self, prompts: Sequence[str]) -> list[int]:
        return self._twice({"items": list(prompts)}, len(prompts))

    def measure(self, items: Sequence[Sequence[str]]) -> list[float]:
        return [float(v) for v in self._twice({"items": list(items)}, len(items))]

    def generate(self, seed: int, n: int) -> list[tuple[str, str]]:
        return [(pair[0], pair[1]) for pair in self._twice({"seed": seed, "n": n}, None)]

    def _twice(self, request: Mapping[str, Any], count: int | None) -> list[Any]:
        first, *again = [self._once(request, count) for _ in range(self._runs)]
        if any(other != first for other in again):
            raise Refused(
                "it must give the same values each time, but two runs differ; use no clock, no `random` without the seed,"
                " and no order of sets"
            )
        return first

    def _once(self, request: Mapping[str, Any], count: int | None) -> list[Any]:
        place, started = self._place, time.monotonic()
        clear(place)
        (place / "code").mkdir(parents=True)
        (place / "code" / "proposal.py").write_text(self.metric.code, encoding="utf-8")
        (place / "request.json").write_text(json.dumps({"form": self.metric.form, **request}))
        jail = Jail(
            code=place / "code",
            inputs={"/request.json": place / "request.json"},
            keep="out.json",
            scratch_mb=_SCRATCH_MB,
            memory_mb=_MEMORY_MB,
        )
        kept = place / "out.json"
        try:
            result = processes.run(
                _COMMAND, cwd=place, log=place / "log", timeout_seconds=_SECONDS, memory_mb=None, log_bytes=10_000,
                on_progress=None, cancel=self._cancel, jail=jail, keep=kept, keep_bytes=_OUT_BYTES,
            )  # fmt: skip
            self.seconds += time.monotonic() - started
            if result.cancelled:
                raise Cancelled("ended by the controller")
            if result.timed_out:
                raise Refused(f"it must end within {_SECONDS:.0f} s, but does not; do less")
            if result.killed_for:
                raise Refused(f"it was killed for {result.killed_for}")
            if result.exit_code != 0 or not kept.exists():
                raise Refused(f"it must leave its values, but ended without (exit code {result.exit_code})")
            return read_values(self.metric.form, kept.read_bytes(), count, len(self.metric.code.splitlines()))
        finally:
            clear(place)


def read_values(form: EvalForm, data: bytes, count: int | None, lines: int) -> list[Any]:
    """What came out of a jail, which may be anything. Raises `Refused`."""
    function = suite.FUNCTIONS[form][0]
    try:
        raw = msgspec.json.decode(data, type=_Out)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise Refused("it must leave values of its form, but wrote something else") from error
    if raw.fault is not None:
        if raw.fault == "raised":
            name = raw.exception if raw.exception in _EXCEPTIONS else "Exception"
            where = f" at line {raw.line} of its code" if 1 <= raw.line <= lines else ""
            raise Refused(f"it raised {name}{where}; correct it")
        rule = _FAULTS.get(raw.fault, "it must keep its contract")
        raise Refused(f"{rule.format(function=function)}; correct it")
    values = raw.values or []
    if count is not None and len(values) != count:
        raise Refused(f"it must leave {count} values, but left {len(values)}")
    wrong: bool
    if form == "generator":
        wrong = not values or not all(
            isinstance(v, list) and len(v) == 2 and all(isinstance(text, str) for text in v) for v in values
        )
    elif form == "slice":
        wrong = not all(v in (0, 1) for v in values)
    else:
        wrong = not all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and 0 <= v <= 1 for v in values
        )
    if wrong:
        raise Refused("it must leave values of its form, but wrote something else")
    return values


class _Out(msgspec.Struct):
    values: list[Any] | None = None
    fault: str | None = None
    exception: str = ""
    line: int = 0


# ---------------------------------------------------------------- the scorer with the suite


class SuiteScorer:
    """A `ports.Scorer` whose evaluations have the suite's metrics as well; all else is the inner scorer's.

    The vault is asked with the primary metric alone. What the suite cannot measure is missing, with the reason: no trial
    fails for it.
    """

    def __init__(self, inner: Scorer, suite: Suite) -> None:
        self._inner, self._suite = inner, suite

    def score(self, trials: Sequence[Trial], split: Split, round: int, cancel: Cancel) -> list[Evaluation]:
        scored = self._inner.score(trials, split, round, cancel)
        if split == "vault":
            return scored
        found = self._suite.measure(trials, round, cancel)
        return [
            replace(e, metrics={**e.metrics, **values}, missing=missing)
            for e, (values, missing) in zip(scored, found, strict=True)
        ]


def available(local: LocalProcesses) -> bool:
    """Whether evaluations can run here: the subject answers, and code can be confined."""
    return bool(local.subject.answer_cmd) and local.sandbox == "bubblewrap"
