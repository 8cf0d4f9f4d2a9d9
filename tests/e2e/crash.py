"""Campaigns that are killed by SIGKILL again and again, and what must hold afterwards.

A campaign of the quadratic subject goes through its whole life by the real command: baseline, search, a person's candidates,
gate, vault, approval, promotion, rollback. Its journal and /proc are followed, and at a named phase, or at any moment, one
of its processes is killed. After each kill the next command goes on; `violations` says what was lost, doubled or left over.

`Serial` kills only what a restart must make unseen (the controller, and the commands of a person): its journal must equal
that of a campaign nobody disturbed. `Rough` kills trainings, scorers, warm servers and forks as well, with several workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolve import campaign as files
from evolve import sandbox
from evolve.journal import read, stable

from .cli import ROOT, SECRET, SMALL_GATE, Evolve

GOOD = ("y=0.6", "size=32", "mode=curved")  # far above the default: it is accepted, and waits for approval
# What of the journal says that a phase has begun: (type of event, what its data must hold).
PHASES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "propose": (("Proposed", {}), ("HumanProposed", {})),
    "validate": (("EditCheckStarted", {}),),
    "train": (("TrialStarted", {}),),
    "score": (),  # a scorer's process
    "intensify": (("ChallengeOpened", {}), ("ScoreStarted", {"split": "gate"})),
    "vault": (("VaultAsked", {}), ("ScoreStarted", {"split": "vault"})),
    "await approval": (("ApprovalRequested", {}),),
    "resume": (),  # before the session's first event, or right after
    "any": (),
    "inbox": (),
    "promote": (("Decided", {}), ("Promoted", {})),
    "rollback": (("RolledBack", {}),),
}
SEARCHING = ("propose", "train", "score", "resume", "any")
JUDGING = (*SEARCHING, "validate", "intensify", "vault", "await approval")
WAIT = 60.0  # seconds for a phase to come, or a process to end


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    start: int  # clock ticks since boot: with the pid it names one process for good
    words: str

    @property
    def alive(self) -> bool:
        return any(p.pid == self.pid and p.start == self.start for p in processes())


def processes(folder: Path | None = None) -> list[Process]:
    """Living ones; with `folder` those whose command line or working directory is in it."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        place = Path("/proc") / entry
        try:
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (place / "stat").read_text().rsplit(")", 1)[1].split()
            if fields[0] == "Z" or (folder and f"{folder}/" not in words and not _is_in(place, folder)):
                continue
        except OSError:
            continue
        found.append(Process(int(entry), int(fields[1]), int(fields[19]), words))
    return found


def _is_in(place: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.readlink(place / "cwd").startswith(f"{folder}/")
    return False


@dataclass
class Told:
    """What was done, and what went wrong."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)  # (phase, victim) -> how often
    violations: list[str] = field(default_factory=list)
    checks: int = 0
    seconds: float = 0.0

    def add(self, other: Told) -> None:
        self.kills += other.kills
        self.violations += other.violations
        self.checks += other.checks
        self.seconds += other.seconds


def repository(root: Path) -> None:
    """The quadratic subject as a user's repository, with a training that keeps an account of its CPU time."""
    for part in ("train/quadratic", "evals/quadratic"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).parent / "bench" / "counted.py", root / "train/quadratic/counted.py")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "begin")


