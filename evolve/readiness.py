"""`evolve check SUBJECT`: one baseline trial through the whole chain, and what is missing, in plain words. Part of the CLI.

Every finding says what was found and how to mend it. Those marked FAIL keep a campaign from running or its promotions from
meaning anything; a note is something that a person should know.
"""

from __future__ import annotations

import ast
import itertools
import re
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from evolve import config, sandbox
from evolve.errors import BadInput, EvolveError, TrialFailed
from evolve.executors import LocalExecutor, LocalProcesses, LocalScorer
from evolve.ports import Cancel, Training
from evolve.space import SearchSpace
from evolve.tracking_page import plain
from evolve.types import Candidate, Evaluation, Progress, Split, Subject, Trial, Usage
from evolve.weights import Bundle, WeightStore
from evolve.workspace import Snapshot

Result = TypeVar("Result")

INDENT = 17  # columns before a finding's text

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib", ".ckpt")
_HINTS = (
    (r"unrecognized arguments: (.*)", "the script does not know {0}: name in subject.space only what it takes"),
    (r"(?:ModuleNotFoundError: )?No module named '?([\w.]+)", "{0} is not installed for this interpreter: install it, or name"
     " another interpreter in the command"),
    (r"Read-only file system|Permission denied", "it writes beside its sources, which are a read-only copy: write into {{out}}"),
    (r"No such file or directory: '?([^'\n]+)", "it reads {0}, which is not among subject.sources or subject.data"),
    (r"urlopen error|Name or service not known|Temporary failure in name resolution|MaxRetryError|ConnectionError",
     "it needs the network, which the sandbox has not: put what it loads among subject.data or subject.readable"),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    level: Literal["ok", "note", "FAIL"]
    what: str  # one word or two
    text: str  # what was found, and how to mend it

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.what:<10} {self.text}"


def findings(path: str, overrides: list[str]) -> Iterator[Finding]:
    """What `evolve check` finds, as it finds it."""
    try:
        chosen = config.load([f"subject={path}", "tracking=none", *overrides])
    except BadInput as error:
        yield Finding("FAIL", "settings", str(error))
        return
    subject = chosen.subject
    yield Finding("ok", "settings", f"{subject.name}: {len(subject.space)} parameters, {_objectives(subject)}")
    yield from _before(subject, Path(chosen.root))
    with tempfile.TemporaryDirectory(prefix="evolve-check-") as place:
        try:
            snapshot = Snapshot.take(
                Path(chosen.root), subject.sources, Path(place) / "code", Path(chosen.state_dir), subject.outside
            )
        except BadInput as error:
            yield Finding("FAIL", "sources", str(error))
            return
        yield from _Trials(subject, snapshot, Path(place), chosen).findings()


def _objectives(subject: Subject) -> str:
    return ", ".join(f"{o.metric} ({o.direction})" for o in subject.objectives)


# ---------------------------------------------------------------- without running anything


def _before(subject: Subject, root: Path) -> Iterator[Finding]:
    train = " ".join(subject.train_cmd)
    if not any(place in train for place in ("{seed}", "{config}")) and "EVOLVE_SEED" not in _sources(
        subject.train_cmd, root
    ):
        yield Finding(
            "FAIL", "seed", "train_cmd takes no seed, so that noise cannot be told from gain: pass {seed} to the script"
        )
    named = [
        name for name in subject.space if "{params:" in train or "{config}" in train or f"{{param:{name}}}" in train
    ]
    unused = [name for name in subject.space if name not in named]
    if unused and "EVOLVE_CONFIG" not in _sources(subject.train_cmd, root):
        yield Finding(
                "FAIL", "space", f"{', '.join(unused)} never reaches the training: name it in train_cmd, such as"
                f" {{params:--key value}} or {{param:{unused[0]}}}"
            )  # fmt: skip
    reads = "{config}" in " ".join(subject.score_cmd) or "EVOLVE_CONFIG" in _sources(subject.score_cmd, root)
    if subject.fresh_problems and not reads:
        yield Finding(
            "FAIL", "problems", "fresh_problems says that the scorer draws them by key and round, but it never reads those: pass"
            " {config} to it"
        )  # fmt: skip
    if subject.unconfirmed:
        yield Finding(
            "note", "vault", "no data for the vault, so that promotions are marked as not confirmed: hold some back and name it"
            " in subject.data.vault"
        )  # fmt: skip
    same = [
        split
        for split in ("vault", "gate")
        if split in subject.data and subject.data[split] == subject.data.get("search")
    ]
    if same:
        yield Finding(
            "FAIL",
            "data",
            f"{same[0]} is the data of the search: what was searched on confirms nothing; hold some back",
        )
    reached = _reached(_scripts(subject.score_cmd, root), root)
    yield from _runs_answers(reached, root)
    if subject.editable:
        yield from _cheats(subject, reached)


