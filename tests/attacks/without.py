"""The real program with exactly one defence taken out: a copy of the sources in which a few lines differ.

`program(folder, names)` makes it, and the commands run from there. A line that is not found once is an error, so that
this table cannot fall behind the program.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COPIED = ("evolve", "configs", "train", "evals")


@dataclass(frozen=True)
class Change:
    """In `file`, the one place where `old` stands becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Defence:
    """`says`: what is missing then, as a phrase after "without"."""

    says: str
    changes: tuple[Change, ...]


EXECUTORS, SANDBOX, LAUNCH = "evolve/executors.py", "evolve/sandbox.py", "evolve/inside/launch.py"
WEIGHTS, POLICY, REVIEW = "evolve/weights.py", "evolve/policy.py", "evolve/review.py"
PROCESSES = "evolve/processes.py"

# What a training says of itself becomes its score, by the sha256 of its weights.
_BELIEVE = (
    Change(
        EXECUTORS,
        "        return evaluations\n\n\ndef parse_evaluations",
        "        from dataclasses import replace\n"
        "        said = [CLAIMS.get(str(t.weights)) for t in trials]\n"
        "        return [e if s is None else replace(e, mean=s) for e, s in zip(evaluations, said)]\n\n\n"
        "def parse_evaluations",
    ),
    Change(EXECUTORS, "_CURVE_POINTS = 50\n", "_CURVE_POINTS = 50\nCLAIMS: dict[str, float | None] = {}\n"),
)
_RETURN = "        return Training(weights, "

