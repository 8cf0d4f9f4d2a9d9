"""One attack in one campaign, through the command line: what it tried for, and whether it got there."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
from e2e.cli import QUADRATIC, SECRET, Evolve

from attacks.without import changes, program
from evolve import campaign

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECIPE = "train/quadratic/recipe.py"
HIGH = 0.5  # a score that no honest training of the base comes near: the default has 0.13, the best one 0.98
LIMITS = (
    "subject.limits.train_seconds=60",
    "subject.limits.memory_mb=500",
    "subject.limits.compute_slack_seconds=0.5",
    "+subject.limits.scratch_mb=16",
    "+subject.limits.log_bytes=100000",
)
KEY = hmac.new(bytes.fromhex(SECRET), b"problems", hashlib.sha256).hexdigest()
# What a payload prints when it has got hold of something, beside the campaign's own secrets.
LOOT = (SECRET, KEY, "canary-")


@functools.cache
def recipe(folder: str, name: str) -> str:
    """The editable file with the beginning of every payload and this one behind it."""
    parts = [ROOT / RECIPE, HERE / "payloads" / "_prelude.py", HERE / folder / f"{name}.py"]
    return "\n\n".join(part.read_text() for part in parts)


def summary(folder: str, name: str) -> str:
    """The first sentence of a payload's docstring."""
    return (HERE / folder / f"{name}.py").read_text().split('"""')[1].split("\n\n")[0].replace("\n", " ").strip()


@dataclass
class Scene:
    """A campaign whose bank is trained, and the program that works on it."""

    evolve: Evolve
    planted: dict[str, str] = field(default_factory=dict)  # word in payloads -> what stands in its place

    def propose(self, folder: str, name: str, *words: str) -> str:
        """Queues a payload as an edit; its candidate's id."""
        text = recipe(folder, name)
        for word, value in self.planted.items():
            text = text.replace(word, value)
        path = self.evolve.cwd / f"{name}.py.txt"
        path.write_text(text)
        self.evolve("try", "--campaign", "c", "--patch", str(path), "--why", name, *words)
        return campaign.load(campaign.find(self.evolve.cwd / ".evolve", "c")).queue[0]

    def resume(self) -> None:
        self.evolve("resume", "c", "budget.trials=60")

    def outcome(self, candidate: str) -> Outcome:
        return Outcome(self.evolve, candidate)


class Outcome:
    """What the journal and the folders say of one candidate after its campaign."""

    def __init__(self, evolve: Evolve, candidate: str) -> None:
        self.evolve, self.candidate = evolve, candidate
        seen = evolve.seen
        checked = [e for e in seen("c", "EditChecked") if e["candidate_id"] == candidate]
        self.check: str = checked[-1]["error"] if checked else "not checked"
        scheduled = [e for e in seen("c", "TrialScheduled") if e["candidate_id"] == candidate]
        self.trials = [e["number"] for e in scheduled]
        search = [e["number"] for e in scheduled if e["purpose"] == "search"]
        finished = {e["number"]: e for e in seen("c", "TrialFinished")}
        self.trial: dict[str, Any] = finished[search[0]] if search else {}
        bank = [e["number"] for e in seen("c", "TrialScheduled") if e["purpose"] == "bank"]
        self.others = {finished[n]["weights"] for n in bank}
        self.error = str(self.trial.get("error") or self.check)
        self.verdicts = [e["verdict"] for e in seen("c", "VerdictReached") if e["candidate_id"] == candidate]
        self.pending = candidate in [e["request"]["candidate_id"] for e in seen("c", "ApprovalRequested")]

    @property
    def score(self) -> float:
        return float(self.trial["score"]["mean"]) if self.trial.get("score") else 0.0

    @property
    def said(self) -> str:
        """All that the training could say: its logs, its progress, the end of a failed check."""
        logs = [self.evolve.folder("c") / "trials" / f"{n:05d}" / "train.log" for n in self.trials]
        curve = json.dumps(self.trial.get("curve", []))
        return self.check + curve + "".join(p.read_text(errors="replace") for p in logs if p.exists())

    @property
    def integrity(self) -> dict[str, Any]:
        """What was seen of the training beside its weights."""
        return dict(self.trial["integrity"])

    @property
    def accepted(self) -> bool:
        return any(v["decision"] == "ACCEPT" for v in self.verdicts)