def _runs_answers(reached: set[str], root: Path) -> Iterator[Finding]:
    """Where the scorer, whose files are `reached`, runs a text as Python."""
    for name in sorted(reached):
        try:
            tree = ast.parse((root / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            continue
        for node in ast.walk(tree):
            called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            plain_name = called in ("eval", "exec") and isinstance(getattr(node, "func", None), ast.Name)
            if plain_name or called in ("parse_expr", "sympify"):
                yield Finding(
                    "note", "scorer", f"{name}, line {getattr(node, 'lineno', 0)}, calls {called}: where that runs an answer of the"
                    " model as Python, a model can learn to write its own score; parse it instead"
                )  # fmt: skip
                return


def _cheats(subject: Subject, reached: set[str]) -> Iterator[Finding]:
    """Ways from an editable file to the score, whose files are `reached`."""
    if shared := sorted(set(subject.editable) & reached):
        yield Finding(
            "FAIL", "scorer", f"score_cmd runs {shared[0]}, which may be edited, so that a score could be cheated: move what the"
            " scorer needs into a file that is not editable"
        )  # fmt: skip


def _scripts(command: tuple[str, ...], root: Path) -> list[str]:
    found = [word for word in command if word.endswith(".py") and (root / word).is_file()]
    for flag, module in itertools.pairwise(command):
        if flag == "-m":
            found += [n for n in (f"{module.replace('.', '/')}.py",) if (root / n).is_file()]
    return found


def _reached(scripts: list[str], root: Path) -> set[str]:
    """Files of the project that these import, directly or not."""
    todo, seen = list(scripts), set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            tree = ast.parse((root / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            continue
        here = Path(name).parent
        for module in _imports(tree):
            file = module.replace(".", "/")
            for folder in {Path("."), here}:
                todo += [str(p) for p in (folder / f"{file}.py", folder / file / "__init__.py") if (root / p).is_file()]
    return seen


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}".lstrip(".") for alias in node.names)


def _sources(command: tuple[str, ...], root: Path) -> str:
    return "\n".join((root / name).read_text(encoding="utf-8", errors="replace") for name in _scripts(command, root))


# ---------------------------------------------------------------- by a trial


class _Trials:
    """The baseline's trainings and scores in a folder of their own."""

    def __init__(self, subject: Subject, snapshot: Snapshot, place: Path, chosen: config.Config) -> None:
        self.subject, self.snapshot = subject, snapshot
        level = sandbox.find()
        self.sandbox = (
            "none" if chosen.sandbox == "none" else level.name if level.name == "bubblewrap" else "unavailable"
        )
        trials = place / "trials"
        trials.mkdir()
        self.local = LocalProcesses(subject, snapshot, trials, WeightStore(place / "weights"), self.sandbox)
        self.executor, self.scorer = LocalExecutor(self.local), LocalScorer(self.local, "00" * 32)
        self.candidate = Candidate(SearchSpace(subject.space).default(), snapshot.version)
        self.progress: list[Progress] = []

    def findings(self) -> Iterator[Finding]:
        first = yield from self._attempt("train", lambda: self._train(0))
        if first is None:
            return
        usage = first.usage
        yield Finding(
            "ok", "train", f"{usage.wall_seconds:.1f} s, {usage.cpu_seconds:.1f} CPU s, {usage.peak_memory_mb:.0f} MB; leaves"
            f" {self.local.store.path(first.weights).stat().st_size / 1e6:.2g} MB"
        )  # fmt: skip
        left = self._left(first)
        if self.subject.editable and (pickled := [name for name in left if name.endswith(_PICKLES)]):
            yield Finding(
                "note", "weights", f"{pickled[0]} may hold a pickle, and loading one runs code: an edited training could forge its score"
                " that way; save safetensors, or leave editable empty"
            )  # fmt: skip
        if not self.progress:
            yield Finding(
                "note", "progress", "none is reported, so that there are no curves and nothing can be pruned: write JSON lines to"
                " the descriptor in EVOLVE_PROGRESS_FD, or say how its log does, such as log_progress:"
                r" 'step (?P<step>\d+) loss (?P<loss>\S+)'"
            )  # fmt: skip
        trial = replace(self._trial(0), weights=first.weights)
        score = yield from self._attempt("score", lambda: self._score(trial, "search"))
        if score is None:
            return
        yield Finding("ok", "score", f"{score.metric} {score.mean:.6g} ± {score.stderr:.2g} over {score.n}")
        if score.stderr == 0 and score.n == 1:
            yield Finding(
                "note", "error", "the scorer says no standard error, so that the vault can only compare numbers: print n for a share,"
                " or stderr, or per_problem"
            )  # fmt: skip
        yield from self._again(trial, score)
        yield from self._other_seed(first)
        if "vault" in self.subject.data or self.subject.fresh_problems:
            vault = yield from self._attempt("vault", lambda: self._score(trial, "vault"))
            if vault is not None:
                yield Finding("ok", "vault", f"{vault.metric} can be measured there")  # never its value
        if self.subject.editable:
            yield from self._in_sandbox()

    def _left(self, training: Training) -> list[str]:
        """Paths of the files that were kept."""
        if not self.subject.is_project:
            return []
        with tempfile.TemporaryDirectory() as place:
            Bundle.unpack(self.local.store.verified(training.weights).read_bytes(), Path(place))
            return sorted(str(p.relative_to(place)) for p in Path(place).rglob("*") if p.is_file())

    def _again(self, trial: Trial, score: Evaluation) -> Iterator[Finding]:
        again = yield from self._attempt("score", lambda: self._score(trial, "search"))
        if again is not None and again.mean != score.mean:
            yield Finding(
                "FAIL", "score", f"the same files scored {score.mean:.6g}, then {again.mean:.6g}: make the scorer deterministic (fix its"
                " seed)"
            )  # fmt: skip

    def _other_seed(self, first: Training) -> Iterator[Finding]:
        second = yield from self._attempt("train", lambda: self._train(1))
        if second is not None:
            if second.weights == first.weights:
                yield Finding(
                    "FAIL", "seed", "another seed left the very same files, so that noise cannot be told from gain: use the seed for"
                    " initialisation and order of the data"
                )  # fmt: skip
            else:
                yield Finding("ok", "seed", "another seed leaves other files")

    def _in_sandbox(self) -> Iterator[Finding]:
        if self.sandbox != "bubblewrap":
            yield Finding("note", "sandbox", f"edits are refused on this machine: {sandbox.find().reason}")
            return
        ran = yield from self._attempt("sandbox", self._smoke)
        if ran is not None:
            yield Finding("ok", "sandbox", "a training runs there too, so that edits can be tried")

    def _attempt(self, what: str, work: Callable[[], Result]) -> Generator[Finding, None, Result | None]:
        try:
            return work()
        except TrialFailed as error:
            yield Finding("FAIL", what, f"{error}{_hint(error.log_tail)}")
        except EvolveError as error:
            yield Finding("FAIL", what, str(error))
        return None

    def _trial(self, seed: int) -> Trial:
        return Trial(seed, self.candidate.id, "bank", seed, seed + 1, 1.0)

    def _train(self, seed: int) -> Training:
        return self.executor.train(self._trial(seed), self.candidate, self.progress.append, Cancel())

    def _score(self, trial: Trial, split: Split) -> Evaluation:
        return self.scorer.score([trial], split, 0, Cancel())[0]

    def _smoke(self) -> Usage:
        return self.executor.try_in_sandbox(self.candidate, Cancel())


def _hint(log: str) -> str:
    for pattern, text in _HINTS:
        if found := re.search(pattern, log):
            return f" ({text.format(*(plain(group, 200) for group in found.groups()))})"
    return ""