def git(root: Path, *words: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    return subprocess.run(["git", "-C", str(root), *who, *words], capture_output=True, text=True, check=True).stdout


def subject(root: Path, *, warm: bool = False) -> tuple[str, ...]:
    """Overrides for that repository; with `warm` its commands are ones that a server can fork."""
    options = "" if warm else '"-S","-E","-B",'
    command = '["{python}",%s"%s","--config","{config}","--out","{out}"]'
    words = (
        "subject=quadratic", *SMALL_GATE, f"subject.root={root}", "max_attempts=1000",
        f"subject.train_cmd={command % (options, 'train/quadratic/counted.py')}",
    )  # fmt: skip
    if not warm:
        return words
    return (*words, f"subject.score_cmd={command % (options, 'evals/quadratic/score.py')}", "+subject.preload=[json]")


class Campaign:
    """One campaign `c` in the folder of `evolve`, its kills and its checks."""

    def __init__(self, evolve: Evolve, root: Path, overrides: tuple[str, ...], seed: int, name: str = "c") -> None:
        self.evolve, self.root, self.overrides, self.name = evolve, root, overrides, name
        self.random = random.Random(seed)
        self.told = Told()
        self.tracked = not any(word == "tracking=none" for word in overrides)
        self._history = b""  # of the journal, as it was at the last kill
        self._left: list[Process] = []  # alive after the last kill
        self._log = (evolve.cwd / f"{name}.log").open("a")

    @property
    def folder(self) -> Path:
        return self.evolve.folder(self.name)

    def journal(self) -> bytes:
        """Its whole lines."""
        with contextlib.suppress(FileNotFoundError):
            data = (self.folder / "journal.jsonl").read_bytes()
            return data[: data.rfind(b"\n") + 1]
        return b""

    def violation(self, text: str) -> None:
        self.told.violations.append(f"{self.evolve.cwd}, {self.name}: {text}")

    # ------------------------------------------------ one kill

    def start(self, *words: str) -> subprocess.Popen[str]:
        return self.evolve.start(*words, stdout=self._log, stderr=self._log)

    def events(self, process: subprocess.Popen[str], begin: int) -> Iterator[dict[str, Any]]:
        """The journal's events behind byte `begin` as they come, {} in between, until the process has ended."""
        until = time.monotonic() + WAIT
        while True:
            over = process.poll() is not None
            data = self.journal()[begin:]
            begin += len(data)
            for line in data.splitlines():
                yield json.loads(line)
            if over:
                return
            if time.monotonic() > until:
                self.violation(f"nothing happened for {WAIT:.0f} s")
                process.kill()
                return
            yield {}
            time.sleep(0.002)

    def wait_for_phase(self, process: subprocess.Popen[str], phase: str) -> bool:
        """Whether the phase comes before the process ends; then a moment of it has passed."""
        begin, draw = len(self.journal()), self.random
        moment = draw.uniform(0, 0.04)
        wanted: list[tuple[str, dict[str, Any]]] = list(PHASES[phase])
        skip = draw.randrange(3) if phase in ("train", "propose", "score") else 0
        if phase == "resume":
            if draw.random() < 0.5:
                moment = draw.uniform(0.05, 1.5)
                wanted = [("", {})]
            else:
                wanted = [("SessionStarted", {})]
        if phase == "any":
            wanted, moment = [("SessionStarted", {})], draw.uniform(0, 1.5)
        for event in self.events(process, begin):
            if (wanted and wanted[0][0] == "") or any(
                event and event["type"] == kind and data.items() <= event["data"].items() for kind, data in wanted
            ) or (phase == "score" and not event and self.find("scorer")) or (
                phase == "inbox" and list((self.folder / "inbox").glob("*.json"))
            ):  # fmt: skip
                if skip:
                    skip -= 1
                    continue
                time.sleep(moment)
                return process.poll() is None
        return False

    def kill(self, words: tuple[str, ...], phase: str) -> bool:
        """Starts a command and kills it in that phase; whether it got that far and was still alive."""
        process = self.start(*words)
        came = self.wait_for_phase(process, phase)
        if came:
            process.kill()
        code = process.wait(WAIT)
        if code == -signal.SIGKILL:
            self.told.kills[phase, "controller" if words[0] in ("run", "resume") else words[0]] += 1
            self.after_kill()
            return True
        if code != 0:
            self.violation(f"{words} ended with exit code {code}, see {self._log.name}")
        return False

    def find(self, victim: str) -> list[Process]:
        """Processes of this campaign by what they are."""
        mine = processes(self.folder)
        servers = {p.pid for p in mine if "serve.py" in p.words and "/trials/" not in p.words}
        forks = [p for p in mine if p.parent in servers and "serve.py" in p.words]
        match victim:
            case "training":
                return [p for p in mine if f"{self.folder}/trials/" in p.words and "train.json" in p.words]
            case "scorer":
                return [p for p in mine if f"{self.folder}/trials/" in p.words and "score.json" in p.words]
            case "fork":
                return forks
            case "warm server":
                return [p for p in mine if p.pid in servers and p not in forks]
            case _:
                return [p for p in processes() if victim in p.words and str(self.evolve.cwd) in p.words]

    # ------------------------------------------------ what must hold

    def after_kill(self) -> None:
        self.check_journal()
        self._left = processes(self.folder)

    def check_journal(self) -> None:
        """Nothing that was there is gone or changed, and nothing is there twice."""
        self.told.checks += 1
        now = self.journal()
        if not now.startswith(self._history):
            self.violation("the journal from before the kill is not the beginning of the later one")
        self._history = now
        if not now:
            return
        finished: Counter[int] = Counter()
        scored: Counter[tuple[Any, ...]] = Counter()
        for record, _ in read(self.folder / "journal.jsonl"):  # raises where the chain does not hold
            match type(record.event).__name__:
                case "TrialFinished":
                    finished[record.event.number] += 1  # type: ignore[union-attr]
                case "Scored" if record.event.evaluation is not None:  # type: ignore[union-attr]
                    scored[record.event.number, record.event.split, record.event.round] += 1  # type: ignore[union-attr]
        self.violations_of("finished twice", finished)
        self.violations_of("scored twice", scored)

    def violations_of(self, what: str, counts: Counter[Any]) -> None:
        for key, count in counts.items():
            if count > 1:
                self.violation(f"{what}: {key}")

    def check_rest(self) -> None:
        """After an orderly end: processes, files, spend, MLflow, the exported study, the user's tree."""
        self.check_journal()
        if left := processes(self.folder):
            self.violation(f"processes are left: {[p.words for p in left]}")
        state = files.load(files.Folder(self.folder))
        used = self.used()
        if state.spend.train_seconds < used:
            self.violation(f"spend is {state.spend.train_seconds:.3f} CPU s, but {used:.3f} were used")
        for trial in (self.folder / "trials").iterdir():
            names = sorted(p.name for p in trial.iterdir())
            if len(names) > 5 or {"pid", "used", "out", "score.json"} & set(names):
                self.violation(f"files are left in {trial.name}: {names}")
        if git(self.root, "status", "--porcelain"):
            self.violation("the subject's repository was changed")
        self.check_study(state)
        if self.tracked:
            self.check_mlflow(state)

    def used(self) -> float:
        """CPU seconds of all trainings by their own account."""
        texts = [path.read_text() for path in (self.evolve.cwd / "cpu").glob(f"{self.name}-*")]
        return sum(float(text) for text in texts if text)

    def check_study(self, state: Any) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.evolve("export-study", self.name, timeout=3600)  # of Optuna's about 12 ms a trial
        study = optuna.load_study(study_name=self.name, storage=f"sqlite:///{self.folder}/study.db")
        if len(study.trials) != len(state.entries):
            self.violation(f"{len(study.trials)} trials in the study, {len(state.entries)} candidates in the journal")
        for trial, (candidate, entry) in zip(study.trials, state.entries.items(), strict=False):
            score = state.search_score(candidate)
            value = trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None
            if dict(trial.params) != dict(entry.proposal.candidate.params) or value != (score.mean if score else None):
                self.violation(f"candidate {candidate[:8]} is {score} in the journal, {trial.value} in the study")

    def check_mlflow(self, state: Any) -> None:
        done = self.evolve.raw("sync", "--campaign", self.name, timeout=3600)
        if done.returncode:
            self.violation(f"sync: {done.stdout} {done.stderr}")
        database = sqlite3.connect(self.evolve.cwd / ".evolve" / "mlflow.db")
        with contextlib.closing(database):
            query = """SELECT CAST(number.value AS INTEGER), runs.status, score.value FROM runs
                JOIN tags AS number ON number.run_uuid = runs.run_uuid AND number.key = 'evolve.trial'
                JOIN tags AS name ON name.run_uuid = runs.run_uuid AND name.key = 'evolve.campaign' AND name.value = ?
                LEFT JOIN latest_metrics AS score ON score.run_uuid = runs.run_uuid AND score.key = 'score'
                WHERE runs.lifecycle_stage = 'active'"""
            shown = list(database.execute(query, [self.name]))
        if more := {row[0] for row in shown} - set(state.trials):
            self.violation(f"MLflow has runs of trials {sorted(more)}, the journal has not")
        status = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
        for trial in state.trials.values():
            if trial.state in status:
                wanted = (trial.number, status[trial.state], trial.score.mean if trial.score else None)
                runs = [row for row in shown if row[0] == trial.number]
                if runs != [wanted]:
                    self.violation(f"trial is {wanted} in the journal, {runs} in MLflow")

    def end(self) -> None:
        self.evolve.end()
        self._log.close()


class Serial(Campaign):
    """A whole life with one worker; with kills it must come to the same as without."""

    def life(self, kills: list[str], *, short: bool = False) -> list[dict[str, Any]]:
        """Runs it, killing once for each phase in `kills` that comes; the stable journal. `short`: without the steps that
        repeat others."""
        began = time.monotonic()
        resume = ("resume", self.name)
        self.session(
            ("run", *self.overrides, f"campaign={self.name}", "budget.trials=6", "proposer=random"), kills, SEARCHING
        )
        self.person("HumanProposed", lambda: ("try", *GOOD), "inbox", kills)
        if not short and sandbox.find().name == "bubblewrap":
            edit = self.evolve.cwd / "recipe.py"
            edit.write_text(
                (self.root / "train/quadratic/recipe.py").read_text() + "\n# an edit that changes nothing\n"
            )
            self.person("HumanProposed", lambda: ("try", "--patch", str(edit), "y=1.1"), "inbox", kills)
        self.session((*resume, "budget.trials=18"), kills, JUDGING)
        self.person("Decided", self.approve, "promote", kills)
        if not short:
            self.session((*resume, "budget.trials=24"), kills, SEARCHING)
        self.person("RolledBack", lambda: ("rollback",), "rollback", kills)
        self.session((*resume, f"budget.trials={19 if short else 27}"), kills, SEARCHING)
        self.check_rest()
        self.told.seconds += time.monotonic() - began
        return list(stable(record for record, _ in read(self.folder / "journal.jsonl")))

    def approve(self) -> tuple[str, ...]:
        request = next(iter(files.load(files.Folder(self.folder)).pending.values()))
        return ("approve", request.candidate_id, "--yes", request.content_hash)

    def session(self, words: tuple[str, ...], kills: list[str], phases: tuple[str, ...]) -> None:
        """To its end, with a kill in each of the phases that are in `kills`, which are taken out of it."""
        for phase in [phase for phase in kills if phase in phases]:
            if not self.told.kills and not self.journal() and phase == "resume":
                continue
            if self.kill(words, phase):
                kills.remove(phase)
            if self.journal():
                words = ("resume", self.name, *(w for w in words if w.startswith("budget.")))
            if self._is_over():
                return
        survivors = self._left
        self.evolve(*words)
        self.check_journal()
        for process in survivors:
            if process.alive:
                self.violation(f"a killed session left {process.words}")

    def _is_over(self) -> bool:
        """Whether the last command came to its end before it could be killed."""
        lines = self.journal().splitlines()
        return bool(lines) and json.loads(lines[-1])["type"] == "CampaignStopped"

    def person(self, event: str, words: Callable[[], tuple[str, ...]], phase: str, kills: list[str]) -> None:
        """A person's command that is killed, and given again where it had not got as far as the inbox."""
        before = len(self.evolve.seen(self.name, event))
        if phase in kills:
            kills.remove(phase)
            self.kill((*words(), "--campaign", self.name), phase)
        if list((self.folder / "inbox").glob("*.json")):
            self.evolve("sync", "--campaign", self.name)
        if len(self.evolve.seen(self.name, event)) == before:
            self.evolve(*words(), "--campaign", self.name)


def serial(folder: Path, seed: int, kills: list[str], *overrides: str, short: bool = False) -> Told:
    """One campaign with kills and, beside it, its undisturbed twin, in `folder`."""
    root = folder / "subject"
    repository(root)
    (folder / "secret").write_text(SECRET)
    words = (*subject(root), f"seed={seed}", f"secret_file={folder / 'secret'}")

    def live(name: str, given: list[str], *more: str) -> tuple[Told, list[dict[str, Any]]]:
        (folder / name).mkdir()
        campaign = Serial(Evolve(folder / name), root, (*words, *more), seed)
        try:
            return campaign.told, campaign.life(given, short=short)
        finally:
            campaign.end()

    with ThreadPoolExecutor(2) as pool:
        twin = pool.submit(live, "twin", [], "tracking=none")
        told, killed = live("killed", list(kills), *overrides)
    undisturbed, expected = twin.result()
    told.add(undisturbed)
    if killed != expected:
        told.violations.append(f"{folder}: the campaign with kills came to something else than its twin")
    return told


class Rough(Campaign):
    """Several workers; whatever runs may be killed, and what a training's death costs it may cost."""

    COLD, WARM = (
        ("training", "scorer"),
        ("warm server", "fork"),
    )  # and the controller, and the tracker where it is a process

    def life(self, kills: int, workers: int) -> None:
        """So many kills of the victims in turns; then an orderly end and all checks."""
        began = time.monotonic()
        words: tuple[str, ...] = ("run", *self.overrides, f"campaign={self.name}", "budget.trials=100000",
                                  "proposer=random", f"executor.workers={workers}")  # fmt: skip
        others = self.WARM if "+subject.preload=[json]" in self.overrides else self.COLD
        victims = ["controller", *others]
        process = None
        for _ in range(3 * kills):  # a victim may not be there in time, or its death end the session
            number = sum(self.told.kills.values())
            if number == kills:
                break
            if process is None or process.poll() is not None:
                process = self.session(words)
                words = ("resume", self.name)
                if self.tracked and self.find("tracker") and "tracker" not in victims:
                    victims.append("tracker")
            self.one(process, victims[number % len(victims)])
        self.stop(process)
        self.check_rest()
        self.told.seconds += time.monotonic() - began

    def session(self, words: tuple[str, ...]) -> subprocess.Popen[str]:
        """A controller that has begun; by then nothing of the one before is left."""
        before = self._left
        begin = len(self.journal())
        process = self.start(*words)
        for event in self.events(process, begin):
            if event and event["type"] == "TrialStarted":
                break
        for left in before:
            if left.alive:
                self.violation(f"a killed session left {left.words}")
        self.check_journal()
        return process

    def one(self, process: subprocess.Popen[str], victim: str) -> None:
        time.sleep(self.random.uniform(0, 0.3))
        until = time.monotonic() + 3
        while time.monotonic() < until and process.poll() is None:
            if victim == "controller":
                process.kill()
                process.wait()
                self.told.kills["any", victim] += 1
                self.after_kill()
                return
            if found := self.find(victim):
                time.sleep(self.random.uniform(0, 0.02))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.random.choice(found).pid, signal.SIGKILL)
                    self.told.kills["any", victim] += 1
                return
            time.sleep(0.002)

    def stop(self, process: subprocess.Popen[str] | None) -> None:
        """In order, by one interrupt; a session that is over by then is followed by one more."""
        for _ in range(5):
            if process is None or process.poll() is not None:
                process = self.session(("resume", self.name))
            process.send_signal(signal.SIGINT)
            if process.wait(WAIT) == 130:
                return
        self.violation("it could not be stopped in order")


def rough(folder: Path, seed: int, kills: int, *overrides: str, warm: bool = False, workers: int = 3) -> Told:
    root = folder / "subject"
    repository(root)
    campaign = Rough(Evolve(folder), root, (*subject(root, warm=warm), f"seed={seed}", *overrides), seed)
    try:
        campaign.life(kills, workers)
    finally:
        campaign.end()
    return campaign.told
