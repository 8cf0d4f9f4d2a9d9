"""The local executor and scorer: two processes, chained by files.

    controller --config.json, snapshot--> training --weights.safetensors, progress lines--> controller
    controller --config.json, weights, pristine snapshot--> scorer --evaluation.json--> controller

Each trial has one folder: `train.json`, `train.log`, `score.log` and the scorer's `evaluation-search-0.json`. What the gate
and the vault score together leaves nothing behind: their numbers are in the journal.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import math
import os
import posixpath
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from evolve import accounts, commands, foreign, outside, processes, sandbox
from evolve.devices import VARIABLE, Devices
from evolve.errors import BadInput, Cancelled, EvolveError, InvalidCandidate, TrialFailed
from evolve.integrity import DECOY, Canary, Phases, Trace
from evolve.ports import Cancel, Checked, Training
from evolve.sandbox import PROGRESS_FD, Jail
from evolve.state import State
from evolve.types import (
    Candidate,
    EditChecked,
    Evaluation,
    Event,
    IntegrityReport,
    Limits,
    Progress,
    ProgressSpec,
    SessionStarted,
    Split,
    Subject,
    Trial,
    TrialFinished,
    TrialInterrupted,
    Usage,
)
from evolve.warm import WarmLost, WarmServer
from evolve.weights import Bundle, Form, WeightStore, layout_of
from evolve.workspace import Edits, Interpreter, Snapshot

_EVALUATION_LIMIT = 50_000_000  # bytes; the scorer is ours or the user's, but a file is read with a limit all the same
_CURVE_POINTS = 50
_SMOKE_FIDELITY, _SMOKE_SECONDS = 0.05, 60.0  # of the training that an edit must survive before it gets a whole one
_TOLD_CHARS = 1200  # of its log, to the author of the edit
_STATIC_SECONDS, _STATIC_BYTES = 60.0, 20_000  # of the checks without a training
_INSIDE = Path(__file__).parent / "inside"
_DECOYS = 2000  # false answers in a canary: enough that a training on them shows in the honeypot metric
_CANARY = "canary"  # folder where false answers are made
SHORT = 16  # digits of a candidate's id that name its check
# How Python, torch (CPU, CUDA), C++ and the C library say so, in lower case.
_NO_MEMORY = ("memoryerror", "allocate memory", "out of memory", "outofmemory", "bad_alloc")
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


def log_progress(pattern: str) -> Callable[[bytes], Progress | None] | None:
    """Reads progress out of the lines of a training's log by `subject.log_progress`; None without one.

    >>> log_progress(r"step (?P<step>\\d+).* loss (?P<loss>\\S+)")(b"at step 12: loss 0.5")
    Progress(step=12, metrics={'loss': 0.5}, tokens=None)
    """
    if not pattern:
        return None
    compiled = re.compile(pattern)

    def parse(line: bytes) -> Progress | None:
        found = compiled.search(line.decode(errors="replace"))
        if found is None:
            return None
        try:
            numbers = {name: float(text) for name, text in found.groupdict().items() if text is not None}
            step, tokens = int(numbers.pop("step")), numbers.pop("tokens", None)
        except (ValueError, KeyError, OverflowError):
            return None
        metrics = {name: value for name, value in numbers.items() if math.isfinite(value)}
        return Progress(step, metrics, None if tokens is None else int(tokens))

    return parse


def thin(curve: list[Progress], spec: ProgressSpec | None = None) -> tuple[Progress, ...]:
    """50 points of a curve, evenly chosen, the last one among them; of a longer one also the marks that a pruner saw."""
    if len(curve) <= _CURVE_POINTS:
        return tuple(curve)
    chosen = {round(i * (len(curve) - 1) / (_CURVE_POINTS - 1)) for i in range(_CURVE_POINTS)}
    marks = {id(point) for _, point in spec.marked(curve)} if spec else set()
    return tuple(point for i, point in enumerate(curve) if i in chosen or id(point) in marks)


@dataclass(frozen=True)
class Place:
    """Where one of the subject's commands runs, and how what it is given is called there.

    `taken`: a file that only the controller can write, into which the one result of a jailed command is copied.
    """

    code: Path
    out: Path  # on the host
    words: Mapping[str, str]
    assets: Mapping[str, str]
    jail: Jail | None = None
    taken: Path | None = None


class LocalProcesses:
    """What the executor and the scorer share: the subject, its snapshot and where a trial's files lie.

    `sandbox`: where edited code runs, `bubblewrap` or, by the user's choice, `none`.
    """

    def __init__(
        self, subject: Subject, snapshot: Snapshot, trials: Path, store: WeightStore, sandbox: str = "unavailable",
        devices: Devices | None = None,
    ) -> None:  # fmt: skip
        self._devices = devices
        self._warm: dict[str, WarmServer] = {}
        self.subject, self.snapshot, self.trials, self.store = subject, snapshot, trials, store
        self.sandbox = sandbox
        self.bait: Callable[[], str | None] = lambda: None  # what lies in the canary; None: what evolve has itself
        self.assets = {name: str(snapshot.folder / path) for name, path in subject.assets.items()}
        self.form: Form
        if subject.is_project:
            self.form = Bundle(subject.weights.files, subject.limits.weights_mb * 1_000_000)
        else:
            self.form = layout_of(Path(self.assets[subject.weights.like]))
        self.edits = Edits(snapshot, subject.editable, trials.parent / "edits")

    def warm_up(self, warn: Callable[[str], None]) -> None:
        """Starts the warm servers of a session, one for trainings and one for scores; `close` ends them.

        They live as long as the thread that calls this. Without a sandbox there are none: edited code could reach into one.
        """
        if self.subject.preload and self.sandbox != "none" and hasattr(os, "pidfd_open"):
            prefix, environment = processes.die_with_parent(), processes.environment() | {PROGRESS_FD: "-1"}
            for what in ("train", "score"):
                self._warm[what] = WarmServer(self.subject.preload, self.snapshot.folder, environment, prefix, warn)

    # ------------------------------------------------ what a killed session left

    def left_behind(self, state: State) -> tuple[Usage, ...]:
        """Ends whatever a killed session left running in this campaign, and says what its trainings have used, at most.

        Those are the trainings and checks of edits that have begun by the journal, and have no end there.
        """
        found = []
        begun = [(f"{number:05d}", self.trials / f"{number:05d}") for number in state.running]
        begun += [(c[:SHORT], self.checks / c[:SHORT]) for c in state.checking]
        for name, folder in begun:
            group = processes.leftover(folder)
            found.append(accounts.left(self.books / name, {} if group is None else sandbox.family(group)))
        for folder in (*self.trials.glob("*"), *self.checks.glob("*"), self.trials.parent / _CANARY):
            self._end_leftover(folder, lasting=folder.parent == self.trials and folder.name.isdigit())
        return tuple(usage for usage in found if usage is not None)

    def _end_leftover(self, folder: Path, *, lasting: bool) -> None:
        """Ends what still runs there, and removes what it would have removed at its end: `score.json` holds a key."""
        found = [folder / name for name in ("pid", "score.json") if (folder / name).exists()]
        if not found:
            return
        processes.kill_leftover(folder)
        if not lasting:
            shutil.rmtree(folder, ignore_errors=True)
            return
        for name in ("out", "code", "canary", "weights"):
            clear(folder / name)
        for path in found:
            path.unlink(missing_ok=True)

    def journalled(self, event: Event) -> None:
        """What a training has used is counted by now: its account goes."""
        match event:
            case SessionStarted():
                shutil.rmtree(self.books, ignore_errors=True)
            case TrialFinished(number) | TrialInterrupted(number):
                (self.books / f"{number:05d}").unlink(missing_ok=True)
            case EditChecked(candidate_id):
                (self.books / candidate_id[:SHORT]).unlink(missing_ok=True)

    @property
    def books(self) -> Path:
        return self.trials.parent / "used"

    @property
    def checks(self) -> Path:
        return self.trials.parent / "checks"

    def close(self) -> None:
        for server in self._warm.values():
            server.close()
        self._warm.clear()

    def folder(self, trial: Trial) -> Path:
        folder = self.trials / f"{trial.number:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def pristine(self, folder: Path, what: str) -> Place:
        """The campaign's own copy of the sources, where no edited code runs; of somebody's project a copy of that, since what
        such code writes beside itself must not reach the next training."""
        out, code = folder / "out", self.snapshot.folder
        if self.subject.is_project:
            code = self.snapshot.copy(folder / "code", self.subject.data.values())
        words = {"python": sys.executable, "config": str(folder / f"{what}.json"), "out": str(out)}
        return Place(code, out, words, self.assets)

    def edited(self, folder: Path, patch: str) -> Place:
        """The sources with a patch: in the sandbox, where this session has one. Raises `TrialFailed`."""
        if self.sandbox == "none":
            out, code = folder / "out", self.edits.tree(patch, folder / "code")
            words = {"python": sys.executable, "config": str(folder / "train.json"), "out": str(out)}
            assets = {name: str(code / path) for name, path in self.subject.assets.items()}
            return Place(code, out, words, assets)
        if self.sandbox != "bubblewrap":
            raise TrialFailed("Edited code needs the sandbox, which this machine does not give; see `evolve doctor`.")
        return self.jailed(folder, self.edits.files(patch))

    def jailed(self, folder: Path, overlays: Mapping[str, Path]) -> Place:
        """The sources in the sandbox, with `overlays` over them; beside them a canary, a file of false answers."""
        canary = folder / "canary"
        canary.mkdir(exist_ok=True)
        jail = self._jail(
            "train",
            overlays=overlays,
            inputs={"/config.json": folder / "train.json", "/vault": canary},
            keep="out" if self.subject.is_project else f"out/{self.subject.weights.file}",
            patterns=self.subject.weights.files,
            audit=True,
        )
        words = {"python": sys.executable, "config": "/config.json", "out": "/scratch/out"}
        return Place(
            self.snapshot.folder,
            folder / "out",
            words,
            self._assets_inside(),
            jail,
            folder / "out" / (Path(self.subject.weights.file).name or "packed"),
        )

    def _assets_inside(self) -> dict[str, str]:
        """In a jail; an absolute path is the same there."""
        return {name: posixpath.join("/code", path) for name, path in self.subject.assets.items()}

    def _jail(self, split: str, **own: Any) -> Jail:
        """The subject's limits around the snapshot, without data that a command for `split` has no business with.

        Raises `TrialFailed` where what lies outside of the snapshot cannot be read.
        """
        subject, limits = self.subject, self.subject.limits
        others = dict.fromkeys(path for path in subject.data.values() if path != subject.data_of(split))
        named = [path for path in subject.outside.values() if path not in others]
        try:
            shown = {place: source for path in named for place, source in outside.shown(path).items()}
        except (OSError, ValueError) as error:
            raise TrialFailed(f"The subject's assets and data must be readable, but {error}.") from error
        return Jail(
            code=self.snapshot.folder,
            hidden=tuple(path for path in others if not os.path.isabs(path)),
            absent=(self.trials.parent, *(Path(path) for path in others if os.path.isabs(path))),
            readable=subject.readable,
            shown=shown,
            scratch_mb=limits.scratch_mb,
            memory_mb=limits.memory_mb if subject.device == "cpu" else None,
            processes=limits.processes,
            gpu=subject.device != "cpu",
            **own,
        )

    def scoring(self, folder: Path, weights: Path, split: Split) -> Place:
        """Where somebody else's scorer runs, on pristine sources: in the sandbox too where there is one.

        It may load what a training left with pickle: what that could do ends with the jail.
        """
        if self.sandbox != "bubblewrap":
            return self.pristine(folder, "score")
        inputs = {"/config.json": folder / "score.json", "/weights": weights}
        jail = self._jail(split, inputs=inputs, keep="out/evaluation.json")
        words = {"python": sys.executable, "config": "/config.json", "out": "/scratch/out", "weights": "/weights"}
        taken = folder / "out" / "evaluation.json"
        return Place(self.snapshot.folder, folder / "out", words, self._assets_inside(), jail, taken)

    def values(self, config: Mapping[str, Any], place: Place, split: str) -> dict[str, str]:
        """What the places in a command's words stand for."""
        found = {key: str(config[key]) for key in ("seed", "fidelity", "split", "weights") if key in config}
        if (data := self.subject.data_of(split)) is not None:
            found["data"] = posixpath.join("/code" if place.jail else str(self.snapshot.folder), data)
        return found | {f"asset:{name}": path for name, path in place.assets.items()} | dict(place.words)

    def run(
        self,
        what: str,
        template: tuple[str, ...],
        config: Mapping[str, Any],
        folder: Path,
        cancel: Cancel,
        on_progress: Callable[[bytes], None] | None = None,
        times: float = 1,
        place: Place | None = None,
        on_audit: Callable[[bytes], None] | None = None,
        account: str | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> processes.Result:
        """Runs one of the subject's two commands to a good end, within `times` its limit of wall clock.

        `account`: by which name it is known what this has used so far, see `left_behind`. Raises `TrialFailed` or
        `Cancelled` otherwise.
        """
        limits: Limits = self.subject.limits
        place = place or self.pristine(folder, what)
        processes.kill_leftover(folder)
        if cancel.requested:  # a short one could come to its end before anybody looks
            raise Cancelled("ended by the controller")
        clear(place.out)
        place.out.mkdir()
        (folder / "score.json").unlink(missing_ok=True)  # of a killed controller: it holds the problem key
        with open(os.open(folder / f"{what}.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(config, file, indent=1, sort_keys=True, allow_nan=False)
        values = self.values(config, place, str(config.get("split", "train")))
        command = commands.expand(template, values, config.get("params", {}))
        variables: dict[str, str] = {}
        if self.subject.is_project:
            variables = {name: values[key] for key, name in commands.ENVIRONMENT.items() if key in values}
        seconds = times * (limits.train_seconds if what == "train" else limits.score_seconds)
        pristine = place.jail is None and place.code == self.snapshot.folder
        started = time.monotonic()

        def start(warm: WarmServer | None) -> processes.Result:
            with contextlib.ExitStack() as held:
                if self._devices is not None:
                    variables[VARIABLE] = held.enter_context(self._devices.one())
                jail = replace(place.jail, variables=variables) if place.jail else None
                return run_it(warm, jail)

        def run_it(warm: WarmServer | None, jail: Jail | None) -> processes.Result:
            return processes.run(
                command,
                cwd=place.code,
                log=folder / f"{what}.log",
                timeout_seconds=seconds,
                # An accelerator's driver maps far more address space than there is memory: no limit on that then.
                memory_mb=limits.memory_mb if self.subject.device == "cpu" else None,
                log_bytes=limits.log_bytes,
                on_progress=on_progress,
                cancel=cancel,
                jail=jail,
                keep=place.taken,
                keep_bytes=self.form.most_bytes if what == "train" else _EVALUATION_LIMIT,
                on_audit=on_audit,
                warm=warm,
                account=self.books / account if account else None,
                variables=variables,
                on_output=on_output,
            )

        try:
            try:
                result = start(self._warm.get("train" if what == "train" else "score") if pristine else None)
            except WarmLost as error:
                if what == "train":  # it may have reported: then it begins anew, as after an interruption
                    elapsed = time.monotonic() - started
                    raise Cancelled("its warm server died", usage=Usage(elapsed, elapsed, 0.0)) from error
                result = start(None)
        except (FileNotFoundError, PermissionError) as error:  # any other is this machine's trouble, not the subject's
            raise TrialFailed(f"`{what}_cmd` must start, but {error}; correct it in the subject.") from error
        except BadInput as error:  # the jail would show what it must not
            raise TrialFailed(str(error)) from error
        finally:
            (folder / "pid").unlink(missing_ok=True)
        if result.cancelled:
            raise Cancelled("ended by the controller", result.log_tail, result.usage)
        if result.timed_out:
            reason = f"{what}: ended at its limit of {seconds:g} s (limits.{what}_seconds)"
        elif result.killed_for:
            reason = f"{what}: killed for {result.killed_for}"
        elif result.exit_code != 0:
            said = _last_line(result.log_tail)
            reason = f"{what}: {_ending(result.exit_code)}: {said}{_shortage(result.exit_code, said, limits.memory_mb)}"
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


def _shortage(code: int, said: str, memory_mb: int) -> str:
    """In plain words what a training ran out of, where its end says so; "" else."""
    if code == -signal.SIGKILL:  # ours are timeouts, cancellations and the jail's, and never come here
        return " (killed by the system and not by evolve: most likely the machine had no memory left)"
    if code == -signal.SIGBUS:
        return " (most likely /dev/shm is full)"
    if any(words in said.lower() for words in _NO_MEMORY):
        return f" (out of memory: limits.memory_mb is {memory_mb})"
    return ""


def _last_line(text: str) -> str:
    """The last line of a log as text that is safe to show: printable characters only, at most 300."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "".join(c for c in lines[-1].strip() if c.isprintable())[:300] if lines else "(no output)"


class Watched:
    """What is seen of one jailed training from outside; nothing of a plain one."""

    def __init__(self, place: Place, bait: str | None) -> None:
        self._place, self._bait, self.trace, self._phases = place, bait, Trace(), Phases()
        self._canary: Canary | None = None

    def __enter__(self) -> Watched:
        if self._place.jail is not None:
            folder = self._place.jail.inputs["/vault"]
            self._canary = Canary(folder, str(folder), self._bait).__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        if self._canary is not None:
            self._canary.__exit__(*problem)

    def progress(self, take: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def both(line: bytes) -> None:
            self._phases.progress()
            take(line)

        return both

    def report(self, baseline: IntegrityReport | None) -> IntegrityReport:
        """At the training's end; what the pristine harness does as well is left out."""
        found = replace(self.trace.report(), phases=self._phases.end(), sandbox="bubblewrap",
                        canary=self._canary.state if self._canary else "not watched")  # fmt: skip
        return found if baseline is None else found.beyond(baseline)


class LocalExecutor:
    """`ports.Executor` on this machine: one process group per training; in the sandbox, where the code is edited."""

    def __init__(self, local: LocalProcesses) -> None:
        self._local = local
        self._pristine: IntegrityReport | None = None  # what the harness does by itself, before any edit
        self._lock = threading.Lock()

    def _config(self, candidate: Candidate, seed: int, fidelity: float, place: Place) -> dict[str, Any]:
        return {
            "params": {**self._local.subject.fixed, **candidate.params},
            "seed": seed,
            "fidelity": fidelity,
            "device": self._local.subject.device,
            "model": dict(self._local.subject.model),
            "assets": dict(place.assets),
        }

    def train(
        self, trial: Trial, candidate: Candidate, progress: Callable[[Progress], None], cancel: Cancel
    ) -> Training:
        local, folder = self._local, self._local.folder(trial)
        curve: list[Progress] = []

        def take(line: bytes, read: Callable[[bytes], Progress | None] = parse_progress) -> None:
            point = read(line)
            if point is not None:
                curve.append(point)
                progress(point)

        from_log = log_progress(local.subject.log_progress)

        try:
            place = self._place(candidate, folder)
            config = self._config(candidate, trial.seed, trial.fidelity, place)
            if place.jail is not None:
                baseline = self._baseline(candidate, local.checks / "pristine", cancel)
            with Watched(place, local.bait()) as watched:
                try:
                    result = local.run("train", local.subject.train_cmd, config, folder, cancel, watched.progress(take),
                                       place=place, on_audit=watched.trace.line, account=folder.name,
                                       on_output=(lambda line: take(line, from_log)) if from_log else None)  # fmt: skip
                    try:
                        weights = local.store.take(place.out / local.subject.weights.file, local.form, place.taken)
                    except TrialFailed as error:
                        raise TrialFailed(str(error), result.log_tail, result.usage) from error
                except TrialFailed as error:
                    if place.jail is not None:
                        error.integrity = watched.report(baseline)
                    raise
                integrity = None if place.jail is None else watched.report(baseline)
        finally:
            clear(folder / "out")
            clear(folder / "code")
            clear(folder / "canary")
        return Training(weights, result.usage, thin(curve, local.subject.progress), result.log_tail, integrity)

    def _baseline(self, candidate: Candidate, folder: Path, cancel: Cancel) -> IntegrityReport | None:
        """What the pristine harness imports, opens and loads in the sandbox; None where it does not run there.

        Found out once a session, by the smoke training: all that an edit's training does beyond it is worth a look.
        """
        with self._lock:
            if self._pristine is None:
                folder.mkdir(parents=True, exist_ok=True)
                place = self._local.jailed(folder, {})
                known = {name: v for name, v in candidate.params.items() if name not in candidate.declared}
                plain = replace(candidate, params=known, patch=None, declared={})
                try:
                    with Watched(place, self._local.bait()) as watched:
                        self._smoke(plain, place, folder, cancel, watched.trace.line)
                        self._pristine = watched.report(None)
                except Cancelled:
                    raise
                except TrialFailed:
                    return None
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
            return self._pristine

    def try_in_sandbox(self, candidate: Candidate, cancel: Cancel) -> Usage:
        """A short training of the pristine sources in the sandbox, as an edited one would run. Raises `TrialFailed`."""
        folder = self._local.checks / "pristine"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            place = self._local.jailed(folder, {})
            with Watched(place, self._local.bait()):
                return self._smoke(candidate, place, folder, cancel).usage
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _smoke(
        self,
        candidate: Candidate,
        place: Place,
        folder: Path,
        cancel: Cancel,
        on_audit: Callable[[bytes], None] | None = None,
        account: str | None = None,
    ) -> processes.Result:
        """A training of a `_SMOKE_FIDELITY` th, whose weights are looked at and thrown away. Raises `TrialFailed`."""
        subject = self._local.subject
        share = max(_SMOKE_FIDELITY, _SMOKE_SECONDS / subject.limits.train_seconds)
        if subject.is_project and not any("{fidelity}" in word for word in subject.train_cmd):
            share = 1.0  # it knows no shorter training
        config = self._config(candidate, 0, _SMOKE_FIDELITY, place)
        result = self._local.run("train", subject.train_cmd, config, folder, cancel, times=min(1.0, share), place=place,
                                 on_audit=on_audit, account=account)  # fmt: skip
        try:
            self._local.form.read(place.out / subject.weights.file, place.taken)
        except TrialFailed as error:
            raise TrialFailed(str(error), result.log_tail, result.usage) from error
        return result

    def _place(self, candidate: Candidate, folder: Path) -> Place:
        if candidate.patch is None:
            return self._local.pristine(folder, "train")
        try:
            self._local.snapshot.verify()
            return self._local.edited(folder, candidate.patch)
        except InvalidCandidate as error:
            raise TrialFailed(f"edit: {error}") from error
        except EvolveError as error:
            raise TrialFailed(str(error)) from error

    def check(self, candidate: Candidate, cancel: Cancel) -> Checked:
        """Parsing, imports and ruff's fatal rules by one small program, then a training of a `_SMOKE_FIDELITY` th."""
        assert candidate.patch is not None
        folder = self._local.checks / candidate.id[:SHORT]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            place = self._place(candidate, folder)
            if found := self._static(place, candidate.patch, folder, cancel):
                return found
            with Watched(
                place, self._local.bait()
            ):  # as in a real training, which code could tell from this one otherwise
                return Checked(usage=self._smoke(candidate, place, folder, cancel, account=folder.name).usage)
        except Cancelled:
            raise
        except TrialFailed as error:
            tail = "".join(c for c in error.log_tail[-_TOLD_CHARS:] if c == "\n" or c.isprintable())
            return Checked(
                "smoke",
                f"a training of {_SMOKE_FIDELITY:.0%} of the budget must end well, but {error}\n{tail}".strip(),
                error.usage,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _static(self, place: Place, patch: str, folder: Path, cancel: Cancel) -> Checked | None:
        """What `inside/check.py` finds, beside the edited code: the first stage that fails and its message, or None."""
        local, names = self._local, list(self._local.edits.files(patch))
        before, check = local.snapshot.folder, _INSIDE / "check.py"
        jail = None
        if place.jail is not None:
            inputs = {"/request.json": folder / "request.json", "/before": before}
            jail = replace(
                place.jail, inputs=inputs, keep=None, processes=4, gpu=False, audit=False
            )  # ruff is a process
            before, check = Path("/before"), Path("/evolve/check.py")
        ruff = Path(sys.executable).with_name("ruff")
        request = {
            "files": {name: name for name in names},
            "before": {name: str(before / name) for name in names},
            "imports": local.subject.imports,
            "ruff": str(ruff) if ruff.exists() else None,
        }
        (folder / "request.json").write_text(json.dumps(request))
        where = "/request.json" if jail else str(folder / "request.json")
        result = processes.run(
            [sys.executable, "-I", "-B", str(check), where],
            cwd=place.code, log=folder / "check.log", timeout_seconds=_STATIC_SECONDS, memory_mb=None,
            log_bytes=_STATIC_BYTES, on_progress=None, cancel=cancel, jail=jail,
        )  # fmt: skip
        if result.cancelled:
            raise Cancelled("ended by the controller")
        try:
            found = json.loads((folder / "check.log").read_bytes()[:_STATIC_BYTES])
            stage, error = str(found["stage"]), str(found["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return Checked(
                "parse",
                f"the file must be one that can be checked, but the check ended with: {_last_line(result.log_tail)}",
            )
        return Checked(stage, error) if stage else None


class LocalScorer:
    """`ports.Scorer` on this machine: a fresh process on pristine sources, one set of weights and problems at a time."""

    def __init__(self, local: LocalProcesses, secret: str) -> None:
        self._local, self._key, self._interpreter = local, problem_key(secret), Interpreter()
        self._lock, self._made_bait = threading.Lock(), list[str | None]()
        local.bait = self._bait_once

    def _bait_once(self) -> str | None:
        with self._lock:  # several trainings may begin at once
            if not self._made_bait:
                self._made_bait.append(self._bait())
            return self._made_bait[0]

    def _bait(self) -> str | None:
        """The subject's own false answers, made by its `canary_cmd` from the campaign's key; None without one.

        Raises `TrialFailed`.
        """
        local, subject = self._local, self._local.subject
        if not subject.canary_cmd:
            return None
        folder = local.trials.parent / _CANARY
        folder.mkdir(exist_ok=True)
        try:
            local.snapshot.verify()
            config = {"key": self._key, "n": _DECOYS, "assets": local.assets}
            local.run("score", subject.canary_cmd, config, folder, Cancel())
            with (folder / "out" / DECOY).open("rb") as file:
                return file.read(_EVALUATION_LIMIT).decode()
        except (EvolveError, OSError, ValueError) as error:
            raise TrialFailed(f"`canary_cmd` must leave {DECOY}, but {error}; correct it in the subject.") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # it holds the campaign's key

    def _begin(self, trials: Sequence[Trial], split: Split, round: int) -> tuple[Path, list[Path]]:
        """A folder to score in and the stored weights, after a look at all that a score rests on. Raises `TrialFailed`."""
        local = self._local
        if unweighed := [t.number for t in trials if t.weights is None]:
            raise TrialFailed(f"trial {unweighed[0]} has no weights to score")
        # Of one training beside its own files; of several, which may be scored elsewhere at the same time, in a folder for this.
        folder = (
            local.folder(trials[0]) if split == "search" else local.trials / f"{split}-{round}-{trials[0].number:05d}"
        )
        folder.mkdir(parents=True, exist_ok=True)
        try:
            local.snapshot.verify()
            self._interpreter.verify()
            return folder, [local.store.verified(str(t.weights)) for t in trials]
        except EvolveError as error:
            raise TrialFailed(str(error)) from error

    def _score_project(self, trial: Trial, split: Split, round: int, cancel: Cancel) -> Evaluation:
        """One set of weights by somebody else's scorer, which says its numbers in its own way."""
        local, subject = self._local, self._local.subject
        folder, [packed] = self._begin([trial], split, round)
        weights = folder / "weights"
        try:
            clear(weights)
            weights.mkdir()
            Bundle.unpack(packed.read_bytes(), weights)
            place = local.scoring(folder, weights, split)
            config = {
                "weights": place.words.get("weights", str(weights)), "split": split, "seed": trial.seed,
                "device": subject.device, "key": self._key, "round": round, "n": subject.problems,
                "fixed": dict(subject.fixed), "assets": dict(place.assets),
            }  # fmt: skip
            result = local.run("score", subject.score_cmd, config, folder, cancel, place=place)
            try:
                said = foreign.numbers(
                    place.taken or place.out / "evaluation.json", (folder / "score.log").read_bytes(), subject
                )
                raw = foreign.evaluation(said, subject)
            except ValueError as error:
                raise TrialFailed(
                    f"The scorer must say its {subject.objective.metric}, but {error}", result.log_tail
                ) from error
            if split == "search":
                (folder / f"evaluation-{split}-{round}.json").write_text(json.dumps(raw))
            return _evaluation(raw, subject, split)
        finally:
            (folder / "score.json").unlink(missing_ok=True)  # it holds the campaign's problem key
            clear(weights)
            clear(folder / "code")
            clear(folder / "out" if split == "search" else folder)

    def score(self, trials: Sequence[Trial], split: Split, round: int, cancel: Cancel) -> list[Evaluation]:
        if self._local.subject.is_project:
            return [self._score_project(trial, split, round, cancel) for trial in trials]
        local, subject = self._local, self._local.subject
        folder, weights = self._begin(trials, split, round)
        config = {
            "weights": [str(path) for path in weights],
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