# ---------------------------------------------------------------- what an attack tries for


def high_score(o: Outcome) -> bool:
    """A score, a verdict or a place on a person's desk that its weights are not worth."""
    return o.score >= HIGH or o.accepted or o.pending


def loot(o: Outcome) -> bool:
    """Something that it must not have: a secret, a file, another process' memory, more of the machine than its share."""
    return any(word in o.said for word in LOOT)


def a_trace_on_the_host(o: Outcome) -> bool:
    """Something that it left outside: a file, a process, a word in the campaign's history in a person's name."""
    folder = o.evolve.folder("c")
    found = [o.evolve.cwd / "pwned", *folder.rglob("canary-*")]
    lessons = [e for e in o.evolve.seen("c", "LessonWritten") if e["by"] == "human"]
    return any(p.exists() for p in found) or bool(lessons)


def a_trace_that_comes_late(o: Outcome) -> bool:
    """The same, by a process that lives on for a while."""
    time.sleep(1.5)
    return a_trace_on_the_host(o)


def unseen_compute(o: Outcome) -> bool:
    """To be accepted for more compute than the champion's."""
    return o.accepted or o.pending


def a_place_on_the_desk(o: Outcome) -> bool:
    """To wait for a person."""
    return o.pending


def weights_of_another(o: Outcome) -> bool:
    """The weights of somebody else's training."""
    return o.trial.get("weights") is not None and o.trial["weights"] in o.others


def a_full_disk(o: Outcome) -> bool:
    """Far more output on the controller's disk than allowed."""
    logs = [o.evolve.folder("c") / "trials" / f"{n:05d}" / "train.log" for n in o.trials]
    return any(p.exists() and p.stat().st_size > 1_000_000 for p in logs)


def unnoticed(o: Outcome) -> bool:
    """To be scored like any training, with nothing for a reviewer to see."""
    return o.trial.get("state") == "COMPLETE" and o.integrity["canary"] == "untouched"


# ---------------------------------------------------------------- the stage


def shared(base: Path, name: str) -> Path:
    """A folder that pytest-xdist's workers have in common."""
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return base / name


def prepare(target: Path, code: Path, *words: str) -> None:
    """A campaign `c` at `target` whose bank is trained, by the program at `code`."""
    target.mkdir(parents=True)
    (target / "secret").write_text(SECRET)
    evolve = Evolve(target, PYTHONPATH=str(code))
    evolve(
        "run", *QUADRATIC, *LIMITS, "campaign=c", "proposer=default", "seed=3", "budget.trials=4", "secret_file=secret",
        *words,
    )  # fmt: skip


class Stage:
    """Programs and prepared campaigns, each made once."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def _once(self, name: str, make: Any) -> Path:
        folder = shared(self._base, f"attacks-{hashlib.sha256(name.encode()).hexdigest()[:12]}")
        with filelock.FileLock(f"{folder}.lock"):
            if not folder.exists():
                try:
                    make(folder)
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
        return folder

    def scene(self, cwd: Path, without: tuple[str, ...] = (), *words: str) -> Scene:
        """A copy of a prepared campaign in `cwd`, and the program without these defences for it."""
        code = self._once(f"program {without}", lambda to: program(to, without)) if without else ROOT
        own = any(not change.file.startswith("evolve/") for change in changes(without))  # it changes the subject
        made = self._once(
            f"campaign {without if own else ()} {words}", lambda to: prepare(to, code if own else ROOT, *words)
        )
        shutil.copytree(made, cwd, dirs_exist_ok=True)
        env = {"OPENAI_API_KEY": "canary-of-the-environment", "LD_BIND_NOW": "", "PYTHONPATH": str(code)}
        return Scene(Evolve(cwd, **env))
