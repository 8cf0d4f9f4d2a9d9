"""The local executor and scorer: two processes, chained by files.

    controller --config.json, snapshot--> training --weights.safetensors, progress lines--> controller
    controller --config.json, weights, pristine snapshot--> scorer --evaluation.json--> controller

Each trial has one folder: `train.json`, `train.log`, `score.log` and the scorer's `evaluation-search-0.json`. What the gate
and the vault score together leaves nothing behind: their numbers are in the journal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from evolve import processes
from evolve.errors import Cancelled, EvolveError, TrialFailed
from evolve.ports import Cancel, Training
from evolve.types import Evaluation, Limits, Progress, ProgressSpec, Split, Subject, Trial, Value
from evolve.weights import WeightStore, layout_of
from evolve.workspace import Snapshot

_EVALUATION_LIMIT = 50_000_000  # bytes; the scorer is ours or the user's, but a file is read with a limit all the same
_CURVE_POINTS = 50
_LARGEST = 1e100  # of a score: its square must still be a float; NaN is not below it either


def problem_key(secret: str) -> str:
    """The campaign's key for drawing problems (64 hex digits), derived from its secret."""
    return hmac.new(bytes.fromhex(secret), b"problems", hashlib.sha256).hexdigest()


def parse_progress(line: bytes) -> Progress | None:
    """A progress line: `{"step": 12, "metrics": {"loss": 0.5}}` or the numbers beside `step`; None for anything else.

    >>> parse_progress(b'{"step": 3, "loss": 0.5, "phase": "sft"}')
    Progress(step=3, metrics={'loss': 0.5}, tokens=None)
    >>> parse_progress(b'{"step": 3, "tokens": 96, "metrics": {"exact_match": 0.25}}')
    Progress(step=3, metrics={'exact_match': 0.25}, tokens=96)
    """
    try:
        raw = msgspec.json.decode(line)
        step, tokens = raw.pop("step"), raw.pop("tokens", None)
        numbers = raw.pop("metrics", raw)
        metrics = {
            str(k)[:64]: float(v)
            for k, v in numbers.items()
            if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
        }
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if not isinstance(step, int) or isinstance(step, bool):
        return None
    counted = isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < 2**63
    return Progress(step, dict(list(metrics.items())[:16]), tokens if counted else None)


def thin(curve: list[Progress], spec: ProgressSpec | None = None) -> tuple[Progress, ...]:
    """50 points of a curve, evenly chosen, the last one among them; of a longer one also the marks that a pruner saw."""
    if len(curve) <= _CURVE_POINTS:
        return tuple(curve)
    chosen = {round(i * (len(curve) - 1) / (_CURVE_POINTS - 1)) for i in range(_CURVE_POINTS)}
    marks = {id(point) for _, point in spec.marked(curve)} if spec else set()
    return tuple(point for i, point in enumerate(curve) if i in chosen or id(point) in marks)