DEFENCES: dict[str, Defence] = {
    # ---------------------------------------------------------------- the number
    "score from the scorer, not from output": Defence(
        "the rule that a score comes from the scorer: the last score in the output counts",
        (
            *_BELIEVE,
            Change(
                EXECUTORS,
                _RETURN,
                "        import re\n"
                "        said = re.findall(r'score\\W*([0-9.]+)', result.log_tail)\n"
                "        CLAIMS[weights] = float(said[-1]) if said else None\n" + _RETURN,
            ),
        ),
    ),
    "score from the scorer, not from progress": Defence(
        "the rule that a score comes from the scorer: the last metric of the progress counts",
        (
            *_BELIEVE,
            Change(
                EXECUTORS,
                _RETURN,
                "        CLAIMS[weights] = curve[-1].metrics.get('score') if curve else None\n" + _RETURN,
            ),
        ),
    ),
    "exit code": Defence(
        "a look at the exit code",
        (
            Change(EXECUTORS, "        elif result.exit_code != 0:\n", "        elif result.exit_code < 0:\n"),
            Change(LAUNCH, "    if status == 0 and not reason and settings.keep is", "    if not reason and settings.keep is"),
            Change(LAUNCH, "        kept=status == 0 and not reason and not kept", "        kept=not reason and not kept"),
        ),
    ),
    "a failure has no score": Defence(
        "the rule that a failed training has no score: it gets the best possible one, as where a time-out averages as 1.0",
        (
            *_BELIEVE,
            Change(
                EXECUTORS,
                "    def train(\n",
                "    def train(self, trial, candidate, progress, cancel):\n"
                "        try:\n"
                "            return self._train(trial, candidate, progress, cancel)\n"
                "        except TrialFailed as error:\n"
                "            local = self._local\n"
                "            weights = local.store.take(Path(local.assets[local.subject.weights.like]), local.form)\n"
                "            CLAIMS[weights] = 1.0\n"
                "            return Training(weights, error.usage, (), error.log_tail)\n"
                "\n"
                "    def _train(\n",
            ),
        ),
    ),
    "a process of its own for the scorer": Defence(
        "a process of its own for the scorer: it runs in the training's, at its end, and its output is believed",
        (
            Change(
                "train/quadratic/run.py",
                '    save(Path(arguments["--out"]) / "weights.safetensors", weights)\n',
                '    save(Path(arguments["--out"]) / "weights.safetensors", weights)\n'
                '    sys.path.insert(0, "evals/quadratic")\n'
                "    import score\n"
                "\n"
                '    given = {"split": "search", "round": 0, "n": 2000, "key": "00" * 32}\n'
                '    given["weights"] = [str(Path(arguments["--out"]) / "weights.safetensors")]\n'
                '    folder = Path(arguments["--out"])\n'
                '    (folder / "given.json").write_text(json.dumps(given))\n'
                '    sys.argv = ["score.py", "--config", str(folder / "given.json"), "--out", str(folder)]\n'
                "    score.main()\n"
                '    found = json.loads((folder / "evaluation.json").read_text())\n'
                "    print('score', found['evaluations'][0]['mean'])\n",
            ),
        ),
    ),
    "a process of its own for torch's scorer": Defence(
        "a process of its own for the scorer of the arithmetic subject",
        (
            Change(
                "train/run.py",
                '    save_file(weights, out / "weights.safetensors")\n',
                '    save_file(weights, out / "weights.safetensors")\n'
                "    from evals import score\n\n"
                '    given = {"split": "search", "round": 0, "n": 200, "key": "00" * 32, "device": "cpu"}\n'
                '    given |= {"weights": [str(out / "weights.safetensors")], "model": config["model"]}\n'
                '    found = score.score(given | {"assets": config["assets"]})\n'
                '    print("score", found["evaluations"][0]["mean"], flush=True)\n',
            ),
        ),
    ),
    "an evaluation of the scorer's own": Defence(
        "a folder of the scorer's own: an evaluation.json that the training left is taken",
        (
            Change(EXECUTORS, '            clear(folder / "out")\n            clear(folder / "code")\n', ""),
            Change(
                EXECUTORS,
                "        clear(place.out)\n        place.out.mkdir()\n",
                "        place.out.mkdir(exist_ok=True)\n",
            ),
            Change(
                EXECUTORS,
                '        try:\n            result = local.run("score"',
                '        if (left := folder / "out" / "evaluation.json").exists():\n'
                "            return parse_evaluations(left, subject, split, len(trials))\n"
                '        try:\n            result = local.run("score"',
            ),
        ),
    ),
    "pristine sources for the scorer": Defence(
        "pristine sources for the scorer: it runs those of the last edit",
        (
            Change(EXECUTORS, "_CURVE_POINTS = 50\n", "_CURVE_POINTS = 50\nTREES: list[Path] = []\n"),
            Change(
                EXECUTORS,
                "            return self._local.edited(folder, candidate.patch)\n",
                '            tree = self._local.trials.parent / "tree"\n'
                "            TREES.append(self._local.edits.tree(candidate.patch, tree))\n"
                "            return self._local.edited(folder, candidate.patch)\n",
            ),
            Change(
                EXECUTORS,
                'local.run("score", subject.score_cmd, config, folder, cancel, times=len(trials))\n',
                'local.run("score", subject.score_cmd, config, folder, cancel, times=len(trials),\n'
                '                               place=replace(local.pristine(folder, "score"), code=TREES[-1]))\n',
            ),
        ),
    ),
    "a scorer that minds NaN": Defence(
        "a scorer in which a comparison with NaN fails: in this one it holds",
        (Change("evals/quadratic/score.py", "int(u < skill)", "int(not u >= skill)"),),
    ),
    # ---------------------------------------------------------------- the weights
    "layout of the weights": Defence(
        "the check of names and shapes",
        (
            Change(WEIGHTS, "        if found[name] != expected:\n", "        if False:\n"),
            Change(WEIGHTS, "    if extra := sorted(set(found) - set(layout.tensors)):\n", "    if extra := []:\n"),
        ),
    ),
    "finite weights": Defence(
        "the check that weights are finite",
        (Change(WEIGHTS, "        if not np.isfinite(numeric).all():\n", "        if False:\n"),),
    ),
    "safetensors alone": Defence(
        "the rule that weights are a safetensors file: a pickle is loaded as well",
        (
            Change(
                WEIGHTS,
                '    try:\n        header_size = int.from_bytes(data[:8], "little")\n',
                "    import pickle\n"
                '    data = pickle.loads(data) if data[:1] == b"\\x80" else data\n'
                '    try:\n        header_size = int.from_bytes(data[:8], "little")\n',
            ),
        ),
    ),
    "links are not followed": Defence(
        "the rule that links are not followed on the way to the weights",
        (
            Change(
                WEIGHTS,
                "os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)",
                "os.open(path.name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)",
            ),
        ),
    ),
    # ---------------------------------------------------------------- the sandbox
    "the sandbox": Defence(
        "the sandbox: edited code runs as a plain process",
        (Change(EXECUTORS, '        if self.sandbox == "none":\n', "        if True:\n"),),
    ),
    "no network": Defence(
        "a network of its own",
        (
            Change(
                SANDBOX,
                '"--unshare-all", "--unshare-user", *more',
                '"--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", *more',
            ),
        ),
    ),
    "the campaign's files are not there": Defence(
        "the rule that the sandbox shows no file of the campaign: its folder is there, and can be written",
        (
            Change(
                SANDBOX,
                '    words += ["--ro-bind", str(jail.code), "/code"]\n',
                '    words += ["--ro-bind", str(jail.code), "/code"]\n'
                '    if "campaigns" in jail.code.parts:\n'
                '        words += ["--bind", str(jail.code.parents[1]), str(jail.code.parents[1])]\n',
            ),
        ),
    ),
    "the code is read-only": Defence(
        "the read-only mount of the code",
        (
            Change(
                SANDBOX,
                '    words += ["--ro-bind", str(jail.code), "/code"]\n',
                '    words += ["--bind", str(jail.code), "/code"]\n',
            ),
        ),
    ),
    "the sources are checked again": Defence(
        "the check of the sources before each score",
        (
            Change(
                "evolve/workspace.py",
                "        if any((self.folder / f).is_symlink() for f in files) or tree_hash",
                "        if False and tree_hash",
            ),
        ),
    ),
    "the copy of an edit is read again": Defence(
        "the comparison of an edit's copy with its patch before each training",
        (
            Change(
                "evolve/workspace.py",
                "            if target.is_symlink() or not target.exists() or target.read_bytes() != data:\n",
                "            if not target.exists():\n",
            ),
        ),
    ),
    "the canary is watched": Defence(
        "the watch on the canary",
        (
            Change(
                EXECUTORS,
                'canary=self._canary.state if self._canary else "not watched")',
                'canary="untouched")',
            ),
        ),
    ),
    "a clean environment": Defence(
        "the allow-list of the environment",
        (
            Change(
                PROCESSES,
                "    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}\n",
                "    env = dict(os.environ)\n",
            ),
            Change(
                SANDBOX,
                '    env = {k: v for k, v in given.items() if k in names or k.endswith("_NUM_THREADS") '
                'or k.startswith("PYTHON")}\n',
                "    env = dict(given)\n",
            ),
        ),
    ),
    "the search for runaways": Defence(
        "what has left a plain training's session goes on",
        (
            Change(
                PROCESSES,
                "        if jail is None:\n            cleanup.callback(_end_daemons, log.parent)\n",
                "",
            ),
        ),
    ),
    "no descriptor of the controller's": Defence(
        "the list of descriptors that are passed on: one of the controller's open files, the campaign's secret, is as well",
        (
            Change(
                PROCESSES,
                "            plan = _jailed(command, jail, pipes, keep, keep_bytes, on_progress, on_audit)\n",
                "            plan = _jailed(command, jail, pipes, keep, keep_bytes, on_progress, on_audit)\n"
                "            secret = os.open(log.parents[2] / 'secret', os.O_RDONLY)\n"
                "            pipes._open.append(secret)\n"
                "            plan = _Plan(**{**vars(plan), 'theirs': [*plan.theirs, secret]})\n",
            ),
            Change(
                LAUNCH,
                "        if int(name) > 2 and int(name) not in settings.passed:\n",
                "        if int(name) < 0:\n",
            ),
        ),
    ),
    "a new scratch folder": Defence(
        "a new scratch folder for each training: one folder of the machine's serves all",
        (
            Change(
                SANDBOX,
                '    words += ["--size", str(jail.scratch_mb * _MB), "--perms", "0700", "--tmpfs", "/scratch"]\n',
                '    words += ["--bind", _shared(jail), "/scratch"]\n',
            ),
            Change(
                SANDBOX,
                "def _environment(given",
                "def _shared(jail: Jail) -> str:\n"
                '    (jail.code.parents[1] / "scratch").mkdir(exist_ok=True)\n'
                '    return str(jail.code.parents[1] / "scratch")\n\n\n'
                "def _environment(given",
            ),
            Change(LAUNCH, "MOST_FILES = 100_000 ", "MOST_FILES = 100_000_000_000 "),
        ),
    ),
    "the filter of system calls": Defence(
        "the filter of system calls", (Change(LAUNCH, "        if program:\n", "        if False:\n"),)
    ),
    "the count of processes": Defence(
        "the count of processes", (Change(LAUNCH, "        if processes > self.processes:\n", "        if False:\n"),)
    ),
    "the limit of memory": Defence(
        "the limit of memory",
        (
            Change(LAUNCH, "        if settings.memory_mb is not None:\n            limit(", "        if False:\n            limit("),
            Change(LAUNCH, "        if self.memory_mb is not None and kb", "        if False and kb"),
        ),
    ),
    "bounded output": Defence(
        "the limit of what is kept of a training's output",
        (Change(PROCESSES, "        head, rest = data[: self._room], data[self._room :]\n", '        head, rest = data, b""\n'),),
    ),
    "a session of its own": Defence(
        "a session of its own, apart from the person's terminal",
        (
            Change(SANDBOX, '        "--new-session", "--cap-drop"', '        "--cap-drop"'),
            Change(PROCESSES, "            start_new_session=True,\n", "            start_new_session=False,\n"),
        ),
    ),
    # ---------------------------------------------------------------- the verdict
    "equal compute": Defence(
        "the rule of equal compute", (Change(POLICY, "    if not broken:\n", "    if True:\n"),)
    ),
    "the controller's own clock": Defence(
        "the controller's own count of CPU seconds: what the training reports counts",
        (
            Change(
                EXECUTORS,
                _RETURN,
                "        from dataclasses import replace\n"
                "        said = curve[-1].metrics.get('cpu_seconds') if curve else None\n"
                "        if said is not None:\n"
                "            result = replace(result, usage=replace(result.usage, cpu_seconds=said))\n" + _RETURN,
            ),
        ),
    ),
    "the gate": Defence(
        "the gate: a better score on `search` is accepted",
        (
            Change(
                POLICY,
                "        verdict = evidence[0].judge(rules.gate, corrected=True)\n",
                '        verdict = replace(evidence[0].judge(rules.gate, corrected=True), decision="ACCEPT")\n',
            ),
        ),
    ),
    "the vault": Defence(
        "the vault's answer",
        (
            Change(
                POLICY,
                'verdict.decision == "ACCEPT", verdict))',
                "True, verdict))",
            ),
        ),
    ),
    "reports are compared within one patch": Defence(
        "the rule that reports of edited code are compared with those of the same patch alone",
        (
            Change(
                "evolve/pruning.py",
                '        patch = self._patches.get(self._candidates[number], "")\n',
                '        patch = ""\n',
            ),
        ),
    ),
    # ---------------------------------------------------------------- the person
    "a terminal at the prompt": Defence(
        "the rule that a person sits at a terminal",
        (
            Change(
                REVIEW, "    if not (stdin.isatty() and stdout.isatty()):\n", "    if False:\n"
            ),
            Change(REVIEW, "    termios.tcflush(sys.stdin, termios.TCIFLUSH)\n", "    del termios\n"),
        ),
    ),
    "the hash at the door": Defence(
        "the comparison of the approved hash with what waits, in the command",
        (Change("evolve/cli.py", "    if given != request.content_hash:\n", "    if False:\n"),),
    ),
    "the hash in the history": Defence(
        "the comparison of the approved hash with what waits, where it becomes history",
        (
            Change(
                POLICY,
                '    if command.content_hash != request.content_hash:\n        return _refuse(\n            command, f"An approval',
                '    if False:\n        return _refuse(\n            command, f"An approval',
            ),
        ),
    ),
    "clean text": Defence(
        "the cleaning of foreign text",
        (
            Change(
                "evolve/tracking_page.py",
                "    text = text[: 50 * limit]  # a bound on the work, whatever was sent\n",
                "    return text\n",
            ),
        ),
    ),
}  # fmt: skip


def program(target: Path, names: Sequence[str]) -> Path:
    """Makes the program without these defences at `target`, which must not be there, and returns its folder."""
    for part in _COPIED:
        shutil.copytree(ROOT / part, target / part)  # with compiled files, which stay valid
    for change in changes(names):
        path = target / change.file
        text = path.read_text()
        assert text.count(change.old) == 1, (
            f"{change.file} must hold once, but holds {text.count(change.old)} times: {change.old}"
        )
        path.write_text(text.replace(change.old, change.new))
        os.utime(path, (1, 1))  # older than the compiled one: it is not taken for it
    return target


def changes(names: Sequence[str]) -> list[Change]:
    return list(dict.fromkeys(change for name in names for change in DEFENCES[name].changes))