class LocalProcesses:
    """What the executor and the scorer share: the subject, its snapshot and where a trial's files lie."""

    def __init__(self, subject: Subject, snapshot: Snapshot, trials: Path, store: WeightStore) -> None:
        self.subject, self.snapshot, self.trials, self.store = subject, snapshot, trials, store
        self.assets = {name: str(snapshot.folder / path) for name, path in subject.assets.items()}
        self.layout = layout_of(Path(self.assets[subject.weights.like]))

    def folder(self, trial: Trial) -> Path:
        folder = self.trials / f"{trial.number:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(
        self,
        what: str,
        template: tuple[str, ...],
        config: Mapping[str, Any],
        folder: Path,
        cancel: Cancel,
        on_progress: Callable[[bytes], None] | None = None,
        times: int = 1,
    ) -> processes.Result:
        """Runs one of the subject's two commands to a good end, within `times` its limit of wall clock.

        Raises `TrialFailed` or `Cancelled` otherwise.
        """
        limits: Limits = self.subject.limits
        config_path, out = folder / f"{what}.json", folder / "out"
        processes.kill_leftover(folder)
        clear(out)
        out.mkdir()
        (folder / "score.json").unlink(missing_ok=True)  # of a killed controller: it holds the problem key
        with open(os.open(config_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(config, file, indent=1, sort_keys=True, allow_nan=False)
        words = {"{python}": sys.executable, "{config}": str(config_path), "{out}": str(out)}
        command = [words.get(word, word) for word in template]
        seconds = times * (limits.train_seconds if what == "train" else limits.score_seconds)
        try:
            result = processes.run(
                command,
                cwd=self.snapshot.folder,
                log=folder / f"{what}.log",
                timeout_seconds=seconds,
                # An accelerator's driver maps far more address space than there is memory: no limit on that then.
                memory_mb=limits.memory_mb if self.subject.device == "cpu" else None,
                log_bytes=limits.log_bytes,
                on_progress=on_progress,
                cancel=cancel,
            )
        except (FileNotFoundError, PermissionError) as error:  # any other is this machine's trouble, not the subject's
            raise TrialFailed(f"`{what}_cmd` must start, but {error}; correct it in the subject.") from error
        finally:
            (folder / "pid").unlink(missing_ok=True)
        if result.cancelled:
            raise Cancelled("ended by the controller", result.log_tail, result.usage)
        if result.timed_out:
            reason = f"{what}: ended at its limit of {seconds:g} s (limits.{what}_seconds)"
        elif result.exit_code != 0:
            reason = f"{what}: {_ending(result.exit_code)}: {_last_line(result.log_tail)}"
        else:
            return result
        raise TrialFailed(reason, result.log_tail, result.usage)


def clear(out: Path) -> None:
    """Removes what a process left at `out`, also where it put a link or a file there; never what a link points to."""
    if out.is_symlink() or out.is_file():
        out.unlink()
    shutil.rmtree(out, ignore_errors=True)


def _ending(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _last_line(text: str) -> str:
    """The last line of a log as text that is safe to show: printable characters only, at most 300."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "".join(c for c in lines[-1].strip() if c.isprintable())[:300] if lines else "(no output)"


class LocalExecutor:
    """`ports.Executor` on this machine: one process group per training."""

    def __init__(self, local: LocalProcesses) -> None:
        self._local = local

    def train(
        self, trial: Trial, params: Mapping[str, Value], progress: Callable[[Progress], None], cancel: Cancel
    ) -> Training:
        local, folder = self._local, self._local.folder(trial)
        config = {
            "params": dict(params),
            "seed": trial.seed,
            "fidelity": trial.fidelity,
            "device": local.subject.device,
            "model": dict(local.subject.model),
            "assets": local.assets,
        }
        curve: list[Progress] = []

        def take(line: bytes) -> None:
            point = parse_progress(line)
            if point is not None:
                curve.append(point)
                progress(point)

        try:
            result = local.run("train", local.subject.train_cmd, config, folder, cancel, take)
            try:
                weights = local.store.take(folder / "out" / local.subject.weights.file, local.layout)
            except TrialFailed as error:
                raise TrialFailed(str(error), result.log_tail, result.usage) from error
        finally:
            clear(folder / "out")
        return Training(weights, result.usage, thin(curve, local.subject.progress), result.log_tail)


class LocalScorer:
    """`ports.Scorer` on this machine: a fresh process on pristine sources, one set of weights and problems at a time."""

    def __init__(self, local: LocalProcesses, secret: str) -> None:
        self._local, self._key = local, problem_key(secret)

    def score(self, trials: Sequence[Trial], split: Split, round: int, cancel: Cancel) -> list[Evaluation]:
        local, subject = self._local, self._local.subject
        if unweighed := [t.number for t in trials if t.weights is None]:
            raise TrialFailed(f"trial {unweighed[0]} has no weights to score")
        # Of one training beside its own files; of several, which may be scored elsewhere at the same time, in a folder for this.
        folder = (
            local.folder(trials[0]) if split == "search" else local.trials / f"{split}-{round}-{trials[0].number:05d}"
        )
        folder.mkdir(parents=True, exist_ok=True)
        try:
            local.snapshot.verify()
            weights = [str(local.store.verified(str(t.weights))) for t in trials]
        except EvolveError as error:
            raise TrialFailed(str(error)) from error
        config = {
            "weights": weights,
            "split": split,
            "key": self._key,
            "round": round,
            "n": subject.problems,
            "device": subject.device,
            "model": dict(subject.model),
            "assets": local.assets,
        }
        try:
            result = local.run("score", subject.score_cmd, config, folder, cancel, times=len(trials))
            try:
                evaluations = parse_evaluations(folder / "out" / "evaluation.json", subject, split, len(trials))
            except TrialFailed as error:
                raise TrialFailed(str(error), result.log_tail) from error
            if split == "search":
                (folder / "out" / "evaluation.json").replace(folder / f"evaluation-{split}-{round}.json")
        finally:
            (folder / "score.json").unlink(missing_ok=True)  # it holds the campaign's problem key
            clear(folder / "out" if split == "search" else folder)
        return evaluations


def parse_evaluations(path: Path, subject: Subject, split: Split, count: int) -> list[Evaluation]:
    """The scorer's file, `{"evaluations": [...]}` in the order of the weights. Raises `TrialFailed`."""
    try:
        if path.is_symlink() or path.stat().st_size > _EVALUATION_LIMIT * count:
            raise ValueError("it is a link or too large")
        found = msgspec.json.decode(path.read_bytes())["evaluations"]
        if not isinstance(found, list) or len(found) != count:
            raise ValueError(f"`evaluations` must hold one for each of {count} weights")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrialFailed(f"The scorer must leave a valid evaluation.json, but {error!r}.") from error
    return [_evaluation(raw, subject, split) for raw in found]


def _evaluation(raw: Any, subject: Subject, split: Split) -> Evaluation:
    """One finite float under the declared metric, with its error and n."""
    try:
        if raw["metric"] != subject.objective.metric:
            raise ValueError(f"its metric is {raw['metric']!r}, not {subject.objective.metric!r}")
        more = raw.get("metrics", {})
        if missing := [name for name in subject.metrics if name not in more]:
            raise ValueError(f"`metrics` lacks {', '.join(missing)}, which the subject declares")
        values = [raw["mean"], raw["stderr"], *(g["mean"] for g in raw.get("groups", {}).values())]
        values += [more[name] for name in subject.metrics]
        if any(isinstance(v, bool) or not isinstance(v, int | float) or not abs(v) < _LARGEST for v in values):
            raise ValueError("a value is not a finite number")
        n = raw["n"]
        if not isinstance(n, int) or n < 1 or raw["stderr"] < 0:
            raise ValueError("n must be at least 1 and stderr at least 0")
        groups = {str(name): float(group["mean"]) for name, group in raw.get("groups", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrialFailed(f"The scorer must leave a valid evaluation.json, but {error!r}.") from error
    metrics = {name: float(more[name]) for name in subject.metrics}
    return Evaluation(raw["metric"], split, float(raw["mean"]), float(raw["stderr"]), n, groups, metrics)
